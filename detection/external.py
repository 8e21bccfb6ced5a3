"""Check and score external results, detections made elsewhere, for a row of Table II next to the trained detectors.

`--results` is a JSON list in COCO's result form, with one object per detection: `image_id`, `category_id`, `bbox` (x,
y, width and height in pixels of the original image) and `score` (0 to 1). Other keys are ignored, except `file_name`.

An image is named in one of these ways, the same throughout a file:

- `file_name`, with or without folder and extension, in every detection;
- text as `image_id`, with or without folder and extension;
- a number as `image_id`: either the id in truth_test.json, or the name of the image if the name is a number. A file
  that can be read both ways, with different results, is refused.

A class is named by its number in the order of the dataset, from 1 as in truth_test.json, or by its name as text.

The form cannot state that an image was tested and nothing was found. Test images without a detection are therefore
counted and reported in a warning. If more than half of the test images with a box have no detection, the file is
refused as incomplete.

Writes `predictions.json` and `ap.json` like detection.test. The key `brought` in ap.json marks the results as external,
with unknown training.
"""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detection.average_precision import add_kept_options, check_most, read_conditions, write_scores
from detection.predictions import check_predictions, doubts, is_number, read_results
from detection.truth import objects_of, read_truth
from pipeline.artefacts import sha256_file, sha256_json, versions
from pipeline.pairs import EXTENSIONS
from pipeline.stage import InputError, run, some_of


def main(argv: Sequence[str] | None = None) -> None:
    """Read, check and score the results; write predictions.json and ap.json."""
    args = _parse(argv)
    check_most(args.most_detections)
    truth = read_truth(args.truth)
    conditions = read_conditions(args.conditions)
    predictions = with_truth_ids(read_results(args.results), truth, str(args.results))
    absent = check_complete(predictions, truth, str(args.results))
    kept = args.most_detections if args.max_detections is None else args.max_detections
    best = best_of_each_image(predictions, kept)
    if cut := len(predictions) - len(best):
        logging.info("%s: %d detections beyond the best %d of their image are left out", args.results, cut, kept)
    digest = sha256_file(args.results)
    write_scores(
        args.output,
        truth,
        best,
        conditions,
        {
            "variant": args.variant,
            "seed": args.run,
            "detector": f"external ({args.results.name}, sha256 {digest[:12]})",
            "brought": {
                "file": args.results.name,
                "sha256": digest,
                "images_without_detection": absent,
                "left_out": cut,
            },
        },
        {
            "results": digest,
            "data": {"labels": sha256_json(truth)},
            "max_detections": kept,
            "versions": versions(),
        },
        args.most_detections,
    )


