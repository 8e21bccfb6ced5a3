"""The table by condition: each variant's average precision under each condition, and its difference from each band."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.collect import BANDS
from reports.render import Block, Layout, format_value, rank_marks

DIGITS = 3


def condition_table(significance: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per condition and variant, in the order of significance.json.

    Columns: `condition`; `variant`; `AP`, the mAP over the classes with boxes, a fraction, averaged over the seeds;
    `less_<band>` for each band, AP minus the band's AP; `_low` and `_high` of all of these, the 95 % intervals;
    `undefined`, the number of draws with undefined AP; and the size of the condition: `images`, `boxes`, `scenes` that
    contain them, `remark`. Values are NaN if undefined, and for a band minus itself.
    """
    bands = [band for band in BANDS if band in significance["variants"]]
    rows = []
    for condition, found in significance["conditions"].items():
        differences = {(entry["first"], entry["second"]): entry for entry in found["differences"]}
        for variant, entry in found["variants"].items():
            row = {"condition": condition, "variant": variant} | _bounded("AP", entry, "AP")
            for band in bands:
                row |= _bounded(f"less_{band}", differences.get((variant, band), {}), "difference")
            facts = {key: found[key] for key in ("images", "boxes", "scenes", "remark")}
            rows.append({**row, "undefined": entry["undefined"], **facts})
    values = [f"{name}{bound}" for name in ("AP", *(f"less_{b}" for b in bands)) for bound in ("", "_low", "_high")]
    columns = ["condition", "variant", *values, "undefined", "images", "boxes", "scenes", "remark"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(values, float))


def condition_layout(table: pd.DataFrame, bounds: bool = True) -> Layout:
    """Return the layout of `condition_cells`; `bounds` adds columns for the intervals."""
    columns = {"condition": "Condition", "variant": "Variant"}
    for name in _values(table):
        columns[name] = name.replace("less_", "difference from ")
        if bounds:
            columns[f"{name}_interval"] = "95 % interval"
    return Layout(columns, {name: DIGITS for name in columns if name not in ("condition", "variant")}, {})


def condition_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each pair of bounds as one text, `<column>_interval`, empty if undefined.

    The cell of a band minus itself is empty, too, because it is not an undefined number.
    """
    cells = table.copy()
    for name in _values(table):
        pairs = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        cells[f"{name}_interval"] = [
            "" if math.isnan(low) else f"{format_value(low, DIGITS)} to {format_value(high, DIGITS)}"
            for low, high in pairs
        ]
        itself = table["variant"] == name.removeprefix("less_")
        cells[name] = table[name].astype(object).mask(itself, "")
    return cells


def condition_notes(table: pd.DataFrame, facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes: the size of each condition, the method, and that all comparisons are exploratory."""
    if table.empty:
        return ["No test image has a known condition."]
    conditions = table.drop_duplicates("condition")
    notes = [
        f"{row.condition}: {row.images} images, {row.boxes} boxes in {row.scenes} scenes"
        + (f"; {row.remark}." if row.remark else ".")
        for row in conditions.itertuples()
    ]
    without = int(facts["test_images"]) - int(conditions["images"].sum())
    if facts["conditions"]:
        notes.append(f"Source of the conditions: {facts['conditions']}.")
    if without:
        notes.append(f"Test images without a condition: {without}.")
    return [
        *notes,
        "AP: mAP over the classes that occur in the condition, averaged over the seeds. Intervals: 95 % confidence "
        f"intervals from a bootstrap over the {facts['unit']}s of each condition ({facts['samples']} resamples), for "
        "these trained detectors (variance between trainings not included), not corrected for multiple comparisons.",
        "Exploratory: no significance test is made here. Among many differences, some intervals exclude 0 by chance.",
    ]


def condition_facts(facts: Mapping[str, Any], significance: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the facts of the table: Table II's facts, the source of the conditions, and the bootstrap's unit."""
    own = {"conditions": source, "unit": significance["unit"], "samples": significance["samples"]}
    return {**facts, **own}


def condition_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return the printed table; a condition's name is only in its first row."""
    cells, layout = condition_cells(table), condition_layout(table)
    again = table["condition"].duplicated()
    cells["condition"] = cells["condition"].mask(again, "")
    caption = f"Average precision, mAP@[0.5:0.95], by condition of the test images of {facts['dataset']}"
    starts = [row for row in range(1, len(table)) if not again.iloc[row]]
    return Block(
        "table2_conditions", cells, layout, rank_marks(cells, layout), caption, condition_notes(table, facts), starts
    )


def _values(table: pd.DataFrame) -> list[str]:
    """Return the columns that have intervals."""
    return [name.removesuffix("_low") for name in table.columns if name.endswith("_low")]


def _bounded(name: str, entry: Mapping[str, Any], key: str) -> dict[str, float]:
    """Return a value of significance.json and its bounds as columns; NaN for missing values."""
    found = {name: entry.get(key), f"{name}_low": entry.get("low"), f"{name}_high": entry.get("high")}
    return {column: math.nan if value is None else value for column, value in found.items()}
