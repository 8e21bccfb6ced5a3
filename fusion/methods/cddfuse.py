"""CDDFuse: base features from attention, detail features from an invertible network (Zhao et al., CVPR 2023).

Modules and parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors'
CDDFuse_IVF.pth; the input is luma / 255. The authors stretch every fused image to the whole range.
"""

from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.filling import filled
from fusion.methods.parts.postprocessing import stretched
from fusion.methods.parts.restormer import (
    HEADS,
    BaseFeatureExtraction,
    GatedFeedForward,
    LayerNorm2d,
    StripedBlock,
    striped_base,
    transposed_attention,
)
from fusion.methods.parts.running import as_fuser
from fusion.methods.parts.schedules import halving
from fusion.methods.parts.striping import apply_in_stripes
from fusion.training.similarity import dissimilarity, gradient, slopes
from fusion.weights import read_parts

MAPS, BLOCKS, DETAIL_NODES = 64, 4, 3
EPOCHS = (40, 80)
EPOCH_ITERATIONS = 812  # in the authors' training: 1,083 pairs of MSRS, six patches each, in batches of eight
CLIP = 0.01  # maximum norm of the gradient of each of the four networks
HALVED_EVERY = 20  # epochs


class Attention(nn.Module):
    """Restormer's attention across channels; a depthwise convolution makes queries, keys and values local."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.qkv = nn.Conv2d(MAPS, 3 * MAPS, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * MAPS, 3 * MAPS, 3, padding=1, groups=3 * MAPS, bias=False)
        self.project_out = nn.Conv2d(MAPS, MAPS, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 64, H, W) to the same shape."""
        return self.project_out(transposed_attention(self.qkv_dwconv(self.qkv(x)), self.temperature))


