"""Wavelet fusion: the stronger detail in every band, the mean of what is left.

Li, Manjunath and Mitra, "Multisensor image fusion using the wavelet transform", Graphical Models and Image Processing
1995; their window-based selection is simplified to single coefficients.
"""

from pathlib import Path

import numpy as np

from fusion.methods.method import Fuser, Method, Precision

WAVELET = "db2"
LEVELS = 4  # fewer where the image is too small for so many


def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
    """Return the image whose coefficients are, in every band, the larger in magnitude of the two."""
    import pywt

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


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return `fuse`."""
    return fuse


METHOD = Method(load, needs_weights=False, reference="Li, Manjunath and Mitra 1995", packages=["pywavelets"])
