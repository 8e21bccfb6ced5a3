"""CDDFuse: base features by attention, detail features by invertible steps (Zhao et al., CVPR 2023).

Modules and parameters are named as the keys of the authors' checkpoint.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.restormer import HEADS, BaseBlock, ChannelNorm, Gated, attend

MAPS, BLOCKS, DETAIL_STEPS = 64, 4, 3


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
