"""FNet and IFNet with merged convolutions: the same weights, the same values up to rounding, fewer operations.

In Eq. 20 of FNet's paper, the argument of the threshold T is linear in the images and codes. Let u^k be the code after
step k. Step k of a block with c input channels applies three convolutions from c to 64 channels. They read the block's
input, the reconstruction of this input from u^{k-1}, and its reconstruction from u^{k-2}. They are merged into one
convolution from 3c channels, whose weights include the momentum factors of the two reconstructions. The momentum terms
of the codes themselves remain separate. Steps k + 1 and k + 2 both need a reconstruction from u^k, each by its own
convolution from 64 to c channels. These two convolutions are merged into one from 64 to 2c channels, whose output
contains both reconstructions. The block's output convolutions, which read its last code, are merged in the same way.
In short:

    v^k = conv([input, reconstruction from u^{k-1}, reconstruction from u^{k-2}]; up_k)
          + (1 + rho_k) u^{k-1} - rho_k u^{k-2}
    u^k = T(v^k; theta_k)
    reconstructions from u^k = conv(u^k; down_k)

A network then consists of three blocks (IFNet: two) and a few sums. This describes LZSC blocks. LCSC blocks, used only
in the ablation, have the same form, but their rho is 0, they do not use the reconstruction from u^{k-2}, and T is the
soft threshold. `apply_block` computes a block by standard PyTorch operations in any number type; `fusion.fnet.cpu` and
`fusion.fnet.gpu` compute it faster. Large images are computed in tiles.
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

# Radius of the receptive field of a block in pixels: HALF for each convolution on the longest path: one encoder,
# two convolutions in each of the STEPS further steps, and one output convolution.
REACH = HALF * (1 + 2 * STEPS + 1)
TILE = 1024  # side of a tile without its overlap; images of up to 1.5 tile areas are processed whole


@dataclass(frozen=True)
class Merged:
    """An LZSC or LCSC block merged with its output convolutions, which are applied to its last code.

    up: for each step k = 0..4, the weights up_k of the convolution that contributes to v^k, (64, n * c, 9, 9), where c
        is the number of the block's input channels. The convolution reads n groups of c maps: the block's input and
        the reconstructions from u^{k-1} and u^{k-2}, as far as they exist: n = 1, 2, 3, 3, 3. LCSC does not use the
        reconstruction from u^{k-2}: n = 1, 2, 2, 2, 2.
    down: for each step, the weights of the convolution that computes, from u^k, the reconstructions for the next steps,
        (m, 64, 9, 9). m is 2c if the steps k + 1 and k + 2 both use u^k, and c if only step k + 1 does. For the last
        code, it computes the block's outputs instead, and m is their number.
    theta: the threshold of each step, (5,); in LCSC unconstrained, so that it may be negative.
    rho: the momentum of each step, (5,); zeros in LCSC.
    soft: True in an LCSC block, whose threshold function T is the soft threshold; False in an LZSC block.
    """

    up: list[Tensor]
    down: list[Tensor]
    theta: Tensor
    rho: Tensor
    soft: bool


def merge(block: LZSC | LCSC, outputs: Sequence[nn.Conv2d]) -> Merged:
    """Return a block merged with its output convolutions, which are applied to its last code; differentiable."""
    last = torch.cat([output.weight for output in outputs])
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
    """Return every block of a network merged with its output convolutions, in the order infrared, visible, common."""
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
    """Return the outputs of a merged block for an image, (N, c, H, W) to (N, m, H, W).

    Computed by standard PyTorch operations; differentiable.
    """

    def convolve(maps: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(maps, weight, padding=HALF)

    channels, apply = image.shape[1], soft_threshold if block.soft else threshold
    u_before, u, from_u_before, from_u = None, None, None, None
    for k in range(STEPS + 1):
        maps = [image]
        if k > 0:
            maps.append(from_u[:, :channels])
        if k > 1:
            maps.append(from_u_before[:, channels:])  # LCSC: no channels, and rho is 0
        v = convolve(torch.cat(maps, dim=1), block.up[k])
        if k > 0:
            v = v + (1 + block.rho[k]) * u
        if k > 1:
            v = v - block.rho[k] * u_before
        u_before, u = u, apply(v, block.theta[k])
        from_u_before, from_u = from_u, convolve(u, block.down[k])
    return from_u


def connect(
    blocks: Sequence[Block], apply: Callable[[Tensor, Block], Tensor], inputs: Sequence[Tensor]
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the output tensor of FNet (three blocks) or the pair of output tensors of IFNet (two blocks).

    Args:
        blocks: the merged blocks in the order of `merge_network`, in the form that `apply` takes.
        apply: computes a block as `apply_block` does.
        inputs: visible and infrared for FNet, fused for IFNet, (N, 1, H, W) each.
    """
    if len(blocks) == 2:
        infrared, visible = (apply(inputs[0], block) for block in blocks)
        return visible, infrared
    visible, infrared = inputs
    # Channel 0 of each result is the reconstruction of that source from its unique code (the sparse code of the
    # features that only this source has). Channel 1 is the contribution of this code to the fused image.
    from_infrared, from_visible = apply(infrared, blocks[0]), apply(visible, blocks[1])
    residual = torch.cat([infrared - from_infrared[:, :1], visible - from_visible[:, :1]], dim=1)
    return apply(residual, blocks[2]) + from_infrared[:, 1:] + from_visible[:, 1:]


def tiled(whole: Callable[..., list[Tensor]], inputs: Sequence[Tensor], reach: int, tile: int = TILE) -> list[Tensor]:
    """Return the outputs of `whole` for images (N, 1, H, W), computed in overlapping tiles if the images are large.

    Args:
        whole: a function of the images; its outputs have the same height and width.
        inputs: the images.
        reach: radius of the receptive field of `whole`, in pixels. Each tile is extended by this margin, so that the
            result is the same as without tiles.
        tile: maximum height and width of a tile, not counting its margin.
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
