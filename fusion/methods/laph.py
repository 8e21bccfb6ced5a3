"""LapH as a method: weights of ours or the authors' net_g_lateset.pth, luma / 255 in, clipped.

The authors round the clipped image to 8 bits and take luma in the studio range, as this project does: their treatment
is the equal one.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.laph import LapH

GRADIENT, SSIM, CONTRAST = 10.0, 1.0, 0.5  # weights of the loss's terms

_DETAILS = {"or": 0, "12": 1, "14": 2}
# The authors' key, as a pattern, and ours.
_AUTHORS_KEYS = [
    (r"^hf_branch_(or|12|14)\.", lambda match: f"details.{_DETAILS[match[1]]}."),
    (r"^lf_branch\.", "base."),
    (r"\.FEB\.", ".features."),
    (r"\.hf_hd_block_(?:or|12|14)_(\d)\.", r".blocks.\1."),
    (r"\.dilation_(\d)\.0\.conv\.", lambda match: f".differences.{int(match[1]) - 1}."),
    (r"\.dilation_(\d)\.1\.", lambda match: f".slopes.{int(match[1]) - 1}."),
    (r"\.d(\d)_1x1\.0\.", lambda match: f".joins.{int(match[1]) - 1}."),
    (r"\.final_fuse\.", ".out."),
    (r"\.MRM_(\d)\.", lambda match: f".mixers.{int(match[1]) - 1}."),
    (r"\.convs\.2\.", ".convs.1."),
    (r"\.conv_z\.0\.", ".update."),
    (r"\.conv_r\.0\.", ".reset."),
    (r"\.conv_o\.0\.", ".candidate."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
]


def from_authors(state: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Rename the keys of the authors' file to ours; keys that are already ours stay."""
    renamed = {}
    for key, value in state.items():
        if re.match(r"hf_branch_(or|12|14)\.hf_hd_block\.", key):
            continue  # a second name of the level's last block
        for pattern, name in _AUTHORS_KEYS:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


def network(weights: Path | None) -> "LapH":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.laph import LapH
    from fusion.weights import fill, read_state

    made = LapH()
    if weights is not None:
        fill(made, from_authors(read_state(weights)), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def training(perceptual_weights: Path | None) -> Training:
    """Return the published loss: gradients, structural similarity and contrast."""
    from torch.nn import functional as F

    from fusion.networks.laph import contrast
    from fusion.training.similarity import sobel, ssim_inside

    trained = network(None)

    def edges(image: "Tensor") -> "Tensor":
        across, down = sobel(F.pad(image, (1, 1, 1, 1), mode="replicate"))
        return (across.square() + down.square())[..., 1:-1, 1:-1]

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        fused = trained(visible, infrared)
        similarity = (ssim_inside(visible, fused) + ssim_inside(infrared, fused)).mean() / 2
        # The sum of the sources, not their maximum: as in the authors' code.
        distance = (edges(fused) - edges(visible + infrared)).square()
        terms = {
            "gradient": GRADIENT * (distance + 1e-6).sqrt().mean(),
            "ssim": SSIM * (1 - similarity),
            "contrast": CONTRAST * contrast(trained.pyramid, visible, infrared, fused),
        }
        return {"total": sum(terms.values()), **terms}

    choices = ["Adam's second beta is 0.999 instead of 0.99"]
    phase = Phase("fusion", list(trained.parameters()), loss, lr=1e-4, iterations=8100)
    return Training(trained, [phase], crop=128, batch=32, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Luo et al., IEEE TCSVT 33(12), 2023",
    network=network,
    published=Published(
        "github.com/rgttadv/LapH",
        {"net_g_lateset.pth": "0d9a66f4b6c957051f72495cdafffd870fa90239de1cd8c93fe2de016e04a4f5"},
    ),
    training=training,
)
