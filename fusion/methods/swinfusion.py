"""SwinFusion: self and cross attention in shifted windows (Ma et al., IEEE/CAA J. Automatica Sinica 9(7), 2022).

A is infrared, B is visible. Modules and parameters are named as the keys of the authors' checkpoint. The weights are a
file of ours or the authors' 10000_E.pth; the input is luma / 255, and the output is not stretched.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from fusion.fnet.losses import shared_similarity
from fusion.fnet.merged import spans
from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled
from fusion.methods.parts.layers import MLP, convolution
from fusion.methods.parts.running import as_fuser
from fusion.training.similarity import gradient

WIDTH, HEADS, WINDOW, SHIFT = 60, 6, 8, 4
DEPTH, STAGES, STAGE_DEPTH = 4, 2, 2
DROP_PATH_RATE = 0.1  # the last block's probability of being skipped in training (stochastic depth)
SLOPE = 0.2
WINDOWS_AT_ONCE = 32  # windows whose attention is computed at once: their weights take 3 MB
ATTENTION_SCALE = (WIDTH // HEADS) ** -0.5
INTENSITY_WEIGHT, GRADIENT_WEIGHT, SSIM_WEIGHT = 20.0, 20.0, 10.0  # weights of the loss's terms


def window_partition(tokens: Tensor) -> Tensor:
    """Map (N, H, W, C) to (N, windows, 64, C)."""
    count, height, width, channels = tokens.shape
    split = tokens.view(count, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return split.transpose(2, 3).reshape(count, -1, WINDOW**2, channels)


def window_reverse(windows: Tensor, height: int, width: int) -> Tensor:
    """Map (N, windows, 64, C) to (N, H, W, C)."""
    count, _, _, channels = windows.shape
    split = windows.view(count, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return split.transpose(2, 3).reshape(count, height, width, channels)


@lru_cache(maxsize=4)
def attention_mask(height: int, width: int) -> Tensor:
    """Return the mask of shifted windows, (windows, 1, 64, 64), which is added to the attention scores.

    It is -100 between tokens that are in the same window only because of the cyclic shift, and 0 between others.
    """

    def regions_along(side: int) -> Tensor:
        return torch.bucketize(torch.arange(side), torch.tensor([side - WINDOW, side - SHIFT]), right=True)

    regions = 3 * regions_along(height)[:, None] + regions_along(width)
    regions = window_partition(regions[None, :, :, None])[0, :, :, 0]
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, -100.0).unsqueeze(1)


def relative_positions() -> Tensor:
    """Return the index in the bias table of each pair of a window's tokens, (64, 64)."""
    y, x = (grid.flatten() for grid in torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij"))
    side = 2 * WINDOW - 1
    return (y[:, None] - y + WINDOW - 1) * side + (x[:, None] - x + WINDOW - 1)


class Attention(nn.Module):
    """Window attention with a bias by relative position; the base of self-attention and cross attention."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, HEADS))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("positions", relative_positions(), persistent=False)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def bias(self, mask: Tensor | None = None) -> Tensor:
        """Return the bias of the attention scores, (heads, 64, 64), or with a mask, (windows, heads, 64, 64)."""
        bias = self.relative_position_bias_table[self.positions].permute(2, 0, 1)
        return bias if mask is None else bias + mask

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Return the result of attention within windows; all tensors are (N, windows, 64, 60)."""
        queries, keys, values = (
            one.unflatten(-1, (HEADS, -1)).transpose(2, 3) for one in (queries * ATTENTION_SCALE, keys, values)
        )
        # scaled_dot_product_attention with a mask takes 1.5 times as long on all of an image's windows.
        weights = (queries @ keys.mT + bias).softmax(-1)
        return self.proj((weights @ values).transpose(2, 3).flatten(-2))


class SelfAttention(Attention):
    """Attention with queries, keys and values from the same source."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Map (N, windows, 64, 60) to the same shape."""
        return self.attend(*self.project(windows), self.bias(mask))

    def project(self, windows: Tensor) -> Sequence[Tensor]:
        """Return queries, keys and values, (N, windows, 64, 60) each."""
        return self.qkv(windows).chunk(3, dim=-1)


class CrossAttention(Attention):
    """Attention with queries from one source, keys and values from the other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, windows: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """Map (N, windows, 64, 60) each to the same shape."""
        return self.attend(*self.project(windows, other), self.bias(mask))

    def project(self, windows: Tensor, other: Tensor) -> Sequence[Tensor]:
        """Return queries from one source, keys and values from the other, (N, windows, 64, 60) each."""
        return self.q(windows), *self.kv(other).chunk(2, dim=-1)


class ShiftedWindowBlock(nn.Module):
    """The base of blocks, which work in windows; every second block shifts them by half a window."""

    def __init__(self, index: int, drop_path: float) -> None:
        super().__init__()
        self.shift = SHIFT * (index % 2)
        self.drop_path = StochasticDepth(drop_path, "row")

    def partition(self, tokens: Tensor) -> Tensor:
        """Cut tokens, (N, H, W, 60), into windows, (N, windows, 64, 60), after the block's shift."""
        return window_partition(tokens.roll((-self.shift, -self.shift), (1, 2)) if self.shift else tokens)

    def reverse(self, windows: Tensor, like: Tensor) -> Tensor:
        """Undo `partition` for tokens of the same shape as `like`."""
        return window_reverse(windows, *like.shape[1:3]).roll((self.shift, self.shift), (1, 2))

    def mask(self, tokens: Tensor) -> Tensor | None:
        """Return the attention mask, or None if the block does not shift its windows."""
        return attention_mask(*tokens.shape[1:3]).to(tokens) if self.shift else None


class SelfBlock(ShiftedWindowBlock):
    """Self-attention, then the MLP, each with a residual connection."""

    def __init__(self, index: int, drop_path: float) -> None:
        super().__init__(index, drop_path)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = SelfAttention(), MLP(WIDTH, 2 * WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, H, W, 60) to the same shape."""
        attended = self.attn(self.partition(self.norm1(tokens)), self.mask(tokens))
        tokens = tokens + self.drop_path(self.reverse(attended, tokens))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class CrossBlock(ShiftedWindowBlock):
    """Cross attention of each source to the other, then an MLP of each, with residual connections."""

    def __init__(self, index: int, drop_path: float) -> None:
        super().__init__(index, drop_path)
        for name in "AB":
            self.add_module(f"norm1_{name}", nn.LayerNorm(WIDTH))
            self.add_module(f"norm2_{name}", nn.LayerNorm(WIDTH))
            self.add_module(f"attn_{name}", CrossAttention())
            self.add_module(f"mlp_{name}", MLP(WIDTH, 2 * WIDTH))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 60) each to the same shape."""
        windows_a, windows_b, mask = self.partition(self.norm1_A(a)), self.partition(self.norm1_B(b)), self.mask(a)
        a = a + self.drop_path(self.reverse(self.attn_A(windows_a, windows_b, mask), a))
        b = b + self.drop_path(self.reverse(self.attn_B(windows_b, windows_a, mask), b))
        return a + self.drop_path(self.mlp_A(self.norm2_A(a))), b + self.drop_path(self.mlp_B(self.norm2_B(b)))


class BasicLayer(nn.Module):
    """A sequence of blocks, for one source (SelfBlock) or two (CrossBlock)."""

    def __init__(self, block_type: type[ShiftedWindowBlock], rates: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block_type(index, rate) for index, rate in enumerate(rates))

    def forward(self, *tokens: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map (N, H, W, 60) each to the same shape."""
        for block in self.blocks:
            result = block(*tokens)
            tokens = result if isinstance(result, tuple) else (result,)
        return tokens if len(tokens) > 1 else tokens[0]


class SwinFusion(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W), unbounded; 973,681 parameters.

    Any size works: images are padded by mirroring to multiples of 8, and the result is cropped.
    """

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.conv_first1_A, self.conv_first2_A = convolution(1, half), convolution(half, WIDTH)
        # Never used, as in the authors' code, where A's convolutions serve both sources, but in the checkpoint.
        self.conv_first1_B, self.conv_first2_B = convolution(1, half), convolution(half, half)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(WIDTH)
        rates = torch.linspace(0, DROP_PATH_RATE, DEPTH).tolist()
        for part in ("Ex_A", "Ex_B", "Re"):
            group = nn.Module()
            group.residual_group = BasicLayer(SelfBlock, rates)
            self.add_module(f"layers_{part}", nn.ModuleList([group]))
        self.layers_Fusion = nn.ModuleList()
        for stage in range(STAGES):
            own = rates[stage * STAGE_DEPTH : (stage + 1) * STAGE_DEPTH]
            layer = nn.Module()
            layer.residual_group_A, layer.residual_group_B = BasicLayer(SelfBlock, own), BasicLayer(SelfBlock, own)
            layer.residual_group = BasicLayer(CrossBlock, own)
            self.layers_Fusion.append(layer)
        for part in ("Ex_A", "Ex_B", "Fusion_A", "Fusion_B", "Re"):
            self.add_module(f"norm_{part}", nn.LayerNorm(WIDTH))
        self.conv_after_body_Fusion = convolution(2 * WIDTH, WIDTH)
        self.conv_last1 = convolution(WIDTH, half)
        self.conv_last2, self.conv_last3 = convolution(half, half // 2), convolution(half // 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def used_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the fused image depends on."""
        unused = {id(p) for part in (self.conv_first1_B, self.conv_first2_B) for p in part.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in unused]

    def extract(self, image: Tensor, source: str) -> Tensor:
        """Map an image of source A or B, (N, 1, H, W), to tokens, (N, H, W, 60)."""
        maps = _leaky(self.conv_first2_A(_leaky(self.conv_first1_A(image))))
        layer, norm = self.get_submodule(f"layers_Ex_{source}")[0], self.get_submodule(f"norm_Ex_{source}")
        return norm(layer.residual_group(self.patch_embed.norm(maps.movedim(1, -1))))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        size = visible.shape[2:]
        visible, infrared = (pad_to_multiple(image, WINDOW) for image in (visible, infrared))
        a, b = (self.patch_embed.norm(self.extract(image, s)) for image, s in ((infrared, "A"), (visible, "B")))
        for layer in self.layers_Fusion:
            a, b = layer.residual_group(layer.residual_group_A(a), layer.residual_group_B(b))
        both = torch.cat([self.norm_Fusion_A(a), self.norm_Fusion_B(b)], dim=-1).movedim(-1, 1)
        tokens = self.patch_embed.norm(_leaky(self.conv_after_body_Fusion(both)).movedim(1, -1))
        maps = self.norm_Re(self.layers_Re[0].residual_group(tokens)).movedim(-1, 1)
        fused = self.conv_last3(_leaky(self.conv_last2(_leaky(self.conv_last1(maps)))))
        return fused[..., : size[0], : size[1]]


def _leaky(maps: Tensor) -> Tensor:
    return F.leaky_relu(maps, SLOPE)


class BandedBlock(nn.Module):
    """A block applied to one band (row of windows) of an image after another, without gradients.

    A band's values stay in the CPU's cache. This is possible because a block changes each window independently. The
    tokens that are passed are changed in index, and returned.
    """

    def __init__(self, block: SelfBlock | CrossBlock) -> None:
        super().__init__()
        self.block = block
        self.sources = ("_A", "_B") if isinstance(block, CrossBlock) else ("",)  # suffixes of the layers' names
        for source in self.sources:
            bias = self.layer("attn", source).bias().detach().contiguous()
            self.register_buffer(f"bias{source}", bias, persistent=False)

    def layer(self, name: str, source: str) -> nn.Module:
        """Return a layer of the block for a source."""
        return self.block.get_submodule(f"{name}{source}")

    def forward(self, *tokens: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map (1, H, W, 60) each to the same shape."""
        height, width = tokens[0].shape[1:3]
        # All bands but the last have the same mask, which is 0 except in the band's last window.
        mask, mask_of_last = attention_mask(2 * WINDOW, width).to(tokens[0]).chunk(2)
        for top in range(0, height, WINDOW):
            is_last = top + WINDOW == height
            bands = [self.partition(one, top) for one in tokens]
            for first, last in spans(width // WINDOW, WINDOWS_AT_ONCE):
                masked = self.block.shift and (is_last or last == width // WINDOW)
                own_mask = (mask_of_last if is_last else mask)[first:last] if masked else None
                self.update([band[first:last] for band in bands], own_mask)
            for one, band in zip(tokens, bands, strict=True):
                self.reverse(band, one, top)
        return tokens if len(tokens) > 1 else tokens[0]

    def update(self, windows: Sequence[Tensor], mask: Tensor | None) -> None:
        """Apply the block in place to windows, (windows, 64, 60) of each source."""
        normed = [self.layer("norm1", source)(own) for source, own in zip(self.sources, windows, strict=True)]
        for number, (source, own) in enumerate(zip(self.sources, windows, strict=True)):
            # In cross attention, the queries come from the source itself, keys and values from the other one.
            inputs = normed[::-1] if number else normed
            attention, bias = self.layer("attn", source), self.get_buffer(f"bias{source}")
            heads = (one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in attention.project(*inputs))
            attended = F.scaled_dot_product_attention(*heads, bias[None] if mask is None else bias + mask)
            own += attention.proj(attended.transpose(1, 2).flatten(-2))
            own += self.layer("mlp", source)(self.layer("norm2", source)(own))

    def partition(self, tokens: Tensor, top: int) -> Tensor:
        """Return a copy of a band's windows, (windows, 64, 60); the shift is cyclic, so row 0 follows the last row."""
        shift = self.block.shift
        band = tokens[:, top + shift : top + shift + WINDOW]
        if band.shape[1] < WINDOW:
            band = torch.cat([band, tokens[:, :shift]], dim=1)
        return window_partition(band.roll(-shift, 2))[0]

    def reverse(self, windows: Tensor, tokens: Tensor, top: int) -> None:
        """Write a band's windows back to their positions in `tokens`; the inverse of `partition`."""
        shift = self.block.shift
        band = window_reverse(windows[None], WINDOW, tokens.shape[2]).roll(shift, 2)
        below = min(WINDOW, tokens.shape[1] - top - shift)
        tokens[:, top + shift : top + shift + below] = band[:, :below]
        tokens[:, : WINDOW - below] = band[:, below:]


def in_bands(network: SwinFusion) -> SwinFusion:
    """Change the network's blocks to work in bands, and return it; its weights must not change afterwards."""
    for group in [module for module in network.modules() if isinstance(module, BasicLayer)]:
        group.blocks = nn.ModuleList(BandedBlock(block) for block in group.blocks)
    return network


# Tables in the authors' files that are computed from the window and the image size, not trained.
_TABLES = re.compile(r"(^|\.)(attn_mask|relative_position_index)$")


def without_tables(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the tables, which are not weights."""
    return {key: value for key, value in state.items() if not _TABLES.search(key)}


def network(weights: Path | None) -> SwinFusion:
    """Return the network with `weights`, or with random weights for None."""
    return filled(SwinFusion(), weights, convert=without_tables)


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function; images are padded to the next larger multiple of 8, as the authors do."""
    model = network(weights)
    # On a GPU, bands are too small to keep it busy.
    run = as_fuser(in_bands(model) if device == "cpu" else model, device, precision, channels_last=True)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        height, width = visible.shape
        border = [(0, WINDOW - height % WINDOW), (0, WINDOW - width % WINDOW)]
        # Mirrored including the edge pixel; a side that is a multiple of 8 gets 8 more pixels.
        return run(*(np.pad(image, border, mode="symmetric") for image in (visible, infrared)))[:height, :width]

    return fuse


def training(frozen: Path | None) -> Training:
    """Return the authors' single phase, with a constant learning rate."""
    trained = network(None)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        fused = trained(visible, infrared)
        gradients = gradient(visible), gradient(infrared)
        # Computed first, because the order of the terms affects the rounding of their gradients.
        similarity = shared_similarity(fused, visible, infrared, *gradients)
        terms = {
            "intensity": INTENSITY_WEIGHT * (fused - torch.maximum(visible, infrared)).abs().mean(),
            "gradient": GRADIENT_WEIGHT * (gradient(fused) - torch.maximum(*gradients)).abs().mean(),
            "ssim": SSIM_WEIGHT * (1 - similarity),
        }
        return {"total": sum(terms.values()), **terms}

    choices = [
        "the sources' weights in SSIM are computed from the gradients of the whole batch; the authors' from the four "
        "pairs of one GPU"
    ]
    phase = Phase("fusion", trained.used_parameters(), loss, lr=2e-5, iterations=10000)
    return Training(trained, [phase], crop=128, batch=12, ema=0.999, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published("github.com/Linfeng-Tang/SwinFusion", {"10000_E.pth": ""}),
    training=training,
    parameters_note="973,681 including two convolutions that the authors create and never call (8,430)",
)
