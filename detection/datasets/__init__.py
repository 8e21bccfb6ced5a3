"""The datasets by name. A new dataset needs a small module here and an entry in `DATASETS`: see docs/own-dataset.md."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from detection.datasets.folders import FOLDERS, describe_folders
from detection.datasets.layout import Dataset, Layout
from detection.datasets.llvip import LLVIP
from detection.datasets.m3fd import M3FD, SYNTHETIC
from detection.datasets.msrs import MSRS
from pipeline.pairs import Bands
from pipeline.stage import InputError

DATASETS: dict[str, Dataset] = {
    "m3fd": M3FD,
    "msrs": MSRS,
    "llvip": LLVIP,
    "folders": FOLDERS,
    "synthetic": SYNTHETIC,  # written by fusion.synthetic in M3FD's layout
}


def find_dataset(
    name: str,
    classes: Sequence[str] | None = None,
    visible: Sequence[str] | None = None,
    infrared: Sequence[str] | None = None,
    labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    bands: Bands = Bands(),  # noqa: B008  # frozen
    unlabelled: str = "refuse",
    left_out: Sequence[str] = (),
) -> Dataset:
    """Return the dataset of this name.

    Args:
        name: a key of `DATASETS`. Only `folders` takes classes, folders and suffixes from the other arguments.
        classes: class names; for other datasets than `folders`, their own classes in the order in which YOLO labels
            number them.
        visible, infrared: folders of the two bands, below the root.
        labels: folders or COCO JSON files, or a mapping from the name of each label set to them.
        bands: suffixes and ranges of the bands' files.
        unlabelled: `refuse`, or `background` if an image without a label file is an image without objects.
        left_out: those of `classes` whose boxes are ignored.

    Raises:
        InputError: `folders` has no classes, or another dataset is given other classes, folders or suffixes.
    """
    if name == "folders":
        dataset = describe_folders(classes or (), visible, infrared, labels, bands, left_out)
    else:
        dataset = replace(DATASETS[name], bands=bands)
        known = {own.casefold(): own for own in dataset.classes}
        same = sorted(map(str.casefold, classes or ())) == sorted(known)
        if (classes and not same) or visible or infrared or labels or bands.suffixes or left_out:
            raise InputError(
                f"--dataset {name} has its own folders and classes; expected --dataset folders for others, or only "
                f"--classes with its own classes in the order of the YOLO labels: {', '.join(known.values())}"
            )
        if classes:
            dataset = replace(dataset, numbered=tuple(known[name.casefold()] for name in classes))
    return replace(dataset, unlabelled_is_background=unlabelled == "background")


__all__ = ["DATASETS", "Dataset", "Layout", "find_dataset"]
