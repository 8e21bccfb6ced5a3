"""SAGE: the small distilled network that its authors deploy (Wu et al., CVPR 2025).

Modules and parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors'
checkpoints.pt; the input is luma / 255, visible first. The output is neither stretched nor truncated. The authors fuse
images of any size without changing them, and add the visible image's chroma (full range) afterwards.

It cannot be trained here; its entry in `METHODS` lists the inputs that the training requires.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Published
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled, in_folder
from fusion.methods.parts.running import loader

MAPS = 32
DEPTH = 3  # convolutions in a block
MIN_SIDE = 4  # pixels; the maps are halved twice
FILE = "checkpoints.pt"


def conv_norm_act(inputs: int, size: int = 3) -> list[nn.Module]:
    """Return a zero-padded convolution, batch normalisation and a leaky ReLU."""
    return [nn.Conv2d(inputs, MAPS, size, padding=size // 2), nn.BatchNorm2d(MAPS), nn.LeakyReLU(0.01)]


def conv_block(inputs: int) -> nn.Sequential:
    """Return the layers of the network at one scale."""
    return nn.Sequential(*(step for place in range(DEPTH) for step in conv_norm_act(MAPS if place else inputs)))


class SAGE(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in -1..1; 135,617 parameters.

    The maps are halved twice, and upsampled to the size of the maps with which they are concatenated. Any size works.
    """

    def __init__(self) -> None:
        super().__init__()
        self.module1, self.module2, self.module3 = conv_block(2), conv_block(MAPS), conv_block(MAPS)
        self.adjust_channels4, self.module4 = nn.Sequential(*conv_norm_act(2 * MAPS, size=1)), conv_block(MAPS)
        self.adjust_channels5, self.module5 = nn.Sequential(*conv_norm_act(2 * MAPS, size=1)), conv_block(MAPS)
        self.final_decoder = nn.Sequential(nn.Conv2d(MAPS, 1, 3, padding=1), nn.Tanh())

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        x1 = self.module1(pad_to_multiple(torch.cat([visible, infrared], dim=1), 1, MIN_SIDE))
        x2 = self.module2(F.max_pool2d(x1, 2))
        x3 = self.module3(F.max_pool2d(x2, 2))
        x4 = self.module4(self.adjust_channels4(upsample_and_concatenate(x3, x2)))
        x5 = self.module5(self.adjust_channels5(upsample_and_concatenate(x4, x1)))
        return self.final_decoder(x5)[..., :height, :width]


def upsample_and_concatenate(small: Tensor, large: Tensor) -> Tensor:
    """Return the small maps, upsampled bilinearly to the size of the large maps, followed by the large maps."""
    return torch.cat([F.interpolate(small, large.shape[2:], mode="bilinear", align_corners=False), large], dim=1)


def network(weights: Path | None) -> SAGE:
    """Return the network with `weights` (ours, the authors' file or its folder), or with random weights for None."""
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
