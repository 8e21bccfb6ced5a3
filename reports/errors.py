"""Write the kinds of errors of each variant (`detection.errors`), and which classes were taken for others.

Writes errors.csv, .md and .tex, one row a variant, and confusion.csv, one row a variant, seed, true and found class,
from the confusion that every ap.json holds.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection.average_precision import LEAST_SCORE, MATCH_OVERLAP
from detection.errors import ALL_AT_ONCE, KINDS
from pipeline.artefacts import read_json, write_csv
from pipeline.stage import InputError, run
from reports.collect import Split, read_split, require_equal, required
from reports.render import Block, Layout, format_value, rank_marks, write_texts
from reports.runs import Run, check_runs, check_source, read_runs
from reports.verdict import Leaders

# What mending each kind does away with, in a sentence.
PHRASES = {
    "class": "objects given the wrong class",
    "localisation": "boxes that lie badly",
    "both": "boxes that lie badly on objects of another class",
    "duplicate": "second boxes on one object",
    "background": "boxes on nothing",
    "missed": "missed objects",
}
_ROUNDING = 1e-9  # AP50 of ap.json and of errors.json are sums in another order


def read_errors(file: Path, split: Split, runs: Sequence[Run]) -> dict[str, Any]:
    """Read errors.json, and check that it is of this split's labels and of the predictions and scores of `runs`.

    Raises:
        InputError: it is of other labels, predictions or numbers of detections, or gives another AP50 than an ap.json.
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
                f"{file} gives {one.variant!r} with seed {one.seed} the AP50 {found:.6f}, {one.file} {expected:.6f}; "
                "run detection.errors again"
            )
    return errors


def error_table(errors: Mapping[str, Any], variants: Sequence[str]) -> pd.DataFrame:
    """Return one row a variant, means over the seeds.

    Columns `variant`, `AP50`; `gain_<kind>`, what AP50 would gain, for the six kinds and for all false positives and
    all false negatives; `miss_rate`, NaN where undefined; `count_<kind>`.
    """
    rows = []
    for variant in variants:
        one = errors["variants"][variant]
        gains = {f"gain_{kind}": one["gains"][kind] for kind in (*KINDS, *ALL_AT_ONCE)}
        counts = {f"count_{kind}": one["counts"][kind] for kind in KINDS}
        rows.append({"variant": variant, "AP50": one["AP50"], **gains, "miss_rate": one["miss_rate"], **counts})
    return pd.DataFrame(rows).astype({"miss_rate": float})


def error_facts(errors: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Return what the table says about itself."""
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
    """Return how the table is printed; gains are not ranked, since they hang on AP50."""
    gains = {f"gain_{kind}": kind for kind in KINDS} | {
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
        "A column of a kind: what AP50 would gain if all errors of this kind were mended and no other (TIDE, Bolya et "
        "al. 2020). Gains do not add up. Detections of all scores count.",
        f"class: on an object of another class; localisation: overlaps one of its class by {low} to {high}; both: of "
        f"another class and by {low} to {high}; duplicate: on an object already found; background: overlaps nothing by "
        f"more than {low}; missed: neither found nor near a class or localisation error.",
    ]
    if facts["people"]:
        notes.append(
            f"miss rate, {facts['people']}: log-average over 0.01 to 1 false positives an image (Dollár et al. 2012), "
            f"boxes of all sizes, none ignored but crowds, overlap {high}; lower is better."
        )
    else:
        notes.append("No log-average miss rate: no class is named person, people or pedestrian.")
    seeds = facts["seeds"].split()
    means = f"Means over the seeds {', '.join(seeds)}" if len(seeds) > 1 else f"One seed ({seeds[0]})"
    return [*notes, f"{means}. Described, not tested."]


def error_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return the table as it is printed."""
    layout = error_layout(facts)
    caption = f"What kind of mistakes: the AP50 that mending each kind would bring on {facts['dataset']}"
    return Block("errors", table, layout, rank_marks(table, layout), caption, error_notes(facts))


def error_words(table: pd.DataFrame, lead: Leaders, people: str) -> str:
    """Return what the errors of the best fused variant are, and how they differ from those of the better band.

    Differences are between printed values. Without a fused variant the better band's are told.
    """
    rows = table.set_index("variant").round(3)
    told = lead.fused or lead.band
    if told is None:
        return ""
    gains = pd.Series({kind: rows.at[told, f"gain_{kind}"] for kind in KINDS})
    most, average = str(gains.idxmax()), rows.at[told, "AP50"]
    sentences = [
        f"What costs {told} most is {PHRASES[most]}: without them its AP50 would be "
        f"{average + gains[most]:.3f} instead of {average:.3f}."
    ]
    if lead.fused and lead.band:
        less = gains - pd.Series({kind: rows.at[lead.band, f"gain_{kind}"] for kind in KINDS})
        parts = [
            f"{word} to {PHRASES[kind]} ({gains[kind]:.3f} instead of {rows.at[lead.band, f'gain_{kind}']:.3f})"
            for word, kind, some in (
                ("less", str(less.idxmin()), less.min() < -0.0005),
                ("more", str(less.idxmax()), less.max() > 0.0005),
            )
            if some
        ]
        if parts:
            sentences.append(f"Compared with {lead.band}, the better band, it loses {' and '.join(parts)}.")
        rates = rows.loc[[lead.fused, lead.band], "miss_rate"]
        if people and rates.notna().all():
            sentences.append(
                f"Its log-average miss rate for {people} is {rates.iloc[0]:.3f}, {lead.band}'s {rates.iloc[1]:.3f}."
            )
    return " ".join([*sentences, "Described, not tested."])


def confusion_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the confusion of all runs: `variant`, `seed`, `true`, `found`, `count`; `background` is no object.

    Raises:
        InputError: an ap.json has no confusion.
    """
    rows = []
    for one in runs:
        confusion = required(one.scores, "confusion", one.file)
        for true, counts in zip(confusion["classes"], confusion["counts"], strict=True):
            for found, count in zip(confusion["classes"], counts, strict=True):
                rows.append((one.variant, one.seed, true, found, count))
    return pd.DataFrame(rows, columns=["variant", "seed", "true", "found", "count"])


def mean_confusions(table: pd.DataFrame) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the classes, `background` last, and for each variant the mean counts over the seeds, (true, found)."""
    classes = list(dict.fromkeys(table["true"]))
    means = {}
    for variant, rows in table.groupby("variant", sort=False):
        counts = rows.pivot_table(index="true", columns="found", values="count", aggfunc="mean")
        means[str(variant)] = counts.loc[classes, classes].to_numpy()
    return classes, means


CONFUSION = (
    f"Rows: true class; columns: found class. Matched whatever the class from a score of {LEAST_SCORE} on at an "
    f"overlap of {MATCH_OVERLAP}; counts are means over the seeds, colour is the share of the row. True objects found "
    "as background are missed; the row background are detections on nothing."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Read, check, write."""
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
