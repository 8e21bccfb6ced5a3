"""How sure each average precision is, and which variants differ, over the scenes of the test set.

Matches are made once for every detector (`detection.accumulation`); a bootstrap of whole scenes gives the intervals
(`detection.intervals`), the scenes' parts of each difference give the tests (`detection.differences`). A scene is what
was drawn as a whole into the test set: `--scenes` names a table of each image's sequence and place. Without it every
image is taken as a scene of its own, and the result says so.

Writes significance.json:

    variants        for each variant, class and `Average`: AP, low, high, boxes, scenes, undefined draws, remark
    comparisons     for every two variants: the difference of the averages with the interval for these trained
                    detectors, and two statements, `trained_differ` (these trained detectors differ) and
                    `methods_differ` (from three seeds on). Pairs of a band, or of a way of fusing in the detector, and
                    another variant are `confirmatory` and hold the differences of the `classes`, too; all other pairs
                    are exploration
    against_bands   for every variant that is no band, by both statements: ahead of both bands, behind either, or not
                    shown, and the reason
    inside          the ways of fusing in the detector that were run, of stacked, twostream and late
    against_inside  for every other variant that is no band, the same against these: ahead of each, behind any
    untested        why nothing can be said to differ, or empty
    conditions      with `--conditions`, for each condition the averages and their differences from the bands, with
                    intervals, and the boxes, images and scenes that they rest on; exploration
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detection.accumulation import Matches, accumulate_matches, number_scenes, scene_boxes
from detection.average_precision import MOST_DETECTIONS, add_most_option, check_most, read_conditions
from detection.by_condition import describe_conditions
from detection.differences import LEAST_SEEDS, LEVEL, compare, split_by_scene
from detection.intervals import bootstrap, describe
from detection.late import BANDS
from detection.predictions import each_file, read_predictions
from detection.scenes import read_scenes
from detection.truth import read_truth
from pipeline.artefacts import read_json, sha256_file, sha256_json, versions, write_json
from pipeline.stage import InputError, run, some_of

UNITS = ("sequence", "place", "image")
BROUGHT = "how brought detections vary with their training is unknown"  # why no method is said to differ from theirs


def main(argv: Sequence[str] | None = None) -> None:
    """Match, draw, compare, write."""
    args = _parse(argv)
    if args.samples < 100:
        raise InputError(f"--samples {args.samples}: wanted at least 100, for the ends of an interval")
    truth = read_truth(args.truth)
    comparison = read_comparison(args, truth)
    labels = sha256_json(truth)
    truth = only_classes(truth, args.classes) if args.classes else truth
    judged = judge(truth, comparison)
    compared, matches, boxes = judged.compared, judged.matches, judged.boxes
    measured, drawn = bootstrap(matches, comparison.scene, args.samples, args.seed)
    classes = [category["name"] for category in truth["categories"]]
    known = read_conditions(args.conditions)
    conditions = describe_conditions(
        matches, [known.get(name) for name in names_in_order(truth)], comparison.scene, classes, args.samples, args.seed
    )
    for entry in compared["comparisons"]:
        add_intervals(entry, classes, boxes, measured, drawn)
    result = {
        "method": comparison.method,
        "correction": (
            f"the largest of {judged.family} differences under {args.swaps} random signs of scenes for trained "
            "detectors, Holm for methods"
        ),
        "confidence": 1 - LEVEL,
        "samples": args.samples,
        "swaps": args.swaps,
        "seed": args.seed,
        "seeds": comparison.seeds,
        "images": len(comparison.scene),
        "unit": comparison.unit,
        "variants": describe(classes, boxes, measured, drawn),
        **compared,
        "conditions": conditions,
        "provenance": {
            "labels": labels,
            "classes": sorted(args.classes),
            "predictions": judged.digests,
            **comparison.provenance(),
        },
    }
    write_json(args.output, result)
    _log(result)


@dataclass(frozen=True)
class Comparison:
    """What is compared, in which scenes, and how.

    Attributes:
        files: the predictions by variant and seed.
        unit: what a scene is, one of `UNITS`.
        scene: (N,) index of the scene of each image, images in the order of their ids.
        scenes: G, their number.
        file: the table that names them, or None.
        brought: variants whose detectors were trained elsewhere, with any number of files.
        most: detections of a class in an image that count.
        swaps: random signs of the test.
        seed: of the signs.
    """

    files: Mapping[str, Mapping[int, Path]]
    unit: str
    scene: np.ndarray
    scenes: int
    file: Path | None
    brought: Sequence[str]
    most: int
    swaps: int
    seed: int

    @property
    def seeds(self) -> list[int]:
        """The seeds that every variant was trained with, those brought left out unless there is no other."""
        own = (by_seed for variant, by_seed in self.files.items() if variant not in self.brought)
        return sorted(next(own, next(iter(self.files.values()))))

    @property
    def method(self) -> str:
        """What was drawn, as it stands below the tables."""
        return method_of_draws(self.unit, self.scenes, len(self.scene), bool(self.file))

    def provenance(self) -> dict[str, Any]:
        """Return the digest of the scenes, the options and the versions that decide the result."""
        return {
            "scenes": sha256_file(self.file) if self.file else None,
            "brought": list(self.brought),
            "most_detections": self.most,
            "versions": versions("numpy", "scipy", "numba", "pycocotools"),
        }


@dataclass(frozen=True)
class Judgement:
    """What one ground truth says of the variants.

    Attributes:
        compared: what `compare_rows` returns; each verdict with its `reason`.
        family: the number of differences for which those between rows that were not brought are corrected.
        matches: for each variant, for each seed, the classes' matches.
        boxes: (K, G) boxes of each class in each scene.
        digests: of the predictions, by variant and seed.
    """

    compared: dict[str, Any]
    family: int
    matches: dict[str, list[list[Matches]]]
    boxes: np.ndarray
    digests: dict[str, dict[str, str]]


def read_comparison(args: argparse.Namespace, truth: Mapping[str, Any]) -> Comparison:
    """Return what the options of `add_comparison_options` say, for the images of `truth`.

    Raises:
        InputError: an option is out of its range or names what there is not; or as `scenes_of`.
    """
    if args.swaps < 1000:
        raise InputError(f"--swaps {args.swaps}: wanted at least 1000, for small p values")
    check_most(args.most_detections)
    if args.unit not in (None, "image") and not args.scenes:
        raise InputError(f"--unit {args.unit} needs --scenes FILE")
    files = runs_by_variant(args.predictions, args.brought)
    if stray := sorted(set(args.brought) - set(files)):
        raise InputError(f"--brought names {some_of(stray)}, which --predictions does not")
    unit = args.unit or (unit_of_split(args.scenes) if args.scenes else "image")
    names = names_in_order(truth)
    scene, scenes = number_scenes(names if unit == "image" else scenes_of(args.scenes, unit, names))
    return Comparison(
        files, unit, scene, scenes, args.scenes, args.brought, args.most_detections, args.swaps, args.seed
    )


def only_classes(truth: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return a ground truth with the boxes of some classes alone; the others then take no part in averages.

    Raises:
        InputError: the ground truth has no class of such a name.
    """
    numbers = {category["name"]: category["id"] for category in truth["categories"]}
    if strangers := sorted(set(classes) - set(numbers)):
        raise InputError(f"--classes names {some_of(strangers)}; wanted classes of {', '.join(numbers)}")
    kept = {numbers[name] for name in classes}
    return {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] in kept]}


