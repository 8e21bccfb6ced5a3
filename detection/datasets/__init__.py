"""The data sets by name. A new one is a small file and a line in `DATASETS`: see docs/own-dataset.md."""

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
    "synthetic": SYNTHETIC,  # fusion.synthetic writes M3FD's own layout
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
    """Return the data set of this name; `folders` takes its classes, folders and suffixes from the other arguments.

    `labels` are folders or COCO JSON files, or those of each label set by its name. Of another data set `classes` are
    its own in the order in which YOLO labels number them. `unlabelled` says what an image without a label file is:
    `refuse` or `background`. `left_out` are those of `classes` whose boxes are passed over.

    Raises:
        InputError: `folders` without classes, or other classes, folders or suffixes for another data set.
    """
    if name == "folders":
        dataset = describe_folders(classes or (), visible, infrared, labels, bands, left_out)
    else:
        dataset = replace(DATASETS[name], bands=bands)
        known = {own.casefold(): own for own in dataset.classes}
        same = sorted(map(str.casefold, classes or ())) == sorted(known)
        if (classes and not same) or visible or infrared or labels or bands.suffixes or left_out:
            raise InputError(
                f"--dataset {name} has folders and classes of its own; --classes and the like want folders"
                + (f", or its own classes in the order of YOLO labels' numbers: {', '.join(known.values())}")
            )
        if classes:
            dataset = replace(dataset, numbered=tuple(known[name.casefold()] for name in classes))
    return replace(dataset, unlabelled_is_background=unlabelled == "background")


__all__ = ["DATASETS", "Dataset", "Layout", "find_dataset"]
