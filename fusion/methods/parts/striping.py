"""Networks on a processor, one stripe of rows after another, so that what is between layers stays in its cache."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fusion.fnet.merged import spans

PIXELS = 8192  # of a stripe: 64 maps of them take 2 MB; twice as many are no faster


def stripes(height: int, width: int, reach: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield each stripe's rows, the rows with `reach` more above and below, and where the stripe's are in these.

    A function whose values see at most `reach` pixels far is applied to the larger stripe, and the stripe's own rows of
    the result are kept. They are those of the whole image: only the rows that are left out see where it was cut.
    """
    for top, bottom in spans(height, max(1, PIXELS // width, 2 * reach)):
        above = max(0, top - reach)
        yield slice(top, bottom), slice(above, bottom + reach), slice(top - above, bottom - above)


def striped(function: Callable[..., Tensor], maps: Sequence[Tensor], reach: int) -> Tensor:
    """Return what a function makes of maps, (N, any, H, W) each to (N, C, H, W); it sees at most `reach` pixels far."""
    height, width = maps[0].shape[2:]
    result = None
    for rows, around, inside in stripes(height, width, reach):
        found = function(*(one[:, :, around] for one in maps))[:, :, inside]
        if result is None:
            shape = (*found.shape[:2], height, width)
            result = torch.empty(shape, dtype=found.dtype, device=found.device, memory_format=torch.channels_last)
        result[:, :, rows] = found
    return result
