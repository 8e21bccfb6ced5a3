"""Train the detector on one variant's training images.

Writes `weights.pt` (the moving average of the weights, plain float32 tensors), `results.csv` (losses, learning rate and
speed of each epoch) and last `provenance.json`. Progress is kept after each epoch in `checkpoints/`, in a folder named
by the digest of the recipe and the data; with --resume a killed run goes on from there and ends where it would have
ended. SIGTERM, by which clusters announce the end, is answered by keeping progress within the epoch.

The loop follows ultralytics' trainer of the pinned version (warm-up, accumulated gradients, clipping, moving average),
every value stated in detection.recipe; it differs where that trainer changes a recipe by itself or depends on what was
read before.
"""

import argparse
import atexit
import contextlib
import logging
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from detection.recipe import (
    AUGMENTATION,
    Recipe,
    add_recipe_options,
    epoch_batches,
    epoch_order,
    learning_rate,
    recipe_of,
    step_seed,
)
from detection.variant import Data, read_data
from pipeline.artefacts import (
    only_writer,
    read_json,
    sha256_file,
    sha256_json,
    versions,
    write_csv,
    write_json,
)
from pipeline.devices import DEVICES, claimed_device, resolved_precision
from pipeline.stage import InputError, Progress, run, stop_asked, stopped, threads_available

# Raise it when a change of the code changes what a recipe leads to: checkpoints of before are then passed over.
REVISION = 1
KEPT_CHECKPOINTS = 2
STARVED = 0.2  # share of a training's time from which on waiting for images is worth a warning


