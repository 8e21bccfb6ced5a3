"""What kind of mistakes each detector makes, and the average precision that mending each kind would bring.

The kinds and the mending are those of TIDE (Bolya et al., ECCV 2020), with a foreground overlap of 0.5 and a background
overlap of 0.1. A detection that finds no box is one of these, by its greatest overlap with a true box, the first that
holds:

    localisation   0.1 to 0.5 with one of its class; mended by the true box
    class          0.5 or more with one of another class; mended by the true class
    duplicate      0.5 or more with one of its class that a stronger detection found; mended by leaving it out
    background     0.1 or less with all; mended by leaving it out
    both           the rest, between 0.1 and 0.5 with one of another class; mended by leaving it out

A box is `missed` if nothing finds it and no localisation or class error is nearest to it; mended by not expecting it. A
box is given once: to the strongest of the localisation and class errors nearest to it; others, and those nearest to a
box that is found already, are left out in mending. The gain of a kind is AP50, the average over the classes with boxes,
with all errors of that kind mended and no other, less AP50 as it is. Two gains are of all errors at once:
`false_positive` leaves out every detection that finds nothing, `false_negative` expects only what is found. Gains of
different kinds do not add up to what is lacking. A class of whose boxes none would be expected any more stays at 0.

Which detection finds which box is decided by pycocotools, as for average precision: the detections that count are the
`--most-detections` best of each class in an image, others are no errors; a detection in a crowd that finds no box is
neither right nor an error, and crowds are never missed. All scores count, not only those from 0.25 on.

The log-average miss rate of people is that of pedestrian detection (Dollár et al., PAMI 2012): the geometric mean, as
their code has it, of the miss rate at nine numbers of false positives per image, evenly spaced in logarithm from 0.01
to 1; the curve's last point at or below each, 1 where there is none. Boxes of all sizes are expected, none is ignored
but crowds; the overlap is 0.5.

Writes errors.json:

    variants    for each variant the means over its seeds, and `seeds` with the same of each: `AP50`; `gains`, by kind;
                `counts` of the errors of each kind; `miss_rate`, NaN where no class is people or it has no box;
                `classes`, for each class its `boxes`, `AP50` and `gains`
    people      the class of the miss rate, null where there is none

and with --curves a CSV of every detector's precision by recall at an overlap of 0.5.
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
    MATCH_OVERLAP,
    MOST_DETECTIONS,
    accumulate,
    add_most_option,
    check_most,
    evaluate,
)
from detection.predictions import each_file, read_predictions
from detection.significance import runs_by_variant
from detection.truth import objects_of, read_truth, without_boxes
from pipeline.artefacts import sha256_json, versions, write_csv, write_json
from pipeline.stage import run

KINDS = ("class", "localisation", "both", "duplicate", "background", "missed")
ALL_AT_ONCE = ("false_positive", "false_negative")
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(5)  # of KINDS, those that a detection may be
RIGHT = -1  # in their place: the detection finds a box
FOREGROUND, BACKGROUND_OVERLAP = MATCH_OVERLAP, 0.1
PEOPLE = ("person", "people", "pedestrian")  # the class of the miss rate, whatever its case; the first that there is
FALSE_PER_IMAGE = np.logspace(-2, 0, 9)
LEAST_MISS_RATE = 1e-10  # whose logarithm stands for that of 0


@dataclass(frozen=True)
class Sorted:
    """A detector's detections that count, crowds' left out, images in the order of their ids, and the true boxes.

    Attributes:
        label: (D,) index of the class of each detection.
        score: (D,).
        kind: (D,) RIGHT, or the index in KINDS.
        mended: (D,) index of the true box that mending would give a localisation or class error; -1 for none.
        box_label: (G,) index of the class of each true box.
        found: (G,) whether a detection finds it.
        missed: (G,) whether nothing does and no error is nearest to it.
    """

    label: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    mended: np.ndarray
    box_label: np.ndarray
    found: np.ndarray
    missed: np.ndarray


def sort_errors(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], evaluation: COCOeval) -> Sorted:
    """Return the kind of each detection, and which boxes are missed.

    `evaluation` is of these, from `detection.average_precision.evaluate`, at the foreground overlap alone.
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
        shared = np.reshape(shared, (len(chosen), len(boxes)))  # pycocotools returns a list where either is empty
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
    mended = np.full(len(label), -1)
    mended[claims[strongest]] = claimed
    missed = ~found
    missed[claimed] = False
    return Sorted(label, score.astype(float), kind, mended, box_label, found, missed)


