"""Paired tests of differences in average precision between variants, over test scenes and over training seeds.

There are two separate statements.

*These trained detectors differ.* This is a sign-flip test. The null hypothesis is that the two detectors are
exchangeable: in each scene, their detections could be exchanged without changing their joint distribution. Exchanging
them flips the sign of the scene's contribution to the difference (`detection.accumulation.scene_parts`). The observed
sum over scenes is therefore compared with the sums under random sign flips, one sign for each scene and the same signs
for all pairs of variants. Comparing each statistic with the distribution of the maximum over all pairs gives p values
that control the family-wise error rate (maxT, step-down). The test assumes that scenes are independent and that, if the
detectors do not differ, the contribution of a scene is distributed symmetrically about 0; it assumes no particular
distribution. The statement is about these trained detectors (variance between trainings not included): with other seeds
it may be different.

*The methods differ.* With at least three seeds, the variance between trainings can be estimated as well. It is assumed
to be equal for all trained variants, pooled over them, and added to the variance between scenes. The difference is
compared with a t distribution. The statement is made only if the first one holds as well.

Neither statement is made from few scenes (`LEAST_SCENES`, `LEAST_EFFECTIVE`), because the tests then exceed their
nominal level. `benchmarks/verdict_calibration.py` measures the levels of both statements.

Sources: R. A. Fisher, The design of experiments, 1935, section 21 (sign-flip test); P. H. Westfall and S. S. Young,
Resampling-based multiple testing, 1993, algorithm 4.1 (step-down maxT); S. Holm, A simple sequentially rejective
multiple test procedure, 1979; F. E. Satterthwaite, An approximate distribution of estimates of variance components,
1946; B. Efron, The jackknife, the bootstrap and other resampling plans, 1982, chapter 6 (infinitesimal jackknife);
R. L. Berger, Multiparameter hypothesis testing and acceptance sampling, 1982 (intersection-union test: better than both
bands).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from detection.accumulation import Matches, scene_parts
from detection.inside import INSIDE
from fusion.metrics.statistics import effective_number, holm

LEVEL = 0.05  # of each family of differences, two-sided
LEAST_SCENES = 12  # minimum number of scenes with boxes
# Minimum effective number of scenes (Kish): the number of scenes of equal size that would give the same variance.
LEAST_EFFECTIVE = 8.0
LEAST_SEEDS = 3  # minimum number of seeds for a statement about methods
_BATCH = 2000  # sign flips computed at once, which bounds the memory


@dataclass(frozen=True)
class TrainingVariance:
    """The variance between the seeds of one recipe, pooled over the trained variants.

    Attributes:
        total: variance of AP between seeds, after removal of the seed effect that is common to all variants.
        interaction: the part of `total` that is due to the finite test set: detectors of different seeds differ by
            chance in each scene, and with few scenes these differences do not average out.
        df: degrees of freedom of `total`, (S - 1)(V - 1).
        seeds: S.
        deviations: standard deviation of the AP of each trained variant over its seeds, as a check of the assumption
            that the variance is equal for all variants.
    """

    total: float
    interaction: float
    df: int
    seeds: int
    deviations: dict[str, float]

    @property
    def training(self) -> float:
        """The variance that training adds, `total` less `interaction`, at least 0."""
        return max(0.0, self.total - self.interaction)


def split_by_scene(
    matches: Mapping[str, Sequence[Sequence[Matches]]], scene: np.ndarray, scenes: int
) -> dict[str, np.ndarray]:
    """Return the contributions of the scenes to AP, (S seeds, K classes, G scenes) for each variant.

    They are NaN for a class without boxes.

    Args:
        matches: for each variant and each of its seeds, the matches of every class.
        scene: (N,) index of the scene of each image.
        scenes: G.
    """
    return {
        variant: np.array([[scene_parts(one, scene, scenes) for one in classes] for classes in runs])
        for variant, runs in matches.items()
    }


def too_few_scenes(boxes: np.ndarray) -> str:
    """Return why there are too few scenes for a test, or an empty text if there are enough.

    Args:
        boxes: (K, G) number of boxes of each class in each scene.
    """
    sizes = boxes.sum(axis=0)
    number, effective = int((sizes > 0).sum()), effective_number(sizes)
    if number < LEAST_SCENES:
        return f"{number} scenes have boxes; a test needs at least {LEAST_SCENES}"
    if effective < LEAST_EFFECTIVE:
        return (
            f"{number} scenes have boxes, but their effective number is only {effective:.1f}; a test needs an "
            f"effective number of at least {LEAST_EFFECTIVE:g}"
        )
    return ""


def compare(
    parts: Mapping[str, np.ndarray],
    boxes: np.ndarray,
    bands: Sequence[str] = ("visible", "infrared"),
    untrained: Sequence[str] = ("late",),
    inside: Sequence[str] = INSIDE,
    external: Sequence[str] = (),
    swaps: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare AP, averaged over the classes, between every two variants.

    The comparison of each variant that is not a band with the single bands is confirmatory. A variant is `ahead` if its
    AP is higher than the AP of *both* bands (the larger of the two one-sided p values, Holm over the variants), and
    `behind` if its AP is lower than the AP of *at least one* band (one-sided tests, Holm over variants and bands).
    `ahead` and `behind` are each tested at LEVEL / 2.

    The comparison with fusion inside or after the detector is confirmatory as well, and follows the same rule: a
    variant is `ahead` if its AP is higher than the AP of every variant of `inside` and `untrained` that was run. All
    other pairs are exploratory.

    Variants of `inside` are compared with the bands in a family of their own, and the variance between trainings
    includes them only for pairs that contain one of them. The comparison of all other variants with the bands is
    therefore the same whether variants of `inside` were run or not.

    Args:
        parts: from `split_by_scene`.
        boxes: (K, G) boxes of each class in each scene.
        bands: variants that are single bands; those that were not run are left out.
        untrained: variants that were not trained themselves, so that they have no variance between trainings.
        inside: variants whose detectors take both bands; those that were not run are left out.
        external: variants whose detections were made elsewhere. Their variance between trainings is unknown, so they
            are left out of the pooled variance, and there is no statement about methods for their pairs.
        swaps: number of random sign flips.
        seed: seed of the sign flips.

    Returns:
        A dictionary; values that are not tested or estimated are NaN.

        - `untested`: the reason why no test is made, or empty.
        - `scenes` with boxes, `scenes_effective`.
        - `training`: the values of a TrainingVariance, for pairs without a variant of `inside`; None with too few
          seeds.
        - `comparisons`: for every pair, `first`, `second`, `difference`, `confirmatory` (exactly one of the two is a
          band, or exactly one is in `inside` or `untrained`), `p_trained` and `p_methods` (adjusted for the family),
          `trained_differ`, `methods_differ`, and `methods_low` and `methods_high`, the bounds of the 95 % t interval of
          the difference of the methods (not adjusted for the number of pairs).
        - `against_bands`: for every variant that is not a band, for `trained` and `methods`: `p_ahead`, `p_behind`
          (adjusted) and `verdict`, one of `ahead`, `behind` and `not shown`.
        - `against_inside`: the same for every variant that is neither a band nor in `inside` or `untrained`, compared
          with the variants of `inside` and `untrained`.
        - `inside`: the names of the variants of `inside` and `untrained` that were run.
    """
    names = list(parts)
    rivals = [name for name in names if name in (*inside, *untrained)]
    values = np.stack([np.asarray(part, np.float64) for part in parts.values()])[:, :, boxes.any(axis=1)]
    effective, untested = effective_number(boxes.sum(axis=0)), too_few_scenes(boxes)
    pairs = list(combinations(range(len(names)), 2))
    difference = np.array([values[i].sum() - values[j].sum() for i, j in pairs])
    difference /= max(values.shape[1] * values.shape[2], 1)
    p_trained, p_methods, above, below, methods_above, methods_below, error, df = np.full((8, len(pairs)), np.nan)
    training = None
    trained = [n for n, name in enumerate(names) if name not in (*untrained, *external)]
    if pairs and not untested:
        by_seed = values.mean(axis=2)
        p_trained, above, below = swap_test(by_seed.mean(axis=1), pairs, swaps, seed)
        if values.shape[1] >= LEAST_SEEDS and len(trained) > 1:
            shares = boxes[boxes.any(axis=1)]
            shares = shares / shares.sum(axis=1, keepdims=True)
            # Only variants whose detector takes a single image, so that variants that fuse inside the detector do not
            # change the results of the others.
            of_image = [n for n in trained if names[n] not in inside]
            training = training_variance([names[n] for n in of_image], by_seed[of_image], shares.mean(axis=0))
            by_class = values.mean(axis=1)
            by_scenes = np.array([scene_variance(by_class[i] - by_class[j], shares) for i, j in pairs])
            by_scenes[[names[i] in external or names[j] in external for i, j in pairs]] = np.nan
            error, df = _standard_error(by_scenes, effective, training)
            if of_image != trained:
                wider = training_variance([names[n] for n in trained], by_seed[trained], shares.mean(axis=0))
                with_inside = np.array([names[i] in inside or names[j] in inside for i, j in pairs])
                wider_error, wider_df = _standard_error(by_scenes, effective, wider)
                error, df = np.where(with_inside, wider_error, error), np.where(with_inside, wider_df, df)
            statistic = np.divide(difference, error, out=np.zeros(len(pairs)), where=error != 0)
            p_methods = np.maximum(holm((2 * stats.t.sf(np.abs(statistic), df)).tolist()), p_trained)
            methods_above, methods_below = stats.t.sf(statistic, df), stats.t.sf(-statistic, df)
    margin = stats.t.isf(LEVEL / 2, df) * error
    comparisons = [
        {
            "first": names[i],
            "second": names[j],
            "difference": float(difference[n]),
            "confirmatory": (names[i] in bands) != (names[j] in bands) or (names[i] in rivals) != (names[j] in rivals),
            "p_trained": float(p_trained[n]),
            "trained_differ": bool(p_trained[n] < LEVEL),
            "p_methods": float(p_methods[n]),
            "methods_differ": bool(p_methods[n] < LEVEL),
            "methods_low": float(difference[n] - margin[n]),
            "methods_high": float(difference[n] + margin[n]),
        }
        for n, (i, j) in enumerate(pairs)
    ]
    one_sided = _one_sided(len(names), pairs, above, below)
    p_values = {
        "trained": one_sided,
        "methods": np.maximum(one_sided, _one_sided(len(names), pairs, methods_above, methods_below)),
    }
    fused = [name for name in names if name not in bands and name not in rivals]
    own_family = [name for name in names if name in inside]
    not_inside = [name for name in names if name not in bands and name not in inside]
    return {
        "untested": untested,
        "scenes": int((boxes.sum(axis=0) > 0).sum()),
        "scenes_effective": effective,
        "training": None if training is None else {**vars(training), "training": training.training},
        "comparisons": comparisons,
        "against_bands": _verdicts(names, not_inside, bands, p_values) | _verdicts(names, own_family, bands, p_values),
        "inside": rivals,
        "against_inside": _verdicts(names, fused, rivals, p_values),
    }


