"""Matches of detections and true boxes at one score and one overlap: the confusion matrix, and the objects found.

Average precision is independent of these matches: pycocotools matches detections of all scores, class by class.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detection.boxes import overlaps, shared_areas
from detection.truth import objects_of

# Minimum score of a detection in the confusion matrix and in lists of found objects. It is the same for all variants
# and was chosen before any training; the score of best F1 would differ by variant and be chosen on the test images.
LEAST_SCORE = 0.25
MATCH_OVERLAP = 0.5


def in_crowds(found: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """Return whether at least MATCH_OVERLAP of the area of each of `found` (M, 4) lies in one of `crowds` (N, 4)."""
    found, crowds = (np.asarray(x, float).reshape(-1, 4) for x in (found, crowds))
    area = found[:, 2:].prod(axis=1)
    return (area > 0) & (shared_areas(found, crowds).max(axis=1, initial=0) >= MATCH_OVERLAP * area)


def match(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the index of the box in `truth` (N, 4) that each of `found` (M, 4) matches, or -1.

    The detections are in order of falling score. Each matches the box of largest overlap, at least MATCH_OVERLAP, among
    the boxes that no earlier detection has matched.
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
    """Return the confusion matrix of the classes. Boxes are matched regardless of their class.

    Returns:
        `classes` (the last is `background`); `counts[true][found]`, where a true box without a match is counted as
        found as background, and a detection that matches no box, nor lies in a crowd of any class, as a true
        background; `least_score`; `overlap`.
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
    """Return the ids of the objects that a detection of their class, with a score of at least LEAST_SCORE, matches."""
    ids = set()
    expected = _by_image(objects_of(truth), "image_id", "category_id")
    for key, detections in _by_image(_counted(predictions), "image_id", "category_id").items():
        boxes = expected.get(key, [])
        ids |= {boxes[index]["id"] for index in match(_boxes(boxes), _boxes(detections)) if index >= 0}
    return ids


def _counted(predictions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the predictions with a score of LEAST_SCORE or more, by falling score."""
    return sorted((p for p in predictions if p["score"] >= LEAST_SCORE), key=lambda p: -p["score"])


def _by_image(items: Sequence[Mapping[str, Any]], *keys: str) -> dict[Any, list[Mapping[str, Any]]]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for item in items:
        key = tuple(item[name] for name in keys) if keys else item["image_id"]
        groups.setdefault(key, []).append(item)
    return groups


def _boxes(items: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([item["bbox"] for item in items], float).reshape(-1, 4)
