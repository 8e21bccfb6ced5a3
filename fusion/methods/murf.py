"""MURF's third module: fine registration and fusion (Xu, Yuan, Ma, IEEE TPAMI 45(10), 2023).

Authors' code       here
offset_conv         offset: where each visible pixel is looked up
a, b                visible, infrared
wf1, wf2, wf3       fuse
dense ... dense_3   average, maximum: both paths of the channel attention

Weights are ours or the authors' folder `finetuning`, a TensorFlow checkpoint. As in the authors' test, both images are
resized to 1240 x 1240 and the fused one back. That round trip smooths what the network sharpens, and the published
values come with it; the network itself takes any size. The authors stretch every fused image so that its brightest
pixel is 255.
"""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.borders import continued
from fusion.methods.parts.filling import filled, read_tensorflow, renamed
from fusion.methods.parts.finishing import brightened
from fusion.methods.parts.layers import convolution, laplacian
from fusion.methods.parts.running import as_fuser
from fusion.training.similarity import ssim_inside

MULTIPLE = 8  # of which the sides must be
SLOPE = 0.2
REACH = 0.2  # of an offset, where the image reaches from -1 to 1
SHARPNESS = 0.05  # temperature of the weights of the four pixels around a place
EPSILON = 1e-3
SIDE = 1240  # pixels, of the square that the authors' test fuses
TEXTURE, ENHANCEMENT = 10.0, 0.7  # weight of the texture term, and the power of the sources' Laplacian in it


class Normalised(nn.Module):
    """Convolution with mirrored borders, each map normalised over its image, as the authors' test does with one."""

    def __init__(self, inputs: int, outputs: int, normalised: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)
        if normalised:
            self.beta = nn.Parameter(torch.zeros(outputs))
            # Kept because the published count has them: neither training nor testing reads them.
            self.moving_mean = nn.Parameter(torch.zeros(outputs))
            self.moving_variance = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        x = self.conv(x)
        if hasattr(self, "beta"):
            variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
            x = (x - mean) * torch.rsqrt(variance + EPSILON) + self.beta.view(1, -1, 1, 1)
        return x


class Offset(nn.Module):
    """Guesses by how much the visible image is off: a small U-Net, (N, 4, H, W) to (N, 2, H, W), x first."""

    def __init__(self) -> None:
        super().__init__()
        plain = {"conv2", "conv11"}
        sizes = {"conv1": (4, 32), "conv2": (32, 32), "conv3": (32, 32), "conv5": (32, 32)}
        sizes |= {f"conv{k}": (64, 32) for k in (6, 7, 8)} | {"conv10": (32, 16), "conv11": (16, 2)}
        for name, (inputs, outputs) in sizes.items():
            self.add_module(name, Normalised(inputs, outputs, name not in plain))

    def forward(self, both: Tensor) -> Tensor:
        """Return offsets in coordinates where the image reaches from -1 to 1."""

        def smaller(maps: Tensor) -> Tensor:
            return F.max_pool2d(maps, 4, stride=2, padding=1)

        def joined(small: Tensor, large: Tensor) -> Tensor:
            return torch.cat([F.interpolate(small, scale_factor=2.0), large], dim=1)

        o1 = _leaky(self.conv1(both))
        o2 = _leaky(self.conv2(smaller(o1)))
        o3 = _leaky(self.conv3(smaller(o2)))
        o5 = _leaky(self.conv5(smaller(o3)))
        o6 = _leaky(self.conv6(joined(o5, o3)))
        o7 = _leaky(self.conv7(joined(o6, o2)))
        o8 = _leaky(self.conv8(joined(o7, o1)))
        return REACH * torch.tanh(self.conv11(_leaky(self.conv10(o8))))


def looked_up(image: Tensor, offset: Tensor) -> Tensor:
    """Return the image (N, C, H, W) read at every pixel's place plus its offset (N, 2, H, W); nothing outside it.

    The four pixels around a place weigh as the softmax of their bilinear weights, which is nearly the nearest alone.
    """
    height, width = image.shape[2:]
    lines = (torch.linspace(-1, 1, side, device=image.device) for side in (height, width))
    rows, columns = torch.meshgrid(*lines, indexing="ij")
    x = (columns + offset[:, 0] + 1) / 2 * (width - 1)
    y = (rows + offset[:, 1] + 1) / 2 * (height - 1)
    left, top = x.floor(), y.floor()
    flat, weights, found = image.flatten(2), [], []
    for dy in (0, 1):
        for dx in (0, 1):
            weights.append((1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs()))
            index = (top + dy).clamp(0, height - 1) * width + (left + dx).clamp(0, width - 1)
            index = index.long().flatten(1).unsqueeze(1).expand(-1, image.shape[1], -1)
            found.append(flat.gather(2, index).view_as(image))
    shares = (torch.stack(weights) / SHARPNESS).softmax(0).unsqueeze(2)
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).unsqueeze(1)
    return (shares * torch.stack(found)).sum(0) * inside


