"""SwinFusion: self and cross attention in shifted windows (Ma et al., IEEE/CAA J. Automatica Sinica 9(7), 2022).

A is infrared, B visible. Modules and parameters are named as the keys of the authors' checkpoint. Weights are ours or
the authors' 10000_E.pth; luma / 255 goes in, and what comes out is not stretched.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from fusion.fnet.losses import shared_similarity
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

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows, (N, windows, 64, 60) each, to the same."""
        queries, keys, values = (
            part.unflatten(-1, (HEADS, -1)).transpose(2, 3) for part in (queries * SCALE, keys, values)
        )
        bias = self.relative_position_bias_table[self.positions].permute(2, 0, 1)
        # Written out: with a mask, PyTorch's own attention on a CPU takes half as long again.
        shares = (queries @ keys.mT + (bias if mask is None else bias + mask)).softmax(-1)
        return self.proj((shares @ values).transpose(2, 3).flatten(-2))


class SelfAttention(Attention):
    """Queries, keys and values of one source."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """(N, windows, 64, 60) to the same."""
        return self.attend(*self.qkv(windows).chunk(3, dim=-1), mask)


class CrossAttention(Attention):
    """Queries of one source, keys and values of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, windows: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """(N, windows, 64, 60) each to the same."""
        return self.attend(self.q(windows), *self.kv(other).chunk(2, dim=-1), mask)


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
    run = as_fuser(network(weights), device, precision)

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
