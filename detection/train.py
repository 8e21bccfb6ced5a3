"""Train the detector on one variant's training images.

Writes `weights.pt` (the moving average of the weights, plain float32 tensors), `results.csv` (losses, learning rate and
speed of each epoch) and last `provenance.json`. Progress is kept every minute (--save-every) in `checkpoints/`, in a
folder named by the digest of the recipe and the data; with --resume a killed run goes on from there and ends where it
would have ended. SIGTERM, by which clusters announce the end, is answered by keeping progress at once.
"""

import argparse
import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from detection.detector import describe, is_transformer, own_architecture, save_weights
from detection.loop import deterministic, explained, train
from detection.recipe import Recipe, add_recipe_options, epoch_order, recipe_of
from detection.side_by_side import Trial, add_sharing_options, shared_device
from detection.trial import try_at_once
from detection.truth import objects_of
from detection.variant import Data, read_data
from pipeline.artefacts import only_writer, read_json, sha256_file, sha256_json, versions, write_csv, write_json
from pipeline.devices import DEVICES, resolved_precision
from pipeline.stage import InputError, run, stop_asked, threads_available

# Raise it when a change of the code changes what a recipe leads to: checkpoints of before are then passed over.
REVISION = 2
# What a trial of trainings at once hangs on.
SPEED_OF = ("model", "image_size", "batch", "precision", "threads", "workers", "cache", "augment_on_device")
STARVED = 0.2  # share of a training's time from which on waiting for images is worth a warning


def identity_of(
    data: Data,
    recipe: Recipe,
    weights: Path | None,
    architecture: Mapping[str, Any] | None,
    augment_on_device: bool = False,
) -> dict[str, Any]:
    """Return all that decides a training's outcome; its digest names the folder of its progress."""
    order = [epoch_order(recipe, len(data.images), epoch).tolist() for epoch in range(recipe.epochs)]
    identity = {
        "revision": REVISION,
        "recipe": asdict(recipe),
        "weights": sha256_file(weights) if weights and weights.is_file() else None,
        "data": {**data.digests(), "order": sha256_json(order)},
        "versions": versions("torch", "ultralytics", "numpy", "opencv-python-headless"),
    }
    if augment_on_device:
        identity["augmented_on"] = "device"
    if data.inside:
        identity["inside"] = data.inside
    return identity if architecture is None else identity | {"architecture": sha256_json(architecture)}


def speed_of(history: Sequence[Mapping[str, float]], images: int) -> dict[str, float]:
    """Return a training's `hours`, `images_per_s` and `waited_share`, the share of its time that it waited for images.

    `history` has the `seconds` and the `waited` of each epoch, `images` are those of an epoch.
    """
    seconds, waited = (sum(row[key] for row in history) for key in ("seconds", "waited"))
    return {
        "hours": seconds / 3600,
        "images_per_s": len(history) * images / seconds,
        "waited_share": waited / seconds,
    }


