"""A merged block on a CPU by Fourier transforms of tiles; `fusion.fnet.cpu.backward` computes its gradients.

A map is an image-like array with few channels: an input or a reconstruction. A code has 64 channels. Both are stored
channels-last, in float32.

In the Fourier domain, a 9x9 convolution needs one product per frequency, instead of 81 per pixel, for each pair of
input and output channels. Tiles have 32 x 32 pixels, with an inner part of 24 x 24. A convolution from maps to a code
reads the inner part and four pixels around it. A convolution from a code to maps gives values for the same 32 x 32
pixels; where the values of neighbouring tiles overlap, they are added up. A tile stays in a core's cache for a whole
step: transform of the maps, products, inverse transform to the code, momentum and threshold, transform of the code,
products, inverse transform to maps.

Channels c and c + 32 of a code are the real and the imaginary part of one complex channel, which halves the cost of its
transform. Convolving a real map with w_c + i w_{c+32} gives both channels at once. In the opposite direction, the
complex channel is convolved with w_c - i w_{c+32}; the real part of the result is the sum of the convolutions of the
two channels. An inverse transform is the transform of a reversed or conjugated spectrum, so that one transform serves
both directions.
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
from fusion.fnet.cpu.kernels import GROUP, INNER
from fusion.fnet.cpu.memory import BufferPool, Shape
from fusion.fnet.cpu.workers import Map
from fusion.fnet.lzsc import FEATURES, HALF, STEPS
from fusion.fnet.merged import Merged

LONG_CHUNK = 4 * GROUP  # tiles in a long chunk
TAIL = 24 * GROUP  # tiles at the end that are divided into short chunks


def tiles_of(shape: Shape) -> np.ndarray:
    """Return the image, row and column of all tiles of a batch, (tiles, 3)."""
    n, height, width = shape
    return np.stack(np.indices((n, -(-height // INNER), -(-width // INNER))), axis=-1).reshape(-1, 3)


def chunks_of(tiles: np.ndarray) -> list[np.ndarray]:
    """Return the tiles divided into chunks, which threads take one at a time.

    Long chunks need fewer calls; short chunks at the end keep all threads busy. The chunks do not depend on the number
    of threads.
    """
    long = max(len(tiles) - TAIL, len(tiles) // 2) // LONG_CHUNK * LONG_CHUNK
    starts = [*range(0, long, LONG_CHUNK), *range(long, len(tiles), GROUP)]
    return [tiles[start:end] for start, end in pairwise([*starts, len(tiles)])]


def new_maps(shape: Shape, channels: int) -> np.ndarray:
    """Return maps of zeros with a margin, padded to whole tiles."""
    n, *sides = shape
    return np.zeros((n, *(-(-side // INNER) * INNER + 2 * HALF for side in sides), channels), np.float32)


def interior(maps: np.ndarray, shape: Shape) -> np.ndarray:
    """Return a view of maps without margin and padding, (N, H, W, channels)."""
    return maps[:, HALF : HALF + shape[1], HALF : HALF + shape[2]]


def code_shape(shape: Shape) -> Shape:
    """Return the shape of a code, (N, H, W * 64)."""
    return *shape[:2], shape[2] * FEATURES


def results_shape(shape: Shape, channels: int) -> tuple[int, ...]:
    """Return the shape of the array with the output maps of all tiles, before `assemble` adds up their overlaps.

    It is (N, tiles down, tiles across, 32, 32, channels).
    """
    n, height, width = shape
    return n, -(-height // INNER), -(-width // INNER), SIDE, SIDE, channels


def _spectra(weight: Tensor) -> np.ndarray:
    """Return the spectra of weights, (maps, 9, 9, 64), as the kernels read them, (32 * 32 * maps * 64,)."""
    spectra = np.empty(SIDE * LINE * len(weight), np.float32)
    kernels.to_spectra(weight.contiguous().numpy(), spectra)
    return spectra


def up_spectra(weight: Tensor) -> np.ndarray:
    """Return the spectra of the weights of a convolution from maps to a code, (64, maps, 9, 9)."""
    return _spectra(weight.detach().permute(1, 2, 3, 0))


def down_spectra(weight: Tensor) -> np.ndarray:
    """Return the spectra of the weights of a convolution from a code to maps, (maps, 64, 9, 9)."""
    real, imaginary = weight.detach().flip(2, 3).permute(0, 2, 3, 1).split(PAIRS, dim=3)
    return _spectra(torch.cat([real, -imaginary], dim=3))


@dataclass(frozen=True)
class Spectra:
    """A merged block in the form that the kernels need.

    weights: for each step, the spectra of `Merged.up` and `Merged.down`.
    theta, rho: the threshold and the momentum of each step.
    soft: as in `Merged`.
    maps_in: the number of maps that each step reads.
    maps_out: the number of maps that are computed from the code of each step.
    """

    weights: list[kernels.Weights]
    theta: list[float]
    rho: list[float]
    soft: bool
    maps_in: list[int]
    maps_out: list[int]


def lay_out(block: Merged, run: Map) -> Spectra:
    """Return a merged block with its weights transformed to spectra."""
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
    """Return a target of `assemble`: channels `first` to `end` of maps that have a margin."""
    return kernels.Target(maps, HALF, first, end)


def whole(maps: np.ndarray) -> kernels.Target:
    """Return a target of `assemble`: all channels of maps that have no margin."""
    return kernels.Target(maps, 0, 0, maps.shape[3])


def assemble(results: np.ndarray, shape: Shape, targets: Sequence[kernels.Target], run: Map) -> None:
    """Add up the overlapping results of tiles, and distribute the channels, in order, to up to three targets."""
    empty = kernels.Target(targets[0].maps, 0, 0, 0)
    three = [*targets, empty, empty][:3]
    strips = [(n, strip) for n in range(len(results)) for strip in range(results.shape[1] + 1)]
    run(lambda place: kernels.assemble(results, *place, shape[1:], *three), strips)


def forward(
    image: Tensor,
    block: Spectra,
    codes: Sequence[np.ndarray],
    pool: BufferPool,
    run: Map,
    vs: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the outputs of a block, (N, H, W, m), and the maps that each step reads.

    Args:
        image: (N, c, H, W).
        block: the block with its weights transformed to spectra.
        codes: arrays that receive u^k; two arrays used in turn are enough if the codes are not needed afterwards.
        pool: the source of temporary arrays.
        run: runs independent pieces of work on several threads.
        vs: arrays that receive v^k, the values before the threshold, or None.
    """
    n, channels, height, width = image.shape
    shape = n, height, width
    maps = [new_maps(shape, count) for count in block.maps_in]
    for step in maps:
        interior(step, shape)[..., :channels] = image.permute(0, 2, 3, 1)
    last = np.empty((*shape, block.maps_out[STEPS]), np.float32)
    chunks = chunks_of(tiles_of(shape))

    def step(k: int, results: np.ndarray, tiles: np.ndarray) -> None:
        ahead = np.float32(1 + block.rho[k] if k > 0 else 0)
        back = np.float32(-block.rho[k] if k > 1 else 0)
        v = vs[k] if vs else codes[k][:0]
        with pool.scratch(1) as scratch:
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
        results = pool.take(*results_shape(shape, block.maps_out[k]))
        run(partial(step, k, results), chunks)
        targets = [within(maps[k + 1], channels, 2 * channels) if k < STEPS else whole(last)]
        if k + 2 <= STEPS and not block.soft:
            targets.append(within(maps[k + 2], 2 * channels, 3 * channels))
        assemble(results, shape, targets, run)
        pool.give([results])
    return last, maps


def apply_spectra(image: Tensor, block: Spectra, pool: BufferPool, run: Map) -> Tensor:
    """Return the same as `fusion.fnet.merged.apply_block` for a block from `lay_out`, without gradients."""
    n, _, height, width = image.shape
    shape = n, height, width
    pool.fit(shape)
    pair = [pool.take(*code_shape(shape)) for _ in range(2)]
    last, _ = forward(image, block, [pair[k % 2] for k in range(STEPS + 1)], pool, run)
    pool.give(pair)
    return torch.from_numpy(last).permute(0, 3, 1, 2)
