"""AUIFNet: two-scale decomposition by unrolled gradient descent (Zhao et al., IEEE TCSVT 2021).

Each encoder starts from a fixed filter of the image and takes ten steps; both sources share its weights. Modules and
parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors' folder of
three files; the input is luma / 255, and the output is not stretched.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.borders import pad_mirrored
from fusion.methods.parts.filling import filled
from fusion.methods.parts.running import as_fuser
from fusion.methods.parts.schedules import tenth_after
from fusion.training.similarity import dissimilarity
from fusion.weights import read_state

STEPS = 10
MAPS = 64
FILES = {
    "TCSVT_Encoder_Base.model": "c4fe51b85637e3befc89b27e3cbb7a765aea37871eb4da4f58b471680ce7eb72",
    "TCSVT_Encoder_Detail.model": "92e1ad6a4b7e5a2acc442a3a57c3b0e48a2af262f487942e42d81334de204726",
    "TCSVT_Decoder.model": "7966d490bb4003821c8f20ce1197c22d020ab986850571c5dfa02b0defad8ad3",
}
EPOCHS, FIRST_EPOCHS = 80, 41  # all epochs, and those before the rates are divided by 10


def box(image: Tensor, side: int) -> Tensor:
    """Return the mean over a square of odd `side` around each pixel, with borders mirrored about the edge pixels."""
    return F.avg_pool2d(pad_mirrored(image, side // 2), side, stride=1)


class DescentStep(nn.Module):
    """One step of gradient descent: x - eta (r - theta (image - x)), with r from a kernel and its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(MAPS, 1, 3, 3))
        self.eta = nn.Parameter(torch.normal(torch.tensor([0.1]), 0.03))
        self.theta = nn.Parameter(torch.normal(torch.tensor([1e-3]), 1e-4))
        self.rest = nn.Sequential(nn.BatchNorm2d(1), nn.PReLU())

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Map state x and image, (N, 1, H, W) each, to the next state."""
        return self.descend(x, self.filtered(x), image)

    def filtered(self, x: Tensor) -> Tensor:
        """Return x filtered by the kernel and its transpose, each with a mirrored border of one pixel."""
        maps = F.conv2d(pad_mirrored(x, 1), self.kernel)
        return F.conv2d(pad_mirrored(maps, 1), self.kernel.flip(2, 3).transpose(0, 1))

    def descend(self, x: Tensor, filtered: Tensor, image: Tensor) -> Tensor:
        """Return the next state from the state x and its filtered version."""
        return x - self.eta * (self.rest(filtered) - self.theta * (image - x))


class AUIFNet(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 11,631 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.ModuleList(DescentStep() for _ in range(STEPS))
        self.conv2 = nn.ModuleList(DescentStep() for _ in range(STEPS))
        # The authors' first layer is a padding without parameters.
        self.decoder = nn.Sequential(nn.Identity(), nn.Conv2d(1, 1, 3, bias=False), nn.BatchNorm2d(1))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the base and the detail of an image, (N, 1, H, W) each."""
        wide = box(image, 19)
        base, detail = box(image, 11), (361 * wide - 361 * image) / 720
        for step in self.conv1:
            base = step(base, image)
        for step in self.conv2:
            detail = step(detail, image)
        return base, detail

    def decode(self, base: Tensor, detail: Tensor) -> Tensor:
        """Decode a base and a detail into an image."""
        return torch.sigmoid(self.decoder(pad_mirrored(base + detail, 1)))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma, decoded from the sums of the sources' bases and details."""
        (base, detail), (other_base, other_detail) = self.encode(infrared), self.encode(visible)
        return self.decode(base + other_base, detail + other_detail)


class CollapsedStep(nn.Module):
    """A trained step with its kernel and its transpose merged: 25 multiply-adds per pixel instead of 1,152.

    The merged kernel is 5x5. Both convolutions are linear, with only the mirrored padding of the 64 maps between them,
    so only the outermost pixels need both convolutions, which are computed on strips of three pixels.
    """

    def __init__(self, step: DescentStep) -> None:
        super().__init__()
        self.step = step
        kernel = step.kernel.detach().double()
        impulse = torch.zeros(1, 1, 9, 9, dtype=kernel.dtype)
        impulse[..., 4, 4] = 1  # the response to an impulse is the merged kernel, flipped
        response = F.conv2d(F.conv2d(impulse, kernel), kernel.flip(2, 3).transpose(0, 1))
        self.register_buffer("kernel", response.flip(2, 3).to(step.kernel.dtype))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Return the next state, without gradients."""
        if min(x.shape[2:]) < 3:
            return self.step(x, image)
        filtered = F.conv2d(pad_mirrored(x, 1), self.kernel, padding=1)  # the outermost pixels are wrong, and replaced
        for end, strip in ((0, slice(3)), (-1, slice(-3, None))):
            filtered[:, :, end] = self.step.filtered(x[:, :, strip])[:, :, end]
            filtered[..., end] = self.step.filtered(x[..., strip])[..., end]
        return self.step.descend(x, filtered, image)


def collapse(network: AUIFNet) -> AUIFNet:
    """Change the network to use collapsed steps, and return it; its weights must not change afterwards."""
    network.conv1 = nn.ModuleList(CollapsedStep(step) for step in network.conv1)
    network.conv2 = nn.ModuleList(CollapsedStep(step) for step in network.conv2)
    return network


def network(weights: Path | None) -> AUIFNet:
    """Return the network with `weights` (a file of ours, or the authors' folder), or with random weights for None."""

    def read(path: Path) -> dict[str, Tensor]:
        parts = [path / name for name in FILES] if path.is_dir() else [path]
        return {key: value for part in parts for key, value in read_state(part).items()}

    return filled(AUIFNet(), weights, read)


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function, with each step collapsed to one small convolution."""
    return as_fuser(collapse(network(weights)), device, precision, channels_last=True)


def training(frozen: Path | None) -> Training:
    """Return the authors' single phase: encoders and decoder reconstruct single images; no image is fused."""
    trained = network(None)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        images = torch.cat([visible, infrared])
        reconstructed = trained.decode(*trained.encode(images))
        structure, values = 5 * dissimilarity(images, reconstructed, side=3), (images - reconstructed).square().mean()
        return {"total": values + structure, "mse": values, "ssim": structure}

    choices = [
        "random 128x128 crops with flips and rotations instead of random resized crops",
        "960 iterations as published, on our pairs instead of FLIR's 360 images, with both bands in every batch",
    ]
    base, detail = list(trained.conv1.parameters()), list(trained.conv2.parameters())
    phase = Phase(
        "reconstruction",
        list(trained.parameters()),
        loss,
        lr=1e-2,
        schedule=tenth_after(FIRST_EPOCHS, EPOCHS),
        iterations=960,
        parameter_groups=[(base, 1.0), (detail, 0.1), (list(trained.decoder.parameters()), 1.0)],
    )
    return Training(trained, [phase], crop=128, batch=16, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published("github.com/Zhaozixiang1228/IVIF-AUIF-Net", FILES),
    training=training,
)
