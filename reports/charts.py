"""The report's charts as inline SVG: text stays text, and text and axes have the text colour of the page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from reports.collect import BANDS, LATE, NO_IMAGES, brought_rows
from reports.verdict import leaders

# The colour-blind safe palette of Okabe and Ito (2008), without black, which is invisible on a dark page. Yellow is
# last, because thin yellow lines are hard to see on white.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")

MOST_COUNTED = 9  # most classes, including background, for which a confusion matrix shows its counts

# A placeholder that is replaced by the page's text colour when the SVG is written.
_INK = "#010203"
_GREY = "#7A7F87"  # single bands; legible on white and on black

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def variant_styles(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each variant's line style in all charts: bands are grey, methods differ by colour, then by dashes."""
    methods = [variant for variant in variants if variant not in BANDS]
    styles: dict[str, dict[str, Any]] = {
        "visible": {"color": _GREY, "linestyle": "-", "linewidth": 2.2},
        "infrared": {"color": _GREY, "linestyle": (0, (1, 1)), "linewidth": 2.2},
    }
    for index, method in enumerate(methods):
        dashes = ("-", (0, (5, 2)), (0, (3, 1, 1, 1)))[index // len(PALETTE) % 3]
        styles[method] = {"color": PALETTE[index % len(PALETTE)], "linestyle": dashes, "linewidth": 1.5}
    return {variant: styles[variant] for variant in variants}


def average_intervals(table: pd.DataFrame, scores: pd.DataFrame, intervals: Mapping[str, tuple[float, float]]) -> str:
    """Return a chart of each variant's Average with its interval, and a ring per seed if there are several seeds.

    `intervals` maps variants to (low, high); a variant without an entry has no interval.
    """
    with plt.rc_context(_STYLE | {"svg.hashsalt": "averages"}):
        figure, axes = plt.subplots(figsize=(5.2, 0.7 + 0.34 * len(table)), layout="constrained")
        rows = list(range(len(table)))[::-1]
        single = scores[scores["class"] == "Average"]
        band = leaders(table).band
        if band is not None:
            axes.axvline(
                table.set_index("variant").at[band, "Average"], color=_GREY, linewidth=1, linestyle=(0, (2, 2))
            )
        highest, brought = [], brought_rows(table)
        for row, variant, average in zip(rows, table["variant"], table["Average"], strict=True):
            colour = _GREY if variant in BANDS else "#0072B2"
            runs = single.loc[single["variant"] == variant, "AP"]
            low, high = intervals.get(variant, (math.nan, math.nan))
            axes.hlines(row, low, high, color=colour, linewidth=3, alpha=0.55)
            if len(runs) > 1:
                axes.plot(runs, [row] * len(runs), "o", ms=5, mfc="none", mec="#D55E00", mew=1.2)
            own = "^" if variant in brought else "v" if variant in NO_IMAGES else "D"
            marker = "s" if variant in BANDS else "o" if variant == LATE else own
            axes.plot([average], [row], marker, color=colour, ms=7)
            text = "n/a" if pd.isna(average) else f"{average:.3f}"
            edge = max([0.0, *(value for value in (average, high, runs.max()) if pd.notna(value))])
            highest.append(edge)
            number = axes.annotate(text, (edge, row), xytext=(8, 0), textcoords="offset points", va="center")
            # A white box hides the dotted line behind the number.
            number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        axes.set_yticks(rows, table["variant"], parse_math=False)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        lowest = [v for v in (*single["AP"], *(low for low, _ in intervals.values())) if pd.notna(v)]
        left, right = min(lowest, default=0.0), max(highest, default=1.0)
        room = max(0.02, 0.12 * (right - left))
        axes.set_xlim(max(0.0, left - room), right + 2.5 * room)
        axes.set_xlabel("mAP@[0.5:0.95]")
        return _svg(figure, "averages")


def precision_recall(curves: Mapping[str, Mapping[str, np.ndarray]], variants: Sequence[str]) -> str:
    """Return precision-recall curves at an IoU of 0.5: one panel per class, one line per variant.

    `curves[class][variant]` are the 101 interpolated precisions at recalls 0, 0.01, ..., 1; NaN where undefined.
    """
    styles, recall = variant_styles(variants), np.linspace(0, 1, 101)
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with plt.rc_context(_STYLE | {"svg.hashsalt": "recall"}):
        figure, panels = plt.subplots(
            rows, columns, figsize=(3.5 * columns, 2.5 * rows + 0.7), layout="constrained", squeeze=False,
            sharex=True, sharey=True,
        )  # fmt: skip
        for axes, (name, by_variant) in zip(panels.flat, curves.items(), strict=False):
            axes.set_title(name, fontsize=10, loc="left", parse_math=False)
            for variant, precision in by_variant.items():
                axes.plot(recall, precision, label=variant, **styles[variant])
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        for axes in panels.flat[len(curves) :]:
            axes.set_visible(False)
        figure.supxlabel("recall", fontsize=10)
        figure.supylabel("precision", fontsize=10)
        handles = panels[0, 0].get_lines()
        legend = figure.legend(handles, variants, loc="outside upper left", ncols=6, fontsize=9)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return _svg(figure, "recall")


def level_averages(averages: Mapping[str, Sequence[float]], levels: Sequence[str], prefix: str) -> str:
    """Return a chart of Average against the level of corruption: a line per variant, in the order of `averages`.

    `levels` are the tick labels; the first belongs to the uncorrupted images. `prefix` begins the SVG's ids.
    """
    styles = variant_styles(list(averages))
    with plt.rc_context(_STYLE | {"svg.hashsalt": prefix}):
        figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
        for variant, values in averages.items():
            axes.plot(range(len(levels)), values, marker="o", ms=3.5, label=variant, **styles[variant])
        axes.set_xticks(range(len(levels)), levels, parse_math=False)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("mAP@[0.5:0.95]")
        legend = axes.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return _svg(figure, prefix)


def error_gains(gains: pd.DataFrame) -> str:
    """Return a chart of the gain in AP50 if each error type were corrected: one panel per type, one bar per variant.

    `gains` has the variants as its index, from top to bottom, and a column for each kind.
    """
    with plt.rc_context(_STYLE | {"svg.hashsalt": "errors"}):
        figure, panels = plt.subplots(
            1, len(gains.columns), figsize=(10, 0.8 + 0.24 * len(gains)), layout="constrained", sharex=True, sharey=True
        )
        rows = list(range(len(gains)))[::-1]
        colours = [_GREY if variant in BANDS else "#0072B2" for variant in gains.index]
        for axes, kind in zip(panels, gains.columns, strict=True):
            axes.set_title(kind, fontsize=10, loc="left")
            axes.barh(rows, gains[kind], color=colours, height=0.7)
            for row, value in zip(rows, gains[kind], strict=True):
                axes.annotate(
                    f"{value:.3f}", (value, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
                )
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(rows, gains.index, parse_math=False)
        panels[0].set_xlim(0, 1.6 * max(gains.max(axis=None), 0.001))  # room for the numbers
        return _svg(figure, "errors")


def confusion(counts: Mapping[str, np.ndarray], classes: Sequence[str]) -> str:
    """Return confusion matrices, (true, detected) over `classes`, one panel per variant.

    Colours are normalised per row; counts are written into the cells if there are few classes.
    """
    columns = min(3, len(counts))
    rows = -(-len(counts) // columns)
    with plt.rc_context(_STYLE | {"svg.hashsalt": "confusion", "axes.spines.left": False, "axes.spines.bottom": False}):
        figure, panels = plt.subplots(
            rows, columns, figsize=(3.4 * columns, 2.6 * rows + 0.3), layout="constrained", squeeze=False
        )
        for index, (axes, (variant, matrix)) in enumerate(zip(panels.flat, counts.items(), strict=False)):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="#D9D9D4", linewidth=0.5)
            axes.set_title(variant, fontsize=10, loc="left", parse_math=False)
            for (row, column), share in np.ndenumerate(shares if len(classes) <= MOST_COUNTED else np.zeros((0, 0))):
                axes.text(
                    column + 0.5, row + 0.5, f"{matrix[row, column]:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if share > 0.6 else "black",
                )  # fmt: skip
            ticks = np.arange(len(classes)) + 0.5
            below, left = index + columns >= len(counts), index % columns == 0
            axes.set_xticks(
                ticks, classes if below else [""] * len(classes), rotation=45, ha="right", fontsize=7, parse_math=False
            )
            axes.set_yticks(ticks, classes if left else [""] * len(classes), fontsize=7, parse_math=False)
            axes.tick_params(length=0)
            axes.invert_yaxis()
        for axes in panels.flat[len(counts) :]:
            axes.set_visible(False)
        figure.supxlabel("detected class", fontsize=10)
        figure.supylabel("true class", fontsize=10)
        return _svg(figure, "confusion")


def metrics_against_average(points: pd.DataFrame, metrics: Mapping[str, str]) -> str:
    """Return a chart of Average against each fusion metric: a panel per metric, a labelled point per method.

    `points` has the columns `method`, `Average` and the metrics; `metrics` maps each metric to its panel's title.
    """
    columns = min(4, len(metrics))
    rows = -(-len(metrics) // columns)
    styles = variant_styles(points["method"].tolist())
    with plt.rc_context(_STYLE | {"svg.hashsalt": "metrics"}):
        figure, panels = plt.subplots(
            rows, columns, figsize=(2.9 * columns, 2.6 * rows + 0.3), layout="constrained", squeeze=False, sharey=True
        )
        for axes, (metric, title) in zip(panels.flat, metrics.items(), strict=False):
            axes.set_title(title, fontsize=10, loc="left", parse_math=False)
            for _, point in points.dropna(subset=[metric, "Average"]).iterrows():
                colour = styles[point["method"]]["color"]
                axes.plot(point[metric], point["Average"], "o", ms=8, color=colour, mec=_INK, mew=0.7)
                axes.annotate(
                    point["method"], (point[metric], point["Average"]), xytext=(0, 7), textcoords="offset points",
                    ha="center", fontsize=8, parse_math=False,
                )  # fmt: skip
            axes.margins(x=0.28, y=0.2)
            axes.set_xlabel(metric.replace("_", " "), parse_math=False)
        for axes in panels.flat[len(metrics) :]:
            axes.set_visible(False)
        for row in panels:
            row[0].set_ylabel("mAP@[0.5:0.95]")
        return _svg(figure, "metrics")


def cost_against_average(points: pd.DataFrame, device: str) -> str:
    """Return a chart of Average against runtime, a labelled point per method.

    `points` has the columns `method`, `Average`, `median_s`.
    """
    styles = variant_styles(points["method"].tolist())
    with plt.rc_context(_STYLE | {"svg.hashsalt": "cost"}):
        figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
        for _, point in points.dropna(subset=["median_s", "Average"]).iterrows():
            colour = styles[point["method"]]["color"]
            axes.plot(point["median_s"], point["Average"], "o", ms=9, color=colour, mec=_INK, mew=0.7)
            axes.annotate(
                point["method"], (point["median_s"], point["Average"]), xytext=(0, 8), textcoords="offset points",
                ha="center", fontsize=9, parse_math=False,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.margins(x=0.2, y=0.2)
        axes.set_xlabel(f"seconds per pair, {device}", parse_math=False)
        axes.set_ylabel("mAP@[0.5:0.95]")
        return _svg(figure, "cost")


def detector_losses(curves: Mapping[str, pd.DataFrame]) -> str:
    """Return a chart of the detectors' training loss by epoch, a line per variant; columns are `epoch` and `loss`."""
    styles = variant_styles(list(curves))
    with plt.rc_context(_STYLE | {"svg.hashsalt": "detectors"}):
        figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
        for variant, frame in curves.items():
            axes.plot(frame["epoch"], frame["loss"], label=variant, **styles[variant])
        _log_losses(axes)
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss")
        legend = axes.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return _svg(figure, "detectors")


def loss_curves(losses: pd.DataFrame, prefix: str) -> str:
    """Return a chart of a method's training losses against the iteration, one panel per stage.

    `losses` has a column `iteration` and optionally `stage`; every other numeric column is a loss. `prefix` begins the
    SVG's ids.
    """
    names = [name for name in losses.select_dtypes("number").columns if name not in ("iteration", "stage")]
    stages = list(losses.groupby("stage", sort=True)) if "stage" in losses else [(None, losses)]
    with plt.rc_context(_STYLE | {"svg.hashsalt": prefix}):
        figure, panels = plt.subplots(
            len(stages), figsize=(5.2, 0.5 + 1.8 * len(stages)), layout="constrained", squeeze=False
        )
        for axes, (stage, rows) in zip(panels[:, 0], stages, strict=True):
            for name, colour in zip(names, PALETTE, strict=False):
                values = rows.dropna(subset=[name])
                if not values.empty:
                    axes.plot(values["iteration"], values[name], color=colour, linewidth=1.4, label=name)
            _log_losses(axes)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylabel("loss" if stage is None else f"loss, stage {stage}")
            axes.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
        panels[-1, 0].set_xlabel("iteration")
        return _svg(figure, prefix)


def _log_losses(axes: Axes) -> None:
    """Set a logarithmic scale with plain tick labels on the loss axis."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _svg(figure: Figure, prefix: str) -> str:
    """Return the figure as an SVG element whose ids begin with `prefix`, so that ids are unique on a page."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # would apply to the whole page
    text = re.sub(r' (?:width|height)="[^"]*pt"', "", text, count=2)  # set by the page's style sheet
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
