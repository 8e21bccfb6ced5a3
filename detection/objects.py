"""Where fusion helps: the test objects that a variant finds and both single bands miss, and the reverse.

An object is found if a detection of its class with a score of at least 0.25 overlaps it by at least 0.5. Both
thresholds were fixed beforehand and are the same for every variant, because choosing the best one for each detector
would use the test images. `found`: found by the variant, missed by visible and by infrared. `lost`: missed by the
variant, found by visible or infrared.

Writes helps.json: for each variant, the two lists (image, class, bbox, size, condition) and their counts per class,
size and condition, with the number of objects in each group.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.average_precision import read_conditions
from detection.late import BANDS
from detection.matching import LEAST_SCORE, MATCH_OVERLAP, found_annotations
from detection.predictions import read_predictions
from detection.truth import objects_of, read_truth
from pipeline.artefacts import write_json
from pipeline.stage import InputError, run

SIZES = (("small", 32**2), ("medium", 96**2), ("large", float("inf")))  # COCO's upper bounds of the area in pixels


def describe_objects(truth: Mapping[str, Any], conditions: Mapping[str, str]) -> dict[int, dict[str, Any]]:
    """Return the image, class, bbox, size and condition (None if unknown) of each object, by annotation id."""
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    classes = {category["id"]: category["name"] for category in truth["categories"]}
    return {
        a["id"]: {
            "image": names[a["image_id"]],
            "class": classes[a["category_id"]],
            "bbox": a["bbox"],
            "size": next(name for name, bound in SIZES if a["area"] < bound),
            "condition": conditions.get(names[a["image_id"]]),
        }
        for a in objects_of(truth)
    }


def helps(
    truth: Mapping[str, Any], predictions: Mapping[str, Sequence[Mapping[str, Any]]], conditions: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the objects that each variant except the bands finds and loses compared with both bands.

    Args:
        truth: ground truth of the test images.
        predictions: COCO results by variant, including `visible` and `infrared`.
        conditions: condition by image name; may be empty.
    """
    objects = describe_objects(truth, conditions)
    finds = {variant: found_annotations(truth, results) for variant, results in predictions.items()}
    either = finds["visible"] | finds["infrared"]
    result = {}
    for variant in predictions:
        if variant in BANDS:
            continue
        sets = {"found": finds[variant] - either, "lost": either - finds[variant]}
        lists = {kind: [objects[number] for number in sorted(ids)] for kind, ids in sets.items()}
        result[variant] = {
            **lists,
            "counts": {
                group: _counts(objects.values(), lists, group)
                for group in ("class", "size", "condition")
                if group != "condition" or conditions
            },
            "objects": len(objects),
            "least_score": LEAST_SCORE,
            "overlap": MATCH_OVERLAP,
        }
    return result


def _counts(objects: Any, lists: Mapping[str, list[dict[str, Any]]], group: str) -> dict[str, dict[str, int]]:
    there = Counter(item[group] for item in objects)
    counted = {kind: Counter(item[group] for item in items) for kind, items in lists.items()}
    return {
        str(value): {"objects": count, **{kind: counted[kind][value] for kind in lists}}
        for value, count in there.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the predictions with the ground truth and write helps.json."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.objects", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    parser.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="VARIANT=FILE",
        help="predictions.json of every variant, all of one seed",
    )
    parser.add_argument("--conditions", type=Path, help="conditions.json of the split, if there is one")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    args = parser.parse_args(argv)
    files: dict[str, Path] = {}
    for word in args.predictions:
        variant, equals, file = word.partition("=")
        if not equals or variant in files:
            raise InputError(f"--predictions {word}: expected VARIANT=FILE, each variant once")
        files[variant] = Path(file)
    missing = [band for band in BANDS if band not in files]
    if missing:
        raise InputError(f"--predictions does not name {missing[0]!r}; expected both bands, to compare with")
    truth = read_truth(args.truth)
    predictions = {variant: read_predictions(file, truth) for variant, file in files.items()}
    result = helps(truth, predictions, read_conditions(args.conditions))
    write_json(args.output, result)
    for variant, lists in result.items():
        logging.info(
            "%-12s finds %d objects that both bands miss and misses %d that a band finds, of %d",
            variant, len(lists["found"]), len(lists["lost"]), lists["objects"],
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
