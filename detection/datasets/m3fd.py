"""M3FD (Liu et al., CVPR 2022): 4,200 aligned pairs, mostly 1024x768, boxes of six classes, no split of its own.

The class order is that of the authors' data loader, and so of YOLO labels made with their code; the table in their
README lists Motorcycle before Lamp, and so do YOLO labels that others publish (DEYOLO). The pairs that
fusion.synthetic generates have the same layout, and bring a split: `train.txt` and `test.txt` beside the folders, and
each of them is a scene of its own.

Scenes and conditions of M3FD are those of its authors' scenario.json: four conditions, 36 named scenes, 103 ranges of
names. A range is a sequence, a condition's scene a place. A name in several ranges (81 names) belongs to the first of
them in the file's order. Names in no range (111) form sequences of consecutive names, each a place of its own, and
their condition is not stated.
"""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml import ElementTree

from detection.datasets.layout import Dataset, Layout, Scene, listed_split
from pipeline.stage import InputError

NAMES = 4200  # 00000 to 04199
# The authors' ranges as a table: detection/lists/README.md has its source.
RANGES = Path(__file__).parents[1] / "lists" / "m3fd-ranges.csv"

CLASSES = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")

# As the authors ship the folders, then as copies rename them.
_VISIBLE = ("Vis", "vis", "VIS", "vi", "Vi", "VI", "visible")
_INFRARED = ("Ir", "ir", "IR", "infrared")
_LABELS = ("Annotation", "annotation", "Annotations", "annotations", "labels", "Labels")


def layout(root: Path) -> Layout:
    """Return the folders of `root`; where it does not exist yet, those of the authors' names."""
    return Layout(*((_first(root, names),) for names in (_VISIBLE, _INFRARED, _LABELS)))


def _first(root: Path, names: tuple[str, ...]) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _stated_condition(root: Path, name: str) -> str | None:
    """Return what a generated scene's XML says of its condition; the label reader reports a broken file."""
    path = layout(root).labels[0] / f"{name}.xml"
    try:
        return ElementTree.fromstring(path.read_bytes(), forbid_dtd=True).findtext("source/condition") or None
    except (OSError, ParseError, ValueError):
        return None


def scenes(root: Path, names: Sequence[str]) -> dict[str, Scene]:
    """Return the scenes of those of `names` that are M3FD's, by scenario.json of the root, else by the shipped ranges.

    Raises:
        InputError: scenario.json is not of its authors' form.
    """
    own = root / "scenario.json"
    found = all_scenes(read_scenario(own) if own.is_file() else None)
    return {name: found[name] for name in names if name in found}


def all_scenes(ranges: Sequence[tuple[str, str, int, int]] | None = None) -> dict[str, Scene]:
    """Return the scenes of M3FD's 4,200 names by `ranges` (condition, scene, first, last); None: those shipped."""
    source = "M3FD's scenario.json"
    if ranges is None:
        source += ", as shipped"
        with RANGES.open(encoding="utf-8", newline="") as file:
            ranges = [(a, b, int(c), int(d)) for a, b, c, d in list(csv.reader(file))[1:]]
    found: dict[int, Scene] = {}
    for condition, scene, first, last in ranges:
        place = f"{condition}/{scene}"
        for number in range(first, last + 1):
            found.setdefault(number, Scene(f"{place}/{first:05}-{last:05}", place, condition, source))
    run = ""
    for number in range(NAMES):
        if number in found:
            run = ""
        else:
            run = run or f"none/{number:05}"
            found[number] = Scene(run, run, "", f"{source}: in no range")
    return {f"{number:05}": found[number] for number in range(NAMES)}


def read_scenario(path: Path) -> list[tuple[str, str, int, int]]:
    """Read the authors' scenario.json: a list of conditions with their scenes, and their ranges of names.

    Raises:
        InputError: it is not of that form.
    """
    ranges = []
    try:
        for condition in json.loads(path.read_text(encoding="utf-8-sig")):
            for scene in condition["scene"]:
                for found in scene["range"]:
                    ranges.append((condition["name"], scene["name"], found["min"], found["max"]))
        for *words, first, last in ranges:
            if not all(re.fullmatch(r"[\w -]+", word) for word in words) or not 0 <= first <= last < NAMES:
                raise ValueError(f"{words} {first!r} to {last!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path} is not M3FD's: {error!r}; wanted [{{name, scene: [{{name, range: [{{min, max}}]}}]}}] "
            f"of names up to {NAMES - 1:05}; without the file the shipped ranges are used"
        ) from None
    return ranges


def _single_scenes(root: Path, names: Sequence[str]) -> dict[str, Scene]:
    """Return every name as a scene of its own: the generator draws each picture anew."""
    return {name: Scene(name, name, "", "generated one by one") for name in names}


ORDERS = {
    "its authors' loader": CLASSES,
    "their README, DEYOLO": ("People", "Car", "Bus", "Motorcycle", "Lamp", "Truck"),
}
M3FD = Dataset(CLASSES, layout, listed_split, scenes=scenes, orders=ORDERS)
SYNTHETIC = replace(M3FD, condition=_stated_condition, scenes=_single_scenes)
