"""Prepare a data set for detection: check it, split it, and write the ground truth that every variant shares.

Writes `train.txt` and `test.txt` (file stems), `truth_train.json` and `truth_test.json` (COCO) of the chosen label set,
`truth_sets.json` (the test images' truth by every label set, `detection.label_sets`), `scenes.csv` (sequence and place
of every image), `leakage.json` (how many test pairs have a neighbour, their scene or a near duplicate in
training), `conditions.json` (day or night, ... of every image), and last `dataset.json`, which says where the pairs
lie, how they were split, and what was wrong with labels.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detection.boxes import Box
from detection.conditions import find_conditions
from detection.datasets import DATASETS, Dataset, Layout, find_dataset
from detection.datasets.layout import UNION, Scene
from detection.label_sets import OVERLAP, SetsReader, unmatched
from detection.leakage import exposure_words, measure_leakage, refuse_tested_training
from detection.likeness import Look, look_at
from detection.scenes import FROM_IMAGES, RULE, find_scenes, write_scenes
from detection.splits import (
    KEPT,
    SPLITS,
    Split,
    check_split_options,
    kept_split,
    limited,
    list_split,
    own_split,
    random_split,
    scene_split,
)
from detection.truth import boxes_per_class, build_truth, objects_of, without_boxes
from pipeline.artefacts import relative, sha256_lines, versions, write_json, write_text
from pipeline.colour import band_doubts
from pipeline.pairs import Pair, add_band_options, check_folders, find_bands, find_pairs, given_bands
from pipeline.stage import InputError, run, some_of

SHOWN_WARNINGS = 10


@dataclass(frozen=True)
class Prepared:
    """A data set split and checked.

    Attributes:
        split: the names of its parts.
        truth: the label set that trains, and that Table II is scored by.
        sets: the ground truths of training and test by every label set.
        unmatched: for every two label sets, the test boxes of each class in the first that the second lacks.
        looks: what its pairs look like.
        warnings: about labels.
    """

    split: Split
    truth: str
    sets: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    unmatched: dict[str, dict[str, dict[str, int]]]
    looks: dict[str, Look]
    warnings: list[str]


def prepare(
    dataset: Dataset,
    root: Path,
    pairs: Sequence[Pair],
    split: Split,
    looks: dict[str, Look] | None = None,
    truth: str | None = None,
) -> Prepared:
    """Open every pair of the split, read its labels and build the ground truth, by every label set.

    `pairs` are all pairs of the data set: image ids number their names, whatever the split. `looks` are of pairs that
    were opened before. `truth` is the label set that trains, the data set's first by default.

    Raises:
        InputError: a name of the split has no pair; an image is unreadable, not 8-bit, or of another size than its
            partner; a label file is missing or wrong; no training image, or no test image, has a box by the label set
            that trains, or no test image by another one; there is no such label set.
    """
    by_name = {pair.name: pair for pair in pairs}
    used = sorted(split.train + split.test)
    missing = [name for name in used if name not in by_name]
    if missing:
        raise InputError(f"{root} lacks {len(missing)} of the {len(used)} images of the split: {some_of(missing)}")
    broken = [name for name in used if "\n" in name or "\r" in name]
    if broken:
        raise InputError(f"{str(by_name[broken[0]].visible)!r} has a line break in its name; wanted a name of one line")
    if looks is None:
        looks = look_at([by_name[name] for name in used])
    looks = {name: looks[name] for name in used}
    sizes = {name: (seen.width, seen.height) for name, seen in looks.items()}
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
    return Prepared(split, chosen, sets, lacking, looks, warnings)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, split and write."""
    args = _parse(argv)
    dataset = find_dataset(
        args.dataset, args.classes, args.visible, args.infrared, given_labels(args), given_bands(args), args.unlabelled,
        args.leave_out,
    )  # fmt: skip
    check_split_options(args.split, args.train, args.test, args.train_list, args.test_list)
    folders = dataset.layout(args.root)
    pairs, faults = _find_pairs(args, dataset, folders)
    looks = scenes = None
    if args.split == "scene-blocked":
        looks, scenes, split = _split_by_scenes(args, dataset, pairs)
    else:
        split = _split(args, dataset, [pair.name for pair in pairs])
    split = limited(split, args.limit_train, args.limit_test, args.seed)
    prepared = prepare(dataset, args.root, pairs, split, looks, args.truth)
    doubts = doubts_of_bands(pairs, prepared.looks)
    scenes = scenes or find_scenes(dataset, args.root, prepared.looks, args.scenes)
    leakage = measure_leakage(prepared.looks, scenes, split.train, split.test)
    refuse_tested_training(leakage)
    doubts = faults + doubts
    for warning in [*doubts, *prepared.warnings[:SHOWN_WARNINGS]]:
        logging.warning("warning: %s", warning)
    if len(prepared.warnings) > SHOWN_WARNINGS:
        rest = len(prepared.warnings) - SHOWN_WARNINGS
        logging.warning("warning: and %d more, all in %s", rest, args.output / "dataset.json")

    by_set = {
        name: dict(zip(("train", "test"), map(boxes_per_class, truths), strict=True))
        for name, truths in prepared.sets.items()
    }
    boxes, (truth_train, truth_test) = by_set[prepared.truth], prepared.sets[prepared.truth]
    for part, names in (("train", split.train), ("test", split.test)):
        write_text(args.output / f"{part}.txt", "".join(f"{name}\n" for name in names))
        counts = ", ".join(f"{name} {count}" for name, count in boxes[part].items())
        logging.info("%s: %d images, boxes: %s", part, len(names), counts)
    for name in by_set if len(by_set) > 1 else ():
        counts = ", ".join(f"{kind} {count}" for kind, count in by_set[name]["test"].items())
        logging.info("test by labels %s%s: %s", name, " (chosen)" if name == prepared.truth else "", counts)
    logging.info("leakage: %s", exposure_words(leakage))
    conditions = find_conditions(dataset, args.root, prepared.looks, scenes)
    scenes = {
        name: replace(scenes[name], condition=found or "") for name, found in sorted(conditions["images"].items())
    }
    counts = Counter(filter(None, conditions["images"].values()))
    shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    logging.info("conditions, by %s: %s", conditions["source"], shown)
    limits = {"train": args.limit_train, "test": args.limit_test, "seed": args.seed}
    facts = {
        "dataset": args.dataset,
        "classes": list(dataset.classes),
        **{
            kind: [relative(path, args.output) for path in getattr(folders, kind)]
            for kind in ("visible", "infrared", "labels")
        },
        **{key: value for key, value in asdict(dataset.bands).items() if value},
        "pairs": len(pairs),
        "split": {
            "kind": split.kind,
            "seed": split.seed,
            "limits": limits if args.limit_train or args.limit_test else None,
            "train": len(split.train),
            "test": len(split.test),
            "digest_train": split.digests[0],
            "digest_test": split.digests[1],
            "by": split.by,
            "unit": _unit(scenes, leakage),
            "scenes": scene_facts(scenes, split),
        },
        "leakage": {key: value for key, value in leakage.items() if key not in ("nearest", "adjacent")},
        "conditions": {"source": conditions["source"], **counts},
        "boxes": boxes,
        "truth": prepared.truth,
        "label_sets": {
            name: {
                "folders": [relative(path, args.output) for path in folders.sets().get(name, ())],
                "boxes": by_set[name],
            }
            for name in prepared.sets
        },
        "warnings": [*doubts, *prepared.warnings],
        "versions": versions("numpy", "scipy", "opencv-python-headless"),
    }
    write_scenes(args.output / "scenes.csv", scenes)
    write_json(args.output / "leakage.json", leakage)
    write_json(args.output / "conditions.json", conditions)
    write_json(args.output / "truth_train.json", truth_train)
    write_json(args.output / "truth_test.json", truth_test)
    sets = {
        name: {"boxes": by_set[name]["test"], "annotations": test["annotations"]}
        for name, (_, test) in prepared.sets.items()
    }
    write_json(
        args.output / "truth_sets.json",
        {
            "truth": prepared.truth,
            **{key: truth_test[key] for key in ("images", "categories")},
            "sets": sets,
            "overlap": OVERLAP,
            "unmatched": prepared.unmatched,
        },
    )
    write_json(args.output / "dataset.json", facts)


