"""U2Fusion: a densely connected network (Xu, Ma, Jiang, Guo, Ling, IEEE TPAMI 44(1), 2022).

g_1, g_2 (Eq. 3)      information
omega_1, omega_2 (4)  shares
c                     temperature
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.borders import continued

GROWTH, DENSE = 44, 5  # maps that every layer adds, and layers that add to what came before
DECODER = (128, 64, 32, 1)
SLOPE = 0.2
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
SIDE = 224  # pixels that the measured images are resized to


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution with mirrored borders, started as the authors do."""
    made = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
    nn.init.trunc_normal_(made.weight, std=0.05, a=-0.1, b=0.1)
    nn.init.zeros_(made.bias)
    return made


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
        # A side of one pixel has no neighbour for the mirrored borders.
        x = continued(torch.cat([visible, infrared], dim=1), 1, least=2)
        x = F.leaky_relu(self.first(x), SLOPE)
        for layer in self.dense:
            x = torch.cat([F.leaky_relu(layer(x), SLOPE), x], dim=1)
        for layer in self.decoder[:-1]:
            x = F.leaky_relu(layer(x), SLOPE)
        return (self.decoder[-1](x).tanh() / 2 + 0.5)[..., :height, :width]


def information(maps: Sequence[Tensor]) -> Tensor:
    """Return each image's mean squared Laplacian of its feature maps, mean over the layers: (N,)."""
    kernel = torch.full((1, 1, 3, 3), 1 / 8, device=maps[0].device)
    kernel[..., 1, 1] = -1
    means = []
    for layer in maps:
        single = layer.flatten(0, 1).unsqueeze(1)  # every map by itself
        means.append(F.conv2d(single, kernel, padding=1).square().mean((1, 2, 3)).view(layer.shape[:2]).mean(1))
    return torch.stack(means).mean(0)


def shares(
    features: Callable[[Tensor], Sequence[Tensor]], visible: Tensor, infrared: Tensor, temperature: float
) -> Tensor:
    """Return how much of the loss either source gets, (2, N), by the information in its feature maps."""
    with torch.no_grad():
        both = torch.cat([visible, infrared])
        found = information(features(F.interpolate(both, size=(SIDE, SIDE), mode="nearest")))
    return torch.softmax(found.view(2, -1) / temperature, dim=0)
