"""A network as a function on one pair of numpy images."""

from typing import TYPE_CHECKING

import numpy as np

from fusion.methods.method import Fuser, Precision

if TYPE_CHECKING:
    from torch import nn


def as_fuser(network: "nn.Module", device: str, precision: Precision) -> Fuser:
    """Return `network` in evaluation mode as a function; `bf16` is autocast's choice of what runs in bfloat16."""
    import torch

    network = network.eval().to(device)

    @torch.inference_mode()
    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        pair = torch.from_numpy(np.stack([visible, infrared])[:, None, None]).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            fused = network(pair[0], pair[1])
        return fused[0, 0].float().cpu().numpy()

    return fuse


def stretched(fused: np.ndarray) -> np.ndarray:
    """Stretch a fused image so that its darkest pixel is 0 and its brightest 1; a constant one becomes black."""
    low, high = fused.min(initial=np.inf), fused.max(initial=-np.inf)
    return (fused - low) / (high - low) if high > low else np.zeros_like(fused)