def swap_test(
    parts: np.ndarray, pairs: Sequence[tuple[int, int]], swaps: int = 10_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test the difference between every pair of rows of `parts` (V, G) by random sign flips, one sign per scene.

    The statistic of a pair is the sum of its differences over the scenes, divided by the root of the sum of their
    squares, which does not depend on the signs. The observed signs count as one more sign flip, so p is at least
    1 / (swaps + 1).

    Returns:
        Three arrays (pairs,): two-sided p values adjusted for the whole family (step-down maxT), unadjusted one-sided p
        values for "first > second", and unadjusted one-sided p values for "first < second". A pair that is equal in all
        scenes has p = 1.
    """
    first, second = (list(side) for side in zip(*pairs, strict=True))
    norm = np.sqrt(((parts[first] - parts[second]) ** 2).sum(axis=1))
    norm[norm == 0] = np.inf
    sums = parts.sum(axis=1)
    observed = (sums[first] - sums[second]) / norm
    tolerance = 1e-9 * np.abs(observed)  # ties may differ by rounding, because sums are taken in another order
    order = np.argsort(-np.abs(observed), kind="stable")
    least = (np.abs(observed) - tolerance)[order]
    rng = np.random.default_rng([seed, 2])
    as_large, above, below = np.ones((3, len(pairs)))
    for start in range(0, swaps, _BATCH):
        count = min(_BATCH, swaps - start)
        signs = 1.0 - 2.0 * rng.integers(0, 2, (count, parts.shape[1]), dtype=np.int8)
        swapped = signs @ parts.T
        statistic = (swapped[:, first] - swapped[:, second]) / norm
        above += (statistic >= observed - tolerance).sum(axis=0)
        below += (statistic <= observed + tolerance).sum(axis=0)
        largest = np.maximum.accumulate(np.abs(statistic[:, order[::-1]]), axis=1)[:, ::-1]
        as_large += (largest >= least).sum(axis=0)
    corrected = np.empty(len(pairs))
    corrected[order] = np.maximum.accumulate(as_large / (swaps + 1))
    return corrected, above / (swaps + 1), below / (swaps + 1)


def scene_variance(parts: np.ndarray, shares: np.ndarray) -> float:
    """Return the variance, over test sets of other scenes, of a difference that is a sum over scenes.

    Two estimates are made, and the larger is returned. Let d_s be the contribution of scene s, D their sum, and h_s the
    scene's share of the boxes; d_s is modelled as h_s times the true difference, plus a random effect of the scene.
    Then

        [sum d_s^2 - H D^2] / (1 - H), with H = sum h_s^2,

    is unbiased for scenes of any sizes, but comes out too small if the contributions happen to be similar. The
    infinitesimal jackknife, sum (d_s - h_s D)^2, computed per class, is less affected by such chance agreement, but is
    biased downwards if the scenes have unequal sizes, because a large scene pulls D towards its own contribution. For
    scenes of equal size, both estimates are the variance of a mean.

    Args:
        parts: (K, G) contribution of each scene to the difference in each class; the difference is averaged over the
            classes.
        shares: (K, G) share of each scene in the boxes of each class.
    """
    scenes = parts.shape[1]
    summed, share = parts.mean(axis=0), shares.mean(axis=0)
    equal = (share**2).sum()
    if scenes < 2 or equal == 1:
        return math.nan
    unbiased = ((summed**2).sum() - equal * summed.sum() ** 2) / (1 - equal)
    centred = (parts - shares * parts.sum(axis=1, keepdims=True)).mean(axis=0)
    return float(max(unbiased, (centred**2).sum() * scenes / (scenes - 1)))


def training_variance(names: Sequence[str], parts: np.ndarray, share: np.ndarray) -> TrainingVariance:
    """Return the variance of a variant's AP between seeds, and the part of it that is due to the finite test set.

    A seed gives all variants the same order of images and the same random augmentation. Therefore the seed effect that
    is common to all variants cancels in a difference. Variants and seeds form a two-way table. The total variance is
    the mean square of its residuals, after the effects of rows and columns are removed. The same residuals, computed
    per scene, give the part of the total variance that is due to the finite number of scenes (the unbiased estimate in
    `scene_variance`). The variance of a difference over scenes already includes this part.

    Args:
        names: the V trained variants.
        parts: (V, S, G) contribution of each scene to the average AP.
        share: (G,) share of each scene in the boxes.
    """
    variants, seeds, _ = parts.shape
    df = (variants - 1) * (seeds - 1)
    values, equal = parts.sum(axis=2), (share**2).sum()
    total = (_without_margins(values) ** 2).sum() / df
    by_scene = (_without_margins(parts) ** 2).sum() / df
    return TrainingVariance(
        total=float(total),
        interaction=float(max(0.0, (by_scene - equal * total) / (1 - equal))) if equal < 1 else math.nan,
        df=df,
        seeds=seeds,
        deviations={name: float(row.std(ddof=1)) for name, row in zip(names, values, strict=True)},
    )


def _without_margins(values: np.ndarray) -> np.ndarray:
    """Return values (V, S, ...) minus the means of the rows and columns of the first two axes."""
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    return values - rows - columns + values.mean(axis=(0, 1), keepdims=True)


def _standard_error(
    by_scenes: np.ndarray, effective: float, training: TrainingVariance
) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of differences, due to scenes and training, and Satterthwaite's degrees of freedom."""
    variance = by_scenes + 2 * training.training / training.seeds
    # `df` belongs to the mean square `total`; the interaction, subtracted from it, is treated as known.
    spread = by_scenes**2 / (effective - 1) + (2 * training.total / training.seeds) ** 2 / training.df
    return np.sqrt(variance), np.divide(variance**2, spread, out=np.ones_like(variance), where=spread > 0)


def _one_sided(variants: int, pairs: Sequence[tuple[int, int]], above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the (V, V) table of one-sided p values; entry [i, j] tests whether variant i is better than variant j."""
    table = np.full((variants, variants), np.nan)
    for (i, j), p, reverse in zip(pairs, above, below, strict=True):
        table[i, j], table[j, i] = p, reverse
    return table


def _verdicts(
    names: Sequence[str], rows: Sequence[str], opponents: Sequence[str], p_values: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Return the result of `verdicts_against` for each row and statement."""
    found = {statement: verdicts_against(names, rows, opponents, above) for statement, above in p_values.items()}
    return {row: {statement: found[statement][row] for statement in found} for row in found["trained"]}


def verdicts_against(
    names: Sequence[str], rows: Sequence[str], opponents: Sequence[str], above: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return the verdict for each of `rows` from one-sided tests against the opponents, with Holm's correction.

    `ahead`: the AP of the row is higher than the AP of all opponents. `behind`: it is lower than the AP of at least one
    of them. `not shown`: neither. The rows are one family.

    Args:
        names: the V variants.
        rows: variants to judge.
        opponents: variants to compare them with; those not in `names` are left out. Without opponents, the result is
            empty.
        above: (V, V) one-sided p values; entry [i, j] tests whether variant i is better than variant j.
    """
    columns = [n for n, name in enumerate(names) if name in opponents]
    judged = [names.index(name) for name in rows]
    if not columns or not judged:
        return {}
    ahead = holm(above[np.ix_(judged, columns)].max(axis=1).tolist())
    behind = np.reshape(holm([above[column, row] for row in judged for column in columns]), (len(judged), len(columns)))
    verdicts = {}
    for row, p_ahead, p_behind in zip(judged, ahead, np.fmin.reduce(behind, axis=1), strict=True):
        word = "ahead" if p_ahead < LEVEL / 2 else "behind" if p_behind < LEVEL / 2 else "not shown"
        verdicts[names[row]] = {"p_ahead": float(p_ahead), "p_behind": float(p_behind), "verdict": word}
    return verdicts
