"""CoCoNet: a U-Net that attends to the features of a frozen VGG-19 (Liu et al., IJCV 2023).

Layers keep the authors' names. In each block the activation comes before the batch normalisation, as in their code.

The weights are a file of ours, or the authors' latest.pth with the input of their test script. That script uses values
in 0..255 and normalises by each image's own statistics, while training uses -1..1 and running statistics; a weights
file records which of the two it was made for (`as_tested`). The authors use the first channel of a colour image; here
its luma is used.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Phase, Published, Training
from fusion.methods.parts.filling import filled, renamed
from fusion.methods.parts.layers import convolution
from fusion.methods.parts.running import loader
from fusion.methods.parts.vgg import Features, vgg19_features
from fusion.training.similarity import gradient, ssim

SLOPE = 0.2
MULTIPLE = 16  # the sides of the network's input are multiples of this
LUMA = (0.299, 0.587, 0.114)
VGG_WIDTHS = {
    "conv1_1": (1, 64),
    "conv1_2": (64, 64),
    "conv2_1": (64, 128),
    "conv2_2": (128, 128),
    "conv3_1": (128, 256),
    "conv3_2": (256, 256),
    "conv3_3": (256, 256),
    "conv3_4": (256, 256),
}
SSIM_WEIGHT = 20.0
GRADIENT_TEMPERATURE, ENTROPY_TEMPERATURE = 0.5, 0.75  # c1, c2


class GreyVGG(nn.Module):
    """The first eight convolutions of VGG-19 for one channel, with an additional pooling after relu1_1; frozen."""

    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs) in VGG_WIDTHS.items():
            self.add_module(name, convolution(inputs, outputs))
        self.requires_grad_(False)

    def copy_filters(self, vgg: Features) -> None:
        """Copy the filters of a VGG-19; the first layer's three input channels are summed with the weights of luma."""
        for name in VGG_WIDTHS:
            weight, bias = vgg.steps[name].weight, vgg.steps[name].bias
            if name == "conv1_1":
                weight = (weight * weight.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
            getattr(self, name).load_state_dict({"weight": weight, "bias": bias})

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (N, 1, H, W) to maps at 1/2 (64), 1/4 (128) and 1/8 (256) of the size."""

        def through(x: Tensor, *names: str) -> Tensor:
            for name in names:
                x = F.relu(getattr(self, name)(x))
            return x

        f2 = through(F.max_pool2d(through(image, "conv1_1"), 2), "conv1_2")
        f3 = through(F.max_pool2d(f2, 2), "conv2_1", "conv2_2")
        f4 = through(F.max_pool2d(f3, 2), "conv3_1", "conv3_2", "conv3_3", "conv3_4")
        return f2, f3, f4


class ChannelAttention(nn.Module):
    """Adds to every map a weighted mean of all maps, with larger weights for less similar ones.

    The mean is scaled by gamma, which is initially 0.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.conv_1, self.conv_2, self.conv_3 = (convolution(maps, maps) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, maps, H, W) to (N, maps, H, W)."""
        q, k, v = (layer(x).flatten(2) for layer in (self.conv_1, self.conv_2, self.conv_3))
        energy = q @ k.transpose(1, 2)
        weights = torch.softmax(energy.amax(dim=2, keepdim=True) - energy, dim=2)
        return (self.gamma * (weights @ v) + v).view(x.shape)


class ConvBlock(nn.Module):
    """A convolution, an activation and batch normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = convolution(inputs, outputs)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, instance_statistics: bool) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W); `instance_statistics` normalises by each image's statistics."""
        x = F.leaky_relu(self.conv(x), SLOPE)
        if instance_statistics:
            return F.instance_norm(x, weight=self.bn.weight, bias=self.bn.bias, eps=self.bn.eps)
        return self.bn(x)


