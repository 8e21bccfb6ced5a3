"""SwinFusion: self and cross attention in shifted windows (Ma et al., IEEE/CAA J. Automatica Sinica 9(7), 2022).

A is infrared, B visible. Modules and parameters are named as the keys of the authors' checkpoint. Weights are ours or
the authors' 10000_E.pth; luma / 255 goes in, and what comes out is not stretched.
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
from fusion.methods.parts.borders import continued
from fusion.methods.parts.filling import filled
from fusion.methods.parts.layers import Perceptron, convolution
from fusion.methods.parts.running import as_fuser
from fusion.training.similarity import gradient

WIDTH, HEADS, WINDOW, SHIFT = 60, 6, 8, 4
DEPTH, STAGES, STAGE_DEPTH = 4, 2, 2
DROPPED = 0.1  # the last block's probability of being left out of a training step
SLOPE = 0.2
WINDOWS = 32  # whose attention is computed at once: their shares take 3 MB
SCALE = (WIDTH // HEADS) ** -0.5
INTENSITY, GRADIENT, SSIM = 20.0, 20.0, 10.0  # weights of the loss's terms


def to_windows(tokens: Tensor) -> Tensor:
    """(N, H, W, C) to (N, windows, 64, C)."""
    count, height, width, channels = tokens.shape
    split = tokens.view(count, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return split.transpose(2, 3).reshape(count, -1, WINDOW**2, channels)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """(N, windows, 64, C) to (N, H, W, C)."""
    count, _, _, channels = windows.shape
    split = windows.view(count, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return split.transpose(2, 3).reshape(count, height, width, channels)


@lru_cache(maxsize=4)
def strangers(height: int, width: int) -> Tensor:
    """Return what is added to attention between tokens that only the shift brought together, (windows, 1, 64, 64)."""

    def parts(side: int) -> Tensor:
        return torch.bucketize(torch.arange(side), torch.tensor([side - WINDOW, side - SHIFT]), right=True)

    regions = 3 * parts(height)[:, None] + parts(width)
    regions = to_windows(regions[None, :, :, None])[0, :, :, 0]
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, -100.0).unsqueeze(1)


def relative_positions() -> Tensor:
    """Return the row of the bias table for each pair of a window's tokens, (64, 64)."""
    y, x = (grid.flatten() for grid in torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij"))
    side = 2 * WINDOW - 1
    return (y[:, None] - y + WINDOW - 1) * side + (x[:, None] - x + WINDOW - 1)


class Attention(nn.Module):
    """What window attention shares: the bias by relative position, and the attention itself."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, HEADS))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("positions", relative_positions(), persistent=False)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def bias(self, mask: Tensor | None = None) -> Tensor:
        """Return what is added to attention, (heads, 64, 64), or with a mask (windows, heads, 64, 64)."""
        bias = self.relative_position_bias_table[self.positions].permute(2, 0, 1)
        return bias if mask is None else bias + mask

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attend within windows, (N, windows, 64, 60) each, to the same."""
        queries, keys, values = (
            part.unflatten(-1, (HEADS, -1)).transpose(2, 3) for part in (queries * SCALE, keys, values)
        )
        # Written out: with a mask, PyTorch's own attention takes half as long again on all of an image's windows.
        shares = (queries @ keys.mT + bias).softmax(-1)
        return self.proj((shares @ values).transpose(2, 3).flatten(-2))


class SelfAttention(Attention):
    """Queries, keys and values of one source."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """(N, windows, 64, 60) to the same."""
        return self.attend(*self.parts(windows), self.bias(mask))

    def parts(self, windows: Tensor) -> Sequence[Tensor]:
        """Return queries, keys and values, (N, windows, 64, 60) each."""
        return self.qkv(windows).chunk(3, dim=-1)


class CrossAttention(Attention):
    """Queries of one source, keys and values of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, windows: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """(N, windows, 64, 60) each to the same."""
        return self.attend(*self.parts(windows, other), self.bias(mask))

    def parts(self, windows: Tensor, other: Tensor) -> Sequence[Tensor]:
        """Return queries of one source, keys and values of the other, (N, windows, 64, 60) each."""
        return self.q(windows), *self.kv(other).chunk(2, dim=-1)


class Shifted(nn.Module):
    """What blocks share: windows, every second block's shifted by half a window."""

    def __init__(self, place: int, dropped: float) -> None:
        super().__init__()
        self.shift = SHIFT * (place % 2)
        self.drop_path = StochasticDepth(dropped, "row")

    def cut(self, tokens: Tensor) -> Tensor:
        """(N, H, W, 60) to windows."""
        return to_windows(tokens.roll((-self.shift, -self.shift), (1, 2)) if self.shift else tokens)

    def join(self, windows: Tensor, like: Tensor) -> Tensor:
        """Undo `cut`."""
        return from_windows(windows, *like.shape[1:3]).roll((self.shift, self.shift), (1, 2))

    def mask(self, tokens: Tensor) -> Tensor | None:
        """Return the mask of shifted windows."""
        return strangers(*tokens.shape[1:3]).to(tokens) if self.shift else None


class SelfBlock(Shifted):
    """Self attention, then the MLP, each added to its input."""

    def __init__(self, place: int, dropped: float) -> None:
        super().__init__(place, dropped)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.mlp = SelfAttention(), Perceptron(WIDTH, 2 * WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, H, W, 60) to the same."""
        found = self.attn(self.cut(self.norm1(tokens)), self.mask(tokens))
        tokens = tokens + self.drop_path(self.join(found, tokens))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class CrossBlock(Shifted):
    """Each source asks the other, then an MLP each; both are added to their inputs."""

    def __init__(self, place: int, dropped: float) -> None:
        super().__init__(place, dropped)
        for name in "AB":
            self.add_module(f"norm1_{name}", nn.LayerNorm(WIDTH))
            self.add_module(f"norm2_{name}", nn.LayerNorm(WIDTH))
            self.add_module(f"attn_{name}", CrossAttention())
            self.add_module(f"mlp_{name}", Perceptron(WIDTH, 2 * WIDTH))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 60) each to the same."""
        windows_a, windows_b, mask = self.cut(self.norm1_A(a)), self.cut(self.norm1_B(b)), self.mask(a)
        a = a + self.drop_path(self.join(self.attn_A(windows_a, windows_b, mask), a))
        b = b + self.drop_path(self.join(self.attn_B(windows_b, windows_a, mask), b))
        return a + self.drop_path(self.mlp_A(self.norm2_A(a))), b + self.drop_path(self.mlp_B(self.norm2_B(b)))


class Group(nn.Module):
    """Blocks in a row; several sources at once where the blocks take them."""

    def __init__(self, kind: type[Shifted], rates: list[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(kind(place, rate) for place, rate in enumerate(rates))

    def forward(self, *tokens: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, H, W, 60) each to the same."""
        for block in self.blocks:
            found = block(*tokens)
            tokens = found if isinstance(found, tuple) else (found,)
        return tokens if len(tokens) > 1 else tokens[0]


class SwinFusion(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W), not bounded; 973,681 parameters.

    Any size works: sides that are no multiples of 8 are continued by mirroring, and cropped.
    """

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.conv_first1_A, self.conv_first2_A = convolution(1, half), convolution(half, WIDTH)
        # Made and never used, as in the authors' code: both sources go through those of A.
        self.conv_first1_B, self.conv_first2_B = convolution(1, half), convolution(half, half)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(WIDTH)
        rates = torch.linspace(0, DROPPED, DEPTH).tolist()
        for part in ("Ex_A", "Ex_B", "Re"):
            group = nn.Module()
            group.residual_group = Group(SelfBlock, rates)
            self.add_module(f"layers_{part}", nn.ModuleList([group]))
        self.layers_Fusion = nn.ModuleList()
        for stage in range(STAGES):
            own = rates[stage * STAGE_DEPTH : (stage + 1) * STAGE_DEPTH]
            layer = nn.Module()
            layer.residual_group_A, layer.residual_group_B = Group(SelfBlock, own), Group(SelfBlock, own)
            layer.residual_group = Group(CrossBlock, own)
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
        """Return the parameters that have an effect."""
        unused = {id(p) for part in (self.conv_first1_B, self.conv_first2_B) for p in part.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in unused]

    def extract(self, image: Tensor, source: str) -> Tensor:
        """(N, 1, H, W) to tokens (N, H, W, 60) of source A or B."""
        maps = _leaky(self.conv_first2_A(_leaky(self.conv_first1_A(image))))
        layer, norm = self.get_submodule(f"layers_Ex_{source}")[0], self.get_submodule(f"norm_Ex_{source}")
        return norm(layer.residual_group(self.patch_embed.norm(maps.movedim(1, -1))))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Extract, fuse, rebuild."""
        size = visible.shape[2:]
        visible, infrared = (continued(image, WINDOW) for image in (visible, infrared))
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


class Banded(nn.Module):
    """A block, without gradients, on one band of an image's windows after another, whose values stay in the cache.

    All that a block does to a window needs this window alone. Changes the tokens that it is given, and returns them.
    """

    def __init__(self, block: SelfBlock | CrossBlock) -> None:
        super().__init__()
        self.block = block
        self.sources = ("_A", "_B") if isinstance(block, CrossBlock) else ("",)  # how the names of the parts end
        for source in self.sources:
            bias = self.part("attn", source).bias().detach().contiguous()
            self.register_buffer(f"bias{source}", bias, persistent=False)

    def part(self, name: str, source: str) -> nn.Module:
        """Return a part of the block."""
        return self.block.get_submodule(f"{name}{source}")

    def forward(self, *tokens: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(1, H, W, 60) each to the same."""
        height, width = tokens[0].shape[1:3]
        # Of all bands but the last, and of the last: only there, and in a band's last window, are strangers.
        inner, outer = strangers(2 * WINDOW, width).to(tokens[0]).chunk(2)
        for top in range(0, height, WINDOW):
            bottom = top + WINDOW == height
            bands = [self.cut(one, top) for one in tokens]
            for first, last in spans(width // WINDOW, WINDOWS):
                mask = (outer if bottom else inner)[first:last]
                masked = self.block.shift and (bottom or last == width // WINDOW)
                self.change([band[first:last] for band in bands], mask if masked else None)
            for one, band in zip(tokens, bands, strict=True):
                self.join(band, one, top)
        return tokens if len(tokens) > 1 else tokens[0]

    def change(self, windows: Sequence[Tensor], mask: Tensor | None) -> None:
        """Do with windows, (windows, 64, 60) of each source, what the block does."""
        normed = [self.part("norm1", source)(own) for source, own in zip(self.sources, windows, strict=True)]
        for number, (source, own) in enumerate(zip(self.sources, windows, strict=True)):
            # A source alone asks itself, one of two the other.
            asked = normed[::-1] if number else normed
            attention, bias = self.part("attn", source), self.get_buffer(f"bias{source}")
            heads = (one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in attention.parts(*asked))
            found = F.scaled_dot_product_attention(*heads, bias[None] if mask is None else bias + mask)
            own += attention.proj(found.transpose(1, 2).flatten(-2))
            own += self.part("mlp", source)(self.part("norm2", source)(own))

    def cut(self, tokens: Tensor, top: int) -> Tensor:
        """Return a copy of a band's windows, (windows, 64, 60); below the last row comes the first."""
        shift = self.block.shift
        band = tokens[:, top + shift : top + shift + WINDOW]
        if band.shape[1] < WINDOW:
            band = torch.cat([band, tokens[:, :shift]], dim=1)
        return to_windows(band.roll(-shift, 2))[0]

    def join(self, windows: Tensor, tokens: Tensor, top: int) -> None:
        """Write a band's windows where `cut` found them."""
        shift = self.block.shift
        band = from_windows(windows[None], WINDOW, tokens.shape[2]).roll(shift, 2)
        below = min(WINDOW, tokens.shape[1] - top - shift)
        tokens[:, top + shift : top + shift + below] = band[:, :below]
        tokens[:, : WINDOW - below] = band[:, below:]


def banded(network: SwinFusion) -> SwinFusion:
    """Return the network, whose weights are final from now on, with its blocks in bands; changes the network."""
    for group in [module for module in network.modules() if isinstance(module, Group)]:
        group.blocks = nn.ModuleList(Banded(block) for block in group.blocks)
    return network


# Tables that follow from the window and the image size; the authors' files keep them beside the weights.
_TABLES = re.compile(r"(^|\.)(attn_mask|relative_position_index)$")


def without_tables(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the tables that the authors' files keep beside them."""
    return {key: value for key, value in state.items() if not _TABLES.search(key)}


def network(weights: Path | None) -> SwinFusion:
    """Return the network, filled from `weights` or, for None, with random ones."""
    return filled(SwinFusion(), weights, convert=without_tables)


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function; images are continued to the next larger multiple of 8, as the authors do."""
    made = network(weights)
    # A GPU has work enough only in whole images.
    run = as_fuser(banded(made) if device == "cpu" else made, device, precision, channels_last=True)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        height, width = visible.shape
        border = [(0, WINDOW - height % WINDOW), (0, WINDOW - width % WINDOW)]
        # Mirrored with the edge pixel; a side that is a multiple of 8 gets 8 more.
        return run(*(np.pad(image, border, mode="symmetric") for image in (visible, infrared)))[:height, :width]

    return fuse


def training(frozen: Path | None) -> Training:
    """Return the authors' one phase, at a constant rate."""
    trained = network(None)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        fused = trained(visible, infrared)
        gradients = gradient(visible), gradient(infrared)
        # First: the order of the terms decides how their gradients are rounded.
        similarity = shared_similarity(fused, visible, infrared, *gradients)
        terms = {
            "intensity": INTENSITY * (fused - torch.maximum(visible, infrared)).abs().mean(),
            "gradient": GRADIENT * (gradient(fused) - torch.maximum(*gradients)).abs().mean(),
            "ssim": SSIM * (1 - similarity),
        }
        return {"total": sum(terms.values()), **terms}

    choices = ["the gradients' shares are taken over the whole batch, the authors' over the four pairs of one GPU"]
    phase = Phase("fusion", trained.used_parameters(), loss, lr=2e-5, iterations=10000)
    return Training(trained, [phase], crop=128, batch=12, ema=0.999, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published("github.com/Linfeng-Tang/SwinFusion", {"10000_E.pth": ""}),
    training=training,
    parameters_note="973,681 with two convolutions that the authors create and never call (8,430)",
)
