"""Confidence intervals of a mean over images, and paired tests of two methods on the same images.

Intervals and tests resample scenes and assume no distribution. A scene is the unit that was sampled into the test set:
a single image if images were sampled one by one, a recorded sequence if its frames were sampled together. Resampling
such frames one by one would treat them as independent: intervals would be too short and p values too small. Images with
an undefined value (NaN) are left out.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

_BATCH = 256  # resamples drawn at a time, so that memory does not grow with their number


def bootstrap_mean(
    values: np.ndarray,
    seed: int = 0,
    confidence: float = 0.95,
    samples: int = 10_000,
    scene: np.ndarray | None = None,
) -> tuple[float, float]:
    """Return the bounds of the percentile bootstrap interval of the mean of `values` (N,), one value per image.

    NaN, NaN if fewer than two values are defined, because one image gives no information about the spread.

    Args:
        values: (N,) one value per image.
        seed: seed of the draws.
        confidence: confidence level of the interval.
        samples: number of draws.
        scene: (N,) the scene of each image; whole scenes are then drawn, the mean is over the drawn images, and the
            interval is computed by `interval`. By default images are drawn one by one.

    Source: B. Efron and R. J. Tibshirani, An introduction to the bootstrap, 1993, chapter 13.
    """
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    values = values[defined]
    if scene is not None:
        index = np.unique(np.asarray(scene)[defined], return_inverse=True)[1].ravel()
        sums, images = np.bincount(index, values), np.bincount(index)
        weights = draw_scenes(len(images), samples, seed)
        means = np.divide(weights @ sums, weights @ images, out=np.full(samples, np.nan), where=weights @ images > 0)
        return interval(means, effective_number(images), confidence)
    if values.size < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(0, values.size, (count, values.size))].mean(axis=1) for count in _batches(samples)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@lru_cache(maxsize=1)  # a table uses the same draws for every method and metric
def draw_scenes(scenes: int, samples: int, seed: int) -> np.ndarray:
    """Return the count of each scene in `samples` bootstrap draws of `scenes` scenes, (samples, scenes); read-only."""
    drawn = np.zeros((samples, scenes))
    if scenes:
        drawn += np.random.default_rng([seed, 0]).multinomial(scenes, np.full(scenes, 1 / scenes), size=samples)
    drawn.setflags(write=False)
    return drawn


@lru_cache(maxsize=1)
def _draw_signs(units: int, samples: int, seed: int) -> np.ndarray:
    """Return `samples` random choices of a sign, 0 or 1, for each unit: int8 (samples, units), read-only."""
    rng = np.random.default_rng(seed)
    signs = np.concatenate([rng.integers(0, 2, (count, units)).astype(np.int8) for count in _batches(samples)])
    signs.setflags(write=False)
    return signs


def effective_number(sizes: np.ndarray) -> float:
    """Return the effective number of scenes of these `sizes`: (sum n)^2 / sum n^2, 0 without scenes.

    Source: L. Kish, Survey sampling, 1965, section 11.7, for weights.
    """
    sizes = np.asarray(sizes, np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0


def interval(
    drawn: np.ndarray, scenes: float, confidence: float = 0.95, measured: float | None = None
) -> tuple[float, float]:
    """Return the bounds of the expanded percentile interval of bootstrap draws; undefined draws are left out.

    A percentile interval is too short, by a factor of about sqrt((n - 1) / n) and because it uses normal quantiles
    instead of those of t(n - 1). Its percentiles are therefore moved outwards, to those of the normal distribution at
    sqrt(n / (n - 1)) t(n - 1). If `measured` is given, they are also shifted against the bias, by twice the normal
    quantile of the share of draws below it.

    Args:
        drawn: the statistic of each draw.
        scenes: n, the (effective) number of scenes that are drawn from. The result is NaN, NaN below 1.5, which gives
            no information about the spread.
        confidence: confidence level of the interval.
        measured: the statistic itself, if it may be biased, as average precision is; a mean is not.

    Sources: T. C. Hesterberg, What teachers should know about the bootstrap, The American Statistician 69, 2015;
    B. Efron and R. J. Tibshirani, An introduction to the bootstrap, 1993, section 14.3, without acceleration (bias).
    """
    drawn = drawn[~np.isnan(drawn)]
    if drawn.size < 2 or scenes < 1.5:
        return math.nan, math.nan
    bias = 0.0
    if measured is not None:
        below = (drawn < measured).sum() + (drawn == measured).sum() / 2
        bias = 2 * stats.norm.ppf((below + 0.5) / (drawn.size + 1))
    outer = math.sqrt(scenes / (scenes - 1)) * stats.t.isf((1 - confidence) / 2, scenes - 1)
    low, high = np.quantile(drawn, stats.norm.cdf([bias - outer, bias + outer]))
    return float(low), float(high)


def paired_test(
    first: np.ndarray,
    second: np.ndarray,
    seed: int = 0,
    samples: int = 10_000,
    scene: np.ndarray | None = None,
) -> float:
    """Return the two-sided p value of a paired test of two methods' means, from values (N,) on the same images.

    This is a sign-flip permutation test. If the methods are equally good, the difference in each image is equally
    likely to have the opposite sign; if `scene` (N,) gives each image's scene, all differences of a scene change sign
    together. p is the share of `samples` random choices of signs whose mean difference is at least as large as the
    observed one, which is counted as one of the choices; p is therefore never below 1 / (samples + 1). NaN if fewer
    than two images (or scenes) are defined in both methods.

    Source: R. A. Fisher, The design of experiments, 1935, section 21.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    defined = ~np.isnan(differences)
    differences = differences[defined]
    if scene is not None:
        index = np.unique(np.asarray(scene)[defined], return_inverse=True)[1].ravel()
        differences = np.bincount(index, differences)
    if differences.size < 2:
        return math.nan
    observed = abs(differences.sum()) * (1 - 1e-12)  # ties remain ties although sums in another order round differently
    signs = _draw_signs(differences.size, samples, seed)
    as_large = sum(
        np.count_nonzero(np.abs((2.0 * signs[start : start + _BATCH] - 1) @ differences) >= observed)
        for start in range(0, samples, _BATCH)
    )
    return float((as_large + 1) / (samples + 1))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for multiple testing by Holm's step-down procedure, in the order given.

    NaN stays NaN and does not count as a test.

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
