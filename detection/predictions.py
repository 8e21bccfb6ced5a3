"""Predictions: COCO results of a detector, this project's or another, checked against the ground truth before use.

Every stage that takes predictions reads them here. What would be counted wrongly is refused; what only looks so, boxes
that end outside their images or all lie within 0..1, is warned of.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pipeline.artefacts import read_json
from pipeline.stage import InputError, Progress, some_of, threads_available

_KEYS = ("image_id", "category_id", "bbox", "score")
# Boxes may reach beyond the image by so much of its side before they look like xmin, ymin, xmax, ymax.
OUTSIDE_FRACTION = 0.1
_FEW_FILES = 6  # fewer are worked on in this process: starting others takes longer

Result = TypeVar("Result")


def read_predictions(path: Path, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read COCO results of the images of a ground truth of ours; an empty list is a detector that finds nothing.

    Raises:
        InputError: the file is missing, no JSON, or no list; a prediction is refused as by `check_predictions`.
    """
    predictions = read_results(path)
    check_predictions(truth, predictions, f"{path}, ")
    for doubt in doubts(truth, predictions):
        logging.warning("warning: %s: %s", path, doubt)
    return predictions


def each_file(doing: str, work: Callable[[Path], Result], files: Sequence[Path]) -> list[Result]:
    """Return what `work` makes of each detector's file, in order; many are worked on in two processes.

    `doing` is said of the progress.
    """
    progress, results = Progress(doing, len(files), "detectors"), []

    def collect(found: Iterable[Result]) -> None:
        for result in found:
            results.append(result)
            progress.step()

    if len(files) < _FEW_FILES or threads_available() == 1:
        collect(map(work, files))
    else:
        with ProcessPoolExecutor(2) as pool:
            collect(pool.map(work, files))
    return results


def read_results(path: Path) -> list[Any]:
    """Read a JSON list, nothing in it checked; InputError where the file is missing, no JSON, or no list."""
    results = read_json(path)
    if not isinstance(results, list):
        keys = f" with the keys {some_of(sorted(map(str, results)))}" if isinstance(results, dict) else ""
        raise InputError(
            f"{path} holds a JSON {type(results).__name__}{keys}; wanted COCO results: a list of objects with "
            f"{', '.join(_KEYS)}, without anything around it"
        )
    return results


def check_predictions(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], where: str = "") -> None:
    """Check that predictions are of the images and the classes of a ground truth of ours; no prediction passes, too.

    Args:
        truth: the ground truth.
        predictions: COCO results.
        where: what a message begins with, such as the file.

    Raises:
        InputError: a prediction names an image or a category that the ground truth has not; its box is not four finite
            numbers with a width and a height from 0 on; its score is no number in 0..1.
    """
    images = {image["id"]: image["file_name"] for image in truth["images"]}
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    for number, prediction in enumerate(predictions):
        if not isinstance(prediction, Mapping):
            raise InputError(
                f"{where}prediction {number} is {_short(prediction)}; wanted an object with {', '.join(_KEYS)}"
            )
        for key, known in (("image_id", images), ("category_id", categories)):
            value = prediction.get(key)
            if not is_number(value) or value not in known:
                raise InputError(
                    f"{where}prediction {number} has the {key} {_short(value)}; wanted one of the ground truth's "
                    f"{len(known)}, {min(known)} to {max(known)}: "
                    + ", ".join(f"{one} {name}" for one, name in list(known.items())[:6])
                    + (", ..." if len(known) > 6 else "")
                )
        box, value = prediction.get("bbox"), prediction.get("score")
        values = [*box, value] if isinstance(box, (list, tuple)) else [box, value]
        if len(values) != 5 or not all(map(is_number, values)):
            raise InputError(
                f"{where}prediction {number} has the bbox {_short(box)} and the score {_short(value)}; wanted five "
                "finite numbers, x, y, width and height in pixels and the score"
            )
        if box[2] < 0 or box[3] < 0:
            raise InputError(
                f"{where}prediction {number} has the bbox {_short(box)}; wanted a width and a height from 0 on, not "
                "the other corner"
            )
        if not 0 <= value <= 1:
            raise InputError(f"{where}prediction {number} has the score {value:g}; wanted 0 to 1")


def doubts(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what looks wrong in checked predictions, in words: boxes outside their images, or all within 0..1."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    found = [(prediction["bbox"], sizes[prediction["image_id"]]) for prediction in predictions]
    odd = []
    outside = sum(
        x + w > (1 + OUTSIDE_FRACTION) * width or y + h > (1 + OUTSIDE_FRACTION) * height
        for (x, y, w, h), (width, height) in found
    )
    if 5 * outside > len(found):
        odd.append(
            f"{outside} of {len(found)} boxes end far outside their images; wanted x, y, width, height, not "
            "xmin, ymin, xmax, ymax, in pixels of the images as they are"
        )
    if found and all(max(box) <= 1 for box, _ in found):
        odd.append(f"all {len(found)} boxes lie within 0..1; wanted pixels, not fractions of the image")
    return odd


def is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a finite number that a float can hold."""
    # The bound: JSON has whole numbers that no float holds; NaN is below none.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
