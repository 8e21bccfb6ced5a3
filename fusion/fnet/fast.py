"""FNet and IFNet computed fast, as functions of images: `prepare` for fusing, `trainable` for training.

Blocks are merged (`fusion.fnet.merged`), and computed as suits the device: on a CPU by `fusion.fnet.cpu`, whose
products are of float32 whatever the precision asked for, on a GPU by `fusion.fnet.gpu`; other number types than float32
take plain operations. Both kinds of coding block, LZSC and LCSC, take this path.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fusion.fnet.cpu.backward import apply_with_gradients
from fusion.fnet.cpu.forward import apply_spectra, lay_out
from fusion.fnet.cpu.memory import Memory
from fusion.fnet.cpu.workers import workers
from fusion.fnet.gpu.columns import apply_columns
from fusion.fnet.inverse import IFNet
from fusion.fnet.merged import REACH, Merged, apply_block, connect, merge_network, tiled
from fusion.fnet.network import FNet

Precision = Literal["fp32", "bf16"]
Outputs = Tensor | tuple[Tensor, Tensor]  # of FNet, of IFNet

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def trainable(network: FNet | IFNet, precision: Precision = "fp32") -> Callable[..., Outputs]:
    """Return the network as a function with gradients; inputs and outputs as its own, outputs float32.

    Weights are merged anew at every call. On a CPU the function keeps memory from one training step to the next.
    """
    kind, memory = KINDS[precision], Memory()

    def fast(*inputs: Tensor) -> Outputs:
        blocks = merge_network(network)
        if blocks[0].theta.dtype != torch.float32:
            return _float(connect(blocks, apply_block, inputs))
        if inputs[0].device.type == "cpu":
            with workers() as run:
                return connect(blocks, lambda image, block: apply_with_gradients(image, block, memory, run), inputs)
        return connect(blocks, lambda image, block: apply_columns(image, block, kind), inputs)

    return fast


def prepare(network: FNet | IFNet, precision: Precision = "fp32") -> Callable[..., Outputs]:
    """Return the network as a function without gradients, its weights merged once; inputs and outputs as its own.

    Outputs are float32. The function keeps the memory for the last size that it saw; one thread at a time may call it.
    Weights that change later do not reach it.
    """
    device, kind = next(network.parameters()).device.type, KINDS[precision]
    with torch.no_grad():
        # Some of the merged weights are the network's own tensors, not products of merging.
        blocks = [
            replace(block, up=[weight.clone() for weight in block.up], down=[weight.clone() for weight in block.down])
            for block in merge_network(network)
        ]
    reach = REACH if isinstance(network, IFNet) else 2 * REACH
    float32 = blocks[0].theta.dtype == torch.float32
    if float32 and device == "cpu":
        memory = Memory()
        with workers() as run:
            spectra = [lay_out(block, run) for block in blocks]

        def whole(*inputs: Tensor) -> list[Tensor]:
            with workers() as run:
                return _listed(connect(spectra, lambda image, block: apply_spectra(image, block, memory, run), inputs))

    else:

        def apply(image: Tensor, block: Merged) -> Tensor:
            return apply_columns(image, block, kind) if float32 else apply_block(image, block)

        def whole(*inputs: Tensor) -> list[Tensor]:
            return _listed(_float(connect(blocks, apply, inputs)))

    def fast(*inputs: Tensor) -> Outputs:
        with torch.no_grad():
            outputs = tiled(whole, inputs, reach)
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    return fast


def _float(outputs: Outputs) -> Outputs:
    return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)


def _listed(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
