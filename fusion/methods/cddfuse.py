"""CDDFuse as a method: weights of ours or the authors' CDDFuse_IVF.pth, luma / 255 in.

The authors stretch every fused image to the whole range (`authors_output`).
"""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser, stretched

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.cddfuse import CDDFuse

EPOCHS = (40, 80)
EPOCH_ITERATIONS = 812  # of the authors: 1,083 pairs of MSRS, six patches each, in batches of eight
CLIP = 0.01  # the largest norm of each of the four networks' gradient
HALVED_EVERY = 20  # epochs


def network(weights: Path | None) -> "CDDFuse":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.cddfuse import CDDFuse
    from fusion.weights import fill, read_parts

    made = CDDFuse()
    if weights is not None:
        fill(made, read_parts(weights), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def correlation(a: "Tensor", b: "Tensor") -> "Tensor":
    """Return the mean over images and channels of the correlation of (N, C, H, W) maps over their pixels; flat: 0."""
    import torch

    a, b = (maps.flatten(2) - maps.flatten(2).mean(-1, keepdim=True) for maps in (a, b))
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return ((a * b).sum(-1) / (norms + 1.1920929e-07)).clamp(-1, 1).mean()


def decomposition(features: "tuple[Tensor, Tensor]", other: "tuple[Tensor, Tensor]") -> "Tensor":
    """Return the loss of base features that differ between the bands and of detail features that do not."""
    return correlation(features[1], other[1]).square() / (1.01 + correlation(features[0], other[0]))


def losses(trained: "CDDFuse") -> "list[Callable[[Tensor, Tensor], dict[str, Tensor]]]":
    """Return the losses of the two phases."""
    import torch
    from torch.nn import functional as F

    from fusion.training.similarity import dissimilarity, gradient, sobel

    def slopes(image: "Tensor") -> "Tensor":
        both = torch.cat(sobel(F.pad(image, (1, 1, 1, 1), mode="replicate")), dim=1)
        return both[..., 1:-1, 1:-1] / 8

    def rebuilding(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        seen, warm = trained.DIDF_Encoder(visible), trained.DIDF_Encoder(infrared)
        terms = {"visible": 0.0, "infrared": 0.0}
        for name, image, features in (("visible", visible, seen), ("infrared", infrared, warm)):
            rebuilt = trained.DIDF_Decoder(image, *features)
            terms[name] = 5 * dissimilarity(image, rebuilt) + (image - rebuilt).square().mean()
            if name == "visible":
                terms["gradient"] = 5 * (slopes(image) - slopes(rebuilt)).abs().mean()
        terms["decomposition"] = 2 * decomposition(seen, warm)
        return {"total": sum(terms.values()), **terms}

    def fusing(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        seen, warm = trained.DIDF_Encoder(visible), trained.DIDF_Encoder(infrared)
        fused = trained.decode(visible, seen, warm)
        strongest = torch.maximum(gradient(visible), gradient(infrared))
        terms = {
            "intensity": (torch.maximum(visible, infrared) - fused).abs().mean(),
            "gradient": 10 * (strongest - gradient(fused)).abs().mean(),
            "decomposition": 2 * decomposition(seen, warm),
        }
        return {"total": sum(terms.values()), **terms}

    return [rebuilding, fusing]


def halving(epochs: int, first: int = 0) -> Callable[[float], float]:
    """Return the schedule that halves the rate every twenty epochs, `first` of which have gone before."""
    return lambda share: 0.5 ** ((first + int(share * epochs)) // HALVED_EVERY)


def training(frozen: Path | None) -> Training:
    """Return the authors' two phases: encoder and decoder rebuild the sources, then all four networks fuse."""
    trained = network(None)
    rebuilding, fusing = losses(trained)
    coders = [list(part.parameters()) for part in (trained.DIDF_Encoder, trained.DIDF_Decoder)]
    layers = [list(part.parameters()) for part in (trained.BaseFuseLayer, trained.DetailFuseLayer)]
    iterations = [EPOCH_ITERATIONS * epochs for epochs in EPOCHS]
    phases = [
        Phase(
            "I",
            [*chain(*coders)],
            rebuilding,
            schedule=halving(EPOCHS[0]),
            clip=CLIP,
            parts=[(part, 1.0) for part in coders],
            iterations=iterations[0],
        ),
        Phase(
            "II",
            [*chain(*coders, *layers)],
            fusing,
            schedule=halving(EPOCHS[1]),
            clip=CLIP,
            # Encoder and decoder have learned through forty epochs, two halvings.
            parts=[(part, 0.25) for part in coders] + [(part, 1.0) for part in layers],
            iterations=iterations[1],
        ),
    ]
    choices = [
        "random 128x128 crops with flips and turns instead of a fixed grid without flat patches",
        "a fresh Adam in phase II, also for encoder and decoder, whose rate goes on where it was",
    ]
    return Training(trained, phases, crop=128, batch=8, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Zhao et al., CVPR 2023",
    network=network,
    published=Published("github.com/Zhaozixiang1228/MMIF-CDDFuse", {"CDDFuse_IVF.pth": ""}),
    authors_output=stretched,
    training=training,
)
