"""A merged LZSC block on a CPU by Fourier transforms of tiles, forward; `spectral_backward` has its gradients.

A 9x9 convolution of every channel with every map is, of a transformed tile, one product at each frequency instead of 81
at each pixel. Tiles are of 32 x 32 pixels, of which 24 x 24 count: a convolution from maps to a code reads four pixels
around them, and what one from a code to maps gives to four pixels around them is added up. A tile goes through a whole
step in a core's cache: maps, their transform, products, the code's transform back, momentum and threshold, and the same
the other way.

Channels c and c + 32 of a code are the real and the imaginary part of one complex channel, so that a code is
transformed at half the cost: weights w_c + i w_{c+32} make it from real maps, and of the product with w_c - i w_{c+32}
the real part is what a convolution from both channels gives. Transforms back are those of reversed or conjugated
spectra, so that there is one transform.

All is float32. Maps (few channels) and codes (64) are channels-last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fusion.networks import kernels
from fusion.networks.fast import Merged
from fusion.networks.fourier import PAIRS, SIDE
from fusion.networks.kernels import HALF, KEPT, TOGETHER
from fusion.networks.lzsc import FEATURES, KERNEL, STEPS
from fusion.networks.workers import Map, workers

Shape = tuple[int, int, int]  # of a batch: N, H, W
RUNS = 12  # wanted of a picture at least: three for each of four threads


def tiles_of(shape: Shape) -> np.ndarray:
    """Return all tiles of a batch, (tiles, 3): picture, down, across."""
    n, height, width = shape
    return np.stack(np.indices((n, -(-height // KEPT), -(-width // KEPT))), axis=-1).reshape(-1, 3)


def runs_of(tiles: np.ndarray) -> list[np.ndarray]:
    """Return runs of 8 to 16 tiles that a thread takes at once: long ones are fewer calls, short ones share out better.

    They do not depend on the number of threads, and neither does the order in which gradients are summed.
    """
    run = TOGETHER * min(max(len(tiles) // (RUNS * TOGETHER), 2), 4)
    return [tiles[start : start + run] for start in range(0, len(tiles), run)]


def new_maps(shape: Shape, channels: int) -> np.ndarray:
    """Return maps of zeros with a margin, filled up to whole tiles."""
    n, *sides = shape
    return np.zeros((n, *(-(-side // KEPT) * KEPT + 2 * HALF for side in sides), channels), np.float32)


def interior(maps: np.ndarray, shape: Shape) -> np.ndarray:
    """Return maps without what was put around them, (N, H, W, channels)."""
    return maps[:, HALF : HALF + shape[1], HALF : HALF + shape[2]]


def new_code(shape: Shape) -> np.ndarray:
    """Return memory for a code, (N, H, W 64)."""
    n, height, width = shape
    return np.empty((n, height, width * FEATURES), np.float32)


def new_results(shape: Shape, channels: int) -> np.ndarray:
    """Return memory for what tiles make of a code, (N, down, across, 32, 32, channels)."""
    n, height, width = shape
    return np.empty((n, -(-height // KEPT), -(-width // KEPT), SIDE, SIDE, channels), np.float32)


def transform() -> Tensor:
    """Return the transform of nine pixels to 32 frequencies, (32, 9), scaled so that there and back is the identity."""
    angles = -2 * np.pi * np.outer(range(SIDE), range(KERNEL)) / SIDE
    return torch.from_numpy((np.exp(1j * angles) / SIDE).astype(np.complex64))


def _flat(spectra: Tensor) -> np.ndarray:
    """Turn spectra (32, 32, maps, 32) into the kernels' (32, 32, maps, 64), flat."""
    return torch.view_as_real(spectra.resolve_conj()).transpose(3, 4).contiguous().numpy().reshape(-1)


def up_spectra(weight: Tensor) -> np.ndarray:
    """Transform weights from maps to a code, (64, maps, 9, 9)."""
    pairs = torch.complex(*weight.detach().split(PAIRS))
    return _flat(torch.einsum("xi,yj,cmji->xymc", transform(), transform(), pairs))


