"""A merged LZSC block on a CPU, forward and backward, in strips that fit a core's cache.

Convolution libraries fill registers of sixteen channels, so that a 64 -> m convolution with m = 1 or 2 leaves them
nearly empty. It is done as one with 9 m or 27 m channels, for each horizontal shift and perhaps three vertical ones,
and a sum of shifted maps. A c -> 64 convolution is fast as it is. Products are of float32 or of bfloat16; sums,
thresholds and weights' gradients are float32.

Maps (few channels) and codes (64) are channels-last, (N, H, W, channels), with a margin of zeros: maps all around,
codes above and below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion.networks import kernels
from fusion.networks.fast import Merged
from fusion.networks.lzsc import FEATURES, KERNEL, STEPS
from fusion.networks.workers import Map, workers

HALF = KERNEL // 2
STRIP_BYTES = 2**21  # of a code, in a core's second cache

Piece = tuple[int, int, int]  # a picture of the batch, and its rows from .. to


def pieces_of(count: int, height: int, row_bytes: int) -> list[Piece]:
    """Cut a batch into strips of rows, of about STRIP_BYTES each; of several, a number that threads can share."""
    strips = height * row_bytes / STRIP_BYTES
    rows = -(-height // (1 if strips < 1 else 4 * round(strips / 4 + 0.5)))
    return [(n, top, min(top + rows, height)) for n in range(count) for top in range(0, height, rows)]


def new_maps(shape: tuple[int, int, int], channels: int, kind: torch.dtype) -> Tensor:
    """Return maps of zeros, (N, H + 8, W + 8, channels)."""
    n, height, width = shape
    return torch.zeros(n, height + 2 * HALF, width + 2 * HALF, channels, dtype=kind)


def new_code(shape: tuple[int, int, int], kind: torch.dtype) -> Tensor:
    """Return a code to be filled, (N, H + 8, W, 64), of which only the margin is set."""
    n, height, width = shape
    code = torch.empty(n, height + 2 * HALF, width, FEATURES, dtype=kind)
    code[:, :HALF] = 0
    code[:, -HALF:] = 0
    return code


def interior(maps: Tensor) -> Tensor:
    """Return maps without their margin."""
    return maps[:, HALF:-HALF, HALF:-HALF]


def images_first(rows: Tensor) -> Tensor:
    """Return rows (rows, width, channels) as the convolutions' (1, channels, rows, width), channels-last."""
    return rows.permute(2, 0, 1)[None]