def scene_facts(scenes: Mapping[str, Scene], split: Split) -> dict[str, Any]:
    """Return what dataset.json says of scenes: who knows them, and how many sequences and places each part has."""
    parts = {"train": split.train, "test": split.test}
    counts = {
        part: {unit: len({getattr(scenes[name], unit) for name in names}) for unit in ("sequence", "place")}
        for part, names in parts.items()
    }
    sources = sorted({scene.source for scene in scenes.values()})
    rule = {"rule": RULE} if FROM_IMAGES in sources else {}
    lines = (f"{name} {scene.sequence} {scene.place}" for name, scene in sorted(scenes.items()))
    return {"sources": sources, **rule, **counts, "digest": sha256_lines(lines)}


def _unit(scenes: Mapping[str, Scene], leakage: Mapping[str, Any]) -> str:
    """Return the scenes that the test set consists of, for its statistics: places where none is on both sides."""
    if len({scene.place for scene in scenes.values()}) == len(scenes):
        return "image"
    return "sequence" if leakage["place"] else "place"


def doubts_of_bands(pairs: Sequence[Pair], looks: dict[str, Look]) -> list[str]:
    """Return what looks wrong with the bands of the pairs that were opened; InputError as of `band_doubts`."""
    seen = [(pair, looks[pair.name]) for pair in pairs if pair.name in looks]
    coloured = ([pair for pair, found in seen if found.coloured[band]] for band in (0, 1))
    return band_doubts(len(seen), *coloured, [pair for pair, found in seen if found.same])


