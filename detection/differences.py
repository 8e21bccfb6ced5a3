"""Which variants' average precision differs: beyond the scenes of this test set, and beyond the training's chance.

Two statements are kept apart.

*These trained detectors differ.* If two detectors are alike, the detections of each scene could as well be the other's.
Swapping them changes the sign of the scene's part of the difference (`detection.accumulation.scene_parts`), so the
observed sum is compared with the sums under random signs, drawn for whole scenes and the same for all pairs. The
largest of all pairs' statistics under each choice of signs gives p values that hold for the family. Scenes must be
independent of one another, and a scene's part of a true tie as likely positive as negative; no distribution is assumed.
The statement is about the detectors as trained: with another seed another one may be true.

*The methods differ.* From three seeds on the variance of training can be estimated, too. It is pooled over all trained
variants, which takes it as the same for all, and added to that of the scenes; the difference is compared with a t
distribution. The statement is made only where the first one holds as well.

Neither is made from few scenes (`LEAST_SCENES`, `LEAST_EFFECTIVE`), where tests of a difference do not keep their
level. `benchmarks/verdict_calibration.py` measures the levels of both statements.

Sources: R. A. Fisher, The design of experiments, 1935, section 21 (signs); P. H. Westfall and S. S. Young,
Resampling-based multiple testing, 1993, algorithm 4.1 (largest of a family, step-down); S. Holm, A simple sequentially
rejective multiple test procedure, 1979; F. E. Satterthwaite, An approximate distribution of estimates of variance
components, 1946; B. Efron, The jackknife, the bootstrap and other resampling plans, 1982, chapter 6 (infinitesimal
jackknife); R. L. Berger, Multiparameter hypothesis testing and acceptance sampling, 1982 (better than both).
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
LEAST_SCENES = 12  # that hold boxes
LEAST_EFFECTIVE = 8.0  # scenes of equal size that would say as much
LEAST_SEEDS = 3  # for a statement about methods
_BATCH = 2000  # swaps at a time, so that memory does not grow with their number


@dataclass(frozen=True)
class TrainingVariance:
    """What differs between seeds of one recipe, pooled over the trained variants.

    Attributes:
        total: variance of a variant's AP between seeds, without what a seed does to all variants alike.
        interaction: the share of `total` that comes of the test set's finite scenes, where seeds differ in chance.
        df: degrees of freedom of `total`, (S - 1)(V - 1).
        seeds: S.
        deviations: standard deviation of each trained variant's AP over its seeds. The variance is taken as the same
            for all; this shows whether it is.
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
    """Return what each scene adds to AP, for each variant (S seeds, K classes, G scenes); NaN for a class without box.

    Args:
        matches: for each variant, for each seed, the classes' matches.
        scene: (N,) index of the scene of each image.
        scenes: G.
    """
    return {
        variant: np.array([[scene_parts(one, scene, scenes) for one in classes] for classes in runs])
        for variant, runs in matches.items()
    }


def too_few_scenes(boxes: np.ndarray) -> str:
    """Return why no difference can be told from `boxes` (K, G) of each class in each scene; empty where it can."""
    sizes = boxes.sum(axis=0)
    holding, effective = int((sizes > 0).sum()), effective_number(sizes)
    if holding < LEAST_SCENES:
        return f"{holding} scenes hold boxes; a difference needs {LEAST_SCENES}"
    if effective < LEAST_EFFECTIVE:
        return (
            f"{holding} scenes hold boxes, worth {effective:.1f} of equal size; a difference needs {LEAST_EFFECTIVE:g}"
        )
    return ""


