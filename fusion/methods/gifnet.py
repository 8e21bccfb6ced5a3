"""GIFNet: two coupled branches of window attention on features of both sources (Cheng et al., CVPR 2025).

The branches belong to the two training tasks, infrared-visible (`ivif`) and multi-focus (`mfif`). Images of either task
are fused by the second branch, which receives the maps of the first branch after one block. The weights are a file of
ours or the authors' Final.model; the input is luma / 255. The authors fuse images of any size without changing them,
and truncate the luma of colour images and the fused values to 8 bits.

Authors' code                      here
getSharedFeatures                  shared
patch_embed_ivif, patch_embed_mfif embed
layer1.blocks                      blocks: one branch per task, and the bias that both share
patch_unembed                      unembed
cnnDecoder                         join, decoder
decoder_rec                        rebuild: used only in training

It cannot be trained here; its entry in `METHODS` lists the inputs that the training requires.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Published
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled, in_folder, renamed
from fusion.methods.parts.postprocessing import truncated
from fusion.methods.parts.running import loader

GROWTH = 32  # maps that each of the three dense layers adds to the two images
MAPS = 2 + 3 * GROWTH
HEADS, WINDOW, SHIFT = 2, 8, 4
HEAD_MAPS = MAPS // HEADS
MULTIPLE = 4  # the sides of the branches' maps are multiples of this
EPSILON = 1e-5
BRANCHES = ("ivif", "mfif")
FILE = "Final.model"


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution with mirrored borders."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")


def decoder(inputs: int) -> nn.ModuleList:
    """Return the convolutions from feature maps to an image."""
    return nn.ModuleList(convolution(*pair) for pair in pairwise((inputs, 64, 32, 16, 1)))


class RescaleLayerNorm(nn.Module):
    """Layer normalisation of an image over all maps and pixels, which also predicts a scale and an offset to undo it.

    The scale is predicted from the standard deviation, the offset from the mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1, MAPS, 1, 1)), nn.Parameter(torch.zeros(1, MAPS, 1, 1))
        self.meta1, self.meta2 = nn.Conv2d(1, MAPS, 1), nn.Conv2d(1, MAPS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalised maps, (N, 98, H, W), and a scale and an offset for each map, (N, 98, 1, 1)."""
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
        deviation = (variance + EPSILON).sqrt()
        return (x - mean) / deviation * self.weight + self.bias, self.meta1(deviation), self.meta2(mean)


def window_partition(maps: Tensor, shift: int) -> Tensor:
    """Cut maps, (N, 98, H, W), into windows, (N, windows, 2 heads, 64, 49); sides must be multiples of 4.

    The maps are padded by mirroring, `shift` pixels on the left and above, and up to whole windows on the other sides.
    """
    below, right = ((-side - shift) % WINDOW for side in maps.shape[2:])
    maps = F.pad(maps, (shift, right, shift, below), mode="reflect")
    down, across = (side // WINDOW for side in maps.shape[2:])
    cut = maps.view(-1, HEADS, HEAD_MAPS, down, WINDOW, across, WINDOW)
    return cut.permute(0, 3, 5, 1, 4, 6, 2).reshape(-1, down * across, HEADS, WINDOW**2, HEAD_MAPS)


def window_reverse(windows: Tensor, height: int, width: int, shift: int) -> Tensor:
    """Undo `window_partition` and return maps of the given size, (N, 98, height, width)."""
    down, across = (-(-(side + shift) // WINDOW) for side in (height, width))
    cut = windows.view(-1, down, across, HEADS, WINDOW, WINDOW, HEAD_MAPS).permute(0, 3, 6, 1, 4, 2, 5)
    maps = cut.reshape(-1, MAPS, down * WINDOW, across * WINDOW)
    return maps[..., shift : shift + height, shift : shift + width]


class Branch(nn.Module):
    """Attention within windows, then a multilayer perceptron, each with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = RescaleLayerNorm()
        self.V, self.QK, self.proj = nn.Conv2d(MAPS, MAPS, 1), nn.Conv2d(MAPS, 2 * MAPS, 1), nn.Conv2d(MAPS, MAPS, 1)
        self.conv = nn.Conv2d(MAPS, MAPS, 5, padding=2, padding_mode="reflect", groups=MAPS)
        self.mlp = nn.Sequential(nn.Conv2d(MAPS, 2 * MAPS, 1), nn.ReLU(), nn.Conv2d(2 * MAPS, MAPS, 1))

    def forward(self, x: Tensor, bias: Tensor, shift: int, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the maps, (N, 98, H, W), and the queries, which are the given ones of the other branch or its own."""
        normal, scale, offset = self.norm1(x)
        values = self.V(normal)
        if queries is None:
            queries, keys = self.QK(normal).chunk(2, dim=1)
        else:
            keys = F.conv2d(normal, self.QK.weight[MAPS:], self.QK.bias[MAPS:])
        q, k, v = (window_partition(maps, shift) for maps in (queries, keys, values))
        # Not scaled_dot_product_attention, which is slower on a CPU with a mask.
        attended = (q * HEAD_MAPS**-0.5 @ k.mT + bias).softmax(-1) @ v
        attended = window_reverse(attended, *x.shape[2:], shift)
        x = x + self.proj(self.conv(values) + attended) * scale + offset
        return x + self.mlp(x), queries


def log_relative_positions() -> Tensor:
    """Return sign(d) log(1 + |d|) of the row and column offsets d between a window's pixels, (64, 64, 2)."""
    positions = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW)).float()
    offsets = positions[:, None] - positions
    return offsets.sign() * offsets.abs().log1p()


