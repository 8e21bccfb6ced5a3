"""The table by condition: each variant's average in every condition of the test set, and less each single band."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.collect import BANDS
from reports.render import Block, Layout, format_value, rank_marks

DIGITS = 3


def condition_table(significance: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each condition and variant, in the order of significance.json.

    Columns `condition`, `variant`, `AP` (the average over the classes with boxes, a fraction, mean over the seeds), for
    each band `less_<band>`, the difference from it, with `_low` and `_high` for the 95 % intervals of all of these;
    `undefined` draws of AP; then what the condition rests on: `images`, `boxes`, `scenes` that hold them, `remark`.
    NaN where undefined, and for a band less itself.
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
    """Return how `condition_cells` are printed; `bounds` gives columns of their own to the intervals."""
    columns = {"condition": "Condition", "variant": "Variant"}
    for name in _values(table):
        columns[name] = name.replace("_", " ")
        if bounds:
            columns[f"{name}_interval"] = "95 % interval"
    return Layout(columns, {name: DIGITS for name in columns if name not in ("condition", "variant")}, {})


def condition_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each pair of bounds as one text, `<column>_interval`, empty where there is none.

    A band less itself is empty, too: it is no unknown number.
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
    """Return the footnotes: what each condition rests on, and that all of it is exploration."""
    if table.empty:
        return ["No condition is known of any test image."]
    conditions = table.drop_duplicates("condition")
    notes = [
        f"{row.condition}: {row.images} images, {row.boxes} boxes in {row.scenes} scenes"
        + (f"; {row.remark}." if row.remark else ".")
        for row in conditions.itertuples()
    ]
    silent = int(facts["test_images"]) - int(conditions["images"].sum())
    notes.append(
        "Conditions"
        + (f" by {facts['conditions']}" if facts["conditions"] else "")
        + (f"; {silent} test images are in none." if silent else ".")
    )
    return [
        *notes,
        "AP: the average over the classes with boxes in the condition, a mean over the seeds. Intervals: bootstrap of "
        f"each condition's whole {facts['unit']}s, {facts['samples']} draws, 95 %, of these trained detectors, each by "
        "itself.",
        "Exploration: nothing is tested here, and of many differences some leave out 0 by chance.",
    ]


def condition_facts(facts: Mapping[str, Any], significance: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what the table says of itself: Table II's facts, who knows the conditions, and what was drawn."""
    own = {"conditions": source, "unit": significance["unit"], "samples": significance["samples"]}
    return {**facts, **own}


def condition_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return what is printed; a condition's name stands in its first row."""
    cells, layout = condition_cells(table), condition_layout(table)
    again = table["condition"].duplicated()
    cells["condition"] = cells["condition"].mask(again, "")
    caption = f"Average precision, mAP@[0.5:0.95], in each condition of {facts['dataset']}'s test images"
    starts = [row for row in range(1, len(table)) if not again.iloc[row]]
    return Block(
        "table2_conditions", cells, layout, rank_marks(cells, layout), caption, condition_notes(table, facts), starts
    )


def _values(table: pd.DataFrame) -> list[str]:
    """Return the columns that have intervals."""
    return [name.removesuffix("_low") for name in table.columns if name.endswith("_low")]


def _bounded(name: str, entry: Mapping[str, Any], key: str) -> dict[str, float]:
    """Return a value of significance.json and its bounds as columns; NaN for what it has not."""
    found = {name: entry.get(key), f"{name}_low": entry.get("low"), f"{name}_high": entry.get("high")}
    return {column: math.nan if value is None else value for column, value in found.items()}
