"""Several label sets of one data set: read side by side, made into their union, compared with one another.

The union holds every object that some set has. Boxes of one class and of different sets that overlap by half or more
(intersection over union) become one:

1. All pairs of such boxes are taken in falling order of their overlap; of equal ones first that with the lesser edges.
2. A pair joins the groups of its two boxes, unless the joined group would hold two boxes of one set: whoever drew that
   set saw two objects.
3. Each group becomes one box, whose edges are the means of its boxes' edges. A box in no pair stays as it is.

The result does not depend on the order of the sets, and has at least as many boxes of a class as each of them.
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

OVERLAP = 0.5  # from here on two boxes are of one object


class SetsReader:
    """Reads the labels of a data set's images in every label set."""

    def __init__(self, dataset: Dataset, root: Path) -> None:
        layout = dataset.layout(root)
        self.names = layout.set_names()
        self.readers = {name: LabelReader(dataset, root, paths) for name, paths in layout.sets().items()}

    @property
    def unlabelled(self) -> list[str]:
        """The images that some set has no label file for, which it takes as images without objects."""
        return sorted({name for reader in self.readers.values() for name in reader.unlabelled})

    @property
    def left_out(self) -> Counter[str]:
        """Boxes passed over by class, in all sets."""
        return sum((reader.left_out for reader in self.readers.values()), Counter())

    @property
    def crowds(self) -> int:
        """Crowds read, in all sets."""
        return sum(reader.crowds for reader in self.readers.values())

    def read(self, name: str, width: int, height: int) -> tuple[dict[str, list[Box]], list[str]]:
        """Return the boxes of an image of `width` x `height` pixels by label set, the union's too, and warnings.

        Raises:
            InputError: as `LabelReader.read`, of any set.
        """
        found, warnings = {}, []
        for label_set, reader in self.readers.items():
            found[label_set], doubts = reader.read(name, width, height)
            warnings += doubts
        if UNION in self.names:
            found[UNION] = union(list(found.values()))
        return found, warnings

    def doubts(self) -> list[str]:
        """Return the warnings of `LabelReader.doubts`, with the set's name where there are several."""
        several = UNION in self.names
        return [
            f"labels {label_set}: {doubt}" if several else doubt
            for label_set, reader in self.readers.items()
            for doubt in reader.doubts()
        ]


def union(sets: Sequence[Sequence[Box]]) -> list[Box]:
    """Return the union of an image's boxes in several label sets, by class and edges; the module says by which rule."""
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
    """Return how many boxes of each class in `first` overlap none of their class in `second` by half or more.

    Both hold boxes by the name of the image; crowds are left out.
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
        The name of the chosen label set; for every set its ground truth of the test images in COCO's form; and
        `unmatched`, for every two sets the boxes of each class that the second lacks.

    Raises:
        InputError: the file is missing or of another form, or a set has no box.
    """
    content = read_json(path)
    try:
        shared = {key: content[key] for key in ("images", "categories")}
        sets = {name: {**shared, "annotations": one["annotations"]} for name, one in content["sets"].items()}
        chosen, lacking = content["truth"], content["unmatched"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no truth_sets.json: {error!r} is missing or of another kind") from None
    if chosen not in sets:
        raise InputError(f"{path} has the truth {chosen!r}; wanted one of its sets, {', '.join(sets)}")
    for name, truth in sets.items():
        check_truth(truth, f"{path}, {name}")
        without_boxes(truth, f"test (labels {name})")
    return chosen, sets, lacking


def _kind(box: Box) -> tuple[str, bool]:
    """Return what boxes have to share to be of one object; a crowd is no object."""
    return box.name, box.crowd


def _mean(boxes: Sequence[Box]) -> Box:
    # fsum: no sum depends on the order of the sets.
    means = (fsum(edge) / len(boxes) for edge in zip(*map(_edges, boxes), strict=True))
    return replace(boxes[0], **dict(zip(("xmin", "ymin", "xmax", "ymax"), means, strict=True)))


def _edges(box: Box) -> tuple[float, float, float, float]:
    return box.xmin, box.ymin, box.xmax, box.ymax


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    """Return boxes (N, 4) as x, y, width, height."""
    return np.array([(b.xmin, b.ymin, b.xmax - b.xmin, b.ymax - b.ymin) for b in boxes], float).reshape(-1, 4)
