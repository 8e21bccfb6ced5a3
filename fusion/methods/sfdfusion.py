"""SFDFusion: fusion in the spatial and in the frequency domain (ECAI 2024).

Modules and parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors'
model-1_1_10_1.pth; the input is luma / 255. The network itself stretches its output. The authors fuse unrounded luma
and crop images to even sides; here the last fused row or column is repeated in place of a cropped one.

It cannot be trained here; its entry in `METHODS` lists the inputs that the training requires.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Published
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled, in_folder
from fusion.methods.parts.layers import convolution
from fusion.methods.parts.postprocessing import truncated
from fusion.methods.parts.running import loader

WIDTH = 8  # maps of each source's details, and of the frequency domain's features
EPSILON = 1e-8  # the authors add it to the real and the imaginary part of the fused spectrum
FILE = "model-1_1_10_1.pth"


class SpectrumFusion(nn.Module):
    """Fuses the amplitudes or the phases of both sources by two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(convolution(2, 1), nn.LeakyReLU(0.1), convolution(1, 1), nn.LeakyReLU(0.1))

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """Map (N, 1, H, W) each to the same shape."""
        return self.conv1(torch.cat([infrared, visible], dim=1))


class PixelAttention(nn.Module):
    """Multiplies every value of the maps by a weight in 0..1 that a convolution of the maps gives."""

    def __init__(self) -> None:
        super().__init__()
        self.att = nn.Sequential(convolution(WIDTH, WIDTH), nn.Sigmoid())

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, 8, H, W) to the same shape."""
        return maps * self.att(maps)


class Gradient(nn.Module):
    """Sum of the magnitudes of both derivatives of each map; the trained kernels are initialised as Sobel kernels."""

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        for name, kernel in (("convx", across), ("convy", across.T)):
            layer = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False)
            layer.weight.data.copy_(kernel.expand_as(layer.weight))
            self.add_module(name, layer)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, 8, H, W) to the same shape."""
        return self.convx(maps).abs() + self.convy(maps).abs()


class DualModalityRefinement(nn.Module):
    """The paper's dual-modality refinement module (DMRM): for each source, the sum of three maps.

    These are its own attended features, the attended sum of both sources' features, and its gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        for band in ("ir", "vi"):
            self.add_module(f"{band}_embed", nn.Sequential(convolution(1, WIDTH), nn.ReLU()))
            self.add_module(f"{band}_att1", PixelAttention())
            self.add_module(f"{band}_att2", PixelAttention())
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

    Any size works. Every input value affects the whole fused image, by the Fourier transform and by the stretch to the
    whole range.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ff1, self.ff2 = SpectrumFusion(), SpectrumFusion()
        self.ifft, self.fus_block = nn.Module(), nn.Module()
        self.ifft.conv1 = nn.Sequential(convolution(2, 4), nn.ReLU(), convolution(4, WIDTH), nn.ReLU())
        self.dmrm = DualModalityRefinement()
        self.fus_block.encoder = nn.Sequential(convolution(3 * WIDTH, 32), nn.ReLU())
        widths = ((32, 128), (128, 64), (64, 32), (32, 1))
        self.fus_block.down_conv = nn.Sequential(
            *(nn.Sequential(convolution(*pair), nn.Tanh() if pair[1] == 1 else nn.ReLU()) for pair in widths)
        )

    def frequency_domain_fusion(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the image with the fused amplitudes and phases, (N, 1, H, W); sides must be even."""
        infrared, visible = torch.fft.rfft2(infrared), torch.fft.rfft2(visible)
        amplitude, phase = self.ff1(infrared.abs(), visible.abs()), self.ff2(infrared.angle(), visible.angle())
        spectrum = torch.complex(amplitude * phase.cos() + EPSILON, amplitude * phase.sin() + EPSILON)
        return torch.fft.irfft2(spectrum).abs()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        visible, infrared = (crop_to_even(pad_to_multiple(image, 1, least=2)) for image in (visible, infrared))
        # The authors concatenate the mean and the maximum over its maps; with one map, both are equal.
        spectral = self.ifft.conv1(self.frequency_domain_fusion(visible, infrared).expand(-1, 2, -1, -1))
        x = self.fus_block.encoder(torch.cat([*self.dmrm(infrared, visible), spectral], dim=1))
        fused = self.fus_block.down_conv(x)
        low, high = fused.amin((1, 2, 3), keepdim=True), fused.amax((1, 2, 3), keepdim=True)
        # A constant image becomes black; the authors' code divides by zero.
        fused = (fused - low) / (high - low).clamp_min(torch.finfo(fused.dtype).tiny)
        return F.pad(fused, (0, width % 2, 0, height % 2), mode="replicate")[..., :height, :width]


def crop_to_even(image: Tensor) -> Tensor:
    """Return an image, (N, 1, H, W), without the last row or column if the height or width is odd."""
    return image[..., : image.shape[2] // 2 * 2, : image.shape[3] // 2 * 2]


def network(weights: Path | None) -> SFDFusion:
    """Return the network with `weights` (ours, the authors' file or its folder), or with random weights for None."""
    return filled(SFDFusion(), weights, in_folder(FILE))


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/lqz2/SFDFusion", {FILE: "65307415ea2f05ee158cce94e0b3ee4565fef77cfcee2707c81cf4be5f078032"}
    ),
    authors_output=truncated,
    bf16_on=(),  # bfloat16 has too few digits for the phases of a spectrum
)
