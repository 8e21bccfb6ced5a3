"""CoCoNet as a method: weights of ours, or the authors' latest.pth with their test script's input.

That script feeds values of 0..255 and normalises by each image's own statistics, while training has -1..1 and running
statistics; which of the two a file was made for is kept in it. The authors take a colour image's first channel where we
take its luma.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.coconet import CoCoNet

SSIM_WEIGHT = 20.0
GRADIENT_TEMPERATURE, ENTROPY_TEMPERATURE = 0.5, 0.75  # c1, c2

# The authors number the steps of VGG-19, their pooling included.
_VGG_STEPS = {
    "slice1.0": "conv1_1",
    "slice1.3": "conv1_2",
    "slice2.6": "conv2_1",
    "slice2.8": "conv2_2",
    "slice3.11": "conv3_1",
    "slice3.13": "conv3_2",
    "slice3.15": "conv3_3",
    "slice3.17": "conv3_4",
}


def from_authors(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Rename the keys of the authors' latest.pth to ours; a state dict of ours stays as it is."""
    import torch

    if "as_tested" in state:
        return dict(state)
    renamed = {"as_tested": torch.ones(1)}
    for key, value in state.items():
        if match := re.match(r"vgg19\.(slice\d\.\d+)\.", key):
            key = key.replace(match[1], _VGG_STEPS.get(match[1], match[1]))
        elif match := re.match(r"bn(\d_\d)\.", key):
            key = f"conv{match[1]}.bn.{key[match.end() :]}"
        elif re.match(r"conv(?!9_2)\d_\d\.(weight|bias)$", key):
            key = re.sub(r"\.", ".conv.", key)
        renamed[key] = value
    return renamed


def network(weights: Path | None) -> "CoCoNet":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.coconet import CoCoNet
    from fusion.weights import fill, read_state

    made = CoCoNet()
    if weights is not None:
        fill(made, from_authors(read_state(weights)), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def training(perceptual_weights: Path | None) -> Training:
    """Return the authors' main stage; needs VGG-19's weights, which are part of the network."""
    import torch

    from fusion.methods.parts.vgg import vgg19_features
    from fusion.networks.coconet import VGG_WIDTHS, adaptive_weights, entropy
    from fusion.training.similarity import gradient, ssim

    trained = network(None)
    trained.vgg19.take(vgg19_features(perceptual_weights, list(VGG_WIDTHS)))

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        sources = [2 * visible - 1, 2 * infrared - 1]
        gradients = torch.stack([(gradient(source) + 1e-5).mean((1, 2, 3)) for source in sources])
        by_gradient = adaptive_weights(gradients, GRADIENT_TEMPERATURE)
        by_entropy = adaptive_weights(torch.stack([entropy(source) for source in sources]), ENTROPY_TEMPERATURE)
        fused = trained.fused(visible, infrared)
        structure, values = 0, 0
        for n, source in enumerate(sources):
            # The authors' SSIM is the batch's mean already.
            structure = structure + SSIM_WEIGHT * by_gradient[n].mean() * (1 - ssim((source + 1) / 2, (fused + 1) / 2))
            values = values + (by_entropy[n] * (fused - source).square().mean((1, 2, 3))).mean()
        return {"total": structure + values, "ssim": structure, "mse": values}

    choices = [
        "the main stage alone: the contrastive fine-tuning needs masks of salient targets, which pairs do not have",
        "64x64 crops: the authors' patch size is not published",
        "each image's own histogram in the entropy, where the authors' code adds up those of a batch",
    ]
    used = [
        parameter
        for name, parameter in trained.named_parameters()
        if parameter.requires_grad and not name.startswith(("se_32.", "att_deconv9."))
    ]
    return Training(trained, [Phase("main", used, loss, lr=1e-4)], crop=64, batch=30, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Liu et al., International Journal of Computer Vision 132, 2024",
    network=network,
    published=Published("github.com/runjia0124/CoCoNet", {"latest.pth": ""}, licence="MIT"),
    training=training,
    frozen="perceptual_weights",
    parameters_note="without the frozen VGG-19 (2,324,416); with se_32 and att_deconv9 (55,425), which have no effect",
)
