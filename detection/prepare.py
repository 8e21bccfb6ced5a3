"""Prepare a dataset for detection: check it, split it, and write the ground truth that is used for every variant.

A variant is a row of Table II: the visible images, the infrared images, the images of one fusion method, or both bands.

Writes:

    train.txt, test.txt                   file stems of the training and the test pairs
    truth_train.json, truth_test.json     ground truth of the chosen label set, in COCO's format
    truth_sets.json                       ground truth of the test images in every label set (`detection.label_sets`)
    scenes.csv                            sequence and place of every image
    leakage.json                          shares of the test pairs for which the training set contains a neighbouring
                                          frame, a frame of the same scene, or a near duplicate
    conditions.json                       condition of every image (day, night, ...)
    dataset.json                          folders of the pairs, description of the split, warnings about labels;
                                          written last
"""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from detection.conditions import find_conditions
from detection.datasets import DATASETS, Dataset, Layout, find_dataset
from detection.datasets.layout import Scene
from detection.label_sets import OVERLAP
from detection.labelled_split import band_warnings, label_split
from detection.leakage import exposure_words, measure_leakage, refuse_tested_training
from detection.scenes import FROM_IMAGES, RULE, find_scenes, write_scenes
from detection.similarity import PairSummary, summarize_pairs
from detection.splits import (
    INCLUDED,
    SPLITS,
    Split,
    check_split_options,
    included_split,
    limited,
    list_split,
    own_split,
    random_split,
    scene_split,
)
from detection.truth import boxes_per_class, objects_of
from pipeline.artefacts import relative, sha256_lines, versions, write_json, write_text
from pipeline.pairs import Pair, add_band_options, check_folders, find_bands, find_pairs, given_bands
from pipeline.stage import InputError, run, some_of

