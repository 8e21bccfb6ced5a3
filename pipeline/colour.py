"""Convert a pair to two luma images, and a fused luma back to an image, by one of four modes (`--colour`).

grey          both files as OpenCV grey; the fused image has one channel
ycbcr-studio  luma of the visible image in BT.601's studio range, 16..235; its chroma is restored after fusion
ycbcr-full    the same in full range, 0..255 (JFIF)
auto          ycbcr-studio if at least half of the visible images have pixels whose channels differ, else grey; one mode
              for all images of a run, chosen from up to SAMPLED of them (`inspect_bands`)

FNet's authors train and publish with the studio range (MATLAB's rgb2ycbcr, rounded to 8 bits). Infrared is always read
as grey and never rescaled.
"""

import logging
from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np

from pipeline.pairs import Pair, check_pair_size, read_grey, read_image
from pipeline.stage import InputError

Colour = Literal["auto", "grey", "ycbcr-studio", "ycbcr-full"]
COLOURS: tuple[str, ...] = get_args(Colour)

# Rows Y, Cb, Cr for R, G, B in 0..255, and the offsets added to them (ITU-R BT.601; MATLAB's constants).
_STUDIO = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_STUDIO_OFFSET = np.array([16.0, 128.0, 128.0])
_FULL = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_FULL_OFFSET = np.array([0.0, 128.0, 128.0])

# Number of pairs that are opened before a run begins, spread evenly over the names.
SAMPLED = 32
# An image has colours if the channels differ by more than COLOURED_LEVELS in more than this share of its pixels: after
# JPEG compression, a few pixels of a grey image differ, too.
COLOURED_SHARE, COLOURED_LEVELS = 0.01, 8


def has_colours(image: np.ndarray) -> bool:
    """Return whether a uint8 image, (H, W) or (H, W, 3), has visible colours, tested on one pixel in sixteen."""
    if image.ndim == 2:
        return False
    # Channel by channel, because NumPy is slow along an axis of length three.
    red, green, blue = np.moveaxis(image[::4, ::4], 2, 0)
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return float((spread > COLOURED_LEVELS).mean()) > COLOURED_SHARE


def differs_in_channels(image: np.ndarray) -> bool:
    """Return whether a uint8 image, (H, W) or (H, W, 3), has a pixel whose channels differ."""
    if image.ndim == 2:
        return False
    red, green, blue = np.moveaxis(image, 2, 0)  # channel by channel, as above
    return bool((red != green).any() or (red != blue).any())


