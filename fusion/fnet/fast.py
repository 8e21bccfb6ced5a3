"""FNet and IFNet computed fast: the same weights, the same values up to rounding, fewer and fuller operations.

Eq. 20 is linear up to its threshold. A step's three c -> 64 convolutions (of the block's input and of the images that
the last two codes synthesise) are therefore one 3c -> 64 convolution, with 1 + rho and rho in its weights; the
convolutions that read one code u^k (for steps k + 1 and k + 2, or for what the network makes of the last code) are one
64 -> 2c convolution:

    u^k = T( conv([image, image of u^{k-1}, image of u^{k-2}]; up_k) + (1 + rho_k) u^{k-1} - rho_k u^{k-2} )
    images of u^k = conv(u^k; down_k)

For a CPU see `fusion.fnet.cpu.forward`, whose products are of float32 whatever the precision asked for, for a GPU
`fusion.fnet.gpu.columns`; other number types than float32 take plain operations. Networks with LCSC blocks, an
ablation, run as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.fnet.inverse import IFNet
from fusion.fnet.lzsc import KERNEL, LZSC, STEPS, threshold
from fusion.fnet.network import FNet

Precision = Literal["fp32", "bf16"]

HALF = KERNEL // 2
TILE = 1024  # side of what is kept of a tile; pictures below its area times 1.5 are computed whole
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# How far a block and its readers see: through the encoder, two convolutions for each step, and the readers'.
REACH = HALF * (1 + 2 * STEPS + 1)


@dataclass(frozen=True)
class Merged:
    """An LZSC block and the convolutions that read its last code, merged.

    up: of step k, (64, n c, 9, 9); n = 1, 2, 3, 3, 3 for the block's input and the images of u^{k-1} and u^{k-2}.
    down: of u^k, (m, 64, 9, 9); m = 2c for steps k + 1 and k + 2, c where k + 2 is none, any number for the last code.
    theta, rho: of step k, (5,).
    """

    up: list[Tensor]
    down: list[Tensor]
    theta: Tensor
    rho: Tensor


# Makes of a block's input (N, c, H, W) what the block's readers see in its code, (N, m, H, W).
Read = Callable[[Tensor, Merged], Tensor]


def merge(block: LZSC, readers: Sequence[nn.Conv2d]) -> Merged:
    """Merge a block's convolutions, and those that read its last code; differentiable."""
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
    down.append(torch.cat([reader.weight for reader in readers]))
    return Merged(up, down, theta, rho)


def merge_network(network: FNet | IFNet) -> list[Merged]:
    """Merge every block of a network with what reads it; in the order infrared, visible, common."""
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


def connect(blocks: Sequence[Merged], read: Read, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
    """Run FNet (three blocks; visible, infrared) or IFNet (two blocks; fused); outputs as the network's own."""
    if len(blocks) == 2:
        infrared, visible = (read(inputs[0], block) for block in blocks)
        return visible, infrared
    visible, infrared = inputs
    # Of each unique code: the image that it synthesises, and its part of the fused image.
    seen_infrared, seen_visible = read(infrared, blocks[0]), read(visible, blocks[1])
    residual = torch.cat([infrared - seen_infrared[:, :1], visible - seen_visible[:, :1]], dim=1)
    return read(residual, blocks[2]) + seen_infrared[:, 1:] + seen_visible[:, 1:]


def read_code(image: Tensor, block: Merged) -> Tensor:
    """Run a block by plain differentiable operations, in any number type."""

    def convolve(maps: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(maps, weight, padding=HALF)

    channels = image.shape[1]
    u_before, u, images_before, images = None, None, None, None
    for k in range(STEPS + 1):
        maps = [image]
        if k > 0:
            maps.append(images[:, :channels])
        if k > 1:
            maps.append(images_before[:, channels:])
        v = convolve(torch.cat(maps, dim=1), block.up[k])
        if k > 0:
            v = v + (1 + block.rho[k]) * u
        if k > 1:
            v = v - block.rho[k] * u_before
        u_before, u = u, threshold(v, block.theta[k])
        images_before, images = images, convolve(u, block.down[k])
    return images


def compute(network: FNet | IFNet, *inputs: Tensor, precision: Precision = "fp32") -> Tensor | tuple[Tensor, Tensor]:
    """Return what the network returns, float32, with gradients: the fast path for training."""
    device = inputs[0].device.type
    if not isinstance(network.code_infrared, LZSC):
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return _float(network(*inputs))
    blocks, kind = merge_network(network), KINDS[precision]
    if blocks[0].theta.dtype != torch.float32:
        return _float(connect(blocks, read_code, inputs))
    if device == "cpu":
        from fusion.fnet.cpu.backward import read_with_gradients
        from fusion.fnet.cpu.workers import workers

        with workers() as run:
            return connect(blocks, lambda image, block: read_with_gradients(image, block, run), inputs)
    from fusion.fnet.gpu.columns import read_wide

    return connect(blocks, lambda image, block: read_wide(image, block, kind), inputs)


def _float(outputs: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)


# --- Inference -------------------------------------------------------------------------------------------------------


def prepare(network: FNet | IFNet, precision: Precision = "fp32") -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    """Return the network as a function without gradients, its weights merged once; inputs and outputs as its own.

    Outputs are float32. The function keeps the memory for the last size that it saw; one thread at a time may call it.
    Weights that change later do not reach it.
    """
    device, kind = next(network.parameters()).device.type, KINDS[precision]
    if not isinstance(network.code_infrared, LZSC):

        def plain(*inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                return _float(network(*inputs))

        return plain
    with torch.no_grad():
        # Of what is merged, the first step's filters alone are still the network's own.
        blocks = [replace(block, up=[block.up[0].clone(), *block.up[1:]]) for block in merge_network(network)]
    reach = REACH if isinstance(network, IFNet) else 2 * REACH
    float32 = blocks[0].theta.dtype == torch.float32
    if float32 and device == "cpu":
        from fusion.fnet.cpu.forward import Memory, lay_out, read_spectrally
        from fusion.fnet.cpu.workers import workers

        memory = Memory()
        with workers() as run:
            spectra = [lay_out(block, run) for block in blocks]

        def whole(*inputs: Tensor) -> list[Tensor]:
            with workers() as run:
                return _listed(
                    connect(spectra, lambda image, block: read_spectrally(image, block, memory, run), inputs)
                )

    else:

        def read(image: Tensor, block: Merged) -> Tensor:
            if not float32:
                return read_code(image, block)
            from fusion.fnet.gpu.columns import read_wide

            return read_wide(image, block, kind)

        def whole(*inputs: Tensor) -> list[Tensor]:
            return [output.float() for output in _listed(connect(blocks, read, inputs))]

    def fast(*inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        with torch.no_grad():
            outputs = tiled(whole, inputs, reach)
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    return fast


def _listed(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def tiled(whole: Callable[..., list[Tensor]], inputs: Sequence[Tensor], reach: int, tile: int = TILE) -> list[Tensor]:
    """Apply `whole`, whose values see `reach` pixels far, to (N, 1, H, W) in tiles; the result is the untiled one."""
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
    """Cut a length into the fewest spans of nearly equal length."""
    count = -(-length // longest)
    edges = [length * index // count for index in range(count + 1)]
    return list(pairwise(edges))