class Squeeze(nn.Module):
    """One path of the channel attention: 32 channels to 4 and back."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(32, 4), nn.Linear(4, 32)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, channels: Tensor) -> Tensor:
        """(N, 32) to the same."""
        return self.up(self.down(channels))


class MURF(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 116,123 parameters.

    Any size works: sides that are no multiples of 8 are continued by mirroring, and cropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = Offset()
        self.visible = nn.ModuleList([nn.Conv2d(3, 8, 1), convolution(8, 16), convolution(16, 32)])
        self.infrared = nn.ModuleList([nn.Conv2d(1, 8, 1), convolution(8, 16), convolution(16, 32)])
        self.average, self.maximum = Squeeze(), Squeeze()
        # Two groups: sixteen maps see the visible image alone, sixteen the infrared one.
        self.fuse = nn.ModuleList([nn.Conv2d(64, 32, 3, padding=1, groups=2), convolution(32, 16), convolution(16, 1)])
        for part in (*self.visible, *self.infrared, *self.fuse):
            nn.init.trunc_normal_(part.weight, std=0.03, a=-0.06, b=0.06)
            nn.init.zeros_(part.bias)

    def fusion_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that fuse, without those that guess the offset."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("offset.")]

    def forward(self, visible: Tensor, infrared: Tensor, align: bool = True) -> Tensor:
        """Look the visible image up where the offsets say, or take it as it is, and fuse."""
        height, width = visible.shape[2:]
        visible, infrared = (continued(image, MULTIPLE, least=2) for image in (visible, infrared))
        visible = visible.expand(-1, 3, -1, -1)
        if align:
            visible = looked_up(visible, self.offset(torch.cat([visible, infrared], dim=1)))
        maps = []
        for image, layers in ((visible, self.visible), (infrared, self.infrared)):
            for layer in layers:
                image = _leaky(layer(image))
            maps.append(image)
        slopes = [laplacian(one).abs() for one in maps]
        average = sum(one.mean((2, 3)) for one in slopes)
        maximum = sum(one.amax((2, 3)) for one in slopes)
        gate = torch.sigmoid(self.average(average) + self.maximum(maximum))[:, :, None, None]
        fused = torch.cat([gate * one for one in maps], dim=1)
        for layer in self.fuse[:2]:
            fused = _leaky(layer(fused))
        return (torch.tanh(self.fuse[2](fused)) / 2 + 0.5)[..., :height, :width]


def _leaky(maps: Tensor) -> Tensor:
    return F.leaky_relu(maps, SLOPE)


_NORMALISED = ["conv1", "conv3", "conv5", "conv6", "conv7", "conv8", "conv10"]
_DENSE = {"dense": "average.down", "dense_1": "average.up", "dense_2": "maximum.down", "dense_3": "maximum.up"}
_PARTS = {"a": "visible", "b": "infrared", "f": "fuse"}
# The authors' variable, as a pattern, and ours.
_AUTHORS_KEYS = [
    (
        r"^f2m_net/([wb])_?([abf])(\d)$",
        lambda m: f"{_PARTS[m[2]]}.{int(m[3]) - 1}.{'weight' if m[1] == 'w' else 'bias'}",
    ),
    (r"^f2m_net/(dense(?:_\d)?)/kernel$", lambda m: f"{_DENSE[m[1]]}.weight"),
    (r"^f2m_net/(dense(?:_\d)?)/bias$", lambda m: f"{_DENSE[m[1]]}.bias"),
    (r"^f2m_net/conv1_offset/offset_conv/(conv\d+)/conv2d/kernel$", r"offset.\1.conv.weight"),
    (r"^f2m_net/conv1_offset/offset_conv/(conv\d+)/conv2d/bias$", r"offset.\1.conv.bias"),
    (
        r"^f2m_net/conv1_offset/offset_conv/BatchNorm(?:_(\d))?/(\w+)$",
        lambda m: f"offset.{_NORMALISED[int(m[1] or 0)]}.{m[2]}",
    ),
]


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the variables of the authors' checkpoint to our weights; keys that are already ours stay."""
    return renamed(state, _AUTHORS_KEYS)


def network(weights: Path | None) -> MURF:
    """Return the network, filled from `weights` (ours, or the authors' folder) or, for None, with random ones."""
    return filled(MURF(), weights, read_tensorflow, from_authors)


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function that fuses at 1240 x 1240."""
    run = as_fuser(network(weights), device, precision)

    def square(image: np.ndarray) -> np.ndarray:
        grey = Image.fromarray(np.rint(image * 255).astype(np.uint8))
        return np.float32(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) / 255

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        fused = run(square(visible), square(infrared))
        return cv2.resize(fused, visible.shape[::-1], interpolation=cv2.INTER_LINEAR)

    return fuse


def training(frozen: Path | None) -> Training:
    """Return the authors' first phase, which trains what fuses; the offsets of aligned pairs are nought."""
    trained = network(None)
    # Even an offset of a hundredth of a pixel would look for border pixels outside the image, which are black.
    torch.nn.init.zeros_(trained.offset.conv11.conv.weight)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        fused = trained(visible, infrared, align=False)
        slopes = [laplacian(source) for source in (visible, infrared)]
        strongest = torch.where(slopes[0].abs() > slopes[1].abs(), *slopes)
        wanted = strongest.sign() * strongest.abs() ** ENHANCEMENT
        similarity = (ssim_inside(fused, infrared) + ssim_inside(fused, visible)).mean() / 2
        terms = {"ssim": 1 - similarity, "texture": TEXTURE * (laplacian(fused) - wanted).abs().mean()}
        return {"total": sum(terms.values()), **terms}

    choices = [
        "the fusion weights alone: aligned pairs leave no offset to learn, and its branch gives 0",
        "weights are not clipped to -50..50",
    ]
    phase = Phase("fusion", trained.fusion_parameters(), loss, lr=1e-4, betas=(0.5, 0.99))
    return Training(trained, [phase], crop=128, batch=8, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published(
        "github.com/hanna-xu/MURF",
        {
            "0000.ckpt.data-00000-of-00001": "a429f09b31f624be2812626b502efe52a9915c4f7d507f9cc5deee704eab6e73",
            "0000.ckpt.index": "492cedfabc38105699a6baa79d586c61e1acbee8aaa046efcedd1c3be32c031b",
        },
    ),
    authors_output=brightened,
    training=training,
    parameters_note="116,123 with the 416 statistics of its batch normalisation",
)
