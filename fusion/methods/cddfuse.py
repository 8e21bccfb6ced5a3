"""CDDFuse: base features by attention, detail features by invertible steps (Zhao et al., CVPR 2023).

Modules and parameters are named as the keys of the authors' checkpoint. Weights are ours or the authors'
CDDFuse_IVF.pth; luma / 255 goes in. The authors stretch every fused image to the whole range.
"""

from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.filling import filled
from fusion.methods.parts.finishing import stretched
from fusion.methods.parts.restormer import HEADS, BaseBlock, ChannelNorm, Gated, Striped, attend, striped_base
from fusion.methods.parts.running import as_fuser
from fusion.methods.parts.schedules import halving
from fusion.methods.parts.striping import striped
from fusion.training.similarity import dissimilarity, gradient, slopes
from fusion.weights import read_parts

MAPS, BLOCKS, DETAIL_STEPS = 64, 4, 3
EPOCHS = (40, 80)
EPOCH_ITERATIONS = 812  # of the authors: 1,083 pairs of MSRS, six patches each, in batches of eight
CLIP = 0.01  # the largest norm of each of the four networks' gradient
HALVED_EVERY = 20  # epochs


class Attention(nn.Module):
    """Channel attention whose queries, keys and values see their neighbours channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.qkv = nn.Conv2d(MAPS, 3 * MAPS, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * MAPS, 3 * MAPS, 3, padding=1, groups=3 * MAPS, bias=False)
        self.project_out = nn.Conv2d(MAPS, MAPS, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64, H, W) to the same."""
        return self.project_out(attend(self.qkv_dwconv(self.qkv(x)), self.temperature))


