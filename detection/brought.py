"""Check and score a detector's results that were made elsewhere, to be a row beside the trained detectors'.

`--results` is a JSON list in COCO's result form, one object a detection: `image_id`, `category_id`, `bbox` (x, y, width
and height in pixels of the original image) and `score` (0 to 1). Other keys are passed over, except `file_name`.

An image is named, the same way throughout a file, by

- `file_name`, with or without folder and extension, where every detection has it;
- a text as `image_id`, likewise;
- a number as `image_id`: the id in truth_test.json, or the number that the image's name is. A file that can be read
  both ways, with different results, is refused.

A class is named by its number in the order of the data set from 1 on, as in truth_test.json, or by a text, its name.

The form cannot say that an image was tested and nothing found. Test images without a detection are therefore counted
and warned of, and where more than half of those that hold a box have none, the file is refused as incomplete.

Writes `predictions.json` and `ap.json` like detection.test. How the detector was trained is not known, and ap.json says
so by `brought`.
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
    """Read, check, score, write."""
    args = _parse(argv)
    check_most(args.most_detections)
    truth = read_truth(args.truth)
    conditions = read_conditions(args.conditions)
    predictions = with_our_ids(read_results(args.results), truth, str(args.results))
    absent = check_complete(predictions, truth, str(args.results))
    kept = args.most_detections if args.max_detections is None else args.max_detections
    best = best_of_each_image(predictions, kept)
    if cut := len(predictions) - len(best):
        logging.info("%s: %d detections beyond the %d best of an image are left out", args.results, cut, kept)
    digest = sha256_file(args.results)
    write_scores(
        args.output,
        truth,
        best,
        conditions,
        {
            "variant": args.variant,
            "seed": args.run,
            "detector": f"brought ({args.results.name}, sha256 {digest[:12]})",
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


def with_our_ids(results: Sequence[Any], truth: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return results with the image and category ids of `truth`, and no other keys than COCO's four.

    Args:
        results: COCO results that name images and classes as the module's docstring says.
        truth: ground truth of the test images.
        where: the file, with which messages begin.

    Raises:
        InputError: an image or a class is not of `truth`, images are named in several ways or in one that can be read
            twice; or as `detection.predictions.check_predictions`.
    """
    image_of = _image_ids([result for result in results if isinstance(result, Mapping)], truth, where)
    names = {category["name"]: category["id"] for category in truth["categories"]}
    converted: list[Any] = []
    for result in results:
        if not isinstance(result, Mapping):
            converted.append(result)  # refused below, by its number
            continue
        category = result.get("category_id")
        if isinstance(category, str):
            if category not in names:
                raise InputError(f"{where} has the class {category!r}; wanted one of {', '.join(names)}")
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
    """Warn of what may be wrong with results of known images, and return how many test images have no detection.

    Raises:
        InputError: more than half of the test images that hold a box have no detection.
    """
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    absent = set(names) - {prediction["image_id"] for prediction in predictions}
    boxed = {annotation["image_id"] for annotation in objects_of(truth)}
    missed = sorted(names[image] for image in absent & boxed)
    if 2 * len(missed) > len(boxed):
        raise InputError(
            f"{where} has no detection in {len(missed)} of the {len(boxed)} test images that hold a box, "
            f"{some_of(missed)}; wanted the detections of the whole test set"
        )
    if absent:
        logging.warning(
            "warning: %s has no detection in %d of %d test images, %d of which hold a box: counted as nothing found",
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
    """Return the `kept` best detections of each image, of all classes together, as a test of a trained detector keeps.

    Images come in the order in which they first appear, the detections of each by falling score.
    """
    images: dict[int, list[dict[str, Any]]] = {}
    for prediction in predictions:
        images.setdefault(prediction["image_id"], []).append(prediction)
    return [one for found in images.values() for one in sorted(found, key=lambda p: -p["score"])[:kept]]


def _image_ids(
    results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], where: str
) -> Callable[[Mapping[str, Any]], Any]:
    """Return what gives a detection's image id in `truth`; ids that nothing is known of are given as they are."""
    by_name = {image["file_name"]: image["id"] for image in truth["images"]}
    named = [isinstance(result.get("file_name"), str) for result in results]
    if any(named) and not all(named):
        raise InputError(
            f"{where} has `file_name` in {sum(named)} of {len(named)} detections; wanted it in all or none"
        )
    key = "file_name" if any(named) else "image_id"
    words = [isinstance(result.get(key), str) for result in results]
    if any(words) and not all(words):
        raise InputError(f"{where} names images by texts and by numbers; wanted one way")
    if any(words):
        found = {text: _named(text, by_name) for text in {result[key] for result in results}}
        if strangers := sorted(text for text, image in found.items() if image is None):
            raise InputError(
                f"{where} names {len(strangers)} images that are no test images, {some_of(strangers)}; wanted names "
                f"such as {next(iter(by_name))!r}"
            )
        return lambda result: found[result[key]]
    numbers = {result["image_id"] for result in results if is_number(result.get("image_id"))}
    by_number = {int(name): image for name, image in by_name.items() if name.isascii() and name.isdecimal()}
    ours, theirs = numbers <= set(by_name.values()), numbers <= set(by_number)
    if ours and theirs and any(by_number[number] != number for number in numbers):
        raise InputError(
            f"{where} has numbers as image_id that can be ids of the ground truth and names of images, and mean other "
            "images then; wanted a `file_name` in every detection, or image names as texts"
        )
    if theirs and not ours:
        return lambda result: by_number[result["image_id"]] if is_number(result.get("image_id")) else None
    return lambda result: result.get("image_id")


def _named(text: str, by_name: Mapping[str, int]) -> int | None:
    """Return the id of the image that a text names, with or without folder and extension."""
    path = PurePosixPath(text.replace("\\", "/"))
    stem = path.stem if path.suffix.lower() in EXTENSIONS else path.name
    return next((by_name[name] for name in (text, path.name, stem) if name in by_name), None)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.brought", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", required=True, help="what tables call the row")
    parser.add_argument("--results", type=Path, required=True, help="the JSON file of COCO results")
    parser.add_argument("--run", type=int, default=0, help="number of the file among the row's (default: %(default)s)")
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    parser.add_argument("--conditions", type=Path, help="conditions.json of the split; may be absent")
    add_kept_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
