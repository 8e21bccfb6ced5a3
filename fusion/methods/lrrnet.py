"""LRRNet as a method: weights of ours or the authors' model file.

Each source is stretched to 0..1 on its own before it goes in, and the fused image after it comes out, as the authors
do: the network's own values span but a fifth of the range. The stretch after is part of the authors' treatment alone.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.lrrnet import LRRNet

FILE = "final_lrr_net_lam2_1.5_wir_3.0_lam3_gram_2000_epoch_4_block_4.model"
TINY = 1e-5  # keeps the stretch of a constant image finite; of values 0..255
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
VALUES, SHALLOW, MIDDLE, DEEP, STYLE = 10.0, 1.5, 0.01, 0.5, 2000.0
INFRARED, VISIBLE = 3.0, 0.5  # weights of the sources' maps in the two middle layers


def network(weights: Path | None) -> "LRRNet":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.lrrnet import LRRNet
    from fusion.weights import fill, read_state

    made = LRRNet()
    if weights is not None:
        fill(made, read_state(weights), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function that stretches each source to 0..1, and goes from tile to tile."""
    from fusion.networks.lrrnet import Tiled

    run = as_fuser(Tiled(network(weights)), device, precision)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        return run(*(_stretched(255 * image) for image in (visible, infrared)))

    return fuse


def _stretched(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (np.ptp(image) + np.float32(TINY))


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Stretch the fused image to 0..1 and cut its 8-bit values off downwards."""
    return np.floor(_stretched(fused) * 255) / 255


def training(frozen: Path | None) -> Training:
    """Return the authors' one phase; needs VGG-16's weights."""
    from fusion.methods.parts.vgg import vgg16_features

    vgg, trained = vgg16_features(frozen, LAYERS), network(None)

    def seen(images: "Tensor") -> "list[Tensor]":
        return vgg(images.expand(-1, 3, -1, -1))

    def stretched(images: "Tensor") -> "Tensor":
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        return (images - low) / (high - low + TINY)

    def gram(maps: "Tensor") -> "Tensor":
        flat = maps.flatten(2)
        return flat @ flat.mT / maps[0].numel()

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        vgg.to(visible.device)
        visible, infrared = 255 * visible, 255 * infrared
        fused = 255 * stretched(trained(stretched(visible), stretched(infrared)))
        found, of_visible, of_infrared = seen(fused), seen(visible), seen(infrared)

        def between(layer: int) -> "Tensor":
            return (found[layer] - INFRARED * of_infrared[layer] - VISIBLE * of_visible[layer]).square().mean()

        terms = {
            "values": VALUES * (fused - visible).square().mean(),
            "shallow": SHALLOW * (found[0] - of_visible[0]).square().mean(),
            "middle": MIDDLE * between(1),
            "deep": DEEP * between(2),
            "style": STYLE * (gram(found[3]) - gram(of_infrared[3])).square().mean(),
        }
        return {"total": sum(terms.values()), **terms}

    choices = [
        "torchvision's VGG-16, fed 0..255 without normalisation as the authors' is, whose origin is not recorded",
        "random 128x128 crops with flips and turns instead of whole images resized to 128x128",
    ]
    iterations = 4 * (20000 // 8)
    phase = Phase("fusion", list(trained.parameters()), loss, lr=1e-5, weight_decay=0.9, iterations=iterations)
    return Training(trained, [phase], crop=128, batch=8, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Li et al., IEEE TPAMI 45(9), 2023",
    network=network,
    published=Published(
        "github.com/hli1221/imagefusion-LRRNet",
        {FILE: "1de9dd8dee9b650ce69c74ea53e3b9a6b749222f1059a689aabf28f68ee63e29"},
    ),
    authors_output=authors_output,
    training=training,
    frozen="perceptual_weights",
)
