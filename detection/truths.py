"""Test whether the result depends on the label set: score every detector with every label set of the dataset.

The detectors are those trained with the chosen label set; nothing is trained again. Each label set gives average
precision, an order of the variants, and the same verdict against the single bands as `detection.significance` gives for
the chosen set (`docs/protocol.md`). All sets are compared on the same scenes with the same random sign flips.
Differences between the verdicts of the sets are reported but not tested.

Writes truths.json:

    truth       the chosen label set
    several     whether there is more than one label set; if not, nothing is scored and the rest is empty
    statement   what the verdicts are about: `methods` with at least three seeds, else `trained` (these trained
                detectors)
    sets        for each label set: `boxes` of each class, `AP` of each variant (mean over the seeds) by class and
                `Average`, `seeds` with the same for each seed, `order` of the variants, best first; `untested`,
                `scenes`, `training`, `against_bands`, `inside` and `against_inside` as in significance.json
    agreement   for every two sets: Kendall's tau-b of the variants' averages, and the boxes that are in one set only
    changing    the variants whose verdict differs between the label sets that were tested, with the verdict by each
    hangs       `verdict`: whether a verdict depends on the label set (null if fewer than two sets were tested); `best`:
                whether the best variant does
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from detection.accumulation import weighted_average_precision
from detection.average_precision import protocol_words
from detection.comparison import Comparison, add_comparison_options, read_comparison
from detection.label_sets import read_truth_sets
from detection.significance import judge
from pipeline.artefacts import sha256_file, sha256_json, write_json
from pipeline.stage import run


def main(argv: Sequence[str] | None = None) -> None:
    """Score the detectors with every label set, compare the sets and write truths.json."""
    args = _parse(argv)
    chosen, truths, lacking = read_truth_sets(args.sets)
    if len(truths) == 1:
        logging.info("%s is the only label set; there is no other to score the detectors with", chosen)
        write_json(args.output, {"truth": chosen, "several": False, "sets": {}})
        return
    comparison = read_comparison(args, truths[chosen])
    sets, digests = {}, {}
    for name, truth in truths.items():
        logging.info("labels %s", name)
        sets[name], digests = score_by(truth, comparison)
    statement = "methods" if any(one["training"] for one in sets.values()) else "trained"
    result = {
        "truth": chosen,
        "several": True,
        "protocol": protocol_words(args.most_detections),
        "unit": comparison.unit,
        "statement": statement,
        "seeds": comparison.seeds,
        "swaps": comparison.swaps,
        "seed": comparison.seed,
        "sets": sets,
        "agreement": agreement(sets, lacking),
        **label_dependence(sets, statement),
        "provenance": {
            "truth_sets": sha256_file(args.sets),
            "labels": {name: sha256_json(truth) for name, truth in truths.items()},
            "predictions": digests,
            **comparison.provenance(),
        },
    }
    write_json(args.output, result)
    _log(result)


def score_by(truth: Mapping[str, Any], comparison: Comparison) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Return the entry of one label set in `sets` of truths.json, and the digests of the predictions.

    Raises:
        InputError: predictions do not fit the ground truth.
    """
    judged = judge(truth, comparison)
    classes = [category["name"] for category in truth["categories"]]
    once = np.ones((1, len(comparison.scene)))
    by_seed = {
        variant: np.array([[weighted_average_precision(one, once)[0] for one in run] for run in runs])
        for variant, runs in judged.matches.items()
    }
    has_boxes = judged.boxes.any(axis=1)
    rows = {variant: [_by_class(classes, values, has_boxes) for values in runs] for variant, runs in by_seed.items()}
    means = {variant: _by_class(classes, runs.mean(axis=0), has_boxes) for variant, runs in by_seed.items()}
    return {
        "boxes": {name: int(count) for name, count in zip(classes, judged.boxes.sum(axis=1), strict=True)},
        "AP": means,
        "seeds": {
            v: dict(zip(map(str, sorted(comparison.files[v])), values, strict=True)) for v, values in rows.items()
        },
        "order": sorted(means, key=lambda variant: -means[variant]["Average"]),  # ties in the given order
        **{
            key: judged.compared[key]
            for key in (
                *("untested", "scenes", "scenes_effective", "training"),
                *("against_bands", "inside", "against_inside"),
            )
        },
    }, judged.digests


def agreement(
    sets: Mapping[str, Mapping[str, Any]], lacking: Mapping[str, Mapping[str, Mapping[str, int]]]
) -> list[dict[str, Any]]:
    """Return the agreement of every two label sets: Kendall's tau-b of the variants' averages, NaN if all are equal.

    `lacking` is the number of boxes of each class in the first set that the second lacks, for every two annotated sets.
    It has no entry for the union, which contains all boxes.
    """
    found = []
    for first, second in combinations(sets, 2):
        averages = [[row["Average"] for row in sets[name]["AP"].values()] for name in (first, second)]
        known = {name: lacking.get(name, {}).get(other) for name, other in ((first, second), (second, first))}
        found.append(
            {
                "first": first,
                "second": second,
                "kendall_tau": float(stats.kendalltau(*averages).statistic) if len(averages[0]) > 1 else float("nan"),
                "first_alone": known[first],
                "second_alone": known[second],
            }
        )
    return found


def label_dependence(sets: Mapping[str, Mapping[str, Any]], statement: str) -> dict[str, Any]:
    """Return `changing` and `hangs` of truths.json, by the verdicts of `statement`.

    A label set with too few scenes for a test has no verdicts and is ignored.
    """
    tested = {name: one["against_bands"] for name, one in sets.items() if not one["untested"]}
    verdicts = {
        variant: {name: against[variant][statement]["verdict"] for name, against in tested.items()}
        for variant in next(iter(sets.values()))["against_bands"]
    }
    changing = {variant: words for variant, words in verdicts.items() if len(set(words.values())) > 1}
    return {
        "changing": changing,
        "hangs": {
            "verdict": bool(changing) if len(tested) > 1 else None,
            "best": len({one["order"][0] for one in sets.values()}) > 1,
        },
    }


def _by_class(classes: Sequence[str], values: np.ndarray, has_boxes: np.ndarray) -> dict[str, float]:
    """Return AP by class, NaN for a class without a box, and the average over the others."""
    average = float(values[has_boxes].mean())
    return {**{name: float(value) for name, value in zip(classes, values, strict=True)}, "Average": average}


def _log(result: Mapping[str, Any]) -> None:
    for name, one in result["sets"].items():
        rows = ", ".join(f"{variant} {one['AP'][variant]['Average']:.3f}" for variant in one["order"])
        logging.info("%-10s %s%s", name, rows, f"; not tested: {one['untested']}" if one["untested"] else "")
    for variant, words in result["changing"].items():
        logging.info("%s: %s", variant, ", ".join(f"{word} by {name}" for name, word in words.items()))
    logging.info(
        "the verdict depends on the label set: %s; the best variant depends on it: %s",
        *({True: "yes", False: "no", None: "not tested"}[result["hangs"][what]] for what in ("verdict", "best")),
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.truths", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=Path, required=True, help="truth_sets.json of the prepared split")
    add_comparison_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
