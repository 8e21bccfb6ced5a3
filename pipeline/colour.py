"""How a pair becomes two luma images and a fused luma becomes an image again (`--colour`).

grey          both files as OpenCV grey; the fused image has one channel
ycbcr-studio  luma of the visible image in BT.601's studio range, 16..235, its chroma put back after fusion
ycbcr-full    the same in full range, 0..255 (JFIF)
auto          ycbcr-studio where the visible image's channels differ anywhere, else grey

The studio path is the one that FNet's authors train and publish with (MATLAB's rgb2ycbcr, rounded to 8 bits);
infrared is always read as grey and never rescaled.
"""

from typing import Literal, get_args

import numpy as np

from pipeline.pairs import Pair, check_pair_size, read_grey, read_image

Colour = Literal["auto", "grey", "ycbcr-studio", "ycbcr-full"]
COLOURS: tuple[str, ...] = get_args(Colour)

# Rows Y, Cb, Cr for R, G, B in 0..255, and the offsets added to them (ITU-R BT.601; MATLAB's constants).
_STUDIO = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_STUDIO_OFFSET = np.array([16.0, 128.0, 128.0])
_FULL = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_FULL_OFFSET = np.array([0.0, 128.0, 128.0])


def rgb_to_ycbcr(rgb: np.ndarray, colour: Colour) -> np.ndarray:
    """Convert uint8 RGB (H, W, 3) to uint8 Y, Cb, Cr, rounded to nearest, in the range that `colour` names."""
    matrix, offset = (_STUDIO, _STUDIO_OFFSET) if colour == "ycbcr-studio" else (_FULL, _FULL_OFFSET)
    return _to_uint8(rgb @ matrix.T + offset)


def ycbcr_to_rgb(ycbcr: np.ndarray, colour: Colour) -> np.ndarray:
    """Invert `rgb_to_ycbcr`: uint8 Y, Cb, Cr (H, W, 3) to uint8 RGB, rounded to nearest and clipped."""
    matrix, offset = (_STUDIO, _STUDIO_OFFSET) if colour == "ycbcr-studio" else (_FULL, _FULL_OFFSET)
    return _to_uint8((ycbcr - offset) @ np.linalg.inv(matrix).T)


def split_pair(pair: Pair, colour: Colour) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Colour]:
    """Read a pair as what fusion works on: visible luma, infrared, the visible chroma, the mode used.

    Returns:
        Visible luma and infrared, uint8 (H, W); Cb and Cr, uint8 (H, W, 2), or None in mode grey; the mode, where
        `auto` is resolved.

    Raises:
        InputError: a file is unreadable, or the two differ in size.
    """
    infrared = read_grey(pair.infrared)
    if colour == "grey":
        visible = read_grey(pair.visible)
        check_pair_size(pair, visible, infrared)
        return visible, infrared, None, colour
    rgb = read_image(pair.visible)
    check_pair_size(pair, rgb, infrared)
    if colour == "auto":
        coloured = rgb.ndim == 3 and bool((rgb != rgb[..., :1]).any())
        if not coloured:
            return read_grey(pair.visible), infrared, None, "grey"
        colour = "ycbcr-studio"
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=2)
    ycbcr = rgb_to_ycbcr(rgb, colour)
    return ycbcr[..., 0], infrared, ycbcr[..., 1:], colour


def join_chroma(luma: np.ndarray, chroma: np.ndarray | None, colour: Colour) -> np.ndarray:
    """Return the fused image: the fused luma itself, or RGB with the visible chroma put back.

    `luma` is uint8 (H, W). It is not clipped to the studio range: infrared reaches beyond it, as in the authors' code.
    """
    if chroma is None:
        return luma
    return ycbcr_to_rgb(np.concatenate([luma[..., None], chroma], axis=2), colour)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
