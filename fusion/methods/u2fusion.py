"""U2Fusion: a densely connected network (Xu, Ma, Jiang, Guo, Ling, IEEE TPAMI 44(1), 2022).

Paper                    here
g_1, g_2 (Eq. 3)         information
omega_1, omega_2 (Eq. 4) preservation_degrees
c                        temperature
lambda (Eq. 6)           MSE_WEIGHT

The weights are a file of ours or the authors' TensorFlow checkpoint; the input is luma / 255. The authors scale every
fused image so that its brightest pixel is 255.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Phase, Published, Training
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled, read_tensorflow, renamed
from fusion.methods.parts.layers import correlate_maps
from fusion.methods.parts.postprocessing import divided_by_maximum
from fusion.methods.parts.running import loader
from fusion.methods.parts.vgg import normalised, vgg16_features
from fusion.training.similarity import ssim_inside

GROWTH, DENSE = 44, 5  # maps that every dense layer adds, and number of dense layers
DECODER = (128, 64, 32, 1)
SLOPE = 0.2
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
SIDE = 224  # pixels; images are resized to this side before their information is measured
# The authors divide g by 3200, with maps of a VGG-16 for images in 0..255. torchvision's VGG-16 takes images divided by
# 0.226 * 255 (0.226 is the mean of its three deviations), so its squared maps are smaller by the square of that factor.
TEMPERATURE = 3200 / (0.226 * 255) ** 2
MSE_WEIGHT = 20.0  # lambda of Eq. 6


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution with mirrored borders and the authors' initialisation."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
    nn.init.trunc_normal_(layer.weight, std=0.05, a=-0.1, b=0.1)
    nn.init.zeros_(layer.bias)
    return layer


class U2Fusion(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1.

    659,217 parameters. Any size works.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(2, GROWTH)
        self.dense = nn.ModuleList(convolution(GROWTH * (k + 1), GROWTH) for k in range(DENSE))
        widths = (GROWTH * (DENSE + 1), *DECODER)
        self.decoder = nn.ModuleList(convolution(a, b) for a, b in pairwise(widths))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        # Mirrored borders need at least two pixels a side.
        x = pad_to_multiple(torch.cat([visible, infrared], dim=1), 1, least=2)
        x = F.leaky_relu(self.first(x), SLOPE)
        for layer in self.dense:
            x = torch.cat([F.leaky_relu(layer(x), SLOPE), x], dim=1)
        for layer in self.decoder[:-1]:
            x = F.leaky_relu(layer(x), SLOPE)
        return (self.decoder[-1](x).tanh() / 2 + 0.5)[..., :height, :width]


# Patterns of the authors' variables, and our keys.
_AUTHORS_KEYS = [
    (r"^Generator/encoder/conv1_1/", lambda match: "first."),
    (r"^Generator/encoder/dense_block_conv([1-5])/", lambda match: f"dense.{int(match[1]) - 1}."),
    (r"^Generator_1/decoder/conv2_([1-4])/", lambda match: f"decoder.{int(match[1]) - 1}."),
    (r"\.kernel$", ".weight"),
]


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the variables of the authors' checkpoint to our keys; keys that are already ours stay."""
    return renamed(state, _AUTHORS_KEYS)


def network(weights: Path | None) -> U2Fusion:
    """Return the network with `weights` (ours, or the authors' folder), or with random weights for None."""
    return filled(U2Fusion(), weights, read_tensorflow, from_authors)


def information(maps: Sequence[Tensor]) -> Tensor:
    """Return the mean squared Laplacian of each image's feature maps, averaged over the layers: (N,)."""
    kernel = torch.full((3, 3), 1 / 8, device=maps[0].device)
    kernel[1, 1] = -1
    means = [correlate_maps(layer, kernel, padding=1).square().mean((2, 3)).mean(1) for layer in maps]
    return torch.stack(means).mean(0)


def preservation_degrees(
    features: Callable[[Tensor], Sequence[Tensor]], visible: Tensor, infrared: Tensor, temperature: float
) -> Tensor:
    """Return the weight of each source in the loss, (2, N), from the information in its feature maps."""
    with torch.no_grad():
        both = torch.cat([visible, infrared])
        measured = information(features(F.interpolate(both, size=(SIDE, SIDE), mode="nearest")))
    return torch.softmax(measured.view(2, -1) / temperature, dim=0)


def training(frozen: Path | None) -> Training:
    """Return the first of the authors' three tasks, visible and infrared.

    `frozen` is VGG-16's weights file, which is required.
    """
    trained, vgg = network(None), vgg16_features(frozen, LAYERS)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        vgg.to(visible.device)
        weights = preservation_degrees(lambda images: vgg(normalised(images)), visible, infrared, TEMPERATURE)
        fused = trained(visible, infrared)
        structure, values = 0, 0
        for weight, source in zip(weights, (visible, infrared), strict=True):
            structure = structure + (weight * (1 - ssim_inside(source, fused))).mean()
            # As in the authors' code, the mean weight times the mean error, not the mean of the products.
            values = values + MSE_WEIGHT * weight.mean() * (source - fused).square().mean()
        return {"total": structure + values, "ssim": structure, "mse": values}

    choices = [
        "Adam instead of RMSProp (decay 0.6, momentum 0.15), and no clipping of weights to -50..50",
        "torchvision's VGG-16 instead of Caffe's, with the temperature c divided by the square of its input scale",
        "only visible and infrared fusion; elastic weight consolidation is not needed without the other two tasks",
        "the sources are not swapped at random; the order is always visible, infrared",
    ]
    phase = Phase("visible and infrared", list(trained.parameters()), loss, lr=1e-4)
    return Training(trained, [phase], crop=64, batch=18, choices=choices)


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/hanna-xu/U2Fusion",
        {
            "model.ckpt.data-00000-of-00001": "e50cada8d4ec92f2577ad5db5d212fba521dffb35d04e00a20364b43512c64c8",
            "model.ckpt.index": "15b7d283a1de8f616cc42978346bd24d47a9c380d624370368b956beb593014e",
        },
    ),
    authors_output=divided_by_maximum,
    training=training,
)
