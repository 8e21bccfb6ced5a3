"""CrossFuse: two auto-encoders joined by cross attention to differences (Li and Wu, Information Fusion 103, 2024).

Modules and parameters are named as the keys of the authors' three checkpoints. No convolution is followed by an
activation; the nonlinear operations are pooling, attention and the weights in the decoder. The weights are a file of
ours or the authors' three files; the input is luma / 255, and the network itself stretches its output.
"""

import re
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Phase, Published, Training
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled
from fusion.methods.parts.layers import MLP, laplacian
from fusion.methods.parts.postprocessing import truncated
from fusion.methods.parts.running import loader
from fusion.methods.parts.schedules import tenth_after
from fusion.training.similarity import SCALE_WEIGHTS
from fusion.weights import read_state

SHALLOW, DEEP, GROWTH = 32, 128, 64  # feature maps
PATCH, HEADS = 2, 16
WIDTH = PATCH**2 * DEEP  # of a token
TILE = 32  # side of the square tiles of deep maps within which tokens attend to each other
MIN_SIDE = 16  # smallest side in pixels; three poolings must leave two pixels for a mirrored border
EPSILON = 1e-6
# Our name of each network, and the authors' file.
FILES = {
    "infrared": "autoencoder/auto_encoder_epoch_4_ir.model",
    "visible": "autoencoder/auto_encoder_epoch_4_vi.model",
    "fusion": "transfuse/fusetrans_epoch_32_bs_8_num_20k_lr_0.1_s1_c1.model",
}
STRUCTURE_WEIGHT, GRADIENT_WEIGHT = 10000.0, 10.0
WEIGHT_DECAY = 0.9


def pad_to_size(x: Tensor, like: Tensor) -> Tensor:
    """Pad x by mirroring to the size of another map, by half of the difference on each side."""
    height, width = (want - have for want, have in zip(like.shape[2:], x.shape[2:], strict=True))
    borders = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(x, borders, mode="reflect") if any(borders) else x


class Convolution(nn.Module):
    """A convolution with mirrored borders, followed by batch normalisation if `normalised`."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, normalised: bool = False) -> None:
        super().__init__()
        layers = [nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="reflect")]
        self.conv2d = nn.Sequential(*layers, *([nn.BatchNorm2d(outputs)] if normalised else []))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return self.conv2d(x)


class DenseBlock(nn.Module):
    """Three densely connected convolutions, and one that reduces all their maps to 128."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        for k in range(3):
            self.add_module(f"dense_conv{k}", Convolution(inputs + k * GROWTH, GROWTH))
        self.adjust_conv = Convolution(inputs + 3 * GROWTH, DEEP)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, 128, H, W)."""
        for layer in (self.dense_conv0, self.dense_conv1, self.dense_conv2):
            x = torch.cat([x, layer(x)], dim=1)
        return self.adjust_conv(x)


class Encoder(nn.Module):
    """Encodes an image into shallow maps at full size and deep maps at an eighth of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Convolution(1, SHALLOW)
        self.dense_blocks = nn.Sequential(DenseBlock(SHALLOW), nn.MaxPool2d(2), DenseBlock(DEEP))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 1, H, W) in 0..1 to deep maps, (N, 128, H // 8, W // 8), and shallow maps, (N, 32, H, W)."""
        shallow = self.conv1(image)
        return F.max_pool2d(self.dense_blocks(F.max_pool2d(shallow, 2)), 2), shallow


def upsampling() -> nn.Upsample:
    """Return the layer that doubles the size by repeating pixels."""
    return nn.Upsample(scale_factor=2, mode="nearest")


class Decoder(nn.Module):
    """Decodes deep and shallow maps into an image; used only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Convolution(DEEP, 64)
        self.conv_block = nn.Sequential(Convolution(64, 64), upsampling(), Convolution(64, SHALLOW), upsampling())
        self.conv_last = Convolution(SHALLOW, 1, size=1)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Return the image, (N, 1, H, W)."""
        x = self.conv_block(F.interpolate(self.conv1(deep), scale_factor=2.0))
        return self.conv_last(pad_to_size(x, shallow) + shallow)


class AutoEncoder(nn.Module):
    """The auto-encoder of one band; its decoder is only used to train the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.fea_encoder1 = Encoder()
        self.recon_decoder1 = Decoder()

    def forward(self, image: Tensor) -> Tensor:
        """Return the reconstruction of an image in 0..1, (N, 1, H, W)."""
        return self.recon_decoder1(*self.fea_encoder1(image))


class Attention(nn.Module):
    """Attention of 16 heads: self-attention or, with layers of its own, cross attention to dissimilar tokens."""

    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)  # not used in cross attention, but in the checkpoint and the count
        if cross:
            self.q_linear, self.k_linear, self.v_linear = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor, others: Tensor | None = None) -> Tensor:
        """Map (N, L, 512) each to (N, L, 512)."""
        if others is None:
            q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        else:
            # The minus sign turns attention to similar tokens into attention to dissimilar ones.
            q, k, v = -self.q_linear(tokens), self.k_linear(others), self.v_linear(others)
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a multilayer perceptron, each on normalised tokens and with a residual connection."""

    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH, EPSILON), Attention(cross)
        self.norm2, self.mlp = nn.LayerNorm(WIDTH, EPSILON), MLP(WIDTH, 4 * WIDTH)

    def forward(self, tokens: Tensor, others: Tensor | None = None) -> Tensor:
        """Map (N, L, 512) each to (N, L, 512); in cross attention the residual connection is from `others`."""
        if others is None:
            tokens = tokens + self.attn(self.norm1(tokens))
        else:
            tokens = others + self.attn(self.norm1(tokens), self.norm1(others))
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """One block; in cross attention, a normalisation follows."""

    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(cross))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, tokens: Tensor, others: Tensor | None = None) -> Tensor:
        """Map (N, L, 512) each to (N, L, 512)."""
        tokens = self.blocks[0](tokens, others)
        return tokens if others is None else self.norm(tokens)


