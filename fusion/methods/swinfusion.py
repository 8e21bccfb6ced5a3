"""SwinFusion as a method: weights of ours or the authors' 10000_E.pth, luma / 255 in, no stretch."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.swinfusion import SwinFusion

INTENSITY, GRADIENT, SSIM = 20.0, 20.0, 10.0
# Tables that follow from the window and the image size; the authors' files keep them beside the weights.
_TABLES = re.compile(r"(^|\.)(attn_mask|relative_position_index)$")


def network(weights: Path | None) -> "SwinFusion":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.swinfusion import SwinFusion
    from fusion.weights import fill, read_state

    made = SwinFusion()
    if weights is not None:
        fill(made, {key: value for key, value in read_state(weights).items() if not _TABLES.search(key)}, weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function; images are continued to the next larger multiple of 8, as the authors do."""
    from fusion.networks.swinfusion import WINDOW

    run = as_fuser(network(weights), device, precision)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        height, width = visible.shape
        border = [(0, WINDOW - height % WINDOW), (0, WINDOW - width % WINDOW)]
        # Mirrored with the edge pixel; a side that is a multiple of 8 gets 8 more.
        return run(*(np.pad(image, border, mode="symmetric") for image in (visible, infrared)))[:height, :width]

    return fuse


def training(frozen: Path | None) -> Training:
    """Return the authors' one phase, at a constant rate."""
    import torch

    from fusion.training.similarity import gradient, ssim

    trained = network(None)

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        fused = trained(visible, infrared)
        visible_gradient, infrared_gradient = gradient(visible), gradient(infrared)
        share = infrared_gradient.mean() / (infrared_gradient.mean() + visible_gradient.mean() + 1e-12)
        similarity = share * ssim(infrared, fused) + (1 - share) * ssim(visible, fused)
        strongest = torch.maximum(visible_gradient, infrared_gradient)
        terms = {
            "intensity": INTENSITY * (fused - torch.maximum(visible, infrared)).abs().mean(),
            "gradient": GRADIENT * (gradient(fused) - strongest).abs().mean(),
            "ssim": SSIM * (1 - similarity),
        }
        return {"total": sum(terms.values()), **terms}

    choices = ["the gradients' shares are taken over the whole batch, the authors' over the four pairs of one GPU"]
    phase = Phase("fusion", trained.used_parameters(), loss, lr=2e-5, iterations=10000)
    return Training(trained, [phase], crop=128, batch=12, ema=0.999, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Ma et al., IEEE/CAA J. Automatica Sinica 9(7), 2022",
    network=network,
    published=Published("github.com/Linfeng-Tang/SwinFusion", {"10000_E.pth": ""}),
    training=training,
    parameters_note="973,681 with two convolutions that the authors create and never call (8,430)",
)
