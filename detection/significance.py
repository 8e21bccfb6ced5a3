"""Compute confidence intervals of AP and test which variants differ, with the scenes of the test set as the unit.

The detections of each detector are matched with the ground truth once (`detection.accumulation`). The confidence
intervals come from a bootstrap of whole scenes (`detection.intervals`). The tests use the contribution of each scene to
a difference (`detection.differences`). A scene is a group of test images that are not independent of one another, such
as a recorded sequence. `--scenes` is a CSV file with the sequence and the place of each image. Without it, each image
counts as a scene, and the result states this.

Writes significance.json:

    variants        for each variant, class and `Average`: AP, low, high, boxes, scenes, the number of resamples without
                    a box of the class (`undefined`), remark
    comparisons     for every two variants: the difference of the averages, its confidence interval for these trained
                    detectors (variance between trainings not included), and two answers: `trained_differ` (whether
                    these trained detectors differ) and `methods_differ` (whether the methods differ; variance between
                    trainings included; with at least three seeds). Two kinds of pairs are `confirmatory`: a single band
                    with any other variant (except the other band), and stacked, twostream or late with a fused variant
                    or an external row. All other pairs are exploratory. The entries of confirmatory pairs also contain
                    the differences per class (`classes`), which are exploratory
    against_bands   for every variant that is not a band, a verdict for these trained detectors (`trained`) and one for
                    the methods (`methods`), from one-sided tests: `ahead` (higher AP than both bands), `behind` (lower
                    AP than at least one band), or `not shown`, with the reason
    inside          the names of the rows that fuse inside or after the detector: stacked, twostream and late, if run
    against_inside  the same verdicts for every fused variant and external row, compared with the rows in `inside`:
                    `ahead` (higher AP than all of these rows), `behind` (lower AP than at least one), or `not shown`
    untested        the reason why no test is possible, or empty
    conditions      with `--conditions`, for each condition: the averages and their differences from the bands, with
                    intervals, and the number of boxes, images and scenes; exploratory
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.accumulation import Matches, scene_boxes
from detection.average_precision import read_conditions
from detection.by_condition import describe_conditions
from detection.comparison import (
    Comparison,
    add_comparison_options,
    match_all,
    names_in_order,
    read_comparison,
    restrict_classes,
)
from detection.differences import LEAST_SEEDS, LEVEL, compare, split_by_scene
from detection.intervals import bootstrap, describe
from detection.late import BANDS
from detection.truth import read_truth
from pipeline.artefacts import sha256_json, write_json
from pipeline.stage import InputError, run

# The reason why there is no statement about methods for external rows.
EXTERNAL = "the variance between trainings is unknown for external detections"


def main(argv: Sequence[str] | None = None) -> None:
    """Match the predictions, bootstrap the scenes, compare the variants and write significance.json."""
    args = _parse(argv)
    if args.samples < 100:
        raise InputError(f"--samples {args.samples}: expected at least 100, for the ends of an interval")
    truth = read_truth(args.truth)
    comparison = read_comparison(args, truth)
    labels = sha256_json(truth)
    truth = restrict_classes(truth, args.classes) if args.classes else truth
    judged = judge(truth, comparison)
    compared, matches, boxes = judged.compared, judged.matches, judged.boxes
    several = len(comparison.seeds) >= LEAST_SEEDS
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
            f"maxT over {judged.family} pairs of rows with {args.swaps} random sign flips of scenes"
            + (" (trained detectors) and Holm's procedure over the same pairs (methods)" if several else "")
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
class Judgement:
    """The comparison of the variants by one ground truth.

    Attributes:
        compared: the result of `compare_rows`, with a `reason` for each verdict.
        family: the number of pairs over which the tests between this project's own rows are corrected.
        matches: for each variant and seed, the matches of each class.
        boxes: (K, G) number of boxes of each class in each scene.
        digests: digests of the predictions, by variant and seed.
    """

    compared: dict[str, Any]
    family: int
    matches: dict[str, list[list[Matches]]]
    boxes: np.ndarray
    digests: dict[str, dict[str, str]]


def judge(truth: Mapping[str, Any], comparison: Comparison) -> Judgement:
    """Match the predictions of every detector with `truth` and compare the variants."""
    matches, digests = match_all(truth, comparison.files, comparison.most)
    boxes = scene_boxes(next(iter(matches.values()))[0], comparison.scene, comparison.scenes)
    parts = split_by_scene(matches, comparison.scene, comparison.scenes)
    compared, family = compare_rows(parts, boxes, comparison)
    for verdicts in (compared["against_bands"], compared["against_inside"]):
        for name, by_statement in verdicts.items():
            for statement, entry in by_statement.items():
                entry["reason"] = reason_not_shown(
                    entry, statement, compared, len(comparison.seeds), name in comparison.brought
                )
    return Judgement(compared, family, matches, boxes, digests)


def compare_rows(
    parts: Mapping[str, np.ndarray], boxes: np.ndarray, comparison: Comparison
) -> tuple[dict[str, Any], int]:
    """Return the result of `detection.differences.compare` for all rows, and the number of pairs of own rows.

    External rows do not change the results of the project's own rows: tests between own rows are corrected over the
    pairs of own rows, whereas tests that include an external row are corrected over all pairs. For every seed, an
    external row is represented by the mean over its files, because its variance between trainings is not used.
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


def add_intervals(
    entry: dict[str, Any],
    classes: Sequence[str],
    boxes: np.ndarray,
    measured: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
) -> None:
    """Add the interval `low` to `high` for these trained detectors to a comparison; also `classes` if confirmatory."""
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


def reason_not_shown(
    entry: Mapping[str, Any], statement: str, compared: Mapping[str, Any], seeds: int, brought: bool = False
) -> str:
    """Return the reason of the verdict "not shown"; empty for other verdicts."""
    if entry["verdict"] != "not shown":
        return ""
    if compared["untested"]:
        return compared["untested"]
    if statement == "methods" and seeds < LEAST_SEEDS:
        return f"seeds: {seeds}; a statement about methods requires {LEAST_SEEDS}"
    if math.isnan(entry["p_ahead"]):
        return EXTERNAL if brought else "nothing to compare with"
    return (
        f"one-sided p = {entry['p_ahead']:.3f} for a higher AP, {entry['p_behind']:.3f} for a lower AP; significance "
        f"level {LEVEL / 2}"
    )


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


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.significance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    add_comparison_options(parser)
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes on which the detectors were trained, if not all; the other classes are left out of averages",
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
