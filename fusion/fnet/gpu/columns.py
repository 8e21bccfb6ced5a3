"""A merged block on a GPU, with every 9x9 convolution as a 9x1 convolution of (or to) horizontal shifts of maps.

A GPU's matrix units multiply tiles of at least eight channels. The maps of these networks have one to six channels, so
that a 9x9 convolution from or to them leaves most of each tile empty. Nine horizontal shifts of each map, next to each
other as channels, fill the tiles. A convolution to a code becomes a 9x1 convolution of the shifted maps; a convolution
from a code becomes a 9x1 convolution to nine maps for each output map, which are then shifted and summed. Products have
the requested number type and accumulate in float32; sums of maps, thresholds and momentum are float32.

On a GPU, each operation (shifts, sums of shifted maps, momentum with threshold; with bfloat16 also the convolutions and
the products that are their gradients) is one Triton kernel (`fusion.fnet.gpu.kernels`). On a CPU, or if Triton cannot
compile, the PyTorch functions in this module compute the same.
"""

import functools
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fusion.fnet.lcsc import soft_threshold
from fusion.fnet.lzsc import HALF, KERNEL, STEPS, threshold
from fusion.fnet.merged import Merged

TILE_CHANNELS = 8  # channels of the smallest bfloat16 tile; channels are padded with zeros to a multiple of it


def kernels(tensor: Tensor) -> ModuleType | None:
    """Return `fusion.fnet.gpu.kernels` if it applies to a tensor (on a GPU, not float64), else None."""
    return gpu_kernels() if tensor.is_cuda and tensor.dtype != torch.float64 else None


def multiplying_kernels(tensor: Tensor) -> ModuleType | None:
    """Return `fusion.fnet.gpu.kernels` if its matrix products take a tensor (GPU with bfloat16), else None."""
    has_bfloat16 = tensor.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return kernels(tensor) if has_bfloat16 and tensor.dtype == torch.bfloat16 else None


@functools.cache
def gpu_kernels() -> ModuleType | None:
    """Return the module of kernels if they compile and run on this machine; else log a warning and return None."""
    try:
        from fusion.fnet.gpu import kernels as compiled_here

        compiled_here.probe(torch.device("cuda"))
    except Exception as error:  # no Triton, no C compiler, an old GPU: the errors have no common public class
        logging.warning(
            "warning: FNet's kernels do not run on this GPU; FNet is slower (%s: %s)", type(error).__name__, error
        )
        return None
    return compiled_here


def spread(maps: Tensor, channels: int, backwards: bool, dtype: torch.dtype) -> Tensor:
    """Return the nine horizontal shifts of maps, zero-padded, as channels: (N, n, H, W) to (N, channels, H, W).

    For g = 0..8 and m = 0..n-1, column x of channel g * n + m is column x + g - 4 of map m; if `backwards` is true, it
    is column x + 4 - g. The channels from 9 * n on are zeros. The result is channels-last.
    """
    if module := kernels(maps):
        return module.spread(maps, channels, backwards, dtype)
    width = maps.shape[-1]
    padded = F.pad(maps, (HALF, HALF)).to(dtype)
    shifts = [padded[..., dx : dx + width] for dx in range(KERNEL)]
    wide = torch.cat(shifts[::-1] if backwards else shifts, dim=1)
    wide = F.pad(wide, (0, 0, 0, 0, 0, channels - wide.shape[1]))
    return wide.contiguous(memory_format=torch.channels_last)


def gather(wide: Tensor, count: int, backwards: bool) -> Tensor:
    """Return the sum of nine groups of `count` maps, each shifted by its offset; the adjoint of `spread`.

    The sum is of float32, or float64 for float64 maps.
    """
    if module := kernels(wide):
        return module.gather(wide, count, backwards)
    width = wide.shape[-1]
    padded = F.pad(wide[:, : KERNEL * count], (HALF, HALF)).to(torch.promote_types(wide.dtype, torch.float32))
    places = reversed(range(KERNEL)) if backwards else range(KERNEL)
    shifted = [group[..., dx : dx + width] for group, dx in zip(padded.split(count, dim=1), places, strict=True)]
    return functools.reduce(torch.add, shifted)


def stack(maps: Tensor) -> Tensor:
    """Return the nine vertical shifts of channels-last maps, zero-padded, as channels: (N, H, W, 9 * c).

    For g = 0..8 and m = 0..c-1, row y of channel c * g + m is row y + g - 4 of map m.
    """
    if module := kernels(maps):
        return module.stack(maps)
    height = maps.shape[2]
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 0, 0, HALF, HALF))
    return torch.cat([padded[:, dy : dy + height] for dy in range(KERNEL)], dim=-1)


