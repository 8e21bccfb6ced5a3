"""MSRS (Tang et al., Information Fusion 2022) with boxes as YOLO text: road scenes of 640x480 by day and by night.

The boxes are those of the repository Lele-3/MSRS-detection-label, which has three sets of them, drawn on the fused, the
infrared and the visible images: whichever lies in `labels` is read. The split is the authors' own: the folders `train`
and `test`. An empty label file is a scene without objects.
"""

from pathlib import Path

from detection.datasets.layout import Dataset, Layout
from pipeline.pairs import find_images

CLASSES = ("person", "bicycle", "car")


def layout(root: Path) -> Layout:
    """Return the folders of both parts; they need not exist yet."""
    return Layout(*(tuple(root / part / kind for part in ("train", "test")) for kind in ("vi", "ir", "labels")))


def own_split(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible images in `train` and in `test`."""
    return list(find_images(root / "train" / "vi")), list(find_images(root / "test" / "vi"))


def condition(root: Path, name: str) -> str | None:
    """Return what the last letter of the name says: D is day, N night."""
    return {"D": "day", "N": "night"}.get(name[-1])


MSRS = Dataset(CLASSES, layout, own_split, condition, numbered=CLASSES)