def with_truth_ids(results: Sequence[Any], truth: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return results with the image and category ids of `truth`, and only COCO's four keys.

    Args:
        results: COCO results that name images and classes as described in the module's docstring.
        truth: ground truth of the test images.
        where: the file, with which messages begin.

    Raises:
        InputError: an image or a class is not in `truth`; images are named in several ways, or in an ambiguous one; or
            as `detection.predictions.check_predictions`.
    """
    image_of = _image_ids([result for result in results if isinstance(result, Mapping)], truth, where)
    names = {category["name"]: category["id"] for category in truth["categories"]}
    converted: list[Any] = []
    for result in results:
        if not isinstance(result, Mapping):
            converted.append(result)  # refused by check_predictions
            continue
        category = result.get("category_id")
        if isinstance(category, str):
            if category not in names:
                raise InputError(f"{where} has the class {category!r}; expected one of {', '.join(names)}")
            category = names[category]
        converted.append(
            {
                "image_id": image_of(result),
                "category_id": category,
                "bbox": result.get("bbox"),
                "score": result.get("score"),
            }
        )
    check_predictions(truth, converted, f"{where}, ")
    return [
        {
            "image_id": int(one["image_id"]),
            "category_id": int(one["category_id"]),
            "bbox": [float(value) for value in one["bbox"]],
            "score": float(one["score"]),
        }
        for one in converted
    ]


def check_complete(predictions: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], where: str) -> int:
    """Return the number of test images without a detection, and log warnings about results that may be wrong.

    Raises:
        InputError: more than half of the test images with a box have no detection.
    """
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    absent = set(names) - {prediction["image_id"] for prediction in predictions}
    boxed = {annotation["image_id"] for annotation in objects_of(truth)}
    missed = sorted(names[image] for image in absent & boxed)
    if 2 * len(missed) > len(boxed):
        raise InputError(
            f"{where} has no detection in {len(missed)} of the {len(boxed)} test images with a box, "
            f"{some_of(missed)}; expected the detections of the whole test set"
        )
    if absent:
        logging.warning(
            "warning: %s has no detection in %d of %d test images, %d of them with a box: counted as nothing found",
            where, len(absent), len(names), len(missed),
        )  # fmt: skip
    expected = {annotation["category_id"] for annotation in objects_of(truth)}
    found = {prediction["category_id"] for prediction in predictions}
    lacking = [one["name"] for one in truth["categories"] if one["id"] in expected - found]
    if lacking:
        logging.warning("warning: %s has no detection of %s: are its classes numbered from 1?", where, some_of(lacking))
    for doubt in doubts(truth, predictions):
        logging.warning("warning: %s: %s", where, doubt)
    return len(absent)


def best_of_each_image(predictions: Sequence[dict[str, Any]], kept: int) -> list[dict[str, Any]]:
    """Return the `kept` best detections of each image, of all classes together, as in the test of a trained detector.

    Images are in the order of their first detection, the detections of an image by falling score.
    """
    images: dict[int, list[dict[str, Any]]] = {}
    for prediction in predictions:
        images.setdefault(prediction["image_id"], []).append(prediction)
    return [one for found in images.values() for one in sorted(found, key=lambda p: -p["score"])[:kept]]


def _image_ids(
    results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], where: str
) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function from a detection to the id of its image in `truth`; it returns unknown ids unchanged."""
    by_name = {image["file_name"]: image["id"] for image in truth["images"]}
    named = [isinstance(result.get("file_name"), str) for result in results]
    if any(named) and not all(named):
        raise InputError(
            f"{where} has `file_name` in {sum(named)} of {len(named)} detections; expected it in all or none"
        )
    key = "file_name" if any(named) else "image_id"
    words = [isinstance(result.get(key), str) for result in results]
    if any(words) and not all(words):
        raise InputError(f"{where} names some images by text and some by number; expected one way for all")
    if any(words):
        found = {text: _named(text, by_name) for text in {result[key] for result in results}}
        if unknown := sorted(text for text, image in found.items() if image is None):
            raise InputError(
                f"{where} names {len(unknown)} images that are not test images, {some_of(unknown)}; expected names "
                f"such as {next(iter(by_name))!r}"
            )
        return lambda result: found[result[key]]
    numbers = {result["image_id"] for result in results if is_number(result.get("image_id"))}
    by_number = {int(name): image for name, image in by_name.items() if name.isascii() and name.isdecimal()}
    are_ids, are_names = numbers <= set(by_name.values()), numbers <= set(by_number)
    if are_ids and are_names and any(by_number[number] != number for number in numbers):
        raise InputError(
            f"{where} has numbers as image_id that are both ids in the ground truth and names of other images; "
            "expected a `file_name` in every detection, or image names as text"
        )
    if are_names and not are_ids:
        return lambda result: by_number[result["image_id"]] if is_number(result.get("image_id")) else None
    return lambda result: result.get("image_id")


def _named(text: str, by_name: Mapping[str, int]) -> int | None:
    """Return the id of the image named by `text`, with or without folder and extension, or None."""
    path = PurePosixPath(text.replace("\\", "/"))
    stem = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    return next((by_name[name] for name in (text, path.name, stem) if name in by_name), None)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.external", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", required=True, help="name of the row in tables")
    parser.add_argument("--results", type=Path, required=True, help="JSON file of COCO results")
    parser.add_argument("--run", type=int, default=0, help="number of this file within its row (default: %(default)s)")
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    parser.add_argument("--conditions", type=Path, help="conditions.json of the prepared split; need not exist")
    add_kept_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="output folder")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
