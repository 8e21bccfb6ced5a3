"""Layout of Tables I and III: the means with their marks, the paper's numbers next to ours, the intervals."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports import paper
from reports.collect import BANDS, fused_variants, read_table
from reports.means import ALPHA
from reports.render import Block, Layout, format_value, rank_marks
from reports.tables_layout import METRIC_DIGITS, arrow, metric_directions, parameter_notes, trained_notes

METRICS = ("MI", "VIF", "Qabf", "SSIM")  # the paper's metrics
COSTS = {"Params (K)": ("parameters", 1e-3), "MACs (G)": ("multiply_adds", 1e-9), "Runtime (s)": ("median_s", 1)}
DIGITS = {"Params (K)": 0, "MACs (G)": 2, "Runtime (s)": 3, **METRIC_DIGITS}  # others: 2, as in the paper
CAPTIONS = {
    "table1": "Fusion metrics and cost, each dataset processed as by FNet's authors",
    "table1_equal": "Fusion metrics and cost, all datasets processed alike and stored without loss",
    "table3": "Fusion metrics of FNet and of its ablations",
}


def read_blocks(file: Path) -> list[Block]:
    """Return the printed tables of a CSV that reports.test_sets wrote."""
    table, facts = read_table(file, text=("best", "tied"))
    return printed_blocks(file.stem, table, list(table.columns[2 : table.columns.get_loc("images")]), facts)


def printed_blocks(name: str, table: pd.DataFrame, columns: Sequence[str], facts: Mapping[str, Any]) -> list[Block]:
    """Return the printed tables: the means, the paper's numbers next to ours if it has any, the intervals."""
    headings = {column: _heading(column) for column in columns}
    means = {
        column: [
            _number(row[column], row["quantity"]) + ("*" if column in row["tied"].split() else "")
            for _, row in table.iterrows()
        ]
        for column in columns
    }
    scored = table[~table["quantity"].isin(COSTS)].reset_index(drop=True)
    intervals = {
        column: [
            f"{_number(low, quantity)} to {_number(high, quantity)}" if not math.isnan(low) else _number(low, quantity)
            for low, high, quantity in zip(
                scored[f"{column}_low"], scored[f"{column}_high"], scored["quantity"], strict=True
            )
        ]
        for column in columns
    }
    caption, notes = CAPTIONS[name], table_notes(table, columns, facts)
    resampled = (
        "95 % intervals of the means above: percentile bootstrap over the images of a dataset, 10,000 resamples."
    )
    if "scenes" in facts:
        resampled += f" For these datasets, intervals and tests resample scenes: {facts['scenes']}."
    blocks = [
        _block(name, table, means, headings, caption, notes, row_marks(table, columns)),
        _block(
            f"{name}-intervals", scored, intervals, headings, f"{caption}: 95 % intervals of the means", [resampled]
        ),
    ]
    with_paper = [column for column in columns if f"{column}_paper" in table]
    if with_paper:
        blocks.insert(1, _paper_block(name, table, with_paper, facts))
    return blocks


def _paper_block(name: str, table: pd.DataFrame, columns: Sequence[str], facts: Mapping[str, Any]) -> Block:
    """Return the table of the paper's numbers next to ours, for the columns that the paper has."""
    cells, headings = {}, {}
    quantities = table["quantity"]
    for column in columns:
        theirs, difference = f"{column}_paper", f"{column}_difference"
        headings |= {column: _heading(column), theirs: "paper", difference: "difference"}
        cells[column] = [_number(v, q) for v, q in zip(table[column], quantities, strict=True)]
        cells[theirs] = ["" if math.isnan(v) else _number(v, q) for v, q in zip(table[theirs], quantities, strict=True)]
        cells[difference] = [_difference(v, q) for v, q in zip(table[difference], quantities, strict=True)]
    notes = [f"Paper: {facts['paper']}. Difference: ours minus the paper's."]
    notes += [_agreement(table, column) for column in columns]
    if "fnet" in columns and (quantities == "MACs (G)").any():
        notes.append(paper.GFLOPS_NOTE + " The paper's runtimes were measured on another machine.")
    caption = f"{CAPTIONS[name]}: the paper's numbers next to ours"
    return _block(f"{name}-paper", table, cells, headings, caption, notes)


