"""LRRNet: unrolled low-rank and sparse decomposition (Li et al., IEEE TPAMI 45(9), 2023).

Modules and parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors'
model file. As in the authors' code, each source is stretched to 0..1 separately before the network. The authors also
stretch the fused image, because the network's values span only a fifth of the range; here this second stretch belongs
to the authors' treatment only.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.fnet.merged import tiled
from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.borders import pad_mirrored
from fusion.methods.parts.filling import filled
from fusion.methods.parts.postprocessing import truncated
from fusion.methods.parts.running import as_fuser
from fusion.methods.parts.vgg import Features, gram, vgg16_features

MAPS = 128  # of the low-rank component; the sparse component has the same number
STEPS = 4
REACH = 2 * STEPS + 3  # radius of the receptive field in pixels: one for each convolution
TILE = 160  # maximum side of a tile in pixels; the maps of a tile and its margin then take 30 MB, not half a gigabyte
FILE = "final_lrr_net_lam2_1.5_wir_3.0_lam3_gram_2000_epoch_4_block_4.model"
EPSILON = 1e-5  # avoids a division by zero for a constant image; for values in 0..255
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
VALUES_WEIGHT, SHALLOW_WEIGHT, MIDDLE_WEIGHT, DEEP_WEIGHT, STYLE_WEIGHT = 10.0, 1.5, 0.01, 0.5, 2000.0
INFRARED_WEIGHT, VISIBLE_WEIGHT = 3.0, 0.5  # of the sources' maps in the two middle layers


class Convolution(nn.Module):
    """3x3 convolution with mirrored borders."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return self.conv2d(pad_mirrored(x, 1))


class LRRBlock(nn.Module):
    """The convolutions of one unrolled step: from codes to an image, and from an image's residual to codes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_Wdz, self.conv_Wdtz = Convolution(2 * MAPS, 1), Convolution(1, 2 * MAPS)


class Extractor(nn.Module):
    """Maps an image, (N, 1, H, W), to its codes, (N, 256, H, W): 128 low-rank maps, then 128 sparse maps."""

    def __init__(self) -> None:
        super().__init__()
        self.lamj, self.lamz = nn.Parameter(torch.rand(1, 2 * MAPS)), nn.Parameter(torch.rand(1, 1))
        self.conv_W00 = Convolution(1, 2 * MAPS)
        for step in range(STEPS):
            self.add_module(f"lrrblock{step}", LRRBlock())

    def soft_threshold(self, codes: Tensor) -> Tensor:
        """Return the codes after soft thresholding; each map has its own threshold."""
        return codes.sign() * F.relu(codes.abs() - self.lamj.view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return the codes."""
        codes = self.soft_threshold(self.conv_W00(image))
        for number in range(STEPS):
            step = self.get_submodule(f"lrrblock{number}")
            codes = self.soft_threshold(self.lamz * codes + step.conv_Wdtz(image - step.conv_Wdz(codes)))
        return codes


class Decoder(nn.Module):
    """Maps the codes of both sources to the two components of the fused image, (N, 1, H, W) each."""

    def __init__(self) -> None:
        super().__init__()
        for part in ("ReZx", "ReUx", "ReZy", "ReUy"):
            self.add_module(f"conv_{part}", Convolution(MAPS, 1))
        self.conv_ReL, self.conv_ReH = Convolution(2, 1), Convolution(2, 1)

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the low-rank and the sparse component of the fused image."""
        (low_x, sparse_x), (low_y, sparse_y) = infrared.chunk(2, dim=1), visible.chunk(2, dim=1)
        low = self.conv_ReL(torch.cat([self.conv_ReZx(low_x), self.conv_ReZy(low_y)], dim=1))
        return low, self.conv_ReH(torch.cat([self.conv_ReUx(sparse_x), self.conv_ReUy(sparse_y)], dim=1))


class LRRNet(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W), unbounded; 49,204 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.get_ls1, self.get_ls2, self.decoder = Extractor(), Extractor(), Decoder()

    def components(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Return the low-rank and the sparse component of the fused image."""
        return self.decoder(self.get_ls1(infrared), self.get_ls2(visible))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the sum of both components."""
        low, sparse = self.components(visible, infrared)
        return low + sparse


class Tiled(nn.Module):
    """The network applied tile by tile, without gradients: the maps of a whole image would take a gigabyte."""

    def __init__(self, network: LRRNet, tile: int = TILE) -> None:
        super().__init__()
        self.network, self.tile = network, tile

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma, (N, 1, H, W)."""
        return tiled(lambda *pair: [self.network(*pair)], (visible, infrared), REACH, self.tile)[0]


def network(weights: Path | None) -> LRRNet:
    """Return the network with `weights`, or with random weights for None."""
    return filled(LRRNet(), weights)


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function that stretches each source to 0..1 and works tile by tile."""
    run = as_fuser(Tiled(network(weights)), device, precision, channels_last=True)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        return run(*(_stretched(255 * image) for image in (visible, infrared)))

    return fuse


def _stretched(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (np.ptp(image) + np.float32(EPSILON))


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Stretch the fused image to 0..1 and truncate its 8-bit values."""
    return truncated(_stretched(fused))


def stretched(images: Tensor) -> Tensor:
    """Stretch each image, (N, 1, H, W) in 0..255, to 0..1."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low + EPSILON)


def fusion_loss(network: LRRNet, vgg: Features, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the distances between values and between VGG-16's maps, all from images in 0..255."""
    vgg.to(visible.device)
    visible, infrared = 255 * visible, 255 * infrared
    fused = 255 * stretched(network(stretched(visible), stretched(infrared)))
    of_fused, of_visible, of_infrared = (vgg(image.expand(-1, 3, -1, -1)) for image in (fused, visible, infrared))

    def between(layer: int) -> Tensor:
        difference = of_fused[layer] - INFRARED_WEIGHT * of_infrared[layer] - VISIBLE_WEIGHT * of_visible[layer]
        return difference.square().mean()

    terms = {
        "values": VALUES_WEIGHT * (fused - visible).square().mean(),
        "shallow": SHALLOW_WEIGHT * (of_fused[0] - of_visible[0]).square().mean(),
        "middle": MIDDLE_WEIGHT * between(1),
        "deep": DEEP_WEIGHT * between(2),
        "style": STYLE_WEIGHT * (gram(of_fused[3]) - gram(of_infrared[3])).square().mean(),
    }
    return {"total": sum(terms.values()), **terms}


def training(frozen: Path | None) -> Training:
    """Return the authors' single phase; `frozen` is VGG-16's weights file, which is required."""
    vgg, trained = vgg16_features(frozen, LAYERS), network(None)
    choices = [
        "torchvision's VGG-16 on values in 0..255 without normalisation, as in the authors' code; the origin of the "
        "authors' VGG-16 weights is not documented",
        "random 128x128 crops with flips and rotations instead of whole images resized to 128x128",
    ]
    iterations = 4 * (20000 // 8)
    loss = partial(fusion_loss, trained, vgg)
    phase = Phase(
        "fusion",
        list(trained.parameters()),
        loss,
        lr=1e-5,
        weight_decay=0.9,
        iterations=iterations,
    )
    return Training(trained, [phase], crop=128, batch=8, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published(
        "github.com/hli1221/imagefusion-LRRNet",
        {FILE: "1de9dd8dee9b650ce69c74ea53e3b9a6b749222f1059a689aabf28f68ee63e29"},
    ),
    authors_output=authors_output,
    training=training,
)
