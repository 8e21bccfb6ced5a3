"""Count the kinds of error that each detector makes, and compute the gain in AP50 from fixing each kind.

The kinds of error and their fixes are the error types of TIDE (Bolya et al., ECCV 2020), with a foreground IoU
threshold of 0.5 and a background IoU threshold of 0.1. A detection that matches no box has the first of these kinds
whose condition on its IoU with the true boxes is met:

    localisation   0.1 to 0.5 with a box of its class; fixed by moving it to the true box
    class          0.5 or more with a box of another class; fixed by giving it the true class
    duplicate      0.5 or more with a box of its class that a higher-scoring detection matches; fixed by removing it
    background     0.1 or less with all boxes; fixed by removing it
    both           all others, between 0.1 and 0.5 with a box of another class; fixed by removing it

A box is `missed` if no detection matches it and it is not the nearest box of a localisation or class error; it is fixed
by not counting the box. Fixing assigns each box at most once: among the localisation and class errors nearest to the
box, to the one with the highest score. The others, and errors nearest to a box that is matched already, are removed.

The gain of a kind is AP50 with all errors of only that kind fixed, minus the measured AP50; AP50 is the average over
the classes with boxes. Two further gains are for all errors at once: `false_positive` removes every detection that
matches no box, `false_negative` counts only the boxes that are found. The gains of different kinds do not add up to the
gap to perfect AP. A class in which fixing would leave no box to count keeps an AP of 0.

Detections and boxes are matched by pycocotools, as for average precision. Only the `--most-detections` highest-scoring
detections per class and image count; others are not errors. A detection in a crowd that matches no box is neither a
match nor an error, and crowds are never missed. No score threshold is applied.

The log-average miss rate of people is defined as in pedestrian detection (Dollár et al., PAMI 2012): the geometric
mean, as in their code, of the miss rates at nine values of false positives per image, evenly spaced on a log scale from
0.01 to 1. At each value, the last point of the curve at or below it is used, or a miss rate of 1 if there is no such
point. Boxes of all sizes count, only crowds are ignored, and the IoU threshold is 0.5.

Writes errors.json:

    variants    for each variant the means over its seeds, and in `seeds` the same entries for each seed: `AP50`;
                `gains` by kind; `counts` of the errors of each kind; `miss_rate`, NaN if there is no class of people
                or it has no box; `classes`, for each class its `boxes`, `AP50` and `gains`
    people      the class of the miss rate, null if there is none

and with --curves a CSV with the precision-recall curve of every detector at an IoU of 0.5.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from detection.accumulation import Matches, weighted_average_precision
from detection.average_precision import (
    MOST_DETECTIONS,
    accumulate,
    add_most_option,
    check_most,
    evaluate,
)
from detection.comparison import add_predictions_option, runs_by_variant
from detection.matching import MATCH_OVERLAP
from detection.predictions import each_file, read_predictions
from detection.truth import objects_of, read_truth, without_boxes
from pipeline.artefacts import sha256_json, versions, write_csv, write_json
from pipeline.stage import run

KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")
ALL_AT_ONCE = ("false_positive", "false_negative")
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)  # indices in KINDS of the kinds of a detection
MATCHED = -1  # instead of a kind: the detection matches a box
FOREGROUND, BACKGROUND_OVERLAP = MATCH_OVERLAP, 0.1
PEOPLE = ("person", "people", "pedestrian")  # possible names of the class of the miss rate, in any case
FALSE_PER_IMAGE = np.logspace(-2, 0, 9)
LEAST_MISS_RATE = 1e-10  # used instead of a miss rate of 0 in the logarithm


@dataclass(frozen=True)
class DetectionErrors:
    """The kind of error of every counted detection, and the true boxes. Detections in crowds are left out.

    Images are in the order of their ids.

    Attributes:
        label: (D,) index of the class of each detection.
        score: (D,).
        kind: (D,) MATCHED, or the index in KINDS.
        fixed: (D,) index of the true box to which fixing would assign a localisation or class error, or -1.
        box_label: (G,) index of the class of each true box.
        found: (G,) whether a detection matches the box.
        missed: (G,) whether no detection matches the box and it is not the nearest box of an error.
    """

    label: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    fixed: np.ndarray
    box_label: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def find_errors(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], evaluation: COCOeval
) -> DetectionErrors:
    """Return the kind of error of each detection, and the missed boxes.

    `evaluation` is the result of `detection.average_precision.evaluate` for them at only the foreground overlap.
    """
    objects = objects_of(truth)
    box_label = np.array([a["category_id"] - 1 for a in objects], int)
    at = {a["id"]: index for index, a in enumerate(objects)}
    in_image: dict[int, list[int]] = {}
    for index, a in enumerate(objects):
        in_image.setdefault(a["image_id"], []).append(index)
    images = evaluation.params.imgIds
    parts = []
    for number, image in enumerate(images):
        by_class = [e for e in evaluation.evalImgs[number :: len(images)] if e is not None and e["dtIds"]]
        if not by_class:
            continue
        counted = ~np.concatenate([e["dtIgnore"][0] for e in by_class]).astype(bool)
        finds = np.concatenate([e["dtMatches"][0] for e in by_class]).astype(int)[counted]
        chosen = [predictions[n - 1] for n in np.concatenate([e["dtIds"] for e in by_class])[counted]]
        boxes = np.array(in_image.get(image, []), int)
        shared = mask.iou([p["bbox"] for p in chosen], [objects[g]["bbox"] for g in boxes], [0] * len(boxes))
        shared = np.reshape(shared, (len(chosen), len(boxes)))  # pycocotools returns a list if one of them is empty
        label = np.array([p["category_id"] - 1 for p in chosen], int)
        matched = np.array([at[annotation] if annotation else -1 for annotation in finds], int)
        kind, nearest = _kinds(shared, label[:, None] == box_label[boxes], matched >= 0, np.isin(boxes, matched))
        parts.append((label, [p["score"] for p in chosen], kind, np.append(boxes, -1)[nearest], matched))
    joined = (np.concatenate(part) for part in zip(*parts, strict=True)) if parts else iter([np.zeros(0, int)] * 5)
    label, score, kind, nearest, matched = joined
    found = np.isin(np.arange(len(objects)), matched)
    claims = np.flatnonzero(nearest >= 0)
    claims = claims[~found[nearest[claims]]]
    claims = claims[np.argsort(-score[claims], kind="stable")]
    claimed, strongest = np.unique(nearest[claims], return_index=True)
    fixed = np.full(len(label), -1)
    fixed[claims[strongest]] = claimed
    missed = ~found
    missed[claimed] = False
    return DetectionErrors(label, score.astype(float), kind, fixed, box_label, found, missed)


def _kinds(
    shared: np.ndarray, same: np.ndarray, matched: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of each detection in an image, and the box nearest to it if it is a localisation or class error.

    The second array is -1 for other detections.

    Args:
        shared: (D, G) IoU.
        same: (D, G) whether detection and box have the same class.
        matched: (D,) whether the detection matches a box.
        found: (G,) whether the box is matched.
    """
    if not shared.shape[1]:
        return np.full(len(shared), BACKGROUND), np.full(len(shared), -1)
    own, other = shared * same, shared * ~same
    best = own.max(axis=1)
    conditions = {
        MATCHED: matched,
        LOCALISATION: (best >= BACKGROUND_OVERLAP) & (best <= FOREGROUND),
        CLASS: other.max(axis=1) >= FOREGROUND,
        DUPLICATE: (own * found).max(axis=1) >= FOREGROUND,
        BACKGROUND: shared.max(axis=1) <= BACKGROUND_OVERLAP,
    }
    kind = np.select(list(conditions.values()), list(conditions), default=BOTH)
    nearest = np.select([kind == LOCALISATION, kind == CLASS], [own.argmax(axis=1), other.argmax(axis=1)], default=-1)
    return kind, nearest


