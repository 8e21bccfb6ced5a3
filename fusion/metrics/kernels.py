"""Compiled passes over pixels for the metrics: the sums that `definitions` puts into formulas.

Each kernel runs on one thread and releases the interpreter's lock, so that images are scored in parallel. All inexact
arithmetic is in float64. A library call per pixel would cost more than the rest; one logarithm is therefore taken of a
product over many pixels, and the arc tangent and the exponential are polynomials accurate to 1e-10.

Loops read rows as slices and accumulate into rows. The compiler then knows that indices are not negative and that
additions need no particular order, and computes several pixels at once. Reordering within a formula (fast math) is
disabled, because sums of whole numbers would lose their exactness.
"""

import math
from collections.abc import Callable

import numpy as np

from pipeline.compiled import announce, compiled, inlined

announce(__name__, "the metrics' kernels", 10)

# --- Grey levels ---------------------------------------------------------------------------------------------------


@compiled
def joint_histogram(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Count pairs of grey levels of two uint8 images (H, W): int64 (256, 256), one row per level of the first image."""
    counts = np.zeros(65536, np.int64)
    for y in range(first.shape[0]):
        a, b = first[y], second[y]
        for x in range(a.size):
            counts[np.uintp(a[x]) << np.uintp(8) | np.uintp(b[x])] += 1
    return counts.reshape(256, 256)


@compiled
def rgb_to_luma(image: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Return the luma, uint8 (H, W), of an RGB image, uint8 (H, W, 3).

    `products` (3, 256) are each channel's weight times every level. Green's product and the sums with blue's and with
    red's product are rounded to float32; see `images.luma`.
    """
    luma = np.empty(image.shape[:2], np.uint8)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            red, green, blue = image[y, x]
            total = np.float32(products[1, green])
            total = np.float32(np.float64(total) + products[2, blue])
            total = np.float32(np.float64(total) + products[0, red])
            luma[y, x] = np.uint8(np.rint(total))
    return luma


@compiled
def squared_differences(image: np.ndarray) -> tuple[float, float]:
    """Return the sums of squared horizontal and vertical differences of a uint8 image (H, W)."""
    horizontal, vertical = np.zeros(image.shape[1]), np.zeros(image.shape[1])
    for y in range(image.shape[0]):
        row, right, below = image[y], image[y, 1:], image[min(y + 1, image.shape[0] - 1)]
        for x in range(right.size):
            horizontal[x] += (np.float64(right[x]) - np.float64(row[x])) ** 2
        for x in range(row.size):
            vertical[x] += (np.float64(below[x]) - np.float64(row[x])) ** 2
    return horizontal.sum(), vertical.sum()


@compiled
def gradient_sum(padded: np.ndarray) -> float:
    """Return the sum of sqrt((gx^2 + gy^2) / 2) by central differences of an image with a margin, (H + 2, W + 2)."""
    total = np.zeros(padded.shape[1] - 2)
    for y in range(padded.shape[0] - 2):
        above, below = padded[y, 1:-1], padded[y + 2, 1:-1]
        left, right = padded[y + 1, :-2], padded[y + 1, 2:]
        for x in range(left.size):
            gx, gy = (right[x] - left[x]) / 2, (below[x] - above[x]) / 2
            total[x] += math.sqrt((gx * gx + gy * gy) / 2)
    return total.sum()


# --- Structural similarity -----------------------------------------------------------------------------------------


@compiled
def ssim_uniform(reference: np.ndarray, distorted: np.ndarray, c1: float, c2: float) -> float:
    """Return the mean structural similarity of two uint8 images over the 7x7 windows inside them.

    Sums over a window are whole numbers, so that the variance of flat windows is exactly 0.
    """
    height, width = reference.shape
    columns = np.zeros((5, width))  # sums over 7 rows of r, d, r^2, d^2, r d
    s_r, s_d, s_rr, s_dd, s_rd = columns[0], columns[1], columns[2], columns[3], columns[4]
    box = np.empty((5, width - 6))
    b_r, b_d, b_rr, b_dd, b_rd = box[0], box[1], box[2], box[3], box[4]
    total = np.zeros(width - 6)
    for y in range(height):
        r, d = reference[y], distorted[y]
        if y < 7:
            for x in range(width):
                p, q = np.float64(r[x]), np.float64(d[x])
                s_r[x] += p
                s_d[x] += q
                s_rr[x] += p * p
                s_dd[x] += q * q
                s_rd[x] += p * q
        else:
            r_old, d_old = reference[y - 7], distorted[y - 7]
            for x in range(width):
                p, q = np.float64(r[x]), np.float64(d[x])
                p_old, q_old = np.float64(r_old[x]), np.float64(d_old[x])
                s_r[x] += p - p_old
                s_d[x] += q - q_old
                s_rr[x] += p * p - p_old * p_old
                s_dd[x] += q * q - q_old * q_old
                s_rd[x] += p * q - p_old * q_old
        if y < 6:
            continue
        for i in range(5):
            _sum_of_seven(columns[i], box[i])
        for x in range(b_r.size):
            # Means times 49 and (co)variances times 49 * 48, both exact.
            product = b_r[x] * b_d[x]
            squares = b_r[x] * b_r[x] + b_d[x] * b_d[x]
            covariance = 49 * b_rd[x] - product
            variances = 49 * (b_rr[x] + b_dd[x]) - squares
            top = (2 * product + 2401 * c1) * (2 * covariance + 2352 * c2)
            total[x] += top / ((squares + 2401 * c1) * (variances + 2352 * c2))
    return total.sum() / ((height - 6) * (width - 6))


@inlined
def _sum_of_seven(values: np.ndarray, sums: np.ndarray) -> None:
    for x in range(sums.size):
        sums[x] = (
            (values[x] + values[x + 1])
            + (values[x + 2] + values[x + 3])
            + (values[x + 4] + values[x + 5])
            + values[x + 6]
        )


# --- Visual information fidelity -----------------------------------------------------------------------------------

NOISE = 2.0  # variance of the visual noise
EPS = 1e-10
# Output pixels are computed in tiles that stay in the second-level cache, with a margin for the widest window. A column
# of a tile multiplies 64 factors, each at most 1 + 127.5^2 / 2; the product is below 1e251 and cannot overflow.
_ROWS, _COLUMNS, _MARGIN = 64, 128, 16
_STRIDE = _COLUMNS + _MARGIN
_TILE = (_ROWS + _MARGIN) * _STRIDE
# A tuple of weights is unrolled, so that each length needs its own compilation. Shorter windows are therefore
# zero-padded to the length of the second largest, and `half` is the reach of the window itself.


@inlined
def _fill_tile(image, top, left, rows, columns, margin, tile):
    """Write a part of an image, minus its first pixel, into a tile, `margin` pixels from the tile's corner.

    The subtraction does not change variances and covariances, and makes them exactly 0 if the part is constant.
    """
    origin = np.float64(image[top, left])
    for y in range(rows):
        line = image[top + y, left : left + columns]
        start = (y + margin) * _STRIDE + margin
        out = tile[start : start + columns]
        for x in range(columns):
            out[x] = np.float64(line[x]) - origin


@inlined
def _multiply_tile(tile, other, rows):
    """Multiply a tile by another, element by element and in place."""
    for i in range(rows * _STRIDE):
        tile[i] *= other[i]


@inlined
def _smooth_row(tile, row, weights, column, out):
    """Filter one output row of a tile with a separable window; `weights` run from its centre outwards."""
    half = len(weights) - 1  # a compile-time constant, so that the loops over k are unrolled
    tile = tile[row * _STRIDE : (row + 2 * half + 1) * _STRIDE]
    for x in range(_STRIDE):
        total = weights[0] * tile[half * _STRIDE + x]
        for k in range(1, half + 1):
            total += weights[k] * (tile[(half - k) * _STRIDE + x] + tile[(half + k) * _STRIDE + x])
        column[x] = total
    for x in range(_COLUMNS):
        total = weights[0] * column[half + x]
        for k in range(1, half + 1):
            total += weights[k] * (column[half - k + x] + column[half + k + x])
        out[x] = total


@compiled
def smooth_and_halve(image: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Filter an image with a separable window, only where it fits, and keep every second row and column: float64."""
    half = len(weights) - 1
    height, width = (image.shape[0] - 2 * half + 1) // 2, (image.shape[1] - 2 * half + 1) // 2
    out = np.empty((height, width))
    column = np.empty(2 * (width + half))
    for y in range(height):
        rows = image[2 * y : 2 * y + 2 * half + 1, : column.size]
        for x in range(rows.shape[1]):
            total = weights[0] * rows[half, x]
            for k in range(1, half + 1):
                total += weights[k] * (np.float64(rows[half - k, x]) + np.float64(rows[half + k, x]))
            column[x] = total
        line = out[y]
        for x in range(width):
            total = weights[0] * column[2 * x + half]
            for k in range(1, half + 1):
                total += weights[k] * (column[2 * x + half - k] + column[2 * x + half + k])
            line[x] = total
    return out


@compiled
def vif_source(image: np.ndarray, weights: tuple[float, ...], half: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the local means and variances of a source at one scale, and its sum of log10(1 + variance / noise).

    Means are relative to the first pixel of their tile. Variances below EPS are set to 0.
    """
    full = len(weights) - 1
    height, width = image.shape[0] - 2 * half, image.shape[1] - 2 * half
    mean, variance = np.empty((height, width)), np.empty((height, width))
    tiles = np.zeros((2, _TILE))  # of the image, and of its square
    column, smooth, product = np.empty(_STRIDE), np.empty((2, _COLUMNS)), np.empty(_COLUMNS)
    m, s = smooth[0], smooth[1]
    total = 0.0
    for top in range(0, height, _ROWS):
        rows = min(_ROWS, height - top)
        for left in range(0, width, _COLUMNS):
            columns = min(_COLUMNS, width - left)
            for i in range(2):
                _fill_tile(image, top, left, rows + 2 * half, columns + 2 * half, full - half, tiles[i])
            _multiply_tile(tiles[1], tiles[0], rows + 2 * full)
            product[:] = 1.0
            for y in range(rows):
                for i in range(2):
                    _smooth_row(tiles[i], y, weights, column, smooth[i])
                mean_row = mean[top + y, left : left + columns]
                variance_row = variance[top + y, left : left + columns]
                for x in range(columns):
                    var = max(s[x] - m[x] * m[x], 0.0)
                    var = var if var >= EPS else 0.0
                    mean_row[x] = m[x]
                    variance_row[x] = var
                    product[x] *= 1 + var / NOISE
            for x in range(columns):
                total += math.log10(product[x])
    return mean, variance, total


@compiled
def vif_fused(
    fused: np.ndarray,
    visible: np.ndarray,
    visible_mean: np.ndarray,
    visible_variance: np.ndarray,
    infrared: np.ndarray,
    infrared_mean: np.ndarray,
    infrared_variance: np.ndarray,
    weights: tuple[float, ...],
    half: int,
) -> tuple[float, float]:
    """Return the sums over one scale of log10(1 + g^2 variance / (sv + noise)), for each source."""
    full = len(weights) - 1
    height, width = fused.shape[0] - 2 * half, fused.shape[1] - 2 * half
    images = fused, fused, visible, infrared
    means, variances = (visible_mean, infrared_mean), (visible_variance, infrared_variance)
    tiles = np.zeros((4, _TILE))  # of the fused image, of its square, and of its products with the sources
    column, smooth, products = np.empty(_STRIDE), np.empty((4, _COLUMNS)), np.empty((2, _COLUMNS))
    m, s = smooth[0], smooth[1]
    totals = np.zeros(2)
    for top in range(0, height, _ROWS):
        rows = min(_ROWS, height - top)
        for left in range(0, width, _COLUMNS):
            columns = min(_COLUMNS, width - left)
            for i in range(4):
                _fill_tile(images[i], top, left, rows + 2 * half, columns + 2 * half, full - half, tiles[i])
            for i in range(1, 4):
                _multiply_tile(tiles[i], tiles[0], rows + 2 * full)
            products[:] = 1.0
            for y in range(rows):
                for i in range(4):
                    _smooth_row(tiles[i], y, weights, column, smooth[i])
                row = slice(left, left + columns)
                for x in range(columns):
                    s[x] = max(s[x] - m[x] * m[x], 0.0)
                for i in range(2):
                    _vif_row(m, s, smooth[2 + i], means[i][top + y, row], variances[i][top + y, row], products[i])
            for i in range(2):
                for x in range(columns):
                    totals[i] += math.log10(products[i, x])
    return totals[0], totals[1]


@inlined
def _vif_row(mean, variance, cross, source_mean, source_variance, product):
    """Multiply one row's factors 1 + g^2 variance / (sv + noise) into `product`."""
    for x in range(source_mean.size):
        covariance = cross[x] - source_mean[x] * mean[x]
        g = covariance / (source_variance[x] + EPS)
        # No information is carried over where an image is flat or the two are negatively correlated.
        g = g if g > 0.0 and source_variance[x] >= EPS and variance[x] >= EPS else 0.0
        sv = max(variance[x] - g * covariance, EPS)
        product[x] *= 1 + g * g * source_variance[x] / (sv + NOISE)


# --- Edges (Xydeas and Petrovic) -----------------------------------------------------------------------------------


def _polynomial(
    function: Callable[[np.ndarray], np.ndarray], low: float, high: float, degree: int
) -> tuple[float, ...]:
    """Return the coefficients, constant first, of a near-minimax polynomial for `function` on [low, high]."""
    fit = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return tuple(float(c) for c in fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef)


# atan(t) / t as a polynomial in t^2 for t in 0..1; exp(t) for abs(t) <= 40 as the 64th power of a polynomial in t / 64.
_ATAN = _polynomial(lambda z: np.arctan(np.sqrt(z)) / np.sqrt(z), 1e-12, 1.0, 12)
_EXP = _polynomial(np.exp, -40 / 64, 40 / 64, 8)


@inlined
def _exp(t):
    """Return exp(t) for t in -40..40."""
    u = t * (1 / 64)
    power = _EXP[8]
    for k in range(7, -1, -1):
        power = power * u + _EXP[k]
    power = power * power
    power = power * power
    power = power * power
    power = power * power
    power = power * power
    return power * power


@inlined
def _edge_row(above, here, below, strength, angle):
    """Write a row's squared edge strengths and its edge angles in (-pi/2, pi/2]; rows have a margin of one pixel."""
    for x in range(strength.size):
        a0, a1, a2 = np.float64(above[x]), np.float64(above[x + 1]), np.float64(above[x + 2])
        h0, h2 = np.float64(here[x]), np.float64(here[x + 2])
        b0, b1, b2 = np.float64(below[x]), np.float64(below[x + 1]), np.float64(below[x + 2])
        # Convolution mirrors the Sobel windows: left minus right, bottom minus top.
        sx = (a0 - a2) + 2 * (h0 - h2) + (b0 - b2)
        sy = (b0 - a0) + 2 * (b1 - a1) + (b2 - a2)
        strength[x] = sx * sx + sy * sy
        p, q = abs(sx), abs(sy)
        t = min(p, q) / max(p, q, 1.0)
        z = t * t
        value = _ATAN[12]
        for k in range(11, -1, -1):
            value = value * z + _ATAN[k]
        value *= t
        value = math.pi / 2 - value if q > p else value
        value = -value if sx * sy < 0 else value
        angle[x] = math.pi / 2 if p == 0.0 else value


@compiled
def edge_maps(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the squared edge strength and the edge angle, float64 (H, W), and the sum of strengths of an image.

    `padded` is uint8 (H + 2, W + 2), the image with a margin of zeros.
    """
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    strength, angle = np.empty((height, width)), np.empty((height, width))
    total = np.zeros(width)
    for y in range(height):
        row = strength[y]
        _edge_row(padded[y], padded[y + 1], padded[y + 2], row, angle[y])
        for x in range(width):
            total[x] += math.sqrt(row[x])
    return strength, angle, total.sum()


@inlined
def _edge_quality(strength, angle, fused_strength, fused_angle):
    """Return Xydeas and Petrovic's Q of one pixel, the preservation of a source's edge; strengths are squared."""
    low, high = min(strength, fused_strength), max(strength, fused_strength)
    relative = math.sqrt(strength if low == high else low / max(high, 1.0))
    alignment = 1 - abs(angle - fused_angle) / (math.pi / 2)
    strength_term = _exp(max(-15 * (relative - 0.5), -40.0))
    angle_term = _exp(-22 * (alignment - 0.8))
    return 0.9994 * 0.9879 / ((1 + strength_term) * (1 + angle_term))


@compiled
def edge_preservation(
    padded: np.ndarray,
    visible_strength: np.ndarray,
    visible_angle: np.ndarray,
    infrared_strength: np.ndarray,
    infrared_angle: np.ndarray,
) -> tuple[float, float]:
    """Return the sums of QAF gA + QBF gB, and of (1 - QAF) gA + (1 - QBF) gB where the fused edge is the strongest.

    `padded` is the fused image with a margin of zeros, uint8 (H + 2, W + 2); strengths are squared.
    """
    width = padded.shape[1] - 2
    strength, angle = np.empty(width), np.empty(width)
    kept, added = np.zeros(width), np.zeros(width)
    for y in range(padded.shape[0] - 2):
        _edge_row(padded[y], padded[y + 1], padded[y + 2], strength, angle)
        v_strength, v_angle = visible_strength[y], visible_angle[y]
        i_strength, i_angle = infrared_strength[y], infrared_angle[y]
        for x in range(width):
            g_v, g_i = math.sqrt(v_strength[x]), math.sqrt(i_strength[x])
            q_v = _edge_quality(v_strength[x], v_angle[x], strength[x], angle[x])
            q_i = _edge_quality(i_strength[x], i_angle[x], strength[x], angle[x])
            kept[x] += q_v * g_v + q_i * g_i
            strongest = strength[x] > v_strength[x] and strength[x] > i_strength[x]
            added[x] += (1 - q_v) * g_v + (1 - q_i) * g_i if strongest else 0.0
    return kept.sum(), added.sum()
