"""Simulate the detector of one variant and seed: write the files of detection.train and detection.test, without images.

    python benchmarks/m3fd_detections.py --data detection/fnet/data.yaml --prepared split --seed 0 --output DIR

A true box is found with a score whose log-odds are the sum of the strength of its class, the box's own difficulty (its
size, and a random part that all detectors share), the variant's and the seed's strength in the class and in the
sequence, and a random part of this detection; boxes with low log-odds are missed. A found box deviates by some per cent
of its sides. Each image also has false detections, most with scores below 0.02, and at most 100 detections in total, 75
on average. AP is then about 0.5, AP50 about 0.8.

Everything is drawn from the variant's name and the seed, and is reproducible. The scores are written by the project's
own function. `provenance.json` has the facts of a training that the tables compare: data and recipe.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.average_precision import MOST_DETECTIONS, read_conditions, write_scores
from detection.scenes import read_scenes
from detection.variant import read_data
from pipeline.artefacts import sha256_json, versions, write_json
from pipeline.stage import run

# Mean log-odds of the score of a true box by class; other classes have OTHER.
STRENGTH = {"People": 0.8, "Car": 1.8, "Bus": 1.6, "Lamp": -0.3, "Motorcycle": 0.0, "Truck": 1.0}
OTHER = 0.5
# Standard deviations of the terms that are added to it.
DIFFICULTY, OWN = 2.0, 0.5
VARIANT_BY_CLASS, VARIANT_BY_SEQUENCE, SEED_BY_CLASS, SEED_BY_SEQUENCE = 0.15, 0.4, 0.05, 0.15
BY_SIZE = 0.4  # added for each factor e of the box's side
MISSED = -4.0  # boxes with log-odds of at most this are missed
SHIFT = 0.05  # of a found box's edges, as a share of its sides
# False detections per image, and mean and standard deviation of the log-odds of their scores.
FALSE, FALSE_MEAN, FALSE_DEVIATION = 80, -4.8, 2.2
LEAST = 0.001  # scores up to this are left out, as in detection.test


def generator_for(*key: object) -> np.random.Generator:
    """Return a generator that depends only on `key`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def detections(truth: Mapping[str, Any], sequences: Mapping[str, str], variant: str, seed: int) -> list[dict[str, Any]]:
    """Return the COCO results of a detector of `variant` trained with `seed`, best first in each image.

    Args:
        truth: ground truth of the test images.
        sequences: the sequence of each image by name.
        variant: name of the variant.
        seed: seed of the training.
    """
    images = {image["id"]: image for image in truth["images"]}
    classes = [category["name"] for category in truth["categories"]]
    boxes = np.array([a["bbox"] for a in truth["annotations"]], float)
    image = np.array([a["image_id"] for a in truth["annotations"]])
    category = np.array([a["category_id"] for a in truth["annotations"]])
    names = sorted(set(sequences.values()))
    place = {name: number for number, name in enumerate(names)}
    sequence = np.array([place[sequences[images[i]["file_name"]]] for i in image])

    odds = np.array([STRENGTH.get(name, OTHER) for name in classes])[category - 1]
    side = np.sqrt(boxes[:, 2] * boxes[:, 3])
    difficulty = generator_for("difficulty").standard_normal(len(boxes))
    odds += BY_SIZE * np.log(side / np.median(side)) + DIFFICULTY * difficulty
    for by_class, by_sequence, key in (
        (VARIANT_BY_CLASS, VARIANT_BY_SEQUENCE, (variant,)),
        (SEED_BY_CLASS, SEED_BY_SEQUENCE, (variant, seed)),
    ):
        rng = generator_for(*key)
        odds += by_class * rng.standard_normal(len(classes))[category - 1]
        odds += by_sequence * rng.standard_normal(len(names))[sequence]
    rng = generator_for("own", variant, seed)
    odds += OWN * rng.standard_normal(len(boxes))
    found = np.flatnonzero(odds > MISSED)
    shift = SHIFT * np.exp(0.5 * rng.standard_normal(len(found)))[:, None] * rng.standard_normal((len(found), 4))
    edges = _edges(boxes[found]) + shift * np.tile(boxes[found, 2:], 2)

    # A false detection has the class and about the size of a random true box, at a random place in its image.
    per_image = rng.poisson(FALSE, len(images))
    at = np.repeat(np.array(list(images)), per_image)
    model = rng.integers(0, len(boxes), len(at))
    sides = np.array([[one["width"], one["height"]] for one in images.values()], float).repeat(per_image, axis=0)
    size = boxes[model, 2:] * np.exp(0.3 * rng.standard_normal((len(at), 2)))
    corner = rng.random((len(at), 2)) * np.maximum(sides - size, 1)
    false_odds = FALSE_MEAN + FALSE_DEVIATION * rng.standard_normal(len(at))

    image, category = np.concatenate([image[found], at]), np.concatenate([category[found], category[model]])
    edges = np.concatenate([edges, np.hstack([corner, corner + size])])
    scores = 1 / (1 + np.exp(-np.concatenate([odds[found], false_odds])))
    bounds = np.array([[images[i]["width"], images[i]["height"]] * 2 for i in image], float)
    edges = np.clip(edges, 0, bounds)
    whole = (edges[:, 2] - edges[:, 0] >= 1) & (edges[:, 3] - edges[:, 1] >= 1) & (scores > LEAST)
    order = np.lexsort((-scores, image))
    order = order[whole[order]]
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    return [
        {
            "image_id": int(image[n]),
            "category_id": int(category[n]),
            "bbox": [round(float(v), 4) for v in (*edges[n, :2], *(edges[n, 2:] - edges[n, :2]))],
            "score": float(scores[n]),
        }
        for n in order[rank < MOST_DETECTIONS]
    ]


def _edges(boxes: np.ndarray) -> np.ndarray:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the variant's data.yaml")
    parser.add_argument("--prepared", type=Path, required=True, help="folder of the prepared split")
    parser.add_argument("--seed", type=int, required=True, help="seed of the training")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(argv)
    data = {part: read_data(options.data, part) for part in ("train", "test")}
    variant, truth = data["test"].variant, data["test"].truth
    sequences = {name: scene.sequence for name, scene in read_scenes(options.prepared / "scenes.csv").items()}
    facts = {"variant": variant, "seed": options.seed, "detector": "made up"}
    recipe = {"model": "none", "image_size": 640, "epochs": 0, "batch": 1, "optimizer": "none", "lr0": 0.0}
    training = {
        **facts,
        "start": "nothing",
        "recipe": {**recipe, "seed": options.seed},
        "data": {**data["train"].digests(), "order": sha256_json(options.seed)},
    }
    write_json(options.output / "provenance.json", {**training, "digest": sha256_json(training)})
    write_scores(
        options.output,
        truth,
        detections(truth, sequences, variant, options.seed),
        read_conditions(options.prepared / "conditions.json"),
        facts,
        {
            "weights": sha256_json(["none", variant, options.seed]),
            "training": sha256_json(training),
            "trained_on": variant,
            "start": "nothing",
            "data": data["test"].digests(),
            "versions": versions("numpy"),
        },
    )


if __name__ == "__main__":
    run(main)
