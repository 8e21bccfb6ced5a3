"""A network as a function on one pair of numpy images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fusion.methods.method import Fuser, Precision


def as_fuser(network: nn.Module, device: str, precision: Precision, channels_last: bool = False) -> Fuser:
    """Return `network` in evaluation mode as a function; `bf16` is autocast's choice of what runs in bfloat16.

    channels_last: whether, on a CPU, the values of a pixel lie side by side in memory, which its convolutions are
        faster with; values change by rounding. Not for networks that reshape their maps as if they lay otherwise.
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
    """Return the `Method.load` of a method that runs its network as it is."""

    def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
        return as_fuser(network(weights), device, precision, channels_last=True)

    return load