def column(maps: Tensor, taps: Tensor, backwards: bool = False) -> Tensor:
    """Convolve channels-last maps (N, c, H, W) with a column of nine taps (9, c, o), zero-padded: (N, o, H, W).

    Row y + dy - 4 of the maps, times tap dy (`backwards`: 8 - dy), is added to row y of the result.
    """
    if module := multiplying_kernels(maps):
        return module.column(maps, taps, backwards)
    taps = (taps.flip(0) if backwards else taps).permute(2, 1, 0).unsqueeze(-1)
    result = F.conv2d(maps, taps.contiguous(memory_format=torch.channels_last), padding=(HALF, 0))
    # The kernels require channels-last maps; the library may choose another layout.
    return result.contiguous(memory_format=torch.channels_last)


def products(fixed: Tensor, moved: Tensor) -> Tensor:
    """Return the sums over pixels of fixed[a](y) moved[b](y + dy - 4), in float32 or float64: (a, dy, b).

    This is a gradient of taps. With so few taps, libraries use only a few thread blocks for the sum over all pixels, so
    that most of a GPU is idle. Here it is a matrix product for each of many slices of the batch, and a sum over the
    slices.
    """
    if module := multiplying_kernels(moved):
        return module.products(fixed, moved)
    count, channels, height, _ = moved.shape
    slices = count * next(n for n in (8, 4, 2, 1) if height % n == 0)
    found = torch.bmm(
        fixed.permute(0, 2, 3, 1).reshape(slices, -1, fixed.shape[1]).transpose(1, 2),
        stack(moved).reshape(slices, -1, KERNEL * channels),
    )
    return found.sum(0, dtype=torch.promote_types(found.dtype, torch.float32)).unflatten(1, (KERNEL, channels))


def step(w: Tensor, before: Sequence[Tensor], rho: Tensor, theta: Tensor, k: int, soft: bool) -> Tensor:
    """Return u^k = T(w + (1 + rho_k) u^{k-1} - rho_k u^{k-2}) in the number type of w.

    The computation is in float32, or in float64 if w is float64.

    Args:
        w: the result of the convolution up_k, that is, v^k without the two momentum terms.
        before: u^{k-2} and u^{k-1}, or only the codes that exist and that the block reads.
        rho, theta: of all steps.
        k: number of the step.
        soft: T is LCSC's threshold instead of LZSC's.
    """
    if module := kernels(w):
        return module.step(w, before, rho, theta, k, soft)
    exact = torch.promote_types(w.dtype, torch.float32)
    moved = w.to(exact)
    for u, factor in zip(reversed(before), (1 + rho[k], -rho[k]), strict=False):
        moved = moved + factor * u.to(exact)
    return (soft_threshold if soft else threshold)(moved, theta[k]).to(w.dtype)


