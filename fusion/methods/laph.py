"""LapH: Laplacian pyramid fusion by a high- and a low-frequency network (Luo et al., IEEE TCSVT 33(12), 2023).

Authors' code            here
hf_branch_or, _12, _14   details: of the levels at full, half and quarter size
lf_branch                base: of the low-pass image, at an eighth of the size
FEB                      features
HDCB, hf_hd_block        blocks
MRM                      mixers
e                        guides: the maps of each block of a level, which guide the fusion of the base

The weights are a file of ours or the authors' net_g_lateset.pth; the input is luma / 255, and the output is clipped.
The authors round the clipped image to 8 bits and use luma in the studio range, as this project does, so the authors'
treatment and the equal treatment are the same.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Phase, Published, Training
from fusion.methods.parts.filling import filled, renamed
from fusion.methods.parts.running import loader
from fusion.training.similarity import slopes, ssim_inside

DETAIL_MAPS, BASE_MAPS = 16, 32
LEVELS = 3  # of detail; also the number of blocks per level, and of mixers: one block of every level guides each mixer
DILATIONS = (3, 2, 1)
HEADS = 2
MIN_SIDE = 9  # smallest side that the pyramid's mirrored borders accept
GRADIENT_WEIGHT, SSIM_WEIGHT, CONTRAST_WEIGHT = 10.0, 1.0, 0.5  # weights of the loss's terms
EPSILON = 1e-6  # of the Charbonnier distance between gradients


class Pyramid(nn.Module):
    """Burt and Adelson's Laplacian pyramid with mirrored borders; it has no trainable parameters."""

    def __init__(self) -> None:
        super().__init__()
        window = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", torch.outer(window, window)[None, None], persistent=False)

    def blurred(self, image: Tensor) -> Tensor:
        """Return the image, (N, 1, H, W), blurred."""
        return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), self.kernel)

    def expand(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """Return the image, (N, 1, H, W), at twice its size, resized to `size` if that differs, as odd sides do."""
        height, width = image.shape[2:]
        sparse = image.new_zeros(*image.shape[:2], 2 * height, 2 * width)
        sparse[..., ::2, ::2] = image
        doubled = self.blurred(4 * sparse)
        return doubled if doubled.shape[2:] == tuple(size) else F.interpolate(doubled, tuple(size), mode="nearest")

    def split(self, image: Tensor) -> list[Tensor]:
        """Return the levels of detail, finest first, followed by the base."""
        levels = []
        for _ in range(LEVELS):
            smaller = self.blurred(image)[..., ::2, ::2]
            levels.append(image - self.expand(smaller, image.shape[2:]))
            image = smaller
        return [*levels, image]

    def collapse(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the image with these levels; the inverse of `split`."""
        image = levels[-1]
        for level in reversed(levels[:-1]):
            image = self.expand(image, level.shape[2:]) + level
        return image


def features(maps: int) -> nn.Sequential:
    """Return the feature extraction block of a level: both sources, (N, 2, H, W), to (N, maps, H, W)."""
    return nn.Sequential(
        nn.Conv2d(2, maps // 2, 3, padding=1),
        nn.InstanceNorm2d(maps // 2),
        nn.LeakyReLU(),
        nn.Conv2d(maps // 2, maps, 3, padding=1),
        nn.LeakyReLU(),
    )


class CentralDifference(nn.Module):
    """A depthwise 3x3 convolution of the differences between every neighbour and the pixel itself."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Conv2d(DETAIL_MAPS, DETAIL_MAPS, 3, groups=DETAIL_MAPS).weight
        self.register_buffer("centre", F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 16, H, W) to (N, 16, H, W), zero-padded."""
        weight = self.weight - self.centre * self.weight.sum((2, 3), keepdim=True)
        return F.conv2d(x, weight, padding=self.dilation, dilation=self.dilation, groups=DETAIL_MAPS)


class DifferenceBlock(nn.Module):
    """Central differences at three dilations with dense connections."""

    def __init__(self) -> None:
        super().__init__()
        self.differences = nn.ModuleList(CentralDifference(dilation) for dilation in DILATIONS)
        self.slopes = nn.ModuleList(nn.PReLU() for _ in DILATIONS)
        self.joins = nn.ModuleList(nn.Conv2d((k + 2) * DETAIL_MAPS, DETAIL_MAPS, 1) for k in range(len(DILATIONS)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 16, H, W) to (N, 16, H, W)."""
        maps, t = [x], x
        for difference, slope, join in zip(self.differences, self.slopes, self.joins, strict=True):
            maps.append(slope(difference(t)))
            t = F.leaky_relu(join(torch.cat(maps, dim=1)))
        return t


class DetailBranch(nn.Module):
    """Fuses one level of detail."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features(DETAIL_MAPS)
        self.blocks = nn.ModuleList(DifferenceBlock() for _ in range(LEVELS))
        self.scale, self.shift = nn.Conv2d(DETAIL_MAPS, 2, 1), nn.Conv2d(DETAIL_MAPS, 2, 1)
        self.out = nn.Conv2d(2, 1, 1)

    def forward(self, sources: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map both sources, (N, 2, H, W), to the fused level, (N, 1, H, W), and three guides, (N, 16, H, W) each."""
        x, guides = self.features(sources), []
        for block in self.blocks:
            x = block(x)
            guides.append(x)
        modulated = sources * (self.scale(x) + 1) + self.shift(x)
        return self.out(F.leaky_relu(modulated)), guides


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(BASE_MAPS, 3 * BASE_MAPS), nn.Linear(BASE_MAPS, BASE_MAPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, L, 32) to (N, L, 32)."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, L, 16) each
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mixer(nn.Module):
    """Combines each guide in turn with the base by a gated recurrent unit, followed by a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        both = DETAIL_MAPS + BASE_MAPS
        self.convs = nn.ModuleList(nn.Conv2d(BASE_MAPS, BASE_MAPS, 3, padding=1) for _ in range(2))
        self.update, self.reset, self.candidate = (nn.Conv2d(both, BASE_MAPS, 1) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(BASE_MAPS, eps=1e-6), nn.LayerNorm(BASE_MAPS, eps=1e-6)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(BASE_MAPS, 2 * BASE_MAPS), nn.ReLU(), nn.Linear(2 * BASE_MAPS, BASE_MAPS))

    def forward(self, base: Tensor, guides: Sequence[Tensor]) -> Tensor:
        """Return the base maps, (N, 32, h, w), combined with the guides, (N, 16, any size) each."""
        x, size = base, base.shape[2:]
        for layer in self.convs:
            x = F.leaky_relu(layer(x))
        for guide in guides:
            g = F.interpolate(guide, size, mode="bilinear", align_corners=True)
            both = torch.cat([g, x], dim=1)
            z, reset = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            proposed = torch.tanh(self.candidate(torch.cat([g, reset * x], dim=1)))
            tokens = ((1 - z) * proposed + z * x).flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(self.norm1(tokens))
            tokens = tokens + self.mlp(self.norm2(tokens))
            x = tokens.transpose(1, 2).unflatten(2, size)
        return x + base


class BaseBranch(nn.Module):
    """Fuses the base."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features(BASE_MAPS)
        self.mixers = nn.ModuleList(Mixer() for _ in range(LEVELS))
        self.out = nn.Sequential(
            nn.Conv2d(BASE_MAPS, BASE_MAPS // 2, 3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(BASE_MAPS // 2, 1, 3, padding=1),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, -(layer.in_features**-0.5), layer.in_features**-0.5)

    def forward(self, sources: Tensor, guides: Sequence[Sequence[Tensor]]) -> Tensor:
        """Map both sources, (N, 2, h, w), and the guides of each mixer to the fused base, (N, 1, h, w)."""
        maps = x = self.features(sources)
        for mixer, own_guides in zip(self.mixers, guides, strict=True):
            x = mixer(x, own_guides)
        return torch.tanh(self.out(x + maps))


class LapH(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W), which may leave that range.

    134,201 parameters. Any size works; sides below 9 pixels are padded by repeating the border. The time of the
    attention at an eighth of the size, and in training its memory, grow with the square of the number of pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = Pyramid()
        self.details = nn.ModuleList(DetailBranch() for _ in range(LEVELS))
        self.base = BaseBranch()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        missing = (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height))
        if any(missing):
            visible, infrared = (F.pad(image, missing, mode="replicate") for image in (visible, infrared))
        pairs = zip(self.pyramid.split(visible), self.pyramid.split(infrared), strict=True)
        *levels, base = (torch.cat(pair, dim=1) for pair in pairs)
        fused_levels = [detail(level) for detail, level in zip(self.details, levels, strict=True)]
        # For each mixer, its guides from coarse to fine.
        guides = zip(*(guides for _, guides in reversed(fused_levels)), strict=True)
        fused = self.pyramid.collapse([*(level for level, _ in fused_levels), self.base(base, list(guides))])
        return fused[..., :height, :width]


_DETAILS = {"or": 0, "12": 1, "14": 2}
# Patterns of the authors' keys, and our keys.
_AUTHORS_KEYS = [
    (r"^hf_branch_(or|12|14)\.", lambda match: f"details.{_DETAILS[match[1]]}."),
    (r"^lf_branch\.", "base."),
    (r"\.FEB\.", ".features."),
    (r"\.hf_hd_block_(?:or|12|14)_(\d)\.", r".blocks.\1."),
    (r"\.dilation_(\d)\.0\.conv\.", lambda match: f".differences.{int(match[1]) - 1}."),
    (r"\.dilation_(\d)\.1\.", lambda match: f".slopes.{int(match[1]) - 1}."),
    (r"\.d(\d)_1x1\.0\.", lambda match: f".joins.{int(match[1]) - 1}."),
    (r"\.final_fuse\.", ".out."),
    (r"\.MRM_(\d)\.", lambda match: f".mixers.{int(match[1]) - 1}."),
    (r"\.convs\.2\.", ".convs.1."),
    (r"\.conv_z\.0\.", ".update."),
    (r"\.conv_r\.0\.", ".reset."),
    (r"\.conv_o\.0\.", ".candidate."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
]


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' file to ours; keys that are already ours stay."""
    # `hf_hd_block` duplicates a level's last block under a second name.
    repeated = re.compile(r"hf_branch_(or|12|14)\.hf_hd_block\.")
    return renamed({key: value for key, value in state.items() if not repeated.match(key)}, _AUTHORS_KEYS)


def network(weights: Path | None) -> LapH:
    """Return the network with `weights`, or with random weights for None."""
    return filled(LapH(), weights, convert=from_authors)


def squared_gradient(image: Tensor) -> Tensor:
    """Return the squared magnitude of the Sobel derivatives, (N, 1, H, W)."""
    return slopes(image).square().sum(1, keepdim=True)


def contrast(pyramid: Pyramid, visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Return the distance of the fused image's differences between neighbouring cells to the sources' weighted ones.

    All images are (N, 1, H, W). The weights of the sources in a cell are the softmax of their mean detail above the
    cell's average.
    """
    kernels = fused.new_zeros(4, 1, 3, 3)
    kernels[:, :, 1, 1] = 1
    for kernel, (row, column) in zip(kernels, ((1, 0), (1, 2), (0, 1), (2, 1)), strict=True):
        kernel[0, row, column] = -1
    total = 0
    levels = zip(pyramid.split(visible)[:LEVELS], pyramid.split(infrared)[:LEVELS], strict=True)
    for k, pair in zip((8, 4, 2), levels, strict=True):
        size = pair[0].shape[2:]

        def differences(image: Tensor, size: Sequence[int] = size, k: int = k) -> Tensor:
            cells = F.avg_pool2d(F.interpolate(image, size, mode="bilinear", align_corners=True), k)
            return F.conv2d(cells, kernels, padding=1)

        of_visible, of_infrared = torch.softmax(torch.stack([above_mean(level, k) for level in pair]), dim=0)
        target = of_visible * differences(visible) + of_infrared * differences(infrared)
        total = total + (differences(fused) - target).square().sum(1).mean()
    return total


def above_mean(level: Tensor, k: int) -> Tensor:
    """Return for every k x k cell the mean of the values that exceed the cell's mean, or 0 if none does."""
    height, width = (side // k * k for side in level.shape[2:])
    cells = F.pixel_unshuffle(level[..., :height, :width], k)  # (N, k * k, H / k, W / k)
    above = cells > cells.mean(1, keepdim=True)
    return (cells * above).sum(1, keepdim=True) / above.sum(1, keepdim=True).clamp(min=1)


def training(frozen: Path | None) -> Training:
    """Return the published loss: gradients, structural similarity and contrast."""
    trained = network(None)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        fused = trained(visible, infrared)
        similarity = (ssim_inside(visible, fused) + ssim_inside(infrared, fused)).mean() / 2
        # The sum of the sources, not their maximum, as in the authors' code.
        distance = (squared_gradient(fused) - squared_gradient(visible + infrared)).square()
        terms = {
            "gradient": GRADIENT_WEIGHT * (distance + EPSILON**2).sqrt().mean(),
            "ssim": SSIM_WEIGHT * (1 - similarity),
            "contrast": CONTRAST_WEIGHT * contrast(trained.pyramid, visible, infrared, fused),
        }
        return {"total": sum(terms.values()), **terms}

    phase = Phase("fusion", list(trained.parameters()), loss, lr=1e-4, betas=(0.9, 0.99), iterations=8100)
    return Training(trained, [phase], crop=128, batch=32)


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/rgttadv/LapH",
        {"net_g_lateset.pth": "0d9a66f4b6c957051f72495cdafffd870fa90239de1cd8c93fe2de016e04a4f5"},
    ),
    training=training,
)