def workers_for(device: str, wanted: int | None, sharing: int = 1) -> int:
    """Return the processes that read images for one of `sharing` trainings on a GPU.

    As wanted, else none on the CPU and up to eight beside a GPU, a share of the cores for each training.
    """
    if wanted is not None:
        return wanted
    return 0 if device == "cpu" else min(8, max(1, threads_available() // sharing))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, write."""
    args = _parse(argv)
    if not args.save_every >= 0:
        raise InputError(f"--save-every {args.save_every}: wanted at least 0")
    data = read_data(args.data, "train")
    recipe = recipe_of(args)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: its matrix products repeat
    of = {name: getattr(args, name) for name in SPEED_OF}
    of |= {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "inside": data.inside}

    def trial(device: str, most: int) -> list[Trial]:
        tried = replace(recipe, precision=resolved_precision(recipe.precision, device))
        threads, workers = threads_available(args.threads), partial(workers_for, device, args.workers)
        reading = {"keep_images": args.cache == "ram", "augment_on_device": args.augment_on_device}
        with explained(tried, device, workers(1), args.cache):
            return try_at_once(data, tried, device, most, threads, workers, **reading)

    with only_writer(args.output), shared_device(args, of, trial) as (device, sharing), deterministic():
        recipe = replace(recipe, precision=resolved_precision(recipe.precision, device))
        _train_and_write(args, recipe, data, device, sharing)


def _train_and_write(args: argparse.Namespace, recipe: Recipe, data: Data, device: str, sharing: int) -> None:
    architecture = own_architecture(recipe.model)
    identity = identity_of(data, recipe, args.weights, architecture, args.augment_on_device)
    digest = sha256_json(identity)
    if args.resume and _is_finished(args.output, digest):
        logging.info("%s is finished already, of the same recipe and data", args.output)
        return
    checkpoints = args.output / "checkpoints" / digest[:16]
    if args.resume and not checkpoints.is_dir() and checkpoints.parent.is_dir():
        logging.info("the progress in %s is of another recipe or other data; starting afresh", args.output)
    if not args.resume:
        shutil.rmtree(checkpoints, ignore_errors=True)

    facts = {
        "detector": describe(recipe.model, architecture),
        "model": recipe.model,
        "classes": list(data.classes),
        "variant": data.variant,
        "image_size": recipe.image_size,
        "seed": recipe.seed,
        "start": "random" if args.weights is None else args.weights.name,
        "digest": digest,
    }
    logging.info("%s on %d images of %s, %s", facts["detector"], len(data.images), data.variant, device)
    workers = workers_for(device, args.workers, sharing)
    with stop_asked() as stopping, explained(recipe, device, workers, args.cache):
        model, history = train(
            data,
            recipe,
            device,
            weights=args.weights,
            trust=args.trust_weights,
            workers=workers,
            keep_images=args.cache == "ram",
            augment_on_device=args.augment_on_device,
            checkpoints=checkpoints,
            save_every=args.save_every,
            resume=args.resume,
            stopping=stopping,
        )
    speed = speed_of(history, len(data.images)) | {"per_gpu": sharing}
    waited = 100 * speed["waited_share"]
    logging.info("%s: %.1f images/s, %.0f %% of the time waiting for images", device, speed["images_per_s"], waited)
    if device != "cpu" and speed["waited_share"] > STARVED:
        logging.warning("warning: the GPU waited for images; more --workers or --cache ram let it work")

    weights, provenance = args.output / "weights.pt", args.output / "provenance.json"
    # The file that says what the others are goes first and comes last: after a kill none passes for another run's.
    provenance.unlink(missing_ok=True)
    # An architecture of the user's goes with its weights: the file may be changed or lost.
    network = {"architecture": architecture} if architecture else {}
    save_weights(weights, model, facts | network | ({"inside": data.inside} if data.inside else {}))
    rows = pd.DataFrame(history)
    write_csv(args.output / "results.csv", rows, {key: facts[key] for key in ("variant", "seed", "digest")})
    write_json(
        provenance,
        {
            **facts,
            "images": len(data.images),
            "boxes": len(objects_of(data.truth)),
            **identity,
            # RT-DETR's loss assigns boxes to objects by SciPy.
            "versions": identity["versions"] | (versions("scipy") if is_transformer(model) else {}),
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "speed": speed,
            "weights_sha256": sha256_file(weights),
        },
    )
    shutil.rmtree(checkpoints)
    with contextlib.suppress(OSError):  # the progress of another recipe is still there
        checkpoints.parent.rmdir()


def _is_finished(folder: Path, digest: str) -> bool:
    """Return whether `folder` holds all that a training of this digest writes."""
    if not all((folder / name).is_file() for name in ("weights.pt", "results.csv", "provenance.json")):
        return False
    done = read_json(folder / "provenance.json")
    return done.get("digest") == digest and done.get("weights_sha256") == sha256_file(folder / "weights.pt")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how to compute, and the recipe's."""
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one (default: auto)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: all)")
    parser.add_argument("--workers", type=int, help="processes that read images (default: 0 on the CPU, else up to 8)")
    parser.add_argument(
        "--cache", choices=("ram", "none"), default="none", help="ram: keep resized images (default: none)"
    )
    parser.add_argument(
        "--augment-on-device",
        action="store_true",
        help="keep the images on the device and augment them there; where colours are varied, a pixel may be a grey "
        "level off at the right edge",
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="write progress so often, and at the end; a kill loses at most that (default: 60)",
    )
    add_recipe_options(parser)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m detection.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a variant's data.yaml")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--weights", type=Path, help="weights to start from (default: random, that is, from scratch)")
    parser.add_argument(
        "--trust-weights",
        action="store_true",
        help="--weights may be a pickle, which can run any code as it loads: only for files whose origin you trust",
    )
    parser.add_argument("--resume", action="store_true", help="go on where a killed run last wrote progress")
    add_sharing_options(parser)
    add_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