SHOWN_WARNINGS = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Check the dataset, split it and write the results."""
    args = _parse(argv)
    dataset = find_dataset(
        args.dataset, args.classes, args.visible, args.infrared, given_labels(args), given_bands(args), args.unlabelled,
        args.leave_out,
    )  # fmt: skip
    check_split_options(args.split, args.train, args.test, args.train_list, args.test_list)
    folders = dataset.layout(args.root)
    pairs, faults = _find_pairs(args, dataset, folders)
    summaries = scenes = None
    if args.split == "scene-blocked":
        summaries, scenes, split = _split_by_scenes(args, dataset, pairs)
    else:
        split = _split(args, dataset, [pair.name for pair in pairs])
    split = limited(split, args.limit_train, args.limit_test, args.seed)
    labelled = label_split(dataset, args.root, pairs, split, summaries, args.truth)
    doubts = band_warnings(pairs, labelled.summaries)
    scenes = scenes or find_scenes(dataset, args.root, labelled.summaries, args.scenes)
    leakage = measure_leakage(labelled.summaries, scenes, split.train, split.test)
    refuse_tested_training(leakage)
    doubts = faults + doubts
    for warning in [*doubts, *labelled.warnings[:SHOWN_WARNINGS]]:
        logging.warning("warning: %s", warning)
    if len(labelled.warnings) > SHOWN_WARNINGS:
        rest = len(labelled.warnings) - SHOWN_WARNINGS
        logging.warning("warning: and %d more, all in %s", rest, args.output / "dataset.json")

    by_set = {
        name: dict(zip(("train", "test"), map(boxes_per_class, truths), strict=True))
        for name, truths in labelled.sets.items()
    }
    boxes, (truth_train, truth_test) = by_set[labelled.truth], labelled.sets[labelled.truth]
    for part, names in (("train", split.train), ("test", split.test)):
        write_text(args.output / f"{part}.txt", "".join(f"{name}\n" for name in names))
        counts = ", ".join(f"{name} {count}" for name, count in boxes[part].items())
        logging.info("%s: %d images, boxes: %s", part, len(names), counts)
    for name in by_set if len(by_set) > 1 else ():
        counts = ", ".join(f"{kind} {count}" for kind, count in by_set[name]["test"].items())
        logging.info("test by labels %s%s: %s", name, " (chosen)" if name == labelled.truth else "", counts)
    logging.info("leakage: %s", exposure_words(leakage))
    conditions = find_conditions(dataset, args.root, labelled.summaries, scenes)
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
        "truth": labelled.truth,
        "label_sets": {
            name: {
                "folders": [relative(path, args.output) for path in folders.sets().get(name, ())],
                "boxes": by_set[name],
            }
            for name in labelled.sets
        },
        "warnings": [*doubts, *labelled.warnings],
        "versions": versions("numpy", "scipy", "opencv-python-headless"),
    }
    write_scenes(args.output / "scenes.csv", scenes)
    write_json(args.output / "leakage.json", leakage)
    write_json(args.output / "conditions.json", conditions)
    write_json(args.output / "truth_train.json", truth_train)
    write_json(args.output / "truth_test.json", truth_test)
    sets = {
        name: {"boxes": by_set[name]["test"], "annotations": test["annotations"]}
        for name, (_, test) in labelled.sets.items()
    }
    write_json(
        args.output / "truth_sets.json",
        {
            "truth": labelled.truth,
            **{key: truth_test[key] for key in ("images", "categories")},
            "sets": sets,
            "overlap": OVERLAP,
            "unmatched": labelled.unmatched,
        },
    )
    write_json(args.output / "dataset.json", facts)


def scene_facts(scenes: Mapping[str, Scene], split: Split) -> dict[str, Any]:
    """Return the facts about scenes in dataset.json: their sources, and the sequences and places in each part."""
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
    """Return the sampling unit of the test set.

    It is the image if every image is a scene of its own, else the sequence if a place is in both parts, else the place.
    """
    if len({scene.place for scene in scenes.values()}) == len(scenes):
        return "image"
    return "sequence" if leakage["place"] else "place"


def _split_by_scenes(
    args: argparse.Namespace, dataset: Dataset, pairs: list[Pair]
) -> tuple[dict[str, PairSummary], dict[str, Scene], Split]:
    """Return the summaries and the scenes of all pairs, and the scene-blocked split."""
    summaries = summarize_pairs(pairs)
    scenes = find_scenes(dataset, args.root, summaries, args.scenes)
    everything = Split(args.split, tuple(summaries), ())
    labelled = label_split(dataset, args.root, pairs, everything, summaries, args.truth)
    truth = labelled.sets[labelled.truth][0]
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    boxes: dict[int, Counter[str]] = {category["id"]: Counter() for category in truth["categories"]}
    for box in objects_of(truth):
        boxes[box["category_id"]][names[box["image_id"]]] += 1
    by_class = {category["name"]: boxes[category["id"]] for category in truth["categories"]}
    return summaries, scenes, scene_split(scenes, by_class, args.test, args.seed)


def _split(args: argparse.Namespace, dataset: Dataset, names: list[str]) -> Split:
    """Return the split that the options name, for every kind but scene-blocked."""
    if args.split in INCLUDED:
        return included_split(args.split, names)
    if args.split == "own":
        return own_split(dataset, args.root)
    if args.split == "random":
        return random_split(names, args.train, args.test, args.seed)
    return list_split(args.train_list, args.test_list, dataset.bands.suffixes)


def _find_pairs(args: argparse.Namespace, dataset: Dataset, folders: Layout) -> tuple[list[Pair], list[str]]:
    """Return all pairs, and a warning about visible images without an infrared image that are outside the split."""
    if args.split not in ("own", "list"):
        return find_pairs(folders.visible, folders.infrared, bands=dataset.bands), []
    check_folders(folders.visible, folders.infrared, dataset.bands)
    split = _split(args, dataset, [])
    visible, infrared = find_bands(folders.visible, folders.infrared, dataset.bands)
    unpaired = [name for name in visible if name not in infrared and name not in {*split.train, *split.test}]
    if not unpaired:
        return find_pairs(folders.visible, folders.infrared, bands=dataset.bands), []
    pairs = find_pairs(folders.visible, folders.infrared, set(visible) - set(unpaired), dataset.bands)
    return pairs, [f"{len(unpaired)} visible images outside the split have no infrared image: {some_of(unpaired)}"]


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the dataset `folders`, and how labels are read."""
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="class names in the order of the class ids, starting with id 0; required with --dataset folders; with "
        "other datasets, required only if their labels are in YOLO format and this project does not know the ids",
    )
    parser.add_argument(
        "--unlabelled",
        choices=("refuse", "background"),
        default="refuse",
        help="refuse: stop with an error if an image has no label file; background: treat the image as one without "
        "objects (default: refuse)",
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="NAME",
        help="(only with --dataset folders) classes among --classes whose boxes are removed; their objects count "
        "as background",
    )
    for kind in ("visible", "infrared"):
        parser.add_argument(
            f"--{kind}",
            nargs="+",
            metavar="DIR",
            help=f"(only with --dataset folders) folders of the {kind} images, relative to --root (default: {kind})",
        )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="PATH",
        help="(only with --dataset folders) folders of Pascal VOC or YOLO files, or COCO .json files, relative to "
        "--root (default: labels)",
    )
    parser.add_argument(
        "--label-set",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "PATH"),
        help="(only with --dataset folders) name and paths of one label set; repeat the option for each set; replaces "
        "--labels",
    )
    parser.add_argument(
        "--truth",
        metavar="NAME",
        help="the label set used for training and for Table II; with several sets, also `union` for their union "
        "(default: the first set)",
    )
    add_band_options(parser)


