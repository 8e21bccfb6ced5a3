"""Mutual information within small windows, with a joint distribution built from the two marginal ones (FMI)."""

import math

import numpy as np

from pipeline.compiled import announce, compiled, inlined

announce(__name__, "the kernel of FMI", 5)

_SIDE = 3
_COUNT = _SIDE * _SIDE


@inlined
def _distribution(image, top, left, shares, logs):
    """Write a window's shares and their logarithms, column by column.

    Returns mean, variance and entropy of the place, and whether the window is constant; its shares are then all equal.
    """
    low, high = image[top, left], image[top, left]
    total = 0.0
    for place in range(_COUNT):
        value = image[top + place % _SIDE, left + place // _SIDE]
        shares[place] = value
        low, high = min(low, value), max(high, value)
        total += value
    constant = low == high
    total -= _COUNT * low
    mean, square, entropy = 0.0, 0.0, 0.0
    for place in range(_COUNT):
        share = 1 / _COUNT if constant else (shares[place] - low) / total
        log = math.log(share) if share > 0 else 0.0
        shares[place], logs[place] = share, log
        mean += place * share
        square += place * place * share
        entropy -= share * log
    return mean, max(square - mean * mean, 0.0), entropy, constant


@inlined
def _correlation(first, second):
    """Return Pearson's correlation of two windows' shares, whose means are 1 / 9; 0 if one is constant."""
    xx, yy, xy = 0.0, 0.0, 0.0
    for place in range(_COUNT):
        x, y = first[place] - 1 / _COUNT, second[place] - 1 / _COUNT
        xx += x * x
        yy += y * y
        xy += x * y
    return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else 0.0


@inlined
def _information(p, p_logs, p_facts, q, q_logs, q_facts, masses, places):
    """Return 2 I / (H + H) for the place distributions of two windows; see `extra.fmi_pixel`."""
    if p_facts[3] and q_facts[3]:
        return 1.0
    entropies = p_facts[2] + q_facts[2]
    if entropies == 0.0:
        return 1.0
    correlation = _correlation(p, q)
    if correlation == 0.0:
        return 0.0
    # Negatively correlated distributions are positively correlated after one is reversed.
    last = 0 if correlation > 0 else _COUNT - 1
    q_mean = q_facts[0] if correlation > 0 else _COUNT - 1 - q_facts[0]
    # The joint distribution with the largest covariance has its mass on a staircase from corner to corner.
    i, j, steps, product = 0, 0, 0, 0.0
    rest_p, rest_q = p[0], q[last]
    while True:
        mass = min(rest_p, rest_q)
        masses[steps] = mass
        places[steps, 0], places[steps, 1] = i, abs(last - j)
        product += mass * i * j
        steps += 1
        if rest_p <= rest_q:
            i += 1
            if i == _COUNT:
                break
            rest_q -= rest_p
            rest_p = p[i]
        else:
            j += 1
            if j == _COUNT:
                break
            rest_p -= rest_q
            rest_q = q[abs(last - j)]
    covariance = product - p_facts[0] * q_mean
    if covariance <= 0.0:
        return 0.0
    share = min(abs(correlation) * math.sqrt(p_facts[1] * q_facts[1]) / covariance, 1.0)
    # The entropy of share * staircase + (1 - share) * p q: first as if no cell were on the staircase, then corrected
    # for the cells that are.
    other = 1 - share
    log_other = math.log(other) if other > 0 else 0.0
    joint = other * (entropies - log_other)
    for step in range(steps):
        x, y = places[step, 0], places[step, 1]
        independent = other * p[x] * q[y]
        cell = share * masses[step] + independent
        if independent > 0:
            joint += independent * (log_other + p_logs[x] + q_logs[y])
        if cell > 0:
            joint -= cell * math.log(cell)
    return 2 * (entropies - joint) / entropies


@compiled
def feature_information(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray) -> float:
    """Return the mean of 2 I / (H + H) over all 3x3 windows and both sources, for features float64 (H, W)."""
    height, width = fused.shape[0] - _SIDE + 1, fused.shape[1] - _SIDE + 1
    shares, logs = np.empty((3, _COUNT)), np.empty((3, _COUNT))
    masses, places = np.empty(2 * _COUNT), np.empty((2 * _COUNT, 2), np.int64)
    total = 0.0
    for top in range(height):
        row = 0.0
        for left in range(width):
            v = _distribution(visible, top, left, shares[0], logs[0])
            i = _distribution(infrared, top, left, shares[1], logs[1])
            f = _distribution(fused, top, left, shares[2], logs[2])
            row += _information(shares[0], logs[0], v, shares[2], logs[2], f, masses, places)
            row += _information(shares[1], logs[1], i, shares[2], logs[2], f, masses, places)
        total += row
    return total / (2 * height * width)
