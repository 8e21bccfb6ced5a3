"""Compare finished runs: average precision of every variant side by side, and tests if the test sets are the same.

A run is the result folder of a workflow (`results`), with `tables/table2.csv`, `data/split` and `detection`. Runs with
the same classes and protocol are comparable; detectors, splits and dates may differ. If two runs were tested on the
same images with the same boxes and the same scenes, the difference of each variant's averages has an interval and a
paired test over scenes (`detection.differences`), corrected for all differences of such runs. The tests hold
for these trained detectors, also with three seeds or more: the variance between trainings is not estimated.

If the test sets differ, no difference is given, because the images would contribute to it; the reason is given instead.
The command stops if package versions differ, because they could cause a difference. With `--allow versions`, they may
differ in patch and build.

Writes compare.csv (one row per variant and run), compare_differences.csv, and both as compare.md and compare.html.
"""

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detection.accumulation import number_scenes, scene_boxes
from detection.average_precision import MOST_DETECTIONS
from detection.comparison import match_all, names_in_order, scenes_of, unit_of_split
from detection.differences import LEVEL, split_by_scene, swap_test, too_few_scenes
from detection.intervals import bootstrap, describe
from detection.truth import read_truth
from pipeline.artefacts import sha256_json, versions, write_csv, write_text
from pipeline.stage import InputError, run
from reports.collect import Split, brought_rows, read_split, read_table, required
from reports.render import Block, Layout, printed, rank_marks, to_html, to_markdown
from reports.runs import Run, check_runs, read_runs, release, scores_table

TITLE = "Runs compared"


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        name: its name in the comparison.
        split: the split that its detectors were trained and tested on.
        table: its Table II.
        runs: the scores of its detectors.
        facts: the facts that all detectors share, by key: the data, the recipe, the versions.
        labels: digest of the test images and their boxes.
        unit: the unit of a scene: `sequence`, `place` or `image`.
        scenes: the scene of each test image, images in the order of their ids.
    """

    name: str
    split: Split
    table: pd.DataFrame
    runs: list[Run]
    facts: dict[str, Any]
    labels: str
    unit: str
    scenes: list[str]


def main(argv: Sequence[str] | None = None) -> None:
    """Compare finished runs and write the tables."""
    args = _parse(argv)
    if args.samples < 100 or args.swaps < 1000:
        raise InputError(f"--samples {args.samples} --swaps {args.swaps}: expected at least 100 and 1000")
    finished = [read_finished_run(name, folder) for name, folder in named_folders(args.runs)]
    check_comparable(finished, "versions" in args.allow)
    table = side_by_side(finished)
    differences = difference_table(finished, args.samples, args.swaps, args.seed)
    facts = {
        "runs": {one.name: _description(one) for one in finished},
        "differing": differing(finished),
        "samples": args.samples,
        "swaps": args.swaps,
        "seed": args.seed,
        "versions": versions("numpy", "scipy", "numba", "pycocotools"),
    }
    blocks = [
        _side_by_side_block(table, finished),
        _difference_block(differences, args),
        _differing_block(facts["differing"], finished),
    ]
    write_csv(args.output / "compare.csv", table, facts)
    write_csv(args.output / "compare_differences.csv", differences, facts)
    write_text(args.output / "compare.md", "\n".join(map(to_markdown, blocks)))
    shown = [replace(block, frame=printed(block.frame, block.layout)) for block in blocks]
    provenance = {key: value for key, value in facts.items() if key != "differing"}
    write_text(
        args.output / "compare.html", to_html("test_sets.html", {"title": TITLE, "blocks": shown, "facts": provenance})
    )
    logging.info("compared: %s in %s", ", ".join(one.name for one in finished), args.output)


def named_folders(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the name and the folder of each FOLDER or NAME=FOLDER; the default name is the folder's.

    Raises:
        InputError: fewer than two runs, or two runs with one name.
    """
    pairs = [word.partition("=") for word in words]
    found = [
        (name, Path(folder)) if equals else (Path(name).resolve().name, Path(name)) for name, equals, folder in pairs
    ]
    names = [name for name, _ in found]
    if len(found) < 2 or len(set(names)) < len(names):
        raise InputError(f"runs {' '.join(words)}: expected two or more with different names, as NAME=FOLDER")
    return found