def given_labels(args: argparse.Namespace) -> list[str] | dict[str, list[str]] | None:
    """Return the label paths in the options of `add_dataset_options`, by label set if there are several.

    Raises:
        InputError: both --labels and --label-set are given, or a set is given twice.
    """
    names = [name for name, *_ in args.label_set]
    if args.label_set and (args.labels or len(set(names)) < len(names)):
        raise InputError(f"--label-set {' '.join(names)}: expected each set once, and no --labels in addition")
    return {name: folders for name, *folders in args.label_set} or args.labels


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=DATASETS, required=True, help="layout and classes of the dataset")
    parser.add_argument("--root", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    add_dataset_options(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="own",
        help="own: the dataset's own split; random: as many pairs as --train and --test say, sampled at random "
        "(--seed); scene-blocked: whole places or sequences, sampled at random (--seed) until the test set has about "
        "as many pairs as --test says, so that no place or sequence is in both parts; list: the names in the files "
        "--train-list and --test-list; the others: fixed splits of M3FD, either published or sampled by this project "
        "(files in detection/lists) "
        "(default: own)",
    )
    parser.add_argument("--train", type=int, metavar="N", help="number of training pairs, with --split random")
    parser.add_argument(
        "--test", type=int, metavar="N", help="number of test pairs, with --split random or scene-blocked"
    )
    parser.add_argument(
        "--scenes",
        type=Path,
        metavar="FILE",
        help="CSV with the name, the sequence and, if known, the place of every image (default: the scenes that come "
        "with the dataset; otherwise estimated from frame numbers in the file names and from image similarity)",
    )
    parser.add_argument(
        "--train-list", type=Path, metavar="FILE", help="file with the names of the training images, with --split list"
    )
    parser.add_argument(
        "--test-list", type=Path, metavar="FILE", help="file with the names of the test images, with --split list"
    )
    parser.add_argument("--limit-train", type=int, metavar="N", help="use a random subset of at most N training images")
    parser.add_argument("--limit-test", type=int, metavar="N", help="use a random subset of at most N test images")
    parser.add_argument("--seed", type=int, default=0, help="seed of a random split and of the limits (default: 0)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
