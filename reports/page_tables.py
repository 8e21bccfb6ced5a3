"""The page's sortable tables: cells with their tooltips, headings and notes."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from reports.as_is import as_is_cells, as_is_layout, as_is_notes
from reports.collect import Split
from reports.conditions import condition_cells, condition_layout, condition_notes, condition_table
from reports.costs import cost_cells, cost_layout, cost_notes
from reports.errors import error_layout, error_notes
from reports.inside import headline_column
from reports.render import Layout, format_value, printed, rank_marks
from reports.runs import Run, scores_table
from reports.tables_layout import (
    TIED_MEANS,
    detection_cells,
    detection_layout,
    detection_notes,
    fusion_layout,
    fusion_metrics,
    fusion_notes,
    fusion_ties,
    metric_directions,
)
from reports.truths import label_sets, truth_layout, truth_notes
from reports.verdict import printed_p, tied_with_best

TIES = "≈: not significantly different from the highest mAP (exploratory; see vs. best row)."
SEEDS_BELOW = "Below each mAP: its range over the seeds."
INTERVAL_BELOW = "Below each mAP: its 95 % confidence interval."
DETECTOR_BELOW = "Below each verdict vs. both bands: the verdict vs. fusion in or after the detector."


def detection_section(
    table: pd.DataFrame,
    facts: Mapping[str, Any],
    split: Split,
    runs: Sequence[Run],
    fused: Mapping[str, Mapping[str, Any]],
    significance: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return Table II for the template; `fused` contains the facts of each method's manifest."""
    # The bounds are printed below the averages, because with columns for them the table would be wider than the page.
    layout, cells = detection_layout(table, split.classes, bounds=False), detection_cells(table)
    tied = {(variant, "Average") for variant in tied_with_best(table, significance)}
    bounds = cells["Average_interval" if "Average_interval" in cells else "Average_seeds"].tolist()
    words = headline_column(table, "against_inside")
    inside = table[words].fillna("") if words in table else []
    detector = [f"vs. fusion in/after detector: {word}" if word else "" for word in inside]
    below = {"Average": bounds, "variant": table["remark"].tolist() if "remark" in table else [""] * len(table)}
    if "ours_less_paper" in cells:
        below["Average_paper"] = cells["ours_less_paper"].tolist()
    notes = detection_notes(facts)
    if any(bounds):
        notes.append(INTERVAL_BELOW if "Average_interval" in cells else SEEDS_BELOW)
    if detector:
        below[headline_column(table, "against_bands")] = detector
        notes.append(DETECTOR_BELOW)
    if significance and tied:
        notes.append(TIES)
    rows = table_rows(table, layout, detection_tip(runs, fused, significance), tied, below)
    return _section("table2", "Table II: average precision of the detector of each variant", rows, layout, notes)


def truth_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return Table II by label set for the template; ranks and verdicts are printed below the averages."""
    layout = truth_layout(table, facts["truth"])
    sets = label_sets(table)
    averages = {"variant": "Variant"} | {f"AP_{name}": layout.columns[f"AP_{name}"] for name in sets}
    below = {
        f"AP_{name}": [
            ", ".join(filter(None, (f"rank {rank:.0f}", verdict)))
            for rank, verdict in zip(table[f"rank_{name}"], table[f"verdict_{name}"], strict=True)
        ]
        for name in sets
    }
    layout = replace(layout, columns=averages)
    rows = table_rows(table, layout, below=below)
    return _section("truths", "Label sets: Table II with each set of annotations", rows, layout, truth_notes(facts))


def as_is_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of detectors that were not retrained, for the template; intervals are below the averages."""
    layout, cells = as_is_layout(table), as_is_cells(table)
    below = {"Average": cells["Average_interval"].tolist()}
    layout = replace(layout, columns={k: v for k, v in layout.columns.items() if k != "Average_interval"})
    heading = "Not retrained: pretrained detectors on each variant"
    return _section("as-is", heading, table_rows(table, layout, below=below), layout, as_is_notes(facts))


