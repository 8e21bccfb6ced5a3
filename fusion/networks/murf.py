"""MURF's third module: fine registration and fusion (Xu, Yuan, Ma, IEEE TPAMI 45(10), 2023).

Authors' code       here
offset_conv         offset: where each visible pixel is looked up
a, b                visible, infrared
wf1, wf2, wf3       fuse
dense ... dense_3   average, maximum: both paths of the channel attention
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.borders import continued

MULTIPLE = 8  # of which the sides must be
SLOPE = 0.2
REACH = 0.2  # of an offset, where the image reaches from -1 to 1
SHARPNESS = 0.05  # temperature of the weights of the four pixels around a place
EPSILON = 1e-3


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
        self.visible = nn.ModuleList([nn.Conv2d(3, 8, 1), _conv(8, 16), _conv(16, 32)])
        self.infrared = nn.ModuleList([nn.Conv2d(1, 8, 1), _conv(8, 16), _conv(16, 32)])
        self.average, self.maximum = Squeeze(), Squeeze()
        # Two groups: sixteen maps see the visible image alone, sixteen the infrared one.
        self.fuse = nn.ModuleList([nn.Conv2d(64, 32, 3, padding=1, groups=2), _conv(32, 16), _conv(16, 1)])
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


def laplacian(maps: Tensor) -> Tensor:
    """Return the sum of each value's four neighbours less four times itself, zeros around, (N, C, H, W)."""
    kernel = maps.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(maps, kernel, padding=1, groups=maps.shape[1])


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _leaky(maps: Tensor) -> Tensor:
    return F.leaky_relu(maps, SLOPE)
