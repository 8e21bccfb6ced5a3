"""Mirrored padding for images of any size; torch's own requires images that are larger than the padding."""

from torch import Tensor
from torch.nn import functional as F


def pad_mirrored(image: Tensor, border: int) -> Tensor:
    """Pad all sides by `border` pixels by mirroring, repeatedly if the image is smaller than the border."""
    while border:
        step = min(border, min(image.shape[2:]) - 1)
        if step == 0:  # a side of one pixel has no neighbour to mirror
            return F.pad(image, (border,) * 4, mode="replicate")
        image, border = F.pad(image, (step,) * 4, mode="reflect"), border - step
    return image


def pad_to_multiple(image: Tensor, multiple: int, least: int = 1) -> Tensor:
    """Pad an image, (N, C, H, W), on the right and below by mirroring, until its sides are multiples of a number.

    Each side of the result is at least `least` times the multiple. With `least` 2, a map that is smaller by this factor
    still has two pixels a side, which mirrored padding needs.
    """
    height, width = image.shape[2:]
    target = [max(least * multiple, -(-side // multiple) * multiple) for side in (height, width)]
    while image.shape[2] < target[0] or image.shape[3] < target[1]:
        below, right = (min(want - have, max(have - 1, 0)) for want, have in zip(target, image.shape[2:], strict=True))
        # A side of one pixel has no neighbour to mirror and is repeated.
        repeats = [int(have == 1 and want > 1) for want, have in zip(target, image.shape[2:], strict=True)]
        image = F.pad(image, (0, repeats[1], 0, repeats[0]), mode="replicate")
        image = F.pad(image, (0, right, 0, below), mode="reflect")
    return image