class CoCoNet(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1.

    6,845,189 parameters, in addition to the frozen VGG's 2,324,416; 55,425 of them (se_32 and att_deconv9) have no
    effect. Any size works: images are padded to multiples of 16.

    as_tested: 0 or 1, saved with the weights. 1 uses the input of the authors' test script, values in 0..255 and
        normalisation by each image's own statistics; 0 the input of training, -1..1 and running statistics.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("as_tested", torch.zeros(1))
        self.vgg19 = GreyVGG()
        self.se_32, self.se_64, self.se_128, self.se_256 = (ChannelAttention(maps) for maps in (32, 64, 128, 256))
        self.conv1_1, self.conv1_2 = ConvBlock(2, 32), ConvBlock(32, 32)
        self.conv2_1, self.conv2_2 = ConvBlock(32, 64), ConvBlock(64, 64)
        self.conv3_1, self.conv3_2 = ConvBlock(64, 128), ConvBlock(128, 128)
        self.conv4_1 = ConvBlock(128, 256)
        self.deconv4, self.conv4_2 = convolution(768, 256), ConvBlock(256, 256)
        self.deconv6, self.att_deconv7 = convolution(256, 128), convolution(384, 128)
        self.conv7_1, self.conv7_2 = ConvBlock(256, 128), ConvBlock(128, 128)
        self.deconv7, self.att_deconv8 = convolution(128, 64), convolution(192, 64)
        self.conv8_1, self.conv8_2 = ConvBlock(128, 64), ConvBlock(64, 64)
        self.deconv8, self.att_deconv9 = convolution(64, 32), convolution(96, 32)
        self.conv9_1, self.conv9_2 = ConvBlock(64, 32), convolution(32, 32)
        self.conv10 = nn.Conv2d(32, 1, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        return (self.fused(visible, infrared) + 1) / 2

    def fused(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the network's output, in -1..1."""
        as_tested = not self.training and not self.as_tested.is_meta and bool(self.as_tested)
        height, width = visible.shape[2:]
        a, b = (padded(255 * image if as_tested else 2 * image - 1) for image in (visible, infrared))
        top, left = -height % MULTIPLE // 2, -width % MULTIPLE // 2
        return self._fuse(a, b, as_tested)[..., top : top + height, left : left + width]

    def _fuse(self, a: Tensor, b: Tensor, instance_statistics: bool) -> Tensor:
        def attended(attention: nn.Module, own: Tensor, level: int) -> Tensor:
            # Infrared comes before visible here, unlike in the input; the authors' weights require both orders.
            return torch.cat([attention(own), attention(of_b[level]), attention(of_a[level])], dim=1)

        def through(x: Tensor, *stages: nn.Module) -> Tensor:
            for stage in stages:
                x = stage(x, instance_statistics)
            return x

        def up(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

        of_a, of_b = self.vgg19(a), self.vgg19(b)
        x1 = through(torch.cat([a, b], dim=1), self.conv1_1, self.conv1_2)
        x2 = through(F.max_pool2d(x1, 2), self.conv2_1, self.conv2_2)
        x3 = through(F.max_pool2d(x2, 2), self.conv3_1, self.conv3_2)
        x4 = through(F.max_pool2d(x3, 2), self.conv4_1)
        x = through(self.deconv4(attended(self.se_256, x4, 2)), self.conv4_2)
        x = torch.cat([self.deconv6(up(x)), self.att_deconv7(attended(self.se_128, x3, 1))], dim=1)
        x = through(x, self.conv7_1, self.conv7_2)
        x = torch.cat([self.deconv7(up(x)), self.att_deconv8(attended(self.se_64, x2, 0))], dim=1)
        x = through(x, self.conv8_1, self.conv8_2)
        x = through(torch.cat([self.deconv8(up(x)), x1], dim=1), self.conv9_1)
        return torch.tanh(self.conv10(F.leaky_relu(self.conv9_2(x), SLOPE)))


def padded(image: Tensor) -> Tensor:
    """Pad an image by mirroring, equally on opposite sides, until its sides are multiples of 16."""
    down, right = (-side % MULTIPLE for side in image.shape[2:])
    borders = (right // 2, right - right // 2, down // 2, down - down // 2)
    # Mirrored padding must be smaller than the image; otherwise the border is repeated.
    fits = right - right // 2 < image.shape[3] and down - down // 2 < image.shape[2]
    return F.pad(image, borders, mode="reflect" if fits else "replicate")


# The authors number the layers of VGG-19 including the additional pooling.
_VGG_STEPS = {
    "slice1.0": "conv1_1",
    "slice1.3": "conv1_2",
    "slice2.6": "conv2_1",
    "slice2.8": "conv2_2",
    "slice3.11": "conv3_1",
    "slice3.13": "conv3_2",
    "slice3.15": "conv3_3",
    "slice3.17": "conv3_4",
}
# Patterns of the authors' keys, and our keys.
_AUTHORS_KEYS = [
    (r"^vgg19\.(slice\d\.\d+)\.", lambda match: f"vgg19.{_VGG_STEPS.get(match[1], match[1])}."),
    (r"^bn(\d_\d)\.", r"conv\1.bn."),
    (r"^conv(?!9_2)(\d_\d)\.(weight|bias)$", r"conv\1.conv.\2"),
]


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' latest.pth to ours; return a state dict of ours unchanged."""
    return dict(state) if "as_tested" in state else {"as_tested": torch.ones(1), **renamed(state, _AUTHORS_KEYS)}


def network(weights: Path | None) -> CoCoNet:
    """Return the network with `weights`, or with random weights for None."""
    return filled(CoCoNet(), weights, convert=from_authors)


def entropy(image: Tensor) -> Tensor:
    """Return the entropy in nats of each image's 256 grey levels, (N,), for (N, 1, H, W) in -1..1."""
    levels = (image.flatten(1) * 127.5 + 127.5).round().clamp(0, 255).long()
    counts = levels.new_zeros(len(levels), 256).scatter_add_(1, levels, torch.ones_like(levels))
    return torch.special.entr(counts / levels.shape[1]).sum(1)


def adaptive_weights(values: Tensor, temperature: float) -> Tensor:
    """Return the weight of each source, (2, N), from a measure of both, (2, N); two zeros give equal weights."""
    return torch.softmax(values / (temperature * values.sum(0)).clamp(min=1e-12), dim=0)


def training(frozen: Path | None) -> Training:
    """Return the authors' main stage; `frozen` is VGG-19's weights file, which is required as part of the network."""
    trained = network(None)
    trained.vgg19.copy_filters(vgg19_features(frozen, list(VGG_WIDTHS)))

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        sources = [2 * visible - 1, 2 * infrared - 1]
        gradients = torch.stack([(gradient(source) + 1e-5).mean((1, 2, 3)) for source in sources])
        by_gradient = adaptive_weights(gradients, GRADIENT_TEMPERATURE)
        by_entropy = adaptive_weights(torch.stack([entropy(source) for source in sources]), ENTROPY_TEMPERATURE)
        fused = trained.fused(visible, infrared)
        structure, values = 0, 0
        for n, source in enumerate(sources):
            # As in the authors' code, SSIM is the mean of the batch, not of each image.
            structure = structure + SSIM_WEIGHT * by_gradient[n].mean() * (1 - ssim((source + 1) / 2, (fused + 1) / 2))
            values = values + (by_entropy[n] * (fused - source).square().mean((1, 2, 3))).mean()
        return {"total": structure + values, "ssim": structure, "mse": values}

    choices = [
        "only the main stage: the contrastive fine-tuning requires masks of salient targets, which pairs do not have",
        "64x64 crops, because the authors' patch size is not published",
        "the entropy is computed from each image's own histogram; the authors' code sums the histograms of a batch",
    ]
    used = [
        parameter
        for name, parameter in trained.named_parameters()
        if parameter.requires_grad and not name.startswith(("se_32.", "att_deconv9."))
    ]
    return Training(trained, [Phase("main", used, loss, lr=1e-4)], crop=64, batch=30, choices=choices)


METHOD = Method(
    loader(network),
    network=network,
    published=Published("github.com/runjia0124/CoCoNet", {"latest.pth": ""}, licence="MIT"),
    training=training,
    parameters_note="without the frozen VGG-19 (2,324,416); including se_32 and att_deconv9 (55,425), without effect",
)
