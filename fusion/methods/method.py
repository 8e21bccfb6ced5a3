"""What a fusion method is to the rest of the project."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["fp32", "bf16"]

# Visible luma and infrared, float32 (H, W) in 0..1, to the fused luma, float32 (H, W); the caller clips it to 0..1.
Fuser = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A way to fuse a pair.

    load: makes the function that fuses, from a weights path (None where there is none), a device and a precision;
        methods without weights ignore all three.
    needs_weights: whether `load` refuses a weights path of None.
    reference: where the method is published.
    revision: raised by hand whenever the same input would give another image, so that older results are made again.
    network: makes the network as its paper writes it, from a weights path or, for None, with random weights, so that
        its parameters and multiply-adds can be counted (`fusion.cost`); called with visible luma and infrared,
        (1, 1, H, W) each. Parameters that are never trained have requires_grad False. Its state dict as safetensors
        is a weights file that `load` takes. None where the method is no network.
    """

    load: Callable[[Path | None, str, Precision], Fuser]
    needs_weights: bool
    reference: str
    revision: int = 1
    network: "Callable[[Path | None], nn.Module] | None" = None
