"""Write the error types of each variant (`detection.errors`), and the confusion matrices.

Writes errors.csv, .md and .tex, one row per variant, and confusion.csv, one row per variant, seed, true class and
detected class, from the confusion matrix in every ap.json.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection.errors import ALL_AT_ONCE, KINDS
from detection.matching import LEAST_SCORE, MATCH_OVERLAP
from pipeline.artefacts import read_json, write_csv
from pipeline.stage import InputError, run
from reports.collect import Split, read_split, require_equal, required
from reports.render import Block, Layout, format_value, rank_marks, write_texts
from reports.runs import Run, check_runs, check_source, read_runs
from reports.verdict import Leaders

# The errors of each type, as named in a sentence.
PHRASES = {
    "class": "objects assigned to the wrong class",
    "localisation": "poorly localised boxes",
    "both": "poorly localised boxes of the wrong class",
    "duplicate": "duplicate boxes on one object",
    "background": "boxes on background",
    "missed": "missed objects",
}
HEADINGS = {"both": "class + localisation"}  # printed names of types, if they are not the names in the CSV
_ROUNDING = 1e-9  # ap.json and errors.json sum AP50 in different orders


def read_errors(file: Path, split: Split, runs: Sequence[Run]) -> dict[str, Any]:
    """Read errors.json, and check that it was computed from this split's labels and the predictions of `runs`.

    Raises:
        InputError: it was computed from other labels, predictions or numbers of detections, or has another AP50 than
            an ap.json.
    """
    errors = read_json(file)
    for key in ("variants", "people", "foreground", "background", "provenance"):
        required(errors, key, file)
    stated = errors["provenance"]
    check_source(file, "detection.errors", stated["labels"], stated["predictions"], split, runs)
    for one in runs:
        require_equal(one.file, one.scores["provenance"], file, stated, ["most_detections"])
        found, expected = errors["variants"][one.variant]["seeds"][str(one.seed)]["AP50"], one.scores["average"]["AP50"]
        if abs(found - expected) > _ROUNDING:
            raise InputError(
                f"{file}: {one.variant!r} with seed {one.seed} has the AP50 {found:.6f}; expected {expected:.6f} as in "
                f"{one.file}; run detection.errors again"
            )
    return errors


def error_table(errors: Mapping[str, Any], variants: Sequence[str]) -> pd.DataFrame:
    """Return one row per variant with means over the seeds.

    Columns: `variant`; `AP50`; `gain_<kind>`, the gain in AP50 if the errors were corrected, for the six kinds and for
    all false positives and all false negatives; `miss_rate`, NaN if undefined; `count_<kind>`.
    """
    rows = []
    for variant in variants:
        one = errors["variants"][variant]
        gains = {f"gain_{kind}": one["gains"][kind] for kind in (*KINDS, *ALL_AT_ONCE)}
        counts = {f"count_{kind}": one["counts"][kind] for kind in KINDS}
        rows.append({"variant": variant, "AP50": one["AP50"], **gains, "miss_rate": one["miss_rate"], **counts})
    return pd.DataFrame(rows).astype({"miss_rate": float})


def error_facts(errors: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Return the facts of the table."""
    return {
        "dataset": split.dataset["dataset"],
        "digest_test": split.dataset["split"]["digest_test"],
        "seeds": " ".join(next(iter(errors["variants"].values()))["seeds"]),
        "people": errors["people"] or "",
        **{key: errors[key] for key in ("foreground", "background")},
        "most_detections": errors["provenance"]["most_detections"],
        "versions": errors["provenance"]["versions"],
    }


def error_layout(facts: Mapping[str, Any]) -> Layout:
    """Return the layout of the table; gains are not ranked, because they depend on AP50."""
    gains = {f"gain_{kind}": HEADINGS.get(kind, kind) for kind in KINDS} | {
        f"gain_{kind}": f"all {kind.replace('_', ' ')}s" for kind in ALL_AT_ONCE
    }
    columns = {"variant": "Variant", "AP50": "AP50", **gains}
    if facts["people"]:
        columns["miss_rate"] = f"miss rate, {facts['people']}"
    ranked = {name: name == "AP50" for name in ("AP50", "miss_rate") if name in columns}
    return Layout(columns, {name: 3 for name in columns if name != "variant"}, ranked)


def error_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the table."""
    low, high = facts["background"], facts["foreground"]
    notes = [
        "The columns 'class' to 'missed' give the gain in AP50 if all errors of one type, and no others, were "
        "corrected (TIDE, Bolya et al. 2020). The gains are not additive. No score threshold is applied.",
        f"Error types: class = a detection with an IoU of {high} or more with an object of another class; localisation "
        f"= an IoU of {low} to {high} with an object of the same class; {HEADINGS['both']} = an IoU of {low} to {high} "
        "with an object of another class; duplicate = a further detection of an object that is already detected; "
        f"background = an IoU of at most {low} with every object; missed = an object that is not detected and that no "
        "class or localisation error refers to.",
    ]
    if facts["people"]:
        notes.append(
            f"miss rate, {facts['people']}: log-average over 0.01 to 1 false positives per image (Dollár et al. 2012), "
            f"for boxes of all sizes at an IoU of {high}; only crowd regions are ignored. Lower is better."
        )
    else:
        notes.append("No log-average miss rate: no class is named person, people or pedestrian.")
    seeds = facts["seeds"].split()
    means = f"Means over the seeds {', '.join(seeds)}" if len(seeds) > 1 else f"One seed ({seeds[0]})"
    return [*notes, f"{means}. No significance test is made for this table."]


def error_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return the printed table."""
    layout = error_layout(facts)
    caption = f"Error types on {facts['dataset']}: the gain in AP50 if all errors of a type were corrected"
    return Block("errors", table, layout, rank_marks(table, layout), caption, error_notes(facts))


