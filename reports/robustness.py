"""Write the tables of robustness: the loss of AP of each variant if one band is corrupted (`detection.losses`).

Writes robustness.csv, one row per kind of corruption, variant and level, and robustness.md and .tex, one table per
kind.
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection.losses import UNCORRUPTED
from pipeline.artefacts import read_json, write_csv
from pipeline.corruptions import CORRUPTIONS
from pipeline.stage import InputError, run
from reports.collect import Split, read_split, require_equal, required
from reports.render import Block, Layout, format_value, rank_marks, write_texts
from reports.runs import Run, check_runs, check_source, read_runs
from reports.verdict import LEARNED

DIGITS = 3
MEAN = "mean"
_ROUNDING = 1e-9  # ap.json and losses.json sum the averages in different orders

Losses = Mapping[str, Any]


def read_losses(files: Sequence[Path], split: Split, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Read losses.json of every kind, and check that each was computed from this split's labels and from `runs`.

    Raises:
        InputError: a file was computed from other labels or predictions, has another average than the ap.json of
            `runs`, has other bootstrap draws than the first file, or repeats the kind of another file.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for file in files:
        losses = read_json(file)
        for key in ("kind", "band", "levels", "variants", "least", "compared", "method", "samples", "provenance"):
            required(losses, key, file)
        if losses["kind"] not in CORRUPTIONS or losses["kind"] in kinds:
            raise InputError(
                f"{file}: found kind {losses['kind']!r}; expected one file for each kind of {', '.join(CORRUPTIONS)}"
            )
        kinds[losses["kind"]] = losses
        stated, first = losses["provenance"], next(iter(kinds.values()))
        own = [one for one in runs if one.variant in losses["variants"]]
        check_source(file, "detection.losses", stated["labels"], stated["predictions"], split, own)
        require_equal(files[0], first, file, losses, ["method", "samples", "seed", "seeds"])
        for variant, found in losses["variants"].items():
            averages = [one.scores["average"]["AP"] for one in own if one.variant == variant]
            expected = np.mean([math.nan if value is None else value for value in averages])
            value = found["AP"]["value"]
            if value is not None and not abs(value - expected) <= _ROUNDING:
                raise InputError(
                    f"{file}: {variant!r} has the average {value:.6f}; expected {expected:.6f} as in its ap.json; run "
                    "detection.losses again"
                )
    return list(kinds.values())


def robustness_table(kinds: Sequence[Losses]) -> pd.DataFrame:
    """Return one row per kind, variant and level; the levels are the uncorrupted images, the kind's levels, their mean.

    Columns are `kind`, `band`, `variant`, `sees` (yes or no: whether the variant uses the band), `level`, `AP`,
    `AP_low`, `AP_high`. The rows of the mean also have `loss`, `kept` and `beyond_least`, each with `_low` and `_high`,
    NaN in other rows. A variant that does not use the band loses 0.
    """
    rows = []
    for losses in kinds:
        for variant, found in losses["variants"].items():
            sees = found["sees"]
            head = {"kind": losses["kind"], "band": losses["band"], "variant": variant, "sees": "yes" if sees else "no"}
            for level, bounds in {UNCORRUPTED: found["AP"], **found["levels"]}.items():
                rows.append({**head, "level": level, **_bounded("AP", bounds)})
            exactly = {share: dict.fromkeys(("value", "low", "high"), share) for share in (0.0, 1.0)}
            beyond = losses["compared"].get(variant, exactly[0.0] if variant == losses["least"] else {})
            rows.append(
                {
                    **head,
                    "level": MEAN,
                    **_bounded("AP", found["mean"] if sees else found["AP"]),
                    **_bounded("loss", found["loss"] if sees else exactly[0.0]),
                    **_bounded("kept", found["kept"] if sees else exactly[1.0]),
                    **_bounded("beyond_least", {"value": beyond.get("difference"), **beyond}),
                }
            )
    frame = pd.DataFrame(rows)
    numbers = frame.columns.difference(["kind", "band", "variant", "sees", "level"])
    return frame.astype(dict.fromkeys(numbers, float))


def robustness_facts(kinds: Sequence[Losses], split: Split, variants: Sequence[str]) -> dict[str, Any]:
    """Return the facts of the table; `variants` are the rows of Table II, some of which may be missing from `kinds`."""
    first = kinds[0]
    return {
        "dataset": split.dataset["dataset"],
        "digest_test": split.dataset["split"]["digest_test"],
        "seeds": " ".join(map(str, first["seeds"])),
        "method": first["method"],
        "samples": first["samples"],
        "left_out": " ".join(name for name in variants if name not in first["variants"]),
        "versions": first["provenance"]["versions"],
    }


def losses_sentence(losses: Losses) -> str:
    """Return sentences on the variant with the smallest loss, the evidence for it, and the best corrupted variant."""
    variants = losses["variants"]
    if max(_number(one["AP"]["value"]) for one in variants.values()) < LEARNED:
        return "The losses are not compared, because no detector was trained to a usable accuracy."
    least = losses["least"]
    if least is None:
        return f"The losses are not compared, because fewer than two variants use {losses['band']}."
    one = variants[least]
    kept = _number(one["kept"]["value"])
    words = (
        f"Among the variants that use {losses['band']}, {least} loses the least mAP: "
        f"{_shown(one['loss']['value'])} of {_shown(one['AP']['value'])}"
        + ("." if math.isnan(kept) else f", that is, it keeps {100 * kept:.0f} %.")
    )
    more = [name for name, entry in losses["compared"].items() if entry["more"]]
    alike = [name for name in losses["compared"] if name not in more]
    if not alike:
        words += f" The confidence intervals show a larger loss for every other variant that uses {losses['band']}."
    elif not more:
        words += " The confidence intervals do not show a larger loss for any other variant that uses "
        words += f"{losses['band']}."
    else:
        words += f" The confidence intervals show a larger loss for {', '.join(more)}, but not for {', '.join(alike)}."
    best = max(variants, key=lambda name: _number(_corrupted_average(variants[name])["value"]))
    unused = "" if variants[best]["sees"] else f", which does not use {losses['band']}"
    value = _shown(_corrupted_average(variants[best])["value"])
    return f"{words} The highest mAP under corruption is that of {best}{unused}: {value}."


def losses_block(losses: Losses, facts: Mapping[str, Any]) -> Block:
    """Return the printed table of one kind."""
    rows = []
    for variant, found in losses["variants"].items():
        loss = found["loss"] if found["sees"] else {"value": 0.0, "low": None, "high": None}
        levels = {level: bounds["value"] for level, bounds in found["levels"].items()}
        rows.append(
            {
                "variant": variant,
                UNCORRUPTED: found["AP"]["value"],
                **levels,
                MEAN: _corrupted_average(found)["value"],
                "loss": loss["value"],
                "interval": _interval(loss),
                "kept": found["kept"]["value"] if found["sees"] else 1.0,
                "comparison": compared_with_least(losses, variant),
            }
        )
    frame = pd.DataFrame(rows)
    numbers = [UNCORRUPTED, *losses["levels"], MEAN, "loss", "kept"]
    frame = frame.astype(dict.fromkeys(numbers, float))
    headings = {level: level_name(losses["kind"], level) for level in losses["levels"]}
    columns = {"variant": "Variant", UNCORRUPTED: "uncorrupted", **headings, MEAN: "mean of levels"}
    columns |= {
        "loss": "loss",
        "interval": "95 % interval",
        "kept": "share of mAP kept",
        "comparison": "difference from the smallest loss",
    }
    layout = Layout(
        columns,
        dict.fromkeys([*numbers, "interval"], DIGITS),
        dict.fromkeys([UNCORRUPTED, *losses["levels"], MEAN], True),
    )
    about = CORRUPTIONS[losses["kind"]].about
    caption = f"{losses['kind']}, {about}: mAP@[0.5:0.95] on {facts['dataset']}, detectors not retrained"
    return Block(losses["kind"], frame, layout, rank_marks(frame, layout), caption, [losses_sentence(losses)])


def level_name(kind: str, level: str) -> str:
    """Return the name of a level of a kind in a table."""
    if kind == "infrared_shift":
        return f"{level} px"
    return f"level {level}" if level.isdigit() else level


def compared_with_least(losses: Losses, variant: str) -> str:
    """Return a text that compares a variant's loss with the smallest loss."""
    if not losses["variants"][variant]["sees"]:
        return f"does not use {losses['band']}"
    if variant == losses["least"]:
        return "smallest"
    entry = losses["compared"].get(variant)
    if entry is None:
        return ""
    bounds = f" ({_interval(entry)})" if _interval(entry) else ""
    return f"{'larger' if entry['more'] else 'unclear'}: {_shown(entry['difference'])}{bounds}"


