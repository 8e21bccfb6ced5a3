"""Compare finished runs: average precision of every variant side by side, and tests where the test sets are the same.

A run is the folder that a workflow wrote (`results`), with `tables/table2.csv`, `data/split` and `detection`. Any runs
with the same classes and protocol stand side by side: other detectors, other splits, other dates. Where two runs were
tested on the same images with the same boxes in the same scenes, the difference of each variant's averages has an
interval and a paired test over scenes (`detection.differences`); the family is all differences of such runs. It is a
statement about these trained detectors, from three seeds on, too: nothing is said of how trainings vary.

Where test sets differ no difference is given, since it would be that of the images as well; the reason stands in its
place. Versions of packages that differ in more than patch and build are refused, and so are those of patches without
`--allow versions`: a difference could be theirs.

Writes compare.csv (a row a variant and run), compare_differences.csv, and both as compare.md and compare.html.
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
from detection.differences import LEVEL, split_by_scene, swap_test, too_few_scenes
from detection.intervals import bootstrap, describe
from detection.significance import match_all, names_in_order, scenes_of, unit_of_split
from detection.truth import read_truth
from pipeline.artefacts import sha256_json, versions, write_csv, write_text
from pipeline.stage import InputError, run
from reports.collect import Split, brought_rows, read_split, read_table, required
from reports.render import Block, Layout, printed, rank_marks, to_html, to_markdown
from reports.runs import Run, check_runs, read_runs, release, scores_table

TITLE = "Runs compared"


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        name: what the comparison calls it.
        split: what it was trained and tested on.
        table: its Table II.
        runs: the scores of its detectors.
        facts: what all of them share, by key: the data, the recipe, the versions.
        labels: digest of the test images and their boxes.
        unit: what a scene is.
        scenes: the scene of each test image, in the order of their ids.
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
    """Read, check, test, write."""
    args = _parse(argv)
    if args.samples < 100 or args.swaps < 1000:
        raise InputError(f"--samples {args.samples} --swaps {args.swaps}: wanted at least 100 and 1000")
    finished = [read_finished(name, folder) for name, folder in named_folders(args.runs)]
    check_comparable(finished, "versions" in args.allow)
    table = side_by_side(finished)
    differences = difference_table(finished, args.samples, args.swaps, args.seed)
    facts = {
        "runs": {one.name: _described(one) for one in finished},
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
    """Return the name and the folder of each FOLDER or NAME=FOLDER; without a name the folder's own.

    Raises:
        InputError: fewer than two runs, or two of one name.
    """
    pairs = [word.partition("=") for word in words]
    found = [
        (name, Path(folder)) if equals else (Path(name).resolve().name, Path(name)) for name, equals, folder in pairs
    ]
    names = [name for name, _ in found]
    if len(found) < 2 or len(set(names)) < len(names):
        raise InputError(f"the runs {' '.join(words)}: wanted two or more of different names, as NAME=FOLDER")
    return found


def read_finished(name: str, folder: Path) -> Finished:
    """Read a finished run, the detectors of the rows of its Table II.

    Raises:
        InputError: a file is missing; Table II is of another split or other scores than lie in the folder; or its
            detectors do not belong together, as `reports.runs.check_runs`.
    """
    file = folder / "tables/table2.csv"
    table, stated = read_table(file)
    split = read_split(folder / "data/split")
    if stated.get("digest_test") != split.dataset["split"]["digest_test"]:
        raise InputError(f"{file} is of another split than {split.file}; wanted a finished run")
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
        raise InputError(f"{file} has other averages than the scores in {folder / 'detection'}; make the tables again")
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
    return Finished(name, split, table, runs, facts, sha256_json(truth), unit, scenes)


def check_comparable(finished: Sequence[Finished], allow_patches: bool) -> None:
    """Check that runs may stand side by side.

    Raises:
        InputError: classes or the protocol differ; or versions, in patches only where those are not allowed.
    """
    first = finished[0]
    for other in finished[1:]:
        pair = f"{first.name} and {other.name}"
        if set(first.split.classes) != set(other.split.classes):
            raise InputError(
                f"{pair} have other classes, {', '.join(first.split.classes)} and {', '.join(other.split.classes)}; "
                "wanted the same"
            )
        if first.facts["protocol"] != other.facts["protocol"]:
            raise InputError(
                f"{pair} have other protocols, {first.facts['protocol']!r} and {other.facts['protocol']!r}"
            )
        keys = [key for key in first.facts if ".versions." in key and first.facts[key] != other.facts.get(key)]
        keys = [key for key in keys if key in other.facts]
        known = {key: (first.facts[key], other.facts[key]) for key in keys}
        releases = {key: [_releases(key, value) for value in values] for key, values in known.items()}
        if serious := [key for key, (one, another) in releases.items() if one != another]:
            values = " and ".join(known[serious[0]])
            raise InputError(
                f"{pair} have other releases of {serious[0].rpartition('.')[2]}, {values}: a difference could be "
                "theirs; wanted the same (patches may differ with --allow versions)"
            )
        if known and not allow_patches:
            key, values = next(iter(known.items()))
            raise InputError(
                f"{pair} have other patches of {key.rpartition('.')[2]}, {' and '.join(values)}; wanted the same, or "
                "--allow versions, by which they are named below the table"
            )


def side_by_side(finished: Sequence[Finished]) -> pd.DataFrame:
    """Return one row a variant and run: its AP by class, `Average`, `seeds` and its own run's verdict.

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


