"""Gradients of `fusion.networks.strips`: its forward mirrored, step by step from the last.

The gradient g of u^k has the form of v^k itself: a convolution of what the readers of u^k send back (few channels) plus
(1 + rho_{k+1}) and -rho_{k+2} times the gradients of v^{k+1} and v^{k+2}. Times the threshold's slope it is the
gradient of v^k; another convolution makes of it the gradient of what step k has read. The gradient of weights
is a sum over pixels of products of a code with shifted maps, in either direction: 64 x c, not c x 64, as only the first
is fast.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusion.networks import kernels
from fusion.networks.fast import Merged
from fusion.networks.lzsc import FEATURES, KERNEL, STEPS
from fusion.networks.strips import (
    HALF,
    Piece,
    down,
    forward,
    images_first,
    interior,
    laid_out,
    lay_out,
    new_code,
    new_maps,
    pieces_of,
    strip,
    unfolded,
    up,
)
from fusion.networks.workers import Map, workers


def mirrored(weight: Tensor) -> Tensor:
    """Return the weights of the convolution that carries gradients back: (a, b, 9, 9) to (b, a, 9, 9)."""
    return weight.transpose(0, 1).flip(2, 3)


def products_of(code: Tensor, maps: Tensor) -> Tensor:
    """Return sum over pixels p of code[p, f] maps[p + d, j], d = 0..8 down and across: (64, channels, 9, 9).

    Args:
        code: (rows, width, 64).
        maps: (rows + 8, width + 8, channels).
    """
    channels = maps.shape[2]
    if channels == 1 or code.dtype == torch.bfloat16:
        # Matrix units want more channels than these: the nine shifts across become channels.
        rows, width = maps.shape[0], code.shape[1]
        row_stride, stride, _ = maps.stride()
        maps = maps.as_strided((rows, width, KERNEL * channels), (row_stride, stride, 1)).contiguous()
        found = _convolution_products(code, maps, (KERNEL, 1))
        return found.view(FEATURES, KERNEL, channels, KERNEL).permute(0, 2, 3, 1).float()
    return _convolution_products(code, maps, (KERNEL, KERNEL))


def _convolution_products(code: Tensor, maps: Tensor, kernel: tuple[int, int]) -> Tensor:
    weight = torch.empty(FEATURES, maps.shape[2], *kernel, dtype=code.dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    arguments = (None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (False, True, False))
    return torch.ops.aten.convolution_backward(images_first(code), images_first(maps), weight, *arguments)[1]


def backward(
    seen_gradient: Tensor,
    block: Merged,
    codes: list[Tensor],
    kept: list[Tensor],
    maps: list[Tensor],
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
    shape, kind = (n, height, width), codes[0].dtype
    channels = block.up[0].shape[1]
    pieces = pieces_of(n, height, width * FEATURES * kind.itemsize)
    theta, rho = block.theta.tolist(), block.rho.tolist()
    ahead = [*(1 + x for x in rho[1:]), 0]  # the factor of u^k in v^{k+1}
    back = [*(-x for x in rho[2:]), 0, 0]  # and in v^{k+2}
    carry_up = [laid_out(mirrored(weight), kind) for weight in block.down]
    carry_down = [unfolded(mirrored(weight if of_image else weight[:, channels:]), kind) for weight in block.up]
    # Gradients of what the readers of each u^k see, of v^k (three in turn), and of the image by step k.
    seen = [new_maps(shape, weight.shape[0], kind) for weight in block.down]
    interior(seen[STEPS]).copy_(seen_gradient.permute(0, 2, 3, 1))
    of_v = [new_code(shape, kind) for _ in range(3)]
    of_v = [of_v[k % 3] for k in range(STEPS + 1)]
    image_step = torch.empty(n, height, width, channels if of_image else 0)
    nothing = image_step[..., :0]

    def differentiate(k: int, piece: Piece) -> np.ndarray:
        n, top, bottom = piece
        convolved = up(seen[k], carry_up[k], piece)
        return kernels.activate_backward(
            convolved,
            # What does not exist has the factor 0, or its sum is not used: anything finite stands in for it.
            strip(of_v[k + 1], piece) if k + 1 <= STEPS else convolved,
            strip(of_v[k + 2], piece) if k + 2 <= STEPS else convolved,
            np.float32(ahead[k]),
            np.float32(back[k]),
            kept[k][n, top:bottom].numpy().reshape(bottom - top, -1),
            np.float32(theta[k]),
            strip(codes[k - 1], piece) if k > 0 else convolved,
            strip(codes[k - 2], piece) if k > 1 else convolved,
            strip(of_v[k], piece),
        )

    def carry_back(k: int, piece: Piece) -> tuple[Tensor, Tensor]:
        n, top, bottom = piece
        if of_image or k > 0:
            to_images = interior(seen[k - 1])[..., :channels] if k > 0 else nothing
            to_images_before = interior(seen[k - 2])[..., channels:] if k > 1 else nothing
            down(of_v[k], carry_down[k], piece, [image_step, to_images, to_images_before])
        rows, read = slice(top + HALF, bottom + HALF), slice(top, bottom + 2 * HALF)
        return products_of(of_v[k][n, rows], maps[k][n, read]), products_of(codes[k][n, rows], seen[k][n, read])

    image = torch.zeros_like(image_step)
    found = Merged([], [], torch.zeros(STEPS + 1), torch.zeros(STEPS + 1))
    for k in reversed(range(STEPS + 1)):
        by_theta, by_ahead, by_back = np.sum(run(partial(differentiate, k), pieces), axis=0, dtype=np.float64)
        found.theta[k] = by_theta
        found.rho[k] = (by_ahead if k > 0 else 0) - (by_back if k > 1 else 0)
        ups, downs = zip(*run(partial(carry_back, k), pieces), strict=True)
        image += image_step
        found.up.insert(0, sum(ups))
        found.down.insert(0, mirrored(sum(downs)))
    return (image.permute(0, 3, 1, 2) if of_image else None), found


class _ReadInStrips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, kind: torch.dtype, theta: Tensor, rho: Tensor, *weights: Tensor) -> Tensor:
        block = Merged(list(weights[: STEPS + 1]), list(weights[STEPS + 1 :]), theta, rho)
        n, _, height, width = image.shape
        codes = [new_code((n, height, width), kind) for _ in range(STEPS + 1)]
        kept = [torch.empty(n, height, width, FEATURES) for _ in range(STEPS + 1)]
        with workers() as run:
            seen, maps = forward(image, lay_out(block, kind), codes, run, kept)
        ctx.save_for_backward(theta, rho, *weights)
        ctx.codes, ctx.kept, ctx.maps = codes, kept, maps
        return seen.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        theta, rho, *weights = ctx.saved_tensors
        block = Merged(weights[: STEPS + 1], weights[STEPS + 1 :], theta, rho)
        with workers() as run:
            image, found = backward(gradient, block, ctx.codes, ctx.kept, ctx.maps, ctx.needs_input_grad[0], run)
        return image, None, found.theta, found.rho, *found.up, *found.down


def read_with_gradients(image: Tensor, block: Merged, kind: torch.dtype) -> Tensor:
    """Do as `fusion.networks.fast.read_code`, with products of the number type `kind`; differentiable once."""
    return _ReadInStrips.apply(image, kind, block.theta, block.rho, *block.up, *block.down)
