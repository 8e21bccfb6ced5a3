"""Average precision of detections by the COCO protocol (Lin et al., 2014), as pycocotools computes it.

AP is the mean of AP at the intersections over union 0.50, 0.55, ..., 0.95, each the mean of the interpolated precision
at 101 recalls, over at most the 100 best detections of each class in an image, or up to 300 where asked for. Values are
fractions in 0..1. A class without a box in the ground truth has no AP: it is NaN, and the average is over the others.
Crowds (`iscrowd`) are no boxes to be found, and a detection that finds no box and lies in one by the overlap is neither
right nor wrong.
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

from detection.boxes import overlaps, shared_areas
from detection.predictions import check_predictions
from detection.truth import objects_of
from pipeline.artefacts import read_json, sha256_json, versions, write_json, write_json_list
from pipeline.stage import InputError

MOST_DETECTIONS = 100  # of a class in an image, by the protocol
MOST_ASKED = 300  # that may be asked for
AREAS = ("all", "small", "medium", "large")  # COCO's: below 32x32, below 96x96 pixels, and above
# Where a detection counts or does not, it counts from this score on: the same for every variant and chosen before any
# was trained. The score of best F1 would differ by variant and be chosen on the test images.
LEAST_SCORE = 0.25
MATCH_OVERLAP = 0.5


@dataclass(frozen=True)
class Scores:
    """What the evaluator found.

    Attributes:
        classes: class names in the order of the arrays.
        boxes: ground-truth boxes of each class, crowds not counted.
        precision: (T, R, K, A, M): 10 overlaps, 101 recalls, classes, areas (all, small, medium, large), detections of
            a class in an image (1, 10, 100, and more where asked for); NaN where undefined.
        recall: (T, K, A, M), the greatest recall reached; NaN where undefined.
    """

    classes: tuple[str, ...]
    boxes: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def average_precision(self, overlap: float | None = None, area: int = 0) -> np.ndarray:
        """Return AP of each class, (K,): the mean over overlaps, or at one (0.5, 0.75); `area` indexes as above."""
        chosen = slice(None) if overlap is None else [round((overlap - 0.5) / 0.05)]
        return self.precision[chosen, :, :, area, -1].mean(axis=(0, 1))

    def table(self) -> dict[str, Any]:
        """Return each class's numbers and their averages over the classes where they are defined.

        AP, AP50, AP75; AP_small, AP_medium, AP_large by the area of the true box; AR100, the greatest recall with 100
        detections of a class in an image, meant over the overlaps.
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
    """Add the option that says how many detections of a class in an image count."""
    parser.add_argument(
        "--most-detections",
        type=int,
        default=MOST_DETECTIONS,
        help=f"best detections of each class in an image that count, up to {MOST_ASKED} (default: %(default)s)",
    )


def add_kept_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how many detections of an image are kept, and how many of a class count."""
    parser.add_argument(
        "--max-detections",
        type=int,
        help="best detections kept in an image, of all classes together (default: as many as --most-detections)",
    )
    add_most_option(parser)


def check_most(most: int) -> None:
    """Raise InputError for a number of detections of a class in an image that may not be asked for."""
    if not MOST_DETECTIONS <= most <= MOST_ASKED:
        raise InputError(f"--most-detections {most}: wanted {MOST_DETECTIONS} to {MOST_ASKED}")


def score(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], most: int = MOST_DETECTIONS) -> Scores:
    """Score predictions (COCO results) against a ground truth of ours; no predictions at all are a valid result.

    `most` is how many detections of a class in an image count.

    Raises:
        InputError: as `detection.predictions.check_predictions`.
    """
    return accumulate(evaluate(truth, predictions, most=most))


class _Evaluation(COCOeval):
    """pycocotools' evaluation, which tries to match only detections that overlap a box enough for the least threshold.

    Others match nothing and keep no box from a later one. They are most of a detector's, and pycocotools would compare
    each with every box at every threshold.
    """

    def evaluateImg(  # noqa: N802, the library's name
        self, image: int, category: int, area: Sequence[float], most: int
    ) -> dict[str, Any] | None:
        """Return the matches of a class in an image, as pycocotools does."""
        key = image, category
        found, shared = self._dts[key], self.ious[key]
        if not len(shared):
            return super().evaluateImg(image, category, area, most)
        order = np.argsort([-d["score"] for d in found], kind="mergesort")[:most]  # that of `shared`
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
    """Return the scores of an evaluation over all its images, or over those with the ids `images`.

    What is matched in an image hangs on no other one, so that a part of the images is not matched again.
    """
    ids, annotations = evaluation.params.imgIds, objects_of(evaluation.cocoGt.dataset)
    part = copy.copy(evaluation)
    if images is not None:
        kept = [number for number, image in enumerate(ids) if image in images]
        groups = range(0, len(evaluation.evalImgs), len(ids))  # a class and an area each
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
    """Return pycocotools' evaluation with every image's matches, not yet accumulated; raises as `score`.

    Each of `areas` costs as much as the others. `most` is how many detections of a class in an image count, `at` are
    the overlaps, by default the protocol's ten.
    """
    check_predictions(truth, predictions)
    # pycocotools prints as it works, and writes into what it is given.
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
    """Return `Scores.table()` with the number of `images` for each condition of `conditions` (by image name)."""
    tables = {}
    for condition in sorted(set(conditions.values())):
        images = evaluation.cocoGt.dataset["images"]
        ids = {image["id"] for image in images if conditions.get(image["file_name"]) == condition}
        if ids:
            tables[condition] = {"images": len(ids), **accumulate(evaluation, ids).table()}
    return tables


def without_classes(table: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return `Scores.table()` with NaN for the classes `names`, their boxes kept, and averages over the others."""
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
    """Return the protocol as tables print it; `most` detections of each class in an image count."""
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
    """Score a detector's predictions, write `predictions.json` and `ap.json` to `folder`, and log the averages.

    Args:
        folder: to write to.
        truth: ground truth of the test images.
        predictions: COCO results.
        conditions: condition by image name; may be empty.
        facts: variant, seed, detector and what else the variant says of itself.
        provenance: where the predictions come from, with the `versions` of what made them; their digest and the
            versions of what scores them are added.
        most: detections of a class in an image that count.
        unknown: classes that the detector does not know: they have no AP, and the averages are over the others.

    Raises:
        InputError: as `score`.
    """
    evaluation = evaluate(truth, predictions, most=most)
    table = without_classes(accumulate(evaluation).table(), unknown)
    if table["classes_without_boxes"]:
        logging.warning("warning: no test box of %s: without AP", ", ".join(table["classes_without_boxes"]))
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
    """Return the condition of each image by name; a file that does not exist means that none is known.

    Raises:
        InputError: the file is there and not of the form {"source": ..., "images": {name: condition}}.
    """
    if path is None or not path.is_file():
        return {}
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, dict):
        raise InputError(f"{path} has no mapping `images`; wanted image names with their condition")
    return {str(name): str(condition) for name, condition in images.items() if condition is not None}


