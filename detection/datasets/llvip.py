"""LLVIP (Jia et al., ICCV workshops 2021): 15,488 aligned pairs of 1280x1024, nearly all at night, boxes of persons.

The split is the authors' own: the folders `train` and `test` below `visible` and `infrared`. The boxes of both are in
`Annotations`, as Pascal VOC. A name has six digits: the first two are the number of the camera's place, with one video
each, the other four the number of the frame.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from detection.datasets.layout import Dataset, Layout, Scene
from pipeline.pairs import find_images

CLASSES = ("person",)


def layout(root: Path) -> Layout:
    """Return the folders of the training and the test part; they need not exist yet."""
    visible, infrared = (tuple(root / band / part for part in ("train", "test")) for band in ("visible", "infrared"))
    return Layout(visible, infrared, (root / "Annotations",))


def own_split(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible images in `train` and in `test`."""
    return list(find_images(root / "visible" / "train")), list(find_images(root / "visible" / "test"))


def scenes(root: Path, names: Sequence[str]) -> dict[str, Scene]:
    """Return the scenes: the first two of the six digits of a name are its place, which is also its sequence."""
    return {
        name: Scene(name[:2], name[:2], "", "LLVIP's numbering") for name in names if re.fullmatch("[0-9]{6}", name)
    }


LLVIP = Dataset(CLASSES, layout, own_split, scenes=scenes, numbered=CLASSES)
