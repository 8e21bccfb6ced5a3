"""Gradients of `fusion.fnet.cpu.forward`: its forward mirrored, step by step from the last.

The gradient of u^k has the form of v^k itself: a convolution of what the readers of u^k send back (few channels) plus
(1 + rho_{k+1}) and -rho_{k+2} times the gradients of v^{k+1} and v^{k+2}. Times the threshold's slope it is the
gradient of v^k; another convolution makes of it the gradient of what step k has read. The gradient of weights is, in
either direction, a sum over pixels of products of a code with shifted maps; of transformed tiles it is a sum of
products at each frequency.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusion.fnet.cpu import kernels
from fusion.fnet.cpu.forward import (
    Memory,
    assemble,
    code_shape,
    down_spectra,
    forward,
    interior,
    lay_out,
    new_maps,
    results_shape,
    tiles_of,
    up_spectra,
)
from fusion.fnet.cpu.fourier import LINE, POINT, ROW, SIDE
from fusion.fnet.cpu.kernels import TOGETHER
from fusion.fnet.cpu.workers import Map, workers
from fusion.fnet.fast import Merged, spans
from fusion.fnet.lzsc import KERNEL, STEPS

SHARES = 8  # of the tiles, at most, each with sums of its own: the more, the more threads, and the more memory
MEMORY = Memory()  # from training step to training step


def mirrored(weight: Tensor) -> Tensor:
    """Return the weights of the convolution that carries gradients back: (a, b, 9, 9) to (b, a, 9, 9)."""
    return weight.transpose(0, 1).flip(2, 3)


def weights_of(sums: np.ndarray) -> Tensor:
    """Return sum over pixels p of code[p, f] maps[p + d, j], d = 0..8 down and across: (64, maps, 9, 9).

    Args:
        sums: of shares of the tiles, of codes' spectra times the conjugate of maps', (shares, 32 32 maps 64).
    """
    weights = np.empty((sums.shape[1] // (SIDE * LINE), KERNEL, KERNEL, POINT), np.float32)
    worked_in = (np.empty(size, np.float32) for size in (SIDE * ROW, LINE, LINE))
    kernels.from_spectra(sums, weights, *worked_in)
    return torch.from_numpy(weights).permute(3, 0, 1, 2)


def backward(
    seen_gradient: Tensor,
    block: Merged,
    codes: list[np.ndarray],
    kept: list[np.ndarray],
    maps: list[np.ndarray],
    of_image: bool,
    run: Map,
) -> tuple[Tensor | None, Merged]:
    """Return the gradients of the image, (N, c, H, W), where wanted, and of the block.

    Args:
        seen_gradient: (N, m, H, W).
        block: as merged, not laid out.
        codes, kept, maps: of the forward pass, all five steps'.
    """
    n, _, height, width = seen_gradient.shape
    shape = n, height, width
    channels = block.up[0].shape[1]
    first = 0 if of_image else channels  # of the maps that a step has read, whose gradient is wanted
    theta, rho = block.theta.tolist(), block.rho.tolist()
    ahead = [*(1 + x for x in rho[1:]), 0]  # the factor of u^k in v^{k+1}
    back = [*(-x for x in rho[2:]), 0, 0]  # and in v^{k+2}
    # Gradients of what the readers of each u^k see, of v^k (two in turn), and of the image by step k.
    seen = [new_maps(shape, weight.shape[0]) for weight in block.down]
    interior(seen[STEPS], shape)[:] = seen_gradient.permute(0, 2, 3, 1)
    of_v = [MEMORY.take(*code_shape(shape)) for _ in range(2)]
    image_step = np.empty((*shape, channels - first), np.float32)
    nothing = image_step[..., :0]
    tiles = tiles_of(shape)
    groups = -(-len(tiles) // TOGETHER)
    shares = [slice(*(TOGETHER * edge for edge in span)) for span in spans(groups, -(-groups // SHARES))]

    def step(
        k: int, results: np.ndarray, ups: np.ndarray, downs: np.ndarray, sums: Sequence[np.ndarray], share: int
    ) -> np.ndarray:
        with MEMORY.lent(*kernels.scratch(3)) as scratch:
            return kernels.step_backward(
                seen[k],
                ups,
                # What does not exist has the factor 0, or its sum is not used: anything stands in for it.
                of_v[(k + 1) % 2],
                of_v[k % 2],
                np.float32(ahead[k]),
                np.float32(back[k]),
                kept[k],
                np.float32(theta[k]),
                codes[max(k - 1, 0)],
                codes[max(k - 2, 0)],
                of_v[k % 2],
                downs,
                tiles[shares[share]],
                results,
                codes[k],
                maps[k],
                *(one[share] for one in sums),
                *scratch,
            )

    image = np.zeros_like(image_step)
    carried = [mirrored(weight[:, first:]) for weight in block.up]
    ups, downs = run(up_spectra, map(mirrored, block.down)), run(down_spectra, carried)
    found = Merged([], [], torch.zeros(STEPS + 1), torch.zeros(STEPS + 1))
    for k in reversed(range(STEPS + 1)):
        results = MEMORY.take(*results_shape(shape, len(carried[k])))
        sums = [MEMORY.take(len(shares), SIDE**2 * POINT * x[k].shape[3]) for x in (maps, seen)]
        scalars = run(partial(step, k, results, ups[k], downs[k], sums), range(len(shares)))
        by_theta, by_ahead, by_back = np.sum(scalars, axis=0)
        found.theta[k] = float(by_theta)
        found.rho[k] = float((by_ahead if k > 0 else 0) - (by_back if k > 1 else 0))
        by_up, by_down = run(weights_of, sums)
        found.up.insert(0, by_up)
        found.down.insert(0, mirrored(by_down))
        if results.size:
            to_images = interior(seen[k - 1], shape)[..., :channels] if k > 0 else nothing
            to_images_before = interior(seen[k - 2], shape)[..., channels:] if k > 1 else nothing
            assemble(results, [image_step, to_images, to_images_before], run)
            image += image_step
        MEMORY.give([results, *sums])
    MEMORY.give(of_v)
    return (torch.from_numpy(image).permute(0, 3, 1, 2) if of_image else None), found


class _ReadSpectrally(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Map, image: Tensor, theta: Tensor, rho: Tensor, *weights: Tensor) -> Tensor:
        block = Merged(list(weights[: STEPS + 1]), list(weights[STEPS + 1 :]), theta, rho)
        n, _, height, width = image.shape
        shape = n, height, width
        MEMORY.fit(shape)
        codes, kept = ([MEMORY.take(*code_shape(shape)) for _ in range(STEPS + 1)] for _ in range(2))
        seen, maps = forward(image.detach(), lay_out(block, run), codes, MEMORY, run, kept)
        ctx.save_for_backward(theta, rho, *weights)
        ctx.codes, ctx.kept, ctx.maps = codes, kept, maps
        return torch.from_numpy(seen).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.codes is None:
            raise RuntimeError("a second backward pass: what it needs was given back by the first")
        theta, rho, *weights = ctx.saved_tensors
        block = Merged(weights[: STEPS + 1], weights[STEPS + 1 :], theta, rho)
        with workers() as run:
            image, found = backward(gradient, block, ctx.codes, ctx.kept, ctx.maps, ctx.needs_input_grad[1], run)
        MEMORY.give(ctx.codes + ctx.kept)
        ctx.codes = ctx.kept = None
        return None, image, found.theta, found.rho, *found.up, *found.down


def read_with_gradients(image: Tensor, block: Merged, run: Map) -> Tensor:
    """Do as `fusion.fnet.fast.read_code`; differentiable once."""
    return _ReadSpectrally.apply(run, image, block.theta, block.rho, *block.up, *block.down)
