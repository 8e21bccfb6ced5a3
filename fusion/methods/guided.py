"""Guided filter fusion of two scales: each pixel takes the more salient source, with edge-preserving weights.

Li, Kang and Hu, "Image fusion with guided filtering", IEEE Trans. Image Processing 2013, with the paper's parameters.
"""

import cv2
import numpy as np

from fusion.methods.method import Method

BASE = 31  # side of the mean filter that splits an image into base and detail
RADIUS_BASE, EPSILON_BASE = 45, 0.3
RADIUS_DETAIL, EPSILON_DETAIL = 7, 1e-6


def box(image: np.ndarray, side: int) -> np.ndarray:
    """Return the mean over a square around every pixel, with mirrored borders."""
    return cv2.boxFilter(image, -1, (side, side), borderType=cv2.BORDER_REFLECT_101)


def guided_filter(guide: np.ndarray, image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Return `image` smoothed, except across the edges of `guide` (He, Sun and Tang 2010); float64 (H, W) both."""
    side = 2 * radius + 1
    mean_guide, mean_image = box(guide, side), box(image, side)
    variance = box(guide * guide, side) - mean_guide**2
    slope = (box(guide * image, side) - mean_guide * mean_image) / (variance + epsilon)
    offset = mean_image - slope * mean_guide
    return box(slope, side) * guide + box(offset, side)


def saliency(image: np.ndarray) -> np.ndarray:
    """Return the saliency of every pixel: the smoothed magnitude of the image's Laplacian."""
    return cv2.GaussianBlur(np.abs(cv2.Laplacian(image, cv2.CV_64F, ksize=3)), (11, 11), 5)


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the sum of the fused scales; each is a pixel-wise weighted mean of the sources."""
    sources = [np.float64(visible), np.float64(infrared)]
    first = np.float64(saliency(sources[0]) >= saliency(sources[1]))
    bases = [box(image, BASE) for image in sources]
    fused = np.zeros_like(first)
    for layers, radius, epsilon in (
        (bases, RADIUS_BASE, EPSILON_BASE),
        ([image - base for image, base in zip(sources, bases, strict=True)], RADIUS_DETAIL, EPSILON_DETAIL),
    ):
        weights = [
            np.clip(guided_filter(guide, choice, radius, epsilon), 0, 1)
            for guide, choice in zip(sources, (first, 1 - first), strict=True)
        ]
        total = weights[0] + weights[1]
        # If both weights are zero, both sources get the same weight.
        share = np.divide(weights[0], total, out=np.full_like(total, 0.5), where=total > 1e-12)
        fused += share * layers[0] + (1 - share) * layers[1]
    return np.float32(fused)


METHOD = Method(load=lambda weights, device, precision: fuse)
