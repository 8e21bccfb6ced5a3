"""Labels in COCO's ground-truth form: one JSON file with the boxes of many images.

An entry of `images` belongs to the pair with the name of its `file_name`, without folders, extension and the suffix of
either band. Ids are text or numbers. Categories are matched to classes by name, ignoring case. `bbox` is x, y, width,
height in pixels; `area` and `segmentation` are not read.

A box with `iscrowd` or `ignore` is a crowd: it is not trained on, and detections in it count neither as true nor as
false positives. (pycocotools itself treats only boxes with `iscrowd` so; it counts a box with only `ignore` as an
ordinary object.)
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.boxes import Box, Labels, check_size, keep_box, refuse_fractions
from pipeline.pairs import name_of
from pipeline.stage import InputError

LISTS = ("images", "annotations", "categories")
Entry = Mapping[str, Any]


class CocoLabels:
    """The labels of one file. Its structure is checked when it is opened, the boxes of an image when they are read."""

    def __init__(self, path: Path, classes: Sequence[str], suffixes: Sequence[str] = ()) -> None:
        """Read `path`; `classes` are the classes that boxes may have, `suffixes` the suffixes of the bands' files.

        Raises:
            InputError: the file is missing, not JSON, or has another form; an id is missing or used twice; two images
                belong to one pair; the image or the category of an annotation is not in the file; boxes have other
                classes.
        """
        self.path = path
        content = _read(path)
        images, annotations, categories = (_by_id(content[key], key, path) for key in LISTS)
        self.images: dict[str, Entry] = {}
        for key, image in images.items():
            name = name_of(_text(image, "file_name", f"{path}, image {key!r}"), suffixes)
            if name in self.images:
                files = " and ".join(repr(entry["file_name"]) for entry in (self.images[name], image))
                raise InputError(f"{path} has {files} for image {name!r}; expected one entry for each pair")
            self.images[name] = image
        known = {name.casefold(): name for name in classes}
        names = {key: _text(entry, "name", f"{path}, category {key!r}") for key, entry in categories.items()}
        self._classes = {key: known.get(name.strip().casefold(), "") for key, name in names.items()}
        self._annotations: dict[Any, list[Entry]] = defaultdict(list)
        unknown: Counter[str] = Counter()
        for key, annotation in annotations.items():
            where = f"{path}, annotation {key!r}"
            self._annotations[_reference(annotation, "image_id", images, where)].append(annotation)
            category = _reference(annotation, "category_id", categories, where)
            if not self._classes[category]:
                unknown[names[category]] += 1
        if unknown:
            counts = ", ".join(f"{count} boxes of {name!r}" for name, count in unknown.most_common(10))
            raise InputError(
                f"{path} has {counts}; expected boxes of {', '.join(classes)}: add the other classes to --classes, and "
                "to --leave-out as well to ignore their boxes (in the configuration dataset: classes, leave_out)"
            )

    def read(self, name: str, width: int, height: int) -> Labels:
        """Return the boxes of image `name`, which must be in the file, of `width` x `height` pixels.

        Boxes without area, given twice or slightly outside, and a size stated in the file, are treated as by
        `detection.boxes.read_voc`.

        Raises:
            InputError: a `bbox` is missing, is not four finite numbers, has a negative side, is outside the image or in
                fractions of it; `iscrowd` or `ignore` is not 0 or 1; the stated size is not the size of the image.
        """
        image = self.images[name]
        where = f"{self.path}, image {name!r}"
        stated = [_number(image.get(side) or 0, where, side) for side in ("width", "height")]
        boxes: list[Box] = []
        warnings = check_size(stated, width, height, where, "width and height")
        for annotation in self._annotations.get(image["id"], ()):
            at = f"{where}, annotation {annotation['id']!r}"
            corner = annotation.get("bbox")
            if not isinstance(corner, list) or len(corner) != 4:
                raise InputError(
                    f"{at} has the bbox {_short(corner)}; expected x, y, width and height, also for a mask"
                )
            x, y, w, h = (_number(value, at, "bbox") for value in corner)
            crowd = any(_flag(annotation, key, at) for key in ("iscrowd", "ignore"))
            box = Box(self._classes[annotation["category_id"]], x, y, x + w, y + h, crowd)
            refuse_fractions(box, at)
            corners = 0 <= x < w <= width and 0 <= y < h <= height
            hint = "; it would fit as xmin, ymin, xmax, ymax, but x, y, width, height are expected" if corners else ""
            keep_box(box, width, height, at, boxes, warnings, hint)
        return boxes, warnings


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path} is not a file; expected COCO JSON, or folders of labels") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in LISTS):
        return content
    found = "a list, the form of detections" if isinstance(content, list) else _short(content)
    raise InputError(
        f"{path} contains {found}; expected COCO's ground truth, an object with the lists images, annotations and "
        "categories"
    )


def _by_id(entries: Sequence[Any], part: str, path: Path) -> dict[Any, Entry]:
    found: dict[Any, Entry] = {}
    for number, entry in enumerate(entries):
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, (str, int, float)):
            raise InputError(f"{path} has {_short(entry)} as {part}[{number}]; expected an object with an id")
        if key in found:
            raise InputError(f"{path} has the id {key!r} twice in {part}; expected each id once")
        found[key] = entry
    return found


def _reference(entry: Entry, key: str, known: Collection[Any], where: str) -> Any:
    value = entry.get(key)
    if not isinstance(value, (str, int, float)) or value not in known:
        raise InputError(
            f"{where} has the {key} {_short(value)}; expected an id in the file, such as "
            f"{_short(next(iter(known), None))}"
        )
    return value


def _text(entry: Entry, key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} has the {key} {_short(value)}; expected text")
    return value


def _number(value: Any, where: str, what: str) -> float:
    # JSON may have integers too large for a float; the comparison is False for NaN as well.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e300:
        raise InputError(f"{where} has {_short(value)} in its {what}; expected a number")
    return float(value)


def _flag(entry: Entry, key: str, where: str) -> bool:
    value = entry.get(key)
    if value not in (None, 0, 1):
        raise InputError(f"{where} has the {key} {_short(value)}; expected 0 or 1")
    return bool(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
