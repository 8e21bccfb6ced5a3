"""Measure the loss in AP of each variant when one band of the test images is corrupted, for one kind of corruption.

AP at each level is computed as in Table II. The intervals come from the same bootstrap of whole scenes with the same
resamples, so that every difference is between values of one resample. The *loss* of a variant is its AP on the
uncorrupted images minus the mean AP over the levels; the *kept* share is that mean divided by the AP on the uncorrupted
images (mPC and rPC of Michaelis et al., arXiv 1907.07484). All values are means over the seeds. A variant whose
detector does not see the corrupted band loses nothing and is not compared. The loss of each other variant is compared
with the smallest loss. These comparisons are exploratory: the variant with the smallest loss is picked after seeing the
losses, and the intervals are not adjusted for this choice.

`late` merges the detections of the visible and the infrared detector at each level, as in Table II.

Writes losses.json:

    kind, band      the kind of corruption and the corrupted band
    levels          the levels of the kind, mildest first
    variants        for each variant: `sees` (whether it sees the band), `AP` on the uncorrupted images and `levels`; if
                    it sees the band, also `mean`, `loss` and `kept`. Each has `value`, `low`, `high` (95 %), null where
                    undefined
    least           the variant with the smallest loss of those that see the band, null if fewer than two do
    compared        for each other variant that sees the band, its loss minus the smallest loss: `difference`, `low`,
                    `high`, and `more`, whether the interval is above 0
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.accumulation import scene_boxes
from detection.comparison import add_comparison_options, match_all, read_comparison
from detection.intervals import bootstrap
from detection.late import BANDS, VARIANT, pool
from detection.predictions import read_predictions
from detection.robustness import TESTED
from detection.truth import read_truth
from fusion.metrics.statistics import effective_number, interval
from pipeline.artefacts import read_json, sha256_json, write_json, write_json_list
from pipeline.stage import InputError, run

Files = dict[str, dict[int, Path]]  # predictions by variant and seed
UNCORRUPTED = "uncorrupted"  # name of the level without corruption, also in the table
# Settings that the tests on corrupted and on uncorrupted images must share.
SAME = ("image_size", "confidence", "nms_iou", "max_detections")


def main(argv: Sequence[str] | None = None) -> None:
    """Match the predictions, bootstrap the scenes, compare the losses and write losses.json."""
    args = _parse(argv)
    if args.samples < 100:
        raise InputError(f"--samples {args.samples}: expected at least 100, for the ends of an interval")
    truth = read_truth(args.truth)
    comparison = read_comparison(args, truth)
    tested = [read_tested(folder, comparison.files) for folder in args.tested]
    kind, band, levels = agreed(args.tested, tested)
    by_variant = {facts["variant"]: folder for folder, facts in zip(args.tested, tested, strict=True)}
    if VARIANT in comparison.files:
        kept = int(tested[0]["provenance"]["max_detections"])
        by_variant[VARIANT] = args.output.parent / VARIANT
        pool_corrupted(truth, comparison.files, by_variant, levels, kept)
    named = {(variant, UNCORRUPTED): files for variant, files in comparison.files.items()}
    for variant, folder in by_variant.items():
        for level in levels:
            files = {seed: folder / level / f"seed{seed}" / "predictions.json" for seed in comparison.seeds}
            named[variant, level] = files
    matches, digests = match_all(truth, {_name(*key): files for key, files in named.items()}, comparison.most)
    check_digests(tested, digests)
    measured, drawn = bootstrap(matches, comparison.scene, args.samples, args.seed)
    boxes = scene_boxes(next(iter(matches.values()))[0], comparison.scene, comparison.scenes)
    described = describe_losses(
        {key: measured[_name(*key)][-1] for key in named},
        {key: drawn[_name(*key)][:, -1] for key in named},
        levels,
        effective_number(boxes.sum(axis=0)),
    )
    result = {
        "kind": kind,
        "band": band,
        "levels": levels,
        **described,
        "method": comparison.method,
        "samples": args.samples,
        "seed": args.seed,
        "seeds": comparison.seeds,
        "unit": comparison.unit,
        "provenance": {
            "labels": sha256_json(truth),
            "predictions": {variant: digests[_name(variant, UNCORRUPTED)] for variant in comparison.files},
            "worse": {facts["variant"]: facts["predictions"] for facts in tested},
            **comparison.provenance(),
        },
    }
    write_json(args.output, result)
    for variant, one in result["variants"].items():
        if one["sees"]:
            logging.info(
                "%-12s AP %.3f, corrupted %.3f, loss %.3f (%.3f to %.3f)", variant, one["AP"]["value"],
                one["mean"]["value"], *(one["loss"][key] for key in ("value", "low", "high")),
            )  # fmt: skip


def describe_losses(
    measured: Mapping[tuple[str, str], float],
    drawn: Mapping[tuple[str, str], np.ndarray],
    levels: Sequence[str],
    scenes: float,
) -> dict[str, Any]:
    """Return `variants`, `least` and `compared` of losses.json.

    Args:
        measured: AP by variant and level, including the level UNCORRUPTED; a variant with no other level does not see
            the band.
        drawn: AP in each bootstrap resample, (samples,), by variant and level.
        levels: the levels of the kind.
        scenes: the effective number of scenes that were resampled.
    """

    def bounded(value: float, draws: np.ndarray) -> dict[str, float]:
        low, high = interval(draws, scenes, measured=value) if not math.isnan(value) else (math.nan, math.nan)
        return {"value": float(value), "low": low, "high": high}

    variants: dict[str, dict[str, Any]] = {}
    losses = {}
    for variant in dict.fromkeys(name for name, _ in measured):
        clean = measured[variant, UNCORRUPTED], drawn[variant, UNCORRUPTED]
        sees = (variant, levels[0]) in measured
        at = {level: (measured[variant, level], drawn[variant, level]) if sees else clean for level in levels}
        variants[variant] = {
            "sees": sees,
            "AP": bounded(*clean),
            "levels": {level: bounded(*found) for level, found in at.items()},
        }
        if sees:
            mean = float(np.mean([value for value, _ in at.values()])), np.mean([d for _, d in at.values()], axis=0)
            losses[variant] = clean[0] - mean[0], clean[1] - mean[1]
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.divide(mean[0], clean[0]), np.divide(mean[1], clean[1])
            share = tuple(np.where(np.isfinite(one), one, np.nan) for one in share)
            variants[variant] |= {
                "mean": bounded(*mean), "loss": bounded(*losses[variant]), "kept": bounded(float(share[0]), share[1])
            }  # fmt: skip
    known = {variant: loss for variant, loss in losses.items() if not math.isnan(loss[0])}
    least = min(known, key=lambda variant: known[variant][0]) if len(known) > 1 else None
    compared = {}
    for variant, (value, draws) in known.items():
        if least is not None and variant != least:
            found = bounded(value - known[least][0], draws - known[least][1])
            found["difference"] = found.pop("value")
            compared[variant] = found | {"more": bool(found["low"] > 0)}
    return {"variants": variants, "least": least, "compared": compared}


def read_tested(folder: Path, clean: Files) -> dict[str, Any]:
    """Return the content of tested.json in a folder.

    Raises:
        InputError: its variant has no predictions on the uncorrupted images, or its seeds, detectors or test settings
            differ from the seeds, detectors or test settings of these predictions.
    """
    file = folder / TESTED
    facts = read_json(file)
    for key in ("variant", "kind", "band", "levels", "predictions", "weights", "provenance"):
        if not isinstance(facts, dict) or key not in facts:
            raise InputError(f"{file} has no key {key}; expected a file that detection.robustness wrote")
    files = clean.get(facts["variant"], {})
    if sorted(facts["weights"]) != sorted(map(str, files)):
        raise InputError(
            f"{file} describes {facts['variant']!r} with the seeds {', '.join(facts['weights'])}; --predictions names "
            f"the seeds {', '.join(map(str, files)) or '(none)'} of this variant"
        )
    for seed, predictions in files.items():
        stated = read_json(predictions.with_name("ap.json"))["provenance"]
        found = facts["provenance"] | {"weights": facts["weights"][str(seed)]}
        for key in ("weights", *SAME):
            if stated.get(key) != found.get(key):
                raise InputError(
                    f"{file} and {predictions.with_name('ap.json')} disagree: {key} is {found.get(key)!r}, expected "
                    f"{stated.get(key)!r}; test the detectors on the corrupted images again"
                )
    return facts


def agreed(folders: Sequence[Path], tested: Sequence[Mapping[str, Any]]) -> tuple[str, str, list[str]]:
    """Return the kind, the band and the levels that all tests share; raise InputError if two tests do not fit."""
    first = tested[0]
    for folder, facts in zip(folders, tested, strict=True):
        for key in ("kind", "band", "levels"):
            if facts[key] != first[key]:
                raise InputError(
                    f"{folder / TESTED} and {folders[0] / TESTED} disagree: {key} is {facts[key]!r}, expected "
                    f"{first[key]!r}"
                )
    variants = [facts["variant"] for facts in tested]
    if len(set(variants)) < len(variants):
        raise InputError(f"--tested names {', '.join(variants)}; expected each variant once")
    return first["kind"], first["band"], list(first["levels"])


def pool_corrupted(
    truth: Mapping[str, Any], clean: Files, tested: Mapping[str, Path], levels: Sequence[str], kept: int
) -> None:
    """Pool both bands' boxes for every level and seed, and write them in the layout of the other variants.

    Args:
        truth: ground truth of the test images.
        clean: the predictions on the uncorrupted images.
        tested: the folders of the predictions on corrupted images by variant; the folder of `late` is written to.
        levels: the levels of the kind.
        kept: number of detections kept per image.

    Raises:
        InputError: a band has no predictions.
    """
    if lacking := [band for band in BANDS if band not in clean]:
        raise InputError(
            f"--predictions names {VARIANT} but not {lacking[0]}; expected both bands, whose boxes {VARIANT} pools"
        )
    for level in levels:
        for seed in clean[BANDS[0]]:
            place = f"{level}/seed{seed}/predictions.json"
            files = [tested[band] / place if band in tested else clean[band][seed] for band in BANDS]
            found = pool(*(read_predictions(file, truth) for file in files), kept=kept)
            write_json_list(tested[VARIANT] / place, found)


def check_digests(tested: Sequence[Mapping[str, Any]], digests: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InputError if predictions are not those that tested.json describes."""
    for facts in tested:
        for level, stated in facts["predictions"].items():
            if dict(digests[_name(facts["variant"], level)]) != stated:
                raise InputError(
                    f"the predictions of {facts['variant']} at level {level} are not those that its {TESTED} describes;"
                    " test the detectors on the corrupted images again"
                )


def _name(variant: str, level: str) -> str:
    return f"{variant} {level}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.losses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    parser.add_argument(
        "--tested",
        type=Path,
        nargs="+",
        required=True,
        help="folders that detection.robustness wrote, all of one kind of corruption",
    )
    add_comparison_options(parser)
    parser.add_argument("--samples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