def difference_table(finished: Sequence[Finished], samples: int, swaps: int, seed: int) -> pd.DataFrame:
    """Return one row for every two runs and each variant of both: `second` less `first`.

    Columns: `variant`, `first`, `second`, `<class>` and `Average` (NaN where the test sets differ), `low` and `high`
    (95 % interval of Average), `p` (two-sided, adjusted for the family; NaN where nothing is tested), `differ` (yes,
    not shown or not tested) and `reason`.
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


def why_unpaired(one: Finished, other: Finished) -> str:
    """Return why two runs' detectors cannot be compared scene by scene; empty where they can."""
    if one.split.test != other.split.test:
        return "other test images"
    if one.labels != other.labels:
        return "other boxes of the test images"
    if (one.unit, one.scenes) != (other.unit, other.scenes):
        return "the test images are drawn in other scenes"
    return ""


def test_pairs(
    pairs: Sequence[tuple[str, Finished, Finished]], samples: int, swaps: int, seed: int
) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return interval and test of each variant's averages in two runs of one test set, by variant and runs.

    Runs of one test set are matched together; the family of the tests is all pairs of one test set.
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


def _test_set(one: Finished) -> tuple[str, str, tuple[str, ...]]:
    return one.labels, one.unit, tuple(one.scenes)


def differing(finished: Sequence[Finished]) -> dict[str, dict[str, str]]:
    """Return every fact in which the runs differ, with each run's value; what a run does not state is empty."""
    keys = dict.fromkeys(key for one in finished for key in one.facts)
    values = {key: {one.name: _words(one.facts.get(key)) for one in finished} for key in keys}
    return {key: by_run for key, by_run in values.items() if len(set(by_run.values())) > 1}


def _check_predictions(
    group: Sequence[tuple[str, Finished, Finished]], digests: Mapping[str, Mapping[str, str]]
) -> None:
    """Raise InputError where the predictions beside an ap.json are not those that it scores."""
    for name, *both in group:
        for one in both:
            for scored in _of_variant(one, name):
                stated = scored.scores["provenance"].get("predictions")
                if digests[f"{one.name}/{name}"][str(scored.seed)] != stated:
                    raise InputError(
                        f"{scored.file} scores other predictions than those beside it; test the detector again"
                    )


def _of_variant(one: Finished, variant: str) -> list[Run]:
    return [scored for scored in one.runs if scored.variant == variant]


def _described(one: Finished) -> str:
    split = one.split.dataset["split"]
    return (
        f"{one.facts['detector']} on {one.facts['dataset']}, split {split['kind']} (test {split['digest_test'][:12]}), "
        f"seeds {one.facts['seeds']}, boxes {one.labels[:12]}"
    )


def _side_by_side_block(table: pd.DataFrame, finished: Sequence[Finished]) -> Block:
    classes = finished[0].split.classes
    columns = {"variant": "Variant", "run": "Run", **{name: name for name in (*classes, "Average")}}
    columns |= {"seeds": "Seeds", "against_bands": "Against both bands"}
    layout = Layout(columns, dict.fromkeys((*classes, "Average"), 3) | {"seeds": 0}, {})
    groups = [n for n in range(1, len(table)) if table["variant"][n] != table["variant"][n - 1]]
    notes = [f"{one.name}: {_described(one)}." for one in finished]
    notes.append("AP@[0.5:0.95], means over the seeds. Against both bands: each run's own verdict. n/a: undefined.")
    return Block("compare", table, layout, rank_marks(table, layout), "Runs side by side", notes, groups)


def _difference_block(table: pd.DataFrame, args: argparse.Namespace) -> Block:
    cells = table.copy()
    for name in [*table.columns[3 : table.columns.get_loc("low")], "low", "high"]:
        cells[name] = ["n/a" if math.isnan(value) else f"{value:+.3f}" for value in table[name]]
    cells["p"] = ["" if math.isnan(p) else "< 0.01" if p < 0.01 else f"{p:.2f}" for p in table["p"]]
    cells["runs"] = [f"{second} less {first}" for first, second in zip(table["first"], table["second"], strict=True)]
    names = [name for name in table.columns if name not in ("variant", "first", "second", "differ", "reason")]
    headings = {name: {"low": "95 % from", "high": "to"}.get(name, name) for name in names}
    columns = {"variant": "Variant", "runs": "Runs", **headings, "differ": "These detectors differ", "reason": "Reason"}
    layout = Layout(columns, dict.fromkeys(names, 3), {})
    notes = [
        f"Tests: random signs of whole scenes, {args.swaps}, of the averages, two-sided, adjusted for all differences "
        f"on one test set; intervals: bootstrap of scenes, {args.samples} draws, each by itself.",
        "The statement is about these trained detectors: with other seeds another one may be true.",
    ]
    return Block("compare_differences", cells, layout, rank_marks(cells, layout), "Differences", notes)


def _differing_block(facts: Mapping[str, Mapping[str, str]], finished: Sequence[Finished]) -> Block:
    frame = pd.DataFrame(
        [{"fact": key, **by_run} for key, by_run in facts.items()], columns=["fact", *(one.name for one in finished)]
    )
    patches = [key for key in facts if ".versions." in key]
    layout = Layout({"fact": "Fact", **{one.name: one.name for one in finished}}, {}, {})
    notes = ["A difference between runs is that of all facts in this table together."]
    if patches:
        notes.append("Versions differ in patch or build only, which was allowed; what they change was not measured.")
    return Block("compare_facts", frame, layout, rank_marks(frame, layout), "What differs between the runs", notes)


def _releases(key: str, value: Any) -> set[str]:
    """Return the releases in a fact; a run of several machines names several versions."""
    return {str(release(key, one)) for one in str(value).split(", ")}


def _words(value: Any) -> str:
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
    parser.add_argument("--swaps", type=int, default=10_000, help="random signs of the tests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of draws and signs (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for compare.*")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
