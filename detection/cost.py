"""Stage: estimate the cost of all detector trainings of a plan by timing a few training steps before they start.

The steps are run by detection.train's own loop, on the training images of one variant. Other variants have images of
the same sizes and cost the same; variants that are fused inside the detector have another network and are timed
separately. The number of timed steps is 0.5 % of the plan's steps, but at least 2 and at most 30.

Writes cost.json: seconds per step and per epoch; hours per training, per variant with all its seeds, and in all; and
the parameters and multiply-adds of each network. The estimate does not include fusing, testing and tables.
"""

import argparse
import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from detection.detector import build_model, network_cost  # first, as it keeps the package offline
from detection.images import padded_sides
from detection.loop import deterministic, explained, train
from detection.recipe import Recipe, recipe_of
from detection.train import add_options, workers_for
from detection.trial import subset_for_steps
from detection.variant import Data, read_data
from pipeline.artefacts import versions, write_json
from pipeline.devices import claimed_device, resolved_precision
from pipeline.stage import InputError, run

UNTIMED_STEPS = 2  # in the first steps libraries load and kernels are chosen
FEWEST_STEPS, MOST_STEPS = 2, 30  # timed steps
SHARE = 0.005  # of the plan's steps, to be timed


class _TimedError(Exception):
    """Raised inside a training to end it once enough steps are timed."""


def time_steps(data: Data, recipe: Recipe, device: str, trainings: int, **reading: Any) -> tuple[int, float]:
    """Train for a few steps; return the number of timed steps and the mean seconds per step.

    Args:
        data: training part of a variant.
        recipe: recipe of the plan.
        device: `cpu` or `cuda:N`.
        trainings: number of trainings in the plan, which limits the time spent on timing.
        reading: `workers`, `keep_images` and `augment_on_device` of `train`.
    """

    def now() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    steps_in_plan = trainings * recipe.epochs * math.ceil(len(data.images) / recipe.batch)
    steps = min(max(FEWEST_STEPS, round(SHARE * steps_in_plan)), MOST_STEPS)
    done, start, mean = 0, 0.0, math.nan

    def timed() -> bool:
        nonlocal done, start, mean
        done += 1
        if done == UNTIMED_STEPS:
            start = now()
        if done == UNTIMED_STEPS + steps:
            mean = (now() - start) / steps
            raise _TimedError
        return False

    # Enough epochs of a few images; with mosaics unless the recipe has none in any epoch.
    short = replace(
        recipe,
        epochs=UNTIMED_STEPS + steps,
        close_mosaic=0 if recipe.close_mosaic < recipe.epochs else UNTIMED_STEPS + steps,
    )
    some = subset_for_steps(data, recipe, steps)
    logging.disable(logging.INFO)  # the progress and estimated end of this training would mislead
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_TimedError):
            train(some, short, device, **reading, checkpoints=Path(folder), save_every=math.inf, stopping=timed)
    finally:
        logging.disable(logging.NOTSET)
    return steps, mean


def network_of(data: Data, recipe: Recipe) -> dict[str, Any]:
    """Return `network_cost` of the recipe's detector, for an image of `data` in its test size."""
    model = build_model(recipe.model, data.classes, inside=data.inside)
    return network_cost(model.eval(), data.channels, *padded_sides(data, recipe.image_size))


def estimate(
    seconds: float,
    recipe: Recipe,
    images: int,
    variants: Sequence[str],
    seeds: Sequence[int],
    others: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the cost of a plan, in hours of the device if the trainings run one after the other.

    Args:
        seconds: per training step.
        recipe: recipe of the trainings.
        images: number of training images.
        variants: names of all variants.
        seeds: seeds of each variant.
        others: seconds per step of the variants with another network, by name.
    """
    steps = math.ceil(images / recipe.batch)
    epoch = seconds * steps
    training = epoch * recipe.epochs / 3600
    by_variant = {variant: (others or {}).get(variant, seconds) for variant in variants}
    hours = {variant: each * steps * recipe.epochs / 3600 * len(seeds) for variant, each in by_variant.items()}
    return {
        "seconds_per_step": seconds,
        "seconds_per_epoch": epoch,
        "images_per_s": images / epoch,
        "hours_per_training": training,
        "hours": hours,
        "hours_in_all": sum(hours.values()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Time the steps, write the estimate and log it."""
    args = _parse(argv)
    if args.at_once < 1:
        raise InputError(f"--at-once {args.at_once}: expected at least 1")
    data, *others = (read_data(file, "train") for file in args.data)
    recipe = recipe_of(args)
    with claimed_device(args.device, args.threads) as device, deterministic():
        name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
        recipe = replace(recipe, precision=resolved_precision(recipe.precision, device))
        reading = {"workers": workers_for(device, args.workers), "keep_images": args.cache == "ram"}
        reading["augment_on_device"] = args.augment_on_device
        with explained(recipe, device, reading["workers"], args.cache):
            trainings = len(args.variants) * len(args.seeds)
            timed, seconds = time_steps(data, recipe, device, trainings, **reading)
            other_seconds = {one.variant: time_steps(one, recipe, device, trainings, **reading)[1] for one in others}
            networks = {one.variant: network_of(one, recipe) for one in (data, *others)}
        threads = torch.get_num_threads()
    cost = estimate(seconds, recipe, len(data.images), args.variants, args.seeds, other_seconds)
    write_json(
        args.output,
        {
            "covers": "trainings of the detector; not fusing, testing and tables",
            **cost,
            "seeds": args.seeds,
            "at_once": args.at_once,
            "timed_steps": timed,
            "seconds_per_step_of": other_seconds,
            "networks": networks,
            "images": len(data.images),
            "variant": data.variant,
            "device": name,
            "threads": threads,
            **reading,
            "recipe": asdict(recipe),
            "versions": versions("torch", "ultralytics", "numpy", "opencv-python-headless"),
        },
    )
    each, every = cost["hours_per_training"] * len(args.seeds), cost["hours_in_all"]
    logging.info(
        "estimated cost of the detectors, from %d steps on %s: %.1f s per epoch, %s per training of %d epochs",
        timed, name, cost["seconds_per_epoch"], duration(cost["hours_per_training"]), recipe.epochs,
    )  # fmt: skip
    logging.info(
        "%d variants with %d seed(s) each: %s per variant, %s in all%s",
        len(args.variants), len(args.seeds), duration(each), duration(every),
        f", about {duration(every / args.at_once)} with {args.at_once} at a time" if args.at_once > 1 else "",
    )  # fmt: skip


def duration(hours: float) -> str:
    """Return hours as text, in seconds, minutes or hours."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} seconds"
    return f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:.1f} hours"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="data.yaml of the variant to time, then of each variant with another network, timed separately",
    )
    parser.add_argument("--variants", nargs="+", required=True, help="names of all variants of the plan")
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="seeds of each variant")
    parser.add_argument("--at-once", type=int, default=1, help="number of trainings that run in parallel (default: 1)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    add_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
