"""MMDRFuse: the student, two convolutions (Deng et al., ACM Multimedia 2024).

Modules and parameters are named as the keys of the authors' checkpoint. Weights are ours or the authors'
student.model; luma / 255 goes in. The authors take grey images as they are, of any size, and stretch every fused image
to the whole range: the network's own values leave out its ends.

It cannot be trained here: `METHODS` says what that takes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from fusion.methods.method import Method, Published
from fusion.methods.parts.borders import continued
from fusion.methods.parts.filling import filled, in_folder
from fusion.methods.parts.finishing import stretched
from fusion.methods.parts.running import loader

MAPS = 4
FILE = "student.model"


def layer(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    """Return a 3x3 convolution with mirrored borders, and what follows it."""
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), activation)


class Student(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in -1..1; 113 parameters.

    Any size works.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = layer(2, MAPS, nn.ReLU()), layer(MAPS, 1, nn.Tanh())

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        # A side of one pixel has no neighbour for the mirrored borders.
        x = continued(torch.cat([infrared, visible], dim=1), 1, least=2)
        return self.conv2(self.conv1(x))[..., :height, :width]


def network(weights: Path | None) -> Student:
    """Return the network, filled from `weights` (ours, the authors' file or its folder) or with random ones."""
    return filled(Student(), weights, in_folder(FILE))


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/yanglinDeng/MMDRFuse",
        {FILE: "e5ad5bab796f4480dbbc35a8f6f63e69ba3ccd1842476d2c2453ca1aca6eb17c"},
    ),
    authors_output=stretched,
)
