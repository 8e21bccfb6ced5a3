"""MURF's third module: fine registration and fusion (Xu, Yuan, Ma, IEEE TPAMI 45(10), 2023).

Authors' code       here
offset_conv         offset: the displacement field of the visible image
a, b                visible, infrared
wf1, wf2, wf3       fuse
dense ... dense_3   average, maximum: the two branches of the channel attention

The weights are a file of ours or the authors' folder `finetuning`, a TensorFlow checkpoint. As in the authors' test,
both images are resized to 1240 x 1240, and the fused image is resized back. Resizing smooths the edges that the network
sharpens, and the published scores include it; the network itself takes any size. The authors scale every fused image so
that its brightest pixel is 255.
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
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled, read_tensorflow, renamed
from fusion.methods.parts.layers import convolution, laplacian
from fusion.methods.parts.postprocessing import divided_by_maximum
from fusion.methods.parts.running import as_fuser
from fusion.training.similarity import ssim_inside

MULTIPLE = 8  # the sides of the network's input are multiples of this
SLOPE = 0.2
LARGEST_OFFSET = 0.2  # in coordinates from -1 to 1 across the image
TEMPERATURE = 0.05  # of the softmax over the four pixels around a sampling point
EPSILON = 1e-3
SIDE = 1240  # pixels; side of the square that the authors' test fuses
TEXTURE_WEIGHT, ENHANCEMENT = 10.0, 0.7  # weight of the texture term, and exponent of the sources' Laplacian in it


class ConvNorm(nn.Module):
    """A 3x3 convolution with mirrored borders and batch normalisation with the statistics of each single image.

    This is what the authors' test computes, which has one image per batch.
    """

    def __init__(self, inputs: int, outputs: int, normalised: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
        nn.init.normal_(self.conv.weight, std=0.001)
        nn.init.zeros_(self.conv.bias)
        if normalised:
            self.beta = nn.Parameter(torch.zeros(outputs))
            # In the checkpoint and the published count, but used neither in training nor in testing.
            self.moving_mean = nn.Parameter(torch.zeros(outputs))
            self.moving_variance = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        x = self.conv(x)
        if hasattr(self, "beta"):
            variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
            x = (x - mean) * torch.rsqrt(variance + EPSILON) + self.beta.view(1, -1, 1, 1)
        return x


class OffsetNetwork(nn.Module):
    """A small U-Net that predicts the displacement of the visible image, (N, 4, H, W) to (N, 2, H, W), x first."""

    def __init__(self) -> None:
        super().__init__()
        plain = {"conv2", "conv11"}
        sizes = {"conv1": (4, 32), "conv2": (32, 32), "conv3": (32, 32), "conv5": (32, 32)}
        sizes |= {f"conv{k}": (64, 32) for k in (6, 7, 8)} | {"conv10": (32, 16), "conv11": (16, 2)}
        for name, (inputs, outputs) in sizes.items():
            self.add_module(name, ConvNorm(inputs, outputs, name not in plain))

    def forward(self, both: Tensor) -> Tensor:
        """Return offsets in coordinates from -1 to 1 across the image."""

        def pooled(maps: Tensor) -> Tensor:
            return F.max_pool2d(maps, 4, stride=2, padding=1)

        def upsampled_with(small: Tensor, large: Tensor) -> Tensor:
            return torch.cat([F.interpolate(small, scale_factor=2.0), large], dim=1)

        o1 = _leaky(self.conv1(both))
        o2 = _leaky(self.conv2(pooled(o1)))
        o3 = _leaky(self.conv3(pooled(o2)))
        o5 = _leaky(self.conv5(pooled(o3)))
        o6 = _leaky(self.conv6(upsampled_with(o5, o3)))
        o7 = _leaky(self.conv7(upsampled_with(o6, o2)))
        o8 = _leaky(self.conv8(upsampled_with(o7, o1)))
        return LARGEST_OFFSET * torch.tanh(self.conv11(_leaky(self.conv10(o8))))


def warp(image: Tensor, offset: Tensor) -> Tensor:
    """Return the image, (N, C, H, W), sampled at every pixel's position plus its offset, (N, 2, H, W); 0 outside it.

    The weights of the four pixels around a sampling point are the softmax of their bilinear weights, which is close to
    nearest-neighbour sampling.
    """
    height, width = image.shape[2:]
    lines = (torch.linspace(-1, 1, side, device=image.device) for side in (height, width))
    rows, columns = torch.meshgrid(*lines, indexing="ij")
    x = (columns + offset[:, 0] + 1) / 2 * (width - 1)
    y = (rows + offset[:, 1] + 1) / 2 * (height - 1)
    left, top = x.floor(), y.floor()
    flat, bilinear, corners = image.flatten(2), [], []
    for dy in (0, 1):
        for dx in (0, 1):
            bilinear.append((1 - (x - left - dx).abs()) * (1 - (y - top - dy).abs()))
            index = (top + dy).clamp(0, height - 1) * width + (left + dx).clamp(0, width - 1)
            index = index.long().flatten(1).unsqueeze(1).expand(-1, image.shape[1], -1)
            corners.append(flat.gather(2, index).view_as(image))
    weights = (torch.stack(bilinear) / TEMPERATURE).softmax(0).unsqueeze(2)
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).unsqueeze(1)
    return (weights * torch.stack(corners)).sum(0) * inside


class ChannelBottleneck(nn.Module):
    """One branch of the channel attention: linear layers from 32 channels to 4 and back."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(32, 4), nn.Linear(4, 32)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    def forward(self, channels: Tensor) -> Tensor:
        """Map (N, 32) to the same shape."""
        return self.up(self.down(channels))


