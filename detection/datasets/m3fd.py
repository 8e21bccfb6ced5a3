"""M3FD (Liu et al., CVPR 2022): 4,200 aligned pairs, mostly 1024x768, boxes of six classes, no split of its own.

The class order is that of the authors' data loader, and so of YOLO labels made with their code; the table in their
README lists Motorcycle before Lamp. The pairs that fusion.synthetic generates have the same layout, and bring a split:
`train.txt` and `test.txt` beside the folders.
"""

from pathlib import Path

from detection.datasets.layout import Dataset, Layout
from fusion.pairs import read_names

CLASSES = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")

# As the authors ship the folders, then as copies rename them.
_VISIBLE = ("Vis", "vis", "VIS", "vi", "Vi", "VI", "visible")
_INFRARED = ("Ir", "ir", "IR", "infrared")
_LABELS = ("Annotation", "annotation", "Annotations", "annotations", "labels", "Labels")


def layout(root: Path) -> Layout:
    """Return the folders of `root`; where it does not exist yet, those of the authors' names."""
    return Layout(*((_first(root, names),) for names in (_VISIBLE, _INFRARED, _LABELS)))


def own_split(root: Path) -> tuple[list[str], list[str]] | None:
    """Return the names in `train.txt` and `test.txt`, or None where the root has not both."""
    lists = root / "train.txt", root / "test.txt"
    return (read_names(lists[0]), read_names(lists[1])) if all(path.is_file() for path in lists) else None


def _first(root: Path, names: tuple[str, ...]) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


M3FD = Dataset(CLASSES, layout, own_split)
