"""MMDRFuse: the student network, two convolutions (Deng et al., ACM Multimedia 2024).

Modules and parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors'
student.model; the input is luma / 255. The authors fuse grey images of any size without changing them, and stretch
every fused image to the whole range, because the network's values do not reach the ends of the range.

It cannot be trained here; its entry in `METHODS` lists the inputs that the training requires.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from fusion.methods.method import Method, Published
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled, in_folder
from fusion.methods.parts.postprocessing import stretched
from fusion.methods.parts.running import loader

MAPS = 4
FILE = "student.model"


def convolution(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    """Return a 3x3 convolution with mirrored borders, followed by an activation."""
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), activation)


class Student(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in -1..1; 113 parameters.

    Any size works.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolution(2, MAPS, nn.ReLU()), convolution(MAPS, 1, nn.Tanh())

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        # Mirrored borders need at least two pixels a side.
        x = pad_to_multiple(torch.cat([infrared, visible], dim=1), 1, least=2)
        return self.conv2(self.conv1(x))[..., :height, :width]


def network(weights: Path | None) -> Student:
    """Return the network with `weights` (ours, the authors' file or its folder), or with random weights for None."""
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
