"""What each variant loses where one band is made worse, over the scenes of the test set; of one kind.

AP at each level is computed as that of Table II, and the intervals come from the same bootstrap of whole scenes with
the same draws, so that every difference is between values of one draw. A variant's *loss* is its AP on the images as
they are less the mean over the levels, the *kept* share that mean over AP as it is (mPC and rPC of Michaelis et al.,
arXiv 1907.07484). All are means over the seeds. A variant that does not see the band loses nothing and is not compared.
Of the others, each one's loss is compared with the least: exploration, since the least is picked after looking and no
interval is adjusted.

`late` pools the boxes of both bands' detectors anew at each level, as Table II's row does.

Writes losses.json:

    kind, band      what was made worse
    levels          from the mildest on
    variants        for each `sees` (the band), `AP` as it is and `levels`, and where it sees the band `mean`, `loss`
                    and `kept`; each with `value`, `low`, `high` (95 %), null where undefined
    least           the variant that loses least of those that see the band, null where fewer than two do
    compared        for each other one, its loss less the least one's: `difference`, `low`, `high`, and `more`, whether
                    the interval lies above 0
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.accumulation import scene_boxes
from detection.intervals import bootstrap
from detection.late import BANDS, VARIANT, pool
from detection.predictions import read_predictions
from detection.robustness import TESTED
from detection.significance import add_comparison_options, match_all, read_comparison
from detection.truth import read_truth
from fusion.metrics.statistics import effective_number, interval
from pipeline.artefacts import read_json, sha256_json, write_json, write_json_list
from pipeline.stage import InputError, run

Files = dict[str, dict[int, Path]]  # predictions by what they are of and seed
AS_IS = "as it is"
# What a test on worse images must have in common with that on the images as they are.
SAME = ("image_size", "confidence", "nms_iou", "max_detections")


def main(argv: Sequence[str] | None = None) -> None:
    """Match, draw, compare, write."""
    args = _parse(argv)
    if args.samples < 100:
        raise InputError(f"--samples {args.samples}: wanted at least 100, for the ends of an interval")
    truth = read_truth(args.truth)
    comparison = read_comparison(args, truth)
    tested = [read_tested(folder, comparison.files) for folder in args.tested]
    kind, band, levels = agreed(args.tested, tested)
    by_variant = {facts["variant"]: folder for folder, facts in zip(args.tested, tested, strict=True)}
    if VARIANT in comparison.files:
        kept = int(tested[0]["provenance"]["max_detections"])
        by_variant[VARIANT] = args.output.parent / VARIANT
        pool_worse(truth, comparison.files, by_variant, levels, kept)
    named = {(variant, AS_IS): files for variant, files in comparison.files.items()}
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
            "predictions": {variant: digests[_name(variant, AS_IS)] for variant in comparison.files},
            "worse": {facts["variant"]: facts["predictions"] for facts in tested},
            **comparison.provenance(),
        },
    }
    write_json(args.output, result)
    for variant, one in result["variants"].items():
        if one["sees"]:
            logging.info(
                "%-12s AP %.3f, worse %.3f, loses %.3f (%.3f to %.3f)", variant, one["AP"]["value"],
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
        measured: the average by variant and level, AS_IS among the levels; one without levels does not see the band.
        drawn: the same under each draw, (samples,).
        levels: of the kind.
        scenes: the effective number of scenes that were drawn.
    """

    def bounded(value: float, draws: np.ndarray) -> dict[str, float]:
        low, high = interval(draws, scenes, measured=value) if not math.isnan(value) else (math.nan, math.nan)
        return {"value": float(value), "low": low, "high": high}

    variants: dict[str, dict[str, Any]] = {}
    losses = {}
    for variant in dict.fromkeys(name for name, _ in measured):
        as_it_is = measured[variant, AS_IS], drawn[variant, AS_IS]
        sees = (variant, levels[0]) in measured
        at = {level: (measured[variant, level], drawn[variant, level]) if sees else as_it_is for level in levels}
        variants[variant] = {
            "sees": sees,
            "AP": bounded(*as_it_is),
            "levels": {level: bounded(*found) for level, found in at.items()},
        }
        if sees:
            mean = float(np.mean([value for value, _ in at.values()])), np.mean([d for _, d in at.values()], axis=0)
            losses[variant] = as_it_is[0] - mean[0], as_it_is[1] - mean[1]
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.divide(mean[0], as_it_is[0]), np.divide(mean[1], as_it_is[1])
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
    """Return what tested.json of a folder says.

    Raises:
        InputError: it is of a variant without predictions on the images as they are, of other seeds or detectors, or
            was tested in another way than these.
    """
    file = folder / TESTED
    facts = read_json(file)
    for key in ("variant", "kind", "band", "levels", "predictions", "weights", "provenance"):
        if not isinstance(facts, dict) or key not in facts:
            raise InputError(f"{file} has no {key}; wanted what detection.robustness writes")
    files = clean.get(facts["variant"], {})
    if sorted(facts["weights"]) != sorted(map(str, files)):
        raise InputError(
            f"{file} is of {facts['variant']!r} with the seeds {', '.join(facts['weights'])}; --predictions has "
            f"{', '.join(map(str, files)) or 'none of it'}"
        )
    for seed, predictions in files.items():
        stated = read_json(predictions.with_name("ap.json"))["provenance"]
        found = facts["provenance"] | {"weights": facts["weights"][str(seed)]}
        for key in ("weights", *SAME):
            if stated.get(key) != found.get(key):
                raise InputError(
                    f"{file} and {predictions.with_name('ap.json')} disagree: {key} is {found.get(key)!r}, expected "
                    f"{stated.get(key)!r}; test again"
                )
    return facts