def gains(errors: DetectionErrors, classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return AP50 of each class, (K,), and its gain from fixing each kind of error. NaN for a class without boxes."""
    boxes = np.bincount(errors.box_label, minlength=classes)
    matched = errors.kind == MATCHED
    everything = np.ones(len(matched), bool)

    def fix(kind: str) -> np.ndarray:
        if kind in ("missed", "false_negative"):
            left_out = errors.missed if kind == "missed" else ~errors.found
            expected = boxes - np.bincount(errors.box_label[left_out], minlength=classes)
            # If no box remains, none was found, and AP is 0 for any number of boxes.
            return _by_class(errors.label, errors.score, matched, everything, np.where(expected, expected, boxes))
        if kind == "false_positive":
            return _by_class(errors.label, errors.score, matched, matched, boxes)
        of_kind = errors.kind == KINDS.index(kind)
        assigned = of_kind & (errors.fixed >= 0)
        label = errors.label.copy()
        label[assigned] = errors.box_label[errors.fixed[assigned]]
        return _by_class(label, errors.score, matched | assigned, ~of_kind | assigned, boxes)

    precision = _by_class(errors.label, errors.score, matched, everything, boxes)
    return precision, {kind: fix(kind) - precision for kind in (*KINDS, *ALL_AT_ONCE)}


def _by_class(
    label: np.ndarray, score: np.ndarray, matched: np.ndarray, kept: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """Return AP of each class at one overlap, (K,), from the detections for which `kept` is true."""
    order = np.argsort(-score, kind="stable")
    order = order[kept[order]]
    once = np.ones((1, 1))
    values = []
    for number, count in enumerate(boxes):
        hit = matched[order[label[order] == number]]
        matches = Matches(np.zeros(len(hit), int), hit[None], np.array([count], float))
        values.append(weighted_average_precision(matches, once)[0])
    return np.array(values)


def log_average_miss_rate(score: np.ndarray, matched: np.ndarray, boxes: int, images: int) -> float:
    """Return the log-average miss rate of one class, in 0..1; NaN if there is no box.

    Args:
        score: (D,) of the detections of the class.
        matched: (D,) whether they match a box.
        boxes: number of boxes of the class.
        images: number of test images, including those without a box of the class.
    """
    if not boxes:
        return float("nan")
    matched = matched[np.argsort(-score, kind="stable")]
    false, true = np.cumsum(~matched) / images, np.cumsum(matched) / boxes
    reached = np.append(0.0, true)[np.searchsorted(false, FALSE_PER_IMAGE, side="right")]
    return float(np.exp(np.log(np.maximum(1 - reached, LEAST_MISS_RATE)).mean()))


def people_of(classes: Sequence[str]) -> str | None:
    """Return the class of people, the first of PEOPLE that is a class name in any case; None if there is none."""
    named = {name.casefold(): name for name in classes}
    return next((named[name] for name in PEOPLE if name in named), None)


def describe(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], most: int = MOST_DETECTIONS
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the entries of errors.json for one detector, and its precision-recall curves by class.

    A curve is the interpolated precision at the recalls 0, 0.01, ..., 1 for an overlap of 0.5. Classes without a box
    have no curve.

    Raises:
        InputError: as `detection.average_precision.evaluate`.
    """
    evaluation = evaluate(truth, predictions, ("all",), most, (FOREGROUND,))
    errors = find_errors(truth, predictions, evaluation)
    names = [category["name"] for category in truth["categories"]]
    boxes = np.bincount(errors.box_label, minlength=len(names))
    precision, gained = gains(errors, len(names))
    counts = np.bincount(errors.kind[errors.kind != MATCHED], minlength=len(KINDS) - 1)
    people = people_of(names)
    number = names.index(people) if people else -1
    own = errors.label == number
    described = {
        "AP50": float(np.mean(precision[boxes > 0])),
        "gains": {kind: float(np.mean(values[boxes > 0])) for kind, values in gained.items()},
        "counts": dict(zip(KINDS, [*map(int, counts), int(errors.missed.sum())], strict=True)),
        "miss_rate": log_average_miss_rate(
            errors.score[own], errors.kind[own] == MATCHED, int(boxes[number]) if people else 0, len(truth["images"])
        ),
        "classes": {
            name: {
                "boxes": int(boxes[k]),
                "AP50": float(precision[k]),
                "gains": {kind: float(values[k]) for kind, values in gained.items()},
            }
            for k, name in enumerate(names)
        },
    }
    curves = accumulate(evaluation).precision[0, :, :, 0, -1]
    return described, {name: curves[:, k] for k, name in enumerate(names) if boxes[k]}


def mean_of(values: Sequence[Any]) -> Any:
    """Return the mean of numbers, or of mappings of equal form, key by key; equal numbers are returned unchanged."""
    if isinstance(values[0], Mapping):
        return {key: mean_of([value[key] for value in values]) for key in values[0]}
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def main(argv: Sequence[str] | None = None) -> None:
    """Find the errors of all detectors, compute the gains and write them."""
    args = _parse(argv)
    check_most(args.most_detections)
    truth = read_truth(args.truth)
    if warning := without_boxes(truth, "test"):
        logging.warning("warning: %s", warning)
    files = runs_by_variant(args.predictions, args.brought)
    detectors = [(variant, seed) for variant in files for seed in sorted(files[variant])]
    work = partial(_describe_file, truth, args.most_detections)
    found = each_file("finding errors", work, [files[variant][seed] for variant, seed in detectors])
    digests: dict[str, dict[str, str]] = {variant: {} for variant in files}
    seeds: dict[str, dict[str, Any]] = {variant: {} for variant in files}
    curves = []
    for (variant, seed), (digest, described, by_class) in zip(detectors, found, strict=True):
        digests[variant][str(seed)] = digest
        seeds[variant][str(seed)] = described
        for name, precision in by_class.items():
            rows = {"recall": np.linspace(0, 1, len(precision)).round(2), "precision": precision}
            curves.append(pd.DataFrame({"variant": variant, "seed": seed, "class": name, **rows}))
    variants = {variant: {**mean_of(list(each.values())), "seeds": each} for variant, each in seeds.items()}
    provenance = {
        "labels": sha256_json(truth),
        "predictions": digests,
        "most_detections": args.most_detections,
        "versions": versions("numpy", "numba", "pycocotools"),
    }
    if args.curves:
        facts = {"overlap": FOREGROUND, "precision": "interpolated: the highest at this recall or a higher one"}
        write_csv(args.curves, pd.concat(curves), facts | provenance)
    write_json(
        args.output,
        {
            "foreground": FOREGROUND,
            "background": BACKGROUND_OVERLAP,
            "people": people_of([category["name"] for category in truth["categories"]]),
            "false_per_image": FALSE_PER_IMAGE.tolist(),
            "variants": variants,
            "provenance": provenance,
        },
    )
    for variant, one in variants.items():
        words = (f"{kind} {one['gains'][kind]:.3f}" for kind in KINDS)
        logging.info("%-12s AP50 %.3f; gains from fixing: %s", variant, one["AP50"], ", ".join(words))


def _describe_file(
    truth: Mapping[str, Any], most: int, file: Path
) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    predictions = read_predictions(file, truth)
    return sha256_json(predictions), *describe(truth, predictions, most)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.errors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    add_predictions_option(parser)
    parser.add_argument(
        "--brought", nargs="*", default=[], metavar="VARIANT", help="external variants; they may have other seeds"
    )
    add_most_option(parser)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--curves", type=Path, help="CSV file of precision-recall curves to write (default: none)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
