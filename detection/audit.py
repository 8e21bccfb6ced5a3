"""Audit a data set before anything is computed on it: what is there, what is wrong, what is there twice.

Prints counts and doubts, and writes them as JSON. What would falsify a result is refused (exit status 1): an image or a
label file that is missing, unreadable or belongs to something else, pairs of two sizes, a label of an unknown class or
outside its image, no box at all, test pairs that are in training as well. The rest is warned of: labels clipped or
dropped, infrared images and labels without a pair, duplicates. Where the split is known, what is wrong with pairs
outside it is a warning, too.

Keys of the JSON: `pairs`, `boxes`, `boxes_per_class`, `sizes` (pairs by "WIDTHxHEIGHT"), `unpaired` (files), and
`degenerate_boxes` (boxes without area or turned inside out), `repeated_boxes` (given twice, and dropped), `unlabelled`
(images without a label file, taken as images without objects), `left_out` (boxes by class that is left out), `crowds`
(no boxes: see detection.coco), `duplicates` (each image whose likest other one is the same or a near duplicate),
`duplicate_counts`, `conditions`, `warnings`, `errors`, `refused`, `versions`.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from detection.boxes import INSIDE_OUT, NO_AREA, TWICE
from detection.conditions import find_conditions
from detection.datasets import DATASETS, Dataset, find_dataset
from detection.label_sets import SetsReader
from detection.leakage import MOST_EXACT
from detection.likeness import DESCRIPTOR, NEAR_DUPLICATE, Look, look, nearest
from detection.prepare import add_folders, doubts_of_bands, given_labels
from detection.scenes import stated_scenes
from detection.splits import SPLITS
from pipeline.artefacts import relative, versions, write_json
from pipeline.pairs import (
    EXTENSIONS,
    Pair,
    check_folders,
    find_bands,
    given_bands,
    read_names,
    refuse_same_files,
    suggested_suffixes,
)
from pipeline.stage import InputError, Progress, run, some_of, threads_available

SHOWN = 10


def audit(
    dataset: Dataset, root: Path, parts: tuple[list[str], list[str]] | None = None, truth: str | None = None
) -> dict[str, Any]:
    """Return what is found at `root`, by the keys of the JSON; `errors` are what a run would be refused for.

    Args:
        dataset: its layout and classes.
        root: its folder.
        parts: the names of the training and the test images, for duplicates across them; None: not split.
        truth: the label set whose boxes are counted, the first by default; all sets are read.

    Raises:
        InputError: a folder is missing or holds no image, two images share a name, there is no such label set, or a
            JSON file of labels is wrong as a whole.
    """
    layout = dataset.layout(root)
    check_folders(layout.visible, layout.infrared, dataset.bands)
    visible, infrared = find_bands(layout.visible, layout.infrared, dataset.bands)
    labels = [path for folder in layout.labels if folder.is_dir() for path in sorted(folder.iterdir())]
    labels = [path for path in labels if path.suffix.lower() in (".xml", ".txt") and path.stem != "classes"]
    pairs = [
        Pair(name, path, infrared[name], dataset.bands.infrared_range)
        for name, path in visible.items()
        if name in infrared
    ]
    refuse_same_files(pairs)
    reader = SetsReader(dataset, root)
    judged = {*parts[0], *parts[1]} if parts is not None else None
    errors: list[str] = []
    warnings: list[str] = []

    def fault(name: str, text: str) -> None:
        """Note what is wrong with a pair: an error if the split has it, else a warning."""
        if judged is None or name in judged:
            errors.append(text)
        else:
            warnings.append(f"outside the split: {text}")

    for name in visible:
        if name not in infrared:
            fault(name, f"{visible[name]} has no infrared image")
    if errors:
        errors[0] += suggested_suffixes(visible, infrared)
    spare = [path for name, path in infrared.items() if name not in visible]
    labelled = {f"{name}{suffix}" for name in visible for suffix in ("", *dataset.bands.suffixes)}
    spare_labels = [path for path in labels if path.stem not in labelled]
    warnings += [f"{path} has no visible image; left out" for path in (*spare, *spare_labels)]
    unpaired = [path for name, path in visible.items() if name not in infrared] + spare + spare_labels

    for coco in (coco for one in reader.readers.values() for coco in one.coco):
        if lone := [name for name in coco.images if name not in visible]:
            warnings.append(f"{coco.path} has {len(lone)} images without a visible image; left out: {some_of(lone)}")

    looks = _look_at(pairs, fault)
    boxes, degenerate, repeated = _count_boxes(reader, layout.truth(truth), looks, warnings, fault)
    if looks and not boxes and not errors:
        errors.append(f"{', '.join(map(str, layout.labels))}: the labels of {len(looks)} images have no box at all")
    try:
        warnings += doubts_of_bands(pairs, looks)
    except InputError as error:
        errors.append(str(error))
    duplicates, counts = find_duplicates(looks, parts)
    if counts["same"] + counts["near"]:
        warnings.append(f"{counts['same']} pairs are there twice, {counts['near']} have a near duplicate")
    if parts is not None:
        missing = [name for part in parts for name in part if name not in visible]
        errors += [f"the split names {name!r}, which has no visible image" for name in missing]
        if counts["same_across_split"] > MOST_EXACT * len(parts[1]):
            errors.append(
                f"{counts['same_across_split']} of {len(parts[1])} test pairs are in training as well, pixel for "
                f"pixel; wanted at most {MOST_EXACT:.0%}"
            )
    conditions = find_conditions(dataset, root, looks, stated_scenes(dataset, root, list(looks)))
    sizes = Counter(f"{seen.width}x{seen.height}" for seen in looks.values())
    return {
        "pairs": len(pairs),
        "boxes": sum(boxes.values()),
        "boxes_per_class": {name: boxes[name] for name in dataset.classes},
        "sizes": dict(sizes.most_common()),
        "unpaired": [relative(path, root) for path in unpaired],
        "degenerate_boxes": degenerate,
        "repeated_boxes": repeated,
        "unlabelled": len(reader.unlabelled),
        "left_out": dict(reader.left_out),
        "crowds": reader.crowds,
        "duplicates": duplicates,
        "duplicate_counts": {**counts, "threshold": NEAR_DUPLICATE, "descriptor": DESCRIPTOR},
        "conditions": {"source": conditions["source"], **Counter(filter(None, conditions["images"].values()))},
        "warnings": warnings,
        "errors": errors,
        "refused": bool(errors),
    }


def find_duplicates(
    looks: dict[str, Look], parts: tuple[list[str], list[str]] | None = None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return each image whose likest other is the same or a near duplicate, and how many there are, in all and across.

    Across a split counts the test images with a duplicate in training.
    """
    names = sorted(looks)
    found: dict[str, dict[str, Any]] = {}
    counts = {"same": 0, "near": 0}
    if len(names) > 1:
        found = _likest(looks, names, names, same=True)
        counts = _count(found)
    if parts is not None:
        train, test = ([name for name in part if name in looks] for part in parts)
        across = _likest(looks, test, train, same=False) if train and test else {}
        counts |= {f"{kind}_across_split": count for kind, count in _count(across).items()}
        shared = [{**duplicate, "across_split": True} for duplicate in across.values()]
        return [*found.values(), *shared], counts
    return list(found.values()), counts


