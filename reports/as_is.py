"""Write the table of detectors that were not retrained: each is applied unchanged to every variant.

The table answers another question than Table II and must not be combined with it: how well a detector that was trained
elsewhere, mostly on visible images, detects objects in fused images. The detector's classes are mapped to the
dataset's. A class that a detector does not know has no AP, and its averages are over the other classes, so that the
averages of two detectors are comparable only if they know the same classes.

Writes table2_as_is.csv, .md and .tex.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artefacts import read_json, sha256_json, write_csv
from pipeline.stage import InputError, run
from reports.collect import Split, read_split, require_equal, required
from reports.render import Block, Layout, format_value, rank_marks, write_texts
from reports.runs import release
from reports.verdict import against_bands

NAME = "table2_as_is"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table of detectors that were not retrained."""
    args = _parse(argv)
    split = read_split(args.split)
    scores = read_scores(args.ap, split)
    significance = {}
    for word in args.significance:
        name, equals, file = word.partition("=")
        if not equals or name not in scores:
            raise InputError(f"--significance {word}: expected DETECTOR=FILE with one of {', '.join(scores)}")
        significance[name] = _read_significance(Path(file), scores[name])
    table = as_is_table(scores, split.classes, significance)
    facts = as_is_facts(scores, split, significance)
    write_csv(args.output / f"{NAME}.csv", table, facts)
    write_texts(args.output / NAME, [as_is_block(table, facts)])
    logging.info("tables: %s in %s", NAME, args.output)


def read_scores(words: Sequence[str], split: Split) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the content of ap.json by detector and variant, from arguments of the form DETECTOR/VARIANT=FILE.

    Raises:
        InputError: an argument has another form or repeats a detector and variant; a file belongs to a retrained
            detector, to other test images or boxes, to another protocol, or to another detector than the other files
            of its name; or a variant is missing for a detector.
    """
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    labels = sha256_json(read_json(split.file.with_name("truth_test.json")))
    protocol: tuple[Path, dict[str, Any]] | None = None
    first: dict[str, tuple[Path, dict[str, Any]]] = {}
    for word in words:
        name, _, file = word.partition("=")
        detector, slash, variant = name.partition("/")
        if not (slash and file) or variant in scores.setdefault(detector, {}):
            raise InputError(f"--ap {word}: expected DETECTOR/VARIANT=FILE, each once")
        path, found = Path(file), read_json(Path(file))
        for key in ("variant", "classes", "average", "as_is", "protocol", "provenance"):
            required(found, key, path)
        expected = {"variant": variant, "labels": labels}
        stated = {"variant": found["variant"], "labels": found["provenance"].get("data", {}).get("labels")}
        require_equal(split.file, expected, path, stated)
        counted = {"protocol": found["protocol"]} | {
            key: found["provenance"].get(key) for key in ("max_detections", "confidence", "nms_iou", "versions")
        }
        counted["versions"] = {n: release(f".versions.{n}", v) for n, v in (counted["versions"] or {}).items()}
        protocol = protocol or (path, counted)
        require_equal(*protocol, path, counted)
        same = {"as_is": found["as_is"], "weights": found["provenance"].get("weights")}
        require_equal(*first.setdefault(detector, (path, same)), path, same)
        scores[detector][variant] = found
    variants = list(dict.fromkeys(variant for by_variant in scores.values() for variant in by_variant))
    for detector, by_variant in scores.items():
        if missing := [variant for variant in variants if variant not in by_variant]:
            raise InputError(f"--ap: no file for {detector}/{missing[0]}; expected every variant for each detector")
    return scores


def as_is_table(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]],
    classes: Sequence[str],
    significance: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Return one row per detector and variant: AP by class and `Average`, fractions, NaN for an unknown class.

    `Average_interval_low` and `_high` bound the 95 % interval of `Average`, NaN without `significance`. As in Table II,
    `against_bands` is `ahead` of both bands, `behind` at least one band, `not shown` or `not tested`; empty for a band
    and without `significance`.
    """
    rows = []
    for detector, by_variant in scores.items():
        tested = significance.get(detector)
        for variant, found in by_variant.items():
            bounds = tested["variants"][variant]["Average"] if tested else {"low": None, "high": None}
            rows.append(
                {"detector": detector, "variant": variant}
                | {name: found["classes"][name]["AP"] for name in classes}
                | {"Average": found["average"]["AP"]}
                | {f"Average_interval_{bound}": bounds[bound] for bound in ("low", "high")}
                | {"against_bands": against_bands(tested, variant, "trained") if tested else ""}
            )
    table = pd.DataFrame(rows)
    numbers = [name for name in table.columns if name not in ("detector", "variant", "against_bands")]
    return table.astype(dict.fromkeys(numbers, float))


