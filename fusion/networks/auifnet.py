"""AUIFNet: two-scale decomposition by unrolled gradient descent (Zhao et al., IEEE TCSVT 2021).

Each encoder starts from a fixed filter of the image and takes ten steps; the same weights serve both sources. Modules
and parameters are named as the keys of the authors' checkpoint.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.borders import mirrored

STEPS = 10
MAPS = 64


def box(image: Tensor, side: int) -> Tensor:
    """Return the mean over a square of odd `side` around each pixel, the borders mirrored without their edge."""
    return F.avg_pool2d(mirrored(image, side // 2), side, stride=1)


class Step(nn.Module):
    """One step of descent: x - eta (residual - theta (image - x)), the residual by a kernel and its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(MAPS, 1, 3, 3))
        self.eta = nn.Parameter(torch.normal(torch.tensor([0.1]), 0.03))
        self.theta = nn.Parameter(torch.normal(torch.tensor([1e-3]), 1e-4))
        self.rest = nn.Sequential(nn.BatchNorm2d(1), nn.PReLU())

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """State and image, (N, 1, H, W) each, to the next state."""
        return self.descend(x, self.filtered(x), image)

    def filtered(self, x: Tensor) -> Tensor:
        """Return x through the kernel and its transpose, either with a mirrored border of one pixel."""
        maps = F.conv2d(mirrored(x, 1), self.kernel)
        return F.conv2d(mirrored(maps, 1), self.kernel.flip(2, 3).transpose(0, 1))

    def descend(self, x: Tensor, back: Tensor, image: Tensor) -> Tensor:
        """Return the next state, `back` the filtered one."""
        return x - self.eta * (self.rest(back) - self.theta * (image - x))


class AUIFNet(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 11,631 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.ModuleList(Step() for _ in range(STEPS))
        self.conv2 = nn.ModuleList(Step() for _ in range(STEPS))
        # The authors' first entry is a padding without parameters.
        self.decoder = nn.Sequential(nn.Identity(), nn.Conv2d(1, 1, 3, bias=False), nn.BatchNorm2d(1))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return base and detail of an image, (N, 1, H, W) each."""
        wide = box(image, 19)
        base, detail = box(image, 11), (361 * wide - 361 * image) / 720
        for step in self.conv1:
            base = step(base, image)
        for step in self.conv2:
            detail = step(detail, image)
        return base, detail

    def decode(self, base: Tensor, detail: Tensor) -> Tensor:
        """Return the image of a base and a detail."""
        return torch.sigmoid(self.decoder(mirrored(base + detail, 1)))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Add the sources' bases and details, and decode."""
        (base, detail), (other_base, other_detail) = self.encode(infrared), self.encode(visible)
        return self.decode(base + other_base, detail + other_detail)


class CollapsedStep(nn.Module):
    """A trained step with the kernel and its transpose as one 5x5 kernel: 25 multiply-adds a pixel instead of 1,152.

    Both are linear and nothing lies between them but the mirrored border of the 64 maps, so only the image's outermost
    pixels need the two convolutions, which are computed on strips of three pixels.
    """

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        kernel = step.kernel.detach().double()
        bright = torch.zeros(1, 1, 9, 9, dtype=kernel.dtype)
        bright[..., 4, 4] = 1  # the response to one bright pixel is the kernel, turned
        response = F.conv2d(F.conv2d(bright, kernel), kernel.flip(2, 3).transpose(0, 1))
        self.register_buffer("kernel", response.flip(2, 3).to(step.kernel.dtype))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Do as the step, without gradients."""
        if min(x.shape[2:]) < 3:
            return self.step(x, image)
        back = F.conv2d(mirrored(x, 1), self.kernel, padding=1)  # what the padding spoils is replaced
        for end, strip in ((0, slice(3)), (-1, slice(-3, None))):
            back[:, :, end] = self.step.filtered(x[:, :, strip])[:, :, end]
            back[..., end] = self.step.filtered(x[..., strip])[..., end]
        return self.step.descend(x, back, image)


def collapse(network: AUIFNet) -> AUIFNet:
    """Return the network, whose weights are final from now on, with collapsed steps; changes the network."""
    network.conv1 = nn.ModuleList(CollapsedStep(step) for step in network.conv1)
    network.conv2 = nn.ModuleList(CollapsedStep(step) for step in network.conv2)
    return network