def error_sentences(table: pd.DataFrame, lead: Leaders, people: str) -> str:
    """Return sentences on the errors of the best fused variant, compared with the errors of the better band.

    Differences are computed from printed values. Without a fused variant, the sentences describe the better band.
    """
    rows = table.set_index("variant").round(3)
    described = lead.fused or lead.band
    if described is None:
        return ""
    gains = pd.Series({kind: rows.at[described, f"gain_{kind}"] for kind in KINDS})
    most, average = str(gains.idxmax()), rows.at[described, "AP50"]
    sentences = [
        f"The most costly errors of {described} are {PHRASES[most]}: if they were corrected, its AP50 would be "
        f"{average + gains[most]:.3f} instead of {average:.3f}."
    ]
    if lead.fused and lead.band:
        less = gains - pd.Series({kind: rows.at[lead.band, f"gain_{kind}"] for kind in KINDS})
        parts = [
            f"{word} through {PHRASES[kind]} ({gains[kind]:.3f} instead of {rows.at[lead.band, f'gain_{kind}']:.3f})"
            for word, kind, some in (
                ("less AP50", str(less.idxmin()), less.min() < -0.0005),
                ("more AP50", str(less.idxmax()), less.max() > 0.0005),
            )
            if some
        ]
        if parts:
            sentences.append(f"Compared with {lead.band}, the better band, {lead.fused} loses {' and '.join(parts)}.")
        rates = rows.loc[[lead.fused, lead.band], "miss_rate"]
        if people and rates.notna().all():
            sentences.append(
                f"The log-average miss rate of {lead.fused} for {people} is {rates.iloc[0]:.3f}; that of {lead.band} "
                f"is {rates.iloc[1]:.3f}."
            )
    return " ".join([*sentences, "None of these numbers was tested for significance."])


def confusion_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the confusion matrices of all runs: `variant`, `seed`, `true`, `found`, `count`; `background`: no object.

    Raises:
        InputError: an ap.json has no confusion matrix.
    """
    rows = []
    for one in runs:
        confusion = required(one.scores, "confusion", one.file)
        for true, counts in zip(confusion["classes"], confusion["counts"], strict=True):
            for found, count in zip(confusion["classes"], counts, strict=True):
                rows.append((one.variant, one.seed, true, found, count))
    return pd.DataFrame(rows, columns=["variant", "seed", "true", "found", "count"])


def mean_confusions(table: pd.DataFrame) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the classes, `background` last, and per variant the mean counts over the seeds, (true, found)."""
    classes = list(dict.fromkeys(table["true"]))
    means = {}
    for variant, rows in table.groupby("variant", sort=False):
        counts = rows.pivot_table(index="true", columns="found", values="count", aggfunc="mean")
        means[str(variant)] = counts.loc[classes, classes].to_numpy()
    return classes, means


CONFUSION = (
    f"Rows: true class; columns: detected class. Detections with a score of at least {LEAST_SCORE} are matched to "
    f"objects of any class at an IoU of at least {MATCH_OVERLAP}. Counts are means over the seeds; colours are "
    'normalised per row (per true class). The column "background" counts missed objects; the row "background" counts '
    "detections that match no object."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables of errors and of the confusion matrices."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.errors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", type=Path, required=True, help="folder of the prepared split (dataset.json, ...)")
    parser.add_argument("--ap", type=Path, nargs="+", required=True, help="ap.json of every variant and seed")
    parser.add_argument("--errors", type=Path, required=True, help="errors.json of detection.errors")
    parser.add_argument("--variants", nargs="+", required=True, help="rows in order")
    parser.add_argument("--output", type=Path, required=True, help="folder for errors.* and confusion.csv")
    options = parser.parse_args(argv)
    split = read_split(options.split)
    runs = read_runs(options.ap, options.variants)
    check_runs(runs, split)
    errors = read_errors(options.errors, split, runs)
    table, facts = error_table(errors, options.variants), error_facts(errors, split)
    confusion = confusion_table(runs)
    write_csv(options.output / "errors.csv", table, facts)
    write_texts(options.output / "errors", [error_block(table, facts)])
    about = {"least_score": LEAST_SCORE, "overlap": MATCH_OVERLAP, "digest_test": facts["digest_test"]}
    write_csv(options.output / "confusion.csv", confusion, about)
    for row in table.itertuples():
        logging.info(
            "%-12s AP50 %s, miss rate %s", row.variant, format_value(row.AP50, 3), format_value(row.miss_rate, 3)
        )


if __name__ == "__main__":
    run(main)
