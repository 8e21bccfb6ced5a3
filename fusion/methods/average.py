"""The mean of the two images: the row that every method has to beat."""

import numpy as np

from fusion.methods.method import Method


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the mean of both, pixel by pixel."""
    return (visible + infrared) / 2


METHOD = Method(load=lambda weights, device, precision: fuse)