def compare(
    parts: Mapping[str, np.ndarray],
    boxes: np.ndarray,
    bands: Sequence[str] = ("visible", "infrared"),
    untrained: Sequence[str] = ("late",),
    inside: Sequence[str] = INSIDE,
    brought: Sequence[str] = (),
    swaps: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the averages over classes of every two variants, and of every other variant with the single bands.

    The comparison with the bands is confirmatory: a variant is ahead only if it is ahead of *both* (the larger of two
    one-sided p values, Holm over the variants), and behind if it is behind *either* (Holm over variants and bands),
    each at half of LEVEL. So is that with fusing in the detector, by the same rule: a variant is ahead only if it is
    ahead of every one of `inside` and `untrained` that is there. All other pairs are exploration.

    Variants of `inside` are compared with the bands in a family of their own, and their seeds count in the variance of
    training only for pairs that hold one of them. So whether they are run changes nothing that is said of the others
    against the bands.

    Args:
        parts: from `split_by_scene`.
        boxes: (K, G) boxes of each class in each scene.
        bands: the variants that are single bands; those that are absent are left out.
        untrained: variants that were not trained themselves, which tell nothing about the training's variance.
        inside: variants whose detectors are given both bands; those that are absent are left out.
        brought: variants whose detections were made elsewhere: how their training varies is unknown, so they are not
            pooled, and no method is said to differ from theirs.
        swaps: random choices of signs.
        seed: of the signs.

    Returns:
        `untested`: why no test is made, or empty.
        `scenes` that hold boxes, `scenes_effective`.
        `training`: the values of a TrainingVariance, for pairs without one of `inside`; None with too few seeds.
        `comparisons`: for every pair `first`, `second`, `difference`, `confirmatory` (one of both is a band, or one of
        `inside` and `untrained`, and the other is not),
        `p_trained` and `p_methods` (adjusted for the family), `trained_differ`, `methods_differ`, and `methods_low` and
        `methods_high`, the bounds of the 95 % t interval of the methods' difference (of this pair by itself).
        `against_bands`: for every other variant, for `trained` and `methods`, `p_ahead`, `p_behind` (adjusted) and
        `verdict`: `ahead`, `behind` or `not shown`.
        `against_inside`: the same for every variant that is neither a band nor one of `inside` and `untrained`, against
        these. `inside`: the names of those that are there.
        What is not tested or estimated is NaN.
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
    trained = [n for n, name in enumerate(names) if name not in (*untrained, *brought)]
    if pairs and not untested:
        by_seed = values.mean(axis=2)
        p_trained, above, below = swap_test(by_seed.mean(axis=1), pairs, swaps, seed)
        if values.shape[1] >= LEAST_SEEDS and len(trained) > 1:
            shares = boxes[boxes.any(axis=1)]
            shares = shares / shares.sum(axis=1, keepdims=True)
            # Of the rows that are shown images, so that rows that fuse inside the detector change nothing for these.
            shown = [n for n in trained if names[n] not in inside]
            training = training_variance([names[n] for n in shown], by_seed[shown], shares.mean(axis=0))
            by_class = values.mean(axis=1)
            by_scenes = np.array([scene_variance(by_class[i] - by_class[j], shares) for i, j in pairs])
            by_scenes[[names[i] in brought or names[j] in brought for i, j in pairs]] = np.nan
            error, df = _standard_error(by_scenes, effective, training)
            if shown != trained:
                wider = training_variance([names[n] for n in trained], by_seed[trained], shares.mean(axis=0))
                concerned = np.array([names[i] in inside or names[j] in inside for i, j in pairs])
                wider_error, wider_df = _standard_error(by_scenes, effective, wider)
                error, df = np.where(concerned, wider_error, error), np.where(concerned, wider_df, df)
            statistic = np.divide(difference, error, out=np.zeros(len(pairs)), where=error != 0)
            p_methods = np.maximum(holm((2 * stats.t.sf(np.abs(statistic), df)).tolist()), p_trained)
            methods_above, methods_below = stats.t.sf(statistic, df), stats.t.sf(-statistic, df)
    reach = stats.t.isf(LEVEL / 2, df) * error
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
            "methods_low": float(difference[n] - reach[n]),
            "methods_high": float(difference[n] + reach[n]),
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
    apart = [name for name in names if name not in bands and name not in inside]
    return {
        "untested": untested,
        "scenes": int((boxes.sum(axis=0) > 0).sum()),
        "scenes_effective": effective,
        "training": None if training is None else {**vars(training), "training": training.training},
        "comparisons": comparisons,
        "against_bands": _verdicts(names, apart, bands, p_values) | _verdicts(names, own_family, bands, p_values),
        "inside": rivals,
        "against_inside": _verdicts(names, fused, rivals, p_values),
    }


def swap_test(
    parts: np.ndarray, pairs: Sequence[tuple[int, int]], swaps: int = 10_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test every pair of rows of `parts` (V, G) by random signs of the scenes' differences.

    A pair's statistic is the sum of its scenes' differences over the root of the sum of their squares, which no sign
    changes. The choice observed is counted among the swaps, so p is never below 1 / (swaps + 1).

    Returns:
        Two-sided p values for the whole family (step-down of the largest statistic), and one-sided ones of each pair by
        itself, for the first above the second and below it; (pairs,) each. A pair that differs in no scene has p = 1.
    """
    first, second = (list(side) for side in zip(*pairs, strict=True))
    norm = np.sqrt(((parts[first] - parts[second]) ** 2).sum(axis=1))
    norm[norm == 0] = np.inf
    sums = parts.sum(axis=1)
    observed = (sums[first] - sums[second]) / norm
    tolerance = 1e-9 * np.abs(observed)  # sums in another order round differently and are still ties
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
    """Return the variance of a sum over classes and scenes, over test sets of other scenes.

    Two estimates are made, and the larger is returned. With d_s the part of scene s, D their sum, and h_s its share of
    the boxes, d_s is h_s times the true difference and a scene's own chance. Then

        [sum d_s^2 - H D^2] / (1 - H), with H = sum h_s^2,

    is unbiased however unlike the scenes are, but small where the scenes happen to agree. The infinitesimal jackknife,
    sum (d_s - h_s D)^2, class by class, is never that small, but too small on average where scenes are of unequal size:
    a large scene pulls the whole towards itself. For scenes of one size both are the variance of a mean.

    Args:
        parts: (K, G) what each scene adds to the difference in each class; the statistic is the mean over classes.
        shares: (K, G) each scene's share of a class's boxes.
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
    """Return the variance between seeds of a variant's AP, and how much of it the finite test set explains.

    A seed gives all variants the same order of images and the same draws of augmentation, so a seed's effect on all
    variants alike is no part of a difference: variants and seeds are a two-way table, and the mean square of what
    neither explains is the total. The same double differences, scene by scene, tell how much of it comes of these
    scenes (the unbiased estimate of `scene_variance`); the scenes' variance of a difference holds that already.

    Args:
        names: the trained variants, V of them.
        parts: (V, S, G) what each scene adds to the average AP.
        share: (G,) each scene's share of the boxes.
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
    """Return values (V, S, ...) less the means of each row and column of the first two axes."""
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    return values - rows - columns + values.mean(axis=(0, 1), keepdims=True)


def _standard_error(
    by_scenes: np.ndarray, effective: float, training: TrainingVariance
) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of differences by scenes and training, and Satterthwaite's degrees of freedom."""
    variance = by_scenes + 2 * training.training / training.seeds
    # The mean square that has these degrees of freedom is the total; what is subtracted from it is taken as known.
    spread = by_scenes**2 / (effective - 1) + (2 * training.total / training.seeds) ** 2 / training.df
    return np.sqrt(variance), np.divide(variance**2, spread, out=np.ones_like(variance), where=spread > 0)


def _one_sided(variants: int, pairs: Sequence[tuple[int, int]], above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return the one-sided p value (V, V) for the row above the column."""
    table = np.full((variants, variants), np.nan)
    for (i, j), p, reverse in zip(pairs, above, below, strict=True):
        table[i, j], table[j, i] = p, reverse
    return table


def _verdicts(
    names: Sequence[str], rows: Sequence[str], opponents: Sequence[str], p_values: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Return the verdicts of `against` for each row and statement."""
    found = {statement: against(names, rows, opponents, above) for statement, above in p_values.items()}
    return {row: {statement: found[statement][row] for statement in found} for row in found["trained"]}


def against(
    names: Sequence[str], rows: Sequence[str], opponents: Sequence[str], above: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return for each of `rows` whether it is ahead of all opponents, or behind any; the rows are one family.

    Args:
        names: the variants, V of them.
        rows: those that are judged.
        opponents: those that they are compared with; absent ones are left out, and without any there is no verdict.
        above: (V, V) one-sided p value for the row above the column.
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