def train(
    data: Data,
    recipe: Recipe,
    device: str,
    *,
    weights: Path | None = None,
    trust: bool = False,
    workers: int = 0,
    keep_images: bool = False,
    checkpoints: Path,
    checkpoint_epochs: int = 1,
    resume: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[Any, list[dict[str, float]]]:
    """Train and return the moving average of the model, and one row of losses and speed an epoch.

    `seconds` of an epoch are wall-clock time until all that it queued on a GPU is done, `waited` those of them in which
    the loop waited for images. A GPU may have worked meanwhile on what was queued: it stood idle for want of images at
    most so long. Without `workers` it is the time of reading and augmenting.

    Args:
        data: the training part of a variant.
        recipe: all that decides the outcome.
        device: `cpu` or `cuda:N`.
        weights: file to start from, instead of random weights.
        trust: `weights` may be a pickle.
        workers: processes that read and augment images; 0 is this one. They do not change the outcome.
        keep_images: hold the resized images in memory.
        checkpoints: folder for progress.
        checkpoint_epochs: progress is written after every so many epochs.
        resume: go on from the progress there.
        stopping: asked after each batch; where it says so, progress is written and the process ends.

    Raises:
        InputError: an image cannot be read, the disk is full, or the loss is no number any more. `explained` adds what
            to do where memory does not suffice.
    """
    import torch

    from detection.detector import build_model, loss_of, start_from  # first, as it keeps the package offline

    # isort: split
    from ultralytics.utils.torch_utils import ModelEMA

    from detection.images import TrainingImages

    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, data.classes)
    if weights:
        logging.info(
            "%d of %d tensors start from %s", start_from(model, weights, trust), len(model.state_dict()), weights
        )
    model = model.to(device, memory_format=torch.channels_last)  # faster on CPUs and GPUs
    optimizer = _optimizer(model, recipe)
    average = ModelEMA(model, decay=recipe.ema_decay, tau=recipe.ema_tau)
    images = TrainingImages(
        data,
        {name: getattr(recipe, name) for name in AUGMENTATION},
        recipe.image_size,
        recipe.seed,
        recipe.epochs - recipe.close_mosaic,
    )
    steps = math.ceil(len(images) / recipe.batch)  # in an epoch
    first_step, last_step, history = 0, -1, []
    sums: dict[str, Any] = {}  # of the epoch so far
    seconds, waited = 0.0, 0.0
    if resume:
        stored = _read_checkpoint(checkpoints, device)
        if stored:
            model.load_state_dict(stored["model"])
            average.ema.load_state_dict(stored["average"])
            average.updates = stored["updates"]
            optimizer.load_state_dict(stored["optimizer"])
            for name, parameter in model.named_parameters():
                parameter.grad = stored["gradients"].get(name)
            first_step, last_step, history = stored["step"], stored["last_step"], stored["history"]
            sums = stored["sums"] if first_step % steps else {}
            seconds, waited = stored.get("spent", (math.nan, math.nan) if first_step % steps else (0.0, 0.0))
            within = f" and {first_step % steps} of {steps} batches" if first_step % steps else ""
            logging.info("going on after epoch %d of %d%s", first_step // steps, recipe.epochs, within)
    if keep_images:
        with ThreadPoolExecutor(threads_available()) as pool:
            kept = sum(pool.map(images.keep, range(len(images))))
        logging.info("%d images kept in memory: %.0f MB", len(images), kept / 1e6)

    # Rounded as in the trainer that we follow, so that a share of an epoch means the same there and here.
    warm = round(min(recipe.warmup_epochs, recipe.epochs - 1) * steps)
    accumulated = min(max(round(recipe.nominal_batch / recipe.batch), 1), steps * recipe.epochs)
    first_epoch = first_step // steps
    leaving = multiprocessing.RawValue("b", False)
    atexit.register(setattr, leaving, "value", True)
    loader = torch.utils.data.DataLoader(
        images,
        batch_sampler=list(epoch_batches(recipe, len(images), first_epoch))[first_step % steps :],
        num_workers=workers,
        worker_init_fn=partial(_outlive_sigterm, leaving),
        collate_fn=images.collate_fn,
        pin_memory=device != "cpu",
    )
    progress = Progress(
        f"train {data.variant}, seed {recipe.seed}",
        recipe.epochs * len(images),
        "images",
        done=first_epoch * len(images) + first_step % steps * recipe.batch,
    )

    def keep(name: str, done: int) -> None:
        """Write progress after `done` batches."""
        _write_checkpoint(
            checkpoints / f"{name}.pt",
            {
                "step": done,
                "last_step": last_step,
                "history": history,
                "sums": sums,
                "spent": (seconds, waited),
                "model": model.state_dict(),
                "average": average.ema.state_dict(),
                "updates": average.updates,
                "optimizer": optimizer.state_dict(),
                "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
            },
        )

    started = time.perf_counter()
    batches = iter(loader)
    for epoch in range(first_epoch, recipe.epochs):
        model.train()
        rate = learning_rate(recipe, epoch)
        accumulate = accumulated
        if first_step <= epoch * steps:  # else the rest of an epoch, and the rates are the optimiser's own
            for group in optimizer.param_groups:
                group["lr"] = rate
        for step in range(max(first_step, epoch * steps), (epoch + 1) * steps):
            if warm and step <= warm:
                accumulate = _warm_up(optimizer, recipe, step / warm, rate, accumulated)
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            torch.manual_seed(step_seed(recipe, step))  # RT-DETR draws; nothing must hang on what was drawn before
            loss, parts = loss_of(model, batch, recipe, device)
            loss.backward()
            sums = {name: sums.get(name, 0) + part for name, part in parts.items()}
            if step - last_step >= accumulate:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=recipe.gradient_clip)
                optimizer.step()
                optimizer.zero_grad()
                average.update(model)
                last_step = step
            progress.step(len(batch["im_file"]), note=f"epoch {epoch + 1}/{recipe.epochs}{_loss_note(history)}")
            done, stop = step + 1, stopping()
            if stop and done < (epoch + 1) * steps:
                seconds += time.perf_counter() - started
                keep(f"epoch-{epoch:05}-step-{done - epoch * steps:06}", done)  # sorts before the whole epoch's
                raise stopped(f"epoch {epoch + 1}, batch {done - epoch * steps} of {steps}")
        # On a GPU this waits for all that was queued; no step did.
        losses = {name: float(value) / steps for name, value in sums.items()}
        now = time.perf_counter()
        seconds, started = seconds + now - started, now
        if not all(math.isfinite(value) for value in losses.values()):
            raise InputError(
                f"the loss is no number in epoch {epoch + 1}: {losses}; wanted a lower --lr0 than {recipe.lr0}"
            )
        spent = {"seconds": seconds, "waited": waited, "images_per_s": len(images) / seconds}
        history.append({"epoch": epoch + 1, **losses, "loss": sum(losses.values()), "lr": rate, **spent})
        if epoch == first_epoch and epoch + 1 < recipe.epochs:
            logging.info(
                "epoch %d took %.1f s, %.0f %% of them waiting for images: %d epochs will take about %.2f hours",
                epoch + 1, seconds, 100 * waited / seconds, recipe.epochs, seconds * recipe.epochs / 3600,
            )  # fmt: skip
        sums = {}
        seconds, waited = 0.0, 0.0
        if (epoch + 1) % checkpoint_epochs == 0 or epoch + 1 == recipe.epochs or stop:
            keep(f"epoch-{epoch:05}", (epoch + 1) * steps)
        if stop and epoch + 1 < recipe.epochs:
            raise stopped(f"the end of epoch {epoch + 1}")
    return average.ema, history