def robustness_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes that all tables share."""
    seeds = facts["seeds"].split()
    notes = [
        "Nothing is retrained: one band of the test pairs is corrupted, each method fuses the pairs again, and the "
        "detectors of Table II are tested on the results. The ground-truth boxes stay the same, also if infrared is "
        "shifted: they then fit the visible image.",
        "loss: AP on the uncorrupted images minus the mean AP over the corruption levels; share of mAP kept: this mean "
        "divided by AP on the uncorrupted images. Kinds and levels: docs/robustness.md.",
        "difference from the smallest loss: larger = the 95 % interval of the difference is above 0; unclear = it is "
        "not.",
        f"Intervals: {facts['method']}, {facts['samples']} draws, 95 %, for these trained detectors (variance between "
        "trainings not included). Exploratory: the variant with the smallest loss was selected after seeing the "
        "results, and the intervals are not corrected for multiple comparisons.",
        f"Means over the seeds {', '.join(seeds)}." if len(seeds) > 1 else f"One seed ({seeds[0]}).",
    ]
    if facts["left_out"]:
        notes.append(
            f"Left out: {', '.join(facts['left_out'].split())}. They consist of images or detections from outside "
            "this project, which cannot compute them for corrupted pairs."
        )
    return notes


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables of robustness."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.robustness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", type=Path, required=True, help="folder of the prepared split (dataset.json, ...)")
    parser.add_argument("--ap", type=Path, nargs="+", required=True, help="ap.json of every variant and seed")
    parser.add_argument("--losses", type=Path, nargs="+", required=True, help="losses.json of every kind")
    parser.add_argument("--variants", nargs="+", required=True, help="rows of Table II in order")
    parser.add_argument("--output", type=Path, required=True, help="folder for robustness.*")
    options = parser.parse_args(argv)
    split = read_split(options.split)
    runs = read_runs(options.ap, options.variants)
    check_runs(runs, split)
    kinds = read_losses(options.losses, split, runs)
    facts = robustness_facts(kinds, split, options.variants)
    blocks = [losses_block(losses, facts) for losses in kinds]
    blocks[-1] = replace(blocks[-1], notes=[*blocks[-1].notes, *robustness_notes(facts)])
    write_csv(options.output / "robustness.csv", robustness_table(kinds), facts)
    write_texts(options.output / "robustness", blocks)
    for losses in kinds:
        logging.info("%s: %s", losses["kind"], losses_sentence(losses))


def _corrupted_average(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the mean AP over the levels; for a variant that does not use the band, its AP on unchanged images."""
    return found["mean"] if found["sees"] else found["AP"]


def _bounded(name: str, bounds: Mapping[str, Any]) -> dict[str, float]:
    keys = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
    return {column: _number(bounds.get(key)) for column, key in keys.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _shown(value: float | None) -> str:
    return format_value(_number(value), DIGITS)


def _interval(bounds: Mapping[str, Any]) -> str:
    known = bounds["low"] is not None and not math.isnan(bounds["low"])
    return f"{_shown(bounds['low'])} to {_shown(bounds['high'])}" if known else ""


if __name__ == "__main__":
    run(main)