def in_crowds(found: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """Return for each of `found` (M, 4) whether at least MATCH_OVERLAP of its area lies in one of `crowds` (N, 4)."""
    found, crowds = (np.asarray(x, float).reshape(-1, 4) for x in (found, crowds))
    area = found[:, 2:].prod(axis=1)
    return (area > 0) & (shared_areas(found, crowds).max(axis=1, initial=0) >= MATCH_OVERLAP * area)


def match(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return for each of `found` (M, 4), in falling order of score, the index of the box of `truth` it finds, or -1.

    Each takes the box of greatest overlap, at least MATCH_OVERLAP, that no stronger one has taken.
    """
    matched = np.full(len(found), -1)
    table = overlaps(found, truth)
    for number in range(len(found) if table.shape[1] else 0):
        best = int(table[number].argmax())
        if table[number, best] >= MATCH_OVERLAP:
            matched[number] = best
            table[:, best] = -1
    return matched


def confusion(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how often a class is taken for another, by boxes matched whatever their class.

    Returns:
        `classes` (the last is `background`), `counts[true][found]`: true boxes that nothing matches are found as
        background, and detections that match no box, nor lie in a crowd of any class, are truly background;
        `least_score`, `overlap`.
    """
    classes = [*(category["name"] for category in truth["categories"]), "background"]
    counts = np.zeros((len(classes), len(classes)), int)
    groups = (objects_of(truth), objects_of(truth, crowds=True), _counted(predictions))
    by_image = [_by_image(group) for group in groups]
    for image in truth["images"]:
        boxes, crowds, detections = (group.get(image["id"], []) for group in by_image)
        matched = match(_boxes(boxes), _boxes(detections))
        crowded = in_crowds(_boxes(detections), _boxes(crowds))
        for detection, index, passed in zip(detections, matched, crowded, strict=True):
            if index < 0 and passed:
                continue
            counts[boxes[index]["category_id"] - 1 if index >= 0 else -1, detection["category_id"] - 1] += 1
        for index in set(range(len(boxes))) - set(matched.tolist()):
            counts[boxes[index]["category_id"] - 1, -1] += 1
    return {"classes": classes, "counts": counts.tolist(), "least_score": LEAST_SCORE, "overlap": MATCH_OVERLAP}


def found_annotations(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the ids of the objects that a detection of their class finds, from LEAST_SCORE on."""
    ids = set()
    expected = _by_image(objects_of(truth), "image_id", "category_id")
    for key, detections in _by_image(_counted(predictions), "image_id", "category_id").items():
        boxes = expected.get(key, [])
        ids |= {boxes[index]["id"] for index in match(_boxes(boxes), _boxes(detections)) if index >= 0}
    return ids


def _counted(predictions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the predictions from LEAST_SCORE on, strongest first."""
    return sorted((p for p in predictions if p["score"] >= LEAST_SCORE), key=lambda p: -p["score"])


def _by_image(items: Sequence[Mapping[str, Any]], *keys: str) -> dict[Any, list[Mapping[str, Any]]]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for item in items:
        key = tuple(item[name] for name in keys) if keys else item["image_id"]
        groups.setdefault(key, []).append(item)
    return groups


def _boxes(items: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([item["bbox"] for item in items], float).reshape(-1, 4)


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _coco(truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    """Return pycocotools' index; its own loadRes cannot take an empty list."""
    coco = COCO()
    coco.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
    coco.createIndex()
    return coco


def _detection(number: int, prediction: Mapping[str, Any]) -> dict[str, Any]:
    area = prediction["bbox"][2] * prediction["bbox"][3]
    return {**prediction, "id": number, "area": area, "iscrowd": 0}