@contextlib.contextmanager
def explained(recipe: Recipe, device: str, workers: int, cache: str) -> Iterator[None]:
    """Turn what torch says of lacking memory, and errors of processes that read images, into an InputError."""
    from detection.detector import lacks_memory

    try:
        yield
    except InputError as error:  # one from another process comes with the traceback there
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None
    except Exception as error:
        if not lacks_memory(error):
            raise
        where = f"the memory of {device}" if "cuda" in f"{device} {error}".lower() else "this machine's memory"
        raise InputError(
            f"--batch {recipe.batch} of --image-size {recipe.image_size} with {recipe.model} does not fit {where} "
            f"({workers} --workers, --cache {cache}: {type(error).__name__}); wanted a smaller --batch "
            f"(--nominal-batch {recipe.nominal_batch} keeps the optimiser's steps), image size or model, the same for "
            "every variant, or fewer --workers and --cache none if it is the machine's memory"
        ) from error


def speed_of(history: Sequence[dict[str, float]], images: int) -> dict[str, float]:
    """Return a training's `hours`, `images_per_s` and `waited_share`, the share of its time that it waited for images.

    Over the epochs whose time is known; NaN where none is.
    """
    known = [row for row in history if math.isfinite(row.get("seconds", math.nan))]
    seconds, waited = (sum(row[key] for row in known) for key in ("seconds", "waited"))
    return {
        "hours": seconds / 3600 if len(known) == len(history) else math.nan,
        "images_per_s": len(known) * images / seconds if known else math.nan,
        "waited_share": waited / seconds if known else math.nan,
    }


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Make torch choose algorithms that repeat; it warns where it has none."""
    import torch

    cudnn, filling = torch.backends.cudnn, torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over each tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        torch.utils.deterministic.fill_uninitialized_memory = filling


def workers_for(device: str, wanted: int | None) -> int:
    """Return the processes that read images: as wanted, else none on the CPU and up to eight beside a GPU."""
    if wanted is not None:
        return wanted
    return 0 if device == "cpu" else min(8, threads_available())


def _optimizer(model: Any, recipe: Recipe) -> Any:
    """Return the optimiser; decay is for weights of convolutions, not for norms and biases."""
    import torch

    groups: dict[str, list[Any]] = {"bias": [], "weight": [], "norm": []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
                groups["bias" if "bias" in name else "norm" if norm else "weight"].append(parameter)
    accumulated = max(round(recipe.nominal_batch / recipe.batch), 1)
    decay = recipe.weight_decay * recipe.batch * accumulated / recipe.nominal_batch
    settings = [
        {"params": parameters, "name": name, "weight_decay": decay if name == "weight" else 0.0}
        for name, parameters in groups.items()
    ]
    if recipe.optimizer == "SGD":
        return torch.optim.SGD(settings, lr=recipe.lr0, momentum=recipe.momentum, nesterov=True, fused=True)
    return torch.optim.AdamW(settings, lr=recipe.lr0, betas=(recipe.momentum, 0.999), fused=True)


def _warm_up(optimizer: Any, recipe: Recipe, done: float, rate: float, accumulated: int) -> int:
    """Set learning rates and momentum at the fraction `done` of warm-up; return the batches to accumulate."""
    for group in optimizer.param_groups:
        first = recipe.warmup_bias_lr if group["name"] == "bias" else 0.0
        group["lr"] = first + (rate - first) * done
        if "momentum" in group:
            group["momentum"] = recipe.warmup_momentum + (recipe.momentum - recipe.warmup_momentum) * done
    return max(1, round(1 + (accumulated - 1) * done))


def _loss_note(history: list[dict[str, float]]) -> str:
    return f", loss {history[-1]['loss']:.3f}" if history else ""


def _outlive_sigterm(leaving: Any, worker: int) -> None:
    """Let a process that reads images pass SIGTERM over, until the training is `leaving`.

    A cluster sends it to all processes of a job, and the training still wants images; later its own exit sends it.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.value else None)


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state and keep the one before it, in case the newest is cut off."""
    from detection.detector import save_tensors

    save_tensors(path, state)
    for old in sorted(path.parent.glob("epoch-*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _read_checkpoint(folder: Path, device: str) -> dict[str, Any] | None:
    """Return the newest state in `folder` that can be read."""
    from pipeline.tensors import read_tensors

    for path in sorted(folder.glob("epoch-*.pt"), reverse=True):
        try:
            state = read_tensors(path, device)
            if state["step"] > 0:
                return state
        except Exception as error:  # whatever is wrong with it, the one before will do
            logging.warning("warning: %s cannot be read (%s); passed over", path, type(error).__name__)
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, train, write."""
    args = _parse(argv)
    if args.checkpoint_epochs < 1:
        raise InputError(f"--checkpoint-epochs {args.checkpoint_epochs}: wanted at least 1")
    data = read_data(args.data, "train")
    recipe = recipe_of(args)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: its matrix products repeat
    with only_writer(args.output), claimed_device(args.device, args.threads) as device, deterministic():
        recipe = replace(recipe, precision=resolved_precision(recipe.precision, device))
        _train_and_write(args, recipe, data, device)


