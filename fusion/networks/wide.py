"""A merged LZSC block on a GPU: every 9x9 convolution as one of 9x1, on maps that hold each pixel's row neighbours.

A GPU's matrix units multiply tiles of at least eight channels; the maps of these networks have one to six, so that a
9x9 convolution from or to them leaves most of each tile empty. Nine horizontal shifts of a map, side by side as
channels, fill the tiles: what goes up to a code is a 9x1 convolution of the shifted maps, and what comes down from one
is a 9x1 convolution to nine maps for each wanted, which are then shifted and summed. Products are of the number type
asked for and accumulate in float32; sums of maps, thresholds and momentum are float32.

What passes over memory (shifts, sums of shifted maps, momentum with threshold) is one kernel each on a GPU
(`fusion.networks.wide_kernels`); where Triton cannot compile them, and on a CPU, the plain functions here do the same.
"""

import functools
import logging
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fusion.networks.lzsc import KERNEL, STEPS, threshold

if TYPE_CHECKING:
    from fusion.networks.fast import Merged

HALF = KERNEL // 2
TILE_CHANNELS = 8  # the least that a tile of bfloat16 holds; fewer are filled up with zeros


def kernels(tensor: Tensor) -> ModuleType | None:
    """Return `fusion.networks.wide_kernels` where it serves a tensor: on a GPU, in numbers of at most 32 bits."""
    return gpu_kernels() if tensor.is_cuda and tensor.dtype != torch.float64 else None


@functools.cache
def gpu_kernels() -> ModuleType | None:
    """Return the module of kernels if they compile and run here, else None, with a warning."""
    try:
        from fusion.networks import wide_kernels

        wide_kernels.probe(torch.device("cuda"))
    except Exception as error:  # Triton missing, no C compiler, a GPU too old: its errors share no public class
        logging.warning(
            "warning: FNet's kernels do not run on this GPU, it is slower (%s: %s)", type(error).__name__, error
        )
        return None
    return wide_kernels


def spread(maps: Tensor, channels: int, backwards: bool, kind: torch.dtype) -> Tensor:
    """Return the nine horizontal shifts of maps side by side, zeros coming in: (N, n, H, W) to (N, channels, H, W).

    Channel g n + m is map m shifted by g - 4 pixels (`backwards`: 4 - g); those over 9 n are zeros. Channels-last.
    """
    if module := kernels(maps):
        return module.spread(maps, channels, backwards, kind)
    width = maps.shape[-1]
    padded = F.pad(maps, (HALF, HALF)).to(kind)
    shifts = [padded[..., dx : dx + width] for dx in range(KERNEL)]
    wide = torch.cat(shifts[::-1] if backwards else shifts, dim=1)
    wide = F.pad(wide, (0, 0, 0, 0, 0, channels - wide.shape[1]))
    return wide.contiguous(memory_format=torch.channels_last)


def gather(wide: Tensor, count: int, backwards: bool) -> Tensor:
    """Shift nine groups of `count` maps, each by its place, and sum them, in float32 at least: adjoint of `spread`."""
    if module := kernels(wide):
        return module.gather(wide, count, backwards)
    width = wide.shape[-1]
    padded = F.pad(wide[:, : KERNEL * count], (HALF, HALF)).to(torch.promote_types(wide.dtype, torch.float32))
    places = reversed(range(KERNEL)) if backwards else range(KERNEL)
    shifted = [group[..., dx : dx + width] for group, dx in zip(padded.split(count, dim=1), places, strict=True)]
    return functools.reduce(torch.add, shifted)


def stack(maps: Tensor) -> Tensor:
    """Return the nine vertical shifts of channels-last maps side by side, zeros coming in: (N, H, W, 9 c).

    Channel c g + m is map m shifted by g - 4 pixels.
    """
    if module := kernels(maps):
        return module.stack(maps)
    height = maps.shape[2]
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 0, 0, HALF, HALF))
    return torch.cat([padded[:, dy : dy + height] for dy in range(KERNEL)], dim=-1)


class Spread(torch.autograd.Function):
    """`spread`, differentiable."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, channels: int, kind: torch.dtype) -> Tensor:
        """Spread."""
        ctx.count, ctx.kind = maps.shape[1], maps.dtype
        return spread(maps, channels, False, kind)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Shift back and sum."""
        return gather(gradient, ctx.count, True).to(ctx.kind), None, None


class Gather(torch.autograd.Function):
    """`gather`, differentiable."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, count: int) -> Tensor:
        """Shift and sum."""
        ctx.channels, ctx.kind = wide.shape[1], wide.dtype
        return gather(wide, count, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Give each group the gradient, shifted back."""
        return spread(gradient, ctx.channels, True, ctx.kind), None


