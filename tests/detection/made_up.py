"""Made-up ground truth and detections, with crowds where wanted; images that stand several times, or are swapped."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Truth = dict[str, Any]
Predictions = list[dict[str, Any]]


def detections(
    rng: np.random.Generator, images: int = 30, classes: int = 3, quality: float = 0.7, crowds: float = 0.0
) -> tuple[Truth, Predictions]:
    """Return a ground truth and what finds a box of it with probability `quality`, with false ones among them.

    A share `crowds` of the boxes are crowds; detections in them overlap them often.
    """
    truth: Truth = {
        "images": [{"id": n, "file_name": f"{n}", "width": 200, "height": 200} for n in range(1, images + 1)],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(1, classes + 1)],
        "annotations": [],
    }
    found: Predictions = []

    def add(image: int, category: int, box: np.ndarray, score: float) -> None:
        box = [float(value) for value in np.abs(box)]
        found.append({"image_id": image, "category_id": category, "bbox": box, "score": float(score)})

    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            category, box = (
                int(rng.integers(1, classes + 1)),
                np.array([*rng.uniform(0, 120, 2), *rng.uniform(15, 70, 2)]),
            )
            crowd = rng.random() < crowds
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category, "iscrowd": int(crowd)}
                | {"bbox": [float(value) for value in box], "area": float(box[2] * box[3])}
            )
            for _ in range(3 if crowd else 1):
                if rng.random() < quality:
                    add(image, category, box + rng.normal(0, 2, 4), 0.3 + 0.7 * rng.random())
        for _ in range(rng.integers(0, 4)):
            box = np.array([*rng.uniform(0, 120, 2), *rng.uniform(15, 70, 2)])
            add(image, int(rng.integers(1, classes + 1)), box, 0.8 * rng.random())
    return truth, found


def repeated(truth: Truth, predictions: Predictions, weights: Sequence[float]) -> tuple[Truth, Predictions]:
    """Return the data set in which every image literally stands as often as its weight says."""
    images, annotations, copies = [], [], []
    for image, weight in zip(truth["images"], weights, strict=True):
        for _ in range(int(weight)):
            number = len(images) + 1
            images.append({**image, "id": number})
            own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
            annotations += [{**a, "id": len(annotations) + n, "image_id": number} for n, a in enumerate(own, 1)]
            copies += [{**p, "image_id": number} for p in predictions if p["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": annotations}, copies


def swapped(first: Predictions, second: Predictions, images: Sequence[int]) -> tuple[Predictions, Predictions]:
    """Return two detectors' predictions, exchanged in the images of these ids."""
    chosen = set(images)
    return tuple(
        [p for p in own if p["image_id"] not in chosen] + [p for p in other if p["image_id"] in chosen]
        for own, other in ((first, second), (second, first))
    )
