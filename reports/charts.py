"""The report's charts as inline SVG: text stays text, and text and axes take the colour of the page around them."""

import io
import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from reports.collect import BANDS

# Okabe and Ito (2008): eight colours that colour-blind readers tell apart; here without black, which a dark page hides.
# Yellow comes last, because thin yellow lines vanish on white.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")

# Stands for the page's own text colour until the SVG is written.
_INK = "#010203"

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


def average_bars(table: pd.DataFrame, scores: pd.DataFrame) -> str:
    """Return a bar chart of Average for each variant; where there are several seeds, a dot for each."""
    with plt.rc_context(_STYLE | {"svg.hashsalt": "bars"}):
        figure, axes = plt.subplots(figsize=(4.6, 0.6 + 0.36 * len(table)), layout="constrained")
        rows = list(range(len(table)))[::-1]
        colours = ["#8A8F98" if variant in BANDS else "#0072B2" for variant in table["variant"]]
        axes.barh(rows, table["Average"].fillna(0), color=colours, height=0.62)
        single = scores[scores["class"] == "Average"]
        for row, variant, average in zip(rows, table["variant"], table["Average"], strict=True):
            runs = single.loc[single["variant"] == variant, "AP"]
            axes.annotate(
                "n/a" if pd.isna(average) else f"{average:.3f}",
                (0 if pd.isna(average) else max(average, runs.max()), row),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
            if len(runs) > 1:
                axes.plot(runs, [row] * len(runs), "o", ms=4, mfc="#E69F00", mec="black", mew=0.6)
        axes.set_yticks(rows, table["variant"], parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(left=0, right=max(0.05, 1.15 * single["AP"].max()) if single["AP"].notna().any() else 1)
        axes.set_xlabel("mAP@[0.5:0.95], mean over the classes")
        return _svg(figure, "bars")


def loss_curves(losses: pd.DataFrame, prefix: str) -> str:
    """Return a method's training losses against the iteration, one panel for each stage.

    `losses` has a column `iteration`, may have `stage`, and each other numeric column is a loss. `prefix` begins the
    SVG's ids.
    """
    names = [name for name in losses.select_dtypes("number").columns if name not in ("iteration", "stage")]
    stages = list(losses.groupby("stage", sort=True)) if "stage" in losses else [(None, losses)]
    with plt.rc_context(_STYLE | {"svg.hashsalt": prefix}):
        figure, panels = plt.subplots(
            len(stages), figsize=(4.6, 0.5 + 2.0 * len(stages)), layout="constrained", squeeze=False
        )
        for axes, (stage, rows) in zip(panels[:, 0], stages, strict=True):
            for name, colour in zip(names, PALETTE, strict=False):
                values = rows.dropna(subset=[name])
                if not values.empty:
                    axes.plot(values["iteration"], values[name], color=colour, linewidth=1.4, label=name)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_ylabel("loss" if stage is None else f"loss, stage {stage}")
            axes.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
        panels[-1, 0].set_xlabel("iteration")
        return _svg(figure, prefix)


def _svg(figure: Figure, prefix: str) -> str:
    """Return the figure as an SVG element whose ids begin with `prefix`, so that several fit on one page."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # would hold for the whole page
    text = re.sub(r' (?:width|height)="[^"]*pt"', "", text, count=2)  # the page's layout decides
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