def _likest(looks: dict[str, Look], names: list[str], others: list[str], same: bool) -> dict[str, dict[str, Any]]:
    stacks = [np.stack([looks[name].descriptor for name in part]) for part in (names, others)]
    index, value = nearest(*stacks, same=same)
    twins: dict[str, list[str]] = {}
    for name in others:
        twins.setdefault(looks[name].digest, []).append(name)
    found = {}
    for name, at, alike in zip(names, index, value, strict=True):
        equal = [other for other in twins.get(looks[name].digest, []) if other != name]
        if equal or alike >= NEAR_DUPLICATE:
            found[name] = {
                "name": name,
                "like": equal[0] if equal else others[at],
                "kind": "same" if equal else "near",
                "likeness": 1.0 if equal else round(float(alike), 4),
                "across_split": False,
            }
    return found


def _count(found: dict[str, dict[str, Any]]) -> dict[str, int]:
    kinds = Counter(duplicate["kind"] for duplicate in found.values())
    return {"same": kinds["same"], "near": kinds["near"]}


def _look_at(pairs: Sequence[Pair], fault: Callable[[str, str], None]) -> dict[str, Look]:
    """Look at every pair; what cannot be read is a `fault` of its name."""

    def attempt(pair: Pair) -> Look | str:
        try:
            return look(pair)
        except InputError as error:
            return str(error)

    progress, looks = Progress("auditing", len(pairs), "pairs"), {}
    with ThreadPoolExecutor(threads_available()) as pool:
        for pair, seen in zip(pairs, pool.map(attempt, pairs), strict=True):
            if isinstance(seen, Look):
                looks[pair.name] = seen
            else:
                fault(pair.name, seen)
            progress.step()
    return looks