def agreed(folders: Sequence[Path], tested: Sequence[Mapping[str, Any]]) -> tuple[str, str, list[str]]:
    """Return the kind, the band and the levels of all tests; InputError where two differ, or are of one variant."""
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
        raise InputError(f"--tested names {', '.join(variants)}; wanted each variant once")
    return first["kind"], first["band"], list(first["levels"])


def pool_worse(
    truth: Mapping[str, Any], clean: Files, tested: Mapping[str, Path], levels: Sequence[str], kept: int
) -> None:
    """Pool both bands' boxes for every level and seed, and write them as the other variants' are.

    Args:
        truth: of the test images.
        clean: the predictions on the images as they are.
        tested: the folders of the predictions on worse images by variant, and that to write to, of `late`.
        levels: of the kind.
        kept: detections kept in an image.

    Raises:
        InputError: a band has no predictions.
    """
    if lacking := [band for band in BANDS if band not in clean]:
        raise InputError(f"--predictions has {VARIANT} and no {lacking[0]}; wanted both bands, whose boxes it pools")
    for level in levels:
        for seed in clean[BANDS[0]]:
            place = f"{level}/seed{seed}/predictions.json"
            files = [tested[band] / place if band in tested else clean[band][seed] for band in BANDS]
            found = pool(*(read_predictions(file, truth) for file in files), kept=kept)
            write_json_list(tested[VARIANT] / place, found)


def check_digests(tested: Sequence[Mapping[str, Any]], digests: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InputError where predictions are not those that tested.json describes."""
    for facts in tested:
        for level, stated in facts["predictions"].items():
            if dict(digests[_name(facts["variant"], level)]) != stated:
                raise InputError(
                    f"the predictions of {facts['variant']} at level {level} are not those of its {TESTED}; test again"
                )


def _name(variant: str, level: str) -> str:
    return f"{variant} {level}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.losses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="truth_test.json of the prepared split")
    parser.add_argument(
        "--tested", type=Path, nargs="+", required=True, help="folders that detection.robustness wrote, of one kind"
    )
    add_comparison_options(parser)
    parser.add_argument("--samples", type=int, default=1000, help="draws of the bootstrap (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
