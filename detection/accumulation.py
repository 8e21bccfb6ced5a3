"""Average precision from matched detections, with a weight for each scene, and its decomposition over the scenes.

pycocotools matches detections and boxes once. Each image then has a weight, the number of times it counts. Weights of
one give COCO's AP. Integer weights give the AP of a test set in which each image is repeated that often, so bootstrap
resamples need no further run of the evaluator. A scene is the sampling unit of the test set: a single image if images
were sampled one by one, otherwise a recorded sequence or a place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.average_precision import MOST_DETECTIONS, evaluate
from pipeline.compiled import compiled

_RECALLS = np.linspace(0.0, 1.0, 101)
_EPSILON = float(np.spacing(1))  # pycocotools adds it to the denominator of the precision


@dataclass(frozen=True)
class Matches:
    """The detections of one class in all images, by falling score, and their matches.

    Attributes:
        image: (D,) index of the image of each detection.
        hit: (T, D) whether the detection matched a box at each of the T overlap thresholds.
        boxes: (N,) number of boxes in each image, without crowds.
        ignored: (T, D) whether the detection matched a crowd and counts neither as true nor as false positive; None if
            no detection did.
    """

    image: np.ndarray
    hit: np.ndarray
    boxes: np.ndarray
    ignored: np.ndarray | None = None


def accumulate_matches(
    truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], most: int = MOST_DETECTIONS
) -> list[Matches]:
    """Return the matches of each class, as pycocotools finds them. The images are in the order of their ids.

    Only the `most` detections of highest score count, per class and image.

    Raises:
        InputError: as `detection.average_precision.evaluate`.
    """
    evaluation = evaluate(truth, predictions, areas=("all",), most=most)
    images, overlaps = len(evaluation.params.imgIds), len(evaluation.params.iouThrs)
    classes = []
    for k in range(len(evaluation.params.catIds)):
        found = evaluation.evalImgs[k * images : (k + 1) * images]
        boxes = np.array([0 if e is None else np.sum(~np.asarray(e["gtIgnore"], bool)) for e in found], float)
        some = [(number, e) for number, e in enumerate(found) if e is not None and len(e["dtScores"])]
        if not some:
            classes.append(Matches(np.zeros(0, int), np.zeros((overlaps, 0), bool), boxes))
            continue
        scores = np.concatenate([e["dtScores"] for _, e in some])
        order = np.argsort(-scores, kind="mergesort")  # ties keep the order of the images, as in pycocotools
        image = np.repeat([number for number, _ in some], [len(e["dtScores"]) for _, e in some])
        ignored = np.concatenate([e["dtIgnore"] for _, e in some], axis=1)[:, order].astype(bool)
        hit = (np.concatenate([e["dtMatches"] for _, e in some], axis=1)[:, order] > 0) & ~ignored
        classes.append(Matches(image[order], hit, boxes, ignored if ignored.any() else None))
    return classes


def matches_within(matches: Matches, counted: np.ndarray) -> Matches:
    """Return the matches of the images for which `counted` (N,) is true, for example the images of one condition."""
    kept = counted[matches.image]
    return Matches(
        (np.cumsum(counted) - 1)[matches.image[kept]],
        matches.hit[:, kept],
        matches.boxes[counted],
        None if matches.ignored is None else matches.ignored[:, kept],
    )


def weighted_average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """Return AP@[0.5:0.95] of one class, (B,), for each row of `weights` (B, N), the number of times each image counts.

    The AP is NaN if no box has a positive weight. Integer weights give pycocotools' AP on images repeated that often.
    """
    weights = np.asarray(weights, np.float64)
    image = matches.image.astype(np.int64)
    return _weighted(image, *_lists(matches.hit), *_lists(matches.ignored), matches.boxes, weights)


def _lists(marks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return `marks` as a sparse matrix: the column indices of its true entries, row by row, and each row's start.

    Both arrays are empty if `marks` is None.
    """
    rows, columns = np.nonzero(marks if marks is not None else np.zeros((0, 0), bool))
    return columns.astype(np.int64), np.searchsorted(rows, np.arange(0 if marks is None else len(marks) + 1))


def _weighted_kernel(image, hits, starts, ignored, ignored_starts, boxes, weights):  # pragma: no cover (compiled)
    result = np.empty(len(weights))
    overlaps = len(starts) - 1
    total = np.empty(len(image))
    precision, recall = np.empty(len(image)), np.empty(len(image))
    for b in range(len(weights)):
        weight = weights[b]
        positives = 0.0
        for n in range(len(boxes)):
            positives += weight[n] * boxes[n]
        if positives == 0:
            result[b] = np.nan
            continue
        running = 0.0
        for d in range(len(image)):
            running += weight[image[d]]
            total[d] = running
        summed = 0.0
        for t in range(overlaps):
            count, true, left_out = 0, 0.0, 0.0
            i = ignored_starts[t] if len(ignored_starts) else 0
            end = ignored_starts[t + 1] if len(ignored_starts) else 0
            # Only matching detections raise the recall, so the curve is evaluated only at these.
            for h in range(starts[t], starts[t + 1]):
                d = hits[h]
                w = weight[image[d]]
                while i < end and ignored[i] < d:
                    left_out += weight[image[ignored[i]]]
                    i += 1
                if w > 0:
                    true += w
                    recall[count] = true / positives
                    precision[count] = true / (total[d] - left_out + _EPSILON)
                    count += 1
            for c in range(count - 2, -1, -1):
                if precision[c] < precision[c + 1]:
                    precision[c] = precision[c + 1]
            c = 0
            for r in range(len(_RECALLS)):
                while c < count and recall[c] < _RECALLS[r]:
                    c += 1
                if c == count:
                    break
                summed += precision[c]
        result[b] = summed / (overlaps * len(_RECALLS))
    return result


