"""What lies between the convolutions of the fast path on a CPU, compiled: one pass each over cache-sized strips.

Arrays are float32, or bfloat16 as uint16; all arithmetic is float32. Each pass runs on one thread without the
interpreter's lock. Loops read rows as slices, so that the compiler does several values at once.
"""

import math

import numpy as np
from numba.extending import overload

from fusion.metrics.kernels import compiled
from fusion.networks.lzsc import ALPHA, GAMMA, KERNEL

HALF = KERNEL // 2
_SPAN = 1024  # values summed side by side, few enough for the nearest cache
_ALPHA, _GAMMA = np.float32(ALPHA), np.float32(GAMMA)


# --- bfloat16 ------------------------------------------------------------------------------------------------------


def _load(value):
    """Return a value as float32; chosen by type when compiled."""
    raise NotImplementedError


@overload(_load)
def _load_by_type(value):
    if value.name == "uint16":
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


def _stored(value, out):
    """Return a float32 value as an element of `out`, rounded to nearest even where that is bfloat16."""
    raise NotImplementedError


@overload(_stored)
def _stored_by_type(value, out):
    if out.dtype.name != "uint16":
        return lambda value, out: value

    def rounded(value, out):
        bits = np.float32(value).view(np.uint32)
        even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return np.uint16((bits + even) >> np.uint32(16))

    return rounded


# --- The threshold -------------------------------------------------------------------------------------------------

_LOG2_E = np.float32(math.log2(math.e))
_LN2_HIGH = np.float32(0.693359375)  # few bits, so that its products with small whole numbers are exact
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
# e^t - 1 - t over t^2 on abs(t) <= ln(2) / 2.
_FIT = np.polynomial.Chebyshev.interpolate(
    lambda t: np.where(abs(t) < 1e-4, 0.5 + t / 6, (np.expm1(t) - t) / np.where(t == 0, 1, t) ** 2), 5, [-0.35, 0.35]
)
_E0, _E1, _E2, _E3, _E4, _E5 = (np.float32(c) for c in _FIT.convert(kind=np.polynomial.Polynomial).coef)


@compiled
def _gate(magnitude, theta):
    """Return 1 / (1 + e^{-gamma (magnitude - theta)}), exact to float32's rounding."""
    # Beyond 60 the gate is 0 or 1 to float32, and larger exponents would slow the arithmetic by denormal numbers.
    t = min(max(_GAMMA * (theta - magnitude), np.float32(-60)), np.float32(60))
    whole = np.floor(t * _LOG2_E + np.float32(0.5))
    t = t - whole * _LN2_HIGH
    t = t - whole * _LN2_LOW
    p = ((((_E5 * t + _E4) * t + _E3) * t + _E2) * t + _E1) * t + _E0
    power = np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
    return np.float32(1) / (np.float32(1) + power * (p * t * t + t + np.float32(1)))


@compiled
def _sign(value):
    return np.float32(value > 0) - np.float32(value < 0)


@compiled
def activate(convolved, before, before_last, ahead, back, theta, out, kept):
    """Write u = T(v; theta), v = convolved + ahead before + back before_last; rows of a strip, (rows, width 64) each.

    `kept` takes v, float32, or is None.
    """
    for y in range(out.shape[0]):
        c, p, q, o = convolved[y], before[y], before_last[y], out[y]
        if kept is not None:
            k = kept[y]
        for x in range(o.size):
            v = _load(c[x]) + ahead * _load(p[x]) + back * _load(q[x])
            if kept is not None:
                k[x] = v
            o[x] = _stored((v - _ALPHA * theta * _sign(v)) * _gate(abs(v), theta), o)


@compiled
def activate_backward(convolved, after, after_next, ahead, back, v, theta, before, before_last, out):
    """Write the gradient of v, from that of u = T(v; theta), which is convolved + ahead after + back after_next.

    Returns:
        The strip's sums for three gradients: theta's, and those of the factors of `before` and `before_last` in v.
    """
    sums = np.zeros((3, _SPAN), np.float32)
    by_theta, by_ahead, by_back = sums[0], sums[1], sums[2]
    for y in range(out.shape[0]):
        for start in range(0, out.shape[1], _SPAN):
            span = slice(start, start + _SPAN)
            c, p, q, w, o = convolved[y, span], after[y, span], after_next[y, span], v[y, span], out[y, span]
            b, d = before[y, span], before_last[y, span]
            for x in range(o.size):
                g = _load(c[x]) + ahead * _load(p[x]) + back * _load(q[x])
                sign, magnitude = _sign(w[x]), abs(w[x])
                gate = _gate(magnitude, theta)
                slope = (magnitude - _ALPHA * theta) * _GAMMA * gate * (np.float32(1) - gate)
                by_theta[x] -= g * sign * (_ALPHA * gate + slope)
                g = g * sign * sign * (gate + slope)
                by_ahead[x] += g * _load(b[x])
                by_back[x] += g * _load(d[x])
                o[x] = _stored(g, o)
    return sums.sum(axis=1)


# --- Sums of shifted maps ------------------------------------------------------------------------------------------


@compiled
def _put(row, start, out):
    """Write columns of `row`, (width, maps), to `out`, (width, channels)."""
    for x in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[x, j] = _stored(row[x, start + j], out)


@compiled
def sum_shifted(products, groups, first, second, third):
    """Complete a 9x9 convolution of which only the vertical part was done, see `strips.unfolded`; outside is zero.

    Map j of m at (y, x) is the sum over row shifts b < groups and column shifts d = -4..4 of
    products[y + b, x + d, (9 b + 4 - d) m + j]. With this order, what a pixel adds to a row lies side by side.

    Args:
        products: (rows + groups - 1, width, at least 9 groups m).
        groups: 1 or 3.
        first, second, third: take the maps in this order, (rows, width, channels) each, possibly none.
    """
    width, maps = products.shape[1], first.shape[2] + second.shape[2] + third.shape[2]
    row, count = np.empty((width + 2 * HALF) * maps, np.float32), KERNEL * maps
    for y in range(first.shape[0]):
        row[:] = np.float32(0)
        if groups == 1:
            for x in range(width):
                sums, terms = row[x * maps : x * maps + count], products[y, x, :count]
                for i in range(sums.size):
                    sums[i] += _load(terms[i])
        else:
            for x in range(width):
                sums, one = row[x * maps : x * maps + count], products[y, x, :count]
                two, three = products[y + 1, x, count : 2 * count], products[y + 2, x, 2 * count : 3 * count]
                for i in range(sums.size):
                    sums[i] += _load(one[i]) + _load(two[i]) + _load(three[i])
        inside = row[HALF * maps : -HALF * maps].reshape(width, maps)
        _put(inside, 0, first[y])
        _put(inside, first.shape[2], second[y])
        _put(inside, first.shape[2] + second.shape[2], third[y])