class TransformerBlock(nn.Module):
    """Attention, then the gated layer, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(MAPS), ChannelNorm(MAPS)
        self.attn = Attention()
        self.ffn = Gated(MAPS, 4 * MAPS, 4 * MAPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64, H, W) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Bottleneck(nn.Module):
    """1x1 to 64 maps, a mirrored 3x3 channel by channel, 1x1 back to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.bottleneckBlock = nn.Sequential(
            nn.Conv2d(MAPS // 2, MAPS, 1, bias=False),
            nn.ReLU6(),
            nn.Identity(),  # the authors' padding
            nn.Conv2d(MAPS, MAPS, 3, padding=1, groups=MAPS, padding_mode="reflect", bias=False),
            nn.ReLU6(),
            nn.Conv2d(MAPS, MAPS // 2, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 32, H, W) to the same."""
        return self.bottleneckBlock(x)


class DetailStep(nn.Module):
    """Mixes the channels, then changes each half by what the other says, so that it could be undone."""

    def __init__(self) -> None:
        super().__init__()
        self.theta_phi, self.theta_rho, self.theta_eta = Bottleneck(), Bottleneck(), Bottleneck()
        self.shffleconv = nn.Conv2d(MAPS, MAPS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64, H, W) to the same."""
        first, second = self.shffleconv(x).chunk(2, dim=1)
        second = second + self.theta_phi(first)
        first = first * self.theta_rho(second).exp() + self.theta_eta(second)
        return torch.cat([first, second], dim=1)


class Detail(nn.Module):
    """Detail steps in a row."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*(DetailStep() for _ in range(steps)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64, H, W) to the same."""
        return self.net(x)


class Encoder(nn.Module):
    """An image, (N, 1, H, W), to its base and its detail features, (N, 64, H, W) each."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(1, MAPS, 3, padding=1, bias=False)
        self.encoder_level1 = nn.Sequential(*(TransformerBlock() for _ in range(BLOCKS)))
        self.baseFeature, self.detailFeature = BaseBlock(MAPS), Detail(DETAIL_STEPS)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return base and detail."""
        maps = self.encoder_level1(self.patch_embed.proj(image))
        return self.baseFeature(maps), self.detailFeature(maps)


class Decoder(nn.Module):
    """Base and detail features and an image to change, (N, 1, H, W), to the changed image in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce_channel = nn.Conv2d(2 * MAPS, MAPS, 1, bias=False)
        self.encoder_level2 = nn.Sequential(*(TransformerBlock() for _ in range(BLOCKS)))
        self.output = nn.Sequential(
            nn.Conv2d(MAPS, MAPS // 2, 3, padding=1, bias=False),
            nn.LeakyReLU(),
            nn.Conv2d(MAPS // 2, 1, 3, padding=1, bias=False),
        )

    def forward(self, image: Tensor, base: Tensor, detail: Tensor) -> Tensor:
        """Return the image that the features make of `image`."""
        maps = self.encoder_level2(self.reduce_channel(torch.cat([base, detail], dim=1)))
        return torch.sigmoid(self.output(maps) + image)


class CDDFuse(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 1,188,272 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.DIDF_Encoder, self.DIDF_Decoder = Encoder(), Decoder()
        self.BaseFuseLayer, self.DetailFuseLayer = BaseBlock(MAPS), Detail(1)

    def decode(self, visible: Tensor, features: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        """Fuse the encoder's features of both sources into a change of the visible image."""
        (base, detail), (other_base, other_detail) = features, other
        base, detail = self.BaseFuseLayer(base + other_base), self.DetailFuseLayer(detail + other_detail)
        return self.DIDF_Decoder(visible, base, detail)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Encode both, fuse, decode."""
        # One pixel more where there is but one: a mirrored border needs a neighbour.
        height, width = visible.shape[2:]
        if min(height, width) < 2:
            border = (0, max(0, 2 - width), 0, max(0, 2 - height))
            visible, infrared = (F.pad(image, border, mode="replicate") for image in (visible, infrared))
        fused = self.decode(visible, self.DIDF_Encoder(visible), self.DIDF_Encoder(infrared))
        return fused[..., :height, :width]


def network(weights: Path | None) -> CDDFuse:
    """Return the network, filled from `weights` or, for None, with random ones."""
    return filled(CDDFuse(), weights, read_parts)


class StripedDetail(nn.Module):
    """Detail steps, without gradients, in stripes of an image."""

    def __init__(self, detail: Detail) -> None:
        super().__init__()
        self.detail = detail

    def forward(self, x: Tensor) -> Tensor:
        """(1, 64, H, W) to the same."""
        return striped(self.detail, (x,), reach=2 * len(self.detail.net))  # a step sees two pixels far


def in_stripes(network: CDDFuse) -> CDDFuse:
    """Return the network, whose weights are final from now on, in stripes; changes the network."""

    def transformer(block: TransformerBlock) -> Striped:
        attention = block.attn
        qkv = nn.Sequential(attention.qkv, attention.qkv_dwconv)
        return Striped(block, qkv, attention.temperature, attention.project_out, block.ffn)

    encoder, decoder = network.DIDF_Encoder, network.DIDF_Decoder
    encoder.encoder_level1 = nn.Sequential(*map(transformer, encoder.encoder_level1))
    decoder.encoder_level2 = nn.Sequential(*map(transformer, decoder.encoder_level2))
    encoder.baseFeature = striped_base(encoder.baseFeature)
    network.BaseFuseLayer = striped_base(network.BaseFuseLayer)
    encoder.detailFeature = StripedDetail(encoder.detailFeature)
    network.DetailFuseLayer = StripedDetail(network.DetailFuseLayer)
    return network


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function, on a processor in stripes."""
    made = network(weights)
    # A GPU has work enough only in whole images.
    return as_fuser(in_stripes(made) if device == "cpu" else made, device, precision, channels_last=True)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean over images and channels of the correlation of (N, C, H, W) maps over their pixels; flat: 0."""
    a, b = (maps.flatten(2) - maps.flatten(2).mean(-1, keepdim=True) for maps in (a, b))
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return ((a * b).sum(-1) / (norms + 1.1920929e-07)).clamp(-1, 1).mean()


def decomposition(features: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of base features that differ between the bands and of detail features that do not."""
    return correlation(features[1], other[1]).square() / (1.01 + correlation(features[0], other[0]))


def rebuilding_loss(network: CDDFuse, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the terms of phase I: both sources come back from their own features, which are decomposed."""
    seen, warm = network.DIDF_Encoder(visible), network.DIDF_Encoder(infrared)
    rebuilt_visible, rebuilt_infrared = network.DIDF_Decoder(visible, *seen), network.DIDF_Decoder(infrared, *warm)
    terms = {
        "visible": 5 * dissimilarity(visible, rebuilt_visible) + (visible - rebuilt_visible).square().mean(),
        "infrared": 5 * dissimilarity(infrared, rebuilt_infrared) + (infrared - rebuilt_infrared).square().mean(),
        "gradient": 5 / 8 * (slopes(visible) - slopes(rebuilt_visible)).abs().mean(),
        "decomposition": 2 * decomposition(seen, warm),
    }
    return {"total": sum(terms.values()), **terms}


def fusion_loss(network: CDDFuse, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the terms of phase II: the brighter pixel and the stronger gradient of both, features decomposed."""
    seen, warm = network.DIDF_Encoder(visible), network.DIDF_Encoder(infrared)
    fused = network.decode(visible, seen, warm)
    strongest = torch.maximum(gradient(visible), gradient(infrared))
    terms = {
        "intensity": (torch.maximum(visible, infrared) - fused).abs().mean(),
        "gradient": 10 * (strongest - gradient(fused)).abs().mean(),
        "decomposition": 2 * decomposition(seen, warm),
    }
    return {"total": sum(terms.values()), **terms}


def training(frozen: Path | None) -> Training:
    """Return the authors' two phases: encoder and decoder rebuild the sources, then all four networks fuse."""
    trained = network(None)
    coders = [list(part.parameters()) for part in (trained.DIDF_Encoder, trained.DIDF_Decoder)]
    layers = [list(part.parameters()) for part in (trained.BaseFuseLayer, trained.DetailFuseLayer)]
    phases = [
        Phase(
            "I",
            list(chain(*coders)),
            partial(rebuilding_loss, trained),
            schedule=halving(HALVED_EVERY, EPOCHS[0]),
            clip=CLIP,
            parts=[(part, 1.0) for part in coders],
            iterations=EPOCH_ITERATIONS * EPOCHS[0],
        ),
        Phase(
            "II",
            list(chain(*coders, *layers)),
            partial(fusion_loss, trained),
            schedule=halving(HALVED_EVERY, EPOCHS[1]),
            clip=CLIP,
            # Encoder and decoder have learned through forty epochs, two halvings.
            parts=[(part, 0.25) for part in coders] + [(part, 1.0) for part in layers],
            iterations=EPOCH_ITERATIONS * EPOCHS[1],
        ),
    ]
    choices = [
        "random 128x128 crops with flips and turns instead of a fixed grid without flat patches",
        "a fresh Adam in phase II, also for encoder and decoder, whose rate goes on where it was",
    ]
    return Training(trained, phases, crop=128, batch=8, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published("github.com/Zhaozixiang1228/MMIF-CDDFuse", {"CDDFuse_IVF.pth": ""}),
    authors_output=stretched,
    training=training,
)
