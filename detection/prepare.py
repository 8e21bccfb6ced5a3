"""Prepare a data set for detection: check it, split it, and write the ground truth that every variant shares.

Writes `train.txt` and `test.txt` (file stems), `truth_train.json` and `truth_test.json` (COCO), and last
`dataset.json`, which says where the pairs lie, how they were split, and what was wrong with labels.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detection.boxes import Box
from detection.datasets import DATASETS, Dataset
from detection.datasets.layout import find_labels, read_labels
from detection.splits import Split, limited, list_split, own_split, random_split
from detection.truth import boxes_per_class, build_truth
from fusion.artefacts import write_json, write_text
from fusion.pairs import Pair, find_pairs, read_image, read_pair_size
from fusion.stage import InputError, Progress, run, threads_available

SHOWN_WARNINGS = 10


@dataclass(frozen=True)
class Prepared:
    """A data set split and checked: the split, the ground truths, and warnings about labels."""

    split: Split
    truth_train: dict[str, Any]
    truth_test: dict[str, Any]
    warnings: list[str]


def prepare(dataset: Dataset, root: Path, pairs: Sequence[Pair], split: Split) -> Prepared:
    """Open every pair of the split, read its labels and build the ground truth.

    `pairs` are all pairs of the data set: image ids number their names, whatever the split.

    Raises:
        InputError: a name of the split has no pair; an image is unreadable, not 8-bit, or of another size than its
            partner; a label file is missing or wrong.
    """
    by_name = {pair.name: pair for pair in pairs}
    used = sorted(split.train + split.test)
    missing = [name for name in used if name not in by_name]
    if missing:
        shown = ", ".join(map(repr, missing[:5]))
        raise InputError(f"{root} lacks {len(missing)} of the {len(used)} images of the split, {shown} among them")
    broken = [name for name in used if "\n" in name or "\r" in name]
    if broken:
        raise InputError(f"{str(by_name[broken[0]].visible)!r} has a line break in its name; wanted a name of one line")
    folders = dataset.layout(root).labels
    progress = Progress("checking", len(used), "pairs")
    sizes: dict[str, tuple[int, int]] = {}
    boxes: dict[str, list[Box]] = {}
    warnings: list[str] = []
    with ThreadPoolExecutor(threads_available()) as pool:  # decoding releases the interpreter's lock
        for name, size in zip(used, pool.map(_size, (by_name[name] for name in used)), strict=True):
            sizes[name] = size
            boxes[name], found = read_labels(find_labels(folders, name), dataset.classes, *size)
            warnings += found
            progress.step()
    ids = {pair.name: number for number, pair in enumerate(sorted(pairs, key=lambda pair: pair.name), 1)}
    truths = [
        build_truth(ids, {name: sizes[name] for name in names}, boxes, dataset.classes)
        for names in (split.train, split.test)
    ]
    return Prepared(split, truths[0], truths[1], warnings)


def _size(pair: Pair) -> tuple[int, int]:
    height, width = read_pair_size(pair, read_image(pair.visible), read_image(pair.infrared))
    return width, height


def main(argv: Sequence[str] | None = None) -> None:
    """Check, split and write."""
    args = _parse(argv)
    dataset = DATASETS[args.dataset]
    folders = dataset.layout(args.root)
    pairs = find_pairs(folders.visible, folders.infrared)
    split = _split(args, dataset, [pair.name for pair in pairs])
    split = limited(split, args.limit_train, args.limit_test, args.seed)
    prepared = prepare(dataset, args.root, pairs, split)
    for warning in prepared.warnings[:SHOWN_WARNINGS]:
        logging.warning("warning: %s", warning)
    if len(prepared.warnings) > SHOWN_WARNINGS:
        rest = len(prepared.warnings) - SHOWN_WARNINGS
        logging.warning("warning: and %d more, all in %s", rest, args.output / "dataset.json")

    boxes = {"train": boxes_per_class(prepared.truth_train), "test": boxes_per_class(prepared.truth_test)}
    for part, names in (("train", split.train), ("test", split.test)):
        write_text(args.output / f"{part}.txt", "".join(f"{name}\n" for name in names))
        counts = ", ".join(f"{name} {count}" for name, count in boxes[part].items())
        logging.info("%s: %d images, boxes: %s", part, len(names), counts)
    write_json(args.output / "truth_train.json", prepared.truth_train)
    write_json(args.output / "truth_test.json", prepared.truth_test)
    write_json(
        args.output / "dataset.json",
        {
            "dataset": args.dataset,
            "classes": list(dataset.classes),
            **{kind: [relative(path, args.output) for path in paths] for kind, paths in asdict(folders).items()},
            "pairs": len(pairs),
            "split": {
                "kind": split.kind,
                "seed": split.seed,
                "limits": {"train": args.limit_train, "test": args.limit_test, "seed": args.seed}
                if args.limit_train or args.limit_test
                else None,
                "train": len(split.train),
                "test": len(split.test),
                "digest_train": split.digests[0],
                "digest_test": split.digests[1],
            },
            "boxes": boxes,
            "warnings": prepared.warnings,
        },
    )


def relative(path: Path, folder: Path) -> str:
    """Return `path` as seen from `folder`, so that files that name each other can move together."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _split(args: argparse.Namespace, dataset: Dataset, names: list[str]) -> Split:
    if args.split == "own":
        return own_split(dataset, args.root)
    if args.split == "random":
        if args.train is None or args.test is None:
            raise InputError("--split random wants --train N and --test N")
        return random_split(names, args.train, args.test, args.seed)
    if args.train_list is None or args.test_list is None:
        raise InputError("--split list wants --train-list FILE and --test-list FILE")
    return list_split(args.train_list, args.test_list)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS, required=True, help="layout and classes of the data set")
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--split",
        choices=("own", "random", "list"),
        default="own",
        help="own: the data set's; random: --train and --test pairs drawn with --seed; list: two files of names "
        "(default: own)",
    )
    parser.add_argument("--train", type=int, metavar="N", help="random: training pairs")
    parser.add_argument("--test", type=int, metavar="N", help="random: test pairs")
    parser.add_argument("--train-list", type=Path, metavar="FILE", help="list: names of the training images")
    parser.add_argument("--test-list", type=Path, metavar="FILE", help="list: names of the test images")
    parser.add_argument("--limit-train", type=int, metavar="N", help="a random part of the training images, N at most")
    parser.add_argument("--limit-test", type=int, metavar="N", help="a random part of the test images, N at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of a random split and of the limits (default: 0)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
