"""Average precision of detections by the COCO protocol (Lin et al., 2014), as pycocotools computes it.

AP is the mean of AP at the intersections over union 0.50, 0.55, ..., 0.95, each the mean of the interpolated precision
at 101 recalls, over at most the 100 best detections of an image. Values are fractions in 0..1. A class without a box in
the ground truth has no AP: it is NaN, and the average is over the others.
"""

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fusion.stage import InputError

PROTOCOL = "COCO AP@[0.50:0.95] by pycocotools, at most 100 detections an image"
MOST_DETECTIONS = 100


@dataclass(frozen=True)
class Scores:
    """What the evaluator found.

    Attributes:
        classes: class names in the order of the arrays.
        boxes: ground-truth boxes of each class.
        precision: (T, R, K, A, M): 10 overlaps, 101 recalls, classes, areas (all, small, medium, large), detections an
            image (1, 10, 100); NaN where undefined.
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
        """Return AP, AP50 and AP75 of each class and their averages over the classes that have boxes."""
        columns = {"AP": None, "AP50": 0.5, "AP75": 0.75}
        values = {column: self.average_precision(overlap) for column, overlap in columns.items()}
        has_boxes = self.boxes > 0
        return {
            "classes": {
                name: {**{column: float(values[column][k]) for column in columns}, "boxes": int(self.boxes[k])}
                for k, name in enumerate(self.classes)
            },
            "average": {
                column: float(values[column][has_boxes].mean()) if has_boxes.any() else float("nan")
                for column in columns
            },
            "classes_without_boxes": [name for name, some in zip(self.classes, has_boxes, strict=True) if not some],
        }


def score(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> Scores:
    """Score predictions (COCO results) against a ground truth of ours; no predictions at all are a valid result.

    Raises:
        InputError: a prediction names an image or a category that the ground truth has not, or its box or score is no
            finite number.
    """
    _check(truth, predictions)
    # pycocotools prints as it works, and writes into what it is given.
    with contextlib.redirect_stdout(io.StringIO()):
        expected = _coco(truth, copy.deepcopy(truth["annotations"]))
        found = _coco(truth, [_detection(number, p) for number, p in enumerate(predictions, 1)])
        evaluation = COCOeval(expected, found, "bbox")
        assert evaluation.params.maxDets[-1] == MOST_DETECTIONS
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (evaluation.eval[key].astype(float) for key in ("precision", "recall"))
    counts = [sum(a["category_id"] == c["id"] for a in truth["annotations"]) for c in truth["categories"]]
    return Scores(
        classes=tuple(category["name"] for category in truth["categories"]),
        boxes=np.array(counts, dtype=int),
        precision=np.where(precision < 0, np.nan, precision),
        recall=np.where(recall < 0, np.nan, recall),
    )


def _coco(truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    """Return pycocotools' index; its own loadRes cannot take an empty list."""
    coco = COCO()
    coco.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
    coco.createIndex()
    return coco


def _detection(number: int, prediction: Mapping[str, Any]) -> dict[str, Any]:
    area = prediction["bbox"][2] * prediction["bbox"][3]
    return {**prediction, "id": number, "area": area, "iscrowd": 0}


def _check(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> None:
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for number, prediction in enumerate(predictions):
        for key, known in (("image_id", images), ("category_id", categories)):
            if prediction.get(key) not in known:
                raise InputError(
                    f"prediction {number} has the {key} {prediction.get(key)!r}; wanted one of the ground truth's "
                    f"{len(known)}, {min(known)} to {max(known)}"
                )
        values = [*prediction.get("bbox", ()), prediction.get("score")]
        if len(values) != 5 or not all(isinstance(v, (int, float)) and np.isfinite(v) for v in values):
            raise InputError(f"prediction {number} has the bbox and score {values}; wanted five finite numbers")
