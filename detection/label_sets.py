"""Read several label sets of one dataset, build their union, and compare them.

The union contains every object that is in at least one set. Boxes of the same class and of different sets whose
intersection over union is at least 0.5 are merged:

1. All pairs of such boxes are sorted by decreasing overlap; ties are sorted by the boxes' edges.
2. A pair merges the groups of its two boxes, unless the merged group would contain two boxes of one set: two boxes in
   one set are two objects.
3. Each group becomes one box, whose edges are the means of its boxes' edges. A box in no pair is kept unchanged.

The result does not depend on the order of the sets. It has at least as many boxes of each class as any of them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np

from detection.boxes import Box, overlaps
from detection.datasets.layout import UNION, Dataset, LabelReader
from detection.truth import check_truth, without_boxes
from pipeline.artefacts import read_json
from pipeline.stage import InputError

OVERLAP = 0.5  # least intersection over union at which two boxes are one object


class SetsReader:
    """Reads the labels of a dataset's images in every label set."""

    def __init__(self, dataset: Dataset, root: Path) -> None:
        layout = dataset.layout(root)
        self.names = layout.set_names()
        self.readers = {name: LabelReader(dataset, root, paths) for name, paths in layout.sets().items()}

    @property
    def unlabelled(self) -> list[str]:
        """The images without a label file in at least one set, which that set treats as images without objects."""
        return sorted({name for reader in self.readers.values() for name in reader.unlabelled})

    @property
    def left_out(self) -> Counter[str]:
        """The number of ignored boxes of each class, in all sets together."""
        return sum((reader.left_out for reader in self.readers.values()), Counter())

    @property
    def crowds(self) -> int:
        """The number of crowd annotations read, in all sets together."""
        return sum(reader.crowds for reader in self.readers.values())

    def read(self, name: str, width: int, height: int) -> tuple[dict[str, list[Box]], list[str]]:
        """Return the boxes of an image of `width` x `height` pixels by label set, including the union, and warnings.

        Raises:
            InputError: raised by `LabelReader.read` for any of the sets.
        """
        found, warnings = {}, []
        for label_set, reader in self.readers.items():
            found[label_set], doubts = reader.read(name, width, height)
            warnings += doubts
        if UNION in self.names:
            found[UNION] = union(list(found.values()))
        return found, warnings

    def doubts(self) -> list[str]:
        """Return the warnings of `LabelReader.doubts`, with the set's name if there are several sets."""
        several = UNION in self.names
        return [
            f"labels {label_set}: {doubt}" if several else doubt
            for label_set, reader in self.readers.items()
            for doubt in reader.doubts()
        ]


def union(sets: Sequence[Sequence[Box]]) -> list[Box]:
    """Return the union of an image's boxes in several label sets, sorted by class and edges.

    The module's docstring describes how boxes are merged.
    """
    boxes = [(box, number) for number, one in enumerate(sets) for box in one]
    table = overlaps(_corners([box for box, _ in boxes]), _corners([box for box, _ in boxes]))
    pairs = [
        (-table[i, j], *sorted((_edges(boxes[i][0]), _edges(boxes[j][0]))), i, j)
        for i, j in combinations(range(len(boxes)), 2)
        if table[i, j] >= OVERLAP and boxes[i][1] != boxes[j][1] and _kind(boxes[i][0]) == _kind(boxes[j][0])
    ]
    groups = {n: {n} for n in range(len(boxes))}
    for *_, i, j in sorted(pairs):
        joined = groups[i] | groups[j]
        if len({boxes[n][1] for n in joined}) == len(joined):
            groups |= dict.fromkeys(joined, joined)
    members = ([boxes[n][0] for n in group] for n, group in groups.items() if n == min(group))
    return sorted(map(_mean, members), key=lambda box: (box.name, _edges(box)))


def unmatched(
    first: Mapping[str, Sequence[Box]], second: Mapping[str, Sequence[Box]], classes: Sequence[str]
) -> dict[str, int]:
    """Return, for each class, the number of boxes in `first` without a box of the class in `second` at IoU >= 0.5.

    Both arguments map the name of an image to its boxes. Crowds are ignored.
    """
    counts = dict.fromkeys(classes, 0)
    for image, boxes in first.items():
        for name in {box.name for box in boxes if not box.crowd}:
            mine, others = ([box for box in one if _kind(box) == (name, False)] for one in (boxes, second[image]))
            best = overlaps(_corners(mine), _corners(others)).max(axis=1, initial=0)
            counts[name] += int((best < OVERLAP).sum())
    return counts


def read_truth_sets(path: Path) -> tuple[str, dict[str, dict[str, Any]], dict[str, Any]]:
    """Read truth_sets.json of a prepared split.

    Returns:
        The name of the chosen label set; the ground truth of the test images in COCO format for every set; and
        `unmatched`, the number of boxes of each class that the second set lacks, for every two sets.

    Raises:
        InputError: the file is missing or malformed, or a set has no boxes.
    """
    content = read_json(path)
    try:
        shared = {key: content[key] for key in ("images", "categories")}
        sets = {name: {**shared, "annotations": one["annotations"]} for name, one in content["sets"].items()}
        chosen, lacking = content["truth"], content["unmatched"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a truth_sets.json: {error!r} is missing or has the wrong type") from None
    if chosen not in sets:
        raise InputError(f"{path} names the truth {chosen!r}; expected one of its sets: {', '.join(sets)}")
    for name, truth in sets.items():
        check_truth(truth, f"{path}, {name}")
        without_boxes(truth, f"test (labels {name})")
    return chosen, sets, lacking


def _kind(box: Box) -> tuple[str, bool]:
    """Return the class and the crowd flag, which two boxes must share to be one object."""
    return box.name, box.crowd


def _mean(boxes: Sequence[Box]) -> Box:
    # fsum is exact, so the mean does not depend on the order of the sets.
    means = (fsum(edge) / len(boxes) for edge in zip(*map(_edges, boxes), strict=True))
    return replace(boxes[0], **dict(zip(("xmin", "ymin", "xmax", "ymax"), means, strict=True)))


def _edges(box: Box) -> tuple[float, float, float, float]:
    return box.xmin, box.ymin, box.xmax, box.ymax


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    """Return the boxes as an array (N, 4) of x, y, width, height."""
    return np.array([(b.xmin, b.ymin, b.xmax - b.xmin, b.ymax - b.ymin) for b in boxes], float).reshape(-1, 4)
