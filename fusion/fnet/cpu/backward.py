"""Gradients of `fusion.fnet.cpu.forward`: its forward mirrored, step by step from the last.

The gradient of u^k has the form of v^k itself: a convolution of what the readers of u^k send back (few channels) plus
(1 + rho_{k+1}) and -rho_{k+2} times the gradients of v^{k+1} and v^{k+2}. Times the threshold's slope it is the
gradient of v^k; another convolution makes of it the gradient of what step k has read. The gradient of weights is, in
either direction, a sum over pixels of products of a code with shifted maps; of transformed tiles it is a sum of
products at each frequency.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusion.fnet.cpu import kernels
from fusion.fnet.cpu.forward import (
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
    whole,
    within,
)
from fusion.fnet.cpu.fourier import LINE, POINT, SIDE
from fusion.fnet.cpu.kernels import TOGETHER
from fusion.fnet.cpu.memory import Memory
from fusion.fnet.cpu.workers import Map, workers
from fusion.fnet.lzsc import KERNEL, STEPS
from fusion.fnet.merged import Merged, spans

SHARES = 8  # of the tiles, at most, each with sums of its own: the more, the more threads, and the more memory


def mirrored(weight: Tensor) -> Tensor:
    """Return the weights of the convolution that carries gradients back: (a, b, 9, 9) to (b, a, 9, 9)."""
    return weight.transpose(0, 1).flip(2, 3)


def weights_of(sums: np.ndarray) -> Tensor:
    """Return sum over pixels p of code[p, f] maps[p + d, j], d = 0..8 down and across: (64, maps, 9, 9).

    Args:
        sums: of shares of the tiles, of codes' spectra times the conjugate of maps', (shares, 32 32 maps 64).
    """
    weights = np.empty((sums.shape[1] // (SIDE * LINE), KERNEL, KERNEL, POINT), np.float32)
    kernels.from_spectra(sums, weights)
    return torch.from_numpy(weights).permute(3, 0, 1, 2)


def backward(
    gradient: Tensor,
    block: Merged,
    codes: list[np.ndarray],
    kept: list[np.ndarray],
    maps: list[np.ndarray],
    of_image: bool,
    memory: Memory,
    run: Map,
) -> tuple[Tensor | None, Merged]:
    """Return the gradients of the image, (N, c, H, W), where wanted, and of the block.

    Args:
        gradient: of what the readers make of the last code, (N, m, H, W).
        block: as merged, not laid out.
        codes, kept, maps: u^k, v^k and what was read, of the forward pass, all five steps'.
    """
    n, _, height, width = gradient.shape
    shape = n, height, width
    channels = block.up[0].shape[1]
    first = 0 if of_image else channels  # of the maps that a step has read, whose gradient is wanted
    theta, rho = block.theta.tolist(), block.rho.tolist()
    ahead = [*(1 + x for x in rho[1:]), 0]  # the factor of u^k in v^{k+1}
    back = [*(-x for x in rho[2:]), 0, 0]  # and in v^{k+2}
    # Gradients of what the readers of each u^k make of it, of v^k (two in turn), and of the image by step k.
    of_readers = [new_maps(shape, weight.shape[0]) for weight in block.down]
    interior(of_readers[STEPS], shape)[:] = gradient.permute(0, 2, 3, 1)
    of_v = [memory.take(*code_shape(shape)) for _ in range(2)]
    image_step = np.empty((*shape, channels - first), np.float32)
    tiles = tiles_of(shape)
    groups = -(-len(tiles) // TOGETHER)
    shares = [slice(TOGETHER * start, TOGETHER * end) for start, end in spans(groups, -(-groups // SHARES))]

    def step(k: int, results: np.ndarray, weights: kernels.Weights, sums: kernels.Weights, share: int) -> np.ndarray:
        # What does not exist has the factor 0, or its sum is not used: anything stands in for it.
        later = kernels.Neighbours(of_v[(k + 1) % 2], of_v[k % 2], np.float32(ahead[k]), np.float32(back[k]))
        before, before_last = codes[max(k - 1, 0)], codes[max(k - 2, 0)]
        past = kernels.Forward(maps[k], before, before_last, np.float32(theta[k]), block.soft, kept[k], codes[k])
        with memory.scratch(3) as scratch:
            return kernels.step_backward(
                of_readers[k],
                later,
                past,
                of_v[k % 2],
                weights,
                tiles[shares[share]],
                results,
                kernels.Weights(sums.up[share], sums.down[share]),
                scratch,
            )

    image = np.zeros_like(image_step)
    carried = [mirrored(weight[:, first:]) for weight in block.up]
    ups, downs = run(up_spectra, map(mirrored, block.down)), run(down_spectra, carried)
    of_theta, of_rho, of_up, of_down = [], [], [], []  # from the last step on
    for k in reversed(range(STEPS + 1)):
        results = memory.take(*results_shape(shape, len(carried[k])))
        sums = kernels.Weights(*(memory.take(len(shares), SIDE * LINE * x[k].shape[3]) for x in (maps, of_readers)))
        scalars = run(partial(step, k, results, kernels.Weights(ups[k], downs[k]), sums), range(len(shares)))
        by_theta, by_ahead, by_back = np.sum(scalars, axis=0)
        of_theta.append(float(by_theta))
        of_rho.append(float((by_ahead if k > 0 else 0) - (by_back if k > 1 else 0)))
        by_up, by_down = run(weights_of, sums)
        of_up.append(by_up)
        of_down.append(mirrored(by_down))
        if results.size:
            targets = [whole(image_step)]
            if k > 0:
                targets.append(within(of_readers[k - 1], 0, channels))
            if k > 1 and not block.soft:
                targets.append(within(of_readers[k - 2], channels, 2 * channels))
            assemble(results, shape, targets, run)
            image += image_step
        memory.give([results, *sums])
    memory.give(of_v)
    found = Merged(of_up[::-1], of_down[::-1], torch.tensor(of_theta[::-1]), torch.tensor(of_rho[::-1]), block.soft)
    return (torch.from_numpy(image).permute(0, 3, 1, 2) if of_image else None), found


class _ApplyWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, memory: Memory, run: Map, soft: bool, image: Tensor, theta: Tensor, rho: Tensor, *weights: Tensor
    ) -> Tensor:
        block = Merged(list(weights[: STEPS + 1]), list(weights[STEPS + 1 :]), theta, rho, soft)
        n, _, height, width = image.shape
        shape = n, height, width
        memory.fit(shape)
        codes, kept = ([memory.take(*code_shape(shape)) for _ in range(STEPS + 1)] for _ in range(2))
        last, maps = forward(image.detach(), lay_out(block, run), codes, memory, run, kept)
        ctx.save_for_backward(theta, rho, *weights)
        ctx.memory, ctx.soft, ctx.codes, ctx.kept, ctx.maps = memory, soft, codes, kept, maps
        return torch.from_numpy(last).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.codes is None:
            raise RuntimeError("a second backward pass: what it needs was given back by the first")
        theta, rho, *weights = ctx.saved_tensors
        block = Merged(weights[: STEPS + 1], weights[STEPS + 1 :], theta, rho, ctx.soft)
        of_image = ctx.needs_input_grad[3]
        with workers() as run:
            image, found = backward(gradient, block, ctx.codes, ctx.kept, ctx.maps, of_image, ctx.memory, run)
        ctx.memory.give(ctx.codes + ctx.kept)
        ctx.codes = ctx.kept = None
        return None, None, None, image, found.theta, found.rho, *found.up, *found.down


def apply_with_gradients(image: Tensor, block: Merged, memory: Memory, run: Map) -> Tensor:
    """Do as `fusion.fnet.merged.apply_block`; differentiable once. Codes stay in `memory` until the backward pass."""
    return _ApplyWithGradients.apply(memory, run, block.soft, image, block.theta, block.rho, *block.up, *block.down)