def step(v: Tensor, u: Tensor | None, u_before: Tensor | None, rho: Tensor, theta: Tensor) -> Tensor:
    """Return u^{k+1} = T(v + (1 + rho) u^k - rho u^{k-1}) in the number type of v, computed in float32 at least.

    For k = -1 and 0 there is no u^{k-1}, for k = -1 no u^k.
    """
    if module := kernels(v):
        return module.Step.apply(v, u, u_before, rho, theta)
    exact = torch.promote_types(v.dtype, torch.float32)
    moved = v.to(exact)
    if u is not None:
        moved = moved + (1 + rho) * u.to(exact)
    if u_before is not None:
        moved = moved - rho * u_before.to(exact)
    return threshold(moved, theta).to(v.dtype)


def go_up(maps: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps (N, n, H, W) with weights (64, n, 9, 9), zero-padded; return (N, 64, H, W), as the weights."""
    channels = KERNEL * maps.shape[1]
    fill = -channels % TILE_CHANNELS
    # (64, n, dy, dx) to (64, dx n, dy, 1): the channels' order above.
    taps = F.pad(weight.permute(0, 3, 1, 2).flatten(1, 2), (0, 0, 0, fill)).unsqueeze(-1)
    return Column.apply(Spread.apply(maps, channels + fill, weight.dtype), taps)


def come_down(code: Tensor, weight: Tensor) -> Tensor:
    """Convolve a code (N, 64, H, W) with weights (m, 64, 9, 9), zero-padded; return (N, m, H, W), float32 at least."""
    maps = weight.shape[0]
    fill = -(KERNEL * maps) % TILE_CHANNELS
    # (m, 64, dy, dx) to (dx m, 64, dy, 1).
    taps = F.pad(weight.permute(3, 0, 1, 2).flatten(0, 1), (0, 0, 0, 0, 0, fill)).unsqueeze(-1)
    return Gather.apply(Column.apply(code, taps), maps)


class Column(torch.autograd.Function):
    """Convolution of maps (N, c, H, W) with a column of nine taps (o, c, 9, 1), channels-last, zero-padded.

    Libraries sum a weight's gradient over all pixels in a few blocks, which leaves most of a GPU idle where weights are
    as small as these. Here it is a matrix product for each of many slices of the batch, and a sum over them.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, taps: Tensor) -> Tensor:
        """Convolve."""
        maps = maps.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(maps, taps)
        return _column(maps, taps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        """Correlate: the gradient with the taps, and the maps with the gradient."""
        maps, taps = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_maps = _column(gradient, taps.transpose(0, 1).flip(2)) if ctx.needs_input_grad[0] else None
        # Whichever has fewer channels is laid out nine times.
        if maps.shape[1] <= gradient.shape[1]:
            of_taps = _products(gradient, maps).permute(0, 2, 1)
        else:
            of_taps = _products(maps, gradient).flip(1).permute(2, 0, 1)
        return of_maps, of_taps.unsqueeze(-1).to(taps.dtype)


def _column(maps: Tensor, taps: Tensor) -> Tensor:
    return F.conv2d(maps, taps.contiguous(memory_format=torch.channels_last), padding=(HALF, 0))


def _products(fixed: Tensor, moved: Tensor) -> Tensor:
    """Return the sums over pixels of fixed[a](y) moved[b](y + dy - 4), float32 at least: (a, dy, b)."""
    count, channels, height, _ = moved.shape
    slices = count * next(n for n in (8, 4, 2, 1) if height % n == 0)
    products = torch.bmm(
        fixed.permute(0, 2, 3, 1).reshape(slices, -1, fixed.shape[1]).transpose(1, 2),
        stack(moved).reshape(slices, -1, KERNEL * channels),
    )
    return products.sum(0, dtype=torch.promote_types(products.dtype, torch.float32)).unflatten(1, (KERNEL, channels))


def read_wide(image: Tensor, block: "Merged", kind: torch.dtype) -> Tensor:
    """Return what the readers of a block see in an image's code, (N, c, H, W) to (N, m, H, W), float32 at least."""
    channels = image.shape[1]
    up, down = ([weight.to(kind) for weight in weights] for weights in (block.up, block.down))
    u_before, u, images_before, images = None, None, None, None
    for k in range(STEPS + 1):
        maps = [image]
        if k > 0:
            maps.append(images[:, :channels])
        if k > 1:
            maps.append(images_before[:, channels:])
        v = go_up(torch.cat(maps, dim=1), up[k])
        u_before, u = u, step(v, u, u_before, block.rho[k], block.theta[k])
        images_before, images = images, come_down(u, down[k])
    return images
