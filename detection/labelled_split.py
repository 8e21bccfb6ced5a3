"""A split with its ground truth: open its pairs, check them, and read their labels by every label set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.boxes import Box
from detection.datasets import Dataset
from detection.datasets.layout import UNION
from detection.label_sets import SetsReader, unmatched
from detection.similarity import PairSummary, summarize_pairs
from detection.splits import Split
from detection.truth import build_truth, without_boxes
from pipeline.colour import band_doubts
from pipeline.pairs import Pair
from pipeline.stage import InputError, some_of


@dataclass(frozen=True)
class LabelledSplit:
    """A dataset that is split and checked.

    Attributes:
        split: the names of the training and the test images.
        truth: the label set that detectors are trained with, and that Table II is scored with.
        sets: the ground truths of training and test for every label set.
        unmatched: for every two label sets, the number of test boxes of each class in the first that the second lacks.
        summaries: summaries of the pairs of the split, by name.
        warnings: warnings about labels.
    """

    split: Split
    truth: str
    sets: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    unmatched: dict[str, dict[str, dict[str, int]]]
    summaries: dict[str, PairSummary]
    warnings: list[str]


def label_split(
    dataset: Dataset,
    root: Path,
    pairs: Sequence[Pair],
    split: Split,
    summaries: dict[str, PairSummary] | None = None,
    truth: str | None = None,
) -> LabelledSplit:
    """Open every pair of the split, read its labels and build the ground truth for every label set.

    Args:
        dataset: the layout and the classes.
        root: folder of the dataset.
        pairs: all pairs of the dataset; image ids number their sorted names, so that ids do not depend on the split.
        split: the names to use.
        summaries: summaries of the pairs if they were opened before.
        truth: the label set that detectors are trained with, by default the dataset's first.

    Raises:
        InputError: a name of the split has no pair; an image is unreadable, not 8-bit, or differs in size from its
            partner; a label file is missing or invalid; the chosen label set has no box in training or in test, or
            another set has none in test; the label set `truth` does not exist.
    """
    by_name = {pair.name: pair for pair in pairs}
    used = sorted(split.train + split.test)
    missing = [name for name in used if name not in by_name]
    if missing:
        raise InputError(f"{root} lacks {len(missing)} of the {len(used)} images of the split: {some_of(missing)}")
    broken = [name for name in used if "\n" in name or "\r" in name]
    if broken:
        raise InputError(
            f"{str(by_name[broken[0]].visible)!r} has a line break in its name; expected a name without one"
        )
    if summaries is None:
        summaries = summarize_pairs([by_name[name] for name in used])
    summaries = {name: summaries[name] for name in used}
    sizes = {name: (summary.width, summary.height) for name, summary in summaries.items()}
    chosen = dataset.layout(root).truth(truth)
    labels = SetsReader(dataset, root)
    boxes: dict[str, dict[str, list[Box]]] = {label_set: {} for label_set in labels.names}
    warnings: list[str] = []
    for name in used:
        found, doubts = labels.read(name, *sizes[name])
        warnings += doubts
        for label_set, its_boxes in found.items():
            boxes[label_set][name] = its_boxes
    warnings = labels.doubts() + warnings
    ids = {pair.name: number for number, pair in enumerate(sorted(pairs, key=lambda pair: pair.name), 1)}
    train, test = ({name: sizes[name] for name in names} for names in (split.train, split.test))
    sets = {
        label_set: tuple(build_truth(ids, part, its_boxes, dataset.classes) for part in (train, test))
        for label_set, its_boxes in boxes.items()
    }
    untrained = without_boxes(sets[chosen][0], "training")
    for label_set, truths in sets.items():
        without_boxes(truths[1], "test" if label_set == chosen else f"test (labels {label_set})")
    in_test = {
        label_set: {name: its_boxes[name] for name in split.test}
        for label_set, its_boxes in boxes.items()
        if label_set != UNION
    }
    lacking = {
        first: {
            other: unmatched(in_test[first], in_test[other], dataset.classes) for other in in_test if other != first
        }
        for first in in_test
    }
    warnings = [*filter(None, [untrained]), *warnings]
    return LabelledSplit(split, chosen, sets, lacking, summaries, warnings)


def band_warnings(pairs: Sequence[Pair], summaries: dict[str, PairSummary]) -> list[str]:
    """Return warnings about the bands of the pairs that were opened.

    Raises:
        InputError: all pairs have equal pixels in both bands.
    """
    opened = [(pair, summaries[pair.name]) for pair in pairs if pair.name in summaries]
    coloured = ([pair for pair, summary in opened if summary.coloured[band]] for band in (0, 1))
    return band_doubts(len(opened), *coloured, [pair for pair, summary in opened if summary.same])
