"""Leakage of a split: the share of test images that training has seen something alike of.

Three measures: by number (a training image numbered within 1, 3 or 10 of it), by scene (its sequence, or its place, is
also in training), and by picture (its likest training image is a near duplicate: a lower bound, as a car that moved on
or a camera that turned makes another picture of one scene).

As a program: the table of leakage of the kept splits of M3FD, by names and scenes only, and of prepared data sets.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.datasets.layout import Scene
from detection.datasets.m3fd import all_scenes
from detection.likeness import DESCRIPTOR, NEAR_DUPLICATE, Look, nearest
from detection.scenes import numbering
from detection.splits import KEPT, kept_split
from detection.truth import read_truth
from pipeline.artefacts import read_json
from pipeline.stage import InputError, run

# From this share of test pairs on that stand in training, pixel for pixel, a result is one on training data.
MOST_EXACT = 0.01
# Distances of numbers within which a training image is a neighbour.
WITHIN = (1, 3, 10)


def measure_exposure(scenes: Mapping[str, Scene], train: Sequence[str], test: Sequence[str]) -> dict[str, Any]:
    """Return the shares of test images that training is near to by number and by scene.

    `neighbours` holds for each of `WITHIN` the share of test images with a training image whose name is the same but
    for its last number, which is at most so far away; None where no test image has a number. `adjacent` lists those
    within 1. `sequence` and `place` are the shares of test images whose sequence, and whose place, is also in training.
    """
    known = {numbering(name)[:2] for name in train}
    numbered = [(name, *numbering(name)[:2]) for name in test if numbering(name)[1] >= 0]

    def near(rest: str, number: int, within: int) -> bool:
        return any((rest, number + step) in known for step in range(-within, within + 1))

    found = {within: [name for name, rest, number in numbered if near(rest, number, within)] for within in WITHIN}
    seen = {unit: {getattr(scenes[name], unit) for name in train} for unit in ("sequence", "place")}
    return {
        "neighbours": {str(within): len(found[within]) / len(test) if numbered else None for within in WITHIN},
        **{
            unit: sum(getattr(scenes[name], unit) in known for name in test) / len(test) for unit, known in seen.items()
        },
        "adjacent": found[WITHIN[0]],
    }


def measure_leakage(
    looks: Mapping[str, Look], scenes: Mapping[str, Scene], train: Sequence[str], test: Sequence[str]
) -> dict[str, Any]:
    """Return the shares of `measure_exposure`, and that of near duplicates with the likest training image of each.

    `share` = `near_duplicates` / `images`. `exact` counts the test pairs that are in training pixel for pixel, in both
    bands; they are near duplicates as well.
    """
    stacks = [np.stack([looks[name].descriptor for name in names]) for names in (test, train)]
    index, value = nearest(*stacks)
    known = {looks[name].digest for name in train}
    exact = [looks[name].digest in known for name in test]
    near = int(((value >= NEAR_DUPLICATE) | np.array(exact)).sum())
    return {
        **measure_exposure(scenes, train, test),
        "share": near / len(test),
        "images": len(test),
        "near_duplicates": near,
        "exact": sum(exact),
        "threshold": NEAR_DUPLICATE,
        "descriptor": DESCRIPTOR,
        "nearest": {
            name: {"train": train[at], "likeness": round(float(alike), 4)}
            for name, at, alike in zip(test, index, value, strict=True)
        },
    }


def exposure_words(leakage: Mapping[str, Any]) -> str:
    """Return the shares of `measure_exposure` as a sentence."""
    near = [f"{share:.1%} within {within}" for within, share in leakage["neighbours"].items() if share is not None]
    numbers = f"a training image numbered {', '.join(near)} of theirs; " if near else ""
    return (
        f"of {leakage['images']} test images have in training: {numbers}their sequence {leakage['sequence']:.1%}, "
        f"their place {leakage['place']:.1%}; a near duplicate, a lower bound, {leakage['share']:.1%}"
    )


def refuse_tested_training(leakage: Mapping[str, Any]) -> None:
    """Refuse a split whose test set was trained on.

    Raises:
        InputError: more than one test pair in a hundred is in training, pixel for pixel.
    """
    if leakage["exact"] > MOST_EXACT * leakage["images"]:
        raise InputError(
            f"{leakage['exact']} of the {leakage['images']} test pairs are in training as well, pixel for pixel, under "
            f"other names; wanted at most {MOST_EXACT:.0%}: take --split scene-blocked, or lists without them"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.leakage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prepared", type=Path, nargs="+", default=[], metavar="DIR", help="of detection.prepare")
    parser.add_argument("--boxes", type=Path, metavar="FILE", help="boxes of M3FD as COCO JSON, to count the test's")
    args = parser.parse_args(argv)
    rows, scenes = [], all_scenes()
    counts = _boxes_by_name(args.boxes) if args.boxes else {}
    for kind in KEPT:
        split = kept_split(kind, list(scenes))
        exposure = measure_exposure(scenes, split.train, split.test)
        boxes = sum(counts.get(name, 0) for name in split.test) if counts else None
        sequences = len({scenes[name].sequence for name in split.test})
        rows.append((kind, len(split.train), len(split.test), exposure, None, sequences, boxes))
    for folder in args.prepared:
        leakage, facts = read_json(folder / "leakage.json"), read_json(folder / "dataset.json")
        split = facts["split"]
        boxes = sum(facts["boxes"]["test"].values())
        name = f"{facts['dataset']} {split['kind']}"
        found = split["scenes"]["test"]["sequence"]
        rows.append((name, split["train"], split["test"], leakage, leakage["share"], found, boxes))
    head = ["split", "train / test", *(f"+-{within}" for within in WITHIN)]
    head += ["sequence", "place", "near duplicate, at least", "test sequences", "test boxes"]
    print(f"| {' | '.join(head)} |\n{'| --- ' * len(head)}|")
    for name, train, test, exposure, near, sequences, boxes in rows:
        shares = [*exposure["neighbours"].values(), exposure["sequence"], exposure["place"], near]
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        print(f"| {name} | {train} / {test} | {' | '.join(cells)} | {sequences} | {'' if boxes is None else boxes} |")


def _boxes_by_name(path: Path) -> Counter[str]:
    truth = read_truth(path)
    names = {image["id"]: Path(image["file_name"]).stem for image in truth["images"]}
    return Counter(names[box["image_id"]] for box in truth["annotations"])


if __name__ == "__main__":
    run(main)
