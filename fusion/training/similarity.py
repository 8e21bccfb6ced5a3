"""Differentiable image comparisons for losses: Sobel derivatives and structural similarity.

All functions take (N, 1, H, W) luma in 0..1.
"""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

C1, C2 = 0.01**2, 0.03**2  # SSIM's constants for a data range of 1


@cache  # because a host-to-device copy inside a training step would prevent CUDA-graph capture
def correlation_matrix(
    kernel: tuple[float, ...], length: int, padding: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the banded matrix (n, length) that correlates a line of `length` pixels, zero-padded, with a kernel.

    For a single channel, this product is many times faster than a convolution, especially in the backward pass.
    """
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        matrix = torch.zeros(length + 2 * padding - len(kernel) + 1, length + 2 * padding, dtype=torch.float64)
        for offset, value in enumerate(kernel):
            matrix.diagonal(offset).fill_(value)
        return matrix[:, padding : padding + length].to(device, dtype)


def correlate(image: Tensor, down: tuple[float, ...], across: tuple[float, ...], padding: int) -> Tensor:
    """Correlate (N, 1, H, W) with the outer product of two kernels of the same length, zero-padded."""
    rows, columns = (
        correlation_matrix(kernel, length, padding, image.device, image.dtype)
        for kernel, length in zip((down, across), image.shape[2:], strict=True)
    )
    return rows @ image @ columns.T


def sobel(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the horizontal and vertical Sobel derivatives with kernels (1, 2, 1), zero-padded to the same size."""
    smooth, slope = (1.0, 2.0, 1.0), (-1.0, 0.0, 1.0)
    return correlate(image, smooth, slope, 1), correlate(image, slope, smooth, 1)


def slopes(image: Tensor) -> Tensor:
    """Return the horizontal and vertical Sobel derivatives with replicated borders, (N, 2, H, W)."""
    # After replicating the border by one pixel, the zero padding of `sobel` affects only pixels that are cut off.
    return torch.cat(sobel(F.pad(image, (1, 1, 1, 1), mode="replicate")), dim=1)[..., 1:-1, 1:-1]


def gradient(image: Tensor) -> Tensor:
    """Return the sum of the absolute horizontal and vertical Sobel derivatives, zero-padded: the nabla of stage II."""
    horizontal, vertical = sobel(image)
    return horizontal.abs() + vertical.abs()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean structural similarity: 11x11 Gaussian of sigma 1.5, zero padding, data range 1 (Wang 2004)."""
    return similarity(a, b, padding=5).mean()


def ssim_inside(a: Tensor, b: Tensor) -> Tensor:
    """Return each pair's structural similarity, (N,), as in `ssim` but only over windows inside the image."""
    return similarity(a, b, padding=0).mean(dim=(1, 2, 3))


def dissimilarity(a: Tensor, b: Tensor, side: int = 11) -> Tensor:
    """Return the mean of (1 - structural similarity) / 2, with mirrored borders, as in kornia 0.2."""
    a, b = (F.pad(image, (side // 2,) * 4, mode="reflect") for image in (a, b))
    return (1 - similarity(a, b, padding=0, side=side)).clamp(0, 1).mean() / 2


def similarity(a: Tensor, b: Tensor, padding: int, side: int = 11) -> Tensor:
    """Return the map of structural similarity, (N, 1, H, W), or smaller by side - 1 with a padding of 0."""
    return similarity_and_contrast(a, b, 1.0, padding, side)[0]


def similarity_and_contrast(
    a: Tensor, b: Tensor, span: float, padding: int = 0, side: int = 11
) -> tuple[Tensor, Tensor]:
    """Return the map of structural similarity, and the map of its contrast and structure factors.

    `span` is the data range.
    """
    window = [math.exp(-(x**2) / (2 * 1.5**2)) for x in range(-(side // 2), side // 2 + 1)]
    window = tuple(value / sum(window) for value in window)
    c1, c2 = C1 * span**2, C2 * span**2

    def smooth(x: Tensor) -> Tensor:
        return correlate(x, window, window, padding)

    mean_a, mean_b, mean_aa, mean_bb, mean_ab = smooth(torch.cat([a, b, a * a, b * b, a * b])).chunk(5)
    variance_a, variance_b = mean_aa - mean_a**2, mean_bb - mean_b**2
    covariance = mean_ab - mean_a * mean_b
    numerator, denominator = 2 * covariance + c2, variance_a + variance_b + c2
    means = mean_a**2 + mean_b**2 + c1
    return ((2 * mean_a * mean_b + c1) * numerator) / (means * denominator), numerator / denominator


SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def multiscale_similarity(a: Tensor, b: Tensor, span: float = 1.0) -> Tensor:
    """Return each pair's structural similarity over five scales, (N,) (Wang et al., 2003).

    `span` is the data range. Only windows inside the image count. Each scale halves the sides, which must be at least
    176 pixels.
    """
    if min(a.shape[2:]) < 176:
        raise ValueError(f"images of {a.shape[3]}x{a.shape[2]} do not have five scales; expected at least 176x176")
    found = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        whole, contrast = (one.mean((1, 2, 3)) for one in similarity_and_contrast(a, b, span))
        found = found * (whole if scale == len(SCALE_WEIGHTS) - 1 else contrast).clamp_min(0) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return found