def _kinds(shared: np.ndarray, same: np.ndarray, right: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of each of an image's detections, and the box nearest to a localisation or class error, else -1.

    Args:
        shared: (D, G) overlaps.
        same: (D, G) whether they are of one class.
        right: (D,) whether the detection finds a box.
        found: (G,) whether the box is found.
    """
    if not shared.shape[1]:
        return np.full(len(shared), BACKGROUND), np.full(len(shared), -1)
    own, other = shared * same, shared * ~same
    best = own.max(axis=1)
    conditions = {
        RIGHT: right,
        LOCALISATION: (best >= BACKGROUND_OVERLAP) & (best <= FOREGROUND),
        CLASS: other.max(axis=1) >= FOREGROUND,
        DUPLICATE: (own * found).max(axis=1) >= FOREGROUND,
        BACKGROUND: shared.max(axis=1) <= BACKGROUND_OVERLAP,
    }
    kind = np.select(list(conditions.values()), list(conditions), default=BOTH)
    nearest = np.select([kind == LOCALISATION, kind == CLASS], [own.argmax(axis=1), other.argmax(axis=1)], default=-1)
    return kind, nearest


def gains(errors: Sorted, classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return AP50 of each class, (K,), and with each kind of errors mended less that; NaN for a class without a box."""
    boxes = np.bincount(errors.box_label, minlength=classes)
    right = errors.kind == RIGHT
    everything = np.ones(len(right), bool)

    def mended(kind: str) -> np.ndarray:
        if kind in ("missed", "false_negative"):
            left_out = errors.missed if kind == "missed" else ~errors.found
            expected = boxes - np.bincount(errors.box_label[left_out], minlength=classes)
            # Where none is left none was found, and AP is 0 however many are expected.
            return _by_class(errors.label, errors.score, right, everything, np.where(expected, expected, boxes))
        if kind == "false_positive":
            return _by_class(errors.label, errors.score, right, right, boxes)
        of_kind = errors.kind == KINDS.index(kind)
        given = of_kind & (errors.mended >= 0)
        label = errors.label.copy()
        label[given] = errors.box_label[errors.mended[given]]
        return _by_class(label, errors.score, right | given, ~of_kind | given, boxes)

    precision = _by_class(errors.label, errors.score, right, everything, boxes)
    return precision, {kind: mended(kind) - precision for kind in (*KINDS, *ALL_AT_ONCE)}


def _by_class(
    label: np.ndarray, score: np.ndarray, right: np.ndarray, kept: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """Return AP of each class at one overlap, (K,), from the detections that are `kept`."""
    order = np.argsort(-score, kind="stable")
    order = order[kept[order]]
    once = np.ones((1, 1))
    values = []
    for number, count in enumerate(boxes):
        hit = right[order[label[order] == number]]
        matches = Matches(np.zeros(len(hit), int), hit[None], np.array([count], float))
        values.append(weighted_average_precision(matches, once)[0])
    return np.array(values)


def log_average_miss_rate(score: np.ndarray, right: np.ndarray, boxes: int, images: int) -> float:
    """Return the log-average miss rate of one class, in 0..1; NaN without a box.

    Args:
        score: (D,) of the class's detections.
        right: (D,) whether they find a box.
        boxes: that are expected.
        images: that were tested, those without a box of the class among them.
    """
    if not boxes:
        return float("nan")
    right = right[np.argsort(-score, kind="stable")]
    false, true = np.cumsum(~right) / images, np.cumsum(right) / boxes
    reached = np.append(0.0, true)[np.searchsorted(false, FALSE_PER_IMAGE, side="right")]
    return float(np.exp(np.log(np.maximum(1 - reached, LEAST_MISS_RATE)).mean()))


def people_of(classes: Sequence[str]) -> str | None:
    """Return the class of people, by the first of PEOPLE that a class is named; None where none is."""
    named = {name.casefold(): name for name in classes}
    return next((named[name] for name in PEOPLE if name in named), None)


def describe(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], most: int = MOST_DETECTIONS
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what errors.json says of one detector, and its curves by class.

    A curve holds the interpolated precision at the recalls 0, 0.01, ..., 1 for an overlap of 0.5; there is none of a
    class without a box.

    Raises:
        InputError: as `detection.average_precision.evaluate`.
    """
    evaluation = evaluate(truth, predictions, ("all",), most, (FOREGROUND,))
    errors = sort_errors(truth, predictions, evaluation)
    names = [category["name"] for category in truth["categories"]]
    boxes = np.bincount(errors.box_label, minlength=len(names))
    precision, gained = gains(errors, len(names))
    counts = np.bincount(errors.kind[errors.kind != RIGHT], minlength=len(KINDS) - 1)
    people = people_of(names)
    number = names.index(people) if people else -1
    own = errors.label == number
    described = {
        "AP50": float(np.mean(precision[boxes > 0])),
        "gains": {kind: float(np.mean(values[boxes > 0])) for kind, values in gained.items()},
        "counts": dict(zip(KINDS, [*map(int, counts), int(errors.missed.sum())], strict=True)),
        "miss_rate": log_average_miss_rate(
            errors.score[own], errors.kind[own] == RIGHT, int(boxes[number]) if people else 0, len(truth["images"])
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
    """Return the mean of numbers, or of mappings of one form key by key; whole where all are the same whole number."""
    if isinstance(values[0], Mapping):
        return {key: mean_of([value[key] for value in values]) for key in values[0]}
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def main(argv: Sequence[str] | None = None) -> None:
    """Sort, mend, write."""
    args = _parse(argv)
    check_most(args.most_detections)
    truth = read_truth(args.truth)
    if warning := without_boxes(truth, "test"):
        logging.warning("warning: %s", warning)
    files = runs_by_variant(args.predictions, args.brought)
    detectors = [(variant, seed) for variant in files for seed in sorted(files[variant])]
    work = partial(_describe_file, truth, args.most_detections)
    found = each_file("sorting errors", work, [files[variant][seed] for variant, seed in detectors])
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
        logging.info("%-12s AP50 %.3f; mended, more by %s", variant, one["AP50"], ", ".join(words))


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
    parser.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="VARIANT/SEED=FILE",
        help="predictions.json of every variant and seed",
    )
    parser.add_argument(
        "--brought", nargs="*", default=[], metavar="VARIANT", help="variants made elsewhere: their seeds may be others"
    )
    add_most_option(parser)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--curves", type=Path, help="the CSV of precision by recall to write; default none")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
