"""A plain implementation of the metrics' reference convention: 2-D convolutions, one array operation per step.

The oracle of the metrics' tests and the baseline of `benchmarks/metrics_speed.py`. It shares no code with
`fusion.metrics`. Images are float64 arrays (H, W) of grey levels.
"""

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.signal import convolve2d
from sklearn.metrics import mutual_info_score

EPS = 1e-10


def mi(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    return sum(mutual_info_score(fused.ravel(), source.ravel()) for source in (visible, infrared))


def gaussian_window(side: int, sigma: float) -> np.ndarray:
    offset = np.arange(side) - (side - 1) / 2
    window = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * sigma**2))
    return window / window.sum()


def vif_one(reference: np.ndarray, distorted: np.ndarray) -> float:
    numerator = denominator = 0.0
    for scale in range(1, 5):
        side = 2 ** (5 - scale) + 1
        window = gaussian_window(side, side / 5)

        def smooth(image: np.ndarray, window: np.ndarray = window) -> np.ndarray:
            return convolve2d(image, window, mode="valid")

        if scale > 1:
            reference, distorted = smooth(reference)[::2, ::2], smooth(distorted)[::2, ::2]
        mean_ref, mean_dist = smooth(reference), smooth(distorted)
        var_ref = np.maximum(smooth(reference**2) - mean_ref**2, 0)
        var_dist = np.maximum(smooth(distorted**2) - mean_dist**2, 0)
        cov = smooth(reference * distorted) - mean_ref * mean_dist
        g = cov / (var_ref + EPS)
        sv = var_dist - g * cov
        flat = var_ref < EPS
        g[flat], sv[flat], var_ref[flat] = 0, var_dist[flat], 0
        flat = var_dist < EPS
        g[flat], sv[flat] = 0, 0
        negative = g < 0
        sv[negative], g[negative] = var_dist[negative], 0
        sv = np.maximum(sv, EPS)
        numerator += np.log10(1 + g**2 * var_ref / (sv + 2)).sum()
        denominator += np.log10(1 + var_ref / 2).sum()
    if denominator == 0:
        return 1.0 if numerator == 0 else np.inf
    return float(numerator / denominator)


def vif(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    return vif_one(visible, fused) + vif_one(infrared, fused)


def edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sx = convolve2d(image, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], mode="same")
    sy = convolve2d(image, [[1, 2, 1], [0, 0, 0], [-1, -2, -1]], mode="same")
    angle = np.full(image.shape, np.pi / 2)
    np.arctan(np.divide(sy, sx, where=sx != 0, out=np.zeros_like(sx)), where=sx != 0, out=angle)
    return np.sqrt(sx**2 + sy**2), angle


def edge_quality(strength: np.ndarray, angle: np.ndarray, strength_f: np.ndarray, angle_f: np.ndarray) -> np.ndarray:
    larger = np.maximum(strength, strength_f)
    ratio = np.divide(np.minimum(strength, strength_f), larger, where=larger > 0, out=np.zeros_like(larger))
    ratio = np.where(strength == strength_f, strength, ratio)
    alignment = 1 - np.abs(angle - angle_f) / (np.pi / 2)
    return 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * (0.9879 / (1 + np.exp(-22 * (alignment - 0.8))))


def qabf(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    (ga, aa), (gb, ab), (gf, af) = edges(visible), edges(infrared), edges(fused)
    weighted = edge_quality(ga, aa, gf, af) * ga + edge_quality(gb, ab, gf, af) * gb
    total = (ga + gb).sum()
    return float(weighted.sum() / total) if total else float("nan")


def ssim_one(reference: np.ndarray, distorted: np.ndarray, data_range: float = 2.0) -> float:
    def smooth(image: np.ndarray) -> np.ndarray:
        return uniform_filter(image, 7)[3:-3, 3:-3]

    mean_r, mean_d = smooth(reference), smooth(distorted)
    var_r = 49 / 48 * (smooth(reference**2) - mean_r**2)
    var_d = 49 / 48 * (smooth(distorted**2) - mean_d**2)
    cov = 49 / 48 * (smooth(reference * distorted) - mean_r * mean_d)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mean_r * mean_d + c1) * (2 * cov + c2)
    return float((top / ((mean_r**2 + mean_d**2 + c1) * (var_r + var_d + c2))).mean())


def ssim(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    return ssim_one(visible, fused) + ssim_one(infrared, fused)


def en(fused: np.ndarray) -> float:
    share = np.bincount(fused.astype(np.uint8).ravel(), minlength=256) / fused.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def sd(fused: np.ndarray) -> float:
    return float(np.std(fused))


def sf(fused: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.diff(fused, axis=1) ** 2) + np.mean(np.diff(fused, axis=0) ** 2)))


def ag(fused: np.ndarray) -> float:
    gy, gx = np.gradient(fused)
    return float(np.mean(np.sqrt((gx**2 + gy**2) / 2)))


def scd(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    return float(
        np.corrcoef(visible.ravel(), (fused - infrared).ravel())[0, 1]
        + np.corrcoef(infrared.ravel(), (fused - visible).ravel())[0, 1]
    )


PAPER = {"MI": mi, "VIF": vif, "Qabf": qabf, "SSIM": ssim}