def numbers(tensor: Tensor) -> np.ndarray:
    """Return a tensor's memory as the kernels want it: bfloat16 as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def up(maps: Tensor, weight: Tensor, piece: Piece) -> np.ndarray:
    """Convolve a strip of maps with weights (64, channels, 9, 9); return (rows, width 64)."""
    n, top, bottom = piece
    convolved = F.conv2d(images_first(maps[n, top : bottom + 2 * HALF]), weight)
    return numbers(convolved.permute(0, 2, 3, 1)).reshape(bottom - top, -1)


def down(code: Tensor, weight: Tensor, piece: Piece, outs: Sequence[Tensor]) -> None:
    """Convolve a strip of a code with `unfolded` weights; the maps go to three tensors, (N, H, W, channels) each."""
    n, top, bottom = piece
    groups = KERNEL // weight.shape[2]
    rows = images_first(code[n, top : bottom + 2 * HALF])
    products = F.conv2d(rows, weight, dilation=(groups, 1))[0].permute(1, 2, 0)
    kernels.sum_shifted(numbers(products), groups, *(numbers(out[n, top:bottom]) for out in outs))


def strip(code: Tensor, piece: Piece) -> np.ndarray:
    """Return a strip of a code, (rows, width 64)."""
    n, top, bottom = piece
    return numbers(code[n, top + HALF : bottom + HALF]).reshape(bottom - top, -1)


def laid_out(weight: Tensor, kind: torch.dtype) -> Tensor:
    """Return weights in the number type of the products, channels-last."""
    return weight.detach().to(kind, memory_format=torch.channels_last)


def unfolded(weight: Tensor, kind: torch.dtype) -> Tensor:
    """Turn weights (m, 64, 9, 9) into those of the convolution that `kernels.sum_shifted` completes.

    Its channels are (groups, 9, m): which of the rows between dilated ones, which column from the last, which map. What
    is missing to whole registers is filled up with zeros; that costs nothing.

    Returns:
        (9 groups m or more, 64, 9 / groups, 1).
    """
    maps = weight.shape[0]
    if kind == torch.bfloat16:
        groups, fill = 1, 64 if maps > 3 else 1
    else:
        one, three = (KERNEL // groups * -(-KERNEL * groups * maps // 16) for groups in (1, 3))
        groups, fill = 3 if three < 0.9 * one else 1, 16
    taps = weight.unflatten(2, (KERNEL // groups, groups)).flip(4).permute(3, 4, 0, 1, 2)
    taps = taps.reshape(groups * KERNEL * maps, FEATURES, KERNEL // groups, 1)
    return laid_out(F.pad(taps, (0, 0, 0, 0, 0, 0, 0, -len(taps) % fill)), kind)


@dataclass(frozen=True)
class LaidOut:
    """A merged block as the strips want it: `up` laid out, `down` unfolded, scalars as numbers.

    seen: how many maps the readers of the last code make.
    """

    up: list[Tensor]
    down: list[Tensor]
    theta: list[float]
    rho: list[float]
    seen: int


def lay_out(block: Merged, kind: torch.dtype) -> LaidOut:
    """Lay a block out for products of a number type."""
    ups, downs = [laid_out(weight, kind) for weight in block.up], [unfolded(weight, kind) for weight in block.down]
    return LaidOut(ups, downs, block.theta.tolist(), block.rho.tolist(), block.down[STEPS].shape[0])


def forward(
    image: Tensor, block: LaidOut, codes: list[Tensor], run: Map, kept: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Return what the readers see in the last code, float32 (N, H, W, m), and the maps that each step's `up` reads.

    Args:
        image: (N, c, H, W).
        codes: memory for u^k; three codes in turn are enough where u^k is not wanted afterwards.
        kept: memory for v^k, (N, H, W, 64) float32, or None.
    """
    n, channels, height, width = image.shape
    kind = codes[0].dtype
    maps = [new_maps((n, height, width), weight.shape[1], kind) for weight in block.up]
    for step in maps:
        interior(step)[..., :channels] = image.permute(0, 2, 3, 1)
    seen = torch.empty(n, height, width, block.seen)
    nothing = seen[..., :0]
    theta, rho = block.theta, block.rho
    pieces = pieces_of(n, height, width * FEATURES * kind.itemsize)

    def encode(k: int, piece: Piece) -> None:
        n, top, bottom = piece
        convolved = up(maps[k], block.up[k], piece)
        kernels.activate(
            convolved,
            # Where there is no code before, its factor is 0 and anything finite stands in for it.
            strip(codes[k - 1], piece) if k > 0 else convolved,
            strip(codes[k - 2], piece) if k > 1 else convolved,
            np.float32(1 + rho[k] if k > 0 else 0),
            np.float32(-rho[k] if k > 1 else 0),
            np.float32(theta[k]),
            strip(codes[k], piece),
            kept[k][n, top:bottom].numpy().reshape(bottom - top, -1) if kept else None,
        )

    def read(k: int, piece: Piece) -> None:
        outs = [seen, nothing, nothing]
        if k < STEPS:
            outs[0] = interior(maps[k + 1])[..., channels : 2 * channels]
        if k + 2 <= STEPS:
            outs[1] = interior(maps[k + 2])[..., 2 * channels :]
        down(codes[k], block.down[k], piece, outs)

    for k in range(STEPS + 1):
        run(partial(encode, k), pieces)
        run(partial(read, k), pieces)
    return seen, maps


# --- Inference -------------------------------------------------------------------------------------------------------


class Codes:
    """Memory for the codes of one size, kept from picture to picture: to get it anew costs as much as a convolution."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def take(self, shape: tuple[int, int, int], kind: torch.dtype) -> list[Tensor]:
        """Return a code for each step; three in turn, as a step reads no more than the two before it."""
        n, height, width = shape
        if not self.kept or self.kept[0].shape != (n, height + 2 * HALF, width, FEATURES):
            self.kept = []  # let go before the new ones are made
            self.kept = [new_code(shape, kind) for _ in range(3)]
        return [self.kept[k % 3] for k in range(STEPS + 1)]


def read_in_strips(image: Tensor, block: LaidOut, codes: Codes) -> Tensor:
    """Return what the readers of a block that was laid out see in an image's code: (N, c, H, W) to (N, m, H, W)."""
    n, _, height, width = image.shape
    with workers() as run:
        seen, _ = forward(image, block, codes.take((n, height, width), block.up[0].dtype), run)
    return seen.permute(0, 3, 1, 2)
