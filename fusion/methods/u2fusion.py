"""U2Fusion as a method: weights of ours or the authors' TensorFlow checkpoint, luma / 255 in.

The authors stretch every fused image so that its brightest pixel is 255 (`authors_output`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.u2fusion import U2Fusion

# The authors divide g by 3200, with the squared maps of a VGG-16 that sees 0..255; torchvision's sees images divided
# by 0.226 * 255 (the mean of its three deviations), whose squared maps are smaller by the square of that.
TEMPERATURE = 3200 / (0.226 * 255) ** 2
MSE_WEIGHT = 20.0  # lambda of Eq. 6

# The authors' scope, as a pattern, and ours.
_AUTHORS_SCOPES = [
    (r"^Generator/encoder/conv1_1/", lambda match: "first."),
    (r"^Generator/encoder/dense_block_conv([1-5])/", lambda match: f"dense.{int(match[1]) - 1}."),
    (r"^Generator_1/decoder/conv2_([1-4])/", lambda match: f"decoder.{int(match[1]) - 1}."),
]


def from_authors(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Rename and turn the variables of the authors' checkpoint into our weights; other names stay."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in _AUTHORS_SCOPES:
            key = re.sub(pattern, name, key)
        if key.endswith(".kernel") and value.ndim == 4:
            key, value = f"{key.removesuffix('kernel')}weight", value.permute(3, 2, 0, 1)
        renamed[key] = value
    return renamed


def network(weights: Path | None) -> "U2Fusion":
    """Return the network, filled from `weights` (ours, or the authors' folder) or, for None, with random ones."""
    from fusion.networks.u2fusion import U2Fusion
    from fusion.weights import fill, read_state
    from fusion.weights.tensorflow import is_checkpoint, read_checkpoint

    made = U2Fusion()
    if weights is not None:
        read = read_checkpoint if is_checkpoint(weights) else read_state
        fill(made, from_authors(read(weights)), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Stretch the fused image so that its brightest pixel is 1; its darkest is not moved."""
    brightest = fused.max(initial=0)
    return np.clip(fused / brightest, 0, 1) if brightest > 0 else np.zeros_like(fused)


def training(perceptual_weights: Path | None) -> Training:
    """Return the first of the authors' three tasks, visible and infrared; needs VGG-16's weights."""
    from fusion.methods.parts.vgg import normalised, vgg16_features
    from fusion.networks.u2fusion import LAYERS, shares
    from fusion.training.similarity import ssim_inside

    trained, vgg = network(None), vgg16_features(perceptual_weights, LAYERS)

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        vgg.to(visible.device)
        weights = shares(lambda images: vgg(normalised(images)), visible, infrared, TEMPERATURE)
        fused = trained(visible, infrared)
        structure, values = 0, 0
        for weight, source in zip(weights, (visible, infrared), strict=True):
            structure = structure + (weight * (1 - ssim_inside(source, fused))).mean()
            # As in the authors' code, the mean weight times the mean error, not the mean of the products.
            values = values + MSE_WEIGHT * weight.mean() * (source - fused).square().mean()
        return {"total": structure + values, "ssim": structure, "mse": values}

    choices = [
        "Adam instead of RMSProp (decay 0.6, momentum 0.15), and no clipping of weights to -50..50",
        "torchvision's VGG-16 instead of Caffe's, with the temperature c divided by the scale of its squared input",
        "visible and infrared fusion alone: without the tasks that follow there is nothing to consolidate",
        "the sources are not swapped at random: they are fused in the order visible, infrared",
    ]
    phase = Phase("visible and infrared", list(trained.parameters()), loss, lr=1e-4)
    return Training(trained, [phase], crop=64, batch=18, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Xu et al., IEEE TPAMI 44(1), 2022",
    network=network,
    published=Published(
        "github.com/hanna-xu/U2Fusion",
        {
            "model.ckpt.data-00000-of-00001": "e50cada8d4ec92f2577ad5db5d212fba521dffb35d04e00a20364b43512c64c8",
            "model.ckpt.index": "15b7d283a1de8f616cc42978346bd24d47a9c380d624370368b956beb593014e",
        },
    ),
    authors_output=authors_output,
    training=training,
    frozen="perceptual_weights",
)
