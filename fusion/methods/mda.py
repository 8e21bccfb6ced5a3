"""MDA as a method: weights of ours or the authors' fusion_model.pth, luma / 255 in.

The authors stretch every fused image to the whole range and cut it to 8 bits downwards (`authors_output`); their
network's own values span but a third of it, so the equal treatment, which stretches nothing, gives a pale image.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser, stretched

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.mda import MDA

# alpha, beta, c of the paper, and the weights of the terms in the authors' code.
MSE_WEIGHT, SPREAD, TEMPERATURE = 0.2, 0.167, 3000.0
FEATURES, STYLE, PATCHES = 1e-6, 1.0, 2.0
SCALES = (8.0, 8.0, 2.0, 2.0, 1.0)  # of the five fusions, from the finest
LAYERS = ("conv1_2", "conv2_2")
PATCH, CONSTANT = 15, 6.25


def network(weights: Path | None) -> "MDA":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.mda import MDA
    from fusion.weights import fill, read_state

    made = MDA()
    if weights is not None:
        fill(made, read_state(weights), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Stretch the fused image to 0..1 and cut its 8-bit values off downwards, as the authors' test script does."""
    return np.floor(stretched(fused) * 255) / 255


def entropy(maps: "Tensor") -> "Tensor":
    """Return the entropy in bits of each map's values, rounded to 1..256: (N, C, H, W) to (N, C)."""
    import torch

    levels = (255 * maps + 1).round().clamp(1, 256).long().flatten(2) - 1
    counts = torch.zeros(*levels.shape[:2], 256, device=maps.device).scatter_add_(
        2, levels, torch.ones_like(levels).float()
    )
    shares = counts / levels.shape[2]
    return -(shares * shares.clamp_min(1e-12).log2()).sum(-1)


def training(frozen: Path | None) -> Training:
    """Return the authors' one phase; needs VGG-16's weights."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from fusion.methods.parts.vgg import normalised, vgg16_features
    from fusion.networks.mda import edges
    from fusion.training.similarity import multiscale_similarity

    vgg = vgg16_features(frozen, LAYERS)
    for name, step in vgg.steps.items():
        if isinstance(step, nn.ReLU):
            vgg.steps[name] = nn.Sigmoid()  # as in the authors' code
    trained = network(None)

    def box(images: "Tensor") -> "Tensor":
        return F.avg_pool2d(images, PATCH, stride=1, padding=PATCH // 2)

    @torch.no_grad()
    def weights(sources: "list[Tensor]") -> "tuple[Tensor, Tensor]":
        """Each source's share in intensity and in detail, (2, N)."""
        intensity, detail = [], []
        for source in sources:
            maps = [torch.sigmoid(layer) for layer in vgg(normalised(source))]
            spread = [entropy(one) + SPREAD * (255 * one + 1).flatten(2).std(2) for one in maps]
            intensity.append(sum(one.mean(1) for one in spread) / len(maps) / TEMPERATURE)
            detail.append(sum(edges(one, 1).square().mean((1, 2, 3)) for one in maps) / len(maps) / TEMPERATURE)
        return torch.stack(intensity).softmax(0), torch.stack(detail).softmax(0)

    def features(fused: "tuple[Tensor, ...]", a: "tuple[Tensor, ...]", b: "tuple[Tensor, ...]") -> "Tensor":
        total = 0
        for scale, f, (k, n) in zip(SCALES, fused, ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2)), strict=True):
            level = f if f.shape == a[k].shape else F.interpolate(f, scale_factor=0.5)
            unlike = (edges(f, 1) - edges(b[n], 1)).square().mean()
            total = total + scale * (unlike + 20 * (level - a[k]).square().mean())
        return total

    def style(fused: "Tensor", infrared: "Tensor") -> "Tensor":
        total = 0
        for f, i in zip(vgg(normalised(fused)), vgg(normalised(infrared)), strict=True):
            rows = [(m.flatten(2) @ m.flatten(2).mT / m[0].numel()).log_softmax(-1) for m in (f, i)]
            total = total + F.kl_div(rows[0], rows[1], reduction="batchmean", log_target=True)
        return total

    def patches(fused: "Tensor", sources: "list[Tensor]") -> "Tensor":
        structures, errors, details, brightness = [], [], [], []
        mean = box(fused)
        variance = box(fused * fused) - mean**2
        for source in sources:
            own = box(source)
            spread = box(source * source) - own**2
            covariance = box(source * fused) - own * mean
            structures.append(1 - (2 * covariance + CONSTANT) / (spread + variance + CONSTANT))
            errors.append(box((fused - source).square()))
            details.append(box(box(edges(source, 4).square()).sqrt()) / TEMPERATURE)
            brightness.append((own + SPREAD * spread) / TEMPERATURE)
        detail, bright = torch.stack(details).softmax(0), torch.stack(brightness).softmax(0)
        structure = (detail * torch.stack(structures)).sum(0).mean()
        return structure + MSE_WEIGHT * (bright * torch.stack(errors)).sum(0).mean()

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        vgg.to(visible.device)
        sources = [infrared, visible]
        a, b = trained.features(infrared), trained.features(visible)
        maps = trained.fuse(a, b)
        fused = trained.decode(*maps)
        intensity, detail = weights(sources)
        alike = [1 - multiscale_similarity(fused, source, span=255.0) for source in sources]
        errors = [(fused - source).square().mean((1, 2, 3)) for source in sources]
        terms = {
            "structure": sum((share * one).mean() for share, one in zip(detail, alike, strict=True)),
            "mse": MSE_WEIGHT * sum((share * one).mean() for share, one in zip(intensity, errors, strict=True)),
            "features": FEATURES * features(maps, a, b),
            "style": STYLE * style(fused, infrared),
            "patches": PATCHES * patches(fused, sources),
        }
        return {"total": sum(terms.values()), **terms}

    choices = [
        "the entropy of features is that of 256 levels, and carries no gradient",
        "features are those after the layer's sigmoid for the weights, before it for the style",
        "flips and turns beside the random crops; the published training sees KAIST's 95,324 pairs for five epochs",
    ]
    phase = Phase("fusion", trained.used_parameters(), loss, lr=1e-5, iterations=5 * 95324 // 24)
    return Training(trained, [phase], crop=192, smallest_crop=176, crop_step=8, batch=24, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Yang et al., Neurocomputing 2024, arXiv 2312.04328",
    network=network,
    published=Published(
        "github.com/SSyangguang/MDA",
        {"fusion_model.pth": "792cd9ec4286d4044897b9c8448fcf7b023b771c8689c2606a7537076fb6559c"},
    ),
    authors_output=authors_output,
    training=training,
    frozen="perceptual_weights",
    parameters_note="516,120 with modules that the authors create and never call (31,906)",
)
