"""MDA: features at three sizes, fused by channel and by place (Yang et al., Neurocomputing 2024, arXiv 2312.04328).

Modules and parameters are named as the keys of the authors' checkpoint.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.borders import continued

MAPS, SQUEEZED = 32, 4
MULTIPLE = 8  # of which the sides must be


def conv(inputs: int = MAPS, outputs: int = MAPS, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with borders of zeros."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def doubling(outputs: int = MAPS) -> nn.ConvTranspose2d:
    """Return a transposed convolution that doubles the sides."""
    return nn.ConvTranspose2d(MAPS, outputs, 3, stride=2, padding=1, output_padding=1)


class ResDown(nn.Module):
    """(N, 32, H, W) to (N, 32, H / stride, W / stride)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.res = nn.Sequential(conv(), nn.PReLU(), conv(), nn.PReLU(), conv(stride=stride), conv())
        self.down_conv = nn.Sequential(conv(), conv(stride=stride), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        return self.res(x) + self.down_conv(x)


class ResUp(nn.Module):
    """(N, 32, H, W) to (N, outputs, 2 H, 2 W)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.res = nn.Sequential(conv(), nn.PReLU(), conv(), nn.PReLU(), doubling(), conv(outputs=outputs))
        self.up_conv = nn.Sequential(conv(), doubling(outputs), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        return self.res(x) + self.up_conv(x)


class ChannelMap(nn.Module):
    """A gate for every channel of each band."""

    def __init__(self) -> None:
        super().__init__()
        self.channel_down = nn.Sequential(nn.Conv2d(MAPS, SQUEEZED, 1), nn.PReLU())
        self.channel_up1 = nn.Sequential(nn.Conv2d(SQUEEZED, MAPS, 1), nn.Sigmoid())
        self.channel_up2 = nn.Sequential(nn.Conv2d(SQUEEZED, MAPS, 1), nn.Sigmoid())
        self.up = nn.Sequential(doubling(), nn.PReLU())

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return both gates, (N, 32, 1, 1)."""
        infrared = infrared if infrared.shape == visible.shape else self.up(infrared)
        squeezed = self.channel_down((infrared + visible).mean((2, 3), keepdim=True))
        return self.channel_up1(squeezed), self.channel_up2(squeezed)


class SpatialMap(nn.Module):
    """A gate for every value of each band."""

    def __init__(self) -> None:
        super().__init__()
        self.trans_conv = nn.Sequential(doubling(), nn.PReLU())
        self.conv_fusion = nn.Sequential(nn.Conv2d(2 * MAPS, MAPS, 1), nn.PReLU())
        self.down = nn.Sequential(conv(stride=2), nn.PReLU())
        self.up1 = nn.Sequential(doubling(), nn.Sigmoid())
        self.up2 = nn.Sequential(doubling(), nn.Sigmoid())

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return both gates, (N, 32, H, W)."""
        infrared = infrared if infrared.shape == visible.shape else self.trans_conv(infrared)
        seen = self.down(self.conv_fusion(torch.cat([infrared, visible], dim=1)))
        return self.up1(seen), self.up2(seen)


class FusionBlock(nn.Module):
    """Adds both bands' maps, gated by channel and by place; infrared ones may have half the sides."""

    def __init__(self) -> None:
        super().__init__()
        self.channel_map, self.spatial_map = ChannelMap(), SpatialMap()
        self.up = nn.Sequential(doubling(), nn.ReLU())
        self.one = nn.Conv2d(2 * MAPS, MAPS, 1)  # made and never used, as in the authors' code

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """(N, 32, H, W) of visible's size."""
        channels, places = self.channel_map(infrared, visible), self.spatial_map(infrared, visible)
        raised = infrared if infrared.shape == visible.shape else self.up(infrared)
        return raised * channels[0] * places[0] + visible * channels[1] * places[1]


class MDA(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 516,120 parameters.

    Any size works: sides that are no multiples of 8 are continued by mirroring, and cropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.input = conv(1)
        self.downsample_1x, self.downsample_2x = ResDown(1), ResDown(2)
        self.downsample_4x = nn.Sequential(ResDown(2), ResDown(2))
        self.upsample_2x = ResUp(16)
        self.upsample_4x = nn.Sequential(ResUp(MAPS), ResUp(8))
        self.fusion_1x, self.fusion_2x = FusionBlock(), FusionBlock()
        self.output = nn.Sequential(conv(2 * MAPS + 2 * 16 + 8), conv(outputs=1))

    def used_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that have an effect."""
        same = self.fusion_1x  # whose inputs have equal sizes
        parts = [same.one, self.fusion_2x.one, same.up, same.channel_map.up, same.spatial_map.trans_conv]
        unused = {id(parameter) for part in parts for parameter in part.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in unused]

    def features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return an image's maps at whole, half and quarter size."""
        maps = self.input(image)
        return self.downsample_1x(maps), self.downsample_2x(maps), self.downsample_4x(maps)

    def fuse(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Fuse infrared maps a and visible maps b: sizes 1 and 1, 2 and 1, 2 and 2, 4 and 2, 4 and 4."""
        return (
            self.fusion_1x(a[0], b[0]),
            self.fusion_2x(a[1], b[0]),
            self.fusion_1x(a[1], b[1]),
            self.fusion_2x(a[2], b[1]),
            self.fusion_1x(a[2], b[2]),
        )

    def decode(self, f11: Tensor, f12: Tensor, f22: Tensor, f24: Tensor, f44: Tensor) -> Tensor:
        """Return the image of the fused maps."""
        raised = [self.upsample_2x(f22), self.upsample_2x(f24), self.upsample_4x(f44)]
        return torch.tanh(self.output(torch.cat([f11, f12, *raised], dim=1))) / 2 + 0.5

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Find maps of both, fuse them, decode."""
        size = visible.shape[2:]
        visible, infrared = (continued(image, MULTIPLE) for image in (visible, infrared))
        fused = self.decode(*self.fuse(self.features(infrared), self.features(visible)))
        return fused[..., : size[0], : size[1]]


# --- What its losses measure -----------------------------------------------------------------------------------------


def laplacian_of_gaussian() -> Tensor:
    """Return the authors' 9x9 kernel, (1, 1, 9, 9); its seventh row is not symmetric there either."""
    rows = [
        [0, 1, 1, 2, 2, 2, 1, 1, 0],
        [1, 2, 4, 5, 5, 5, 4, 2, 1],
        [1, 4, 5, 3, 0, 3, 5, 4, 1],
        [2, 5, 3, -12, -24, -12, 3, 5, 2],
        [2, 5, 0, -24, -40, -24, 0, 5, 2],
        [2, 5, 3, -12, -24, -12, 3, 5, 2],
        [1, 4, 5, 3, 0, 3, 4, 4, 1],
        [1, 2, 4, 5, 5, 5, 4, 2, 1],
        [0, 1, 1, 2, 2, 2, 1, 1, 0],
    ]
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def edges(maps: Tensor, padding: int) -> Tensor:
    """Filter 255 times each map alone by the kernel, zeros around it: (N, C, H, W), smaller by 8 - 2 padding."""
    count, channels, height, width = maps.shape
    alone = 255 * maps.reshape(count * channels, 1, height, width)
    found = F.conv2d(alone, laplacian_of_gaussian().to(maps), padding=padding)
    return found.view(count, channels, *found.shape[2:])
