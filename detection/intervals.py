"""Compute confidence intervals of average precision for these trained detectors, by a bootstrap of the test scenes.

Whole scenes are resampled with replacement, with the same resamples for all variants. The intervals therefore describe
the uncertainty due to the choice of test images; they do not include the variance between trainings.

Sources: B. Efron and R. J. Tibshirani, An introduction to the bootstrap, 1993, chapter 13; A. C. Davison and D. V.
Hinkley, Bootstrap methods and their application, 1997, section 3.8 (whole groups).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np

from detection.accumulation import Matches, weighted_average_precision
from fusion.metrics.statistics import draw_scenes, effective_number, interval
from pipeline.stage import Progress, threads_available

LEAST_BOXES = 10  # of a class; with fewer, the interval gets a remark


def bootstrap(
    matches: Mapping[str, Sequence[Sequence[Matches]]],
    scene: np.ndarray,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return each variant's measured AP, (K + 1,), and in every resample, (samples, K + 1), the average last.

    Values are means over the training seeds, which are not resampled. The average is over the classes with boxes.

    Args:
        matches: for each variant and each of its seeds, the matches of every class.
        scene: (N,) index of the scene of each image.
        samples: number of bootstrap resamples.
        seed: seed of the resamples.
    """
    scenes, index = np.unique(scene, return_inverse=True)
    weights = np.ones((samples + 1, len(scene)))
    weights[1:] = draw_scenes(len(scenes), samples, seed)[:, index.ravel()]
    detectors = [(variant, run) for variant, runs in matches.items() for run in range(len(runs))]
    values = {variant: np.zeros((samples + 1, len(runs[0]) + 1)) for variant, runs in matches.items()}
    progress = Progress("bootstrap", len(detectors), "detectors")

    def accumulate(detector: tuple[str, int]) -> np.ndarray:
        variant, run = detector
        precision = np.stack([weighted_average_precision(one, weights) for one in matches[variant][run]], axis=1)
        return np.column_stack([precision, _mean_of_defined(precision)])

    with ThreadPoolExecutor(threads_available()) as pool:
        for (variant, _), found in zip(detectors, pool.map(accumulate, detectors), strict=True):
            values[variant] += found / len(matches[variant])
            progress.step()
    return {name: rows[0] for name, rows in values.items()}, {name: rows[1:] for name, rows in values.items()}


def describe(
    classes: Sequence[str],
    boxes: np.ndarray,
    measured: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the interval of each class and of the average, for each variant, with the boxes and scenes behind it.

    Args:
        classes: K names.
        boxes: (K, G) number of boxes of each class in each scene.
        measured: measured values from `bootstrap`, or their differences between two variants.
        drawn: values in the resamples from `bootstrap`, or their differences between two variants.

    Returns:
        For each variant, for each class and `Average`: `AP`, `low`, `high` (NaN for a single scene, or if AP is
        defined in no resample), `boxes`, `scenes` with boxes, `undefined` (the number of resamples without the class),
        and `remark`, on few boxes, or empty.
    """
    rows = np.concatenate([boxes, boxes.sum(axis=0, keepdims=True)])
    facts = [(int(row.sum()), int((row > 0).sum()), effective_number(row)) for row in rows]
    described: dict[str, dict[str, dict[str, Any]]] = {variant: {} for variant in measured}
    for variant, (k, name) in product(measured, enumerate([*classes, "Average"])):
        number, scenes, effective = facts[k]
        low, high = interval(drawn[variant][:, k], effective, measured=measured[variant][k])
        described[variant][name] = {
            "AP": float(measured[variant][k]),
            "low": low,
            "high": high,
            "boxes": number,
            "scenes": scenes,
            "undefined": int(np.isnan(drawn[variant][:, k]).sum()),
            "remark": f"fewer than {LEAST_BOXES} boxes" if number < LEAST_BOXES else "",
        }
    return described


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row over its values that are not NaN; NaN if all are."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    sums = np.where(defined, values, 0).sum(axis=1)
    return np.divide(sums, count, out=np.full(len(values), np.nan), where=count > 0)
