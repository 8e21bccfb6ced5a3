"""LRRNet: unrolled low-rank and sparse decomposition (Li et al., IEEE TPAMI 45(9), 2023).

Modules and parameters are named as the keys of the authors' checkpoint.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.borders import mirrored

MAPS = 128  # of the low-rank part, and as many of the sparse one
STEPS = 4
REACH = 2 * STEPS + 3  # pixels: how far a value of an image has an effect, one for each convolution on the way
TILE = 160  # pixels a side at most; the maps of a tile and what lies around it then take 30 MB, not half a gigabyte


class Convolution(nn.Module):
    """3x3 convolution with mirrored borders."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return self.conv2d(mirrored(x, 1))


class Step(nn.Module):
    """What a step learns: the image of the codes, and the codes of what it misses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_Wdz, self.conv_Wdtz = Convolution(2 * MAPS, 1), Convolution(1, 2 * MAPS)


class Extractor(nn.Module):
    """An image, (N, 1, H, W), to its codes, (N, 256, H, W): 128 low-rank maps, then 128 sparse ones."""

    def __init__(self) -> None:
        super().__init__()
        self.lamj, self.lamz = nn.Parameter(torch.rand(1, 2 * MAPS)), nn.Parameter(torch.rand(1, 1))
        self.conv_W00 = Convolution(1, 2 * MAPS)
        for step in range(STEPS):
            self.add_module(f"lrrblock{step}", Step())

    def shrink(self, codes: Tensor) -> Tensor:
        """Pull every value towards 0 by its map's threshold."""
        return codes.sign() * F.relu(codes.abs() - self.lamj.view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return the codes."""
        codes = self.shrink(self.conv_W00(image))
        for number in range(STEPS):
            step = self.get_submodule(f"lrrblock{number}")
            codes = self.shrink(self.lamz * codes + step.conv_Wdtz(image - step.conv_Wdz(codes)))
        return codes


class Decoder(nn.Module):
    """The codes of both sources to the fused image, (N, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        for part in ("ReZx", "ReUx", "ReZy", "ReUy"):
            self.add_module(f"conv_{part}", Convolution(MAPS, 1))
        self.conv_ReL, self.conv_ReH = Convolution(2, 1), Convolution(2, 1)

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the low-rank and the sparse part of the fused image."""
        (low_x, sparse_x), (low_y, sparse_y) = infrared.chunk(2, dim=1), visible.chunk(2, dim=1)
        low = self.conv_ReL(torch.cat([self.conv_ReZx(low_x), self.conv_ReZy(low_y)], dim=1))
        return low, self.conv_ReH(torch.cat([self.conv_ReUx(sparse_x), self.conv_ReUy(sparse_y)], dim=1))


class LRRNet(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W), not bounded; 49,204 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.get_ls1, self.get_ls2, self.decoder = Extractor(), Extractor(), Decoder()

    def parts(self, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor]:
        """Return the low-rank and the sparse part of the fused image."""
        return self.decoder(self.get_ls1(infrared), self.get_ls2(visible))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the sum of both parts."""
        low, sparse = self.parts(visible, infrared)
        return low + sparse


class Tiled(nn.Module):
    """The network, without gradients, on one tile after another: the maps of a whole image would take a gigabyte.

    Every tile sees all that has an effect on it, so that the image is the plain network's.
    """

    def __init__(self, network: LRRNet, tile: int = TILE) -> None:
        super().__init__()
        self.network, self.tile = network, tile

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Do as the network."""
        fused = torch.empty_like(visible)
        for top, bottom in self.cuts(visible.shape[2]):
            for left, right in self.cuts(visible.shape[3]):
                above, beside = min(top, REACH), min(left, REACH)
                seen = (..., slice(top - above, bottom + REACH), slice(left - beside, right + REACH))
                part = self.network(visible[seen], infrared[seen])[..., above:, beside:]
                fused[..., top:bottom, left:right] = part[..., : bottom - top, : right - left]
        return fused

    def cuts(self, side: int) -> list[tuple[int, int]]:
        """Return from where to where each of the tiles along a side goes, all about equally long."""
        count = -(-side // self.tile)
        return [(side * n // count, side * (n + 1) // count) for n in range(count)]
