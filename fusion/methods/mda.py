"""MDA: multiscale features, fused by attention (Yang et al., Neurocomputing 2024, arXiv 2312.04328).

Modules and parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors'
fusion_model.pth; the input is luma / 255. The authors stretch every fused image to the whole range and truncate it to
8 bits. The network's values span only a third of the range, so the equal treatment, which does not stretch, gives an
image of low contrast.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Phase, Published, Training
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled
from fusion.methods.parts.layers import correlate_maps
from fusion.methods.parts.postprocessing import stretched, truncated
from fusion.methods.parts.running import loader
from fusion.methods.parts.vgg import Features, gram, normalised, vgg16_features
from fusion.training.similarity import multiscale_similarity

MAPS, SQUEEZED = 32, 4
MULTIPLE = 8  # the sides of the network's input are multiples of this
# The scales of the infrared and the visible maps in each of the five fusions: 0 is full, 1 half, 2 quarter size.
FUSED_SIZES = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2))
# alpha, beta and c of the paper, then the weights of the terms in the authors' code.
MSE_WEIGHT, DEVIATION_WEIGHT, TEMPERATURE = 0.2, 0.167, 3000.0
FEATURES_WEIGHT, STYLE_WEIGHT, PATCHES_WEIGHT = 1e-6, 1.0, 2.0
FUSION_WEIGHTS = (8.0, 8.0, 2.0, 2.0, 1.0)  # of the five fusions, the finest first
LAYERS = ("conv1_2", "conv2_2")
PATCH, CONSTANT = 15, 6.25

Maps = tuple[Tensor, ...]


def conv(inputs: int = MAPS, outputs: int = MAPS, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution, zero-padded."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def upsampling(outputs: int = MAPS) -> nn.ConvTranspose2d:
    """Return a transposed convolution that doubles the sides."""
    return nn.ConvTranspose2d(MAPS, outputs, 3, stride=2, padding=1, output_padding=1)


class ResDown(nn.Module):
    """A residual block that maps (N, 32, H, W) to (N, 32, H / stride, W / stride)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.res = nn.Sequential(conv(), nn.PReLU(), conv(), nn.PReLU(), conv(stride=stride), conv())
        self.down_conv = nn.Sequential(conv(), conv(stride=stride), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        return self.res(x) + self.down_conv(x)


class ResUp(nn.Module):
    """A residual block that maps (N, 32, H, W) to (N, outputs, 2 H, 2 W)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.res = nn.Sequential(conv(), nn.PReLU(), conv(), nn.PReLU(), upsampling(), conv(outputs=outputs))
        self.up_conv = nn.Sequential(conv(), upsampling(outputs), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches."""
        return self.res(x) + self.up_conv(x)


class ChannelMap(nn.Module):
    """Channel attention: a weight in 0..1 for every channel of each band."""

    def __init__(self) -> None:
        super().__init__()
        self.channel_down = nn.Sequential(nn.Conv2d(MAPS, SQUEEZED, 1), nn.PReLU())
        self.channel_up1 = nn.Sequential(nn.Conv2d(SQUEEZED, MAPS, 1), nn.Sigmoid())
        self.channel_up2 = nn.Sequential(nn.Conv2d(SQUEEZED, MAPS, 1), nn.Sigmoid())
        self.up = nn.Sequential(upsampling(), nn.PReLU())

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of infrared and of visible, (N, 32, 1, 1) each."""
        infrared = infrared if infrared.shape == visible.shape else self.up(infrared)
        squeezed = self.channel_down((infrared + visible).mean((2, 3), keepdim=True))
        return self.channel_up1(squeezed), self.channel_up2(squeezed)


class SpatialMap(nn.Module):
    """Spatial attention: a weight in 0..1 for every value of each band."""

    def __init__(self) -> None:
        super().__init__()
        self.trans_conv = nn.Sequential(upsampling(), nn.PReLU())
        self.conv_fusion = nn.Sequential(nn.Conv2d(2 * MAPS, MAPS, 1), nn.PReLU())
        self.down = nn.Sequential(conv(stride=2), nn.PReLU())
        self.up1 = nn.Sequential(upsampling(), nn.Sigmoid())
        self.up2 = nn.Sequential(upsampling(), nn.Sigmoid())

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of infrared and of visible, (N, 32, H, W) each."""
        infrared = infrared if infrared.shape == visible.shape else self.trans_conv(infrared)
        maps = self.down(self.conv_fusion(torch.cat([infrared, visible], dim=1)))
        return self.up1(maps), self.up2(maps)


class FusionBlock(nn.Module):
    """Adds both bands' maps after channel and spatial attention; the infrared maps may have half the visible size."""

    def __init__(self) -> None:
        super().__init__()
        self.channel_map, self.spatial_map = ChannelMap(), SpatialMap()
        self.up = nn.Sequential(upsampling(), nn.ReLU())
        self.one = nn.Conv2d(2 * MAPS, MAPS, 1)  # never used, as in the authors' code, but in their checkpoint

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """Return the fused maps, (N, 32, H, W), of the visible maps' size."""
        channel, spatial = self.channel_map(infrared, visible), self.spatial_map(infrared, visible)
        upsampled = infrared if infrared.shape == visible.shape else self.up(infrared)
        return upsampled * channel[0] * spatial[0] + visible * channel[1] * spatial[1]


class MDA(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 516,120 parameters.

    Any size works: images are padded by mirroring to multiples of 8, and the result is cropped.
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
        """Return the parameters that the fused image depends on."""
        same = self.fusion_1x  # its inputs have equal sizes, so its upsampling layers are not used
        layers = [same.one, self.fusion_2x.one, same.up, same.channel_map.up, same.spatial_map.trans_conv]
        unused = {id(parameter) for layer in layers for parameter in layer.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in unused]

    def features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return an image's maps at full, half and quarter size."""
        maps = self.input(image)
        return self.downsample_1x(maps), self.downsample_2x(maps), self.downsample_4x(maps)

    def fuse(self, a: Maps, b: Maps) -> Maps:
        """Fuse infrared maps a and visible maps b at the pairs of scales in FUSED_SIZES."""
        return tuple((self.fusion_1x if i == v else self.fusion_2x)(a[i], b[v]) for i, v in FUSED_SIZES)

    def decode(self, f11: Tensor, f12: Tensor, f22: Tensor, f24: Tensor, f44: Tensor) -> Tensor:
        """Decode the fused maps into an image."""
        upsampled = [self.upsample_2x(f22), self.upsample_2x(f24), self.upsample_4x(f44)]
        return torch.tanh(self.output(torch.cat([f11, f12, *upsampled], dim=1))) / 2 + 0.5

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        size = visible.shape[2:]
        visible, infrared = (pad_to_multiple(image, MULTIPLE) for image in (visible, infrared))
        fused = self.decode(*self.fuse(self.features(infrared), self.features(visible)))
        return fused[..., : size[0], : size[1]]


def network(weights: Path | None) -> MDA:
    """Return the network with `weights`, or with random weights for None."""
    return filled(MDA(), weights)


def authors_output(fused: np.ndarray) -> np.ndarray:
    """Stretch the fused image to 0..1 and truncate its 8-bit values, as the authors' test script does."""
    return truncated(stretched(fused))


def laplacian_of_gaussian() -> Tensor:
    """Return the authors' 9x9 kernel; its seventh row is asymmetric in their code, too."""
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
    return torch.tensor(rows, dtype=torch.float32)


def edges(maps: Tensor, padding: int) -> Tensor:
    """Filter 255 times each map of (N, C, H, W) by the kernel, zero-padded; sides shrink by 8 - 2 padding."""
    return correlate_maps(255 * maps, laplacian_of_gaussian().to(maps), padding)


def entropy(maps: Tensor) -> Tensor:
    """Return the entropy in bits of each map's values, quantised to 256 levels: (N, C, H, W) to (N, C)."""
    levels = (255 * maps + 1).round().clamp(1, 256).long().flatten(2) - 1
    counts = maps.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(maps).flatten(2))
    frequencies = counts / levels.shape[2]
    return -(frequencies * frequencies.clamp_min(1e-12).log2()).sum(-1)


@torch.no_grad()
def source_weights(vgg: Features, sources: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return each source's weight in the intensity and in the detail terms, (2, N) each, from its VGG maps."""
    intensity, detail = [], []
    for source in sources:
        maps = [torch.sigmoid(layer) for layer in vgg(normalised(source))]
        variation = [entropy(one) + DEVIATION_WEIGHT * (255 * one + 1).flatten(2).std(2) for one in maps]
        intensity.append(sum(one.mean(1) for one in variation) / len(maps) / TEMPERATURE)
        detail.append(sum(edges(one, 1).square().mean((1, 2, 3)) for one in maps) / len(maps) / TEMPERATURE)
    return torch.stack(intensity).softmax(0), torch.stack(detail).softmax(0)


def feature_loss(fused: Maps, infrared: Maps, visible: Maps) -> Tensor:
    """Return the weighted distance of the five fused maps to the infrared maps' values and the visible maps' edges."""
    total = 0
    for weight, maps, (a, b) in zip(FUSION_WEIGHTS, fused, FUSED_SIZES, strict=True):
        level = maps if maps.shape == infrared[a].shape else F.interpolate(maps, scale_factor=0.5)
        edge_distance = (edges(maps, 1) - edges(visible[b], 1)).square().mean()
        total = total + weight * (edge_distance + 20 * (level - infrared[a]).square().mean())
    return total


def style_loss(vgg: Features, fused: Tensor, infrared: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence between the Gram matrices' rows of the fused and the infrared image."""
    total = 0
    for of_fused, of_infrared in zip(vgg(normalised(fused)), vgg(normalised(infrared)), strict=True):
        rows = [gram(maps).log_softmax(-1) for maps in (of_fused, of_infrared)]
        total = total + F.kl_div(rows[0], rows[1], reduction="batchmean", log_target=True)
    return total


def box(images: Tensor) -> Tensor:
    """Return the mean over a patch around every pixel, zero-padded."""
    return F.avg_pool2d(images, PATCH, stride=1, padding=PATCH // 2)


def patch_loss(fused: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Return the distances in structure and values; the sources' weights are their detail and brightness per patch."""
    structures, errors, details, brightness = [], [], [], []
    mean = box(fused)
    variance = box(fused * fused) - mean**2
    for source in sources:
        source_mean = box(source)
        source_variance = box(source * source) - source_mean**2
        covariance = box(source * fused) - source_mean * mean
        structures.append(1 - (2 * covariance + CONSTANT) / (source_variance + variance + CONSTANT))
        errors.append(box((fused - source).square()))
        details.append(box(box(edges(source, 4).square()).sqrt()) / TEMPERATURE)
        brightness.append((source_mean + DEVIATION_WEIGHT * source_variance) / TEMPERATURE)
    detail, bright = torch.stack(details).softmax(0), torch.stack(brightness).softmax(0)
    structure = (detail * torch.stack(structures)).sum(0).mean()
    return structure + MSE_WEIGHT * (bright * torch.stack(errors)).sum(0).mean()


def fusion_loss(network: MDA, vgg: Features, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the weighted terms of the authors' loss."""
    vgg.to(visible.device)
    sources = [infrared, visible]
    a, b = network.features(infrared), network.features(visible)
    maps = network.fuse(a, b)
    fused = network.decode(*maps)
    intensity, detail = source_weights(vgg, sources)
    dissimilarities = [1 - multiscale_similarity(fused, source, span=255.0) for source in sources]
    errors = [(fused - source).square().mean((1, 2, 3)) for source in sources]
    terms = {
        "structure": sum((weight * one).mean() for weight, one in zip(detail, dissimilarities, strict=True)),
        "mse": MSE_WEIGHT * sum((weight * one).mean() for weight, one in zip(intensity, errors, strict=True)),
        "features": FEATURES_WEIGHT * feature_loss(maps, a, b),
        "style": STYLE_WEIGHT * style_loss(vgg, fused, infrared),
        "patches": PATCHES_WEIGHT * patch_loss(fused, sources),
    }
    return {"total": sum(terms.values()), **terms}


def training(frozen: Path | None) -> Training:
    """Return the authors' single phase; `frozen` is VGG-16's weights file, which is required."""
    vgg, trained = vgg16_features(frozen, LAYERS), network(None)
    for name, step in vgg.steps.items():
        if isinstance(step, nn.ReLU):
            vgg.steps[name] = nn.Sigmoid()  # as in the authors' code
    choices = [
        "the entropy of features is computed from 256 levels, without a gradient",
        "features are taken after the layer's sigmoid for the weights, before it for the style",
        "flips and rotations in addition to random crops; the published training takes five epochs of KAIST's 95,324 "
        "pairs",
    ]
    phase = Phase(
        "fusion", trained.used_parameters(), partial(fusion_loss, trained, vgg), lr=1e-5, iterations=5 * 95324 // 24
    )
    return Training(trained, [phase], crop=192, smallest_crop=176, crop_step=8, batch=24, choices=choices)


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/SSyangguang/MDA",
        {"fusion_model.pth": "792cd9ec4286d4044897b9c8448fcf7b023b771c8689c2606a7537076fb6559c"},
    ),
    authors_output=authors_output,
    training=training,
    parameters_note="516,120 including modules that the authors create and never call (31,906)",
)
