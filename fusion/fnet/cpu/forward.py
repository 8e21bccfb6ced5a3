"""A merged LZSC block on a CPU by Fourier transforms of tiles, forward; `fusion.fnet.cpu.backward` has its gradients.

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
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fusion.fnet.cpu import kernels
from fusion.fnet.cpu.fourier import LINE, PAIRS, SIDE
from fusion.fnet.cpu.kernels import KEPT, TOGETHER
from fusion.fnet.cpu.memory import Memory, Shape
from fusion.fnet.cpu.workers import Map
from fusion.fnet.lzsc import FEATURES, HALF, STEPS
from fusion.fnet.merged import Merged

LONG, LAST = 4 * TOGETHER, 24 * TOGETHER  # tiles that a thread takes at once, and those at the end that it does not


def tiles_of(shape: Shape) -> np.ndarray:
    """Return all tiles of a batch, (tiles, 3): picture, down, across."""
    n, height, width = shape
    return np.stack(np.indices((n, -(-height // KEPT), -(-width // KEPT))), axis=-1).reshape(-1, 3)


def runs_of(tiles: np.ndarray) -> list[np.ndarray]:
    """Return runs of tiles that a thread takes at once: long ones are fewer calls, short ones share out the end.

    They do not depend on the number of threads.
    """
    long = max(len(tiles) - LAST, len(tiles) // 2) // LONG * LONG
    starts = [*range(0, long, LONG), *range(long, len(tiles), TOGETHER)]
    return [tiles[start:end] for start, end in pairwise([*starts, len(tiles)])]


def new_maps(shape: Shape, channels: int) -> np.ndarray:
    """Return maps of zeros with a margin, filled up to whole tiles."""
    n, *sides = shape
    return np.zeros((n, *(-(-side // KEPT) * KEPT + 2 * HALF for side in sides), channels), np.float32)


def interior(maps: np.ndarray, shape: Shape) -> np.ndarray:
    """Return maps without what was put around them, (N, H, W, channels)."""
    return maps[:, HALF : HALF + shape[1], HALF : HALF + shape[2]]


def code_shape(shape: Shape) -> Shape:
    """Return the shape of a code, (N, H, W 64)."""
    return *shape[:2], shape[2] * FEATURES


def results_shape(shape: Shape, channels: int) -> tuple[int, ...]:
    """Return the shape of what tiles make of a code, (N, down, across, 32, 32, channels)."""
    n, height, width = shape
    return n, -(-height // KEPT), -(-width // KEPT), SIDE, SIDE, channels


def _spectra(weight: Tensor) -> np.ndarray:
    """Transform weights, (maps, 9, 9, 64), to the kernels' (32 32 maps 64)."""
    spectra = np.empty(SIDE * LINE * len(weight), np.float32)
    kernels.to_spectra(weight.contiguous().numpy(), spectra)
    return spectra


def up_spectra(weight: Tensor) -> np.ndarray:
    """Transform weights from maps to a code, (64, maps, 9, 9)."""
    return _spectra(weight.detach().permute(1, 2, 3, 0))


def down_spectra(weight: Tensor) -> np.ndarray:
    """Transform weights from a code to maps, (maps, 64, 9, 9)."""
    real, imaginary = weight.detach().flip(2, 3).permute(0, 2, 3, 1).split(PAIRS, dim=3)
    return _spectra(torch.cat([real, -imaginary], dim=3))


@dataclass(frozen=True)
class Spectra:
    """A merged block as the kernels want it.

    weights: spectra of `up` and `down`, of each step.
    theta, rho: of each step.
    soft: as in `Merged`.
    maps_in, maps_out: how many maps each step reads, and its code gives.
    """

    weights: list[kernels.Weights]
    theta: list[float]
    rho: list[float]
    soft: bool
    maps_in: list[int]
    maps_out: list[int]


def lay_out(block: Merged, run: Map) -> Spectra:
    """Transform a block's weights."""
    pieces = [*(partial(up_spectra, weight) for weight in block.up), *(partial(down_spectra, w) for w in block.down)]
    spectra = run(lambda piece: piece(), pieces)
    steps = len(block.up)
    return Spectra(
        [kernels.Weights(*pair) for pair in zip(spectra[:steps], spectra[steps:], strict=True)],
        block.theta.tolist(),
        block.rho.tolist(),
        block.soft,
        [weight.shape[1] for weight in block.up],
        [weight.shape[0] for weight in block.down],
    )


def within(maps: np.ndarray, first: int, end: int) -> kernels.Target:
    """Return those channels of maps as a target of `assemble`."""
    return kernels.Target(maps, HALF, first, end)


def whole(maps: np.ndarray) -> kernels.Target:
    """Return maps without a margin as a target of `assemble`."""
    return kernels.Target(maps, 0, 0, maps.shape[3])


def assemble(results: np.ndarray, shape: Shape, targets: Sequence[kernels.Target], run: Map) -> None:
    """Put maps together from what tiles gave; they go to up to three targets."""
    nothing = kernels.Target(targets[0].maps, 0, 0, 0)
    three = [*targets, nothing, nothing][:3]
    bands = [(n, band) for n in range(len(results)) for band in range(results.shape[1] + 1)]
    run(lambda place: kernels.assemble(results, *place, shape[1:], *three), bands)


def forward(
    image: Tensor,
    block: Spectra,
    codes: Sequence[np.ndarray],
    memory: Memory,
    run: Map,
    kept: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what the readers make of the last code, (N, H, W, m), and the maps that each step reads.

    Args:
        image: (N, c, H, W).
        codes: memory for u^k; two codes in turn are enough where u^k is not wanted afterwards.
        kept: memory for v^k, likewise, or None.
    """
    n, channels, height, width = image.shape
    shape = n, height, width
    maps = [new_maps(shape, count) for count in block.maps_in]
    for step in maps:
        interior(step, shape)[..., :channels] = image.permute(0, 2, 3, 1)
    last = np.empty((*shape, block.maps_out[STEPS]), np.float32)
    runs = runs_of(tiles_of(shape))

    def step(k: int, results: np.ndarray, tiles: np.ndarray) -> None:
        ahead = np.float32(1 + block.rho[k] if k > 0 else 0)
        back = np.float32(-block.rho[k] if k > 1 else 0)
        v = kept[k] if kept else codes[k][:0]
        with memory.scratch(1) as scratch:
            kernels.step(
                maps[k],
                kernels.Neighbours(codes[k - 1], codes[k - 2], ahead, back),
                np.float32(block.theta[k]),
                block.soft,
                v,
                codes[k],
                block.weights[k],
                tiles,
                results,
                scratch,
            )

    for k in range(STEPS + 1):
        results = memory.take(*results_shape(shape, block.maps_out[k]))
        run(partial(step, k, results), runs)
        targets = [within(maps[k + 1], channels, 2 * channels) if k < STEPS else whole(last)]
        if k + 2 <= STEPS and not block.soft:
            targets.append(within(maps[k + 2], 2 * channels, 3 * channels))
        assemble(results, shape, targets, run)
        memory.give([results])
    return last, maps


def apply_spectra(image: Tensor, block: Spectra, memory: Memory, run: Map) -> Tensor:
    """Do as `fusion.fnet.merged.apply_block` with a block that was laid out; no gradients."""
    n, _, height, width = image.shape
    shape = n, height, width
    memory.fit(shape)
    pair = [memory.take(*code_shape(shape)) for _ in range(2)]
    last, _ = forward(image, block, [pair[k % 2] for k in range(STEPS + 1)], memory, run)
    memory.give(pair)
    return torch.from_numpy(last).permute(0, 3, 1, 2)
