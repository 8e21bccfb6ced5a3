"""FNet and IFNet with merged convolutions: the same weights, the same values up to rounding, fewer operations.

Everything inside the threshold of Eq. 20 is linear. A step's three c -> 64 convolutions (of the block's input and of
the images that the last two codes synthesise) can therefore be merged into one 3c -> 64 convolution, whose weights
include the factors 1 + rho and rho. The convolutions that read one code u^k (those of steps k + 1 and k + 2, or those
that the network applies to the last code) are merged into one 64 -> 2c convolution:

    u^k = T( conv([image, image of u^{k-1}, image of u^{k-2}]; up_k) + (1 + rho_k) u^{k-1} - rho_k u^{k-2} )
    images of u^k = conv(u^k; down_k)

A network then consists of three blocks (IFNet: two) and a few sums. LCSC blocks have the same form with rho = 0,
without the image of u^{k-2}, and with another threshold. `apply_block` computes a block by plain operations, in any
number type; `fusion.fnet.cpu` and `fusion.fnet.gpu` compute it faster. Large images are computed in tiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.fnet.inverse import IFNet
from fusion.fnet.lcsc import LCSC, soft_threshold
from fusion.fnet.lzsc import HALF, LZSC, STEPS, threshold
from fusion.fnet.network import FNet

Block = TypeVar("Block")  # a merged block, in the form that the device needs

# Pixels from an output of a block's readers to the farthest input that it depends on: HALF for each convolution in
# between, which are the encoder, two for each step, and the readers.
REACH = HALF * (1 + 2 * STEPS + 1)
TILE = 1024  # side of a tile without its overlap; images of at most 1.5 times its area are not cut


@dataclass(frozen=True)
class Merged:
    """An LZSC or LCSC block merged with its readers, the convolutions that read its last code.

    up: the weights to step k, (64, n c, 9, 9); n = 1, 2, 3, 3, 3 for the block's input and the images of u^{k-1} and
        u^{k-2}; an LCSC block has no image of u^{k-2}, n = 1, 2, 2, 2, 2.
    down: the weights from u^k, (m, 64, 9, 9); m = 2c for steps k + 1 and k + 2, c if no step k + 2 reads u^k, any
        number for the last code.
    theta, rho: of step k, (5,); LCSC's sizes, which may be negative, and zeros.
    soft: the threshold is LCSC's soft one instead of LZSC's.
    """

    up: list[Tensor]
    down: list[Tensor]
    theta: Tensor
    rho: Tensor
    soft: bool


def merge(block: LZSC | LCSC, readers: Sequence[nn.Conv2d]) -> Merged:
    """Return a block merged with the convolutions that read its last code; differentiable."""
    last = torch.cat([reader.weight for reader in readers])
    if isinstance(block, LCSC):
        encode, theta = block.encode.weight, torch.cat(list(block.sizes))
        up = [encode, *(torch.cat([encode, -project.up.weight], dim=1) for project in block.project)]
        down = [*(project.down.weight for project in block.project), last]
        return Merged(up, down, theta, torch.zeros_like(theta), soft=True)
    theta, rho = torch.cat(block.thresholds()), torch.cat(block.momenta())
    up, down = [block.encode[0].weight], []
    for k in range(1, STEPS + 1):
        parts = [block.encode[k].weight, -(1 + rho[k]) * block.project[k - 1].up.weight]
        if k > 1:
            parts.append(rho[k] * block.project_previous[k - 2].up.weight)
        up.append(torch.cat(parts, dim=1))
        parts = [block.project[k - 1].down.weight]
        if k < STEPS:
            parts.append(block.project_previous[k - 1].down.weight)
        down.append(torch.cat(parts))
    return Merged(up, [*down, last], theta, rho, soft=False)


def merge_network(network: FNet | IFNet) -> list[Merged]:
    """Return every block of a network merged with its readers, in the order infrared, visible, common."""
    if isinstance(network, IFNet):
        return [
            merge(network.code_infrared, [network.synthesis_infrared]),
            merge(network.code_visible, [network.synthesis_visible]),
        ]
    return [
        merge(network.code_infrared, [network.synthesis_infrared, network.fuse_infrared]),
        merge(network.code_visible, [network.synthesis_visible, network.fuse_visible]),
        merge(network.code_common, [network.fuse_common]),
    ]


def apply_block(image: Tensor, block: Merged) -> Tensor:
    """Return the readers' outputs for an image, (N, c, H, W) to (N, m, H, W), by plain operations; differentiable."""

    def convolve(maps: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(maps, weight, padding=HALF)

    channels, apply = image.shape[1], soft_threshold if block.soft else threshold
    u_before, u, images_before, images = None, None, None, None
    for k in range(STEPS + 1):
        maps = [image]
        if k > 0:
            maps.append(images[:, :channels])
        if k > 1:
            maps.append(images_before[:, channels:])  # LCSC: no channels, and rho is 0
        v = convolve(torch.cat(maps, dim=1), block.up[k])
        if k > 0:
            v = v + (1 + block.rho[k]) * u
        if k > 1:
            v = v - block.rho[k] * u_before
        u_before, u = u, apply(v, block.theta[k])
        images_before, images = images, convolve(u, block.down[k])
    return images


def connect(
    blocks: Sequence[Block], apply: Callable[[Tensor, Block], Tensor], inputs: Sequence[Tensor]
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the outputs of FNet (three blocks) or IFNet (two blocks), in the network's own form.

    Args:
        blocks: the merged blocks in the order of `merge_network`, in the form that `apply` takes.
        apply: computes a block as `apply_block` does.
        inputs: visible and infrared for FNet, fused for IFNet, (N, 1, H, W) each.
    """
    if len(blocks) == 2:
        infrared, visible = (apply(inputs[0], block) for block in blocks)
        return visible, infrared
    visible, infrared = inputs
    # Channel 0 is the image that a unique code synthesises, channel 1 its contribution to the fused image.
    from_infrared, from_visible = apply(infrared, blocks[0]), apply(visible, blocks[1])
    residual = torch.cat([infrared - from_infrared[:, :1], visible - from_visible[:, :1]], dim=1)
    return apply(residual, blocks[2]) + from_infrared[:, 1:] + from_visible[:, 1:]


def tiled(whole: Callable[..., list[Tensor]], inputs: Sequence[Tensor], reach: int, tile: int = TILE) -> list[Tensor]:
    """Return the outputs of `whole` for images (N, 1, H, W), computed in overlapping tiles if the images are large.

    Args:
        whole: a function of the images, whose outputs have their size.
        inputs: the images.
        reach: how many pixels away an input can influence an output of `whole`. Tiles overlap by as much, so that the
            result is the same as without tiles.
        tile: the longest side of a tile without its overlap.
    """
    height, width = inputs[0].shape[-2:]
    if height * width <= 1.5 * tile**2:
        return whole(*inputs)
    outputs: list[Tensor] = []
    for top, bottom in spans(height, tile):
        for left, right in spans(width, tile):
            above, before = max(0, top - reach), max(0, left - reach)
            results = whole(*(image[..., above : bottom + reach, before : right + reach] for image in inputs))
            outputs = outputs or [result.new_empty(inputs[0].shape) for result in results]
            for output, result in zip(outputs, results, strict=True):
                kept = result[..., top - above : bottom - above, left - before : right - before]
                output[..., top:bottom, left:right] = kept
    return outputs


def spans(length: int, longest: int) -> list[tuple[int, int]]:
    """Return (start, end) of the fewest spans of at most `longest`, nearly equally long, that cover `length`."""
    count = -(-length // longest)
    edges = [length * index // count for index in range(count + 1)]
    return list(pairwise(edges))