def names_in_order(truth: Mapping[str, Any]) -> list[str]:
    """Return the images' names in the order of their ids, as matches hold them."""
    return [image["file_name"] for image in sorted(truth["images"], key=lambda image: image["id"])]


def judge(truth: Mapping[str, Any], comparison: Comparison) -> Judgement:
    """Match every detector with `truth` and compare the variants; raises as `match_all`."""
    matches, digests = match_all(truth, comparison.files, comparison.most)
    boxes = scene_boxes(next(iter(matches.values()))[0], comparison.scene, comparison.scenes)
    parts = split_by_scene(matches, comparison.scene, comparison.scenes)
    compared, family = compare_rows(parts, boxes, comparison)
    for verdicts in (compared["against_bands"], compared["against_inside"]):
        for name, by_statement in verdicts.items():
            for statement, entry in by_statement.items():
                entry["reason"] = why_not_shown(
                    entry, statement, compared, len(comparison.seeds), name in comparison.brought
                )
    return Judgement(compared, family, matches, boxes, digests)


def compare_rows(
    parts: Mapping[str, np.ndarray], boxes: np.ndarray, comparison: Comparison
) -> tuple[dict[str, Any], int]:
    """Return what `detection.differences.compare` says of all rows, and the number of pairs without a brought one.

    Rows that were brought change nothing that is said of the others: these are compared, and corrected for their
    number, by themselves; what concerns a brought row is corrected for all. A brought row's mean over its files stands
    for each seed, since how it varies is not used.
    """
    seeds = len(comparison.seeds)
    same = {
        name: np.repeat(part.mean(axis=0, keepdims=True), seeds, axis=0) if name in comparison.brought else part
        for name, part in parts.items()
    }
    options = {"external": comparison.brought, "swaps": comparison.swaps, "seed": comparison.seed}
    own = {name: part for name, part in same.items() if name not in comparison.brought or name in BANDS}
    together = compare(same, boxes, **options)
    if len(own) == len(same) or set(own) <= set(BANDS):
        return together, len(together["comparisons"])
    compared = compare(own, boxes, **options)
    compared["comparisons"] += [e for e in together["comparisons"] if not {e["first"], e["second"]} <= set(own)]
    for verdicts in ("against_bands", "against_inside"):
        compared[verdicts] |= {name: e for name, e in together[verdicts].items() if name not in own}
    return compared, len(own) * (len(own) - 1) // 2


