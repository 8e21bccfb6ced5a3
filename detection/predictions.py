"""Read a detector's COCO results and check them against the ground truth; every stage reads predictions here.

Predictions that would be scored wrongly raise an InputError. Boxes that end far outside their images, or that all lie
within 0..1, are only suspicious and cause a warning.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pipeline.artefacts import read_json
from pipeline.stage import InputError, Progress, some_of, threads_available

_KEYS = ("image_id", "category_id", "bbox", "score")
# A box that ends outside the image by more than this fraction of its side is probably xmin, ymin, xmax, ymax.
OUTSIDE_FRACTION = 0.1
_FEW_FILES = 6  # fewer files are processed in this process, because starting others would take longer

Result = TypeVar("Result")


def read_predictions(path: Path, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read COCO results for the images of `truth`; an empty list is valid and means that nothing was detected.

    Raises:
        InputError: the file is missing, not JSON or not a list; or `check_predictions` rejects a prediction.
    """
    predictions = read_results(path)
    check_predictions(truth, predictions, f"{path}, ")
    for doubt in doubts(truth, predictions):
        logging.warning("warning: %s: %s", path, doubt)
    return predictions


def each_file(doing: str, work: Callable[[Path], Result], files: Sequence[Path]) -> list[Result]:
    """Return the result of `work` for each detector's file, in order; many files are processed in two processes.

    `doing` describes the work in the progress log.
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
    """Read a JSON list without checking its items; raise InputError if the file is missing, not JSON or not a list."""
    results = read_json(path)
    if not isinstance(results, list):
        keys = f" with the keys {some_of(sorted(map(str, results)))}" if isinstance(results, dict) else ""
        raise InputError(
            f"{path} contains a JSON {type(results).__name__}{keys}; expected COCO results: a list of objects with "
            f"{', '.join(_KEYS)}, at the top level"
        )
    return results


def check_predictions(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], where: str = "") -> None:
    """Check that the images, classes, boxes and scores of predictions are valid; an empty list is valid.

    Args:
        truth: the ground truth.
        predictions: COCO results.
        where: the beginning of a message, such as the file.

    Raises:
        InputError: a prediction names an image or a category that is not in the ground truth; its box is not four
            finite numbers, or its width or height is negative; its score is not a number in 0..1.
    """
    images = {image["id"]: image["file_name"] for image in truth["images"]}
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    for number, prediction in enumerate(predictions):
        if not isinstance(prediction, Mapping):
            raise InputError(
                f"{where}prediction {number} is {_short(prediction)}; expected an object with {', '.join(_KEYS)}"
            )
        for key, known in (("image_id", images), ("category_id", categories)):
            value = prediction.get(key)
            if not is_number(value) or value not in known:
                raise InputError(
                    f"{where}prediction {number} has the {key} {_short(value)}; expected one of the {len(known)} in "
                    f"the ground truth, {min(known)} to {max(known)}: "
                    + ", ".join(f"{one} {name}" for one, name in list(known.items())[:6])
                    + (", ..." if len(known) > 6 else "")
                )
        box, value = prediction.get("bbox"), prediction.get("score")
        values = [*box, value] if isinstance(box, (list, tuple)) else [box, value]
        if len(values) != 5 or not all(map(is_number, values)):
            raise InputError(
                f"{where}prediction {number} has the bbox {_short(box)} and the score {_short(value)}; expected five "
                "finite numbers, x, y, width and height in pixels and the score"
            )
        if box[2] < 0 or box[3] < 0:
            raise InputError(
                f"{where}prediction {number} has the bbox {_short(box)}; expected x, y, width, height with a width and "
                "a height of at least 0, not the opposite corner"
            )
        if not 0 <= value <= 1:
            raise InputError(f"{where}prediction {number} has the score {value:g}; expected 0 to 1")


def doubts(truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings about valid predictions that are suspicious: boxes outside their images, or all within 0..1."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    found = [(prediction["bbox"], sizes[prediction["image_id"]]) for prediction in predictions]
    odd = []
    outside = sum(
        x + w > (1 + OUTSIDE_FRACTION) * width or y + h > (1 + OUTSIDE_FRACTION) * height
        for (x, y, w, h), (width, height) in found
    )
    if 5 * outside > len(found):
        odd.append(
            f"{outside} of {len(found)} boxes end far outside their images; expected x, y, width, height, not "
            "xmin, ymin, xmax, ymax, in pixels of the original images"
        )
    if found and all(max(box) <= 1 for box, _ in found):
        odd.append(f"all {len(found)} boxes lie within 0..1; expected pixels, not fractions of the image")
    return odd


def is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a finite number that a float can hold."""
    # The bound excludes integers of JSON that overflow a float, infinity, and NaN, which compares as false.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
