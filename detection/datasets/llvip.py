"""LLVIP (Jia et al., ICCV workshops 2021): 15,488 aligned pairs of 1280x1024, nearly all at night, boxes of persons.

The split is the authors' own: the folders `train` and `test` below `visible` and `infrared`. The boxes of both lie in
`Annotations`, as Pascal VOC.
"""

from pathlib import Path

from detection.datasets.layout import Dataset, Layout
from pipeline.pairs import find_images

CLASSES = ("person",)


def layout(root: Path) -> Layout:
    """Return the folders of both parts; they need not exist yet."""
    visible, infrared = (tuple(root / band / part for part in ("train", "test")) for band in ("visible", "infrared"))
    return Layout(visible, infrared, (root / "Annotations",))


def own_split(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible images in `train` and in `test`."""
    return list(find_images(root / "visible" / "train")), list(find_images(root / "visible" / "test"))


LLVIP = Dataset(CLASSES, layout, own_split)
