"""Borders of images that any size can have, where a library's mirroring wants images larger than the border."""

from torch import Tensor
from torch.nn import functional as F


def mirrored(image: Tensor, border: int) -> Tensor:
    """Pad by mirroring, in several turns where the image is smaller than the border."""
    while border:
        step = min(border, min(image.shape[2:]) - 1)
        if step == 0:  # one pixel wide: there is nothing to mirror but itself
            return F.pad(image, (border,) * 4, mode="replicate")
        image, border = F.pad(image, (step,) * 4, mode="reflect"), border - step
    return image


def continued(image: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Continue an image, (N, C, H, W), to the right and below by mirroring, to multiples of a number.

    The result has at least `least` multiples a side: two can be mirrored again where a multiple has become one pixel.
    """
    height, width = image.shape[2:]
    wanted = [max(least * multiple, -(-side // multiple) * multiple) for side in (height, width)]
    while image.shape[2] < wanted[0] or image.shape[3] < wanted[1]:
        below, right = (min(want - have, max(have - 1, 0)) for want, have in zip(wanted, image.shape[2:], strict=True))
        # One pixel alone has no neighbour to mirror.
        alone = [int(have == 1 and want > 1) for want, have in zip(wanted, image.shape[2:], strict=True)]
        image = F.pad(image, (0, alone[1], 0, alone[0]), mode="replicate")
        image = F.pad(image, (0, right, 0, below), mode="reflect")
    return image
