"""Laplacian pyramid fusion: the larger detail at every scale, the mean of the low-pass images.

Burt and Adelson, "The Laplacian pyramid as a compact image code", IEEE Trans. Communications 1983; the selection rule
is from Toet, "Image fusion by a ratio of low-pass pyramid", Pattern Recognition Letters 1989, applied to differences.
"""

import cv2
import numpy as np

from fusion.methods.method import Method

LEVELS = 4  # number of halvings; fewer if a side reaches one pixel earlier


def pyramid(image: np.ndarray, levels: int = LEVELS) -> list[np.ndarray]:
    """Return the details of `levels` scales, finest first, followed by the low-pass image."""
    layers = []
    while len(layers) < levels and min(image.shape) >= 2:
        smaller = cv2.pyrDown(image)
        layers.append(image - cv2.pyrUp(smaller, dstsize=image.shape[::-1]))
        image = smaller
    return [*layers, image]


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the image with the detail of larger magnitude at every scale and pixel, and the mean low-pass image."""
    *details, low_pass = zip(pyramid(visible), pyramid(infrared), strict=True)
    image = (low_pass[0] + low_pass[1]) / 2
    for first, second in reversed(details):
        strongest = np.where(np.abs(first) >= np.abs(second), first, second)
        image = cv2.pyrUp(image, dstsize=strongest.shape[::-1]) + strongest
    return image


METHOD = Method(load=lambda weights, device, precision: fuse)