def fusion_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fusion metrics for the template."""
    directions = metric_directions(facts)
    layout, ties = fusion_layout(table, directions), fusion_ties(table, directions)
    notes = [*fusion_notes(table, facts), f"Intervals, shown in the tooltips: {facts['intervals']}."]
    if ties:
        notes.append(f"≈: {TIED_MEANS}")
    heading = "Fusion metrics: quality of the fused images of each method"
    return _section("fusion", heading, table_rows(table, layout, fusion_tip(table), ties), layout, notes)


def fusion_tip(table: pd.DataFrame) -> Callable[[str, str], list[str]]:
    """Return the function of the tooltips of fusion metrics: the interval of the mean, and p against the best."""
    rows, metrics = table.set_index("method"), fusion_metrics(table)

    def tip(method: str, column: str) -> list[str]:
        if column not in metrics:
            return []
        low, high, p = (rows.at[method, f"{column}_{kind}"] for kind in ("low", "high", "p"))
        lines = [] if math.isnan(low) else [f"95 % interval: {_digits(low)} to {_digits(high)}"]
        return lines + ([] if math.isnan(p) else [f"vs. the best: p {printed_p(p)}"])

    return tip


def conditions_section(significance: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table by condition for the template; `facts` come from `condition_facts`."""
    table = condition_table(significance)
    # The bounds are printed below the values, because with columns for them the table would be wider than the page.
    layout, cells = condition_layout(table, bounds=False), condition_cells(table)
    below = {
        name.removesuffix("_interval"): cells[name].tolist() for name in cells.columns if name.endswith("_interval")
    }
    rows = table_rows(cells, layout, below=below)
    heading = "By condition: average precision in parts of the test set, and the difference from each band"
    notes = [*condition_notes(table, facts), "Below each value: its 95 % confidence interval."]
    return _section("conditions", heading, rows, layout, notes)


