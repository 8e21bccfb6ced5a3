"""Parts that CDDFuse and EMMA share: attention across channels, as in Restormer (Zamir et al., CVPR 2022).

Modules and parameters are named as the keys of the authors' checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.striping import striped, stripes

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


class Striped(nn.Module):
    """A block of attention and gated layer, without gradients, in stripes of one image.

    Attention across channels needs of the whole image only how alike its queries and keys are, 8 small matrices, which
    are sums over pixels; of them, the softmax and the projection is made one 1x1 convolution of the values.

    block: its `norm1` and `norm2` are taken.
    qkv: normalised maps to queries, keys and values, (1, C, h, W) to (1, 3 C, h, W); it sees one pixel far, as `gated`.
    temperature, projection, gated: of the block.
    """

    def __init__(
        self, block: nn.Module, qkv: nn.Module, temperature: Tensor, projection: nn.Conv2d, gated: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.qkv, self.projection, self.gated = block.norm1, block.norm2, qkv, projection, gated
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, H, W) to the same."""
        channels, height, width = x.shape[1:]
        values = torch.empty_like(x, memory_format=torch.channels_last)
        # In double precision: a sum in floats, stripe by stripe, would lose digits.
        products = x.new_zeros(channels, channels, dtype=torch.float64)
        squares = x.new_zeros(2 * channels, dtype=torch.float64)
        for rows, around, inside in stripes(height, width, reach=1):
            qkv = self.qkv(self.norm1(x[:, :, around]))[:, :, inside].float()
            values[:, :, rows] = qkv[:, 2 * channels :]
            both = qkv[:, : 2 * channels].movedim(1, -1).flatten(0, 2)
            products += both[:, :channels].T @ both[:, channels:]
            squares += both.square().sum(0)
        lengths = squares.sqrt().clamp_min(1e-12)  # as F.normalize
        alike = (products / lengths[:channels, None] / lengths[channels:]).to(x).unflatten(0, (HEADS, -1))
        of_heads = torch.stack([own.chunk(HEADS, dim=1)[head] for head, own in enumerate(alike)])
        shares = torch.block_diag(*(of_heads * self.temperature).softmax(-1))
        mixed = (self.projection.weight[:, :, 0, 0] @ shares)[:, :, None, None]

        def rest(x: Tensor, values: Tensor) -> Tensor:
            x = x + F.conv2d(values, mixed)
            return x + self.gated(self.norm2(x))

        return striped(rest, (x, values), reach=1)


def striped_base(block: BaseBlock) -> Striped:
    """Return a block, whose weights are final from now on, in stripes, the two convolutions of its attention as one.

    Both are linear, without bias, and the borders of zeros are the same before the first as after it.
    """
    attention = block.attn
    first, second = attention.qkv1.weight.detach()[:, :, 0, 0], attention.qkv2.weight.detach()
    merged = nn.Conv2d(first.shape[1], len(second), 3, padding=1, bias=False)
    kernel = torch.einsum("omyx,mi->oiyx", second.double(), first.double())
    merged.weight = nn.Parameter(kernel.to(second.dtype), requires_grad=False)
    return Striped(block, merged, attention.scale, attention.proj, block.mlp)
