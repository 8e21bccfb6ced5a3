"""ITFuse: an interactive transformer (Tang, He, Liu, Pattern Recognition 156, 2024).

All layers of the same kind share their weights. The weights are a file of ours or the authors' model.pth; the input is
luma / 255, and the output is not stretched.

Authors' code    here
conv16           embed: of each source
conv2_16         embed_both
conv16_16        refine: every 3x3 convolution from 16 to 16 maps
CoordAtt         coordinates
TS_lv1, equalAtt interact, merge
basicLayer       transformer
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.methods.method import Method, Phase, Published, Training
from fusion.methods.parts.filling import filled, renamed
from fusion.methods.parts.layers import MLP
from fusion.methods.parts.postprocessing import truncated
from fusion.methods.parts.running import loader
from fusion.training.similarity import ssim_inside

MAPS = 16
DEPTH = 3  # transformer blocks
HEADS = 8


class Convolution(nn.Module):
    """A 3x3 convolution with replicated borders, batch normalisation and a ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return F.relu(self.bn(self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate"))))


class CoordinateAttention(nn.Module):
    """Coordinate attention (Hou et al., CVPR 2021): weights of rows and columns, from the means along them."""

    def __init__(self, reduction: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(MAPS, MAPS // reduction, 1)
        self.bn1 = nn.BatchNorm2d(MAPS // reduction)
        self.conv_h = nn.Conv2d(MAPS // reduction, MAPS, 1)
        self.conv_w = nn.Conv2d(MAPS // reduction, MAPS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x, (N, 16, H, W), times the weights of its rows and columns."""
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        both = torch.cat([rows, columns.transpose(2, 3)], dim=2)
        rows, columns = F.hardswish(self.bn1(self.conv1(both))).split(x.shape[2:], dim=2)
        return x * torch.sigmoid(self.conv_w(columns.transpose(2, 3))) * torch.sigmoid(self.conv_h(rows))


class Interaction(nn.Module):
    """Multiplies the common maps v by a weight per pixel that depends on the maps k of one source and q of the other.

    both_embedded: embed q as well as k, and do not add k to the result (the authors' equalAtt).
    """

    def __init__(self, both_embedded: bool) -> None:
        super().__init__()
        self.both_embedded = both_embedded
        self.key_embed = Convolution(MAPS, MAPS)
        self.embed = nn.Sequential(
            nn.Conv2d(MAPS, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1)
        )
        self.conv1x1 = nn.Sequential(nn.Conv2d(MAPS, MAPS, 1, bias=False), nn.BatchNorm2d(MAPS))
        # Never used, but in the checkpoint and the count.
        self.bn = nn.BatchNorm2d(MAPS)
        self.se = nn.Sequential(nn.Conv2d(MAPS, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 1))

    def forward(self, v: Tensor, k: Tensor, q: Tensor) -> Tensor:
        """Map (N, 16, H, W) each to the same shape."""
        k = self.key_embed(k)
        if self.both_embedded:
            return self.embed(self.key_embed(q) + k) * self.conv1x1(v)
        return self.embed(q + k) * self.conv1x1(v) + k


class Attention(nn.Module):
    """Self-attention in windows of one token: the softmax over a single element is 1, so the result is v."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(MAPS, 3 * MAPS)
        self.proj = nn.Linear(MAPS, MAPS)
        # Without effect in windows of one token, but in the checkpoint and the count.
        self.relative_position_bias_table = nn.Parameter(torch.zeros(1, HEADS))
        self.register_buffer("relative_position_index", torch.zeros(1, 1, dtype=torch.int64))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, L, 16) to (N, L, 16)."""
        return self.proj(F.linear(tokens, self.qkv.weight[-MAPS:], self.qkv.bias[-MAPS:]))


class TransformerBlock(nn.Module):
    """Attention and a multilayer perceptron, each on normalised tokens and with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(MAPS), Attention()
        self.norm2, self.mlp = nn.LayerNorm(MAPS), MLP(MAPS, 4 * MAPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, L, 16) to (N, L, 16)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


def unused_modules() -> nn.ModuleDict:
    """Return the modules that the authors create but never call: 60,736 of the 82,487 parameters."""
    embedding = nn.Module()
    embedding.norm = nn.LayerNorm(96)
    return nn.ModuleDict(
        {
            "norm": nn.LayerNorm(32),
            "conv1_32": Convolution(1, 32),
            "conv32": Convolution(32, 32),
            "conv16_32": Convolution(16, 32),
            "conv2_32": Convolution(2, 32),
            "layer2": Convolution(64, 64),
            "mlp": MLP(32, 4 * 32),
            "patch_embed": embedding,
        }
    )


class ITFuse(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1. Any size works.

    82,487 parameters, 18,359 without the modules that are never used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = Convolution(1, MAPS)
        self.embed_both = Convolution(2, MAPS)
        self.refine = Convolution(MAPS, MAPS)
        self.coordinates = CoordinateAttention()
        self.interact = Interaction(both_embedded=False)
        self.merge = Interaction(both_embedded=True)
        self.transformer = nn.Sequential(*(TransformerBlock() for _ in range(DEPTH)))
        self.out = nn.Conv2d(MAPS, 1, 1)
        self.unused = unused_modules()

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        a, b = self._residual(self.embed(infrared)), self._residual(self.embed(visible))
        v = self._attended(self.refine(self.embed_both(torch.cat([infrared, visible], dim=1))))
        for stage in range(3):
            if stage:
                v = self._attended(self.refine(self.refine(v)))
                a, b = self._residual(self.refine(a)), self._residual(self.refine(b))
            a, b = self.interact(v, b, a), self.interact(v, a, b)
        m = self._attended(self.merge(v, a, b))
        # As in the authors' code, the channels are not moved last: a token is 16 values that are adjacent in memory,
        # mostly from one row of one map.
        tokens = self.transformer(m.reshape(m.shape[0], -1, MAPS))
        return torch.sigmoid(self.out(self.refine(tokens.reshape(m.shape))))

    def used_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the fused image depends on."""
        unused = re.compile(r"^unused\.|^(interact|merge)\.(bn|se)\.|relative_position")
        return [parameter for name, parameter in self.named_parameters() if not unused.search(name)]

    def _residual(self, x: Tensor) -> Tensor:
        return x + self.refine(self.refine(x))

    def _attended(self, x: Tensor) -> Tensor:
        return x + self.coordinates(self.coordinates(x))


# Patterns of the authors' keys, and our keys.
_AUTHORS_KEYS = [
    (r"^(norm|conv1_32|conv32|conv16_32|conv2_32|layer2|mlp|patch_embed)\.", r"unused.\1."),
    (r"^conv16\.", "embed."),
    (r"^conv2_16\.", "embed_both."),
    (r"^conv16_16\.", "refine."),
    (r"^CoordAtt\.", "coordinates."),
    (r"^TS_lv1\.", "interact."),
    (r"^equalAtt\.", "merge."),
    (r"^basicLayer\.blocks\.", "transformer."),
    (r"^convolutional_out\.conv\.", "out."),
]


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' model.pth to ours; keys that are already ours stay."""
    return renamed(state, _AUTHORS_KEYS)


def network(weights: Path | None) -> ITFuse:
    """Return the network with `weights`, or with random weights for None."""
    return filled(ITFuse(), weights, convert=from_authors)


def training(frozen: Path | None) -> Training:
    """Return the published loss, Charbonnier and SSIM distances to both sources, at the published learning rate."""
    trained = network(None)

    def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        fused = trained(visible, infrared)
        values, structure = 0, 0
        for source in (infrared, visible):
            values = values + ((fused - source).square() + 1e-6).sqrt().mean()  # epsilon 1e-3
            structure = structure + 4 * (1 - ssim_inside(fused, source).mean())
        return {"total": values + structure, "charbonnier": values, "ssim": structure}

    # The authors train for 20 epochs; the number of pairs is not published.
    choices = [
        "120x120 crops, the default size of the authors' network; their data loader is not published",
        "no stochastic depth in the transformer blocks",
    ]
    phase = Phase("fusion", trained.used_parameters(), loss, lr=3e-4)
    return Training(trained, [phase], crop=120, batch=64, choices=choices)


METHOD = Method(
    loader(network),
    network=network,
    published=Published(
        "github.com/tthinking/ITFuse",
        {"model.pth": "578f4d651c998134c4984ae635286557aa96aea99d9d5b9aa610021134113a69"},
    ),
    authors_output=truncated,
    training=training,
    parameters_note="82,487 including modules that the authors create and never call; fusing uses 18,359",
)
