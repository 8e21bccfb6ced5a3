"""Parts that CDDFuse and EMMA share: attention across channels, as in Restormer (Zamir et al., CVPR 2022).

Modules and parameters are named as the keys of the authors' checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8


class ChannelNorm(nn.Module):
    """Normalises every pixel over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return self.body(x.movedim(1, -1)).movedim(-1, 1)


def attend(qkv: Tensor, temperature: Tensor) -> Tensor:
    """Attend from channels to channels within each head: queries, keys and values (N, 3 C, H, W) to (N, C, H, W)."""
    count, channels, height, width = qkv.shape
    queries, keys, values = qkv.view(count, 3, HEADS, channels // 3 // HEADS, height * width).unbind(1)
    alike = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-1, -2)
    return ((alike * temperature).softmax(-1) @ values).view(count, channels // 3, height, width)


class BaseAttention(nn.Module):
    """Channel attention whose queries, keys and values see their neighbours through a full convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.qkv1 = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv2 = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, bias=False)
        self.proj = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return self.proj(attend(self.qkv2(self.qkv1(x)), self.scale))


class Gated(nn.Module):
    """1x1 convolution to `hidden` maps, a grouped 3x3 one, GELU of one half times the other half, 1x1 back."""

    def __init__(self, channels: int, hidden: int, groups: int, borders: str = "zeros") -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups, padding_mode=borders, bias=False)
        self.project_out = nn.Conv2d(hidden // 2, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        gate, values = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * values)


class BaseBlock(nn.Module):
    """Attention, then the gated layer, each added to its input."""

    def __init__(self, channels: int, borders: str = "zeros") -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attn = BaseAttention(channels)
        self.mlp = Gated(channels, 2 * channels, channels, borders)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