class Block(nn.Module):
    """One branch per task, and the bias of their attention, which depends on the relative position of two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.ivif, self.mfif = Branch(), Branch()
        self.meta = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, HEADS))
        self.register_buffer("relative_positions", log_relative_positions())

    def bias(self) -> Tensor:
        """Return the bias that is added to the attention scores, (2, 64, 64)."""
        return self.meta(self.relative_positions).movedim(-1, 0)


class GIFNet(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1. Any size works.

    822,780 parameters, of which fusing uses 652,676; the others are only used in training. At 320x320 it takes 70.0 G
    multiply-adds; the authors' code takes 80.5 G, because it also computes maps that it does not use. Both branches
    normalise over the whole image, so fusing in tiles would change the result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.ModuleList(convolution(2 + place * GROWTH, GROWTH) for place in range(3))
        self.embed = nn.ModuleDict({name: convolution(MAPS, MAPS) for name in BRANCHES})
        self.blocks = nn.ModuleList([Block(), Block()])
        for name in ("weights", "weights_mfif"):
            self.register_module(name, nn.ParameterList(torch.rand(1) for _ in self.blocks))
        self.unembed = convolution(MAPS, MAPS)
        self.join = nn.Sequential(
            nn.Conv2d(2 * MAPS, MAPS, 1, bias=False), nn.ReLU(), nn.Conv2d(MAPS, 128, 1, bias=False)
        )
        self.decoder, self.rebuild = decoder(128), decoder(MAPS)

    def features(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the shared features that both branches start from, (N, 98, H, W)."""
        x = torch.cat([infrared, visible], dim=1)
        for layer in self.shared:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        return x

    def interact(self, x: Tensor) -> Tensor:
        """Return the maps of the second branch; sides must be multiples of 4 and at least 8."""
        first, second = self.blocks
        ivif, mfif = (self.embed[name](x) for name in BRANCHES)
        bias = first.bias()
        mfif, queries = first.mfif(mfif, bias, shift=0)
        ivif, _ = first.ivif(ivif, bias, shift=0, queries=queries)
        # The output of the last block's `ivif` branch is not used, so it is not computed.
        mfif, _ = second.mfif(mfif + self.weights_mfif[0] * ivif, second.bias(), SHIFT)
        return self.unembed(mfif)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        height, width = visible.shape[2:]
        visible, infrared = (pad_to_multiple(image, 1, least=WINDOW) for image in (visible, infrared))
        shared = self.features(visible, infrared)
        task_maps = self.interact(pad_to_multiple(shared, MULTIPLE))[..., : shared.shape[2], : shared.shape[3]]
        x = self.join(torch.cat([shared, task_maps], dim=1))
        for layer in self.decoder[:-1]:
            x = F.relu(layer(x))
        return (self.decoder[-1](x).tanh() / 2 + 0.5)[..., :height, :width]


# Patterns of the authors' keys, and our keys.
_AUTHORS_KEYS = [
    (r"^extractor_multask\.SwinTransformerSpecific\.(layer1\.(?=weights))?", ""),
    (r"^getSharedFeatures\.conv_([123])\.conv2d\.", lambda match: f"shared.{int(match[1]) - 1}."),
    (r"^patch_embed_(ivif|mfif)\.proj\.", r"embed.\1."),
    (r"^layer1\.(blocks\.\d\.)attn\.attn\.", r"\1"),
    (
        r"^layer1\.(blocks\.\d\.)(attn\.)?(norm1|conv|V|QK|proj|mlp)(_mfif)?\.(mlp\.)?",
        lambda match: f"{match[1]}{'mfif' if match[4] else 'ivif'}.{match[3]}.",
    ),
    (r"^patch_unembed\.proj\.0\.", "unembed."),
    (r"^cnnDecoder\.fuseComplementFeatures\.mlp\.", "join."),
    (
        r"^(cnnDecoder|decoder_rec)\.decoder\.(\d+)\.",
        lambda match: f"{'rebuild' if match[1] == 'decoder_rec' else 'decoder'}.{int(match[2]) // 3}.",
    ),
]


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' Final.model to ours; keys that are already ours stay."""
    return renamed(state, _AUTHORS_KEYS)


def network(weights: Path | None) -> GIFNet:
    """Return the network with `weights` (ours, the authors' file or its folder), or with random weights for None."""
    return filled(GIFNet(), weights, in_folder(FILE), from_authors)


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/AWCXV/GIFNet", {FILE: "bfc1dfef0d5b386b0c04f172daf8f6af52ba395f26dc3dd5757425fd32eb1038"}
    ),
    authors_output=truncated,
    parameters_note="822,780, of which fusing uses 652,676; the others are only used in training",
)