def row_marks(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return `best`, `second` or an empty text for each printed cell, ranked within each row.

    Source images are not ranked. Costs are ranked only among networks, because other methods have no operations to
    count.
    """
    marks = pd.DataFrame("", index=range(len(table)), columns=["dataset", "quantity", *columns])
    fused = fused_variants(columns)
    networks = fused
    if (table["quantity"] == "MACs (G)").any():
        counted = table.loc[table["quantity"] == "MACs (G)", fused].notna().any()
        networks = [column for column in fused if counted[column]]
    directions = metric_directions({})
    for index, quantity in enumerate(table["quantity"]):
        ranked = networks if quantity in COSTS else fused
        layout = Layout({"x": ""}, {"x": DIGITS.get(quantity, 2)}, {"x": directions.get(quantity, False)})
        column = pd.DataFrame({"x": table.loc[index, ranked].to_numpy(np.float64)})
        marks.loc[index, ranked] = rank_marks(column, layout)["x"].to_numpy()
    return marks


def table_notes(table: pd.DataFrame, columns: Sequence[str], facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the table of means."""
    scored = table[~table["quantity"].isin(COSTS)]
    fused = fused_variants(columns)
    notes = [
        f"Convention of the metrics: '{facts['convention']}' ({facts.get('definition', '')}). Means over the images, "
        "whose number is in parentheses.",
        "Treatment: " + "; ".join(f"{name} {how}" for name, how in facts["treatments"].items()) + ".",
        *trained_notes(facts["fused"]),
        "Bold: best of the row; underlined: second best; ties after rounding are marked alike. n/a: undefined.",
        f"*: not significantly different from the best of the row (two-sided paired sign-flip test over the images, p "
        f"at least {ALPHA} after Holm's correction for the number of methods in the row).",
    ]
    if any(band in columns for band in BANDS):
        # The sign is changed if a lower value is better.
        sign = scored["quantity"].map(metric_directions({})).map({True: 1, False: -1})
        bands, methods = (
            scored[names].mul(sign, axis=0).max(axis=1) for names in ([b for b in BANDS if b in columns], fused)
        )
        beaten = scored[bands > methods]
        where = ", ".join(f"{metric} {n}" for metric, n in beaten["quantity"].value_counts(sort=False).items())
        notes.append(
            "visible and infrared are the source images, scored in place of a fused image and not ranked. One of them "
            f"scores better than every method in {len(beaten)} of {len(scored)} rows"
            + (f" ({where})." if where else ".")
        )
    if "cost" in facts:
        cost = facts["cost"]
        notes.append(
            f"Cost of one pair of {cost['size'][0]}x{cost['size'][1]} pixels: trainable parameters; multiply-adds of "
            f"convolutions, matrix products and attention, counted by tracing; median runtime on {cost['device']}, "
            f"{cost['threads']} CPU threads. Methods that are not networks have no multiply-adds to count and are not "
            "ranked."
        )
        notes += parameter_notes(facts)
    if any(name.endswith("_undefined") for name in table):
        notes.append("Undefined values are left out of a mean; the CSV counts them.")
    return notes


def _block(
    name: str,
    table: pd.DataFrame,
    cells: Mapping[str, Sequence[str]],
    headings: Mapping[str, str],
    caption: str,
    notes: Sequence[str],
    marks: pd.DataFrame | None = None,
) -> Block:
    """Return one printed table: the dataset with its number of images (only once), the quantity, then `cells`."""
    datasets, quantities = table["dataset"].tolist(), table["quantity"].tolist()
    starts = [row for row, name in enumerate(datasets) if name and (row == 0 or datasets[row - 1] != name)]
    names = [f"{datasets[row]} ({table['images'].iloc[row]:.0f})" if row in starts else "" for row in range(len(table))]
    directions = metric_directions({})
    printed = [name.replace("_", " ") + (arrow(directions[name]) if name in directions else "") for name in quantities]
    frame = pd.DataFrame({"dataset": names, "quantity": printed, **cells})
    layout = Layout({"dataset": "Dataset", "quantity": "", **headings}, dict.fromkeys(headings, 2), {})
    marks = rank_marks(frame, layout) if marks is None else marks
    return Block(name, frame, layout, marks, caption, notes, [row for row in starts if row])


def _heading(column: str) -> str:
    return column.replace("_", " ")


def _number(value: float, quantity: str) -> str:
    digits = DIGITS.get(quantity, 2)
    # A time is never printed as 0, only as less than its last digit.
    if quantity == "Runtime (s)" and 0 < value < 0.5 * 10**-digits:
        return f"<{10**-digits}"
    # Nor is a network printed as one without parameters.
    if quantity == "Params (K)" and 0 < value < 0.5:
        return f"{value:.3g}"
    return format_value(value, digits)


def _difference(value: float, quantity: str) -> str:
    """Return a difference with its sign, with one digit more than in the paper; empty if undefined."""
    if math.isnan(value):
        return ""
    text = f"{value:+.{0 if quantity in COSTS else 3}f}"
    return text if text.strip("+-0.") else text[1:]


def _agreement(table: pd.DataFrame, column: str) -> str:
    """Return a sentence on how many of a column's metrics equal the paper's as printed, and which differ."""
    rows = table[~table["quantity"].isin(COSTS) & table[f"{column}_paper"].notna()]
    equal = [_number(row[column], "") == _number(row[f"{column}_paper"], "") for _, row in rows.iterrows()]
    others = [
        f"{row['dataset']} {row['quantity']}" for (_, row), same in zip(rows.iterrows(), equal, strict=True) if not same
    ]
    text = f"{_heading(column)}: {sum(equal)} of {len(equal)} metrics equal the paper's as printed"
    return text + (f"; different: {', '.join(others)}." if others else ".")
