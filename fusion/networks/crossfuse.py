"""CrossFuse: two auto-encoders joined by attention to what differs (Li and Wu, Information Fusion 103, 2024).

Modules and parameters are named as the keys of the authors' three checkpoints. No convolution is followed by an
activation: what is not linear are pooling, attention and the weights of the decoder.
"""

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.borders import continued

SHALLOW, DEEP, GROWTH = 32, 128, 64  # feature maps
PATCH, HEADS = 2, 16
WIDTH = PATCH**2 * DEEP  # of a token
TILE = 32  # side of the squares of deep maps within which tokens attend to each other
LEAST = 16  # pixels a side that three poolings and a mirrored border need
EPSILON = 1e-6


def centred(x: Tensor, like: Tensor) -> Tensor:
    """Pad x by mirroring to the size of another map, half of it on either side."""
    height, width = (want - have for want, have in zip(like.shape[2:], x.shape[2:], strict=True))
    borders = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(x, borders, mode="reflect") if any(borders) else x


class Convolution(nn.Module):
    """3x3 convolution with mirrored borders, or one of another size; with batch normalisation if asked for."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, normalised: bool = False) -> None:
        super().__init__()
        layers = [nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="reflect")]
        self.conv2d = nn.Sequential(*layers, *([nn.BatchNorm2d(outputs)] if normalised else []))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return self.conv2d(x)


class DenseBlock(nn.Module):
    """Three convolutions that each see everything before them, and one that joins all."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        for k in range(3):
            self.add_module(f"dense_conv{k}", Convolution(inputs + k * GROWTH, GROWTH))
        self.adjust_conv = Convolution(inputs + 3 * GROWTH, DEEP)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 128, H, W)."""
        for layer in (self.dense_conv0, self.dense_conv1, self.dense_conv2):
            x = torch.cat([x, layer(x)], dim=1)
        return self.adjust_conv(x)


class Encoder(nn.Module):
    """Makes shallow maps at full size and deep ones at an eighth of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Convolution(1, SHALLOW)
        self.dense_blocks = nn.Sequential(DenseBlock(SHALLOW), nn.MaxPool2d(2), DenseBlock(DEEP))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N, 1, H, W) in 0..1 to deep (N, 128, H // 8, W // 8) and shallow maps (N, 32, H, W)."""
        shallow = self.conv1(image)
        return F.max_pool2d(self.dense_blocks(F.max_pool2d(shallow, 2)), 2), shallow


def upsampling() -> nn.Upsample:
    """Return the step that doubles the size by repeating pixels."""
    return nn.Upsample(scale_factor=2, mode="nearest")


class Decoder(nn.Module):
    """Makes an image of deep maps and shallow maps; used in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Convolution(DEEP, 64)
        self.conv_block = nn.Sequential(Convolution(64, 64), upsampling(), Convolution(64, SHALLOW), upsampling())
        self.conv_last = Convolution(SHALLOW, 1, size=1)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Return the image, (N, 1, H, W)."""
        x = self.conv_block(F.interpolate(self.conv1(deep), scale_factor=2.0))
        return self.conv_last(centred(x, shallow) + shallow)


class AutoEncoder(nn.Module):
    """Encodes one kind of image; the decoder is what its encoder is trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.fea_encoder1 = Encoder()
        self.recon_decoder1 = Decoder()

    def forward(self, image: Tensor) -> Tensor:
        """Return an image in 0..1, (N, 1, H, W), from its own maps."""
        return self.recon_decoder1(*self.fea_encoder1(image))


class Attention(nn.Module):
    """Attention of 16 heads: of tokens to themselves or, with layers of its own, to others that are unlike them."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)  # never called where crossed, but counted and published
        if crossed:
            self.q_linear, self.k_linear, self.v_linear = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor, others: Tensor | None = None) -> Tensor:
        """(N, L, 512) each to (N, L, 512)."""
        if others is None:
            q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        else:
            # The minus sign turns attention to what is alike into attention to what is not.
            q, k, v = -self.q_linear(tokens), self.k_linear(others), self.v_linear(others)
        q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L, 512) to (N, L, 512)."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and perceptron, each on normalised tokens and added."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH, EPSILON), Attention(crossed)
        self.norm2, self.mlp = nn.LayerNorm(WIDTH, EPSILON), Perceptron()

    def forward(self, tokens: Tensor, others: Tensor | None = None) -> Tensor:
        """Add to the others, or without any to the tokens themselves, what attention finds."""
        if others is None:
            tokens = tokens + self.attn(self.norm1(tokens))
        else:
            tokens = others + self.attn(self.norm1(tokens), self.norm1(others))
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """One block, and a last normalisation that only crossed attention uses."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(crossed))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, tokens: Tensor, others: Tensor | None = None) -> Tensor:
        """(N, L, 512) each to (N, L, 512)."""
        found = self.blocks[0](tokens, others)
        return found if others is None else self.norm(found)


def named(**modules: nn.Module) -> nn.ModuleDict:
    """Return modules by name."""
    return nn.ModuleDict(modules)


class CrossAttention(nn.Module):
    """Joins the deep maps of both sources, in tiles of their own: twice self-attention, then each to the other.

    The authors roll the maps by half a tile between; tokens without positions attend alike wherever they are.
    """

    def __init__(self) -> None:
        super().__init__()
        for k in (1, 2):
            both = named(self_atten1=Transformer(crossed=False), self_atten2=Transformer(crossed=False))
            self.add_module(f"self_atten_block{k}", both)
        self.cross_atten_block = named(cross_atten1=Transformer(crossed=True), cross_atten2=Transformer(crossed=True))

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        """Deep maps, (N, 128, H, W) each, to joint ones."""
        height, width = infrared.shape[2:]
        down, across = -(-height // TILE), -(-width // TILE)
        a, b = (self._tokens(continued(maps, TILE)) for maps in (infrared, visible))
        for block in (self.self_atten_block1, self.self_atten_block2):
            a, b = block["self_atten1"](a), block["self_atten2"](b)
        joint = self.cross_atten_block["cross_atten1"](a, b) + self.cross_atten_block["cross_atten2"](b, a)
        return self._maps(joint, down, across)[..., :height, :width]

    @staticmethod
    def _tokens(maps: Tensor) -> Tensor:
        """Cut maps into tiles and these into patches: (N, C, H, W) to (N tiles, 256, 4 C)."""
        n, channels, height, width = maps.shape
        side = TILE // PATCH
        cut = maps.view(n, channels, height // TILE, side, PATCH, width // TILE, side, PATCH)
        return cut.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, side * side, channels * PATCH**2)

    @staticmethod
    def _maps(tokens: Tensor, down: int, across: int) -> Tensor:
        """Undo `_tokens`, for `down` times `across` tiles an image."""
        side = TILE // PATCH
        cut = tokens.view(-1, down, across, side, side, DEEP, PATCH, PATCH)
        return cut.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(-1, DEEP, down * TILE, across * TILE)


def neighbourhood(maps: Tensor) -> Tensor:
    """Return the mean over 3x3 pixels of the sum of all maps, zero-padded: (N, C, H, W) to (N, 1, H, W)."""
    return F.avg_pool2d(maps.sum(1, keepdim=True), 3, stride=1, padding=1)


class FusionDecoder(nn.Module):
    """Makes the fused image of the joint maps and of those of either source, weighted by their activity."""

    def __init__(self) -> None:
        super().__init__()
        # Fixed kernels of 1/9 that are published with the weights; `neighbourhood` computes what they do.
        averages = [nn.Conv2d(maps, maps, 3, bias=False).requires_grad_(False) for maps in (SHALLOW, DEEP)]
        for average in averages:
            nn.init.constant_(average.weight, 1 / 9)
        self.weight = named(conv_sh=averages[0], conv_de=averages[1])
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
            activity = [neighbourhood(maps) for maps in deep]
            contrast = [(maps - neighbourhood(maps)).abs() for maps in shallow]
            deep_shares = [one / (sum(activity) + EPSILON) for one in activity]
            shares = [one / (sum(contrast) + EPSILON) for one in contrast]
        x = joint + deep_shares[0] * deep[0] + deep_shares[1] * deep[1]
        x = self.conv_block(F.interpolate(self.conv1(x), scale_factor=2.0))
        x = centred(x, shallow[0])
        return self.conv_last(x + 0.5 * shares[0] * shallow[0] + shares[1] * shallow[1])


class FusionNetwork(nn.Module):
    """Joins and decodes what the two encoders find."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_gra = nn.Conv2d(SHALLOW, SHALLOW, 3, bias=False)  # never called, but counted and published
        self.cross_atten_block = CrossAttention()
        self.decoder_fusion = FusionDecoder()

    def forward(self, deep: tuple[Tensor, Tensor], shallow: tuple[Tensor, Tensor]) -> Tensor:
        """Return the fused image before its stretch; infrared comes first."""
        return self.decoder_fusion(self.cross_atten_block(*deep), deep, shallow)

    def used_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are trained and that the fused image depends on."""
        idle = re.compile(r"^conv_gra|self_atten\d\.norm\.|cross_atten\d\..*\.qkv\.")
        return [
            parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not idle.search(name)
        ]


class CrossFuse(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1. Any size works.

    23,153,509 parameters: two auto-encoders of 1,254,529, decoders included, and 20,644,451. Every fused image is
    stretched to the whole range, a part of the network that its training sees.
    """

    def __init__(self) -> None:
        super().__init__()
        self.infrared = AutoEncoder()
        self.visible = AutoEncoder()
        self.fusion = FusionNetwork()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        visible, infrared = (continued(image, 1, LEAST) for image in (visible, infrared))
        with torch.no_grad():  # the encoders have their own training
            deep_infrared, shallow_infrared = self.infrared.fea_encoder1(infrared)
            deep_visible, shallow_visible = self.visible.fea_encoder1(visible)
        fused = self.fusion((deep_infrared, deep_visible), (shallow_infrared, shallow_visible))
        fused = fused[..., :height, :width]
        low, high = fused.amin((1, 2, 3), keepdim=True), fused.amax((1, 2, 3), keepdim=True)
        return (fused - low) / (high - low + EPSILON)