def as_is_facts(
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]], split: Split, significance: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the facts of the table: the data, each detector with the mapping of its classes, the tests."""
    first = {name: next(iter(by_variant.values())) for name, by_variant in scores.items()}
    facts: dict[str, Any] = {
        "dataset": split.dataset["dataset"],
        "digest_test": split.dataset["split"]["digest_test"],
        "test_images": len(split.test),
        "protocol": next(iter(first.values()))["protocol"],
        "detectors": {name: found["detector"] for name, found in first.items()},
        "image_sizes": {name: found["provenance"]["image_size"] for name, found in first.items()},
    }
    for key in ("classes", "dropped", "unknown"):
        facts[key] = {name: _listed(found["as_is"][key]) for name, found in first.items()}
    if significance:
        one = next(iter(significance.values()))
        facts["significance"] = f"{one['method']}, {one['samples']} draws, 95 %"
        facts["untested"] = {name: found["untested"] for name, found in significance.items() if found["untested"]}
    return facts


def as_is_layout(table: pd.DataFrame) -> Layout:
    """Return the layout of the table; columns are ranked only if there is one detector."""
    start, end = table.columns.get_loc("variant") + 1, table.columns.get_loc("Average") + 1
    ranked = list(table.columns[start:end])
    columns = {"detector": "Detector", "variant": "Variant", **{name: name for name in ranked}, "Average": "mAP"}
    if table["Average_interval_low"].notna().any():
        columns |= {"Average_interval": "95 % interval", "against_bands": "vs. both bands"}
    digits = dict.fromkeys([*ranked, "Average_interval"], 3)
    return Layout(columns, digits, dict.fromkeys(ranked, True) if table["detector"].nunique() == 1 else {})


def as_is_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with both bounds of the interval as one text."""
    pairs = zip(table["Average_interval_low"], table["Average_interval_high"], strict=True)
    return table.assign(
        Average_interval=[
            "" if pd.isna(low) else f"{format_value(low, 3)}\u2013{format_value(high, 3)}" for low, high in pairs
        ]
    )


def as_is_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the table; the first says that it answers another question than Table II."""
    notes = [
        "The detectors were not retrained: each is applied unchanged to every variant. The scores depend on the data "
        "that they were trained on, mostly visible images; they must not be compared with Table II, whose detectors "
        "were trained on each variant.",
    ]
    for name, detector in facts["detectors"].items():
        words = f"{name}: {detector}, image size {facts['image_sizes'][name]}; classes {facts['classes'][name]}"
        dropped, unknown = facts["dropped"].get(name), facts["unknown"].get(name)
        words += f"; ignored, since not in the dataset: {dropped}" if dropped else ""
        notes.append(words + (f"; unknown to the detector and not in its averages: {unknown}." if unknown else "."))
    notes.append(f"Protocol: {facts['protocol']}. {facts['test_images']} test images of {facts['dataset']}.")
    if "significance" in facts:
        notes.append(
            f"Intervals: {facts['significance']}. vs. both bands: as in Table II, for each detector separately; it "
            "holds for this detector on other scenes, not for other trainings."
        )
        notes += [f"{name}: nothing was tested ({reason})." for name, reason in facts["untested"].items()]
    return [*notes, "n/a: undefined."]


def as_is_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return the printed table."""
    cells, layout = as_is_cells(table), as_is_layout(table)
    groups = [n for n in range(1, len(table)) if table["detector"][n] != table["detector"][n - 1]]
    caption = f"Average precision, mAP@[0.5:0.95], of detectors that were not retrained, on {facts['dataset']}"
    return Block(NAME, cells, layout, rank_marks(cells, layout), caption, as_is_notes(facts), groups)


def _read_significance(file: Path, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Read significance.json; InputError if it was computed from other predictions or other classes than `scores`."""
    found = read_json(file)
    stated = required(found, "provenance", file)
    for variant, one in scores.items():
        known = sorted(set(one["as_is"]["classes"].values()))
        expected = {"predictions": one["provenance"].get("predictions"), "classes": known}
        predictions = stated["predictions"].get(variant, {}).get("0")
        known = {"predictions": predictions, "classes": stated.get("classes")}
        require_equal(Path(f"ap.json of {variant}"), expected, file, known)
    return found


def _listed(value: Any) -> str:
    return ", ".join(f"{key} as {name}" for key, name in value.items()) if isinstance(value, dict) else ", ".join(value)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reports.as_is", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", type=Path, required=True, help="folder of the prepared split")
    parser.add_argument(
        "--ap", nargs="+", required=True, metavar="DETECTOR/VARIANT=FILE", help="ap.json of detection.test --as-is"
    )
    parser.add_argument(
        "--significance",
        nargs="+",
        default=[],
        metavar="DETECTOR=FILE",
        help="significance.json of a detector's predictions, with the classes that it knows as --classes",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for table2_as_is.*")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
