"""Conversion of images to the metrics' input: one luma image of whole grey levels."""

import numpy as np

from fusion.metrics import kernels
from pipeline.stage import InputError

# BT.601's weights of red, green and blue, rounded to float32, times every grey level: exact in float64.
PRODUCTS = np.float64(np.float32([[0.299], [0.587], [0.114]])) * np.arange(256)


def luma(image: np.ndarray) -> np.ndarray:
    """Return the luma of an image as uint8 (H, W): 0.299 R + 0.587 G + 0.114 B, rounded to the nearest level.

    Takes (H, W) or RGB (H, W, 3) of any number type; one channel is returned unchanged.

    The reference evaluator converts a float32 image with channels B, G, R by OpenCV. The order of its sum decides ties:
    green's product is rounded to float32, then blue's and then red's product are added, each by a fused multiply-add.
    Here every step is computed in float64, where products and sums are exact, and rounded to float32, so that all
    processors give the same levels. OpenCV's conversion of R, G, B channels, or of a uint8 image, differs by one level
    in some pixels.

    Raises:
        InputError: the array has another shape, or grey levels other than the whole numbers 0..255.
    """
    if image.ndim == 3 and image.shape[2] == 3:
        return kernels.rgb_to_luma(as_levels(image), PRODUCTS)
    if image.ndim != 2 or image.size == 0:
        raise InputError(f"an array has the shape {image.shape}; expected an image, (H, W) or (H, W, 3)")
    return as_levels(image)


def as_levels(image: np.ndarray) -> np.ndarray:
    """Return an array of whole grey levels 0..255 as contiguous uint8.

    Raises:
        InputError: there are other values. The caller has to round, because rounding changes every metric.
    """
    if image.dtype != np.uint8:
        with np.errstate(invalid="ignore"):
            rounded = image.astype(np.uint8)
        if not np.array_equal(rounded, image):
            invalid = image[rounded != image].flat[0]
            raise InputError(f"an image has the value {invalid}; expected whole grey levels 0..255 (8 bits, rounded)")
        image = rounded
    return np.ascontiguousarray(image)


def stretched(image: np.ndarray) -> np.ndarray:
    """Stretch a uint8 image so that its levels span 0..255, rounded to the nearest; a constant image is unchanged."""
    low, high = int(image.min()), int(image.max())
    if low == high:
        return image
    table = np.clip(np.rint((np.arange(256) - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    return table[image]