def _train_and_write(args: argparse.Namespace, recipe: Recipe, data: Data, device: str) -> None:
    import torch

    from detection.detector import describe, own_architecture, save_weights

    order = [epoch_order(recipe, len(data.images), epoch).tolist() for epoch in range(recipe.epochs)]
    identity = {
        "revision": REVISION,
        "recipe": asdict(recipe),
        "weights": sha256_file(args.weights) if args.weights and args.weights.is_file() else None,
        "data": {**data.digests(), "order": sha256_json(order)},
        "versions": versions("torch", "ultralytics", "numpy", "opencv-python-headless"),
    }
    architecture = own_architecture(recipe.model)
    if architecture is not None:
        identity["architecture"] = sha256_json(architecture)
    digest = sha256_json(identity)
    outputs = {name: args.output / name for name in ("weights.pt", "results.csv", "provenance.json")}
    if args.resume and all(path.is_file() for path in outputs.values()):
        done = read_json(outputs["provenance.json"])
        if done.get("digest") == digest and done.get("weights_sha256") == sha256_file(outputs["weights.pt"]):
            logging.info("%s is finished already, of the same recipe and data", args.output)
            return
    checkpoints = args.output / "checkpoints" / digest[:16]
    if args.resume and not checkpoints.is_dir() and (args.output / "checkpoints").is_dir():
        logging.info("the progress in %s is of another recipe or other data; starting afresh", args.output)
    if not args.resume:
        shutil.rmtree(checkpoints, ignore_errors=True)

    name = describe(recipe.model, architecture)
    logging.info("%s on %d images of %s, %s", name, len(data.images), data.variant, device)
    workers = workers_for(device, args.workers)
    with stop_asked() as stopping, explained(recipe, device, workers, args.cache):
        model, history = train(
            data,
            recipe,
            device,
            weights=args.weights,
            trust=args.trust_weights,
            workers=workers,
            keep_images=args.cache == "ram",
            checkpoints=checkpoints,
            checkpoint_epochs=args.checkpoint_epochs,
            resume=args.resume,
            stopping=stopping,
        )
    speed = speed_of(history, len(data.images))
    logging.info(
        "%s: %.1f images/s, %.0f %% of the time waiting for images",
        device, speed["images_per_s"], 100 * speed["waited_share"],
    )  # fmt: skip
    if device != "cpu" and speed["waited_share"] > STARVED:
        logging.warning("warning: the GPU waited for images; more --workers or --cache ram let it work")
    facts = {
        "detector": name,
        "model": recipe.model,
        "classes": list(data.classes),
        "variant": data.variant,
        "image_size": recipe.image_size,
        "seed": recipe.seed,
        "start": "random" if args.weights is None else args.weights.name,
        "digest": digest,
    }
    # The file that says what the others are goes first and comes last: after a kill none passes for another run's.
    outputs["provenance.json"].unlink(missing_ok=True)
    # An architecture of the user's goes with its weights: the file may be changed or lost.
    save_weights(outputs["weights.pt"], model, facts | ({"architecture": architecture} if architecture else {}))
    write_csv(outputs["results.csv"], pd.DataFrame(history), {key: facts[key] for key in ("variant", "seed", "digest")})
    write_json(
        outputs["provenance.json"],
        {
            **facts,
            "images": len(data.images),
            "boxes": len(data.truth["annotations"]),
            **identity,
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "threads": torch.get_num_threads(),
            "speed": speed,
            "weights_sha256": sha256_file(outputs["weights.pt"]),
        },
    )
    shutil.rmtree(checkpoints)
    with contextlib.suppress(OSError):  # the progress of another recipe is still there
        checkpoints.parent.rmdir()


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
        "--checkpoint-epochs", type=int, default=1, metavar="N", help="write progress every N epochs (default: 1)"
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
    parser.add_argument("--resume", action="store_true", help="go on after the last epoch of a killed run")
    add_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
