"""Running a network as a function of one pair of numpy images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fusion.methods.method import Fuser, Precision


def as_fuser(network: nn.Module, device: str, precision: Precision, channels_last: bool = False) -> Fuser:
    """Return `network` in evaluation mode as a function of two arrays.

    precision: `bf16` lets torch's autocast choose the operations that run in bfloat16.
    channels_last: whether to use the channels-last memory format on a CPU, where convolutions are faster with it;
        results differ by rounding. Networks that reshape their maps on the assumption of another format must not use
        it.
    """
    layout = torch.channels_last if channels_last and device == "cpu" else torch.preserve_format
    network = network.eval().to(device, memory_format=layout)

    @torch.inference_mode()
    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        pair = torch.from_numpy(np.stack([visible, infrared])[:, None, None]).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            fused = network(pair[0], pair[1])
        return fused[0, 0].float().cpu().numpy()

    return fuse


def loader(network: Callable[[Path | None], nn.Module]) -> Callable[[Path | None, str, Precision], Fuser]:
    """Return the `Method.load` of a method that runs its network without changes."""

    def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
        return as_fuser(network(weights), device, precision, channels_last=True)

    return load
