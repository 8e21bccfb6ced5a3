"""The page's tables that can be sorted: cells with what hovering over them says, headings and notes."""

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
from reports.inside import told_column
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

TIES = "≈: Average is not shown to differ from the best one's (exploration; see Against the best)."
SEEDS_BELOW = "Below an average: the lowest to the highest seed."
INTERVAL_BELOW = "Below an average: its 95 % interval."
DETECTOR_BELOW = "Below Against both bands: the same against fusing in the detector."


def detection_section(
    table: pd.DataFrame,
    facts: Mapping[str, Any],
    split: Split,
    runs: Sequence[Run],
    fused: Mapping[str, Mapping[str, Any]],
    significance: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return Table II for the template; `fused` holds the facts of each method's manifest."""
    # The bounds stand below the averages: with columns of their own the table would be wider than the page.
    layout, cells = detection_layout(table, split.classes, bounds=False), detection_cells(table)
    tied = {(variant, "Average") for variant in tied_with_best(table, significance)}
    bounds = cells["Average_interval" if "Average_interval" in cells else "Average_seeds"].tolist()
    words = told_column(table, "against_inside")
    beside = [f"detector: {word}" if word else "" for word in table[words].fillna("")] if words in table else []
    below = {"Average": bounds, "variant": table["remark"].tolist() if "remark" in table else [""] * len(table)}
    if "ours_less_paper" in cells:
        below["Average_paper"] = cells["ours_less_paper"].tolist()
    notes = detection_notes(facts)
    if any(bounds):
        notes.append(INTERVAL_BELOW if "Average_interval" in cells else SEEDS_BELOW)
    if beside:
        below[told_column(table, "against_bands")] = beside
        notes.append(DETECTOR_BELOW)
    if significance and tied:
        notes.append(TIES)
    rows = table_rows(table, layout, detection_tip(runs, fused, significance), tied, below)
    return _section("table2", "Table II: the detector on each variant", rows, layout, notes)


def truth_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return Table II by every label set for the template; ranks and verdicts stand below the averages."""
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
    return _section("truths", "Whose boxes: Table II by every label set", rows, layout, truth_notes(facts))


def as_is_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of detectors that were not retrained for the template; intervals stand below the averages."""
    layout, cells = as_is_layout(table), as_is_cells(table)
    below = {"Average": cells["Average_interval"].tolist()}
    layout = replace(layout, columns={k: v for k, v in layout.columns.items() if k != "Average_interval"})
    heading = "Not retrained: detectors of elsewhere on each variant"
    return _section("as-is", heading, table_rows(table, layout, below=below), layout, as_is_notes(facts))


def fusion_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fusion metrics for the template."""
    directions = metric_directions(facts)
    layout, ties = fusion_layout(table, directions), fusion_ties(table, directions)
    notes = [*fusion_notes(table, facts), f"Intervals, below the pointer: {facts['intervals']}."]
    if ties:
        notes.append(f"≈: {TIED_MEANS}")
    heading = "Fusion metrics: the images of each method"
    return _section("fusion", heading, table_rows(table, layout, fusion_tip(table), ties), layout, notes)


def fusion_tip(table: pd.DataFrame) -> Callable[[str, str], list[str]]:
    """Return what hovering over a fusion metric adds: the interval of the mean, and p against the best."""
    rows, metrics = table.set_index("method"), fusion_metrics(table)

    def tip(method: str, column: str) -> list[str]:
        if column not in metrics:
            return []
        low, high, p = (rows.at[method, f"{column}_{kind}"] for kind in ("low", "high", "p"))
        lines = [] if math.isnan(low) else [f"95 % interval: {_digits(low)} to {_digits(high)}"]
        return lines + ([] if math.isnan(p) else [f"against the best: p {printed_p(p)}"])

    return tip


def conditions_section(significance: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table by condition for the template; `facts` are those of `condition_facts`."""
    table = condition_table(significance)
    # The bounds stand below the values: with columns of their own the table would be wider than the page.
    layout, cells = condition_layout(table, bounds=False), condition_cells(table)
    below = {
        name.removesuffix("_interval"): cells[name].tolist() for name in cells.columns if name.endswith("_interval")
    }
    rows = table_rows(cells, layout, below=below)
    heading = "By condition: average precision in parts of the test set, and less each band"
    notes = [*condition_notes(table, facts), "Below a value: its 95 % interval."]
    return _section("conditions", heading, rows, layout, notes)


def errors_section(
    table: pd.DataFrame, facts: Mapping[str, Any], words: str, charts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the kinds of errors for the template: `words` above, the charts, and the table of `error_table`."""
    layout = error_layout(facts)
    rows = table_rows(table, layout, error_tip(table))
    section = _section("errors", "What kind of mistakes", rows, layout, error_notes(facts))
    return section | {"text": words, "charts": charts}


def error_tip(table: pd.DataFrame) -> Callable[[str, str], list[str]]:
    """Return what hovering over a gain adds: how many errors there are, a mean over the seeds."""
    rows = table.set_index("variant")

    def tip(variant: str, column: str) -> list[str]:
        counted = f"count_{column.removeprefix('gain_')}"
        return [f"errors of all scores: {rows.at[variant, counted]:.0f}"] if counted in rows else []

    return tip


def cost_section(table: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each row cost for the template."""
    layout = cost_layout()
    return _section(
        "cost",
        "Cost: of fusing, and of training the detector",
        table_rows(cost_cells(table), layout),
        layout,
        cost_notes(facts),
    )


def parts_section(parts: pd.DataFrame) -> dict[str, Any]:
    """Return `parts_table` for the template."""
    columns = [name for name in parts.columns if name != "variant"]
    layout = Layout(
        {"variant": "Variant"} | {c: c for c in columns}, dict.fromkeys(columns, 3), dict.fromkeys(columns, True)
    )
    notes = [
        "Average as in Table II, means over the seeds. Sizes are COCO's, by the true box: small below 32x32 pixels, "
        "large from 96x96."
    ]
    heading = "By size: the detector on small and large objects"
    return _section("parts", heading, table_rows(parts, layout), layout, notes)


def parts_table(runs: Sequence[Run], variants: Sequence[str]) -> pd.DataFrame:
    """Return Average by size of the object.

    One row a variant, columns `variant`, `small`, `medium`, `large`; means over the seeds, NaN where a seed has none.
    Columns that no run knows are left out.
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
    """Return a table's cells for the template: printed text, mark, the full value to sort by, and what hovering says.

    `tip` adds lines to what hovering says, given the row's name and the column's. `tied` holds row and column of each
    cell that is marked as not shown to differ from the best. `below` holds a small second line for the cells of some
    columns.
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
    """Return what hovering over Table II adds: over a row's name its provenance, over a number seeds and interval."""
    known = significance["variants"] if significance else {}
    values = dict(iter(scores_table(runs).groupby(["variant", "class"], sort=False)))

    def tip(variant: str, column: str) -> list[str]:
        if column == "variant":
            lines = [f"{key}: {str(value)[:70]}" for key, value in list(fused.get(variant, {}).items())[:6]]
            for run in runs:
                if run.variant == variant:
                    facts = run.scores["provenance"]
                    digests = (f"{key} {str(facts[key])[:12]}" for key in ("weights", "training") if key in facts)
                    lines.append(f"detector, seed {run.seed}: {', '.join(digests)}")
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
            undefined = f"{bounds['undefined']} draws undefined" if bounds["undefined"] else ""
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
