"""Applying networks to an image in stripes of rows, so that intermediate maps stay in the CPU's cache."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fusion.fnet.merged import spans

PIXELS = 8192  # of a stripe: 64 maps of this size take 2 MB; stripes of twice the size are not faster


def stripes(height: int, width: int, reach: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield for each stripe its rows, its rows extended by `reach` on both sides, and the first within the second.

    A function whose receptive field has a radius of at most `reach` pixels is applied to the extended stripe, and only
    the stripe's own rows of the result are kept. They equal the result for the whole image, because the cut affects
    only the rows that are dropped.
    """
    for top, bottom in spans(height, max(1, PIXELS // width, 2 * reach)):
        above = max(0, top - reach)
        yield slice(top, bottom), slice(above, bottom + reach), slice(top - above, bottom - above)


def apply_in_stripes(function: Callable[..., Tensor], maps: Sequence[Tensor], reach: int) -> Tensor:
    """Apply a function of maps, (N, any, H, W) each, in stripes and return its result, (N, C, H, W).

    `reach` is the radius of the function's receptive field in pixels.
    """
    height, width = maps[0].shape[2:]
    result = None
    for rows, extended, kept in stripes(height, width, reach):
        stripe = function(*(one[:, :, extended] for one in maps))[:, :, kept]
        if result is None:
            shape = (*stripe.shape[:2], height, width)
            result = torch.empty(shape, dtype=stripe.dtype, device=stripe.device, memory_format=torch.channels_last)
        result[:, :, rows] = stripe
    return result