class MURF(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 116,123 parameters.

    Any size works: images are padded by mirroring to multiples of 8, and the result is cropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = OffsetNetwork()
        self.visible = nn.ModuleList([nn.Conv2d(3, 8, 1), convolution(8, 16), convolution(16, 32)])
        self.infrared = nn.ModuleList([nn.Conv2d(1, 8, 1), convolution(8, 16), convolution(16, 32)])
        self.average, self.maximum = ChannelBottleneck(), ChannelBottleneck()
        # With two groups, 16 maps depend only on the visible image and 16 only on the infrared image.
        self.fuse = nn.ModuleList([nn.Conv2d(64, 32, 3, padding=1, groups=2), convolution(32, 16), convolution(16, 1)])
        for part in (*self.visible, *self.infrared, *self.fuse):
            nn.init.trunc_normal_(part.weight, std=0.03, a=-0.06, b=0.06)
            nn.init.zeros_(part.bias)

    def fusion_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the fusion, without those of the offset network."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("offset.")]

    def forward(self, visible: Tensor, infrared: Tensor, align: bool = True) -> Tensor:
        """Return the fused luma; `align` first warps the visible image by the predicted offsets."""
        height, width = visible.shape[2:]
        visible, infrared = (pad_to_multiple(image, MULTIPLE, least=2) for image in (visible, infrared))
        visible = visible.expand(-1, 3, -1, -1)
        if align:
            visible = warp(visible, self.offset(torch.cat([visible, infrared], dim=1)))
        maps = []
        for image, layers in ((visible, self.visible), (infrared, self.infrared)):
            for layer in layers:
                image = _leaky(layer(image))
            maps.append(image)
        slopes = [laplacian(one).abs() for one in maps]
        average = sum(one.mean((2, 3)) for one in slopes)
        maximum = sum(one.amax((2, 3)) for one in slopes)
        attention = torch.sigmoid(self.average(average) + self.maximum(maximum))[:, :, None, None]
        fused = torch.cat([attention * one for one in maps], dim=1)
        for layer in self.fuse[:2]:
            fused = _leaky(layer(fused))
        return (torch.tanh(self.fuse[2](fused)) / 2 + 0.5)[..., :height, :width]


def _leaky(maps: Tensor) -> Tensor:
    return F.leaky_relu(maps, SLOPE)


_NORMALISED = ["conv1", "conv3", "conv5", "conv6", "conv7", "conv8", "conv10"]
_DENSE = {"dense": "average.down", "dense_1": "average.up", "dense_2": "maximum.down", "dense_3": "maximum.up"}
_PARTS = {"a": "visible", "b": "infrared", "f": "fuse"}
# Patterns of the authors' variables, and our keys.
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
    """Rename the variables of the authors' checkpoint to our keys; keys that are already ours stay."""
    return renamed(state, _AUTHORS_KEYS)


def network(weights: Path | None) -> MURF:
    """Return the network with `weights` (ours, or the authors' folder), or with random weights for None."""
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
    """Return the authors' first phase, which trains the fusion; the offset network is set to return 0."""
    trained = network(None)
    # Even an offset of 0.01 pixels would sample border pixels outside the image, which are black.
    torch.nn.init.zeros_(trained.offset.conv11.conv.weight)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        fused = trained(visible, infrared, align=False)
        slopes = [laplacian(source) for source in (visible, infrared)]
        strongest = torch.where(slopes[0].abs() > slopes[1].abs(), *slopes)
        target = strongest.sign() * strongest.abs() ** ENHANCEMENT
        similarity = (ssim_inside(fused, infrared) + ssim_inside(fused, visible)).mean() / 2
        terms = {"ssim": 1 - similarity, "texture": TEXTURE_WEIGHT * (laplacian(fused) - target).abs().mean()}
        return {"total": sum(terms.values()), **terms}

    choices = [
        "only the fusion weights are trained: aligned pairs have no offset to learn, so the offset network returns 0",
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
    authors_output=divided_by_maximum,
    training=training,
    parameters_note="116,123 including the 416 statistics of its batch normalisation",
)