def _split_by_scenes(
    args: argparse.Namespace, dataset: Dataset, pairs: list[Pair]
) -> tuple[dict[str, Look], dict[str, Scene], Split]:
    looks = look_at(pairs)
    scenes = find_scenes(dataset, args.root, looks, args.scenes)
    everything = Split(args.split, tuple(looks), ())
    prepared = prepare(dataset, args.root, pairs, everything, looks, args.truth)
    truth = prepared.sets[prepared.truth][0]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    boxes: dict[int, Counter[str]] = {category["id"]: Counter() for category in truth["categories"]}
    for box in objects_of(truth):
        boxes[box["category_id"]][names[box["image_id"]]] += 1
    by_class = {category["name"]: boxes[category["id"]] for category in truth["categories"]}
    return looks, scenes, scene_split(scenes, by_class, args.test, args.seed)


def _split(args: argparse.Namespace, dataset: Dataset, names: list[str]) -> Split:
    if args.split in KEPT:
        return kept_split(args.split, names)
    if args.split == "own":
        return own_split(dataset, args.root)
    if args.split == "random":
        return random_split(names, args.train, args.test, args.seed)
    return list_split(args.train_list, args.test_list, dataset.bands.suffixes)


def _find_pairs(args: argparse.Namespace, dataset: Dataset, folders: Layout) -> tuple[list[Pair], list[str]]:
    """Return all pairs, and warnings of visible images that lack an infrared one and are in no list of the split."""
    if args.split not in ("own", "list"):
        return find_pairs(folders.visible, folders.infrared, bands=dataset.bands), []
    check_folders(folders.visible, folders.infrared, dataset.bands)
    split = _split(args, dataset, [])
    visible, infrared = find_bands(folders.visible, folders.infrared, dataset.bands)
    alone = [name for name in visible if name not in infrared and name not in {*split.train, *split.test}]
    if not alone:
        return find_pairs(folders.visible, folders.infrared, bands=dataset.bands), []
    pairs = find_pairs(folders.visible, folders.infrared, set(visible) - set(alone), dataset.bands)
    return pairs, [f"{len(alone)} visible images outside the split have no infrared image: {some_of(alone)}"]


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the data set `folders`, and what its labels mean."""
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="folders: the classes in their order; other data sets: theirs, in the order of YOLO labels' numbers",
    )
    parser.add_argument(
        "--unlabelled",
        choices=("refuse", "background"),
        default="refuse",
        help="an image without a label file is refused, or is one without objects (default: refuse)",
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="NAME",
        help="folders: those of --classes whose boxes are passed over",
    )
    for kind in ("visible", "infrared"):
        parser.add_argument(f"--{kind}", nargs="+", metavar="DIR", help=f"folders: below the root (default: {kind})")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="PATH",
        help="folders: below the root, folders of Pascal VOC or YOLO files, COCO .json files (default: labels)",
    )
    parser.add_argument(
        "--label-set",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "PATH"),
        help="folders: in place of --labels, for each of several label sets",
    )
    parser.add_argument(
        "--truth",
        metavar="NAME",
        help="the label set that trains and that Table II is scored by; of several also union (default: the first)",
    )
    add_band_options(parser)


def given_labels(args: argparse.Namespace) -> list[str] | dict[str, list[str]] | None:
    """Return the folders of labels that the options of `add_folders` give, by label set where they name sets.

    Raises:
        InputError: both kinds of options are given, or a set twice.
    """
    names = [name for name, *_ in args.label_set]
    if args.label_set and (args.labels or len(set(names)) < len(names)):
        raise InputError(f"--label-set {' '.join(names)}: wanted each set once, and no --labels beside them")
    return {name: folders for name, *folders in args.label_set} or args.labels


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS, required=True, help="layout and classes of the data set")
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    add_folders(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="own",
        help="own: the data set's; random: --train and --test pairs drawn with --seed; scene-blocked: whole places or "
        "sequences drawn with --seed, about --test pairs of them to test; list: two files of names; the others: kept "
        "lists of M3FD's names, drawn here or published (detection/lists) (default: own)",
    )
    parser.add_argument("--train", type=int, metavar="N", help="random: training pairs")
    parser.add_argument("--test", type=int, metavar="N", help="random, scene-blocked: test pairs")
    parser.add_argument(
        "--scenes",
        type=Path,
        metavar="FILE",
        help="CSV with the name, the sequence and, if known, the place of every "
        "image (default: what the data set says, else found from numbers and images)",
    )
    parser.add_argument("--train-list", type=Path, metavar="FILE", help="list: names of the training images")
    parser.add_argument("--test-list", type=Path, metavar="FILE", help="list: names of the test images")
    parser.add_argument("--limit-train", type=int, metavar="N", help="a random part of the training images, N at most")
    parser.add_argument("--limit-test", type=int, metavar="N", help="a random part of the test images, N at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of a random split and of the limits (default: 0)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
