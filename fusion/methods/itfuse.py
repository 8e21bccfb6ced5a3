"""ITFuse as a method: weights of ours or the authors' model.pth, luma / 255 in, no stretch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.itfuse import ITFuse

# The authors' key, as a pattern, and ours.
_AUTHORS_KEYS = [
    (r"^(norm|conv1_32|conv32|conv16_32|conv2_32|layer2|mlp|patch_embed)\.", r"unused.\1."),
    (r"^conv16\.", "embed."),
    (r"^conv2_16\.", "embed_both."),
    (r"^conv16_16\.", "refine."),
    (r"^CoordAtt\.", "coordinates."),
    (r"^TS_lv1\.", "interact."),
    (r"^equalAtt\.", "merge."),
    (r"^basicLayer\.blocks\.", "transformer."),
    (r"^convolutional_out\.conv\.", "out."),
]


def from_authors(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Rename the keys of the authors' model.pth to ours; keys that are already ours stay."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in _AUTHORS_KEYS:
            key, found = re.subn(pattern, name, key)
            if found:
                break
        renamed[key] = value
    return renamed


def network(weights: Path | None) -> "ITFuse":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.itfuse import ITFuse
    from fusion.weights import fill, read_state

    made = ITFuse()
    if weights is not None:
        fill(made, from_authors(read_state(weights)), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Cut the 8-bit values off downwards, as the authors' test script does."""
    return np.floor(np.clip(fused, 0, 1) * 255) / 255


def training(perceptual_weights: Path | None) -> Training:
    """Return the published loss, Charbonnier and SSIM distances to both sources, at the published learning rate."""
    from fusion.training.similarity import ssim_inside

    trained = network(None)

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        fused = trained(visible, infrared)
        values, structure = 0, 0
        for source in (infrared, visible):
            values = values + ((fused - source).square() + 1e-6).sqrt().mean()  # epsilon 1e-3
            structure = structure + 4 * (1 - ssim_inside(fused, source).mean())
        return {"total": values + structure, "charbonnier": values, "ssim": structure}

    # 20 epochs; of how many pairs is not published.
    choices = [
        "120x120 crops: the authors' data loader is not published, their network's default size is 120",
        "no stochastic depth in the transformer blocks",
    ]
    phase = Phase("fusion", trained.used_parameters(), loss, lr=3e-4)
    return Training(trained, [phase], crop=120, batch=64, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Tang, He, Liu, Pattern Recognition 156, 2024",
    network=network,
    published=Published(
        "github.com/tthinking/ITFuse",
        {"model.pth": "578f4d651c998134c4984ae635286557aa96aea99d9d5b9aa610021134113a69"},
    ),
    authors_output=authors_output,
    training=training,
    parameters_note="82,487 with the modules that the authors create and never call; 18,359 take part",
)
