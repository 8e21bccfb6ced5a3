"""Average precision of detections by the COCO protocol (Lin et al., 2014), as computed by pycocotools.

AP is the mean of the APs at intersections over union of 0.50, 0.55, ..., 0.95. Each of these is the mean of the
interpolated precision at 101 recalls, over at most the 100 best detections (optionally up to 300) of each class in an
image. Values are fractions in 0..1. The AP of a class without a box in the ground truth is NaN, and the average is over
the other classes. Crowds (`iscrowd`) do not count as boxes, and a detection that matches no box but lies in a crowd
counts neither as true nor as false positive.
"""

import argparse
import contextlib
import copy
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.matching import confusion
from detection.predictions import check_predictions
from detection.truth import objects_of
from pipeline.artefacts import read_json, sha256_json, versions, write_json, write_json_list
from pipeline.stage import InputError

MOST_DETECTIONS = 100  # per class and image, by the protocol
MOST_ALLOWED = 300  # for --most-detections
AREAS = ("all", "small", "medium", "large")  # COCO's: small is below 32x32 pixels, medium below 96x96, large above


@dataclass(frozen=True)
class Scores:
    """Precision and recall as accumulated by pycocotools.

    Attributes:
        classes: class names in the order of the arrays.
        boxes: (K,) number of ground-truth boxes of each class, without crowds.
        precision: (T, R, K, A, M): 10 overlaps, 101 recalls, classes, areas (all, small, medium, large), maximum
            detections per class and image (1, 10, 100, and a larger number if set); NaN if undefined.
        recall: (T, K, A, M), the maximum recall; NaN if undefined.
    """

    classes: tuple[str, ...]
    boxes: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def average_precision(self, overlap: float | None = None, area: int = 0) -> np.ndarray:
        """Return AP of each class, (K,): the mean over all overlaps, or AP at one `overlap`; `area` indexes AREAS."""
        chosen = slice(None) if overlap is None else [round((overlap - 0.5) / 0.05)]
        return self.precision[chosen, :, :, area, -1].mean(axis=(0, 1))

    def table(self) -> dict[str, Any]:
        """Return the scores of each class, and their averages over the classes for which they are defined.

        The scores are AP, AP50, AP75; AP_small, AP_medium, AP_large by the area of the true box; and AR100, the maximum
        recall with 100 detections per class and image, averaged over the overlaps.
        """
        values = {
            "AP": self.average_precision(),
            "AP50": self.average_precision(0.5),
            "AP75": self.average_precision(0.75),
            **{f"AP_{name}": self.average_precision(area=area) for area, name in enumerate(AREAS) if area},
            "AR100": self.recall[:, :, 0, 2].mean(axis=0),
        }
        has_boxes = self.boxes > 0
        return {
            "classes": {
                name: {**{column: float(array[k]) for column, array in values.items()}, "boxes": int(self.boxes[k])}
                for k, name in enumerate(self.classes)
            },
            "average": {column: _mean_of_defined(array) for column, array in values.items()},
            "classes_without_boxes": [name for name, some in zip(self.classes, has_boxes, strict=True) if not some],
        }


def add_most_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of detections per class and image that count."""
    parser.add_argument(
        "--most-detections",
        type=int,
        default=MOST_DETECTIONS,
        help=f"number of highest-scoring detections per class and image that count, up to {MOST_ALLOWED} "
        "(default: %(default)s)",
    )


def add_kept_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the number of detections kept per image, and of those that count per class and image."""
    parser.add_argument(
        "--max-detections",
        type=int,
        help="number of highest-scoring detections kept per image, over all classes (default: as --most-detections)",
    )
    add_most_option(parser)


def check_most(most: int) -> None:
    """Raise InputError if the number of detections per class and image is outside the allowed range."""
    if not MOST_DETECTIONS <= most <= MOST_ALLOWED:
        raise InputError(f"--most-detections {most}: expected {MOST_DETECTIONS} to {MOST_ALLOWED}")


def score(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], most: int = MOST_DETECTIONS) -> Scores:
    """Score predictions (COCO results) against a ground truth of this project. An empty list is a valid result.

    Only the `most` detections of highest score count, per class and image.

    Raises:
        InputError: as `detection.predictions.check_predictions`.
    """
    return accumulate(evaluate(truth, predictions, most=most))


