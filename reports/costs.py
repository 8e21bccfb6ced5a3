"""Write the cost of each row of Table II: cost.csv, .md and .tex.

The cost of fusion is that measured by `fusion.cost`: parameters, multiply-adds, seconds and memory for one pair. The
cost of the detector is the hours of its trainings, from their provenance.json; the parts of an interrupted training are
summed. Values that were not measured are NaN. The hours of training a fusion method are not recorded and not listed.
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.artefacts import read_json, write_csv
from pipeline.stage import InputError, run
from reports.collect import LATE, fused_variants, required
from reports.render import Block, Layout, rank_marks, write_texts
from reports.tables_layout import parameter_notes, parameter_remarks

FUSING = ("parameters", "multiply_adds", "median_s", "peak_memory_bytes")  # keys of cost.json, and columns
TRAINING = ("training_hours", "training_hours_all_seeds", "images_per_s")
# Heading, divisor of the value, and digits.
PRINTED = {
    "parameters": ("fusion: parameters (K)", 1e3, 0),
    "multiply_adds": ("fusion: multiply-adds (G)", 1e9, 2),
    "median_s": ("fusion: seconds per pair", 1, 4),
    "peak_memory_bytes": ("fusion: memory (MB)", 1e6, 0),
    "training_hours": ("detector: hours per training", 1, 3),
    "training_hours_all_seeds": ("detector: hours of all seeds", 1, 3),
    "images_per_s": ("detector: training images/s", 1, 1),
}


def cost_table(
    variants: Sequence[str], costs: Mapping[str, Mapping[str, Any]], trainings: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Return one row per variant: `variant`, the columns FUSING, then TRAINING; NaN if not measured or not applicable.

    `training_hours` and `images_per_s` are means over the seeds, NaN if one of them is unknown.

    Args:
        variants: rows in order.
        costs: the content of cost.json by method.
        trainings: the content of provenance.json of every detector.
    """
    rows = []
    for variant in variants:
        fusing = {key: costs.get(variant, {}).get(key) for key in FUSING}
        speeds = [one.get("speed", {}) for one in trainings if one["variant"] == variant]
        hours, rates = (np.array([s.get(key, math.nan) for s in speeds], float) for key in ("hours", "images_per_s"))
        known = [hours.mean(), hours.sum(), rates.mean()] if speeds else [math.nan] * 3
        rows.append({"variant": variant, **fusing, **dict(zip(TRAINING, known, strict=True))})
    return pd.DataFrame(rows).astype(dict.fromkeys((*FUSING, *TRAINING), float))


def cost_facts(
    costs: Mapping[str, Mapping[str, Any]], trainings: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> dict[str, Any]:
    """Return where the cost was measured: devices, threads and size of the pair, as texts."""
    fused = {f"{c['size'][0]}x{c['size'][1]} on {c['device']}, {_threads(c['threads'])}" for c in costs.values()}
    trained = {f"{one['device']}, {_threads(one['threads'])}" for one in trainings if {"device", "threads"} <= set(one)}
    return {
        "fused_on": "; ".join(sorted(fused)),
        "trained_on": "; ".join(sorted(trained)),
        "seeds": " ".join(map(str, seeds)),
        "parameter_remarks": parameter_remarks(costs),
    }


def cost_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table in printed units; a cell that does not apply (fusing a band, training late) is empty."""
    cells = table.copy()
    fused = table["variant"].isin(fused_variants(table["variant"]))
    for name, (_, unit, _) in PRINTED.items():
        applies = fused if name in FUSING else table["variant"] != LATE
        cells[name] = (table[name] / unit).astype(object).where(applies, "")
    return cells


def cost_layout() -> Layout:
    """Return the layout of `cost_cells`; nothing is ranked."""
    columns = {"variant": "Variant"} | {name: heading for name, (heading, *_) in PRINTED.items()}
    return Layout(columns, {name: digits for name, (*_, digits) in PRINTED.items()}, {})


def cost_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the table."""
    notes = []
    if facts["fused_on"]:
        notes.append(f"Fusion: one pair of {facts['fused_on']}; methods that are not networks have no parameters.")
    notes += parameter_notes(facts)
    if facts["trained_on"]:
        seeds = facts["seeds"].split()
        of = f"are those of seed {seeds[0]}" if len(seeds) == 1 else f"are a mean over the seeds {', '.join(seeds)}"
        notes.append(
            f"Detectors: trained on {facts['trained_on']}; hours per training {of} and include delays by other work on "
            "the machine."
        )
    return [*notes, "n/a: not measured. Empty: does not apply to the row."]


def cost_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return the printed table."""
    cells, layout = cost_cells(table), cost_layout()
    return Block("cost", cells, layout, rank_marks(cells, layout), "Cost of each row of Table II", cost_notes(facts))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table of costs."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.costs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", required=True, help="rows in order")
    parser.add_argument(
        "--training", type=Path, nargs="+", required=True, help="provenance.json of every detector of these variants"
    )
    parser.add_argument(
        "--costs", type=Path, nargs="*", default=[], help="cost.json of every method, as fusion.cost wrote it"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for cost.*")
    options = parser.parse_args(argv)
    costs = {}
    for file in options.costs:
        cost = read_json(file)
        for key in ("method", "device", "threads", "size", *FUSING):
            required(cost, key, file)
        costs[cost["method"]] = cost
    trainings = [(file, read_json(file)) for file in options.training]
    for file, one in trainings:
        for key in ("variant", "seed"):
            required(one, key, file)
    known = {"--costs": list(costs), "--training": [one["variant"] for _, one in trainings]}
    for option, names in known.items():
        if unknown := sorted(set(names) - set(options.variants)):
            raise InputError(
                f"{option}: found variant {unknown[0]!r}; expected one of --variants ({', '.join(options.variants)})"
            )
    facts = cost_facts(costs, [one for _, one in trainings], sorted({one["seed"] for _, one in trainings}))
    table = cost_table(options.variants, costs, [one for _, one in trainings])
    write_csv(options.output / "cost.csv", table, facts)
    write_texts(options.output / "cost", [cost_block(table, facts)])
    logging.info("cost: %d rows in %s", len(table), options.output)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


if __name__ == "__main__":
    run(main)
