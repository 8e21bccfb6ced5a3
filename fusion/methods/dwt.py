"""Wavelet fusion: the stronger detail in every band, the mean of what is left.

Li, Manjunath and Mitra, "Multisensor image fusion using the wavelet transform", Graphical Models and Image Processing
1995; their window-based selection is simplified to single coefficients.
"""

import numpy as np
import pywt

from fusion.methods.method import Method

WAVELET = "db2"
LEVELS = 4  # fewer where the image is too small for so many


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the image whose coefficients are, in every band, the larger in magnitude of the two."""
    levels = min(LEVELS, pywt.dwtn_max_level(visible.shape, WAVELET))
    (rest, *details), (other_rest, *other_details) = (
        pywt.wavedec2(image, WAVELET, mode="symmetric", level=levels) for image in (visible, infrared)
    )
    merged = [
        tuple(np.where(np.abs(a) >= np.abs(b), a, b) for a, b in zip(bands, others, strict=True))
        for bands, others in zip(details, other_details, strict=True)
    ]
    fused = pywt.waverec2([(rest + other_rest) / 2, *merged], WAVELET, mode="symmetric")
    height, width = visible.shape  # odd sides come back one longer
    return np.float32(fused[:height, :width])


METHOD = Method(load=lambda weights, device, precision: fuse)