def read_finished_run(name: str, folder: Path) -> FinishedRun:
    """Read a finished run: its split, its Table II and the scores of the detectors in it.

    Raises:
        InputError: a file is missing; Table II was made from another split or other scores than those in the folder;
            or `reports.runs.check_runs` refuses its detectors.
    """
    file = folder / "tables/table2.csv"
    table, stated = read_table(file)
    split = read_split(folder / "data/split")
    if stated.get("digest_test") != split.dataset["split"]["digest_test"]:
        raise InputError(f"{file} belongs to another split than {split.file}; expected a finished run")
    variants, seeds = table["variant"].tolist(), required(stated, "seeds", file).split()
    counts = table.set_index("variant")["seeds"]
    brought = brought_rows(table)
    files = []
    for variant in variants:
        places = [f"seed{seed}" for seed in seeds]
        if variant in brought:
            places = [f"run{number}" for number in range(int(counts[variant]))]
        files += [folder / "detection" / variant / place / "ap.json" for place in places]
    runs = read_runs(files, variants)
    means = scores_table(runs).query("`class` == 'Average'").groupby("variant", sort=False)["AP"].mean()
    if not means.reindex(variants).sub(table.set_index("variant")["Average"]).abs().lt(1e-9).all():
        raise InputError(
            f"{file}: the averages are not those of the scores in {folder / 'detection'}; make the tables again"
        )
    trainings = [place for place in (one.file.with_name("provenance.json") for one in runs) if place.is_file()]
    shared = check_runs(runs, split, trainings)
    truth_file = split.file.with_name("truth_test.json")
    truth = read_truth(truth_file)
    table_of_scenes = split.file.with_name("scenes.csv")
    unit = unit_of_split(table_of_scenes) if table_of_scenes.is_file() else "image"
    names = names_in_order(truth)
    facts = {
        "dataset": split.dataset["dataset"],
        "truth": split.dataset.get("truth", "labels"),
        **{f"split.{key}": value for key, value in split.dataset["split"].items()},
        "train_images": len(split.train),
        "test_images": len(split.test),
        "seeds": " ".join(seeds),
        **shared,
    }
    scenes = names if unit == "image" else scenes_of(table_of_scenes, unit, names)
    return FinishedRun(name, split, table, runs, facts, sha256_json(truth), unit, scenes)


def check_comparable(finished: Sequence[FinishedRun], allow_patches: bool) -> None:
    """Check that runs are comparable.

    Raises:
        InputError: classes, the protocol or versions differ; versions may differ in patches if `allow_patches`.
    """
    first = finished[0]
    for other in finished[1:]:
        pair = f"{first.name} and {other.name}"
        if set(first.split.classes) != set(other.split.classes):
            raise InputError(
                f"{pair} have different classes: {', '.join(first.split.classes)} and "
                f"{', '.join(other.split.classes)}; expected the same"
            )
        if first.facts["protocol"] != other.facts["protocol"]:
            raise InputError(
                f"{pair} have different protocols: {first.facts['protocol']!r} and {other.facts['protocol']!r}; "
                "expected the same"
            )
        keys = [key for key in first.facts if ".versions." in key and first.facts[key] != other.facts.get(key)]
        keys = [key for key in keys if key in other.facts]
        known = {key: (first.facts[key], other.facts[key]) for key in keys}
        releases = {key: [_releases(key, value) for value in values] for key, values in known.items()}
        if serious := [key for key, (one, another) in releases.items() if one != another]:
            values = " and ".join(known[serious[0]])
            raise InputError(
                f"{pair} have different releases of {serious[0].rpartition('.')[2]}, which could cause a difference: "
                f"{values}; expected the same (patches may differ with --allow versions)"
            )
        if known and not allow_patches:
            key, values = next(iter(known.items()))
            raise InputError(
                f"{pair} have different patches of {key.rpartition('.')[2]}: {' and '.join(values)}; expected the "
                "same, or --allow versions, which lists them below the table"
            )