def down_spectra(weight: Tensor) -> np.ndarray:
    """Transform weights from a code to maps, (maps, 64, 9, 9)."""
    real, imaginary = weight.detach().flip(2, 3).split(PAIRS, dim=1)
    return _flat(torch.einsum("xi,yj,mcji->xymc", transform(), transform(), torch.complex(real, -imaginary)))


@dataclass(frozen=True)
class Spectra:
    """A merged block as the kernels want it: spectra of `up` and `down`, how many maps each step reads and makes."""

    up: list[np.ndarray]
    down: list[np.ndarray]
    theta: list[float]
    rho: list[float]
    reads: list[int]
    makes: list[int]


def lay_out(block: Merged, run: Map) -> Spectra:
    """Transform a block's weights."""
    return Spectra(
        run(up_spectra, block.up),
        run(down_spectra, block.down),
        block.theta.tolist(),
        block.rho.tolist(),
        [weight.shape[1] for weight in block.up],
        [weight.shape[0] for weight in block.down],
    )


def assemble(results: np.ndarray, outs: Sequence[np.ndarray], run: Map) -> None:
    """Put maps together from what tiles gave; they go to three arrays, (N, H, W, channels) each."""
    bands = [(n, band) for n in range(len(results)) for band in range(results.shape[1] + 1)]
    run(lambda place: kernels.assemble(results, *place, *outs), bands)


def forward(
    image: Tensor, block: Spectra, codes: Sequence[np.ndarray], run: Map, kept: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what the readers see in the last code, (N, H, W, m), and the maps that each step reads.

    Args:
        image: (N, c, H, W).
        codes: memory for u^k; two codes in turn are enough where u^k is not wanted afterwards.
        kept: memory for v^k, likewise, or None.
    """
    n, channels, height, width = image.shape
    shape = n, height, width
    maps = [new_maps(shape, count) for count in block.reads]
    for step in maps:
        interior(step, shape)[..., :channels] = image.permute(0, 2, 3, 1)
    seen = np.empty((*shape, block.makes[STEPS]), np.float32)
    nothing = seen[..., :0]
    runs = runs_of(tiles_of(shape))

    def step(k: int, results: np.ndarray, tiles: np.ndarray) -> None:
        kernels.step(
            maps[k],
            block.up[k],
            codes[k - 1],
            codes[k - 2],
            np.float32(1 + block.rho[k] if k > 0 else 0),
            np.float32(-block.rho[k] if k > 1 else 0),
            np.float32(block.theta[k]),
            codes[k],
            kept[k] if kept else codes[k][:0],
            block.down[k],
            tiles,
            results,
        )

    for k in range(STEPS + 1):
        results = new_results(shape, block.makes[k])
        run(partial(step, k, results), runs)
        outs = [seen, nothing, nothing]
        if k < STEPS:
            outs[0] = interior(maps[k + 1], shape)[..., channels : 2 * channels]
        if k + 2 <= STEPS:
            outs[1] = interior(maps[k + 2], shape)[..., 2 * channels :]
        assemble(results, outs, run)
    return seen, maps


# --- Inference -------------------------------------------------------------------------------------------------------


class Codes:
    """Memory for the codes of one size, kept from picture to picture: to get it anew costs as much as a convolution."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []

    def take(self, shape: Shape) -> list[np.ndarray]:
        """Return a code for each step; two in turn, as a step reads no more than the two before it."""
        if not self.kept or self.kept[0].shape != (*shape[:2], shape[2] * FEATURES):
            self.kept = []  # let go before the new ones are made
            self.kept = [new_code(shape) for _ in range(2)]
        return [self.kept[k % 2] for k in range(STEPS + 1)]


def read_spectrally(image: Tensor, block: Spectra, codes: Codes) -> Tensor:
    """Return what the readers of a block that was laid out see in an image's code: (N, c, H, W) to (N, m, H, W)."""
    n, _, height, width = image.shape
    with workers() as run:
        seen, _ = forward(image, block, codes.take((n, height, width)), run)
    return torch.from_numpy(seen).permute(0, 3, 1, 2)