class _Evaluation(COCOeval):
    """pycocotools' evaluation; the matching skips detections that overlap every box by less than the lowest threshold.

    These detections can match no box and do not influence the matches of the others. They are the majority of a
    detector's output, and pycocotools would compare each of them with every box at every threshold.
    """

    def evaluateImg(  # noqa: N802 - pycocotools' name
        self, image: int, category: int, area: Sequence[float], most: int
    ) -> dict[str, Any] | None:
        """Return the matches of a class in an image, as pycocotools does."""
        key = image, category
        found, shared = self._dts[key], self.ious[key]
        if not len(shared):
            return super().evaluateImg(image, category, area, most)
        order = np.argsort([-d["score"] for d in found], kind="mergesort")[:most]  # the order of the rows of `shared`
        near = shared.max(axis=1) >= self.params.iouThrs[0]
        self._dts[key], self.ious[key] = [found[n] for n in order[near]], shared[near]
        result = super().evaluateImg(image, category, area, most)
        self._dts[key], self.ious[key] = found, shared
        found = [found[n] for n in order]
        matches = np.zeros((len(self.params.iouThrs), len(found)))
        outside = np.array([not area[0] <= d["area"] <= area[1] for d in found])
        ignored = np.tile(outside, (len(matches), 1))
        matches[:, near], ignored[:, near] = result["dtMatches"], result["dtIgnore"]
        return result | {
            "dtIds": [d["id"] for d in found],
            "dtMatches": matches,
            "dtIgnore": ignored,
            "dtScores": [d["score"] for d in found],
        }


def accumulate(evaluation: COCOeval, images: Collection[int] | None = None) -> Scores:
    """Return the scores of an evaluation over all its images, or over the images with the ids `images`.

    The matches of an image do not depend on other images, so a subset of the images needs no new matching.
    """
    ids, annotations = evaluation.params.imgIds, objects_of(evaluation.cocoGt.dataset)
    part = copy.copy(evaluation)
    if images is not None:
        kept = [number for number, image in enumerate(ids) if image in images]
        groups = range(0, len(evaluation.evalImgs), len(ids))  # one group per class and area
        part.evalImgs = [evaluation.evalImgs[start + number] for start in groups for number in kept]
        part.params = part._paramsEval = copy.copy(evaluation.params)
        part.params.imgIds = [ids[number] for number in kept]
        annotations = [a for a in annotations if a["image_id"] in images]
    with contextlib.redirect_stdout(io.StringIO()):
        part.accumulate()
    precision, recall = (part.eval[key].astype(float) for key in ("precision", "recall"))
    categories = evaluation.cocoGt.dataset["categories"]
    return Scores(
        classes=tuple(category["name"] for category in categories),
        boxes=np.array([sum(a["category_id"] == c["id"] for a in annotations) for c in categories], dtype=int),
        precision=np.where(precision < 0, np.nan, precision),
        recall=np.where(recall < 0, np.nan, recall),
    )


def evaluate(
    truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    areas: Sequence[str] = AREAS,
    most: int = MOST_DETECTIONS,
    at: Sequence[float] | None = None,
) -> COCOeval:
    """Return pycocotools' evaluation with the matches of every image, not yet accumulated.

    Args:
        truth: ground truth.
        predictions: COCO results.
        areas: those of AREAS to evaluate; the time taken is proportional to their number.
        most: number of detections per class and image that count.
        at: overlaps; by default the ten of the protocol.

    Raises:
        InputError: as `score`.
    """
    check_predictions(truth, predictions)
    # pycocotools prints messages, and modifies its arguments.
    with contextlib.redirect_stdout(io.StringIO()):
        expected = _coco(truth, [dict(annotation) for annotation in truth["annotations"]])
        found = _coco(truth, [_detection(number, p) for number, p in enumerate(predictions, 1)])
        evaluation = _Evaluation(expected, found, "bbox")
        assert evaluation.params.maxDets[-1] == MOST_DETECTIONS
        if most > MOST_DETECTIONS:
            evaluation.params.maxDets = [*evaluation.params.maxDets, most]
        if at is not None:
            evaluation.params.iouThrs = np.array(at)
        ranges = dict(zip(evaluation.params.areaRngLbl, evaluation.params.areaRng, strict=True))
        evaluation.params.areaRngLbl = list(areas)
        evaluation.params.areaRng = [ranges[name] for name in areas]
        evaluation.evaluate()
    return evaluation