class CrossAttention(nn.Module):
    """Joins the deep maps of both sources tile by tile: two self-attention blocks, then cross attention both ways.

    The authors roll the maps by half a tile between the blocks. This is left out, because it has no effect within a
    tile: the tokens have no positional encoding.
    """

    def __init__(self) -> None:
        super().__init__()
        for k in (1, 2):
            both = {f"self_atten{source}": Transformer(cross=False) for source in (1, 2)}
            self.add_module(f"self_atten_block{k}", nn.ModuleDict(both))
        both = {f"cross_atten{source}": Transformer(cross=True) for source in (1, 2)}
        self.cross_atten_block = nn.ModuleDict(both)

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """Map deep maps, (N, 128, H, W) each, to joint maps of the same shape."""
        height, width = infrared.shape[2:]
        down, across = -(-height // TILE), -(-width // TILE)
        a, b = (self._tokens(pad_to_multiple(maps, TILE)) for maps in (infrared, visible))
        for block in (self.self_atten_block1, self.self_atten_block2):
            a, b = block["self_atten1"](a), block["self_atten2"](b)
        joint = self.cross_atten_block["cross_atten1"](a, b) + self.cross_atten_block["cross_atten2"](b, a)
        return self._maps(joint, down, across)[..., :height, :width]

    @staticmethod
    def _tokens(maps: Tensor) -> Tensor:
        """Cut maps into tiles, and tiles into patches: (N, C, H, W) to (N tiles, 256, 4 C)."""
        n, channels, height, width = maps.shape
        side = TILE // PATCH
        cut = maps.view(n, channels, height // TILE, side, PATCH, width // TILE, side, PATCH)
        return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, side * side, channels * PATCH**2)

    @staticmethod
    def _maps(tokens: Tensor, down: int, across: int) -> Tensor:
        """Undo `_tokens`, for images of `down` times `across` tiles."""
        side = TILE // PATCH
        cut = tokens.view(-1, down, across, side, side, DEEP, PATCH, PATCH)
        return cut.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(-1, DEEP, down * TILE, across * TILE)


def local_activity(maps: Tensor) -> Tensor:
    """Return the mean over 3x3 pixels of the sum of all maps, zero-padded: (N, C, H, W) to (N, 1, H, W)."""
    return F.avg_pool2d(maps.sum(1, keepdim=True), 3, stride=1, padding=1)


class FusionDecoder(nn.Module):
    """Decodes the fused image from the joint maps and both sources' maps, weighted by their activity."""

    def __init__(self) -> None:
        super().__init__()
        # Fixed kernels of 1/9, which are in the checkpoint; `local_activity` computes the same average.
        averages = [nn.Conv2d(maps, maps, 3, bias=False).requires_grad_(False) for maps in (SHALLOW, DEEP)]
        for average in averages:
            nn.init.constant_(average.weight, 1 / 9)
        self.weight = nn.ModuleDict({"conv_sh": averages[0], "conv_de": averages[1]})
        self.conv1 = Convolution(DEEP, 64, normalised=True)
        self.conv_block = nn.Sequential(
            Convolution(64, 64, normalised=True),
            upsampling(),
            Convolution(64, SHALLOW, normalised=True),
            upsampling(),
            Convolution(SHALLOW, SHALLOW, normalised=True),
        )
        self.conv_last = Convolution(SHALLOW, 1, size=1, normalised=True)

    def forward(self, joint: Tensor, deep: tuple[Tensor, Tensor], shallow: tuple[Tensor, Tensor]) -> Tensor:
        """Return the fused image before its stretch; infrared comes first."""
        with torch.no_grad():
            activity = [local_activity(maps) for maps in deep]
            contrast = [(maps - local_activity(maps)).abs() for maps in shallow]
            deep_weights = [one / (sum(activity) + EPSILON) for one in activity]
            weights = [one / (sum(contrast) + EPSILON) for one in contrast]
        x = joint + deep_weights[0] * deep[0] + deep_weights[1] * deep[1]
        x = self.conv_block(F.interpolate(self.conv1(x), scale_factor=2.0))
        x = pad_to_size(x, shallow[0])
        return self.conv_last(x + 0.5 * weights[0] * shallow[0] + weights[1] * shallow[1])


class FusionNetwork(nn.Module):
    """Joins and decodes the maps of the two encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_gra = nn.Conv2d(SHALLOW, SHALLOW, 3, bias=False)  # never used, but in the checkpoint and the count
        self.cross_atten_block = CrossAttention()
        self.decoder_fusion = FusionDecoder()

    def forward(self, deep: tuple[Tensor, Tensor], shallow: tuple[Tensor, Tensor]) -> Tensor:
        """Return the fused image before its stretch; infrared comes first."""
        return self.decoder_fusion(self.cross_atten_block(*deep), deep, shallow)

    def used_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters that the fused image depends on."""
        unused = re.compile(r"^conv_gra|self_atten\d\.norm\.|cross_atten\d\..*\.qkv\.")
        return [
            parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not unused.search(name)
        ]


class CrossFuse(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1. Any size works.

    23,153,509 parameters: two auto-encoders of 1,254,529 each, including decoders, and 20,644,451 of the fusion
    network. Every fused image is stretched to the whole range, in training, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.infrared = AutoEncoder()
        self.visible = AutoEncoder()
        self.fusion = FusionNetwork()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        visible, infrared = (pad_to_multiple(image, 1, MIN_SIDE) for image in (visible, infrared))
        with torch.no_grad():  # the encoders are trained in phases of their own
            deep_infrared, shallow_infrared = self.infrared.fea_encoder1(infrared)
            deep_visible, shallow_visible = self.visible.fea_encoder1(visible)
        fused = self.fusion((deep_infrared, deep_visible), (shallow_infrared, shallow_visible))
        fused = fused[..., :height, :width]
        low, high = fused.amin((1, 2, 3), keepdim=True), fused.amax((1, 2, 3), keepdim=True)
        return (fused - low) / (high - low + EPSILON)


def network(weights: Path | None) -> CrossFuse:
    """Return the network with `weights` (ours, or the authors' folder `models`), or with random weights for None."""

    def read(path: Path) -> dict[str, Tensor]:
        if not path.is_dir():
            return read_state(path)
        states = {name: read_state(path / file) for name, file in FILES.items()}
        return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}

    return filled(CrossFuse(), weights, read)


def multiscale_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Return the authors' multiscale structural similarity of images in 0..255; it is 1 for equal images.

    It differs from Wang's (2003): the means are mapped from -1..1 to 0..1, the weight of the last of the five scales is
    multiplied by four, and the data range is 1 at scales at which no pixel of a exceeds 128.
    """
    total = 1.0
    for level, weight in enumerate(SCALE_WEIGHTS):
        span = torch.where(a.detach().max() > 128, 255.0, 1.0)  # of the whole batch, as in the authors' code
        side = min(11, *a.shape[2:])
        window = torch.exp(-((torch.arange(side, device=a.device) - side // 2) ** 2) / (2 * 1.5**2))
        window = window / window.sum()
        kernel = torch.outer(window, window)[None, None]
        moments = F.conv2d(torch.cat([a, b, a * a, b * b, a * b]), kernel).chunk(5)
        mean_a, mean_b = moments[:2]
        variances = moments[2] + moments[3] - mean_a**2 - mean_b**2
        contrast = (2 * (moments[4] - mean_a * mean_b) + (0.03 * span) ** 2) / (variances + (0.03 * span) ** 2)
        if level < len(SCALE_WEIGHTS) - 1:
            total = total * ((contrast.mean() + 1) / 2) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        else:
            c = (0.01 * span) ** 2
            similarity = contrast * (2 * mean_a * mean_b + c) / (mean_a**2 + mean_b**2 + c)
            total = total * ((similarity.mean() + 1) / 2) ** (4 * weight)
    return total


def reconstruction_loss(coder: AutoEncoder, image: Tensor) -> dict[str, Tensor]:
    """Return the terms of an auto-encoder: distances of values in 0..255 and of structure."""
    reconstructed = 255 * coder(image)
    values = (reconstructed - 255 * image).square().mean()
    structure = STRUCTURE_WEIGHT * (1 - multiscale_similarity(reconstructed, 255 * image))
    return {"total": values + structure, "mse": values, "ssim": structure}


def fusion_loss(network: CrossFuse, visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
    """Return the terms of the fusion network: distances to the locally brighter source and to the stronger edges."""
    fused, visible, infrared = (255 * image for image in (network(visible, infrared), visible, infrared))
    brightness = [F.avg_pool2d(image, 11, stride=1, padding=5) for image in (infrared, visible)]
    brighter = torch.where(brightness[0] > brightness[1], infrared, visible)
    values = (fused - brighter).square().mean()
    edges = [laplacian(image).relu() for image in (fused, infrared, visible)]
    gradient = GRADIENT_WEIGHT * (edges[0] - torch.maximum(edges[1], edges[2])).square().mean()
    return {"total": values + gradient, "mse": values, "gradient": gradient}


def training(frozen: Path | None) -> Training:
    """Return the authors' stages: an auto-encoder of each source, then the fusion network with fixed encoders."""
    trained = network(None)
    coders = {"lr": 1e-4, "schedule": tenth_after(2, 4), "weight_decay": WEIGHT_DECAY, "iterations": 4 * 20_000}
    fuser = {"lr": 1e-3, "schedule": tenth_after(2, 32), "weight_decay": WEIGHT_DECAY, "iterations": 32 * 2_500}

    def reconstruct_infrared(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        return reconstruction_loss(trained.infrared, infrared)

    def reconstruct_visible(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        return reconstruction_loss(trained.visible, visible)

    phases = [
        Phase("infrared", list(trained.infrared.parameters()), reconstruct_infrared, **coders),
        Phase("visible", list(trained.visible.parameters()), reconstruct_visible, **coders),
        Phase("fusion", trained.fusion.used_parameters(), partial(fusion_loss, trained), **fuser),
    ]
    choices = [
        "256x256 crops with flips and rotations; the authors resize KAIST's images to that size",
        "batches of 8 in all stages; the authors train their auto-encoders with batches of 2",
    ]
    return Training(trained, phases, crop=256, smallest_crop=32, batch=8, choices=choices)


METHOD = Method(
    loader(network),
    network=network,
    published=Published("github.com/hli1221/CrossFuse", dict.fromkeys(FILES.values(), "")),
    authors_output=truncated,
    training=training,
    parameters_note="including the auto-encoders' decoders, which only training uses, and modules that are never used",
)