def side_by_side(finished: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return one row per variant and run: AP by class, `Average`, `seeds` and the run's verdict against both bands.

    Variants come in the order of the runs' tables. Values are those of Table II, fractions; NaN where undefined.
    """
    names = list(dict.fromkeys(name for one in finished for name in one.table["variant"]))
    classes = finished[0].split.classes
    rows = []
    for name in names:
        for one in finished:
            found = one.table[one.table["variant"] == name]
            for _, row in found.iterrows():
                methods = "against_bands_methods" in row
                words = row.get("against_bands_methods", row.get("against_bands", ""))
                if isinstance(words, str) and words:
                    words += " (methods)" if methods else " (these detectors)"
                rows.append(
                    {"variant": name, "run": one.name, **{key: row[key] for key in (*classes, "Average")}}
                    | {"seeds": int(row["seeds"]), "against_bands": words}
                )
    return pd.DataFrame(rows)


def difference_table(finished: Sequence[FinishedRun], samples: int, swaps: int, seed: int) -> pd.DataFrame:
    """Return one row for every two runs and each variant of both, with the difference `second` minus `first`.

    Columns: `variant`, `first`, `second`, `<class>` and `Average` (NaN if the test sets differ), `low` and `high` (95 %
    interval of Average), `p` (two-sided, corrected for the family of tests; NaN if not tested), `differ` (yes, not
    shown or not tested) and `reason`.
    """
    classes = finished[0].split.classes
    pairs = [
        (name, one, other)
        for one, other in combinations(finished, 2)
        for name in one.table["variant"]
        if name in set(other.table["variant"])
    ]
    reasons = {(one.name, other.name): why_unpaired(one, other) for one, other in combinations(finished, 2)}
    paired = [pair for pair in pairs if not reasons[pair[1].name, pair[2].name]]
    tested = test_pairs(paired, samples, swaps, seed) if paired else {}
    rows = []
    for name, one, other in pairs:
        reason = reasons[one.name, other.name]
        values = [run.table.set_index("variant").loc[name, [*classes, "Average"]].astype(float) for run in (one, other)]
        difference = values[1] - values[0] if not reason else values[0] * math.nan
        unknown = {"low": math.nan, "high": math.nan, "p": math.nan, "differ": "not tested", "reason": reason}
        found = tested.get((name, one.name, other.name), unknown)
        rows.append({"variant": name, "first": one.name, "second": other.name, **difference.to_dict(), **found})
    columns = ["variant", "first", "second", *classes, "Average", "low", "high", "p", "differ", "reason"]
    return pd.DataFrame(rows, columns=columns)


def why_unpaired(one: FinishedRun, other: FinishedRun) -> str:
    """Return why two runs' detectors cannot be compared scene by scene; empty if they can."""
    if one.split.test != other.split.test:
        return "different test images"
    if one.labels != other.labels:
        return "different boxes of the test images"
    if (one.unit, one.scenes) != (other.unit, other.scenes):
        return "different scenes of the test images"
    return ""


def test_pairs(
    pairs: Sequence[tuple[str, FinishedRun, FinishedRun]], samples: int, swaps: int, seed: int
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the interval and the test of each variant's difference between two runs, by variant and runs.

    Detections of all runs with the same test set are matched together; their pairs are one family of tests.
    """
    found = {}
    for test_set in dict.fromkeys(map(_test_set, (one for _, one, _ in pairs))):
        group = [pair for pair in pairs if _test_set(pair[1]) == test_set]
        first = group[0][1]
        truth = read_truth(first.split.file.with_name("truth_test.json"))
        files: dict[str, dict[int, Path]] = {}
        for name, *both in group:
            for one in both:
                own = _of_variant(one, name)
                files[f"{one.name}/{name}"] = {each.seed: each.file.with_name("predictions.json") for each in own}
        most = int(first.runs[0].scores["provenance"].get("most_detections", MOST_DETECTIONS))
        matches, digests = match_all(truth, files, most)
        _check_predictions(group, digests)
        scene, scenes = number_scenes(first.scenes)
        boxes = scene_boxes(next(iter(matches.values()))[0], scene, scenes)
        has_boxes = boxes.any(axis=1)
        parts = split_by_scene(matches, scene, scenes)
        rows = np.stack([part[:, has_boxes].mean(axis=(0, 1)) for part in parts.values()])
        order = {row: number for number, row in enumerate(parts)}
        keys = [(f"{other.name}/{name}", f"{one.name}/{name}") for name, one, other in group]
        measured, drawn = bootstrap(matches, scene, samples, seed)
        classes = [category["name"] for category in truth["categories"]]
        untested = too_few_scenes(boxes)
        p, *_ = swap_test(rows, [(order[a], order[b]) for a, b in keys], swaps, seed)
        for (name, one, other), (a, b), value in zip(group, keys, p, strict=True):
            pair = {"pair": measured[a] - measured[b]}, {"pair": drawn[a] - drawn[b]}
            bounds = describe(classes, boxes, *pair)["pair"]["Average"]
            differ = "not tested" if untested else "yes" if value < LEVEL else "not shown"
            found[name, one.name, other.name] = {
                "low": bounds["low"],
                "high": bounds["high"],
                "p": math.nan if untested else float(value),
                "differ": differ,
                "reason": untested,
            }
    return found


def _test_set(one: FinishedRun) -> tuple[str, str, tuple[str, ...]]:
    return one.labels, one.unit, tuple(one.scenes)


def differing(finished: Sequence[FinishedRun]) -> dict[str, dict[str, str]]:
    """Return every fact in which the runs differ, with each run's value; empty for a run that does not state it."""
    keys = dict.fromkeys(key for one in finished for key in one.facts)
    values = {key: {one.name: _as_text(one.facts.get(key)) for one in finished} for key in keys}
    return {key: by_run for key, by_run in values.items() if len(set(by_run.values())) > 1}


def _check_predictions(
    group: Sequence[tuple[str, FinishedRun, FinishedRun]], digests: Mapping[str, Mapping[str, str]]
) -> None:
    """Raise InputError if the predictions in the folder of an ap.json are not those that it scores."""
    for name, *both in group:
        for one in both:
            for scored in _of_variant(one, name):
                stated = scored.scores["provenance"].get("predictions")
                if digests[f"{one.name}/{name}"][str(scored.seed)] != stated:
                    raise InputError(
                        f"{scored.file} scores other predictions than the predictions.json in its folder; test the "
                        "detector again"
                    )


def _of_variant(one: FinishedRun, variant: str) -> list[Run]:
    return [scored for scored in one.runs if scored.variant == variant]


def _description(one: FinishedRun) -> str:
    split = one.split.dataset["split"]
    return (
        f"{one.facts['detector']} on {one.facts['dataset']}, split {split['kind']} (test {split['digest_test'][:12]}), "
        f"seeds {one.facts['seeds']}, boxes {one.labels[:12]}"
    )


def _side_by_side_block(table: pd.DataFrame, finished: Sequence[FinishedRun]) -> Block:
    classes = finished[0].split.classes
    columns = {"variant": "Variant", "run": "Run", **{name: name for name in classes}, "Average": "mAP"}
    columns |= {"seeds": "Seeds", "against_bands": "vs. both bands"}
    layout = Layout(columns, dict.fromkeys((*classes, "Average"), 3) | {"seeds": 0}, {})
    groups = [n for n in range(1, len(table)) if table["variant"][n] != table["variant"][n - 1]]
    notes = [f"{one.name}: {_description(one)}." for one in finished]
    notes.append("AP@[0.5:0.95], means over the seeds. vs. both bands: the verdict of each run. n/a: undefined.")
    return Block("compare", table, layout, rank_marks(table, layout), "Runs side by side", notes, groups)


def _difference_block(table: pd.DataFrame, args: argparse.Namespace) -> Block:
    cells = table.copy()
    for name in [*table.columns[3 : table.columns.get_loc("low")], "low", "high"]:
        cells[name] = ["n/a" if math.isnan(value) else f"{value:+z.3f}" for value in table[name]]
    cells["p"] = ["" if math.isnan(p) else "< 0.01" if p < 0.01 else f"{p:.2f}" for p in table["p"]]
    cells["runs"] = [f"{second} minus {first}" for first, second in zip(table["first"], table["second"], strict=True)]
    names = [name for name in table.columns if name not in ("variant", "first", "second", "differ", "reason")]
    headings = {name: {"Average": "mAP", "low": "95 % interval from", "high": "to"}.get(name, name) for name in names}
    columns = {"variant": "Variant", "runs": "Runs", **headings, "differ": "significant difference", "reason": "Reason"}
    layout = Layout(columns, dict.fromkeys(names, 3), {})
    notes = [
        f"Tests of mAP: two-sided sign-flip tests with scenes as units, {args.swaps} sign flips, p values corrected "
        "for all differences on one test set. Intervals: 95 % confidence intervals of the difference in mAP from a "
        f"bootstrap over scenes, {args.samples} draws, not corrected for multiple comparisons.",
        "The results hold for these trained detectors (variance between trainings not included). They may be different "
        "for detectors trained with other seeds.",
    ]
    return Block("compare_differences", cells, layout, rank_marks(cells, layout), "Differences", notes)


def _differing_block(facts: Mapping[str, Mapping[str, str]], finished: Sequence[FinishedRun]) -> Block:
    frame = pd.DataFrame(
        [{"fact": key, **by_run} for key, by_run in facts.items()], columns=["fact", *(one.name for one in finished)]
    )
    patches = [key for key in facts if ".versions." in key]
    layout = Layout({"fact": "Fact", **{one.name: one.name for one in finished}}, {}, {})
    notes = ["A difference between runs is the joint effect of all facts in this table."]
    if patches:
        notes.append("Versions differ only in patch or build, which was allowed; the effect was not measured.")
    return Block("compare_facts", frame, layout, rank_marks(frame, layout), "Facts that differ between the runs", notes)


def _releases(key: str, value: Any) -> set[str]:
    """Return the releases in a fact; a run on several machines lists several versions."""
    return {str(release(key, one)) for one in str(value).split(", ")}


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reports.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FOLDER", help="result folders of finished runs")
    parser.add_argument(
        "--allow", nargs="+", choices=["versions"], default=[], help="versions: packages may differ in patch and build"
    )
    parser.add_argument("--samples", type=int, default=1000, help="draws of the bootstrap (default: %(default)s)")
    parser.add_argument("--swaps", type=int, default=10_000, help="sign flips of the tests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of draws and sign flips (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for compare.*")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
