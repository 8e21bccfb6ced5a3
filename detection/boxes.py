"""Labelled boxes, read from Pascal VOC XML or YOLO text. Every doubt about a label is an error or a warning.

Coordinates are continuous, in pixels: x runs from 0 at the left edge of the image to its width at the right edge. A box
over a whole 640x480 image is 0, 0, 640, 480, and the width of a box is xmax - xmin.

Pascal VOC files are read as written. Readers of the VOC challenge's own files shift them by one (detectron2 subtracts
1 from xmin and ymin), but the files of M3FD were written by labelImg: it writes edges, not pixel indices, and only
raises a 0 to 1. In these files xmax reaches the width of the image.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree

from pipeline.stage import InputError

# A box that reaches beyond the image by at most this many pixels, or this fraction of the side, whichever is more, is
# clipped with a warning. A box farther out belongs to another image or another size, and is refused.
OUTSIDE_PIXELS = 2.0
OUTSIDE_FRACTION = 0.01
# YOLO text has six decimals. An excess this small comes from rounding, and is clipped without a warning.
ROUNDING_PIXELS = 0.01


@dataclass(frozen=True)
class Box:
    """One labelled object: its class, spelt as in the dataset, and its edges in pixels.

    `crowd` marks a COCO crowd, a region that contains an unknown number of objects.
    """

    name: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    crowd: bool = False


# The audit counts warnings and errors by these words.
NO_AREA = "has no area; dropped"
TWICE = "is given twice; dropped"
EXCHANGED_EDGES = "exchanged edges"
Labels = tuple[list[Box], list[str]]  # the boxes of one image, and warnings that name the file

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_FRACTIONS = ("centre x", "centre y", "width", "height")


def read_voc(path: Path, classes: Sequence[str], width: int, height: int) -> Labels:
    """Read the boxes of an image of `width` x `height` pixels from its Pascal VOC XML file.

    A file without objects means an image without objects. The case of class names is ignored. A box without area and a
    box given twice are dropped with a warning; a box slightly outside the image is clipped with a warning.

    Raises:
        InputError: the file is not valid XML, or has a DTD or entities; a field is missing or not a number; a class is
            unknown; a box has exchanged edges, is outside the image or in fractions of it; the stated size is not the
            size of the image, nor its two sides exchanged. A stated size of 0 counts as none.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; expected a label file of every image, even of one without objects"
        ) from None
    except (ParseError, ValueError, LookupError) as error:  # defusedxml's refusals are ValueErrors
        raise InputError(f"{path} is not valid XML without entities: {error or type(error).__name__}") from None
    if root.tag != "annotation":
        raise InputError(f"{path} has the root element <{root.tag}>; expected Pascal VOC's <annotation>")
    stated = [_stated_side(root, side, path) for side in ("width", "height")]
    boxes, warnings = [], check_size(stated, width, height, str(path), "<size>")
    for number, element in enumerate(root.iter("object"), 1):
        where = f"{path}, object {number}"
        name = _known_class(_field(element, "name", where).strip(), classes, where)
        edges = [_number(_field(element, f"bndbox/{edge}", where), where, edge) for edge in _EDGES]
        box = Box(name, *edges)
        refuse_fractions(box, where)
        keep_box(box, width, height, where, boxes, warnings)
    return boxes, warnings


