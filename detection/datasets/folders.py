"""Any data set of aligned pairs with Pascal VOC, YOLO or COCO labels, described by options alone: folders, classes.

Without options the folders are `visible`, `infrared` and `labels`; `train.txt` and `test.txt` beside them, where both
are there, are its own split.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from detection.datasets.layout import UNION, Dataset, Layout, listed_split
from pipeline.pairs import Bands
from pipeline.stage import InputError

KINDS = ("visible", "infrared", "labels")
FOLDERS = Dataset((), lambda root: Layout(*((root / kind,) for kind in KINDS)), listed_split)


def describe_folders(
    classes: Sequence[str],
    visible: Sequence[str] | None = None,
    infrared: Sequence[str] | None = None,
    labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    bands: Bands = Bands(),  # noqa: B008  # frozen
    left_out: Sequence[str] = (),
) -> Dataset:
    """Return the data set with these classes, numbered in this order, in these folders below the root.

    `labels` are the folders and COCO JSON files of one label set, or of several by their names. Boxes of the classes
    `left_out` are passed over.

    Raises:
        InputError: no class, or one named twice; a class left out that is not among the others, or all of them; a label
            set of another name than lower-case letters, digits and underscores, or without a folder.
    """
    if not classes or len({name.casefold() for name in classes}) < len(classes):
        raise InputError(f"--classes {' '.join(classes)}: wanted one class or more, each once, in the labels' order")

    passed = {name.casefold() for name in left_out}
    kept = [name for name in classes if name.casefold() not in passed]
    if len(kept) + len(passed) != len(classes) or not kept:
        raise InputError(f"--leave-out {' '.join(left_out)}: wanted some of --classes {' '.join(classes)}, not all")
    sets = labels if isinstance(labels, Mapping) else {}
    for name, folders in sets.items():
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or name == UNION or not folders:
            raise InputError(
                f"--label-set {' '.join([name, *folders])}: wanted a name of lower-case letters, digits and "
                f"underscores, not {UNION}, which is made here, and one folder or more"
            )
    everything = [folder for folders in sets.values() for folder in folders] or labels

    def layout(root: Path) -> Layout:
        given = zip(KINDS, (visible, infrared, everything), strict=True)
        return Layout(
            *(tuple(root / folder for folder in folders or [kind]) for kind, folders in given),
            {name: tuple(root / folder for folder in folders) for name, folders in sets.items()},
        )

    own_split = partial(listed_split, suffixes=bands.suffixes)
    return replace(
        FOLDERS,
        classes=tuple(kept),
        layout=layout,
        own_split=own_split,
        bands=bands,
        numbered=tuple(classes),
        left_out=tuple(name for name in classes if name not in kept),
    )