def scenes_of(file: Path, unit: str, names: Sequence[str]) -> list[str]:
    """Return the scene of each image in `names`, its sequence or place by `unit`, from a table of scenes.

    Raises:
        InputError: the file gives no scene for one of `names`; or as `detection.scenes.read_scenes`.
    """
    known = read_scenes(file)
    if lacking := [name for name in names if name not in known]:
        raise InputError(f"{file} gives no {unit} for {some_of(lacking)}; wanted one for each test image")
    return [getattr(known[name], unit) for name in names]


def unit_of_split(scenes: Path) -> str:
    """Return what was drawn as a whole into the split, `split: unit` of dataset.json beside `scenes`, or sequence."""
    file = scenes.with_name("dataset.json")
    unit = read_json(file).get("split", {}).get("unit", "sequence") if file.is_file() else "sequence"
    if unit not in UNITS:
        raise InputError(f"{file} has the unit {unit!r}; wanted {', '.join(UNITS)}")
    return unit


def match_all(
    truth: Mapping[str, Any], files: Mapping[str, Mapping[int, Path]], most: int = MOST_DETECTIONS
) -> tuple[dict[str, list[list[Matches]]], dict[str, dict[str, str]]]:
    """Return the classes' matches for each variant and seed, and the digests of the predictions, by variant and seed.

    Many files are matched in two processes.
    """
    detectors = [(variant, seed) for variant in files for seed in sorted(files[variant])]
    matches: dict[str, list[list[Matches]]] = {variant: [] for variant in files}
    digests: dict[str, dict[str, str]] = {variant: {} for variant in files}
    work = partial(_match, truth, most)
    found = each_file("matching", work, [files[variant][seed] for variant, seed in detectors])
    for (variant, seed), (digest, classes) in zip(detectors, found, strict=True):
        matches[variant].append(classes)
        digests[variant][str(seed)] = digest
    return matches, digests


def _match(truth: Mapping[str, Any], most: int, file: Path) -> tuple[str, list[Matches]]:
    predictions = read_predictions(file, truth)
    return sha256_json(predictions), accumulate_matches(truth, predictions, most)


def add_intervals(
    entry: dict[str, Any],
    classes: Sequence[str],
    boxes: np.ndarray,
    measured: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
) -> None:
    """Add `low` and `high` of a comparison's difference for these trained detectors; its `classes` if confirmatory."""
    first, second = entry["first"], entry["second"]
    pair = {"pair": measured[first] - measured[second]}, {"pair": drawn[first] - drawn[second]}
    described = describe(classes, boxes, *pair)["pair"]
    average = described.pop("Average")
    entry |= {"low": average["low"], "high": average["high"]}
    if entry["confirmatory"]:
        entry["classes"] = {
            name: {"difference": found["AP"], "low": found["low"], "high": found["high"], "remark": found["remark"]}
            for name, found in described.items()
        }


