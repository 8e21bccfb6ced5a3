"""Late fusion: merge the detections of the visible and the infrared detector; nothing is trained.

This is the baseline for pixel fusion, because with both bands available one can simply run both detectors. Detections
are merged per class, by weighted boxes fusion (the default) or by non-maximum suppression, and scored like the
detections of every other variant.

Writes `predictions.json` and `ap.json` as detection.test does. The settings are published ones and were chosen before
any result was seen; none is tuned on the test images.

Weighted boxes fusion: R. Solovyev, W. Wang, T. Gabruseva, Weighted boxes fusion, Image and Vision Computing, 2021.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.average_precision import MOST_DETECTIONS, read_conditions, write_scores
from detection.boxes import overlaps
from detection.predictions import read_predictions
from detection.truth import read_truth
from pipeline.artefacts import read_json, sha256_json
from pipeline.stage import InputError, run

VARIANT = "late"
BANDS = ("visible", "infrared")
OVERLAP = 0.55  # IoU above which two boxes are one object, as the authors of weighted boxes fusion recommend


def weighted_boxes(boxes: np.ndarray, scores: np.ndarray, models: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and scores of one class in one image after weighted boxes fusion, in decreasing order of score.

    Boxes are taken in decreasing order of score. Each joins the cluster whose fused box it overlaps most, if that
    overlap is above OVERLAP, or starts a new cluster. A cluster's box is the mean of its boxes, weighted by score. Its
    score is the mean of their scores times min(boxes, models) / models, so an object that only one of two detectors
    finds has half its score.

    Args:
        boxes: (N, 4) as x, y, width, height.
        scores: (N,).
        models: number of detectors that the boxes come from.
    """
    members: list[list[int]] = []
    fused = np.zeros((0, 4))
    for number in np.argsort(-scores, kind="stable"):
        shared = overlaps(boxes[number], fused)[0]
        best = int(shared.argmax()) if len(shared) else -1
        if best >= 0 and shared[best] > OVERLAP:
            members[best].append(number)
            fused[best] = np.average(boxes[members[best]], axis=0, weights=scores[members[best]])
        else:
            members.append([number])
            fused = np.vstack([fused, boxes[number]])
    values = np.array([scores[group].mean() * min(len(group), models) / models for group in members])
    order = np.argsort(-values, kind="stable")
    return fused[order], values[order]


def suppressed_boxes(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and scores of one class in one image after non-maximum suppression at OVERLAP."""
    order = np.argsort(-scores, kind="stable")
    table = overlaps(boxes, boxes)
    kept: list[int] = []
    for number in order:
        if not (table[number, kept] > OVERLAP).any():
            kept.append(number)
    return boxes[kept], scores[kept]


POOLING: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "weighted": weighted_boxes,
    "suppressed": suppressed_boxes,
}


def pool(
    visible: Sequence[Mapping[str, Any]],
    infrared: Sequence[Mapping[str, Any]],
    pooling: str = "weighted",
    kept: int = MOST_DETECTIONS,
) -> list[dict[str, Any]]:
    """Return the merged COCO results of two detectors, at most `kept` per image, as many as each detector keeps.

    Detections without a positive score are ignored.
    """
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for prediction in (*visible, *infrared):
        if prediction["score"] > 0:
            groups.setdefault((prediction["image_id"], prediction["category_id"]), []).append(prediction)
    images: dict[int, list[dict[str, Any]]] = {}
    for (image, category), found in sorted(groups.items()):
        boxes = np.array([p["bbox"] for p in found], float)
        scores = np.array([p["score"] for p in found], float)
        for box, value in zip(*POOLING[pooling](boxes, scores), strict=True):
            images.setdefault(image, []).append(
                {
                    "image_id": image,
                    "category_id": category,
                    "bbox": [round(float(v), 4) for v in box],
                    "score": float(value),
                }
            )
    return [p for found in images.values() for p in sorted(found, key=lambda p: -p["score"])[:kept]]


def read_tested(folder: Path, band: str, truth: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of ap.json and predictions.json that detection.test wrote to `folder`.

    Raises:
        InputError: a file is missing or invalid; ap.json describes another variant than `band`, other labels than
            `truth`, or other predictions than those in predictions.json.
    """
    file = folder / "ap.json"
    scores, predictions = read_json(file), read_predictions(folder / "predictions.json", truth)
    if scores.get("variant") != band:
        raise InputError(f"{file} describes the variant {scores.get('variant')!r}; expected {band!r}")
    stated = scores.get("provenance", {})
    if stated.get("predictions") != sha256_json(predictions):
        raise InputError(f"{file} does not describe the predictions in its folder; test the detector again")
    if stated.get("data", {}).get("labels") != sha256_json(truth):
        raise InputError(f"{file} was scored with other labels than --truth; test the detector again")
    return scores, predictions


def main(argv: Sequence[str] | None = None) -> None:
    """Merge the detections, score them and write the results."""
    args = _parse(argv)
    truth = read_truth(args.truth)
    conditions = read_conditions(args.conditions)
    scores, visible = read_tested(args.visible, "visible", truth)
    other, infrared = read_tested(args.infrared, "infrared", truth)
    if scores["seed"] != other["seed"]:
        raise InputError(
            f"{args.visible} has seed {scores['seed']} and {args.infrared} seed {other['seed']}; expected the same seed"
        )
    detectors = [scores["provenance"], other["provenance"]]
    most, kept = (_agreed(args, detectors, key) for key in ("most_detections", "max_detections"))
    write_scores(
        args.output,
        truth,
        pool(visible, infrared, args.pooling, kept),
        conditions,
        {
            "variant": VARIANT,
            "seed": scores["seed"],
            "detector": scores["detector"],
            "pooled": {"pooling": args.pooling, "overlap": OVERLAP, "bands": list(BANDS)},
        },
        {
            **detectors[0],
            **{key: [detector[key] for detector in detectors] for key in ("weights", "training")},
            "trained_on": VARIANT,
        },
        most,
    )


def _agreed(args: argparse.Namespace, detectors: Sequence[Mapping[str, Any]], key: str) -> int:
    """Return the number `key` that both bands were tested with; raise InputError if the two differ."""
    first, second = (int(detector.get(key, MOST_DETECTIONS)) for detector in detectors)
    if first != second:
        raise InputError(
            f"{args.visible} has {key} {first} and {args.infrared} has {second}; expected the same number in both"
        )
    return first


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.late", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    parser.add_argument("--visible", type=Path, required=True, help="folder that detection.test wrote for visible")
    parser.add_argument(
        "--infrared", type=Path, required=True, help="folder that detection.test wrote for infrared, of the same seed"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--pooling",
        choices=POOLING,
        default="weighted",
        help="weighted boxes fusion, or non-maximum suppression of the merged boxes (default: weighted)",
    )
    parser.add_argument("--conditions", type=Path, help="conditions.json of the split, if there is one")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
