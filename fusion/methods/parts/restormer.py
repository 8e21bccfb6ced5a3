"""Layers that CDDFuse and EMMA share: attention across channels, as in Restormer (Zamir et al., CVPR 2022).

Modules and parameters are named as the keys of the authors' checkpoints.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.parts.striping import apply_in_stripes, stripes

HEADS = 8


class LayerNorm2d(nn.Module):
    """Layer normalisation of every pixel over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.body(x.movedim(1, -1)).movedim(-1, 1)


def transposed_attention(qkv: Tensor, temperature: Tensor) -> Tensor:
    """Attend across channels within each head: queries, keys and values, (N, 3 C, H, W) together, to (N, C, H, W)."""
    count, channels, height, width = qkv.shape
    queries, keys, values = qkv.view(count, 3, HEADS, channels // 3 // HEADS, height * width).unbind(1)
    similarity = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-1, -2)
    return ((similarity * temperature).softmax(-1) @ values).view(count, channels // 3, height, width)


class AttentionBase(nn.Module):
    """Attention across channels whose queries, keys and values come from a 1x1 and a full 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.qkv1 = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv2 = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, bias=False)
        self.proj = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return self.proj(transposed_attention(self.qkv2(self.qkv1(x)), self.scale))


class GatedFeedForward(nn.Module):
    """Restormer's gated feed-forward network.

    A 1x1 convolution to `hidden` maps and a grouped 3x3 convolution; the GELU of the first half times the second half;
    a 1x1 convolution back. `borders` is the padding mode of the 3x3 convolution.
    """

    def __init__(self, channels: int, hidden: int, groups: int, borders: str = "zeros") -> None:
        super().__init__()
        self.project_in = nn.Conv2d(channels, hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups, padding_mode=borders, bias=False)
        self.project_out = nn.Conv2d(hidden // 2, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        gate, values = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * values)


class BaseFeatureExtraction(nn.Module):
    """Attention, then the gated feed-forward network, each with a residual connection."""

    def __init__(self, channels: int, borders: str = "zeros") -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm2d(channels), LayerNorm2d(channels)
        self.attn = AttentionBase(channels)
        self.mlp = GatedFeedForward(channels, 2 * channels, channels, borders)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StripedBlock(nn.Module):
    """A block of attention and gated feed-forward network, applied in stripes of one image, without gradients.

    Attention across channels needs the whole image only for the similarities of queries and keys: 8 small matrices that
    are sums over pixels. Once they are known, softmax, product with the values and projection become a single 1x1
    convolution of the values.

    block: provides `norm1` and `norm2`.
    qkv: maps normalised features, (1, C, h, W), to queries, keys and values, (1, 3 C, h, W); its receptive field has a
        radius of one pixel, as that of `gated`.
    temperature, projection, gated: the block's own.
    """

    def __init__(
        self, block: nn.Module, qkv: nn.Module, temperature: Tensor, projection: nn.Conv2d, gated: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.qkv, self.projection, self.gated = block.norm1, block.norm2, qkv, projection, gated
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Map (1, C, H, W) to the same shape."""
        channels, height, width = x.shape[1:]
        values = torch.empty_like(x, memory_format=torch.channels_last)
        # In double precision: accumulating over stripes in single precision would lose digits.
        products = x.new_zeros(channels, channels, dtype=torch.float64)
        squares = x.new_zeros(2 * channels, dtype=torch.float64)
        for rows, extended, kept in stripes(height, width, reach=1):
            qkv = self.qkv(self.norm1(x[:, :, extended]))[:, :, kept].float()
            values[:, :, rows] = qkv[:, 2 * channels :]
            both = qkv[:, : 2 * channels].movedim(1, -1).flatten(0, 2)
            products += both[:, :channels].T @ both[:, channels:]
            squares += both.square().sum(0)
        norms = squares.sqrt().clamp_min(1e-12)  # the lower bound of F.normalize
        similarity = (products / norms[:channels, None] / norms[channels:]).to(x).unflatten(0, (HEADS, -1))
        by_head = torch.stack([rows.chunk(HEADS, dim=1)[head] for head, rows in enumerate(similarity)])
        attention = torch.block_diag(*(by_head * self.temperature).softmax(-1))
        kernel = (self.projection.weight[:, :, 0, 0] @ attention)[:, :, None, None]

        def rest(x: Tensor, values: Tensor) -> Tensor:
            x = x + F.conv2d(values, kernel)
            return x + self.gated(self.norm2(x))

        return apply_in_stripes(rest, (x, values), reach=1)


def striped_base(block: BaseFeatureExtraction) -> StripedBlock:
    """Return a block that works in stripes, with the two convolutions of its attention merged into one.

    The weights of `block` must not change afterwards. The merged convolution is exact: both are linear, without bias,
    and the first, a 1x1 convolution, maps the zero padding to zeros.
    """
    attention = block.attn
    first, second = attention.qkv1.weight.detach()[:, :, 0, 0], attention.qkv2.weight.detach()
    merged = nn.Conv2d(first.shape[1], len(second), 3, padding=1, bias=False)
    kernel = torch.einsum("omyx,mi->oiyx", second.double(), first.double())
    merged.weight = nn.Parameter(kernel.to(second.dtype), requires_grad=False)
    return StripedBlock(block, merged, attention.scale, attention.proj, block.mlp)
