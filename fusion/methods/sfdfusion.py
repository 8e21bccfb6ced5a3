"""SFDFusion: details of both sources and one image from their spectra, joined (ECAI 2024).

Modules and parameters are named as the keys of the authors' checkpoint. Weights are ours or the authors'
model-1_1_10_1.pth; luma / 255 goes in, and the network itself stretches what comes out. The authors fuse unrounded
luma, and crop images to even sides; here the fused row or column next to one that is cropped is repeated in its place.

It cannot be trained here: `METHODS` says what that takes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Published
from fusion.methods.parts.borders import continued
from fusion.methods.parts.filling import filled, in_folder
from fusion.methods.parts.finishing import cut_off
from fusion.methods.parts.layers import convolution
from fusion.methods.parts.running import loader

WIDTH = 8  # maps of either source's details, and of the spectra
TINY = 1e-8  # the authors add it to both parts of the fused spectrum
FILE = "model-1_1_10_1.pth"


class Spectra(nn.Module):
    """Fuses amplitudes, or phases: two convolutions from two maps to one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(convolution(2, 1), nn.LeakyReLU(0.1), convolution(1, 1), nn.LeakyReLU(0.1))

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """(N, 1, H, W) each to the same."""
        return self.conv1(torch.cat([infrared, visible], dim=1))


class Gate(nn.Module):
    """Weighs maps, value by value, by what a convolution says of them."""

    def __init__(self) -> None:
        super().__init__()
        self.att = nn.Sequential(convolution(WIDTH, WIDTH), nn.Sigmoid())

    def forward(self, maps: Tensor) -> Tensor:
        """(N, 8, H, W) to the same."""
        return maps * self.att(maps)


class Gradient(nn.Module):
    """Both derivatives of each map, added by their size; the kernels start as Sobel's and are trained."""

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        for name, kernel in (("convx", across), ("convy", across.T)):
            made = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False)
            made.weight.data.copy_(kernel.expand_as(made.weight))
            self.add_module(name, made)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, 8, H, W) to the same."""
        return self.convx(maps).abs() + self.convy(maps).abs()


class Details(nn.Module):
    """What either source shows alone, what both show, and the source's edges."""

    def __init__(self) -> None:
        super().__init__()
        for band in ("ir", "vi"):
            self.add_module(f"{band}_embed", nn.Sequential(convolution(1, WIDTH), nn.ReLU()))
            self.add_module(f"{band}_att1", Gate())
            self.add_module(f"{band}_att2", Gate())
            self.add_module(f"grad_{band}", Gradient())

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps of infrared and of visible, (N, 8, H, W) each."""
        infrared, visible = self.ir_embed(infrared), self.vi_embed(visible)
        both = infrared + visible
        return (
            self.ir_att1(infrared) + self.ir_att2(both) + self.grad_ir(infrared),
            self.vi_att1(visible) + self.vi_att2(both) + self.grad_vi(visible),
        )


class SFDFusion(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1. 139,695 parameters.

    Any size works. One value of an image has an effect on all of the fused one, which is stretched to the whole range.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ff1, self.ff2 = Spectra(), Spectra()
        self.ifft, self.fus_block = nn.Module(), nn.Module()
        self.ifft.conv1 = nn.Sequential(convolution(2, 4), nn.ReLU(), convolution(4, WIDTH), nn.ReLU())
        self.dmrm = Details()
        self.fus_block.encoder = nn.Sequential(convolution(3 * WIDTH, 32), nn.ReLU())
        widths = ((32, 128), (128, 64), (64, 32), (32, 1))
        self.fus_block.down_conv = nn.Sequential(
            *(nn.Sequential(convolution(*pair), nn.Tanh() if pair[1] == 1 else nn.ReLU()) for pair in widths)
        )

    def spectral(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the image whose amplitudes and phases are fused, (N, 1, H, W) for even sides."""
        infrared, visible = torch.fft.rfft2(infrared), torch.fft.rfft2(visible)
        amplitude, phase = self.ff1(infrared.abs(), visible.abs()), self.ff2(infrared.angle(), visible.angle())
        spectrum = torch.complex(amplitude * phase.cos() + TINY, amplitude * phase.sin() + TINY)
        return torch.fft.irfft2(spectrum).abs()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        visible, infrared = (even(continued(image, 1, least=2)) for image in (visible, infrared))
        # The authors take the mean and the maximum of its maps, of which there is one.
        spectral = self.ifft.conv1(self.spectral(visible, infrared).expand(-1, 2, -1, -1))
        x = self.fus_block.encoder(torch.cat([*self.dmrm(infrared, visible), spectral], dim=1))
        fused = self.fus_block.down_conv(x)
        low, high = fused.amin((1, 2, 3), keepdim=True), fused.amax((1, 2, 3), keepdim=True)
        # A constant image, which the authors divide by zero, becomes black.
        fused = (fused - low) / (high - low).clamp_min(torch.finfo(fused.dtype).tiny)
        return F.pad(fused, (0, width % 2, 0, height % 2), mode="replicate")[..., :height, :width]


def even(image: Tensor) -> Tensor:
    """Return an image, (N, 1, H, W), without the last row or column of a side that is odd."""
    return image[..., : image.shape[2] // 2 * 2, : image.shape[3] // 2 * 2]


def network(weights: Path | None) -> SFDFusion:
    """Return the network, filled from `weights` (ours, the authors' file or its folder) or with random ones."""
    return filled(SFDFusion(), weights, in_folder(FILE))


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/lqz2/SFDFusion", {FILE: "65307415ea2f05ee158cce94e0b3ee4565fef77cfcee2707c81cf4be5f078032"}
    ),
    authors_output=cut_off,
    bf16_on=(),  # phases of an image's spectrum need more digits
)
