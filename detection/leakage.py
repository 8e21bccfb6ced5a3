"""Measure the leakage of a split: the share of test images for which the training set contains a similar image.

There are three measures:

- by image number: the number of a training image, the last number in its name, differs by at most 1, 3 or 10;
- by scene: the training set contains an image of the same sequence, or of the same place;
- by content: the most similar training image is a near duplicate. This share is a lower bound, because two images of
  one scene look different once a car has moved or the camera has turned.

The command prints a table of leakage for the included splits of M3FD and for prepared datasets. For the included
splits it has only the measures by image number and by scene, which need no images.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.datasets.layout import Scene
from detection.datasets.m3fd import all_scenes
from detection.scenes import numbering
from detection.similarity import DESCRIPTOR, NEAR_DUPLICATE, PairSummary, most_similar
from detection.splits import INCLUDED, included_split
from detection.truth import read_truth
from pipeline.artefacts import read_json
from pipeline.stage import InputError, run

# Largest share of test pairs that may also be in the training set, pixel for pixel.
MOST_EXACT = 0.01
# A training image is a neighbour of a test image if their image numbers differ by at most this.
WITHIN = (1, 3, 10)


def measure_exposure(scenes: Mapping[str, Scene], train: Sequence[str], test: Sequence[str]) -> dict[str, Any]:
    """Return the shares of test images with a neighbour, an image of their sequence or of their place in training.

    `neighbours` is, for each distance in `WITHIN`, the share of test images with a training image whose name differs
    only in its last number, by at most that distance; None if no test image has a number. `adjacent` lists the test
    images for which the image number of a training image differs by at most 1. `sequence` and `place` are the shares of
    test images for which the training set contains an image of the same sequence, and of the same place.
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
    summaries: Mapping[str, PairSummary], scenes: Mapping[str, Scene], train: Sequence[str], test: Sequence[str]
) -> dict[str, Any]:
    """Return the shares of `measure_exposure`, and the share of test images with a near duplicate in training.

    `share` = `near_duplicates` / `images`. `nearest` names the most similar training image of each test image. `exact`
    is the number of test pairs that are identical to a training pair in all pixels of both bands; they count as near
    duplicates as well.
    """
    stacks = [np.stack([summaries[name].descriptor for name in names]) for names in (test, train)]
    index, value = most_similar(*stacks)
    known = {summaries[name].digest for name in train}
    exact = [summaries[name].digest in known for name in test]
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
            name: {"train": train[at], "likeness": round(float(similarity), 4)}
            for name, at, similarity in zip(test, index, value, strict=True)
        },
    }


def exposure_words(leakage: Mapping[str, Any]) -> str:
    """Return the shares of `measure_leakage` in words."""
    shares = leakage["neighbours"].items()
    near = [f"{share:.1%} (by at most {within})" for within, share in shares if share is not None]
    numbers = ". Share of test images with a training image whose file name differs only in its last number: "
    return (
        f"of the {leakage['images']} test images, {leakage['sequence']:.1%} have a training image of the same "
        f"sequence, {leakage['place']:.1%} one of the same place, and {leakage['share']:.1%} a near duplicate in the "
        f"training set{numbers + ', '.join(near) if near else ''}"
    )


def refuse_tested_training(leakage: Mapping[str, Any]) -> None:
    """Check that the test set is not part of the training set.

    Raises:
        InputError: more than 1 % of the test pairs are also training pairs, pixel for pixel.
    """
    if leakage["exact"] > MOST_EXACT * leakage["images"]:
        raise InputError(
            f"{leakage['exact']} of the {leakage['images']} test pairs are also in training under other names, pixel "
            f"for pixel; expected at most {MOST_EXACT:.0%}: use --split scene-blocked, or lists without these pairs"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of leakage."""
    parser = argparse.ArgumentParser(
        prog="python -m detection.leakage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prepared", type=Path, nargs="+", default=[], metavar="DIR", help="folders that detection.prepare wrote"
    )
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE", help="boxes of M3FD as COCO JSON, to add the number of test boxes"
    )
    args = parser.parse_args(argv)
    rows, scenes = [], all_scenes()
    counts = _boxes_by_name(args.boxes) if args.boxes else {}
    for kind in INCLUDED:
        split = included_split(kind, list(scenes))
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
