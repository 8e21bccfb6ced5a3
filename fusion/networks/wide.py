"""A merged LZSC block on a GPU: every 9x9 convolution as one of 9x1, on maps that hold each pixel's row neighbours.

A GPU's matrix units multiply tiles of at least eight channels; the maps of these networks have one to six, so that a
9x9 convolution from or to them leaves most of each tile empty. Nine horizontal shifts of a map, side by side as
channels, fill the tiles: what goes up to a code is a 9x1 convolution of the shifted maps, and what comes down from one
is a 9x1 convolution to nine maps for each wanted, which are then shifted and summed. Products are of the number type
asked for and accumulate in float32; sums of maps, thresholds and momentum are float32.

The operations are plain and differentiable; compiled (`compiled_reader`) the shifts, sums and thresholds become one
pass over memory each.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from fusion.networks.lzsc import KERNEL, STEPS, threshold

if TYPE_CHECKING:
    from fusion.networks.fast import Merged

HALF = KERNEL // 2
TILE_CHANNELS = 8  # the least that a tile of bfloat16 holds; fewer are filled up with zeros


def go_up(maps: Tensor, weight: Tensor) -> Tensor:
    """Convolve maps (N, n, H, W) with weights (64, n, 9, 9), zero-padded; return (N, 64, H, W)."""
    count, channels, height, width = maps.shape
    fill = -(KERNEL * channels) % TILE_CHANNELS
    padded = F.pad(maps, (HALF, HALF))
    shifted = [padded[..., dx : dx + width] for dx in range(KERNEL)]
    shifted += [maps.new_zeros(()).expand(count, fill, height, width)] if fill else []
    wide = torch.cat(shifted, dim=1).contiguous(memory_format=torch.channels_last)
    # (64, n, dy, dx) to (64, dx n, dy, 1): the channels' order above.
    taps = F.pad(weight.permute(0, 3, 1, 2).flatten(1, 2), (0, 0, 0, fill)).unsqueeze(-1)
    return F.conv2d(wide, taps.contiguous(memory_format=torch.channels_last), padding=(HALF, 0))


def come_down(code: Tensor, weight: Tensor) -> Tensor:
    """Convolve a code (N, 64, H, W) with weights (m, 64, 9, 9), zero-padded; return (N, m, H, W), float32."""
    maps, width = weight.shape[0], code.shape[-1]
    fill = -(KERNEL * maps) % TILE_CHANNELS
    # (m, 64, dy, dx) to (dx m, 64, dy, 1).
    taps = F.pad(weight.permute(3, 0, 1, 2).flatten(0, 1), (0, 0, 0, 0, 0, fill)).unsqueeze(-1)
    wide = F.conv2d(code, taps.contiguous(memory_format=torch.channels_last), padding=(HALF, 0))
    padded = F.pad(wide.to(torch.promote_types(wide.dtype, torch.float32)), (HALF, HALF))
    parts = [padded[:, dx * maps : (dx + 1) * maps, :, dx : dx + width] for dx in range(KERNEL)]
    return torch.stack(parts).sum(0)


def read_wide(image: Tensor, block: "Merged", kind: torch.dtype) -> Tensor:
    """Return what the readers of a block see in an image's code, (N, c, H, W) to (N, m, H, W) float32."""
    channels = image.shape[1]
    image, exact = image.to(kind), torch.promote_types(kind, torch.float32)
    u_before, u, images_before, images = None, None, None, None
    for k in range(STEPS + 1):
        maps = [image]
        if k > 0:
            maps.append(images[:, :channels].to(kind))
        if k > 1:
            maps.append(images_before[:, channels:].to(kind))
        v = go_up(torch.cat(maps, dim=1), block.up[k].to(kind)).to(exact)
        if k > 0:
            v = v + (1 + block.rho[k]) * u.to(exact)
        if k > 1:
            v = v - block.rho[k] * u_before.to(exact)
        u_before, u = u, threshold(v, block.theta[k]).to(kind)
        images_before, images = images, come_down(u, block.down[k].to(kind))
    return images


@cache
def reader(any_size: bool = False) -> Callable[[Tensor, "Merged", torch.dtype], Tensor]:
    """Return `read_wide` compiled, or as it is where this machine cannot compile (no Triton, no C compiler).

    any_size: compile once for pictures of all sizes; otherwise once for each size, somewhat faster.
    """
    compiled = torch.compile(read_wide, dynamic=None if any_size else False)
    failed = False

    def read(image: Tensor, block: "Merged", kind: torch.dtype) -> Tensor:
        nonlocal failed
        if not failed:
            try:
                if any_size:
                    torch._dynamo.maybe_mark_dynamic(image, (2, 3))
                return compiled(image, block, kind)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # the compiler's errors share no public class
                logging.warning("warning: compiling failed (%s); the network runs uncompiled", type(error).__name__)
                failed = True
        return read_wide(image, block, kind)

    return read
