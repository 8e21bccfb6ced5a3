"""Wavelet fusion: the larger coefficient in every detail subband, the mean of the approximations.

Li, Manjunath and Mitra, "Multisensor image fusion using the wavelet transform", Graphical Models and Image Processing
1995; their window-based selection is simplified to a selection of single coefficients.
"""

import numpy as np
import pywt

from fusion.methods.method import Method

WAVELET = "db2"
LEVELS = 4  # fewer if the image is too small


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the image with the detail coefficient of larger magnitude in every subband and the mean approximation."""
    levels = min(LEVELS, pywt.dwtn_max_level(visible.shape, WAVELET))
    (approximation, *details), (other_approximation, *other_details) = (
        pywt.wavedec2(image, WAVELET, mode="symmetric", level=levels) for image in (visible, infrared)
    )
    merged = [
        tuple(np.where(np.abs(a) >= np.abs(b), a, b) for a, b in zip(subbands, others, strict=True))
        for subbands, others in zip(details, other_details, strict=True)
    ]
    fused = pywt.waverec2([(approximation + other_approximation) / 2, *merged], WAVELET, mode="symmetric")
    height, width = visible.shape  # the inverse transform returns odd sides with one pixel more
    return np.float32(fused[:height, :width])


METHOD = Method(load=lambda weights, device, precision: fuse)
