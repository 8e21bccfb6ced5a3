"""Compiled Fourier transforms of tiles of 32 x 32 pixels with 32 complex numbers per pixel.

A pixel is 64 float32, first all real parts and then all imaginary parts. Two real channels therefore form one complex
channel without being moved, and every step of a transform is a loop over 32 contiguous values, which the compiler
vectorises. A row or a column of 32 pixels is transformed as 4 x 8 in two passes. The first computes radix-4 butterflies
of pixels that are eight apart and multiplies the results by twiddle factors; the second computes radix-8 butterflies.
The first pass writes its results to a buffer, the argument `line`, from which the second pass reads.

Rows and columns are slices of flat arrays, and the distances between pixels are compile-time constants. Otherwise the
compiler could not prove that reads and writes do not overlap.
"""

from collections.abc import Callable

import numba
import numpy as np

from pipeline.compiled import INLINED

SIDE = 32  # side of a tile, in pixels or frequencies
PAIRS = 32  # complex numbers per pixel
POINT = 2 * PAIRS  # floats per pixel
LINE = SIDE * POINT  # floats of the 32 pixels of a row or a column
# Floats from row to row of a tile. With a power of two, all pixels of a column would map to the same few cache sets.
ROW = LINE + POINT

_ANGLES = -2 * np.pi * np.outer(range(8), range(4)) / SIDE
_COS, _SIN = np.cos(_ANGLES).astype(np.float32), np.sin(_ANGLES).astype(np.float32)
_HALF_ROOT = np.float32(np.sqrt(0.5))
# Typed numbers, because numba would compile a function again for each value of a Python number.
START, ALL, _HALF = np.int64(0), np.int64(PAIRS), np.int64(PAIRS // 2)


# Sums may be reordered.
ANY_ORDER = {"nogil": True, "fastmath": {"contract", "nsz", "reassoc"}, "error_model": "numpy"}
inlined = numba.njit(**INLINED, **ANY_ORDER)  # see `pipeline.compiled.inlined`
# For functions that mostly call others: numba expands them in the caller instead of also compiling them separately,
# which would double their compile time.
expanded = numba.njit(inline="always", **ANY_ORDER)


@inlined
def _rotate(re, im, j, k):
    """Multiply by e^{-2 pi i j k / 32}."""
    return re * _COS[j, k] - im * _SIN[j, k], re * _SIN[j, k] + im * _COS[j, k]


def _fours(step: int, padded: bool) -> Callable:
    """Return the first pass (radix 4) of a transform of a row or column; it reads a tile and writes the buffer `line`.

    The pass transforms the first `numbers` complex numbers of each pixel and does not change the others.

    Args:
        step: floats between the pixels that are read, POINT for a row and ROW for a column.
        padded: whether the last eight pixels are taken as zeros and not read.
    """
    far = 8 * step

    @inlined
    def fours(source, at, line, numbers):
        for j in range(8):
            x = source[at + j * step : at + j * step + (2 if padded else 3) * far + POINT]
            o = line[j * POINT :]
            for c in range(numbers):
                a, a_im, b, b_im = x[c], x[c + PAIRS], x[c + far], x[c + far + PAIRS]
                e, e_im = x[c + 2 * far], x[c + 2 * far + PAIRS]
                s, s_im, d, d_im = b, b_im, b, b_im
                if not padded:
                    f, f_im = x[c + 3 * far], x[c + 3 * far + PAIRS]
                    s, s_im, d, d_im = b + f, b_im + f_im, b - f, b_im - f_im
                p, p_im, q, q_im = a + e, a_im + e_im, a - e, a_im - e_im
                o[c], o[c + PAIRS] = p + s, p_im + s_im
                o[c + 8 * POINT], o[c + 8 * POINT + PAIRS] = _rotate(q + d_im, q_im - d, j, 1)
                o[c + 16 * POINT], o[c + 16 * POINT + PAIRS] = _rotate(p - s, p_im - s_im, j, 2)
                o[c + 24 * POINT], o[c + 24 * POINT + PAIRS] = _rotate(q - d_im, q_im + d, j, 3)

    return fours


def _eights(step: int, cut: bool) -> Callable:
    """Return the second pass (radix 8) of a transform of a row or column; it reads `line` and writes to a tile.

    Args:
        step: floats between the pixels that are written, POINT for a row and ROW for a column.
        cut: whether the last eight pixels are left out.
    """
    far = 4 * step

    @inlined
    def eights(line, target, at, numbers):
        for k in range(4):
            x = line[8 * k * POINT : 8 * (k + 1) * POINT]
            o = target[at + k * step : at + k * step + (5 if cut else 7) * far + POINT]
            for c in range(numbers):
                # The even four, e0..e3.
                a, a_im, b, b_im = x[c], x[c + PAIRS], x[c + 4 * POINT], x[c + 4 * POINT + PAIRS]
                d, d_im = x[c + 2 * POINT], x[c + 2 * POINT + PAIRS]
                f, f_im = x[c + 6 * POINT], x[c + 6 * POINT + PAIRS]
                p, p_im, q, q_im = a + b, a_im + b_im, a - b, a_im - b_im
                r, r_im, s, s_im = d + f, d_im + f_im, d - f, d_im - f_im
                e0, e0_im, e2, e2_im = p + r, p_im + r_im, p - r, p_im - r_im
                e1, e1_im, e3, e3_im = q + s_im, q_im - s, q - s_im, q_im + s
                # The odd four times e^{-2 pi i n / 8}, o0..o3.
                a, a_im, b, b_im = x[c + POINT], x[c + POINT + PAIRS], x[c + 5 * POINT], x[c + 5 * POINT + PAIRS]
                d, d_im = x[c + 3 * POINT], x[c + 3 * POINT + PAIRS]
                f, f_im = x[c + 7 * POINT], x[c + 7 * POINT + PAIRS]
                p, p_im, q, q_im = a + b, a_im + b_im, a - b, a_im - b_im
                r, r_im, s, s_im = d + f, d_im + f_im, d - f, d_im - f_im
                o0, o0_im, o2, o2_im = p + r, p_im + r_im, p_im - r_im, r - p
                g, g_im, h, h_im = q + s_im, q_im - s, q - s_im, q_im + s
                o1, o1_im = _HALF_ROOT * (g + g_im), _HALF_ROOT * (g_im - g)
                o3, o3_im = _HALF_ROOT * (h_im - h), -_HALF_ROOT * (h + h_im)
                o[c], o[c + PAIRS] = e0 + o0, e0_im + o0_im
                o[c + far], o[c + far + PAIRS] = e1 + o1, e1_im + o1_im
                o[c + 2 * far], o[c + 2 * far + PAIRS] = e2 + o2, e2_im + o2_im
                o[c + 3 * far], o[c + 3 * far + PAIRS] = e3 + o3, e3_im + o3_im
                o[c + 4 * far], o[c + 4 * far + PAIRS] = e0 - o0, e0_im - o0_im
                o[c + 5 * far], o[c + 5 * far + PAIRS] = e1 - o1, e1_im - o1_im
                if not cut:
                    o[c + 6 * far], o[c + 6 * far + PAIRS] = e2 - o2, e2_im - o2_im
                    o[c + 7 * far], o[c + 7 * far + PAIRS] = e3 - o3, e3_im - o3_im

    return eights


# Both passes, for rows and for columns of a tile. A column that was copied to contiguous memory is treated as a row.
fours_of_row, fours_of_padded_row = _fours(POINT, False), _fours(POINT, True)
fours_of_column, fours_of_padded_column = _fours(ROW, False), _fours(ROW, True)
eights_to_row, eights_to_cut_row = _eights(POINT, False), _eights(POINT, True)
eights_to_column, eights_to_cut_column = _eights(ROW, False), _eights(ROW, True)


@expanded
def transform_rows(tile, line, numbers):
    """Transform the rows of a tile in place; in every pixel, complex numbers after the first `numbers` must be 0."""
    for first in range(0, numbers, _HALF):
        for y in range(SIDE):
            fours_of_row(tile, y * ROW + first, line, _HALF)
            eights_to_row(line, tile, y * ROW + first, _HALF)


@expanded
def transform_column(tile, x, line, numbers):
    """Transform a column of a tile in place, under the same condition as `transform_rows`."""
    for first in range(0, numbers, _HALF):
        fours_of_column(tile, x * POINT + first, line, _HALF)
        eights_to_column(line, tile, x * POINT + first, _HALF)