class TransformerBlock(nn.Module):
    """Restormer's block: attention, then the gated feed-forward network, each with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm2d(MAPS), LayerNorm2d(MAPS)
        self.attn = Attention()
        self.ffn = GatedFeedForward(MAPS, 4 * MAPS, 4 * MAPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 64, H, W) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class InvertedResidualBlock(nn.Module):
    """A 1x1 convolution to 64 maps, a depthwise 3x3 convolution with mirrored borders, a 1x1 convolution to 32 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.bottleneckBlock = nn.Sequential(
            nn.Conv2d(MAPS // 2, MAPS, 1, bias=False),
            nn.ReLU6(),
            nn.Identity(),  # in place of the authors' padding layer
            nn.Conv2d(MAPS, MAPS, 3, padding=1, groups=MAPS, padding_mode="reflect", bias=False),
            nn.ReLU6(),
            nn.Conv2d(MAPS, MAPS // 2, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 32, H, W) to the same shape."""
        return self.bottleneckBlock(x)


class DetailNode(nn.Module):
    """An invertible layer: mixes the channels, then applies affine coupling between the two halves of them."""

    def __init__(self) -> None:
        super().__init__()
        self.theta_phi, self.theta_rho, self.theta_eta = (InvertedResidualBlock() for _ in range(3))
        self.shffleconv = nn.Conv2d(MAPS, MAPS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 64, H, W) to the same shape."""
        first, second = self.shffleconv(x).chunk(2, dim=1)
        second = second + self.theta_phi(first)
        first = first * self.theta_rho(second).exp() + self.theta_eta(second)
        return torch.cat([first, second], dim=1)


class DetailFeatureExtraction(nn.Module):
    """A sequence of detail nodes."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*(DetailNode() for _ in range(nodes)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 64, H, W) to the same shape."""
        return self.net(x)


class RestormerEncoder(nn.Module):
    """Maps an image, (N, 1, H, W), to its base and its detail features, (N, 64, H, W) each."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(1, MAPS, 3, padding=1, bias=False)
        self.encoder_level1 = nn.Sequential(*(TransformerBlock() for _ in range(BLOCKS)))
        self.baseFeature, self.detailFeature = BaseFeatureExtraction(MAPS), DetailFeatureExtraction(DETAIL_NODES)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the base and the detail features."""
        maps = self.encoder_level1(self.patch_embed.proj(image))
        return self.baseFeature(maps), self.detailFeature(maps)


class RestormerDecoder(nn.Module):
    """Maps base and detail features, (N, 64, H, W) each, and an input image, (N, 1, H, W), to an image in 0..1."""

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
        """Return the image: the sigmoid of `image` plus the decoded features."""
        maps = self.encoder_level2(self.reduce_channel(torch.cat([base, detail], dim=1)))
        return torch.sigmoid(self.output(maps) + image)


class CDDFuse(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 1,188,272 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.DIDF_Encoder, self.DIDF_Decoder = RestormerEncoder(), RestormerDecoder()
        self.BaseFuseLayer, self.DetailFuseLayer = BaseFeatureExtraction(MAPS), DetailFeatureExtraction(1)

    def decode(self, visible: Tensor, features: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        """Fuse the features of both sources, `features` the visible image's, and decode them onto the visible image."""
        (base, detail), (other_base, other_detail) = features, other
        base, detail = self.BaseFuseLayer(base + other_base), self.DetailFuseLayer(detail + other_detail)
        return self.DIDF_Decoder(visible, base, detail)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        # A side of one pixel is padded to two: a mirrored border needs a neighbour.
        height, width = visible.shape[2:]
        if min(height, width) < 2:
            border = (0, max(0, 2 - width), 0, max(0, 2 - height))
            visible, infrared = (F.pad(image, border, mode="replicate") for image in (visible, infrared))
        fused = self.decode(visible, self.DIDF_Encoder(visible), self.DIDF_Encoder(infrared))
        return fused[..., :height, :width]


def network(weights: Path | None) -> CDDFuse:
    """Return the network with `weights`, or with random weights for None."""
    return filled(CDDFuse(), weights, read_parts)


class StripedDetail(nn.Module):
    """Detail feature extraction applied in stripes of an image, without gradients."""

    def __init__(self, detail: DetailFeatureExtraction) -> None:
        super().__init__()
        self.detail = detail

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, 64, H, W) to the same shape."""
        return apply_in_stripes(self.detail, (x,), reach=2 * len(self.detail.net))  # two 3x3 convolutions per node


def in_stripes(network: CDDFuse) -> CDDFuse:
    """Change the network to work in stripes, and return it; its weights must not change afterwards."""

    def transformer(block: TransformerBlock) -> StripedBlock:
        attention = block.attn
        qkv = nn.Sequential(attention.qkv, attention.qkv_dwconv)
        return StripedBlock(block, qkv, attention.temperature, attention.project_out, block.ffn)

    encoder, decoder = network.DIDF_Encoder, network.DIDF_Decoder
    encoder.encoder_level1 = nn.Sequential(*map(transformer, encoder.encoder_level1))
    decoder.encoder_level2 = nn.Sequential(*map(transformer, decoder.encoder_level2))
    encoder.baseFeature = striped_base(encoder.baseFeature)
    network.BaseFuseLayer = striped_base(network.BaseFuseLayer)
    encoder.detailFeature = StripedDetail(encoder.detailFeature)
    network.DetailFuseLayer = StripedDetail(network.DetailFuseLayer)
    return network


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function; on a CPU it works in stripes."""
    model = network(weights)
    # On a GPU, stripes are too small to keep it busy.
    return as_fuser(in_stripes(model) if device == "cpu" else model, device, precision, channels_last=True)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of the maps' correlations over the pixels, for (N, C, H, W) each; a constant map counts as 0."""
    a, b = (maps.flatten(2) - maps.flatten(2).mean(-1, keepdim=True) for maps in (a, b))
    norms = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return ((a * b).sum(-1) / (norms + 1.1920929e-07)).clamp(-1, 1).mean()


def decomposition_loss(features: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Return the decomposition loss, low for correlated base features and uncorrelated detail features of the bands."""
    return correlation(features[1], other[1]).square() / (1.01 + correlation(features[0], other[0]))


def reconstruction_loss(network: CDDFuse, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the terms of phase I: reconstruction of each source from its own features, and their decomposition."""
    of_visible, of_infrared = network.DIDF_Encoder(visible), network.DIDF_Encoder(infrared)
    decoded_visible = network.DIDF_Decoder(visible, *of_visible)
    decoded_infrared = network.DIDF_Decoder(infrared, *of_infrared)
    terms = {
        "visible": 5 * dissimilarity(visible, decoded_visible) + (visible - decoded_visible).square().mean(),
        "infrared": 5 * dissimilarity(infrared, decoded_infrared) + (infrared - decoded_infrared).square().mean(),
        "gradient": 5 / 8 * (slopes(visible) - slopes(decoded_visible)).abs().mean(),
        "decomposition": 2 * decomposition_loss(of_visible, of_infrared),
    }
    return {"total": sum(terms.values()), **terms}


def fusion_loss(network: CDDFuse, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the terms of phase II: distances to the brighter pixel and to the larger gradient, and decomposition."""
    of_visible, of_infrared = network.DIDF_Encoder(visible), network.DIDF_Encoder(infrared)
    fused = network.decode(visible, of_visible, of_infrared)
    strongest = torch.maximum(gradient(visible), gradient(infrared))
    terms = {
        "intensity": (torch.maximum(visible, infrared) - fused).abs().mean(),
        "gradient": 10 * (strongest - gradient(fused)).abs().mean(),
        "decomposition": 2 * decomposition_loss(of_visible, of_infrared),
    }
    return {"total": sum(terms.values()), **terms}


def training(frozen: Path | None) -> Training:
    """Return the authors' two phases: encoder and decoder reconstruct the sources, then all four networks fuse."""
    trained = network(None)
    coders = [list(part.parameters()) for part in (trained.DIDF_Encoder, trained.DIDF_Decoder)]
    layers = [list(part.parameters()) for part in (trained.BaseFuseLayer, trained.DetailFuseLayer)]
    phases = [
        Phase(
            "I",
            list(chain(*coders)),
            partial(reconstruction_loss, trained),
            schedule=halving(HALVED_EVERY, EPOCHS[0]),
            clip=CLIP,
            parameter_groups=[(part, 1.0) for part in coders],
            iterations=EPOCH_ITERATIONS * EPOCHS[0],
        ),
        Phase(
            "II",
            list(chain(*coders, *layers)),
            partial(fusion_loss, trained),
            schedule=halving(HALVED_EVERY, EPOCHS[1]),
            clip=CLIP,
            # The rate of encoder and decoder was halved twice in the 40 epochs of phase I.
            parameter_groups=[(part, 0.25) for part in coders] + [(part, 1.0) for part in layers],
            iterations=EPOCH_ITERATIONS * EPOCHS[1],
        ),
    ]
    choices = [
        "random 128x128 crops with flips and rotations instead of a fixed grid without flat patches",
        "a new Adam in phase II, also for encoder and decoder, whose learning rate continues from phase I",
    ]
    return Training(trained, phases, crop=128, batch=8, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published("github.com/Zhaozixiang1228/MMIF-CDDFuse", {"CDDFuse_IVF.pth": ""}),
    authors_output=stretched,
    training=training,
)
