"""The page's charts: the selection drawn from a run's results, with a title and a text for each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from detection.errors import KINDS
from detection.inside import INSIDE
from pipeline.artefacts import read_csv
from reports import charts
from reports.collect import LATE, brought_rows
from reports.correlation import correlation_sentence, rank_correlations
from reports.errors import CONFUSION, HEADINGS, mean_confusions
from reports.robustness import level_name
from reports.tables_layout import fusion_metrics
from reports.test_sets_layout import METRICS
from reports.verdict import own_seeds


def average_chart(table: pd.DataFrame, scores: pd.DataFrame, significance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the chart of Table II's averages; `scores` are the scores of each seed."""
    several = own_seeds(table) > 1
    text = (
        "Squares: single bands; diamonds: fused variants; dotted line: the better single band."
        + (" Triangles pointing down: fusion inside the detector." if {*INSIDE} & {*table["variant"]} else "")
        + (" Circle: late fusion (merged detections of both bands)." if LATE in set(table["variant"]) else "")
        + (" Triangles pointing up: external results." if brought_rows(table) else "")
        + (" Bars: 95 % confidence intervals." if significance else " Bars: range over seeds." if several else "")
        + (" Rings: single seeds." if several else "")
    )
    svg = charts.average_intervals(table, scores, average_bounds(table, significance))
    return _chart("Average precision of each variant", svg, text)


def average_bounds(table: pd.DataFrame, significance: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """Return Average's 95 % interval by variant; without `significance`, the lowest and highest of several seeds."""
    if significance:
        bounds = {name: values["Average"] for name, values in significance["variants"].items()}
        return {name: (b["low"], b["high"]) for name, b in bounds.items() if b["low"] is not None}
    rows = table.dropna(subset=["Average_low", "Average_high"])
    return {row["variant"]: (row["Average_low"], row["Average_high"]) for _, row in rows.iterrows()}


def fusion_charts(
    table: pd.DataFrame, fusion: pd.DataFrame, costs: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the charts of Table II's averages against the methods' cost and fusion metrics."""
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
        text = "Upper left is better. The time is from source images in memory to the fused image in memory."
        drawn.append(_chart("Average precision against fusion time", svg, text))
    correlations = rank_correlations(points, fusion_metrics(fusion))
    titles = {
        entry["metric"]: "too few methods" if math.isnan(entry["rho"]) else f"rank correlation {entry['rho']:+.2f}"
        for entry in correlations
        if entry["metric"] in METRICS
    }
    if titles:
        svg, text = charts.metrics_against_average(points, titles), correlation_sentence(correlations)
        drawn.append(_chart("Do fusion metrics predict average precision?", svg, text, wide=True))
    return drawn


def precision_charts(curves: pd.DataFrame, classes: Sequence[str], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Return the chart of precision-recall curves of each variant's first seed, as a list; empty without test boxes.

    `curves` come from `detection.errors`.
    """
    first = curves[curves["seed"] == curves.groupby("variant")["seed"].transform("min")]
    by_class = {
        name: {variant: part.loc[part["variant"] == variant, "precision"].to_numpy() for variant in variants}
        for name, part in first.groupby("class")
    }
    if not by_class:
        return []
    svg = charts.precision_recall({name: by_class[name] for name in classes if name in by_class}, variants)
    text = "Detectors of one seed. Grey lines: visible (solid) and infrared (dotted)."
    return [_chart("Precision-recall curves per class at an IoU of 0.5", svg, text, wide=True)]


def error_charts(table: pd.DataFrame, confusion: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the charts of `error_table` and of `confusion_table`."""
    gains = table.set_index("variant")[[f"gain_{kind}" for kind in KINDS]]
    gains = gains.set_axis([HEADINGS.get(kind, kind) for kind in KINDS], axis="columns")
    classes, counts = mean_confusions(confusion)
    return [
        _chart(
            "Gain in AP50 if all errors of a type were corrected",
            charts.error_gains(gains),
            "Shorter bars are better. Grey bars: single bands.",
            wide=True,
        ),
        _chart(
            "Confusion matrices of the detectors, per variant",
            charts.confusion(counts, classes),
            CONFUSION,
            wide=True,
            folded=True,
        ),
    ]


def robustness_chart(losses: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart of one kind of corruption, from the content of losses.json."""
    averages = {
        variant: [
            math.nan if bounds["value"] is None else bounds["value"]
            for bounds in (found["AP"], *found["levels"].values())
        ]
        for variant, found in losses["variants"].items()
    }
    levels = ["uncorrupted", *(level_name(losses["kind"], level) for level in losses["levels"])]
    svg = charts.level_averages(averages, levels, losses["kind"])
    return _chart("Average precision by level of corruption", svg, "Grey lines: visible (solid) and infrared (dotted).")


def loss_charts(losses: Mapping[str, Path], detector_losses: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return the charts of the training losses of fusion methods and detectors, from their CSV files by name."""
    drawn = [
        _chart(f"Training loss of {name}", charts.loss_curves(read_csv(path)[0], f"losses{index}"))
        for index, (name, path) in enumerate(losses.items())
    ]
    if detector_losses:
        svg = charts.detector_losses({name: read_csv(path)[0] for name, path in detector_losses.items()})
        drawn.append(_chart("Training loss of the detectors", svg, "One seed."))
    return drawn


def _chart(title: str, svg: str, text: str = "", wide: bool = False, folded: bool = False) -> dict[str, Any]:
    """Return a chart for the template; a wide chart has the page's width, a folded chart is opened by a click."""
    return {"title": title, "svg": Markup(svg), "text": text, "wide": wide, "folded": folded}