def step_backward(
    gradient: Tensor,
    later: Sequence[Tensor],
    w: Tensor,
    before: Sequence[Tensor],
    rho: Tensor,
    theta: Tensor,
    k: int,
    soft: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of w, of rho_k and of theta_k of `step`.

    Args:
        gradient: the gradient of u^k through the maps that are computed from it.
        later: the gradients of w of steps k + 1 and k + 2, or only of those that exist and that depend on u^k directly.
        w, before, rho, theta, k, soft: as in `step`.
    """
    if module := kernels(w):
        return module.step_backward(gradient, later, w, before, rho, theta, k, soft)
    above = gradient.to(torch.promote_types(w.dtype, torch.float32))
    for index, of_v in enumerate(later, k + 1):
        above = above + (1 + rho[index] if index == k + 1 else -rho[index]) * of_v
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (w, rho, theta)]
        result = step(inputs[0], before, *inputs[1:], k, soft)
        found = torch.autograd.grad(result, inputs, above.to(w.dtype), materialize_grads=True)
    return found[0], found[1][k], found[2][k]


def up_taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights (64, n, 9, 9) as taps for spread maps, (9, channels, 64); channel n dx + m belongs to map m."""
    taps = weight.to(dtype).permute(2, 3, 1, 0).flatten(1, 2)
    return F.pad(taps, (0, 0, 0, -taps.shape[1] % TILE_CHANNELS))


def up_weight(found: Tensor, count: int) -> Tensor:
    """Return taps (9, channels, 64) as weights (64, count, 9, 9); the inverse of `up_taps`."""
    return found[:, : KERNEL * count].unflatten(1, (KERNEL, count)).permute(3, 2, 0, 1)


def down_taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights (m, 64, 9, 9) as taps (9, 64, channels); `gather` shifts and sums the maps computed with them."""
    return up_taps(weight.transpose(0, 1), dtype).transpose(1, 2)


def down_weight(found: Tensor, count: int) -> Tensor:
    """Return taps (9, 64, channels) as weights (count, 64, 9, 9); the inverse of `down_taps`."""
    return up_weight(found.transpose(1, 2), count).transpose(0, 1)


class _ApplyColumns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        dtype: torch.dtype,
        learns: bool,
        soft: bool,
        theta: Tensor,
        rho: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        channels, past = image.shape[1], 1 if soft else 2  # number of codes that a step reads
        up = [up_taps(weight, dtype) for weight in weights[: STEPS + 1]]
        down = [down_taps(weight, dtype) for weight in weights[STEPS + 1 :]]
        kept, before, images_before, images = [], [], None, None
        for k in range(STEPS + 1):
            maps = [image]
            if k > 0:
                maps.append(images[:, :channels])
            if k > 1:
                maps.append(images_before[:, channels:])  # LCSC: no channels
            wide = spread(torch.cat(maps, dim=1), up[k].shape[1], False, dtype)
            w = column(wide, up[k])
            before = [*before, step(w, before, rho, theta, k, soft)][-past:]
            images_before, images = images, gather(column(before[-1], down[k]), len(weights[STEPS + 1 + k]), False)
            if learns:
                kept += [wide, w, before[-1]]
        ctx.channels, ctx.soft, ctx.past = channels, soft, past
        ctx.counts = [len(weight) for weight in weights[STEPS + 1 :]]
        if learns:
            ctx.save_for_backward(theta, rho, *up, *down, *kept)
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        theta, rho, *tensors = ctx.saved_tensors
        up, down, kept = tensors[: STEPS + 1], tensors[STEPS + 1 : 2 * (STEPS + 1)], tensors[2 * (STEPS + 1) :]
        wides, vs, codes = kept[::3], kept[1::3], kept[2::3]
        channels, of_image = ctx.channels, 0
        of_v, of_maps = [], []  # of steps k + 1 and k + 2
        of_up, of_down, of_rho, of_theta = [], [], [], []  # in reverse order of the steps
        for k in reversed(range(STEPS + 1)):
            if k < STEPS:  # the gradients of the maps that steps k + 1 and k + 2 have read from u^k
                read = [maps[:, first * channels : (first + 1) * channels] for first, maps in enumerate(of_maps, 1)]
                gradient = torch.cat(read, dim=1)
            spread_gradient = spread(gradient, down[k].shape[2], True, codes[k].dtype)
            of_down.append(down_weight(products(codes[k], spread_gradient).flip(1).transpose(0, 1), ctx.counts[k]))
            of_u = column(spread_gradient, down[k].transpose(1, 2), backwards=True)
            before = codes[max(k - ctx.past, 0) : k]
            of_newest, of_rho_k, of_theta_k = step_backward(of_u, of_v, vs[k], before, rho, theta, k, ctx.soft)
            of_rho.append(of_rho_k)
            of_theta.append(of_theta_k)
            count = channels * (len(before) + 1)
            of_up.append(up_weight(products(of_newest, wides[k]).permute(1, 2, 0), count))
            if k > 0 or ctx.needs_input_grad[0]:
                maps = gather(column(of_newest, up[k].transpose(1, 2), backwards=True), count, True)
                of_image = of_image + maps[:, :channels]
                of_v, of_maps = [of_newest, *of_v][: ctx.past], [maps, *of_maps][: ctx.past]
        scalars = torch.stack([*reversed(of_theta), *reversed(of_rho)]).chunk(2)
        return of_image, None, None, None, *scalars, *reversed(of_up), *reversed(of_down)


def apply_columns(image: Tensor, block: Merged, dtype: torch.dtype) -> Tensor:
    """Return the same as `fusion.fnet.merged.apply_block`; its matrix products are computed in the number type `dtype`.

    The result is float32, or float64 if `dtype` is float64. It is differentiable once.
    """
    # Checked here, because gradients are always disabled inside the function.
    learns = torch.is_grad_enabled()
    return _ApplyColumns.apply(image, dtype, learns, block.soft, block.theta, block.rho, *block.up, *block.down)
