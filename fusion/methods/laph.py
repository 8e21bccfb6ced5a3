"""LapH: a Laplacian pyramid whose levels are fused by two kinds of network (Luo et al., IEEE TCSVT 33(12), 2023).

Authors' code            here
hf_branch_or, _12, _14   details: of the levels at full, half and quarter size
lf_branch                base: of what is left, at an eighth
FEB                      features
HDCB, hf_hd_block        blocks
MRM                      mixers
e                        guides: what either block of a level finds, as help for the base

Weights are ours or the authors' net_g_lateset.pth; luma / 255 goes in, and what comes out is clipped. The authors round
the clipped image to 8 bits and take luma in the studio range, as this project does: their treatment is the equal one.
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
LEVELS = 3  # of detail; as many blocks a level, and as many mixers, each helped by one block of every level
DILATIONS = (3, 2, 1)
HEADS = 2
SMALLEST = 9  # side that the pyramid's mirrored borders need
GRADIENT, SSIM, CONTRAST = 10.0, 1.0, 0.5  # weights of the loss's terms
EPSILON = 1e-6  # of the distance of gradients, which is smooth below it


class Pyramid(nn.Module):
    """Burt and Adelson's Laplacian pyramid with mirrored borders; nothing in it is learned."""

    def __init__(self) -> None:
        super().__init__()
        window = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", torch.outer(window, window)[None, None], persistent=False)

    def blurred(self, image: Tensor) -> Tensor:
        """Blur (N, 1, H, W)."""
        return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), self.kernel)

    def larger(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """Return the image (N, 1, H, W) at twice its size, or nearly, for sides that were odd."""
        height, width = image.shape[2:]
        apart = image.new_zeros(*image.shape[:2], 2 * height, 2 * width)
        apart[..., ::2, ::2] = image
        doubled = self.blurred(4 * apart)
        return doubled if doubled.shape[2:] == tuple(size) else F.interpolate(doubled, tuple(size), mode="nearest")

    def split(self, image: Tensor) -> list[Tensor]:
        """Return the levels of detail from fine to coarse and, last, the base."""
        levels = []
        for _ in range(LEVELS):
            smaller = self.blurred(image)[..., ::2, ::2]
            levels.append(image - self.larger(smaller, image.shape[2:]))
            image = smaller
        return [*levels, image]

    def joined(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the image whose levels these are."""
        image = levels[-1]
        for level in reversed(levels[:-1]):
            image = self.larger(image, level.shape[2:]) + level
        return image


def features(maps: int) -> nn.Sequential:
    """Return the convolutions that see both sources of a level, (N, 2, H, W) to (N, maps, H, W)."""
    return nn.Sequential(
        nn.Conv2d(2, maps // 2, 3, padding=1),
        nn.InstanceNorm2d(maps // 2),
        nn.LeakyReLU(),
        nn.Conv2d(maps // 2, maps, 3, padding=1),
        nn.LeakyReLU(),
    )


class CentralDifference(nn.Module):
    """A 3x3 convolution, map by map, of the differences between every neighbour and the pixel itself."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Conv2d(DETAIL_MAPS, DETAIL_MAPS, 3, groups=DETAIL_MAPS).weight
        self.register_buffer("centre", F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 16, H, W) to (N, 16, H, W), zero-padded."""
        weight = self.weight - self.centre * self.weight.sum((2, 3), keepdim=True)
        return F.conv2d(x, weight, padding=self.dilation, dilation=self.dilation, groups=DETAIL_MAPS)


class DifferenceBlock(nn.Module):
    """Differences at three distances, each joined with all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.differences = nn.ModuleList(CentralDifference(dilation) for dilation in DILATIONS)
        self.slopes = nn.ModuleList(nn.PReLU() for _ in DILATIONS)
        self.joins = nn.ModuleList(nn.Conv2d((k + 2) * DETAIL_MAPS, DETAIL_MAPS, 1) for k in range(len(DILATIONS)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 16, H, W) to (N, 16, H, W)."""
        found, t = [x], x
        for difference, slope, join in zip(self.differences, self.slopes, self.joins, strict=True):
            found.append(slope(difference(t)))
            t = F.leaky_relu(join(torch.cat(found, dim=1)))
        return t


class Detail(nn.Module):
    """Fuses one level of detail."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features(DETAIL_MAPS)
        self.blocks = nn.ModuleList(DifferenceBlock() for _ in range(LEVELS))
        self.scale, self.shift = nn.Conv2d(DETAIL_MAPS, 2, 1), nn.Conv2d(DETAIL_MAPS, 2, 1)
        self.out = nn.Conv2d(2, 1, 1)

    def forward(self, sources: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(N, 2, H, W) to the fused level, (N, 1, H, W), and three guides, (N, 16, H, W) each."""
        x, guides = self.features(sources), []
        for block in self.blocks:
            x = block(x)
            guides.append(x)
        modulated = sources * (self.scale(x) + 1) + self.shift(x)
        return self.out(F.leaky_relu(modulated)), guides


class Attention(nn.Module):
    """Every token attends to every other."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(BASE_MAPS, 3 * BASE_MAPS), nn.Linear(BASE_MAPS, BASE_MAPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, 32) to (N, L, 32)."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, L, 16) each
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mixer(nn.Module):
    """Lets each guide in turn into the base by a gated recurrent unit, then mixes all pixels by attention."""

    def __init__(self) -> None:
        super().__init__()
        both = DETAIL_MAPS + BASE_MAPS
        self.convs = nn.ModuleList(nn.Conv2d(BASE_MAPS, BASE_MAPS, 3, padding=1) for _ in range(2))
        self.update, self.reset, self.candidate = (nn.Conv2d(both, BASE_MAPS, 1) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(BASE_MAPS, eps=1e-6), nn.LayerNorm(BASE_MAPS, eps=1e-6)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(BASE_MAPS, 2 * BASE_MAPS), nn.ReLU(), nn.Linear(2 * BASE_MAPS, BASE_MAPS))

    def forward(self, base: Tensor, guides: Sequence[Tensor]) -> Tensor:
        """Return the base (N, 32, h, w) with what the guides, (N, 16, any size) each, say."""
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


class Base(nn.Module):
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
        """(N, 2, h, w), and for each mixer its guides, to (N, 1, h, w)."""
        seen = x = self.features(sources)
        for mixer, helped_by in zip(self.mixers, guides, strict=True):
            x = mixer(x, helped_by)
        return torch.tanh(self.out(x + seen))


class LapH(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W), which may leave that range.

    134,201 parameters. Any size works; sides below 9 pixels are filled up by repeating the border. Attention at an
    eighth of the size takes time, and in training memory, with the square of the pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = Pyramid()
        self.details = nn.ModuleList(Detail() for _ in range(LEVELS))
        self.base = Base()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        missing = (0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height))
        if any(missing):
            visible, infrared = (F.pad(image, missing, mode="replicate") for image in (visible, infrared))
        pairs = zip(self.pyramid.split(visible), self.pyramid.split(infrared), strict=True)
        *levels, base = (torch.cat(pair, dim=1) for pair in pairs)
        found = [detail(level) for detail, level in zip(self.details, levels, strict=True)]
        guides = zip(*(guides for _, guides in reversed(found)), strict=True)  # a mixer's guides from coarse to fine
        fused = self.pyramid.joined([*(level for level, _ in found), self.base(base, list(guides))])
        return fused[..., :height, :width]


_DETAILS = {"or": 0, "12": 1, "14": 2}
# The authors' key, as a pattern, and ours.
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
    # `hf_hd_block` is a second name of a level's last block.
    repeated = re.compile(r"hf_branch_(or|12|14)\.hf_hd_block\.")
    return renamed({key: value for key, value in state.items() if not repeated.match(key)}, _AUTHORS_KEYS)


def network(weights: Path | None) -> LapH:
    """Return the network, filled from `weights` or, for None, with random ones."""
    return filled(LapH(), weights, convert=from_authors)


def edges(image: Tensor) -> Tensor:
    """Return the squared magnitude of the Sobel derivatives, (N, 1, H, W)."""
    return slopes(image).square().sum(1, keepdim=True)


def contrast(pyramid: Pyramid, visible: Tensor, infrared: Tensor, fused: Tensor) -> Tensor:
    """Return how far the fused image's differences between cells are from the sources', weighted by their detail.

    All (N, 1, H, W). The sources' weights in a cell are their softmax of the mean detail above the cell's average.
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
        wanted = of_visible * differences(visible) + of_infrared * differences(infrared)
        total = total + (differences(fused) - wanted).square().sum(1).mean()
    return total


def above_mean(level: Tensor, k: int) -> Tensor:
    """Return the mean of those values in every k x k cell that exceed the cell's mean; 0 where none does."""
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
        # The sum of the sources, not their maximum: as in the authors' code.
        distance = (edges(fused) - edges(visible + infrared)).square()
        terms = {
            "gradient": GRADIENT * (distance + EPSILON**2).sqrt().mean(),
            "ssim": SSIM * (1 - similarity),
            "contrast": CONTRAST * contrast(trained.pyramid, visible, infrared, fused),
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
