"""What authors do with the fused luma, (H, W), before they round it to 8 bits."""

import numpy as np


def stretched(fused: np.ndarray) -> np.ndarray:
    """Stretch a fused image so that its darkest pixel is 0 and its brightest 1; a constant one becomes black."""
    low, high = fused.min(initial=np.inf), fused.max(initial=-np.inf)
    return (fused - low) / (high - low) if high > low else np.zeros_like(fused)


def brightened(fused: np.ndarray) -> np.ndarray:
    """Stretch a fused image so that its brightest pixel is 1; its darkest is not moved."""
    brightest = fused.max(initial=0)
    return np.clip(fused / brightest, 0, 1) if brightest > 0 else np.zeros_like(fused)


def cut_off(fused: np.ndarray) -> np.ndarray:
    """Cut the 8-bit values off downwards instead of rounding them."""
    return np.floor(np.clip(fused, 0, 1) * 255) / 255
