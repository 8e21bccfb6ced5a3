"""The page's charts: which are drawn from a run's results, and what stands above and below each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from detection.errors import KINDS
from detection.inside import INSIDE
from detection.losses import AS_IS
from pipeline.artefacts import read_csv
from reports import charts
from reports.collect import LATE, brought_rows
from reports.correlation import correlation_sentence, rank_correlations
from reports.errors import CONFUSION, mean_confusions
from reports.robustness import level_words
from reports.tables_layout import fusion_metrics
from reports.test_sets_layout import METRICS
from reports.verdict import own_seeds


def average_chart(table: pd.DataFrame, scores: pd.DataFrame, significance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the chart of Table II's averages; `scores` are those of each seed."""
    several = own_seeds(table) > 1
    text = (
        "Squares: single bands; diamonds: fused; dotted line: the better band."
        + (" Triangles pointing down: fused inside the detector." if {*INSIDE} & {*table["variant"]} else "")
        + (" Circle: both bands' boxes pooled." if LATE in set(table["variant"]) else "")
        + (" Triangles pointing up: brought from elsewhere." if brought_rows(table) else "")
        + (" Bars: 95 % intervals." if significance else " Bars: lowest to highest seed." if several else "")
        + (" Rings: single seeds." if several else "")
    )
    svg = charts.average_intervals(table, scores, average_bounds(table, significance))
    return _chart("Average precision of each variant", svg, text)


def average_bounds(table: pd.DataFrame, significance: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """Return Average's 95 % interval by variant; without `significance` its lowest and highest seed, if several."""
    if significance:
        bounds = {name: values["Average"] for name, values in significance["variants"].items()}
        return {name: (b["low"], b["high"]) for name, b in bounds.items() if b["low"] is not None}
    rows = table.dropna(subset=["Average_low", "Average_high"])
    return {row["variant"]: (row["Average_low"], row["Average_high"]) for _, row in rows.iterrows()}


def fusion_charts(
    table: pd.DataFrame, fusion: pd.DataFrame, costs: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the charts that set Table II's averages against the methods' costs and fusion metrics."""
    if fusion.empty:
        return []
    drawn = []
    points = fusion.merge(table[["variant", "Average"]], left_on="method", right_on="variant")
    if costs:
        seconds = {name: math.nan if cost["median_s"] is None else cost["median_s"] for name, cost in costs.items()}
        device = next(iter(costs.values()))
        width, height = device["size"]
        where = f"{width}x{height} on {device['device']}, {device['threads']} thread{'s' * (device['threads'] != 1)}"
        svg = charts.cost_against_average(points.assign(median_s=points["method"].map(seconds)), where)
        text = "Up and to the left is better. Time from sources in memory to the fused image in memory."
        drawn.append(_chart("Cost against quality", svg, text))
    correlations = rank_correlations(points, fusion_metrics(fusion))
    titles = {
        entry["metric"]: "too few methods" if math.isnan(entry["rho"]) else f"rank correlation {entry['rho']:+.2f}"
        for entry in correlations
        if entry["metric"] in METRICS
    }
    if titles:
        svg, text = charts.metrics_against_average(points, titles), correlation_sentence(correlations)
        drawn.append(_chart("Do the fusion metrics predict detection?", svg, text, wide=True))
    return drawn


def precision_charts(curves: pd.DataFrame, classes: Sequence[str], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Return the chart of precision against recall, of each variant's first seed; none where no class has a box.

    `curves` are those of `detection.errors`.
    """
    first = curves[curves["seed"] == curves.groupby("variant")["seed"].transform("min")]
    by_class = {
        name: {variant: part.loc[part["variant"] == variant, "precision"].to_numpy() for variant in variants}
        for name, part in first.groupby("class")
    }
    if not by_class:
        return []
    svg = charts.precision_recall({name: by_class[name] for name in classes if name in by_class}, variants)
    text = "One seed's detectors. Grey: single bands, infrared dotted."
    return [_chart("Precision against recall of each class, overlap 0.5", svg, text, wide=True)]


def error_charts(table: pd.DataFrame, confusion: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the charts of `error_table` and of `confusion_table`."""
    gains = table.set_index("variant")[[f"gain_{kind}" for kind in KINDS]].set_axis(KINDS, axis="columns")
    classes, counts = mean_confusions(confusion)
    return [
        _chart(
            "AP50 that mending each kind of errors would bring",
            charts.error_gains(gains),
            "Short bars are good. Grey: single bands.",
            wide=True,
        ),
        _chart(
            "Which classes were taken for others, by each variant's detector",
            charts.confusion(counts, classes),
            CONFUSION,
            wide=True,
            folded=True,
        ),
    ]


def robustness_chart(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart of losses.json of one kind."""
    averages = {
        variant: [
            math.nan if bounds["value"] is None else bounds["value"]
            for bounds in (found["AP"], *found["levels"].values())
        ]
        for variant, found in losses["variants"].items()
    }
    levels = [AS_IS, *(level_words(losses["kind"], level) for level in losses["levels"])]
    svg = charts.level_averages(averages, levels, losses["kind"])
    return _chart("Average precision by level", svg, "Grey: single bands, infrared dotted.")


def loss_charts(losses: Mapping[str, Path], detector_losses: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return the charts of the methods' trainings and of the detectors', from their CSV files by name."""
    drawn = [
        _chart(f"Training of {name}", charts.loss_curves(read_csv(path)[0], f"losses{index}"))
        for index, (name, path) in enumerate(losses.items())
    ]
    if detector_losses:
        svg = charts.detector_losses({name: read_csv(path)[0] for name, path in detector_losses.items()})
        drawn.append(_chart("Training of the detectors", svg, "One seed."))
    return drawn


def _chart(title: str, svg: str, text: str = "", wide: bool = False, folded: bool = False) -> dict[str, Any]:
    """Return a chart for the template; a wide one takes the page's width, a folded one is opened by a click."""
    return {"title": title, "svg": Markup(svg), "text": text, "wide": wide, "folded": folded}
