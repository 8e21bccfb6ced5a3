"""Whether the answer hangs on whose boxes are the truth: every detector scored by every label set of the data set.

The detectors are those trained on the chosen set; nothing is trained again. Each label set gives average precision, an
order of the variants, and the same verdict against the single bands as `detection.significance` gives by the chosen
one (`docs/protocol.md`). All sets are judged on the same scenes with the same random signs. How the sets' verdicts
differ is described; no test is made of it.

Writes truths.json:

    truth       the chosen set
    several     whether there is more than one; if not, nothing is scored and the rest is empty
    statement   what the verdicts are about: `methods` from three seeds on, else these `trained` detectors
    sets        for each set: `boxes` of each class, `AP` of each variant (means over the seeds) by class and `Average`,
                `seeds` with the same of each seed, `order` of the variants from the best on; `untested`, `scenes`,
                `training`, `against_bands`, `inside` and `against_inside` as in significance.json
    agreement   for every two sets: Kendall's tau-b of the variants' averages, and the boxes that the other lacks
    changing    the variants whose verdict is not the same under all sets by which something was tested, with the
                verdict under each of these
    hangs       whether a `verdict` does (null where fewer than two sets were tested), whether the `best` variant does
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
from detection.label_sets import read_truth_sets
from detection.significance import Comparison, add_comparison_options, judge, read_comparison
from pipeline.artefacts import sha256_file, sha256_json, write_json
from pipeline.stage import run


def main(argv: Sequence[str] | None = None) -> None:
    """Score by every set, compare, write."""
    args = _parse(argv)
    chosen, truths, lacking = read_truth_sets(args.sets)
    if len(truths) == 1:
        logging.info("one label set, %s: no other to score the detectors by", chosen)
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
        **hanging(sets, statement),
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
    """Return what `sets` of truths.json says of one label set, and the digests of the predictions.

    Raises:
        InputError: predictions do not belong to the truth.
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
        "order": sorted(means, key=lambda variant: -means[variant]["Average"]),  # of equal ones the first given
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
    """Return how every two label sets agree: Kendall's tau-b of the variants' averages, NaN where all are equal.

    `lacking` holds, for every two sets that were drawn, how many boxes of each class the second lacks; nothing is said
    of the union, which has them all.
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


def hanging(sets: Mapping[str, Mapping[str, Any]], statement: str) -> dict[str, Any]:
    """Return which variants' verdicts differ between the label sets, and whether a verdict or the best variant does.

    The verdicts are those of `statement`. A set with too few scenes for a test has none and takes no part.
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
        "the verdict hangs on the choice of labels: %s; the best variant: %s",
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