def inspect_bands(pairs: Sequence[Pair], colour: Colour) -> tuple[Colour, str]:
    """Open a sample of a run's pairs, warn about suspicious bands, and resolve `auto` for the whole run.

    Returns:
        The mode, never `auto`; its description for a manifest.

    Raises:
        InputError: both bands of all sampled pairs have the same pixels.
    """
    sampled, visible_coloured, infrared_coloured, equal, differing = [], [], [], [], 0
    for pair in pairs[:: max(1, -(-len(pairs) // SAMPLED))]:
        try:
            visible, infrared = read_image(pair.visible), read_image(pair.infrared, pair.infrared_range)
        except InputError:  # reported when the run comes to this pair, after the pairs before it are done
            continue
        sampled.append(pair)
        visible_coloured += [pair] if has_colours(visible) else []
        infrared_coloured += [pair] if has_colours(infrared) else []
        equal += [pair] if same_pixels(visible, infrared) else []
        differing += differs_in_channels(visible)
    for doubt in band_doubts(len(sampled), visible_coloured, infrared_coloured, equal):
        logging.warning("warning: %s", doubt)
    if colour != "auto":
        return colour, colour
    colour = "ycbcr-studio" if 2 * differing >= max(1, len(sampled)) else "grey"
    found = f"{colour} for all: {differing} of {len(sampled)} sampled visible images have colours"
    if differing not in (0, len(sampled)):
        found = f"{found}, the others are grey"
        logging.warning("warning: --colour auto: %s", found)
    return colour, found


def same_pixels(visible: np.ndarray, infrared: np.ndarray) -> bool:
    """Return whether both bands have the same pixels; three equal channels count as one channel."""
    greys = [image if image.ndim == 2 or differs_in_channels(image) else image[..., 0] for image in (visible, infrared)]
    return np.array_equal(*greys)


def band_doubts(
    count: int, visible_coloured: Sequence[Pair], infrared_coloured: Sequence[Pair], equal: Sequence[Pair]
) -> list[str]:
    """Return warnings about the bands of `count` pairs.

    Args:
        count: number of pairs.
        visible_coloured: the pairs whose visible image has colours.
        infrared_coloured: the pairs whose infrared image has colours.
        equal: the pairs whose bands have the same pixels.

    Raises:
        InputError: all pairs have equal pixels in both bands.
    """
    if equal and len(equal) == count:
        raise InputError(
            f"{equal[0].visible} and {equal[0].infrared} have the same pixels, as in all {count} pairs inspected; "
            "expected the visible and the infrared image of each pair"
        )
    doubts = []
    if equal:
        doubts.append(
            f"both bands have the same pixels in {len(equal)} of {count} pairs inspected, such as {equal[0].visible}"
        )
    if infrared_coloured:
        found = f"{len(infrared_coloured)} of {count} infrared images inspected have colours"
        found += f", such as {infrared_coloured[0].infrared}"
        if visible_coloured:
            doubts.append(f"{found}: they are read as grey, but the luma of pseudo-colours is not monotonic in counts")
        else:
            doubts.append(f"{found}, and no visible image has: are the folders swapped?")
    return doubts


def rgb_to_ycbcr(rgb: np.ndarray, colour: Colour) -> np.ndarray:
    """Convert uint8 RGB (H, W, 3) to uint8 Y, Cb, Cr, rounded to nearest, in the range that `colour` names."""
    matrix, offset = (_STUDIO, _STUDIO_OFFSET) if colour == "ycbcr-studio" else (_FULL, _FULL_OFFSET)
    return _to_uint8(rgb @ matrix.T + offset)


def ycbcr_to_rgb(ycbcr: np.ndarray, colour: Colour) -> np.ndarray:
    """Invert `rgb_to_ycbcr`: uint8 Y, Cb, Cr (H, W, 3) to uint8 RGB, rounded to nearest and clipped."""
    matrix, offset = (_STUDIO, _STUDIO_OFFSET) if colour == "ycbcr-studio" else (_FULL, _FULL_OFFSET)
    inverse = np.linalg.inv(matrix)
    # cv2.transform takes a quarter of the time of NumPy's matrix product and gives the same levels for all 2**24
    # colours. It is not used in `rgb_to_ycbcr`, where some colours are halfway between two levels, so that another
    # order of summation may round them differently.
    return _to_uint8(cv2.transform(ycbcr.astype(np.float64), np.hstack([inverse, -inverse @ offset[:, None]])))


def split_pair(pair: Pair, colour: Colour) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Colour]:
    """Read a pair and return the visible luma, infrared, the visible chroma (None for grey) and the mode used.

    Returns:
        Visible luma and infrared, uint8 (H, W); Cb and Cr, uint8 (H, W, 2), or None in mode grey; the mode;
        `auto` is resolved from this image only.

    Raises:
        InputError: a file is unreadable, or the two images differ in size.
    """
    infrared = read_grey(pair.infrared, pair.infrared_range)
    if colour == "grey":
        visible = read_grey(pair.visible)
        check_pair_size(pair, visible, infrared)
        return visible, infrared, None, colour
    rgb = read_image(pair.visible)
    check_pair_size(pair, rgb, infrared)
    if colour == "auto":
        if not differs_in_channels(rgb):
            return read_grey(pair.visible), infrared, None, "grey"
        colour = "ycbcr-studio"
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=2)
    ycbcr = rgb_to_ycbcr(rgb, colour)
    return ycbcr[..., 0], infrared, ycbcr[..., 1:], colour


def join_chroma(luma: np.ndarray, chroma: np.ndarray | None, colour: Colour) -> np.ndarray:
    """Return the fused image: the fused luma itself, or RGB with the visible chroma restored.

    `luma` is uint8 (H, W). It is not clipped to the studio range: infrared exceeds it, as in the authors' code.
    """
    if chroma is None:
        return luma
    return ycbcr_to_rgb(np.concatenate([luma[..., None], chroma], axis=2), colour)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)
