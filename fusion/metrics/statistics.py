"""How sure a mean over images is, and whether two methods differ over the same images.

Intervals and tests resample images and assume no distribution. Images where a value is undefined (NaN) are left out.
"""

import math
from collections.abc import Sequence

import numpy as np

_BATCH = 256  # resamples drawn at a time, so that memory does not grow with their number


def bootstrap_mean(
    values: np.ndarray, seed: int = 0, confidence: float = 0.95, samples: int = 10_000
) -> tuple[float, float]:
    """Return the bounds of the percentile bootstrap interval of the mean of `values` (N,), one an image.

    NaN, NaN where fewer than two values are defined: one image says nothing about the spread of images.

    Source: B. Efron and R. J. Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if values.size < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(0, values.size, (count, values.size))].mean(axis=1) for count in _batches(samples)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_test(first: np.ndarray, second: np.ndarray, seed: int = 0, samples: int = 10_000) -> float:
    """Return the two-sided p value that two methods' means differ only by chance, from values (N,) of the same images.

    A permutation test: were the methods alike, each image's difference could as well have the other sign. The share of
    `samples` random choices of signs whose mean difference is at least as large, the observed choice counted among
    them; so p is never below 1 / (samples + 1). NaN where fewer than two images are defined in both.

    Source: R. A. Fisher, The design of experiments, 1935, section 21.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    differences = differences[~np.isnan(differences)]
    if differences.size < 2:
        return math.nan
    observed = abs(differences.sum()) * (1 - 1e-12)  # sums in another order round differently and are still ties
    rng = np.random.default_rng(seed)
    as_large = sum(
        np.count_nonzero(np.abs((2 * rng.integers(0, 2, (count, differences.size)) - 1) @ differences) >= observed)
        for count in _batches(samples)
    )
    return float((as_large + 1) / (samples + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's step-down rule, in the order given.

    NaN stays NaN and does not count.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6, 1979.
    """
    adjusted = [math.nan] * len(values)
    order = sorted((n for n, value in enumerate(values) if not math.isnan(value)), key=lambda n: values[n])
    highest = 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * values[number]))
        adjusted[number] = highest
    return adjusted


def _batches(samples: int) -> list[int]:
    return [min(_BATCH, samples - start) for start in range(0, samples, _BATCH)]