def score_conditions(evaluation: COCOeval, conditions: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return `Scores.table()` and the number of `images` for each of the conditions, which are given by image name."""
    tables = {}
    for condition in sorted(set(conditions.values())):
        images = evaluation.cocoGt.dataset["images"]
        ids = {image["id"] for image in images if conditions.get(image["file_name"]) == condition}
        if ids:
            tables[condition] = {"images": len(ids), **accumulate(evaluation, ids).table()}
    return tables


def without_classes(table: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a `Scores.table()` with NaN for the scores of the classes `names`, and averages over the others."""
    if not names:
        return dict(table)
    classes = {
        name: {column: value if column == "boxes" else float("nan") for column, value in values.items()}
        if name in names
        else values
        for name, values in table["classes"].items()
    }
    columns = {column: np.array([values[column] for values in classes.values()]) for column in table["average"]}
    average = {column: _mean_of_defined(values) for column, values in columns.items()}
    return {**table, "classes": classes, "average": average}


def protocol_words(most: int) -> str:
    """Return the description of the protocol for tables, with `most` detections per class and image."""
    return f"COCO AP@[0.50:0.95] by pycocotools, at most {most} detections of each class in an image"


def write_scores(
    folder: Path,
    truth: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    conditions: Mapping[str, str],
    facts: Mapping[str, Any],
    provenance: Mapping[str, Any],
    most: int = MOST_DETECTIONS,
    unknown: Collection[str] = (),
) -> None:
    """Score the predictions of a detector, write `predictions.json` and `ap.json` to `folder`, and log the scores.

    Args:
        folder: output folder.
        truth: ground truth of the test images.
        predictions: COCO results.
        conditions: condition by image name; may be empty.
        facts: variant, seed, detector and further entries for ap.json.
        provenance: origin of the predictions, with the `versions` of the software that made them. The digest of the
            predictions and the versions of the scoring software are added.
        most: number of detections per class and image that count.
        unknown: classes that the detector does not know; they have no AP, and the averages are over the others.

    Raises:
        InputError: as `score`.
    """
    evaluation = evaluate(truth, predictions, most=most)
    table = without_classes(accumulate(evaluation).table(), unknown)
    if table["classes_without_boxes"]:
        logging.warning("warning: the test set has no box of %s: no AP", ", ".join(table["classes_without_boxes"]))
    content = {
        **facts,
        "protocol": protocol_words(most),
        **table,
        "confusion": confusion(truth, predictions),
        "conditions": {
            name: without_classes(part, unknown) for name, part in score_conditions(evaluation, conditions).items()
        },
        "images": len(truth["images"]),
        "boxes": len(objects_of(truth)),
        "detections": len(predictions),
        "provenance": {
            **provenance,
            "most_detections": most,
            "predictions": sha256_json(predictions),
            "versions": {**provenance["versions"], **versions("numpy", "pycocotools")},
        },
    }
    write_json_list(folder / "predictions.json", predictions)
    write_json(folder / "ap.json", content)
    for name, values in table["classes"].items():
        logging.info("%-12s AP %.3f  AP50 %.3f  boxes %d", name, values["AP"], values["AP50"], values["boxes"])
    logging.info("%-12s AP %.3f  AP50 %.3f", "average", table["average"]["AP"], table["average"]["AP50"])


def read_conditions(path: Path | None) -> dict[str, str]:
    """Return the condition of each image by name; empty if the file does not exist.

    Raises:
        InputError: the file does not have the form {"source": ..., "images": {name: condition}}.
    """
    if path is None or not path.is_file():
        return {}
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, dict):
        raise InputError(f"{path} has no mapping `images`; expected one from image names to conditions")
    return {str(name): str(condition) for name, condition in images.items() if condition is not None}


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _coco(truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    """Return an indexed COCO object. (pycocotools' loadRes does not accept an empty list of detections.)"""
    coco = COCO()
    coco.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
    coco.createIndex()
    return coco


def _detection(number: int, prediction: Mapping[str, Any]) -> dict[str, Any]:
    area = prediction["bbox"][2] * prediction["bbox"][3]
    return {**prediction, "id": number, "area": area, "iscrowd": 0}
