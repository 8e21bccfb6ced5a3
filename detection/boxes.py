"""Labelled boxes: read from Pascal VOC XML or YOLO text, with every doubt about a label made an error or a warning.

Coordinates are pixels as a continuous plane: x runs from 0 at the left edge of the image to its width at the right
edge, so a box over the whole of a 640x480 image is 0, 0, 640, 480 and a box's width is xmax - xmin.

Pascal VOC files are taken as written, without the shift by one that readers of the VOC challenge's own files make
(detectron2 subtracts 1 from xmin and ymin): the files of M3FD carry labelImg's marks, which writes edges, not indices
of pixels, and only lifts a 0 to 1; in them xmax reaches the image's width.
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

# A box may reach beyond the image by so many pixels, or by so much of the side, whichever is more: it is clipped with a
# warning. Farther out the label belongs to another image or another size, and is refused.
OUTSIDE_PIXELS = 2.0
OUTSIDE_FRACTION = 0.01
# YOLO text has six decimals: what they lose is no fault of the label's, and is clipped in silence.
ROUNDING_PIXELS = 0.01


@dataclass(frozen=True)
class Box:
    """One labelled object: its class in the data set's own spelling and its edges in pixels.

    `crowd` marks a region of COCO's that holds an unknown number of objects.
    """

    name: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    crowd: bool = False


NO_AREA = "has no area; dropped"  # how such a warning ends
TWICE = "is there twice; dropped"  # likewise
INSIDE_OUT = "turned inside out"
Labels = tuple[list[Box], list[str]]  # the boxes of one image, and warnings that name the file

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_FRACTIONS = ("centre x", "centre y", "width", "height")


def read_voc(path: Path, classes: Sequence[str], width: int, height: int) -> Labels:
    """Read the boxes of a Pascal VOC XML file of an image of `width` x `height` pixels.

    A file without objects is an image without objects. Class names match whatever their case. A box without area and
    one given before are dropped with a warning; one slightly outside the image is clipped with a warning.

    Raises:
        InputError: no valid XML, or XML with a DTD or entities; a field missing or no number; an unknown class; a box
            turned inside out, outside the image, or in fractions of it; the stated size is another than the image's
            and not just its two sides exchanged. A size of 0 states nothing.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; wanted the labels of an image, even of one without objects") from None
    except (ParseError, ValueError, LookupError) as error:  # defusedxml's refusals are ValueErrors
        raise InputError(f"{path} is not valid XML without entities: {error or type(error).__name__}") from None
    if root.tag != "annotation":
        raise InputError(f"{path} has the root element <{root.tag}>; wanted Pascal VOC's <annotation>")
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
    """Read the boxes of a YOLO text file of an image of `width` x `height` pixels.

    One box a line: the class's number from 0, centre x, centre y, width and height as fractions of the image. An empty
    file is an image without objects. Boxes without area, twice and slightly outside are treated as by `read_voc`.

    With a warning, a sixth number in 0..1 is taken as a confidence and passed over, and a line of three points or more
    as a polygon, whose box is the least that holds it.

    Raises:
        InputError: the file is missing or no text; a line has other fields; an unknown class; a box outside.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; wanted the labels of an image, even of one without objects") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text: {error}; wanted UTF-8") from None
    boxes, warnings = [], []
    confidences = polygons = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = line.split()
        if len(fields) not in (5, 6) and (len(fields) < 7 or len(fields) % 2 == 0):
            raise InputError(
                f"{where} has {len(fields)} fields; wanted 5: class, centre x, centre y, width, height, with spaces "
                "between (or a confidence after them, or a class and the points of a polygon)"
            )
        # Nine digits are more than any data set's classes, and int() refuses thousands. NumPy writes 1.000000.
        if not re.fullmatch(r"[0-9]{1,9}(\.0*)?", fields[0]) or int(float(fields[0])) >= len(classes):
            known = ", ".join(f"{index} {name}" for index, name in enumerate(classes))
            raise InputError(f"{where} has the unknown class {fields[0]!r}; wanted one of {known}")
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
                raise InputError(f"{where} has the confidence {fields[5]}; wanted 0 to 1, or no sixth field")
            confidences += 1
        box = Box(name, left * width, top * height, right * width, bottom * height)
        keep_box(box, width, height, where, boxes, warnings)
    if confidences:
        warnings.append(f"{path} has {confidences} lines of six fields; the last is taken as a confidence, left out")
    if polygons:
        warnings.append(f"{path} has {polygons} polygons; the box around each is taken")
    return boxes, warnings


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union (N, M) of boxes (N, 4) and (M, 4) as x, y, width, height."""
    boxes, others = (np.asarray(x, float).reshape(-1, 4) for x in (boxes, others))
    shared = shared_areas(boxes, others)
    union = boxes[:, 2:].prod(axis=1)[:, None] + others[:, 2:].prod(axis=1)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def shared_areas(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area (N, M) that boxes (N, 4) and (M, 4) as x, y, width, height share."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:])[None])
    return np.clip(high - low, 0, None).prod(axis=2)


def check_size(stated: Sequence[float], width: int, height: int, where: str, field: str) -> list[str]:
    """Compare the width and height that labels state, 0 where they do not, with the image's; return warnings.

    Raises:
        InputError: they are others, and not just exchanged; `field` is what states them.
    """
    if all(found in (0, side) for found, side in zip(stated, (width, height), strict=True)):
        return []
    said = f"{where} says that the image is {stated[0]:g}x{stated[1]:g}; it is {width}x{height}"
    if list(stated) != [height, width]:
        raise InputError(
            f"{said}; wanted labels drawn on this image: scale the boxes with it, or remove {field} if they fit"
        )
    return [f"{said}: taken as exchanged by whoever wrote it"]


def refuse_fractions(box: Box, where: str) -> None:
    """Raise InputError where the edges of `box`, wanted in pixels, lie within 0..1."""
    if 0 <= box.xmin < box.xmax <= 1 and 0 <= box.ymin < box.ymax <= 1:
        raise InputError(
            f"{where}: {_described(box)} lies within 0..1, as fractions of the image do; wanted pixels (multiply by "
            "its width and height)"
        )


def keep_box(
    box: Box, width: int, height: int, where: str, boxes: list[Box], warnings: list[str], hint: str = ""
) -> None:
    """Append `box`, clipped to the image, to `boxes`, or say in `warnings` why it was clipped or dropped.

    Raises:
        InputError: it is turned inside out, or lies outside the image; the message then ends with `hint`.
    """
    edges = (box.xmin, box.ymin, box.xmax, box.ymax)
    found = _described(box)
    if box.xmin > box.xmax or box.ymin > box.ymax:
        raise InputError(f"{where}: {found} is {INSIDE_OUT}; wanted xmin <= xmax and ymin <= ymax")
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
        raise InputError(f"{where} has the {what} {text.strip()!r}; wanted a number")
    return value


def _known_class(name: str, classes: Sequence[str], where: str) -> str:
    for known in classes:
        if known.casefold() == name.casefold():
            return known
    raise InputError(f"{where} has the unknown class {name!r}; wanted one of {', '.join(classes)}")
