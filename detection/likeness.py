"""How alike two pairs are, from small images: for near duplicates, scenes and leakage.

The descriptor of an image is its luma averaged over 32 x 24 cells, less its mean and of unit length; the likeness of
two images is the product of their descriptors, a correlation from -1 to 1, and that of two pairs is the lesser of the
two bands' ones: a day and a night picture of one street are different pairs. It sees where large things stand, not what
they are. The thresholds are chosen on real frames: M3FD's 00000, 00001 and 00003, one scene, are alike by 0.76 and 0.82
in a row; of 14,172 pairs of MSRS frames that lie 20 to 260 numbers apart none is alike by 0.8, and 95 of 100 are below
0.3.
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
DESCRIPTOR = "correlation of luma over 32 x 24 cells, the lesser of both bands"
# From here on two pairs are near duplicates.
NEAR_DUPLICATE = 0.8
# Grey levels below which an image counts as flat: without it, the noise of a black image would decide its likeness.
FLAT = 2.0
ROWS_AT_ONCE = 512
# How far a picture may be shifted against another, in cells: a third of its width, a fifth of its height.
SHIFTS = (10, 5)


@dataclass(frozen=True)
class Look:
    """What one decoded pair tells: its size, mean visible luma (0..255), descriptors (2, 768), digest of its pixels."""

    width: int
    height: int
    luma: float
    descriptor: np.ndarray
    digest: str
    coloured: tuple[bool, bool]  # visible, infrared
    same: bool  # both bands have the same pixels


def look(pair: Pair) -> Look:
    """Decode a pair and describe it.

    Raises:
        InputError: an image is unreadable or not 8-bit, or the two are of different sizes.
    """
    visible, infrared = read_image(pair.visible), read_image(pair.infrared, pair.infrared_range)
    check_pair_size(pair, visible, infrared)
    height, width = visible.shape[:2]
    greys = [image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (visible, infrared)]
    digest = sha256(np.ascontiguousarray(visible))
    digest.update(np.ascontiguousarray(infrared))
    digest.update(repr((visible.shape, infrared.shape)).encode())
    return Look(
        width,
        height,
        float(greys[0].mean()),
        np.stack([describe(grey) for grey in greys]),
        digest.hexdigest(),
        (has_colours(visible), has_colours(infrared)),
        same_pixels(visible, infrared),
    )


def describe(grey: np.ndarray) -> np.ndarray:
    """Return the descriptor (768,) of a uint8 image (H, W): of unit length, shorter where the image is flat."""
    cells = cv2.resize(grey.astype(np.float32), CELLS, interpolation=cv2.INTER_AREA).ravel()
    cells -= cells.mean()
    return cells / max(float(np.linalg.norm(cells)), FLAT * cells.size**0.5)


def look_at(pairs: Sequence[Pair]) -> dict[str, Look]:
    """Look at every pair, several at a time; the result by name, in the order of `pairs`."""
    progress, looks = Progress("checking", len(pairs), "pairs"), {}
    threads = threads_available()
    check_memory(threads)
    with ThreadPoolExecutor(threads) as pool:  # decoding releases the interpreter's lock
        for pair, seen in zip(pairs, pool.map(look, pairs), strict=True):
            looks[pair.name] = seen
            progress.step()
    return looks


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the likeness (N, M) of pairs with descriptors (N, 2, 768) and (M, 2, 768)."""
    return np.minimum(a[:, 0] @ b[:, 0].T, a[:, 1] @ b[:, 1].T)


def shifted_likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the likeness (N,) of pairs (N, 2, 768), each with its own partner, as a moving camera leaves it.

    The correlation of what two images share when one is shifted by up to `SHIFTS` cells, at the best shift, the greater
    of both bands.
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


def nearest(a: np.ndarray, b: np.ndarray, same: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of (N, 2, 768), the index of the likest of (M, 2, 768) and its likeness.

    With `same`, both are the same pairs, and none is its own nearest. A block of rows at a time, so that memory is
    bounded by 512 x M numbers.
    """
    index, value = np.empty(len(a), np.int64), np.empty(len(a))
    for start in range(0, len(a), ROWS_AT_ONCE):
        block = likeness(a[start : start + ROWS_AT_ONCE], b)
        if same:
            block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        index[start : start + len(block)] = block.argmax(axis=1)
        value[start : start + len(block)] = block.max(axis=1)
    return index, value
