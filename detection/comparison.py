"""The predictions that a comparison of variants uses: files by variant and seed, scenes, options, and matches.

Shared by the stages that compare variants: `detection.significance`, `detection.truths`, `detection.losses` and the
reports.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detection.accumulation import Matches, accumulate_matches, number_scenes
from detection.average_precision import MOST_DETECTIONS, add_most_option, check_most
from detection.predictions import each_file, read_predictions
from detection.scenes import read_scenes
from pipeline.artefacts import read_json, sha256_file, sha256_json, versions
from pipeline.stage import InputError, some_of

UNITS = ("sequence", "place", "image")


@dataclass(frozen=True)
class Comparison:
    """The predictions to compare, their scenes, and the settings of the tests.

    Attributes:
        files: the predictions by variant and seed.
        unit: what counts as a scene, one of `UNITS`.
        scene: (N,) index of the scene of each image, images in the order of their ids.
        scenes: G, the number of scenes.
        file: the table of scenes, or None.
        brought: external variants, whose detections were made elsewhere; they may have any number of files.
        most: number of detections per class and image that count.
        swaps: number of random sign flips in the test.
        seed: seed of the sign flips.
    """

    files: Mapping[str, Mapping[int, Path]]
    unit: str
    scene: np.ndarray
    scenes: int
    file: Path | None
    brought: Sequence[str]
    most: int
    swaps: int
    seed: int

    @property
    def seeds(self) -> list[int]:
        """The seeds of this project's variants; if all variants are external, the seeds of the first."""
        own = (by_seed for variant, by_seed in self.files.items() if variant not in self.brought)
        return sorted(next(own, next(iter(self.files.values()))))

    @property
    def method(self) -> str:
        """What the bootstrap resamples, in the words of the table notes."""
        return method_of_draws(self.unit, self.scenes, len(self.scene), bool(self.file))

    def provenance(self) -> dict[str, Any]:
        """Return the digest of the scenes, the options and the versions that determine the result."""
        return {
            "scenes": sha256_file(self.file) if self.file else None,
            "brought": list(self.brought),
            "most_detections": self.most,
            "versions": versions("numpy", "scipy", "numba", "pycocotools"),
        }


def add_predictions_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the predictions of all variants and seeds, read by `runs_by_variant`."""
    parser.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="VARIANT/SEED=FILE",
        help="predictions.json of every variant and seed",
    )


def add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the predictions to compare, their scenes, and the settings of the tests."""
    add_predictions_option(parser)
    parser.add_argument("--scenes", type=Path, help="CSV with the scene of each image: name, sequence, place")
    parser.add_argument(
        "--unit",
        choices=UNITS,
        help="sampling unit of the test set, resampled by the bootstrap and used as the unit of the tests (default: "
        "image if --scenes is not given; otherwise the unit named in the dataset.json beside the --scenes file, or "
        "sequence if there is none)",
    )
    parser.add_argument("--conditions", type=Path, help="conditions.json of the split, if there is one")
    parser.add_argument(
        "--brought",
        nargs="+",
        default=[],
        metavar="VARIANT",
        help="external variants: their detections come from outside this project, and each may have any number of "
        "prediction files. They get no statement about methods, and do not change the "
        "verdicts of other variants; one of them may be the best row, with which all others are compared",
    )
    add_most_option(parser)
    parser.add_argument(
        "--swaps",
        type=int,
        default=10_000,
        help="number of random assignments of signs to the scenes per test (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the bootstrap resamples and of the sign flips (default: %(default)s)",
    )


def read_comparison(args: argparse.Namespace, truth: Mapping[str, Any]) -> Comparison:
    """Return the comparison that the options of `add_comparison_options` describe, for the images of `truth`.

    Raises:
        InputError: an option is out of range or names a variant without predictions; or `scenes_of` raises one.
    """
    if args.swaps < 1000:
        raise InputError(f"--swaps {args.swaps}: expected at least 1000, for small p values")
    check_most(args.most_detections)
    if args.unit not in (None, "image") and not args.scenes:
        raise InputError(f"--unit {args.unit} requires --scenes FILE, such as scenes.csv of the prepared split")
    files = runs_by_variant(args.predictions, args.brought)
    if stray := sorted(set(args.brought) - set(files)):
        raise InputError(f"--brought names {some_of(stray)}; expected variants that --predictions names, too")
    unit = args.unit or (unit_of_split(args.scenes) if args.scenes else "image")
    names = names_in_order(truth)
    scene, scenes = number_scenes(names if unit == "image" else scenes_of(args.scenes, unit, names))
    return Comparison(
        files, unit, scene, scenes, args.scenes, args.brought, args.most_detections, args.swaps, args.seed
    )