def read_yolo(path: Path, classes: Sequence[str], width: int, height: int) -> Labels:
    """Read the boxes of an image of `width` x `height` pixels from its YOLO text file.

    A line is one box: the class number from 0, then centre x, centre y, width and height as fractions of the image. An
    empty file means an image without objects. Boxes without area, given twice or slightly outside are treated as by
    `read_voc`.

    Two other forms are accepted with a warning. A sixth number in 0..1 is taken as a confidence and ignored. A line of
    three points or more is taken as a polygon, and its bounding box is used.

    Raises:
        InputError: the file is missing or not text; a line has other fields; a class is unknown; a box is outside.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; expected a label file of every image, even of one without objects"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text: {error}; expected UTF-8") from None
    boxes, warnings = [], []
    confidences = polygons = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = line.split()
        if len(fields) not in (5, 6) and (len(fields) < 7 or len(fields) % 2 == 0):
            raise InputError(
                f"{where} has {len(fields)} fields; expected 5: class, centre x, centre y, width, height, separated by "
                "spaces (or in addition a confidence, or a class and the points of a polygon)"
            )
        # At most nine digits, because int() refuses thousands of them. Decimals, because NumPy writes 1.000000.
        if not re.fullmatch(r"[0-9]{1,9}(\.0*)?", fields[0]) or int(float(fields[0])) >= len(classes):
            known = ", ".join(f"{index} {name}" for index, name in enumerate(classes))
            raise InputError(f"{where} has the unknown class {fields[0]!r}; expected one of {known}")
        name = classes[int(float(fields[0]))]
        if len(fields) > 6:
            points = [_number(text, where, "coordinate of a point") for text in fields[1:]]
            left, top, right, bottom = (f(side) for f in (min, max) for side in (points[::2], points[1::2]))
            polygons += 1
        else:
            x, y, w, h = (_number(text, where, what) for text, what in zip(fields[1:5], _FRACTIONS, strict=True))
            left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        if len(fields) == 6:
            if not 0 <= _number(fields[5], where, "confidence") <= 1:
                raise InputError(f"{where} has the confidence {fields[5]}; expected 0 to 1, or no sixth field")
            confidences += 1
        box = Box(name, left * width, top * height, right * width, bottom * height)
        keep_box(box, width, height, where, boxes, warnings)
    if confidences:
        warnings.append(f"{path} has {confidences} lines of six fields; the last is taken as a confidence and ignored")
    if polygons:
        warnings.append(f"{path} has {polygons} polygons; their bounding boxes are used")
    return boxes, warnings


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union (N, M) of boxes (N, 4) and (M, 4) as x, y, width, height."""
    boxes, others = (np.asarray(x, float).reshape(-1, 4) for x in (boxes, others))
    shared = shared_areas(boxes, others)
    union = boxes[:, 2:].prod(axis=1)[:, None] + others[:, 2:].prod(axis=1)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def shared_areas(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area of intersection (N, M) of boxes (N, 4) and (M, 4) as x, y, width, height."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:])[None])
    return np.clip(high - low, 0, None).prod(axis=2)


def check_size(stated: Sequence[float], width: int, height: int, where: str, field: str) -> list[str]:
    """Compare the image size that labels state (0 for a side that they do not state) with the image; return warnings.

    Args:
        stated: width and height.
        width, height: of the image, in pixels.
        where: the file, with which the message begins.
        field: the field of the file that states the size.

    Raises:
        InputError: the sizes differ, and not only by exchanged sides.
    """
    if all(found in (0, side) for found, side in zip(stated, (width, height), strict=True)):
        return []
    said = f"{where} says that the image is {stated[0]:g}x{stated[1]:g}; it is {width}x{height}"
    if list(stated) != [height, width]:
        raise InputError(
            f"{said}; expected labels drawn on this image: scale the boxes with it, or remove {field} if they fit"
        )
    return [f"{said}: width and height are taken as exchanged in the file"]


def refuse_fractions(box: Box, where: str) -> None:
    """Raise InputError if all edges of `box` lie within 0..1: they are fractions of the image, not pixels."""
    if 0 <= box.xmin < box.xmax <= 1 and 0 <= box.ymin < box.ymax <= 1:
        raise InputError(
            f"{where}: {_described(box)} lies within 0..1, as fractions of the image do; expected pixels (multiply by "
            "its width and height)"
        )


def keep_box(
    box: Box, width: int, height: int, where: str, boxes: list[Box], warnings: list[str], hint: str = ""
) -> None:
    """Append `box`, clipped to the image, to `boxes`; append a warning to `warnings` if it is clipped or dropped.

    Raises:
        InputError: the box has exchanged edges, or lies outside the image; the second message ends with `hint`.
    """
    edges = (box.xmin, box.ymin, box.xmax, box.ymax)
    found = _described(box)
    if box.xmin > box.xmax or box.ymin > box.ymax:
        raise InputError(f"{where}: {found} has {EXCHANGED_EDGES}; expected xmin <= xmax and ymin <= ymax")
    outside = [
        (max(-box.xmin, box.xmax - width), max(OUTSIDE_PIXELS, OUTSIDE_FRACTION * width)),
        (max(-box.ymin, box.ymax - height), max(OUTSIDE_PIXELS, OUTSIDE_FRACTION * height)),
    ]
    if any(by > allowed for by, allowed in outside):
        raise InputError(f"{where}: {found} lies outside its image of {width}x{height}{hint}")
    if any(by > ROUNDING_PIXELS for by, _ in outside):
        warnings.append(f"{where}: {found} reaches beyond its image of {width}x{height}; clipped")
    sides = (width, height, width, height)
    inside = (min(max(edge, 0.0), float(side)) for edge, side in zip(edges, sides, strict=True))
    clipped = Box(box.name, *inside, box.crowd)
    if clipped.xmin >= clipped.xmax or clipped.ymin >= clipped.ymax:
        warnings.append(f"{where}: {found} {NO_AREA}")
    elif any(_same(clipped, other) for other in boxes):
        warnings.append(f"{where}: {found} {TWICE}")
    else:
        boxes.append(clipped)


def _same(box: Box, other: Box) -> bool:
    return (box.name, box.crowd) == (other.name, other.crowd) and all(
        abs(getattr(box, edge) - getattr(other, edge)) <= ROUNDING_PIXELS for edge in _EDGES
    )


def _described(box: Box) -> str:
    return f"{box.name} at {', '.join(f'{getattr(box, edge):g}' for edge in _EDGES)}"


def _stated_side(root: Element, side: str, path: Path) -> float:
    text = root.findtext(f"size/{side}") or ""
    return _number(text, f"{path}, <size>", side) if text.strip() else 0.0


def _field(element: Element, name: str, where: str) -> str:
    text = element.findtext(name)
    if text is None or not text.strip():
        raise InputError(f"{where} has no <{name.replace('/', '><')}>")
    return text


def _number(text: str, where: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where} has the {what} {text.strip()!r}; expected a number")
    return value


def _known_class(name: str, classes: Sequence[str], where: str) -> str:
    for known in classes:
        if known.casefold() == name.casefold():
            return known
    raise InputError(f"{where} has the unknown class {name!r}; expected one of {', '.join(classes)}")
