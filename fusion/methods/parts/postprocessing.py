"""Post-processing by which authors prepare the fused luma, (H, W), for rounding to 8 bits."""

import numpy as np


def stretched(fused: np.ndarray) -> np.ndarray:
    """Stretch a fused image so that its darkest pixel is 0 and its brightest is 1; a constant image becomes black."""
    low, high = fused.min(initial=np.inf), fused.max(initial=-np.inf)
    return (fused - low) / (high - low) if high > low else np.zeros_like(fused)


def divided_by_maximum(fused: np.ndarray) -> np.ndarray:
    """Divide a fused image by its maximum, so that its brightest pixel is 1, and clip it to 0..1.

    An image without positive values becomes black.
    """
    brightest = fused.max(initial=0)
    return np.clip(fused / brightest, 0, 1) if brightest > 0 else np.zeros_like(fused)


def truncated(fused: np.ndarray) -> np.ndarray:
    """Truncate the 8-bit values instead of rounding them."""
    return np.floor(np.clip(fused, 0, 1) * 255) / 255
