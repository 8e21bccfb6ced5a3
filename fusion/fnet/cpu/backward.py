"""Gradients of `fusion.fnet.cpu.forward`: the forward pass mirrored, from the last step to the first.

The gradient of u^k has the same form as v^k. It is a convolution of the gradients of the maps computed from u^k (few
channels), plus (1 + rho_{k+1}) and -rho_{k+2} times the gradients of v^{k+1} and v^{k+2}. The gradient of u^k times the
slope of the threshold is the gradient of v^k. Another convolution turns it into the gradient of the maps that step k
read.

The gradient of the weights up_k is the correlation of the gradient of v^k with the maps that step k has read. The
gradient of the weights down_k is the correlation of u^k with the gradients of the maps computed from u^k. In the
Fourier domain, both are sums over tiles of products at each frequency.
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
from fusion.fnet.cpu.kernels import GROUP
from fusion.fnet.cpu.memory import BufferPool
from fusion.fnet.cpu.workers import Map, workers
from fusion.fnet.lzsc import KERNEL, STEPS
from fusion.fnet.merged import Merged, spans

# Maximum number of portions into which the tiles are divided. Each portion is processed by one thread and has its own
# sums for the gradients of weights, so that more portions can use more threads but need more memory.
PORTIONS = 8


def mirrored(weight: Tensor) -> Tensor:
    """Return the weights of the adjoint convolution, which propagates gradients: (a, b, 9, 9) to (b, a, 9, 9)."""
    return weight.transpose(0, 1).flip(2, 3)


def weights_of(sums: np.ndarray) -> Tensor:
    """Return the correlation of a code with maps, (64, maps, 9, 9).

    For each channel f of the code, each map j and each offset d (rows and columns 0..8), it is the sum over the pixels
    p of code[p, f] * maps[p + d, j].

    Args:
        sums: (portions, 32 * 32 * maps * 64). `backward` divides its tiles of 32 x 32 pixels into portions; row i is
            the sum, over the tiles of portion i, of the code's spectrum times the conjugate of the maps' spectrum. The
            sum of all rows is the conjugate of the correlation's spectrum.
    """
    weights = np.empty((sums.shape[1] // (SIDE * LINE), KERNEL, KERNEL, POINT), np.float32)
    kernels.from_spectra(sums, weights)
    return torch.from_numpy(weights).permute(3, 0, 1, 2)


def backward(
    gradient: Tensor,
    block: Merged,
    codes: list[np.ndarray],
    vs: list[np.ndarray],
    maps: list[np.ndarray],
    of_image: bool,
    pool: BufferPool,
    run: Map,
) -> tuple[Tensor | None, Merged]:
    """Return the gradients of the image, (N, c, H, W) or None, and of the block.

    Args:
        gradient: the gradient of the block's outputs, (N, m, H, W).
        block: the merged block, with its weights in the spatial domain (not Fourier-transformed).
        codes, vs, maps: u^k, v^k and the maps that v^k was computed from, for each step of the forward pass.
        of_image: whether the gradient of the image is needed.
        pool: the source of temporary arrays.
        run: runs independent pieces of work on several threads.
    """
    n, _, height, width = gradient.shape
    shape = n, height, width
    channels = block.up[0].shape[1]
    first = 0 if of_image else channels  # the first of a step's maps whose gradient is needed
    theta, rho = block.theta.tolist(), block.rho.tolist()
    ahead = [*(1 + x for x in rho[1:]), 0]  # the factor of u^k in v^{k+1}
    back = [*(-x for x in rho[2:]), 0, 0]  # the factor of u^k in v^{k+2}
    # of_maps_out: the gradients of the maps computed from each u^k. of_v: the gradients of v^k, in two arrays used in
    # turn. image_step: the contribution of one step to the gradient of the image.
    of_maps_out = [new_maps(shape, weight.shape[0]) for weight in block.down]
    interior(of_maps_out[STEPS], shape)[:] = gradient.permute(0, 2, 3, 1)
    of_v = [pool.take(*code_shape(shape)) for _ in range(2)]
    image_step = np.empty((*shape, channels - first), np.float32)
    tiles = tiles_of(shape)
    groups = -(-len(tiles) // GROUP)
    portions = [slice(GROUP * start, GROUP * end) for start, end in spans(groups, -(-groups // PORTIONS))]

    def step(k: int, results: np.ndarray, weights: kernels.Weights, sums: kernels.Weights, portion: int) -> np.ndarray:
        # For steps that do not exist, any array can be passed: its factor is 0, or the sum for it is not used.
        later = kernels.Neighbours(of_v[(k + 1) % 2], of_v[k % 2], np.float32(ahead[k]), np.float32(back[k]))
        before, before_last = codes[max(k - 1, 0)], codes[max(k - 2, 0)]
        past = kernels.Forward(maps[k], before, before_last, np.float32(theta[k]), block.soft, vs[k], codes[k])
        with pool.scratch(3) as scratch:
            return kernels.step_backward(
                of_maps_out[k],
                later,
                past,
                of_v[k % 2],
                weights,
                tiles[portions[portion]],
                results,
                kernels.Weights(sums.up[portion], sums.down[portion]),
                scratch,
            )

    image = np.zeros_like(image_step)
    carried = [mirrored(weight[:, first:]) for weight in block.up]
    ups, downs = run(up_spectra, map(mirrored, block.down)), run(down_spectra, carried)
    of_theta, of_rho, of_up, of_down = [], [], [], []  # in reverse order of the steps
    for k in reversed(range(STEPS + 1)):
        results = pool.take(*results_shape(shape, len(carried[k])))
        sums = kernels.Weights(*(pool.take(len(portions), SIDE * LINE * x[k].shape[3]) for x in (maps, of_maps_out)))
        scalars = run(partial(step, k, results, kernels.Weights(ups[k], downs[k]), sums), range(len(portions)))
        by_theta, by_ahead, by_back = np.sum(scalars, axis=0)
        of_theta.append(float(by_theta))
        of_rho.append(float((by_ahead if k > 0 else 0) - (by_back if k > 1 else 0)))
        by_up, by_down = run(weights_of, sums)
        of_up.append(by_up)
        of_down.append(mirrored(by_down))
        if results.size:
            targets = [whole(image_step)]
            if k > 0:
                targets.append(within(of_maps_out[k - 1], 0, channels))
            if k > 1 and not block.soft:
                targets.append(within(of_maps_out[k - 2], channels, 2 * channels))
            assemble(results, shape, targets, run)
            image += image_step
        pool.give([results, *sums])
    pool.give(of_v)
    found = Merged(of_up[::-1], of_down[::-1], torch.tensor(of_theta[::-1]), torch.tensor(of_rho[::-1]), block.soft)
    return (torch.from_numpy(image).permute(0, 3, 1, 2) if of_image else None), found


class _ApplyWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pool: BufferPool, run: Map, soft: bool, image: Tensor, theta: Tensor, rho: Tensor, *weights: Tensor
    ) -> Tensor:
        block = Merged(list(weights[: STEPS + 1]), list(weights[STEPS + 1 :]), theta, rho, soft)
        n, _, height, width = image.shape
        shape = n, height, width
        pool.fit(shape)
        codes, vs = ([pool.take(*code_shape(shape)) for _ in range(STEPS + 1)] for _ in range(2))
        last, maps = forward(image.detach(), lay_out(block, run), codes, pool, run, vs)
        ctx.save_for_backward(theta, rho, *weights)
        ctx.pool, ctx.soft, ctx.codes, ctx.vs, ctx.maps = pool, soft, codes, vs, maps
        return torch.from_numpy(last).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.codes is None:
            raise RuntimeError("a second backward pass is not possible: the first one freed the codes that it needs")
        theta, rho, *weights = ctx.saved_tensors
        block = Merged(weights[: STEPS + 1], weights[STEPS + 1 :], theta, rho, ctx.soft)
        of_image = ctx.needs_input_grad[3]
        with workers() as run:
            image, found = backward(gradient, block, ctx.codes, ctx.vs, ctx.maps, of_image, ctx.pool, run)
        ctx.pool.give(ctx.codes + ctx.vs)
        ctx.codes = ctx.vs = None
        return None, None, None, image, found.theta, found.rho, *found.up, *found.down


def apply_with_gradients(image: Tensor, block: Merged, pool: BufferPool, run: Map) -> Tensor:
    """Return the same as `fusion.fnet.merged.apply_block`; differentiable once.

    The codes are kept in arrays taken from `pool`; the backward pass gives these arrays back to the pool.
    """
    return _ApplyWithGradients.apply(pool, run, block.soft, image, block.theta, block.rho, *block.up, *block.down)
