"""CrossFuse as a method: weights of ours or the authors' three files, luma / 255 in; the network itself stretches."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.crossfuse import AutoEncoder, CrossFuse

# Our name of each network, and the authors' file of it.
FILES = {
    "infrared": "autoencoder/auto_encoder_epoch_4_ir.model",
    "visible": "autoencoder/auto_encoder_epoch_4_vi.model",
    "fusion": "transfuse/fusetrans_epoch_32_bs_8_num_20k_lr_0.1_s1_c1.model",
}
STRUCTURE_WEIGHT, GRADIENT_WEIGHT = 10000.0, 10.0
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
DECAY = 0.9  # the authors' weight decay
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def network(weights: Path | None) -> "CrossFuse":
    """Return the network, filled from `weights` (ours, or the authors' folder `models`) or with random ones."""
    from fusion.networks.crossfuse import CrossFuse
    from fusion.weights import fill, read_state

    made = CrossFuse()
    if weights is None:
        return made
    if weights.is_dir():
        states = {name: read_state(weights / file) for name, file in FILES.items()}
        state = {f"{name}.{key}": value for name, part in states.items() for key, value in part.items()}
    else:
        state = read_state(weights)
    fill(made, state, weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Cut the 8-bit values off downwards, as the authors' test script does."""
    return np.floor(np.clip(fused, 0, 1) * 255) / 255


def multiscale_similarity(a: "Tensor", b: "Tensor") -> "Tensor":
    """Return the authors' structural similarity over five scales of images in 0..255, 1 for equal ones.

    Unlike Wang's (2003): the means are mapped from -1..1 to 0..1, the last scale counts four times, and the data range
    is 1 at scales where a's brightest pixel is below 128.
    """
    import torch
    from torch.nn import functional as F

    total = 1.0
    for level, weight in enumerate(SCALE_WEIGHTS):
        span = torch.where(a.detach().max() > 128, 255.0, 1.0)  # of the whole batch, as in the authors' code
        side = min(11, *a.shape[2:])
        window = torch.exp(-((torch.arange(side, device=a.device) - side // 2) ** 2) / (2 * 1.5**2))
        window = window / window.sum()
        kernel = torch.outer(window, window)[None, None]
        moments = F.conv2d(torch.cat([a, b, a * a, b * b, a * b]), kernel).chunk(5)
        mean_a, mean_b = moments[:2]
        variances = moments[2] + moments[3] - mean_a**2 - mean_b**2
        contrast = (2 * (moments[4] - mean_a * mean_b) + (0.03 * span) ** 2) / (variances + (0.03 * span) ** 2)
        if level < len(SCALE_WEIGHTS) - 1:
            total = total * ((contrast.mean() + 1) / 2) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        else:
            c = (0.01 * span) ** 2
            similarity = contrast * (2 * mean_a * mean_b + c) / (mean_a**2 + mean_b**2 + c)
            total = total * ((similarity.mean() + 1) / 2) ** (4 * weight)
    return total


def training(frozen: Path | None) -> Training:
    """Return the authors' stages: an auto-encoder of each source, then the network that fuses; encoders stay."""
    import torch
    from torch.nn import functional as F

    trained = network(None)

    def rebuilding(image: "Tensor", coder: "AutoEncoder") -> dict[str, "Tensor"]:
        rebuilt = 255 * coder(image)
        values = (rebuilt - 255 * image).square().mean()
        structure = STRUCTURE_WEIGHT * (1 - multiscale_similarity(rebuilt, 255 * image))
        return {"total": values + structure, "mse": values, "ssim": structure}

    def edges(image: "Tensor") -> "Tensor":
        return F.conv2d(image, image.new_tensor(LAPLACIAN)[None, None], padding=1).relu()

    def fusing(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        fused, visible, infrared = (255 * image for image in (trained(visible, infrared), visible, infrared))
        brightness = [F.avg_pool2d(image, 11, stride=1, padding=5) for image in (infrared, visible)]
        brighter = torch.where(brightness[0] > brightness[1], infrared, visible)
        values = (fused - brighter).square().mean()
        strongest = torch.maximum(edges(infrared), edges(visible))
        gradient = GRADIENT_WEIGHT * (edges(fused) - strongest).square().mean()
        return {"total": values + gradient, "mse": values, "gradient": gradient}

    def after_two(epochs: int) -> Callable[[float], float]:
        return lambda share: 1.0 if share < 2 / epochs else 0.1

    infrared, visible = (list(coder.parameters()) for coder in (trained.infrared, trained.visible))
    coders = {"lr": 1e-4, "schedule": after_two(4), "weight_decay": DECAY, "iterations": 4 * 20_000}
    fuser = {"lr": 1e-3, "schedule": after_two(32), "weight_decay": DECAY, "iterations": 32 * 2_500}
    phases = [
        Phase("infrared", infrared, lambda visible, infrared: rebuilding(infrared, trained.infrared), **coders),
        Phase("visible", visible, lambda visible, infrared: rebuilding(visible, trained.visible), **coders),
        Phase("fusion", trained.fusion.used_parameters(), fusing, **fuser),
    ]
    choices = [
        "256x256 crops with flips and turns, where the authors resize KAIST's images to that size",
        "batches of 8 in all stages, where the authors' auto-encoders have 2",
    ]
    return Training(trained, phases, crop=256, smallest_crop=32, batch=8, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Li and Wu, Information Fusion 103, 2024",
    network=network,
    published=Published("github.com/hli1221/CrossFuse", dict.fromkeys(FILES.values(), "")),
    authors_output=authors_output,
    training=training,
    parameters_note="with the auto-encoders' decoders, which only their training uses, and parts that are never called",
)
