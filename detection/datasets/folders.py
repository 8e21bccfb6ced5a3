"""Any data set of aligned pairs with Pascal VOC or YOLO labels, described by options alone: folders and classes.

Without options the folders are `visible`, `infrared` and `labels`; `train.txt` and `test.txt` beside them, where both
are there, are its own split.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from detection.datasets.layout import Dataset, Layout, listed_split
from pipeline.pairs import Bands
from pipeline.stage import InputError

KINDS = ("visible", "infrared", "labels")
FOLDERS = Dataset((), lambda root: Layout(*((root / kind,) for kind in KINDS)), listed_split)


def describe_folders(
    classes: Sequence[str],
    visible: Sequence[str] | None = None,
    infrared: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    bands: Bands = Bands(),  # noqa: B008  # frozen
) -> Dataset:
    """Return the data set with these classes, numbered in this order, in these folders below the root.

    Raises:
        InputError: no class, or one named twice.
    """
    if not classes or len({name.casefold() for name in classes}) < len(classes):
        raise InputError(f"--classes {' '.join(classes)}: wanted one class or more, each once, in the labels' order")

    def layout(root: Path) -> Layout:
        given = zip(KINDS, (visible, infrared, labels), strict=True)
        return Layout(*(tuple(root / folder for folder in folders or [kind]) for kind, folders in given))

    own_split = partial(listed_split, suffixes=bands.suffixes)
    return replace(
        FOLDERS, classes=tuple(classes), layout=layout, own_split=own_split, bands=bands, numbered=tuple(classes)
    )
