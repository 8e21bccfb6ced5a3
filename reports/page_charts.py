"""The page's charts: which are drawn from a run's results, and what stands above and below each."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from detection.average_precision import MOST_DETECTIONS, accumulate, evaluate
from detection.predictions import read_predictions
from pipeline.artefacts import read_csv, read_json
from reports import charts
from reports.collect import LATE, Split
from reports.correlation import correlation_sentence, rank_correlations
from reports.tables_layout import fusion_metrics
from reports.test_sets_layout import METRICS


def average_chart(table: pd.DataFrame, scores: pd.DataFrame, significance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the chart of Table II's averages; `scores` are those of each seed."""
    several = int(table["seeds"].min()) > 1
    text = (
        "Squares: single bands; diamonds: fused; dotted line: the better band."
        + (" Circle: both bands' boxes pooled." if LATE in set(table["variant"]) else "")
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


def precision_charts(
    split: Split, predictions: Mapping[str, Path], most: int = MOST_DETECTIONS
) -> list[dict[str, Any]]:
    """Return the chart of precision against recall; none where no class has a box.

    `most` is how many detections of a class in an image count.
    """
    curves = precision_curves(split, predictions, most)
    if not curves:
        return []
    svg = charts.precision_recall(curves, list(predictions))
    text = "One seed's detectors. Grey: single bands, infrared dotted."
    return [_chart("Precision against recall of each class, overlap 0.5", svg, text, wide=True)]


def precision_curves(
    split: Split, predictions: Mapping[str, Path], most: int = MOST_DETECTIONS
) -> dict[str, dict[str, np.ndarray]]:
    """Return, for each class with boxes and each variant, the 101 interpolated precisions at an overlap of 0.5."""
    truth = read_json(split.file.with_name("truth_test.json"))
    curves: dict[str, dict[str, np.ndarray]] = {name: {} for name in split.classes}
    for variant, file in predictions.items():
        scores = accumulate(evaluate(truth, read_predictions(file, truth), areas=("all",), most=most))
        for index, name in enumerate(scores.classes):
            if scores.boxes[index]:
                curves[name][variant] = scores.precision[0, :, index, 0, -1]
    return {name: by_variant for name, by_variant in curves.items() if by_variant}


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


def _chart(title: str, svg: str, text: str = "", wide: bool = False) -> dict[str, Any]:
    """Return a chart for the template; a wide one takes the page's width."""
    return {"title": title, "svg": Markup(svg), "text": text, "wide": wide}
