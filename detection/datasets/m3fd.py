"""M3FD (Liu et al., CVPR 2022): 4,200 aligned pairs, mostly 1024x768, boxes of six classes, no split of its own.

The class order is that of the authors' data loader, and so of YOLO labels made with their code; the table in their
README lists Motorcycle before Lamp. The pairs that fusion.synthetic generates have the same layout, and bring a split:
`train.txt` and `test.txt` beside the folders.
"""

from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml import ElementTree

from detection.datasets.layout import Dataset, Layout, listed_split

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


M3FD = Dataset(CLASSES, layout, listed_split)
SYNTHETIC = replace(M3FD, condition=_stated_condition)
