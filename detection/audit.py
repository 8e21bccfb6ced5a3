"""Audit a dataset before anything is computed on it: count its pairs and boxes, and find errors and duplicates.

Prints counts, warnings and errors, and writes them as JSON. Errors are faults that would falsify a result; with any the
exit status is 1: an image or a label file that is missing, unreadable or belongs to something else, a pair of two
sizes, a label of an unknown class or outside its image, no box at all, test pairs that are also in training. Other
faults are warnings: labels clipped or dropped, infrared images and labels without a pair, duplicates. If the split is
known, faults of pairs outside it are warnings, too.

Keys of the JSON: `pairs`, `boxes`, `boxes_per_class`, `sizes` (pairs by "WIDTHxHEIGHT"), `unpaired` (files),
`degenerate_boxes` (boxes without area or with exchanged edges), `repeated_boxes` (given twice, and dropped),
`unlabelled` (images without a label file, taken as images without objects), `left_out` (boxes of each class that is
left out), `crowds` (not counted as boxes: see detection.coco), `duplicates` (each image whose most similar other image
is identical or a near duplicate), `duplicate_counts`, `conditions`, `warnings`, `errors`, `refused`, `versions`.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from detection.boxes import EXCHANGED_EDGES, NO_AREA, TWICE
from detection.conditions import find_conditions
from detection.datasets import DATASETS, Dataset, find_dataset
from detection.label_sets import SetsReader
from detection.labelled_split import band_warnings
from detection.leakage import MOST_EXACT
from detection.prepare import add_dataset_options, given_labels
from detection.scenes import stated_scenes
from detection.similarity import DESCRIPTOR, NEAR_DUPLICATE, PairSummary, most_similar, summarize
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

SHOWN = 10  # warnings and errors printed, each


def audit(
    dataset: Dataset, root: Path, split: tuple[list[str], list[str]] | None = None, truth: str | None = None
) -> dict[str, Any]:
    """Return the audit of the dataset at `root`, with the keys of the JSON. With any of the `errors` a run is refused.

    Args:
        dataset: layout and classes.
        root: folder of the dataset.
        split: the names of the training and of the test images, to find duplicates across them; None: not split.
        truth: the label set whose boxes are counted, by default the first. All sets are read.

    Raises:
        InputError: a folder is missing or contains no image, two images share a name, the label set does not exist, or
            a JSON file of labels does not have the form of COCO's ground truth.
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
    used = {*split[0], *split[1]} if split is not None else None
    errors: list[str] = []
    warnings: list[str] = []

    def report(name: str, text: str) -> None:
        """Add a fault of a pair to the errors if the pair is in the split, else to the warnings."""
        if used is None or name in used:
            errors.append(text)
        else:
            warnings.append(f"outside the split: {text}")

    for name in visible:
        if name not in infrared:
            report(name, f"{visible[name]} has no infrared image")
    if errors:
        errors[0] += suggested_suffixes(visible, infrared)
    unpaired_infrared = [path for name, path in infrared.items() if name not in visible]
    labelled = {f"{name}{suffix}" for name in visible for suffix in ("", *dataset.bands.suffixes)}
    unpaired_labels = [path for path in labels if path.stem not in labelled]
    warnings += [f"{path} has no visible image; left out" for path in (*unpaired_infrared, *unpaired_labels)]
    unpaired = [path for name, path in visible.items() if name not in infrared] + unpaired_infrared + unpaired_labels

    for coco in (coco for one in reader.readers.values() for coco in one.coco):
        if unknown := [name for name in coco.images if name not in visible]:
            warnings.append(
                f"{coco.path} lists {len(unknown)} images that have no visible image; left out: {some_of(unknown)}"
            )

    summaries = _summarize_pairs(pairs, report)
    boxes, degenerate, repeated = _count_boxes(reader, layout.truth(truth), summaries, warnings, report)
    if summaries and not boxes and not errors:
        errors.append(f"{', '.join(map(str, layout.labels))}: the labels of {len(summaries)} images contain no box")
    try:
        warnings += band_warnings(pairs, summaries)
    except InputError as error:
        errors.append(str(error))
    duplicates, counts = find_duplicates(summaries, split)
    if counts["same"] + counts["near"]:
        warnings.append(f"{counts['same']} pairs have an identical copy, {counts['near']} a near duplicate")
    if split is not None:
        missing = [name for names in split for name in names if name not in visible]
        errors += [f"the split names {name!r}, which has no visible image" for name in missing]
        if counts["same_across_split"] > MOST_EXACT * len(split[1]):
            errors.append(
                f"{counts['same_across_split']} of {len(split[1])} test pairs are also in training, pixel for "
                f"pixel; expected at most {MOST_EXACT:.0%}"
            )
    conditions = find_conditions(dataset, root, summaries, stated_scenes(dataset, root, list(summaries)))
    sizes = Counter(f"{summary.width}x{summary.height}" for summary in summaries.values())
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
    summaries: dict[str, PairSummary], split: tuple[list[str], list[str]] | None = None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return each image whose most similar other image is identical or a near duplicate, and their counts by kind.

    With a split, the test images that have a duplicate in training are also returned and counted.
    """
    names = sorted(summaries)
    found: dict[str, dict[str, Any]] = {}
    counts = {"same": 0, "near": 0}
    if len(names) > 1:
        found = _duplicates_among(summaries, names, names, same=True)
        counts = _count(found)
    if split is not None:
        train, test = ([name for name in part if name in summaries] for part in split)
        across = _duplicates_among(summaries, test, train, same=False) if train and test else {}
        counts |= {f"{kind}_across_split": count for kind, count in _count(across).items()}
        shared = [{**duplicate, "across_split": True} for duplicate in across.values()]
        return [*found.values(), *shared], counts
    return list(found.values()), counts


def _duplicates_among(
    summaries: dict[str, PairSummary], names: list[str], others: list[str], same: bool
) -> dict[str, dict[str, Any]]:
    """Return the images of `names` that have a duplicate among `others`; `same` if both are the same images."""
    stacks = [np.stack([summaries[name].descriptor for name in part]) for part in (names, others)]
    index, value = most_similar(*stacks, same=same)
    by_digest: dict[str, list[str]] = {}
    for name in others:
        by_digest.setdefault(summaries[name].digest, []).append(name)
    found = {}
    for name, at, similarity in zip(names, index, value, strict=True):
        equal = [other for other in by_digest.get(summaries[name].digest, []) if other != name]
        if equal or similarity >= NEAR_DUPLICATE:
            found[name] = {
                "name": name,
                "like": equal[0] if equal else others[at],
                "kind": "same" if equal else "near",
                "likeness": 1.0 if equal else round(float(similarity), 4),
                "across_split": False,
            }
    return found


def _count(found: dict[str, dict[str, Any]]) -> dict[str, int]:
    kinds = Counter(duplicate["kind"] for duplicate in found.values())
    return {"same": kinds["same"], "near": kinds["near"]}


def _summarize_pairs(pairs: Sequence[Pair], report: Callable[[str, str], None]) -> dict[str, PairSummary]:
    """Return a `PairSummary` of every readable pair; call `report` with the name and the error of every other pair."""

    def attempt(pair: Pair) -> PairSummary | str:
        try:
            return summarize(pair)
        except InputError as error:
            return str(error)

    progress, summaries = Progress("auditing", len(pairs), "pairs"), {}
    with ThreadPoolExecutor(threads_available()) as pool:
        for pair, summary in zip(pairs, pool.map(attempt, pairs), strict=True):
            if isinstance(summary, PairSummary):
                summaries[pair.name] = summary
            else:
                report(pair.name, summary)
            progress.step()
    return summaries


def _count_boxes(
    reader: SetsReader,
    truth: str,
    summaries: dict[str, PairSummary],
    warnings: list[str],
    report: Callable[[str, str], None],
) -> tuple[Counter[str], int, int]:
    """Return the boxes of each class in the label set `truth`, and the degenerate and the repeated boxes of all sets.

    Warnings about labels are appended to `warnings`; `report` is called with the name and the error of an image whose
    labels cannot be used.
    """
    boxes: Counter[str] = Counter()
    degenerate = repeated = 0
    for name, summary in summaries.items():
        try:
            found, doubts = reader.read(name, summary.width, summary.height)
        except InputError as error:
            degenerate += EXCHANGED_EDGES in str(error)
            report(name, str(error))
            continue
        boxes.update(box.name for box in found[truth] if not box.crowd)
        degenerate += sum(doubt.endswith(NO_AREA) for doubt in doubts)
        repeated += sum(doubt.endswith(TWICE) for doubt in doubts)
        warnings += doubts
    warnings += reader.doubts()
    return boxes, degenerate, repeated


def recognise(root: Path) -> str:
    """Return the name of the dataset whose folders of both bands and of labels exist in `root`.

    Raises:
        InputError: the folders are those of no dataset, or of more than one.
    """
    found = []
    for name, dataset in DATASETS.items():
        layout = dataset.layout(root)
        has_images = all(map(_contains_images, (*layout.visible, *layout.infrared)))
        if dataset.classes and has_images and all(path.exists() for path in layout.labels):
            # Folders named vi, ir and labels may be a copy of M3FD or another dataset; only M3FD's labels are XML.
            if dataset.orders and not any(path.suffix.lower() == ".xml" for path in layout.labels[0].iterdir()):
                continue
            found.append(name)
    if "synthetic" in found:  # generated datasets have M3FD's layout, and in addition the file synthetic.json
        found.remove("m3fd" if (root / "synthetic.json").is_file() else "synthetic")
    if len(found) != 1:
        what = " and ".join(found) or "none of the datasets"
        raise InputError(f"{root} has the folders of {what}; expected --dataset, one of {', '.join(DATASETS)}")
    return found[0]


def _contains_images(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in EXTENSIONS for path in folder.iterdir())


def main(argv: Sequence[str] | None = None) -> None:
    """Audit the dataset, print and write the result; then raise InputError if it is refused."""
    args = _parse(argv)
    if not args.root.is_dir():
        raise InputError(f"--root {args.root} is not a folder; expected the folder of the dataset")
    name = args.dataset or recognise(args.root)
    dataset = find_dataset(
        name, args.classes, args.visible, args.infrared, given_labels(args), given_bands(args), args.unlabelled,
        args.leave_out,
    )  # fmt: skip
    if args.train_list or args.test_list:
        if not (args.train_list and args.test_list):
            raise InputError("--train-list and --test-list: found one; expected both or none")
        split = tuple(read_names(path, dataset.bands.suffixes) for path in (args.train_list, args.test_list))
    else:
        split = dataset.own_split(args.root) if args.split == "own" else None
    found = audit(dataset, args.root, split, args.truth)
    facts = {"dataset": name, **found, "versions": versions("numpy", "opencv-python-headless")}
    for line in describe(facts):
        print(line)
    if args.output:
        write_json(args.output, facts)
    if facts["refused"]:
        more = f" (and {len(facts['errors']) - 1} more)" if len(facts["errors"]) > 1 else ""
        raise InputError(f"{args.root} is refused: {facts['errors'][0]}{more}")


def describe(facts: dict[str, Any]) -> list[str]:
    """Return the audit as lines of text."""
    counts = facts["duplicate_counts"]
    across = (
        f"; test pairs with a duplicate in training: identical {counts['same_across_split']}, "
        f"near {counts['near_across_split']}"
        if "near_across_split" in counts
        else ""
    )
    conditions = {key: value for key, value in facts["conditions"].items() if key != "source"}
    lines = [
        f"dataset: {facts['dataset']}",
        f"pairs: {facts['pairs']}",
        f"sizes: {_listed(facts['sizes'])}",
        f"boxes: {facts['boxes']}: {_listed(facts['boxes_per_class'])}",
        f"degenerate boxes: {facts['degenerate_boxes']}, repeated boxes: {facts['repeated_boxes']}",
        f"unpaired files: {len(facts['unpaired'])}",
        f"duplicates: identical {counts['same']}, near {counts['near']}{across} (similarity at least "
        f"{counts['threshold']:g}: {counts['descriptor']})",
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
    parser.add_argument("--root", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--dataset", choices=DATASETS, help="name of the dataset (default: recognised by its folders)")
    add_dataset_options(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="own",
        help="with own and list, only faults of pairs in the split are errors; otherwise of all pairs (default: own)",
    )
    parser.add_argument("--train-list", type=Path, metavar="FILE", help="file with the names of the training images")
    parser.add_argument("--test-list", type=Path, metavar="FILE", help="file with the names of the test images")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="where to write the JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