def why_not_shown(
    entry: Mapping[str, Any], statement: str, compared: Mapping[str, Any], seeds: int, brought: bool = False
) -> str:
    """Return why a variant is neither ahead of all that it is compared with nor behind any; empty where it is."""
    if entry["verdict"] != "not shown":
        return ""
    if compared["untested"]:
        return compared["untested"]
    if statement == "methods" and seeds < LEAST_SEEDS:
        return f"seeds: {seeds}; a statement about methods needs {LEAST_SEEDS}"
    if math.isnan(entry["p_ahead"]):
        return BROUGHT if brought else "nothing to compare with"
    return f"p {entry['p_ahead']:.3f} for ahead, {entry['p_behind']:.3f} for behind; wanted below {LEVEL / 2}"


def method_of_draws(unit: str, scenes: int, images: int, given: bool) -> str:
    """Return what was drawn, as it stands below the tables; `given` says whether the scenes were."""
    if unit != "image":
        return f"bootstrap of {scenes} whole {unit}s ({images} images)"
    drawn = f"bootstrap of {images} images, each taken as a scene of its own"
    return drawn + ("" if given else " (no scenes were given: frames of one sequence count as independent)")


def _log(result: Mapping[str, Any]) -> None:
    logging.info("%s", result["method"])
    for variant, values in result["variants"].items():
        average = values["Average"]
        logging.info("%-12s AP %.3f  %.3f to %.3f", variant, average["AP"], average["low"], average["high"])
    if result["untested"]:
        logging.info("no difference is tested: %s", result["untested"])
    for variant, by_statement in result["against_bands"].items():
        words = (f"{statement}: {entry['verdict']}" for statement, entry in by_statement.items())
        logging.info("%-12s against the bands: %s", variant, ", ".join(words))
    for variant, by_statement in result["against_inside"].items():
        words = (f"{statement}: {entry['verdict']}" for statement, entry in by_statement.items())
        logging.info("%-12s against %s: %s", variant, ", ".join(result["inside"]), ", ".join(words))


def runs_by_variant(words: Sequence[str], brought: Sequence[str] = ()) -> dict[str, dict[int, Path]]:
    """Return the files of VARIANT/SEED=FILE words by variant and seed; every variant has the same seeds.

    Those in `brought` may have any.

    Raises:
        InputError: a word is of another form, or names a variant and seed again; a variant has other seeds.
    """
    files: dict[str, dict[int, Path]] = {}
    for word in words:
        name, equals, file = word.partition("=")
        variant, slash, seed = name.rpartition("/")
        if not (equals and slash and seed.isdigit()):
            raise InputError(f"--predictions {word}: wanted VARIANT/SEED=FILE")
        if int(seed) in files.setdefault(variant, {}):
            raise InputError(f"--predictions names {variant}/{seed} twice; wanted one file for each")
        files[variant][int(seed)] = Path(file)
    own = {variant: by_seed for variant, by_seed in files.items() if variant not in brought}
    seeds = sorted(next(iter(own.values()), ()))
    for variant, by_seed in own.items():
        if sorted(by_seed) != seeds:
            raise InputError(f"--predictions: {variant!r} has the seeds {sorted(by_seed)}, expected {seeds}")
    return files


def add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is compared, in which scenes, and how."""
    parser.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="VARIANT/SEED=FILE",
        help="predictions.json of every variant and seed",
    )
    parser.add_argument("--scenes", type=Path, help="CSV with the columns name, sequence, place: each image's scene")
    parser.add_argument(
        "--unit",
        choices=UNITS,
        help="what was drawn as a whole into the test set (default: what dataset.json beside --scenes says, or "
        "sequence; image without --scenes)",
    )
    parser.add_argument("--conditions", type=Path, help="conditions.json of the split; may be absent")
    parser.add_argument(
        "--brought",
        nargs="+",
        default=[],
        metavar="VARIANT",
        help="variants whose detectors were trained elsewhere, with any number of files: no statement about methods is "
        "made of them, and none about the others is changed by them",
    )
    add_most_option(parser)
    parser.add_argument("--swaps", type=int, default=10_000, help="random signs of the test (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of draws and signs (default: %(default)s)")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.significance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    add_comparison_options(parser)
    parser.add_argument("--samples", type=int, default=1000, help="draws of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes that the detectors know, where they do not know all: the others take no part in averages",
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
