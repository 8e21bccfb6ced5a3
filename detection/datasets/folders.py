"""Any dataset of aligned pairs with Pascal VOC, YOLO or COCO labels, described only by options: folders and classes.

By default the folders are `visible`, `infrared` and `labels`. The files `train.txt` and `test.txt` in the same root, if
both exist, are the dataset's own split.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from detection.datasets.layout import UNION, Dataset, Layout, listed_split
from pipeline.pairs import Bands
from pipeline.stage import InputError

FOLDER_NAMES = ("visible", "infrared", "labels")
FOLDERS = Dataset((), lambda root: Layout(*((root / name,) for name in FOLDER_NAMES)), listed_split)


def describe_folders(
    classes: Sequence[str],
    visible: Sequence[str] | None = None,
    infrared: Sequence[str] | None = None,
    labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    bands: Bands = Bands(),  # noqa: B008  # frozen
    left_out: Sequence[str] = (),
) -> Dataset:
    """Return the dataset with these classes, numbered in this order, in these folders below the root.

    `labels` are the folders and COCO JSON files of one label set, or a mapping from the name of each label set to them.
    Boxes of the classes `left_out` are ignored.

    Raises:
        InputError: there is no class, or one is named twice; a class of `left_out` is not among `classes`, or all are
            left out; the name of a label set is not of lower-case letters, digits and underscores, or the set has no
            folder.
    """
    if not classes or len({name.casefold() for name in classes}) < len(classes):
        raise InputError(
            f"--classes {' '.join(classes)}: expected at least one class, each once, in the order of the labels"
        )

    ignored = {name.casefold() for name in left_out}
    kept = [name for name in classes if name.casefold() not in ignored]
    if len(kept) + len(ignored) != len(classes) or not kept:
        raise InputError(
            f"--leave-out {' '.join(left_out)}: expected some, but not all, of --classes {' '.join(classes)}"
        )
    sets = labels if isinstance(labels, Mapping) else {}
    for name, folders in sets.items():
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or name == UNION or not folders:
            raise InputError(
                f"--label-set {' '.join([name, *folders])}: expected a name of lower-case letters, digits and "
                f"underscores other than {UNION}, which is reserved, and at least one folder"
            )
    everything = [folder for folders in sets.values() for folder in folders] or labels

    def layout(root: Path) -> Layout:
        given = zip(FOLDER_NAMES, (visible, infrared, everything), strict=True)
        return Layout(
            *(tuple(root / folder for folder in folders or [default]) for default, folders in given),
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
