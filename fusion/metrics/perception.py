"""Models of human vision for the metrics of Chen and Blum and of Chen and Varshney: contrast sensitivity and contrast.

Images are arrays (H, W) of grey levels.
"""

from collections.abc import Callable

import cv2
import numpy as np
from scipy import fft


def sensitivity_of_chen_and_blum(frequency: np.ndarray) -> np.ndarray:
    """Return the contrast sensitivity at a frequency in cycles per degree: a difference of Gaussians, 0.24 at 0."""
    return np.exp(-((frequency / 15.3870) ** 2)) - 0.7622 * np.exp(-((frequency / 1.3456) ** 2))


def sensitivity_of_mannos_and_sakrison(frequency: np.ndarray) -> np.ndarray:
    """Return the contrast sensitivity at a frequency in cycles per degree: 0.05 at 0, nearly 1 at 8."""
    return 2.6 * (0.0192 + 0.144 * frequency) * np.exp(-((0.144 * frequency) ** 1.1))


def sensitivity_filtered(
    image: np.ndarray, sensitivity: Callable[[np.ndarray], np.ndarray], degrees: float
) -> np.ndarray:
    """Return an image filtered by a contrast sensitivity in the frequency domain.

    The image spans `degrees` of the visual field across and down.
    """
    height, width = image.shape
    down, across = fft.fftfreq(height) * height, fft.rfftfreq(width) * width  # cycles per image
    weights = sensitivity(np.hypot(down[:, None], across) / degrees)
    return fft.irfft2(fft.rfft2(image.astype(np.float64)) * weights, s=image.shape)


def _gaussian(sigma: float) -> np.ndarray:
    return np.exp(-(np.arange(-15, 16) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)


_NARROW, _WIDE = _gaussian(2.0), _gaussian(4.0)


def masked_contrast(image: np.ndarray) -> np.ndarray:
    """Return C^3 / (C^2 + 0.0001) for Peli's local contrast C of each pixel, after filtering by contrast sensitivity.

    C is the magnitude of narrow / wide - 1, where narrow and wide are the image filtered by Gaussians of sigma 2 and 4
    in 31x31 windows with zeros around the image. C is 0 where wide is 0.
    """
    image = sensitivity_filtered(image, sensitivity_of_chen_and_blum, degrees=15)
    narrow, wide = (
        cv2.sepFilter2D(image, cv2.CV_64F, window, window, borderType=cv2.BORDER_CONSTANT)
        for window in (_NARROW, _WIDE)
    )
    contrast = np.abs(np.divide(narrow, wide, out=np.ones_like(wide), where=wide != 0) - 1)
    return contrast**3 / (contrast**2 + 1e-4)


def window_sums(values: np.ndarray, side: int) -> np.ndarray:
    """Return the sums over adjacent, disjoint windows of an array (H, W), zero-padded at the right and the bottom."""
    height, width = values.shape
    filled = np.pad(values, ((0, -height % side), (0, -width % side)))
    return filled.reshape(filled.shape[0] // side, side, filled.shape[1] // side, side).sum(axis=(1, 3))