def scene_parts(matches: Matches, scene: np.ndarray, scenes: int) -> np.ndarray:
    """Return the contribution of each scene to AP@[0.5:0.95] of one class, (G,). All are NaN if there is no box.

    AP is not a mean over scenes. As a function of the detections, with the boxes fixed, it is however homogeneous of
    degree one up to the steps of the recall: AP(c F) = c AP(F) if every detection counts c times. By Euler's theorem
    AP is then the sum over the detections of its derivatives. A hit adds the interpolated precision at its own rank and
    raises the precision at all later ranks; a false detection lowers the precision at all later ranks. With P_j the
    interpolated precision at hit j, M_j the number of detections down to the rank where P_j is reached, and n boxes,
    the derivatives are

        hit at d:    [P_d + sum over j reached at d or later of (1 - P_j) / M_j] / n
        false at d:  -[sum over j reached at d or later of P_j / M_j] / n

    At each overlap they are scaled to COCO's sum over 101 recalls, so that `scene_parts(...).sum()` equals COCO's AP.
    The derivatives are taken along the variant's own curve, so they depend only on the order of its scores.

    Args:
        matches: the matches of the class.
        scene: (N,) index of the scene of each image, 0 to `scenes` - 1.
        scenes: G.
    """
    if not matches.boxes.sum():
        return np.full(scenes, np.nan)
    ignored = matches.ignored if matches.ignored is not None else np.zeros((0, 0), bool)
    return _parts(scene[matches.image], matches.hit, ignored, float(matches.boxes.sum()), scenes)


def _parts_kernel(scene, hit, ignored, boxes, scenes):  # pragma: no cover (compiled)
    overlaps, detections = hit.shape
    result, part = np.zeros(scenes), np.empty(scenes)
    precision = np.empty(detections)
    later_hits, later_precisions = np.empty(detections), np.empty(detections)
    reached = np.empty(detections, np.int64)
    some = len(ignored) > 0
    for t in range(overlaps):
        true = counted = 0
        last = detections - 1  # detections after the last hit do not change AP
        while last >= 0 and not hit[t, last]:
            last -= 1
        if last < 0:
            continue
        for d in range(last + 1):
            later_hits[d] = later_precisions[d] = 0.0
            if not (some and ignored[t, d]):
                counted += 1
            reached[d] = counted
            if hit[t, d]:
                true += 1
                precision[d] = true / (counted + _EPSILON)
        part[:] = 0.0
        best, place = -1.0, last
        raised = lowered = continuous = stepped = 0.0
        rank, recall = true, len(_RECALLS)
        while _RECALLS[recall - 1] > rank / boxes:
            recall -= 1
        for d in range(last, -1, -1):
            if hit[t, d]:
                if precision[d] > best:
                    best, place = precision[d], d
                later_hits[place] += (1 - best) / reached[place]
                later_precisions[place] += best / reached[place]
                precision[d] = best
                # The recalls that this hit is the first to reach.
                while recall > 0 and (rank == 1 or _RECALLS[recall - 1] > (rank - 1) / boxes):
                    stepped += best / len(_RECALLS)
                    recall -= 1
                continuous += best / boxes
                rank -= 1
        for d in range(last, -1, -1):
            raised += later_hits[d]
            lowered += later_precisions[d]
            if hit[t, d]:
                part[scene[d]] += precision[d] + raised
            elif not (some and ignored[t, d]):
                part[scene[d]] -= lowered
        scale = stepped / (continuous * boxes * overlaps)
        for g in range(scenes):
            result[g] += scale * part[g]
    return result


_weighted = compiled(_weighted_kernel)
_parts = compiled(_parts_kernel)


def scene_boxes(matches: Sequence[Matches], scene: np.ndarray, scenes: int) -> np.ndarray:
    """Return the number of boxes of each class in each scene, (K, G), from the matches of all classes."""
    return np.stack([np.bincount(scene, one.boxes, minlength=scenes) for one in matches])


def number_scenes(names: Sequence[str]) -> tuple[np.ndarray, int]:
    """Return the index of the scene of each image, (N,), and the number of scenes, given each image's scene name."""
    found, scene = np.unique(np.asarray(names), return_inverse=True)
    return scene.ravel(), len(found)
