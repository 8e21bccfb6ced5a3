"""Write what each row of Table II cost: cost.csv, .md and .tex.

Of fusing, what `fusion.cost` measured: parameters, multiply-adds, seconds and memory of one pair. Of the detector, the
hours that its trainings took, from their provenance.json, all parts of a training that was stopped together. What was
not measured is NaN. The hours of a fusion method's own training are in no file of it and not listed.
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

FUSING = ("parameters", "multiply_adds", "median_s", "peak_memory_bytes")  # keys of cost.json, columns of ours
TRAINING = ("training_hours", "training_hours_all_seeds", "images_per_s")
# Printed heading, what a value is divided by, and digits.
PRINTED = {
    "parameters": ("fusing: parameters (K)", 1e3, 0),
    "multiply_adds": ("fusing: multiply-adds (G)", 1e9, 2),
    "median_s": ("fusing: seconds a pair", 1, 4),
    "peak_memory_bytes": ("fusing: memory (MB)", 1e6, 0),
    "training_hours": ("detector: hours a training", 1, 3),
    "training_hours_all_seeds": ("detector: hours, all seeds", 1, 3),
    "images_per_s": ("detector: images/s in training", 1, 1),
}


def cost_table(
    variants: Sequence[str], costs: Mapping[str, Mapping[str, Any]], trainings: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Return one row a variant: `variant`, the columns FUSING, then TRAINING; NaN where not measured or none there.

    `training_hours` and `images_per_s` are means over the seeds, NaN where one of them is not known.

    Args:
        variants: rows in order.
        costs: cost.json by method.
        trainings: provenance.json of every detector.
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
    """Return where it was measured: devices, threads and size of the pair, as words."""
    fused = {f"{c['size'][0]}x{c['size'][1]} on {c['device']}, {_threads(c['threads'])}" for c in costs.values()}
    trained = {f"{one['device']}, {_threads(one['threads'])}" for one in trainings if {"device", "threads"} <= set(one)}
    return {
        "fused_on": "; ".join(sorted(fused)),
        "trained_on": "; ".join(sorted(trained)),
        "seeds": " ".join(map(str, seeds)),
    }


def cost_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table in printed units; what a row does not do (a band is not fused, late not trained) is empty."""
    cells = table.copy()
    fused = table["variant"].isin(fused_variants(table["variant"]))
    for name, (_, unit, _) in PRINTED.items():
        does = fused if name in FUSING else table["variant"] != LATE
        cells[name] = (table[name] / unit).astype(object).where(does, "")
    return cells


def cost_layout() -> Layout:
    """Return how `cost_cells` are printed; nothing is ranked."""
    columns = {"variant": "Variant"} | {name: heading for name, (heading, *_) in PRINTED.items()}
    return Layout(columns, {name: digits for name, (*_, digits) in PRINTED.items()}, {})


def cost_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the table."""
    notes = []
    if facts["fused_on"]:
        notes.append(f"Fusing: one pair of {facts['fused_on']}; methods that are no network have no parameters.")
    if facts["trained_on"]:
        notes.append(
            f"Training of the detector on {facts['trained_on']}; hours a training are a mean over the seeds "
            f"({', '.join(facts['seeds'].split())}). Other work on the machine lengthens them."
        )
    return [*notes, "n/a: not measured. Empty: the row does no such thing."]


def cost_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return the table as it is printed."""
    cells, layout = cost_cells(table), cost_layout()
    return Block("cost", cells, layout, rank_marks(cells, layout), "What each row cost", cost_notes(facts))


def main(argv: Sequence[str] | None = None) -> None:
    """Read, write."""
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
        if stray := sorted(set(names) - set(options.variants)):
            raise InputError(f"{option}: {stray[0]!r} is no row of --variants ({', '.join(options.variants)})")
    facts = cost_facts(costs, [one for _, one in trainings], sorted({one["seed"] for _, one in trainings}))
    table = cost_table(options.variants, costs, [one for _, one in trainings])
    write_csv(options.output / "cost.csv", table, facts)
    write_texts(options.output / "cost", [cost_block(table, facts)])
    logging.info("cost of %d rows in %s", len(table), options.output)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"


if __name__ == "__main__":
    run(main)