def errors_section(
    table: pd.DataFrame, facts: Mapping[str, Any], words: str, charts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the error types for the template: `words` as its text, the charts, and the table of `error_table`."""
    layout = error_layout(facts)
    rows = table_rows(table, layout, error_tip(table))
    section = _section("errors", "Error types: loss of AP50 due to each type", rows, layout, error_notes(facts))
    return section | {"text": words, "charts": charts}


def error_tip(table: pd.DataFrame) -> Callable[[str, str], list[str]]:
    """Return the function of the tooltips of gains: the number of errors, a mean over the seeds."""
    rows = table.set_index("variant")

    def tip(variant: str, column: str) -> list[str]:
        counted = f"count_{column.removeprefix('gain_')}"
        return [f"number of errors, no score threshold: {rows.at[variant, counted]:.0f}"] if counted in rows else []

    return tip


def cost_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cost of each row for the template."""
    layout = cost_layout()
    return _section(
        "cost",
        "Cost: fusing a pair, and training the detector",
        table_rows(cost_cells(table), layout),
        layout,
        cost_notes(facts),
    )


def size_section(sizes: pd.DataFrame) -> dict[str, Any]:
    """Return `size_table` for the template."""
    columns = [name for name in sizes.columns if name != "variant"]
    layout = Layout(
        {"variant": "Variant"} | {c: c for c in columns}, dict.fromkeys(columns, 3), dict.fromkeys(columns, True)
    )
    notes = [
        "mAP as in Table II, means over the seeds. Sizes as in COCO, by the area of the ground-truth box: small, below "
        "32x32 pixels; large, from 96x96 pixels; medium, between them."
    ]
    heading = "By size: average precision on small, medium and large objects"
    return _section("parts", heading, table_rows(sizes, layout), layout, notes)


def size_table(runs: Sequence[Run], variants: Sequence[str]) -> pd.DataFrame:
    """Return Average by size of the object.

    One row per variant; columns `variant`, `small`, `medium`, `large`; means over the seeds, NaN if a seed has no
    value. A size without a value in any run has no column.
    """
    rows = []
    for variant in variants:
        mine = [run.scores for run in runs if run.variant == variant]
        values: dict[str, list[float]] = {}
        for scores in mine:
            for name in ("small", "medium", "large"):
                if (value := scores["average"].get(f"AP_{name}")) is not None:
                    values.setdefault(name, []).append(value)
        means = {name: float(np.mean(found)) for name, found in values.items() if len(found) == len(mine)}
        rows.append({"variant": variant, **means})
    return pd.DataFrame(rows)


def table_rows(
    table: pd.DataFrame,
    layout: Layout,
    tip: Callable[[str, str], Sequence[str]] = lambda row, column: (),
    tied: Collection[tuple[str, str]] = (),
    below: Mapping[str, Sequence[str]] | None = None,
) -> list[list[dict[str, Any]]]:
    """Return a table's cells for the template: printed text, mark, the unrounded value to sort by, and the tooltip.

    `tip` returns further lines of the tooltip, given the row's name and the column. `tied` contains row and column of
    each cell that is marked as not significantly different from the best. `below` contains a small second line for the
    cells of some columns.
    """
    cells, marks = printed(table, layout), rank_marks(table, layout)
    return [
        [
            {
                "text": cells.at[row, name],
                "mark": marks.at[row, name],
                "words": name not in layout.digits,
                "below": below[name][row] if below and name in below else "",
                "tied": (table.iat[row, 0], name) in tied,
                "full": _full(table.at[row, name]),
                "tip": "\n".join([_digits(table.at[row, name]), *tip(str(table.iat[row, 0]), name)]),
            }
            for name in layout.columns
        ]
        for row in range(len(table))
    ]


def detection_tip(
    runs: Sequence[Run], fused: Mapping[str, Mapping[str, Any]], significance: Mapping[str, Any] | None
) -> Callable[[str, str], list[str]]:
    """Return the function of Table II's tooltips: provenance for a row's name, seeds and interval for a number."""
    known = significance["variants"] if significance else {}
    values = dict(iter(scores_table(runs).groupby(["variant", "class"], sort=False)))

    def tip(variant: str, column: str) -> list[str]:
        if column == "variant":
            lines = [f"{key}: {str(value)[:70]}" for key, value in list(fused.get(variant, {}).items())[:6]]
            for run in runs:
                if run.variant == variant:
                    facts = run.scores["provenance"]
                    digests = (f"{key} {str(facts[key])[:12]}" for key in ("weights", "training") if key in facts)
                    lines.append(f"detector of seed {run.seed}, SHA-256: {', '.join(digests)}")
            return lines
        if (variant, column) not in values:
            return []
        rows = values[variant, column]
        lines = [f"seed {seed}: {_digits(value)}" for seed, value in zip(rows["seed"], rows["AP"], strict=True)]
        bounds = known.get(variant, {}).get(column, {})
        if bounds.get("low") is not None:
            lines.append(f"95 % interval: {bounds['low']:.3f} to {bounds['high']:.3f}")
        if bounds:
            lines.append(f"{bounds['boxes']} boxes in {bounds['scenes']} scenes")
            undefined = f"undefined in {bounds['undefined']} bootstrap draws" if bounds["undefined"] else ""
            lines += filter(None, (undefined, bounds["remark"]))
        return lines

    return tip


def _section(
    identifier: str, heading: str, rows: list[list[dict[str, Any]]], layout: Layout, notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "id": identifier,
        "heading": heading,
        "columns": list(layout.columns.values()),
        "numeric": [name in layout.digits or name.endswith("_undefined") for name in layout.columns],
        "rows": rows,
        "notes": notes,
        "text": "",
        "charts": [],
    }


def _digits(value: object) -> str:
    return format_value(value, 6)


def _full(value: object) -> str:
    if isinstance(value, str):
        return value
    return format_value(value, 0) if math.isnan(float(value)) else repr(float(value))
