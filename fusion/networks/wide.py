"""A merged LZSC block on a GPU: every 9x9 convolution as one of 9x1, on maps that hold each pixel's row neighbours.

A GPU's matrix units multiply tiles of at least eight channels; the maps of these networks have one to six, so that a
9x9 convolution from or to them leaves most of each tile empty. Nine horizontal shifts of a map, side by side as
channels, fill the tiles: what goes up to a code is a 9x1 convolution of the shifted maps, and what comes down from one
is a 9x1 convolution to nine maps for each wanted, which are then shifted and summed. Products are of the number type
asked for and accumulate in float32; sums of maps, thresholds and momentum are float32.

What passes over memory (shifts, sums of shifted maps, momentum with threshold) is compiled into one kernel each where
the machine can compile; elsewhere the same functions run as they are.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fusion.networks.lzsc import KERNEL, STEPS, threshold

if TYPE_CHECKING:
    from fusion.networks.fast import Merged

HALF = KERNEL // 2
TILE_CHANNELS = 8  # the least that a tile of bfloat16 holds; fewer are filled up with zeros


def compiled_on_gpu(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile a function for GPU tensors of any size; without Triton or a C compiler it runs as it is."""
    # Compiled lazily, so that importing this costs nothing.
    compiled = torch.compile(function, dynamic=True)
    failed = False

    @wraps(function)
    def call(tensor: Tensor, *others: Any) -> Tensor:
        nonlocal failed
        if tensor.is_cuda and not failed:
            try:
                return compiled(tensor, *others)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # the compiler's errors share no public class
                logging.warning("warning: %s is not compiled (%s): slower", function.__name__, type(error).__name__)
                failed = True
        return function(tensor, *others)

    return call


@compiled_on_gpu
def shift(maps: Tensor, backwards: bool) -> Tensor:
    """Return the nine horizontal shifts of maps, zeros coming in: (N, n, H, W) to (N, 9, n, H, W)."""
    width = maps.shape[-1]
    padded = F.pad(maps, (HALF, HALF))
    shifts = [padded[..., dx : dx + width] for dx in range(KERNEL)]
    return torch.stack(shifts[::-1] if backwards else shifts, dim=1)


@compiled_on_gpu
def sum_shifted(wide: Tensor, backwards: bool) -> Tensor:
    """Shift nine groups of maps, each by its place, and sum them, in float32 at least: the adjoint of `shift`."""
    width = wide.shape[-1]
    padded = F.pad(wide, (HALF, HALF)).to(torch.promote_types(wide.dtype, torch.float32))
    places = reversed(range(KERNEL)) if backwards else range(KERNEL)
    total = padded[:, 0, :, :, :width] * 0
    for group, dx in enumerate(places):
        total = total + padded[:, group, :, :, dx : dx + width]
    return total


class Shift(torch.autograd.Function):
    """`shift`, differentiable."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """Shift."""
        ctx.kind = maps.dtype
        return shift(maps, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Shift back and sum."""
        return sum_shifted(gradient, True).to(ctx.kind)


class SumShifted(torch.autograd.Function):
    """`sum_shifted`, differentiable."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor) -> Tensor:
        """Shift and sum."""
        ctx.kind = wide.dtype
        return sum_shifted(wide, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Give each group the gradient, shifted back."""
        return shift(gradient.to(ctx.kind), True)


@compiled_on_gpu
def start(v: Tensor, theta: Tensor) -> Tensor:
    """Return u^0 = T(v) in the number type of v, computed in float32 at least."""
    return threshold(v.to(torch.promote_types(v.dtype, torch.float32)), theta).to(v.dtype)


@compiled_on_gpu
def step(v: Tensor, u: Tensor, u_before: Tensor, rho: Tensor, theta: Tensor) -> Tensor:
    """Return u^{k+1} = T(v + (1 + rho) u^k - rho u^{k-1}); the number types as `start`."""
    exact = torch.promote_types(v.dtype, torch.float32)
    moved = v.to(exact) + (1 + rho) * u.to(exact) - rho * u_before.to(exact)
    return threshold(moved, theta).to(v.dtype)


@compiled_on_gpu
def first_step(v: Tensor, u: Tensor, rho: Tensor, theta: Tensor) -> Tensor:
    """Return u^1 = T(v + (1 + rho) u^0)."""
    exact = torch.promote_types(v.dtype, torch.float32)
    return threshold(v.to(exact) + (1 + rho) * u.to(exact), theta).to(v.dtype)


def go_up(maps: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps (N, n, H, W) with weights (64, n, 9, 9), zero-padded; return (N, 64, H, W)."""
    fill = -(KERNEL * maps.shape[1]) % TILE_CHANNELS
    wide = F.pad(Shift.apply(maps).flatten(1, 2), (0, 0, 0, 0, 0, fill))
    # (64, n, dy, dx) to (64, dx n, dy, 1): the channels' order above.
    taps = F.pad(weight.permute(0, 3, 1, 2).flatten(1, 2), (0, 0, 0, fill)).unsqueeze(-1)
    return Column.apply(wide, taps)


def come_down(code: Tensor, weight: Tensor) -> Tensor:
    """Convolve a code (N, 64, H, W) with weights (m, 64, 9, 9), zero-padded; return (N, m, H, W), float32."""
    maps = weight.shape[0]
    fill = -(KERNEL * maps) % TILE_CHANNELS
    # (m, 64, dy, dx) to (dx m, 64, dy, 1).
    taps = F.pad(weight.permute(3, 0, 1, 2).flatten(0, 1), (0, 0, 0, 0, 0, fill)).unsqueeze(-1)
    wide = Column.apply(code, taps)
    return SumShifted.apply(wide[:, : KERNEL * maps].unflatten(1, (KERNEL, maps)))


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
    padded = F.pad(moved.permute(0, 2, 3, 1), (0, 0, 0, 0, HALF, HALF))
    columns = torch.cat([padded[:, dy : dy + height] for dy in range(KERNEL)], dim=-1)
    slices = count * next(n for n in (8, 4, 2, 1) if height % n == 0)
    products = torch.bmm(
        fixed.permute(0, 2, 3, 1).reshape(slices, -1, fixed.shape[1]).transpose(1, 2),
        columns.reshape(slices, -1, KERNEL * channels),
    )
    return products.sum(0, dtype=torch.promote_types(products.dtype, torch.float32)).unflatten(1, (KERNEL, channels))


def read_wide(image: Tensor, block: "Merged", kind: torch.dtype) -> Tensor:
    """Return what the readers of a block see in an image's code, (N, c, H, W) to (N, m, H, W), float32 at least."""
    channels = image.shape[1]
    image = image.to(kind)
    up, down = ([weight.to(kind) for weight in weights] for weights in (block.up, block.down))
    u_before, u = None, start(go_up(image, up[0]), block.theta[0])
    images_before, images = None, come_down(u, down[0])
    for k in range(1, STEPS + 1):
        maps = [image, images[:, :channels].to(kind)]
        if k == 1:
            v = go_up(torch.cat(maps, dim=1), up[k])
            u_before, u = u, first_step(v, u, block.rho[k], block.theta[k])
        else:
            v = go_up(torch.cat([*maps, images_before[:, channels:].to(kind)], dim=1), up[k])
            u_before, u = u, step(v, u, u_before, block.rho[k], block.theta[k])
        images_before, images = images, come_down(u, down[k])
    return images
