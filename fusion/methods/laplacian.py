"""Laplacian pyramid fusion: the stronger detail at every scale, the mean of what is left.

Burt and Adelson, "The Laplacian pyramid as a compact image code", IEEE Trans. Communications 1983; the selection rule
is that of Toet, "Image fusion by a ratio of low-pass pyramid", Pattern Recognition Letters 1989, on differences.
"""

import cv2
import numpy as np

from fusion.methods.method import Method

LEVELS = 4  # halvings; fewer where the image gets smaller than two pixels


def pyramid(image: np.ndarray, levels: int = LEVELS) -> list[np.ndarray]:
    """Return the details of `levels` scales, finest first, and last the remaining low-pass image."""
    layers = []
    while len(layers) < levels and min(image.shape) >= 2:
        smaller = cv2.pyrDown(image)
        layers.append(image - cv2.pyrUp(smaller, dstsize=image.shape[::-1]))
        image = smaller
    return [*layers, image]


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the image whose details are, at every scale and pixel, the larger in magnitude of the two."""
    *details, rest = zip(pyramid(visible), pyramid(infrared), strict=True)
    image = (rest[0] + rest[1]) / 2
    for first, second in reversed(details):
        strongest = np.where(np.abs(first) >= np.abs(second), first, second)
        image = cv2.pyrUp(image, dstsize=strongest.shape[::-1]) + strongest
    return image


METHOD = Method(load=lambda weights, device, precision: fuse)
