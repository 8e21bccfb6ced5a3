"""Similarity of visible-infrared pairs, from downsampled luma; used for near duplicates, scenes and leakage.

The descriptor of an image is its luma averaged over 32 x 24 cells, with its mean subtracted, scaled to unit length. The
similarity of two images is the dot product of their descriptors, a correlation from -1 to 1. The similarity of two
pairs is the smaller one of the two bands, so that a day and a night image of one street are different pairs. It depends
on where large objects are, not on what they are. The threshold was chosen on real frames: M3FD's 00000, 00001 and
00003, which show one scene, have similarities of 0.76 and 0.82 in order; of 14,172 pairs of MSRS frames whose numbers
differ by 20 to 260, none reaches 0.8 and 95 % are below 0.3.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import cv2
import numpy as np

from pipeline.colour import has_colours, same_pixels
from pipeline.pairs import Pair, check_pair_size, read_image
from pipeline.stage import Progress, check_memory, threads_available

CELLS = (32, 24)
DESCRIPTOR = "correlation of luma downsampled to 32 x 24 pixels, the lower value of the two bands"
# Least similarity of near duplicates.
NEAR_DUPLICATE = 0.8
# Standard deviation in grey levels below which an image is flat: its descriptor is then shorter than unit length, so
# that the noise of a black image does not determine its similarity.
FLAT = 2.0
ROWS_AT_ONCE = 512
# Largest shift between two images in cells, right and down: a third of the width, a fifth of the height.
SHIFTS = (10, 5)


@dataclass(frozen=True)
class PairSummary:
    """What is computed from the pixels of one pair.

    Attributes:
        width, height: of both images, in pixels.
        luma: mean luma of the visible image, 0..255.
        descriptor: (2, 768), visible and infrared.
        digest: SHA-256 of the pixels of both images.
        coloured: whether the visible and the infrared image have colours.
        same: whether both bands have the same pixels.
    """

    width: int
    height: int
    luma: float
    descriptor: np.ndarray
    digest: str
    coloured: tuple[bool, bool]
    same: bool


def summarize(pair: Pair) -> PairSummary:
    """Decode a pair and compute its summary.

    Raises:
        InputError: an image is unreadable or not 8-bit, or the two differ in size.
    """
    visible, infrared = read_image(pair.visible), read_image(pair.infrared, pair.infrared_range)
    check_pair_size(pair, visible, infrared)
    height, width = visible.shape[:2]
    greys = [image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (visible, infrared)]
    digest = sha256(np.ascontiguousarray(visible))
    digest.update(np.ascontiguousarray(infrared))
    digest.update(repr((visible.shape, infrared.shape)).encode())
    return PairSummary(
        width,
        height,
        float(greys[0].mean()),
        np.stack([describe(grey) for grey in greys]),
        digest.hexdigest(),
        (has_colours(visible), has_colours(infrared)),
        same_pixels(visible, infrared),
    )


def describe(grey: np.ndarray) -> np.ndarray:
    """Return the descriptor (768,) of a uint8 image (H, W): of unit length, or shorter if the image is flat."""
    cells = cv2.resize(grey.astype(np.float32), CELLS, interpolation=cv2.INTER_AREA).ravel()
    cells -= cells.mean()
    return cells / max(float(np.linalg.norm(cells)), FLAT * cells.size**0.5)


def summarize_pairs(pairs: Sequence[Pair]) -> dict[str, PairSummary]:
    """Return the summary of every pair by name, in the order of `pairs`; several pairs are decoded at a time."""
    progress, summaries = Progress("checking", len(pairs), "pairs"), {}
    threads = threads_available()
    check_memory(threads)
    with ThreadPoolExecutor(threads) as pool:  # decoding releases the interpreter's lock
        for pair, summary in zip(pairs, pool.map(summarize, pairs), strict=True):
            summaries[pair.name] = summary
            progress.step()
    return summaries


def pair_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the similarity (N, M) of pairs with descriptors (N, 2, 768) and (M, 2, 768)."""
    return np.minimum(a[:, 0] @ b[:, 0].T, a[:, 1] @ b[:, 1].T)


def shifted_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the similarity (N,) of pairs (N, 2, 768) to their partners (N, 2, 768), robust to a moving camera.

    One image is shifted against the other by up to `SHIFTS` cells. The result is the correlation over the area that
    both images cover, at the best shift, and the larger one of both bands.
    """
    a, b = (part.reshape(len(part), 2, *CELLS[::-1]) for part in (a, b))
    best = np.full(len(a), -1.0)
    for down in range(-SHIFTS[1], SHIFTS[1] + 1):
        for right in range(-SHIFTS[0], SHIFTS[0] + 1):
            parts = []
            for part, y, x in ((a, down, right), (b, -down, -right)):
                seen = part[:, :, max(y, 0) : CELLS[1] + min(y, 0), max(x, 0) : CELLS[0] + min(x, 0)]
                parts.append(seen - seen.mean(axis=(2, 3), keepdims=True))
            cross, *own = (np.einsum("nbyx,nbyx->nb", *both) for both in (parts, parts[:1] * 2, parts[1:] * 2))
            best = np.maximum(best, (cross / np.sqrt(own[0] * own[1] + 1e-12)).max(axis=1))
    return best


def most_similar(a: np.ndarray, b: np.ndarray, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the most similar pair in `b` (M, 2, 768) to each in `a` (N, 2, 768), and their similarity.

    With `same`, both arguments are the same pairs, and a pair is not compared with itself. Rows are computed in blocks,
    so that at most 512 x M numbers are in memory.
    """
    index, value = np.empty(len(a), np.int64), np.empty(len(a))
    for start in range(0, len(a), ROWS_AT_ONCE):
        block = pair_similarity(a[start : start + ROWS_AT_ONCE], b)
        if same:
            block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        index[start : start + len(block)] = block.argmax(axis=1)
        value[start : start + len(block)] = block.max(axis=1)
    return index, value
