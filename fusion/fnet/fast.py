"""Fast implementations of FNet and of IFNet (the inverse fusion network, used in stage I of training).

`prepare` returns a function for inference, `trainable` one for training.

The networks consist of sparse-coding blocks (LZSC with the paper's threshold, or LCSC with soft thresholding). The
convolutions of each block are merged (`fusion.fnet.merged`), and an implementation for the device computes them:
`fusion.fnet.cpu` on a CPU, which uses float32 regardless of the requested precision, and `fusion.fnet.gpu` on a GPU.
Networks whose weights are not float32 are computed by standard PyTorch operations. Outputs are always float32.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fusion.fnet.cpu.backward import apply_with_gradients
from fusion.fnet.cpu.forward import apply_spectra, lay_out
from fusion.fnet.cpu.memory import BufferPool
from fusion.fnet.cpu.workers import workers
from fusion.fnet.gpu.columns import apply_columns
from fusion.fnet.inverse import IFNet
from fusion.fnet.merged import REACH, Merged, apply_block, connect, merge_network, tiled
from fusion.fnet.network import FNet

Precision = Literal["fp32", "bf16"]
Outputs = Tensor | tuple[Tensor, Tensor]  # of FNet and of IFNet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def trainable(network: FNet | IFNet, precision: Precision = "fp32") -> Callable[..., Outputs]:
    """Return a function that computes the network with gradients; it takes and returns the same as the network.

    Outputs are float32. Every call merges the network's convolutions (`fusion.fnet.merged`) anew, because training
    changes their weights. On a CPU, the function keeps its buffers from one training step to the next.
    """
    dtype, pool = DTYPES[precision], BufferPool()

    def fast(*inputs: Tensor) -> Outputs:
        blocks = merge_network(network)
        if blocks[0].theta.dtype != torch.float32:
            return _float(connect(blocks, apply_block, inputs))
        if inputs[0].device.type == "cpu":
            with workers() as run:
                return connect(blocks, lambda image, block: apply_with_gradients(image, block, pool, run), inputs)
        return connect(blocks, lambda image, block: apply_columns(image, block, dtype), inputs)

    return fast


def prepare(network: FNet | IFNet, precision: Precision = "fp32") -> Callable[..., Outputs]:
    """Return a function that computes the network without gradients; it takes and returns the same as the network.

    Outputs are float32. The weights are merged and copied once; later changes of the network have no effect. On a CPU,
    the function keeps its buffers until images of another size are passed. Only one thread at a time may call it.
    """
    device, dtype = next(network.parameters()).device.type, DTYPES[precision]
    with torch.no_grad():
        # Cloned, because some of the merged weights are the network's own tensors.
        blocks = [
            replace(block, up=[weight.clone() for weight in block.up], down=[weight.clone() for weight in block.down])
            for block in merge_network(network)
        ]
    reach = REACH if isinstance(network, IFNet) else 2 * REACH
    float32 = blocks[0].theta.dtype == torch.float32
    if float32 and device == "cpu":
        pool = BufferPool()
        with workers() as run:
            spectra = [lay_out(block, run) for block in blocks]

        def whole(*inputs: Tensor) -> list[Tensor]:
            with workers() as run:
                return _listed(connect(spectra, lambda image, block: apply_spectra(image, block, pool, run), inputs))

    else:

        def apply(image: Tensor, block: Merged) -> Tensor:
            return apply_columns(image, block, dtype) if float32 else apply_block(image, block)

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
