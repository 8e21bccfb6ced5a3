"""MURF as a method: its third module, by weights of ours or the authors' folder `finetuning`, a TensorFlow checkpoint.

As in the authors' test, both images are resized to 1240 x 1240 and the fused one back. That round trip smooths what
the network sharpens, and the published values come with it; the network itself takes any size. The authors stretch
every fused image so that its brightest pixel is 255 (`authors_output`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.murf import MURF

SIDE = 1240  # pixels, of the square that the authors' test fuses
TEXTURE, ENHANCEMENT = 10.0, 0.7  # weight of the texture term, and the power of the sources' Laplacian in it

_NORMALISED = ["conv1", "conv3", "conv5", "conv6", "conv7", "conv8", "conv10"]
_DENSE = {"dense": "average.down", "dense_1": "average.up", "dense_2": "maximum.down", "dense_3": "maximum.up"}
_PARTS = {"a": "visible", "b": "infrared", "f": "fuse"}
# The authors' variable, as a pattern, and ours.
_AUTHORS_NAMES = [
    (
        r"^f2m_net/([wb])_?([abf])(\d)$",
        lambda m: f"{_PARTS[m[2]]}.{int(m[3]) - 1}.{'weight' if m[1] == 'w' else 'bias'}",
    ),
    (r"^f2m_net/(dense(?:_\d)?)/kernel$", lambda m: f"{_DENSE[m[1]]}.weight"),
    (r"^f2m_net/(dense(?:_\d)?)/bias$", lambda m: f"{_DENSE[m[1]]}.bias"),
    (r"^f2m_net/conv1_offset/offset_conv/(conv\d+)/conv2d/kernel$", r"offset.\1.conv.weight"),
    (r"^f2m_net/conv1_offset/offset_conv/(conv\d+)/conv2d/bias$", r"offset.\1.conv.bias"),
    (
        r"^f2m_net/conv1_offset/offset_conv/BatchNorm(?:_(\d))?/(\w+)$",
        lambda m: f"offset.{_NORMALISED[int(m[1] or 0)]}.{m[2]}",
    ),
]


def from_authors(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Rename and turn the variables of the authors' checkpoint into our weights; other names stay."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in _AUTHORS_NAMES:
            ours, found = re.subn(pattern, name, key)
            if found:
                if value.ndim > 1:
                    value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
                key = ours
                break
        renamed[key] = value
    return renamed


def network(weights: Path | None) -> "MURF":
    """Return the network, filled from `weights` (ours, or the authors' folder) or, for None, with random ones."""
    from fusion.networks.murf import MURF
    from fusion.weights import fill, read_state
    from fusion.weights.tensorflow import is_checkpoint, read_checkpoint

    made = MURF()
    if weights is not None:
        read = read_checkpoint if is_checkpoint(weights) else read_state
        fill(made, from_authors(read(weights)), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function that fuses at 1240 x 1240."""
    run = as_fuser(network(weights), device, precision)

    def square(image: np.ndarray) -> np.ndarray:
        grey = Image.fromarray(np.rint(image * 255).astype(np.uint8))
        return np.float32(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        fused = run(square(visible), square(infrared))
        return cv2.resize(fused, visible.shape[::-1], interpolation=cv2.INTER_LINEAR)

    return fuse


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Stretch the fused image so that its brightest pixel is 1; its darkest is not moved."""
    brightest = fused.max(initial=0)
    return np.clip(fused / brightest, 0, 1) if brightest > 0 else np.zeros_like(fused)


def training(frozen: Path | None) -> Training:
    """Return the authors' first phase, which trains what fuses; the offsets of aligned pairs are nought."""
    import torch

    from fusion.networks.murf import laplacian
    from fusion.training.similarity import ssim_inside

    trained = network(None)
    # Even an offset of a hundredth of a pixel would look for border pixels outside the image, which are black.
    torch.nn.init.zeros_(trained.offset.conv11.conv.weight)

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        fused = trained(visible, infrared, align=False)
        slopes = [laplacian(source) for source in (visible, infrared)]
        strongest = torch.where(slopes[0].abs() > slopes[1].abs(), *slopes)
        wanted = strongest.sign() * strongest.abs() ** ENHANCEMENT
        similarity = (ssim_inside(fused, infrared) + ssim_inside(fused, visible)).mean() / 2
        terms = {"ssim": 1 - similarity, "texture": TEXTURE * (laplacian(fused) - wanted).abs().mean()}
        return {"total": sum(terms.values()), **terms}

    choices = [
        "the fusion weights alone: aligned pairs leave no offset to learn, and its branch gives 0",
        "Adam's betas are 0.9 and 0.999 instead of 0.5 and 0.99, and weights are not clipped to -50..50",
    ]
    phase = Phase("fusion", trained.fusion_parameters(), loss, lr=1e-4)
    return Training(trained, [phase], crop=128, batch=8, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Xu, Yuan, Ma, IEEE TPAMI 45(10), 2023",
    network=network,
    published=Published(
        "github.com/hanna-xu/MURF",
        {
            "0000.ckpt.data-00000-of-00001": "a429f09b31f624be2812626b502efe52a9915c4f7d507f9cc5deee704eab6e73",
            "0000.ckpt.index": "492cedfabc38105699a6baa79d586c61e1acbee8aaa046efcedd1c3be32c031b",
        },
    ),
    authors_output=authors_output,
    training=training,
    parameters_note="116,123 with the 416 statistics of its batch normalisation",
)
