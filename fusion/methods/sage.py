"""SAGE: the small network that its authors distil and deploy (Wu et al., CVPR 2025).

Modules and parameters are named as the keys of the authors' checkpoint. Weights are ours or the authors'
checkpoints.pt; luma / 255 goes in, visible first, and what comes out is neither stretched nor cut off. The authors take
images as they are, of any size, and put the visible chroma (full range) back.

It cannot be trained here: `METHODS` says what that takes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Published
from fusion.methods.parts.borders import continued
from fusion.methods.parts.filling import filled, in_folder
from fusion.methods.parts.running import loader

MAPS = 32
DEPTH = 3  # layers of a module
LEAST = 4  # pixels a side that can be halved twice
FILE = "checkpoints.pt"


def layer(inputs: int, size: int = 3) -> list[nn.Module]:
    """Return a convolution with borders of zeros, batch normalisation and a leaky ReLU."""
    return [nn.Conv2d(inputs, MAPS, size, padding=size // 2), nn.BatchNorm2d(MAPS), nn.LeakyReLU(0.01)]


def module(inputs: int) -> nn.Sequential:
    """Return the layers at one size."""
    return nn.Sequential(*(step for place in range(DEPTH) for step in layer(MAPS if place else inputs)))


class SAGE(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in -1..1; 135,617 parameters.

    Maps are halved twice and raised again to the size of those that they join, so that any size works.
    """

    def __init__(self) -> None:
        super().__init__()
        self.module1, self.module2, self.module3 = module(2), module(MAPS), module(MAPS)
        self.adjust_channels4, self.module4 = nn.Sequential(*layer(2 * MAPS, size=1)), module(MAPS)
        self.adjust_channels5, self.module5 = nn.Sequential(*layer(2 * MAPS, size=1)), module(MAPS)
        self.final_decoder = nn.Sequential(nn.Conv2d(MAPS, 1, 3, padding=1), nn.Tanh())

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        x1 = self.module1(continued(torch.cat([visible, infrared], dim=1), 1, LEAST))
        x2 = self.module2(F.max_pool2d(x1, 2))
        x3 = self.module3(F.max_pool2d(x2, 2))
        x4 = self.module4(self.adjust_channels4(joined(x3, x2)))
        x5 = self.module5(self.adjust_channels5(joined(x4, x1)))
        return self.final_decoder(x5)[..., :height, :width]


def joined(small: Tensor, large: Tensor) -> Tensor:
    """Return maps raised to the size of others, bilinearly, and those others after them."""
    return torch.cat([F.interpolate(small, large.shape[2:], mode="bilinear", align_corners=False), large], dim=1)


def network(weights: Path | None) -> SAGE:
    """Return the network, filled from `weights` (ours, the authors' file or its folder) or with random ones."""
    return filled(SAGE(), weights, in_folder(FILE))


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/RollingPlain/SAGE_IVIF",
        {FILE: "ecfde477ca4cd65401f207d5dc91ce6c475a49891d768dbdb7a66366255ee836"},
        licence="MIT",
    ),
)
