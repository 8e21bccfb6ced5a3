"""Train the detector on one variant's training images.

Writes `weights.pt` (the moving average of the weights, plain float32 tensors), `results.csv` (losses, learning rate and
speed of each epoch) and, at the end, `provenance.json`. A checkpoint is written every minute (--save-every) to
`checkpoints/`, in a folder named by the digest of the recipe and the data. With --resume, a killed training continues
from the newest checkpoint and gives the same result as an uninterrupted one (RT-DETR on a GPU: nearly the same). On
SIGTERM, which clusters send before they end a job, a checkpoint is written at once.
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
from detection.gpu_sharing import Trial, add_sharing_options, shared_device
from detection.loop import deterministic, explained, train
from detection.recipe import Recipe, add_recipe_options, epoch_order, recipe_of
from detection.trial import run_trials
from detection.truth import objects_of
from detection.variant import Data, read_data
from pipeline.artefacts import only_writer, read_json, sha256_file, sha256_json, versions, write_csv, write_json
from pipeline.devices import DEVICES, resolved_precision
from pipeline.stage import InputError, run, sigterm_received, threads_available

# Increase it when a change of the code changes the result of a recipe: older checkpoints are then ignored.
REVISION = 2
# Options that the result of a trial of concurrent trainings depends on.
SPEED_OPTIONS = ("model", "image_size", "batch", "precision", "threads", "workers", "cache", "augment_on_device")
STARVED = 0.2  # share of a training's time above which waiting for images causes a warning


def identity_of(
    data: Data,
    recipe: Recipe,
    weights: Path | None,
    architecture: Mapping[str, Any] | None,
    augment_on_device: bool = False,
) -> dict[str, Any]:
    """Return everything that determines the weights; its digest names the folder of the checkpoints."""
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
    """Return the `hours` and `images_per_s` of a training, and `waited_share`, the share of time waiting for images.

    Args:
        history: `seconds` and `waited` of each epoch.
        images: number of images per epoch.
    """
    seconds, waited = (sum(row[key] for row in history) for key in ("seconds", "waited"))
    return {
        "hours": seconds / 3600,
        "images_per_s": len(history) * images / seconds,
        "waited_share": waited / seconds,
    }


def workers_for(device: str, requested: int | None, sharing: int = 1) -> int:
    """Return the number of processes that read images for one of `sharing` trainings on a device.

    This is `requested` if given. Otherwise it is 0 on the CPU, and on a GPU the training's share of the cores, up to 8.
    """
    if requested is not None:
        return requested
    return 0 if device == "cpu" else min(8, max(1, threads_available() // sharing))


def main(argv: Sequence[str] | None = None) -> None:
    """Train the detector and write its weights, losses and provenance."""
    args = _parse(argv)
    if not args.save_every >= 0:
        raise InputError(f"--save-every {args.save_every}: expected at least 0")
    data = read_data(args.data, "train")
    recipe = recipe_of(args)
    # Must be set before CUDA is initialized: makes matrix products deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    of = {name: getattr(args, name) for name in SPEED_OPTIONS}
    of |= {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "inside": data.inside}

    def trial(device: str, most: int) -> list[Trial]:
        tried = replace(recipe, precision=resolved_precision(recipe.precision, device))
        threads, workers = threads_available(args.threads), partial(workers_for, device, args.workers)
        reading = {"keep_images": args.cache == "ram", "augment_on_device": args.augment_on_device}
        with explained(tried, device, workers(1), args.cache):
            return run_trials(data, tried, device, most, threads, workers, **reading)

    with only_writer(args.output), shared_device(args, of, trial) as (device, sharing), deterministic():
        recipe = replace(recipe, precision=resolved_precision(recipe.precision, device))
        _train_and_write(args, recipe, data, device, sharing)


def _train_and_write(args: argparse.Namespace, recipe: Recipe, data: Data, device: str, sharing: int) -> None:
    architecture = own_architecture(recipe.model)
    identity = identity_of(data, recipe, args.weights, architecture, args.augment_on_device)
    digest = sha256_json(identity)
    if args.resume and _is_finished(args.output, digest):
        logging.info("%s is already finished, with the same recipe and data", args.output)
        return
    checkpoints = args.output / "checkpoints" / digest[:16]
    if args.resume and not checkpoints.is_dir() and checkpoints.parent.is_dir():
        logging.info("the checkpoints in %s are of another recipe or other data; starting from scratch", args.output)
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
    with sigterm_received() as stopping, explained(recipe, device, workers, args.cache):
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
        logging.warning("warning: the GPU waited for images; use more --workers or --cache ram")

    weights, provenance = args.output / "weights.pt", args.output / "provenance.json"
    # The provenance is removed first and written last, so that after a kill it never describes files of another run.
    provenance.unlink(missing_ok=True)
    # A user-defined architecture is stored with its weights, because its file may be changed or lost.
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
            # The loss of RT-DETR uses SciPy to assign boxes to objects.
            "versions": identity["versions"] | (versions("scipy") if is_transformer(model) else {}),
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "speed": speed,
            "weights_sha256": sha256_file(weights),
        },
    )
    shutil.rmtree(checkpoints)
    with contextlib.suppress(OSError):  # not empty if there are checkpoints of another recipe
        checkpoints.parent.rmdir()


def _is_finished(folder: Path, digest: str) -> bool:
    """Return whether `folder` contains all files of a finished training with this digest."""
    if not all((folder / name).is_file() for name in ("weights.pt", "results.csv", "provenance.json")):
        return False
    done = read_json(folder / "provenance.json")
    return done.get("digest") == digest and done.get("weights_sha256") == sha256_file(folder / "weights.pt")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the computation, and those of the recipe."""
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto: a GPU if there is one, else the CPU (default: auto)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of the network (default: all)")
    parser.add_argument("--workers", type=int, help="processes that read images (default: 0 on the CPU, else up to 8)")
    parser.add_argument(
        "--cache", choices=("ram", "none"), default="none", help="ram: keep resized images in memory (default: none)"
    )
    parser.add_argument(
        "--augment-on-device",
        action="store_true",
        help="keep the images on the device and augment them there; with colour augmentation, pixels at the right edge "
        "may differ by one grey level from those on the CPU",
    )
    parser.add_argument(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="interval between checkpoints, which is the most that a kill loses; one more is written at the end "
        "(default: 60)",
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
        help="--weights may be a pickle. Loading a pickle can execute arbitrary code: use this only for files whose "
        "origin you trust",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of a killed run")
    add_sharing_options(parser)
    add_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