def runs_by_variant(words: Sequence[str], brought: Sequence[str] = ()) -> dict[str, dict[int, Path]]:
    """Return the files of VARIANT/SEED=FILE words by variant and seed.

    Every variant must have the same seeds, except the external ones in `brought`.

    Raises:
        InputError: a word is malformed, repeats a variant and seed, or a variant has other seeds.
    """
    files: dict[str, dict[int, Path]] = {}
    for word in words:
        name, equals, file = word.partition("=")
        variant, slash, seed = name.rpartition("/")
        if not (equals and slash and seed.isdigit()):
            raise InputError(f"--predictions {word}: expected VARIANT/SEED=FILE")
        if int(seed) in files.setdefault(variant, {}):
            raise InputError(f"--predictions names {variant}/{seed} twice; expected one file for each seed")
        files[variant][int(seed)] = Path(file)
    own = {variant: by_seed for variant, by_seed in files.items() if variant not in brought}
    seeds = sorted(next(iter(own.values()), ()))
    for variant, by_seed in own.items():
        if sorted(by_seed) != seeds:
            raise InputError(f"--predictions: {variant!r} has the seeds {sorted(by_seed)}; expected {seeds}")
    return files


def restrict_classes(truth: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return a ground truth with the boxes of some classes only; the others are then excluded from averages.

    Raises:
        InputError: a class is not in the ground truth.
    """
    numbers = {category["name"]: category["id"] for category in truth["categories"]}
    if unknown := sorted(set(classes) - set(numbers)):
        raise InputError(f"--classes names {some_of(unknown)}; expected classes of {', '.join(numbers)}")
    kept = {numbers[name] for name in classes}
    return {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] in kept]}


def names_in_order(truth: Mapping[str, Any]) -> list[str]:
    """Return the names of the images in the order of their ids, which is the order of the images in matches."""
    return [image["file_name"] for image in sorted(truth["images"], key=lambda image: image["id"])]


def scenes_of(file: Path, unit: str, names: Sequence[str]) -> list[str]:
    """Return the scene of each image in `names`, its sequence or place according to `unit`, from a table of scenes.

    Raises:
        InputError: the file has no scene for an image; or `detection.scenes.read_scenes` raises one.
    """
    known = read_scenes(file)
    if lacking := [name for name in names if name not in known]:
        raise InputError(f"{file} has no {unit} for {some_of(lacking)}; expected one for each test image")
    return [getattr(known[name], unit) for name in names]


def unit_of_split(scenes: Path) -> str:
    """Return the sampling unit of the split, `split: unit` in the dataset.json next to `scenes`; else `sequence`."""
    file = scenes.with_name("dataset.json")
    unit = read_json(file).get("split", {}).get("unit", "sequence") if file.is_file() else "sequence"
    if unit not in UNITS:
        raise InputError(f"{file} has the unit {unit!r}; expected one of {', '.join(UNITS)}")
    return unit


def method_of_draws(unit: str, scenes: int, images: int, given: bool) -> str:
    """Return what the bootstrap resamples, in the words of the table notes; `given`: whether scenes were given."""
    if unit != "image":
        return f"bootstrap of {scenes} whole {unit}s ({images} images)"
    resampled = f"bootstrap of {images} images, each treated as a scene"
    return resampled + ("" if given else " (no scenes were given: frames of one sequence are treated as independent)")


def match_all(
    truth: Mapping[str, Any], files: Mapping[str, Mapping[int, Path]], most: int = MOST_DETECTIONS
) -> tuple[dict[str, list[list[Matches]]], dict[str, dict[str, str]]]:
    """Return the matches of each class and the digests of the predictions, both by variant and seed.

    Many files are matched in two processes.
    """
    detectors = [(variant, seed) for variant in files for seed in sorted(files[variant])]
    matches: dict[str, list[list[Matches]]] = {variant: [] for variant in files}
    digests: dict[str, dict[str, str]] = {variant: {} for variant in files}
    work = partial(_match, truth, most)
    found = each_file("matching", work, [files[variant][seed] for variant, seed in detectors])
    for (variant, seed), (digest, classes) in zip(detectors, found, strict=True):
        matches[variant].append(classes)
        digests[variant][str(seed)] = digest
    return matches, digests


def _match(truth: Mapping[str, Any], most: int, file: Path) -> tuple[str, list[Matches]]:
    predictions = read_predictions(file, truth)
    return sha256_json(predictions), accumulate_matches(truth, predictions, most)
