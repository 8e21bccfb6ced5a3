"""Confidence intervals of the means of fusion metrics over images, and paired tests against the best method."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion.metrics.statistics import bootstrap_mean, holm, paired_test
from pipeline.stage import InputError

ALPHA = 0.05
RESAMPLES = "10000 resamples, seed 0"  # of bootstrap_mean and of paired_test


@dataclass(frozen=True)
class Means:
    """One metric's means over images, by column.

    Attributes:
        means: means over the images on which the metric is defined, NaN if there are none.
        bounds: bounds of the 95 % interval of each mean.
        best: the ranked column with the best mean; empty if there is none.
        p_values: p values of the other ranked columns against the best, adjusted by Holm; NaN if no test is possible.
    """

    means: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    best: str
    p_values: dict[str, float]

    @property
    def tied(self) -> list[str]:
        """The ranked columns that are not significantly different from the best."""
        return [name for name, p in self.p_values.items() if not p < ALPHA]


def compare_means(
    values: Mapping[str, np.ndarray],
    ranked: Collection[str],
    scene: Sequence[str] | None = None,
    higher_is_better: bool = True,
) -> Means:
    """Return the means of one metric, their intervals, and the paired tests of the ranked columns against the best.

    Args:
        values: (N,) for each column, of the same N images.
        ranked: the columns that are compared.
        scene: (N,) scene of each image; intervals and tests resample scenes; by default, each image is a scene.
        higher_is_better: whether a higher value of the metric is better.
    """
    units = None if scene is None else np.asarray(scene)
    means = {name: float(np.nanmean(v)) if (~np.isnan(v)).any() else math.nan for name, v in values.items()}
    compared = {name: mean for name, mean in means.items() if name in ranked and not math.isnan(mean)}
    best = (max if higher_is_better else min)(compared, key=compared.__getitem__, default="")
    others = [name for name in compared if name != best]
    tested = holm([paired_test(values[best], values[name], scene=units) for name in others])
    return Means(
        means,
        {name: bootstrap_mean(own, scene=units) for name, own in values.items()},
        best,
        dict(zip(others, tested, strict=True)),
    )


def add_comparisons(
    table: pd.DataFrame, metrics: pd.DataFrame, higher_is_better: Mapping[str, bool], scenes: Mapping[str, str]
) -> pd.DataFrame:
    """Return the table of fusion metrics with the results of `compare_means` for each metric.

    `<metric>_low` and `<metric>_high` bound the 95 % interval of a mean; `<metric>_p` is the adjusted p value against
    the best method of the column, NaN for the best itself, and for all methods if it is unknown whether a higher value
    of the metric is better.

    Args:
        table: one row per method, with a column for each metric.
        metrics: one row per image and method, with the columns `method`, `name` and the metrics.
        higher_is_better: whether a higher value is better, for the metrics for which this is known.
        scenes: the scene of each image by name.

    Raises:
        InputError: a metric has the name of a column that would be added.
    """
    names = [name for name in metrics.columns if name not in ("method", "name")]
    methods = table["method"].tolist()
    added: dict[str, list[float]] = {}
    for metric in names:
        by_image = metrics.pivot(index="name", columns="method", values=metric)
        found = compare_means(
            {method: by_image[method].to_numpy(np.float64) for method in methods},
            methods if metric in higher_is_better else (),
            [scenes[name] for name in by_image.index],
            higher_is_better.get(metric, True),
        )
        added[f"{metric}_low"], added[f"{metric}_high"] = map(list, zip(*map(found.bounds.get, methods), strict=True))
        added[f"{metric}_p"] = [found.p_values.get(method, math.nan) for method in methods]
    if taken := sorted(added.keys() & set(names)):
        raise InputError(
            f"--metrics: found metric {taken[0]!r}, the name of a column of another metric; expected another name"
        )
    return table.assign(**added)


def tied_methods(table: pd.DataFrame, metric: str, higher_is_better: bool) -> list[str]:
    """Return the methods in `add_comparisons`' table that do not differ significantly from the best in one metric."""
    rows = table.dropna(subset=[metric])
    if rows.empty:
        return []
    best = rows[metric].idxmax() if higher_is_better else rows[metric].idxmin()
    return rows.loc[(rows.index != best) & ~(rows[f"{metric}_p"] < ALPHA), "method"].tolist()