def _count_boxes(
    reader: SetsReader, truth: str, looks: dict[str, Look], warnings: list[str], fault: Callable[[str, str], None]
) -> tuple[Counter[str], int, int]:
    """Return the boxes of each class by the set `truth`, and how many of any are degenerate and given twice.

    Doubts go to `warnings`.
    """
    boxes: Counter[str] = Counter()
    degenerate = repeated = 0
    for name, seen in looks.items():
        try:
            found, doubts = reader.read(name, seen.width, seen.height)
        except InputError as error:
            degenerate += INSIDE_OUT in str(error)
            fault(name, str(error))
            continue
        boxes.update(box.name for box in found[truth] if not box.crowd)
        degenerate += sum(doubt.endswith(NO_AREA) for doubt in doubts)
        repeated += sum(doubt.endswith(TWICE) for doubt in doubts)
        warnings += doubts
    warnings += reader.doubts()
    return boxes, degenerate, repeated


def recognise(root: Path) -> str:
    """Return the name of the data set whose folders `root` has: those of both bands and of the labels.

    Raises:
        InputError: no data set, or more than one, has such folders.
    """
    found = []
    for name, dataset in DATASETS.items():
        layout = dataset.layout(root)
        there = all(map(_holds_images, (*layout.visible, *layout.infrared)))
        if dataset.classes and there and all(path.exists() for path in layout.labels):
            # Others name their folders vi, ir and labels as copies of M3FD do: the authors' labels are XML.
            if dataset.orders and not any(path.suffix.lower() == ".xml" for path in layout.labels[0].iterdir()):
                continue
            found.append(name)
    if "synthetic" in found:  # its layout is M3FD's own: only the marker tells them apart
        found.remove("m3fd" if (root / "synthetic.json").is_file() else "synthetic")
    if len(found) != 1:
        what = " and ".join(found) or "none of the data sets"
        raise InputError(f"{root} has the folders of {what}; wanted --dataset {', '.join(DATASETS)}")
    return found[0]


def _holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in EXTENSIONS for path in folder.iterdir())


def main(argv: Sequence[str] | None = None) -> None:
    """Audit, print, write; a refusal is raised last."""
    args = _parse(argv)
    if not args.root.is_dir():
        raise InputError(f"--root {args.root} is not a folder; wanted the data set's")
    name = args.dataset or recognise(args.root)
    dataset = find_dataset(
        name, args.classes, args.visible, args.infrared, given_labels(args), given_bands(args), args.unlabelled,
        args.leave_out,
    )  # fmt: skip
    if args.train_list or args.test_list:
        if not (args.train_list and args.test_list):
            raise InputError("--train-list and --test-list: found one; wanted both or none")
        parts = tuple(read_names(path, dataset.bands.suffixes) for path in (args.train_list, args.test_list))
    else:
        parts = dataset.own_split(args.root) if args.split == "own" else None
    found = audit(dataset, args.root, parts, args.truth)
    facts = {"dataset": name, **found, "versions": versions("numpy", "opencv-python-headless")}
    for line in describe(facts):
        print(line)
    if args.output:
        write_json(args.output, facts)
    if facts["refused"]:
        more = f" (and {len(facts['errors']) - 1} more)" if len(facts["errors"]) > 1 else ""
        raise InputError(f"{args.root} is refused: {facts['errors'][0]}{more}")


def describe(facts: dict[str, Any]) -> list[str]:
    """Return the audit as lines to read."""
    counts = facts["duplicate_counts"]
    across = (
        f"; test pairs with one in training: same {counts['same_across_split']}, near {counts['near_across_split']}"
        if "near_across_split" in counts
        else ""
    )
    conditions = {key: value for key, value in facts["conditions"].items() if key != "source"}
    lines = [
        f"data set: {facts['dataset']}",
        f"pairs: {facts['pairs']}",
        f"sizes: {_listed(facts['sizes'])}",
        f"boxes: {facts['boxes']}: {_listed(facts['boxes_per_class'])}",
        f"degenerate boxes: {facts['degenerate_boxes']}, given twice: {facts['repeated_boxes']}",
        f"unpaired files: {len(facts['unpaired'])}",
        f"duplicates: same {counts['same']}, near {counts['near']}{across} ({counts['descriptor']} >= "
        f"{counts['threshold']:g})",
        f"conditions: {_listed(conditions)} (by {facts['conditions']['source']})",
    ]
    for kind in ("warnings", "errors"):
        lines += [f"{kind.removesuffix('s')}: {text}" for text in facts[kind][:SHOWN]]
        if len(facts[kind]) > SHOWN:
            lines.append(f"{kind.removesuffix('s')}: and {len(facts[kind]) - SHOWN} more")
    return lines


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--dataset", choices=DATASETS, help="default: recognised by its folders")
    add_folders(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="own",
        help="of which pairs faults are errors: own and list, of those that they name; others, of all (default: own)",
    )
    parser.add_argument("--train-list", type=Path, metavar="FILE", help="names of the training images")
    parser.add_argument("--test-list", type=Path, metavar="FILE", help="names of the test images")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="where to write the JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
