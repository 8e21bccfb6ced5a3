"""Labels in COCO's ground-truth form: one JSON file with the boxes of many images.

An entry of `images` belongs to the pair that its `file_name` names: without folders, ending and either band's suffix.
Ids are words or numbers; categories are matched to classes by name, whatever its case. `bbox` is x, y, width, height
in pixels; `area` and `segmentation` are not read.

A box with `iscrowd` or `ignore` is a crowd: nothing is learnt of it, and detections in it are neither right nor wrong.
pycocotools scores `iscrowd` so, and counts a box with `ignore` alone as an object like others.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.boxes import Box, Labels, check_size, keep_box, refuse_fractions
from pipeline.pairs import name_of
from pipeline.stage import InputError

PARTS = ("images", "annotations", "categories")
Entry = Mapping[str, Any]


class CocoLabels:
    """The labels of one file, checked as a whole when it is read, and box by box when an image is asked for."""

    def __init__(self, path: Path, classes: Sequence[str], suffixes: Sequence[str] = ()) -> None:
        """Read `path`; `classes` are those that its boxes may have, `suffixes` those of the bands' files.

        Raises:
            InputError: it is missing, no JSON, or of another form; an id is missing or there twice; two images belong
                to one pair; an annotation is of no image or no category of the file; boxes are of other classes.
        """
        self.path = path
        content = _read(path)
        images, annotations, categories = (_by_id(content[part], part, path) for part in PARTS)
        self.images: dict[str, Entry] = {}
        for key, image in images.items():
            name = name_of(_text(image, "file_name", f"{path}, image {key!r}"), suffixes)
            if name in self.images:
                files = " and ".join(repr(entry["file_name"]) for entry in (self.images[name], image))
                raise InputError(f"{path} has {files} for image {name!r}; wanted one entry for each pair")
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
                f"{path} has {counts}; wanted boxes of {', '.join(classes)}: name the others in --classes as well, and "
                "in --leave-out where their boxes are not wanted (in the configuration dataset: classes, leave_out)"
            )

    def read(self, name: str, width: int, height: int) -> Labels:
        """Return the boxes of image `name`, which the file has, of `width` x `height` pixels.

        Boxes without area, twice and slightly outside are treated as by `detection.boxes.read_voc`, and so is a size
        that the file states.

        Raises:
            InputError: a box is missing, not of four finite numbers, of negative sides, outside the image or in
                fractions of it; a mark is not 0 or 1; the stated size is another than the image's.
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
                raise InputError(f"{at} has the bbox {_short(corner)}; wanted x, y, width and height, also of a mask")
            x, y, w, h = (_number(value, at, "bbox") for value in corner)
            crowd = any(_mark(annotation, key, at) for key in ("iscrowd", "ignore"))
            box = Box(self._classes[annotation["category_id"]], x, y, x + w, y + h, crowd)
            refuse_fractions(box, at)
            corners = 0 <= x < w <= width and 0 <= y < h <= height
            hint = "; it would fit as xmin, ymin, xmax, ymax, and x, y, width, height are wanted" if corners else ""
            keep_box(box, width, height, at, boxes, warnings, hint)
        return boxes, warnings


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path} is no file; wanted COCO JSON, or folders of labels") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if isinstance(content, dict) and all(isinstance(content.get(part), list) for part in PARTS):
        return content
    found = "a list, as detections are given" if isinstance(content, list) else _short(content)
    raise InputError(
        f"{path} holds {found}; wanted COCO's ground truth, an object with the lists images, annotations and categories"
    )


def _by_id(entries: Sequence[Any], part: str, path: Path) -> dict[Any, Entry]:
    found: dict[Any, Entry] = {}
    for number, entry in enumerate(entries):
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, (str, int, float)):
            raise InputError(f"{path} has {_short(entry)} as {part}[{number}]; wanted an object with an id")
        if key in found:
            raise InputError(f"{path} has the id {key!r} twice in {part}; wanted each once")
        found[key] = entry
    return found


def _reference(entry: Entry, key: str, known: Collection[Any], where: str) -> Any:
    value = entry.get(key)
    if not isinstance(value, (str, int, float)) or value not in known:
        raise InputError(
            f"{where} has the {key} {_short(value)}; wanted an id of the file's, such as "
            f"{_short(next(iter(known), None))}"
        )
    return value


def _text(entry: Entry, key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} has the {key} {_short(value)}; wanted text")
    return value


def _number(value: Any, where: str, what: str) -> float:
    # The bound: JSON has whole numbers that no float holds; NaN is below none.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e300:
        raise InputError(f"{where} has {_short(value)} in its {what}; wanted a number")
    return float(value)


def _mark(entry: Entry, key: str, where: str) -> bool:
    value = entry.get(key)
    if value not in (None, 0, 1):
        raise InputError(f"{where} has the {key} {_short(value)}; wanted 0 or 1")
    return bool(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
