"""The training loop of the detector, and its checkpoints.

It follows the trainer of the pinned version of ultralytics (warm-up, gradient accumulation, clipping, moving average of
the weights), with every value stated in detection.recipe. It differs where that trainer changes a recipe by itself, or
where its result depends on which images a process read before. A training that continues from a checkpoint ends with
the same weights as one that was not interrupted.
"""

import atexit
import contextlib
import logging
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detection.detector import (  # imported first, because it keeps ultralytics offline
    build_model,
    lacks_memory,
    loss_of,
    save_tensors,
    start_from,
)

# isort: split
from ultralytics.utils.torch_utils import ModelEMA

from detection.device_images import DeviceImages, LazyTrainingImages
from detection.images import TrainingImages
from detection.muon import muon
from detection.recipe import AUGMENTATION, Recipe, epoch_batches, learning_rate, step_seed
from detection.variant import Data
from pipeline.stage import InputError, Progress, stopped, threads_available
from pipeline.tensors import read_tensors

KEPT_CHECKPOINTS = 2
NORMS = tuple(kind for name, kind in vars(torch.nn).items() if "Norm" in name)  # BatchNorm, and RT-DETR's LayerNorm
_PLAIN = ("done", "last_step", "history", "sums", "seconds", "waited")
_SAVED = (*_PLAIN, "model", "average", "updates", "optimizer", "gradients")


@dataclass
class State:
    """The state of a training between two batches, which a checkpoint stores.

    Attributes:
        model: the network; its accumulated gradients belong to the state.
        average: the moving average of the weights.
        optimizer: the optimiser, with its learning rates and momenta.
        done: number of batches since the start.
        last_step: index of the batch after which the optimiser last stepped, -1 before the first step.
        history: one row of losses and speed per finished epoch.
        sums: sum of each loss term over the batches of this epoch.
        seconds: duration of this epoch so far.
        waited: the part of `seconds` in which the loop waited for images.
    """

    model: torch.nn.Module
    average: ModelEMA
    optimizer: torch.optim.Optimizer
    done: int = 0
    last_step: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0

    def saved(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "model": self.model.state_dict(),
            "average": self.average.ema.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "gradients": {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None},
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Load the state that `saved` returned."""
        for name in _PLAIN:
            setattr(self, name, saved[name])
        self.model.load_state_dict(saved["model"])
        self.average.ema.load_state_dict(saved["average"])
        self.average.updates = saved["updates"]
        self.optimizer.load_state_dict(saved["optimizer"])
        for name, parameter in self.model.named_parameters():
            parameter.grad = saved["gradients"].get(name)


def train(
    data: Data,
    recipe: Recipe,
    device: str,
    *,
    weights: Path | None = None,
    trust: bool = False,
    workers: int = 0,
    keep_images: bool = False,
    augment_on_device: bool = False,
    checkpoints: Path,
    save_every: float = 60.0,
    resume: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    """Train, and return the moving average of the weights and one row of losses and speed per epoch.

    The `seconds` of an epoch are the wall-clock time until all work queued on a GPU is done; `waited` is the part of
    them in which the loop waited for images. This is an upper bound on the time that a GPU was idle for lack of images,
    because it may have been executing queued work meanwhile. Without `workers` it is the time to read and augment.

    Args:
        data: the training part of a variant.
        recipe: the hyperparameters and the seed.
        device: `cpu` or `cuda:N`.
        weights: file to start from, instead of random weights.
        trust: whether `weights` may be a pickle.
        workers: processes that read and augment images; 0 means this process. The result does not depend on it.
        keep_images: keep the resized images in memory.
        augment_on_device: keep the resized images on the device instead, and augment them there.
        checkpoints: folder for checkpoints.
        save_every: seconds between two checkpoints; each is written after a batch, and one more at the end.
        resume: continue from the newest checkpoint.
        stopping: called after each batch; if it returns true, a checkpoint is written and the process ends.

    Raises:
        InputError: an image cannot be read, the disk is full, or the loss became NaN or infinite. Use within
            `explained` for an explanation if memory runs out.
    """
    state = _start(data, recipe, device, weights, trust)
    augmentation = {name: getattr(recipe, name) for name in AUGMENTATION}
    kind = LazyTrainingImages if augment_on_device else TrainingImages
    images = kind(
        data, augmentation, recipe.image_size, recipe.seed, recipe.epochs - recipe.close_mosaic, recipe.canvas
    )
    steps = math.ceil(len(images) / recipe.batch)  # in an epoch
    saved = _read_checkpoint(checkpoints, device) if resume else None
    if saved:
        state.restore(saved)
    first, skipped = divmod(state.done, steps)
    if saved:
        within = f" and {skipped} of {steps} batches" if skipped else ""
        logging.info("resuming after epoch %d of %d%s", first, recipe.epochs, within)
    pixels = DeviceImages(images, device) if augment_on_device else None
    if pixels:
        logging.info("%d images on %s: %.0f MB", len(images), device, pixels.pixels.nbytes / 1e6)
    elif keep_images:
        images.check_cache_fits()
        with ThreadPoolExecutor(threads_available()) as pool:
            kept = sum(pool.map(images.keep, range(len(images))))
        logging.info("%d images kept in memory: %.0f MB", len(images), kept / 1e6)
    what, total = f"train {data.variant}, seed {recipe.seed}", recipe.epochs * len(images)
    progress = Progress(what, total, "images", done=first * len(images) + skipped * recipe.batch)

    started = written = time.perf_counter()

    def keep() -> None:
        nonlocal started, written
        now = time.perf_counter()
        state.seconds, started = state.seconds + now - started, now
        _write_checkpoint(checkpoints / f"batch-{state.done:08}.pt", state.saved())
        written = time.perf_counter()

    batches = iter(_loader(images, recipe, device, workers, list(epoch_batches(recipe, len(images), first))[skipped:]))
    for epoch in range(first, recipe.epochs):
        note = f"epoch {epoch + 1}/{recipe.epochs}"
        if state.history:
            note += f", loss {state.history[-1]['loss']:.3f}"
        for number in range(state.done % steps + 1, steps + 1):
            asked = time.perf_counter()
            batch = next(batches)
            state.waited += time.perf_counter() - asked
            batch = pixels.with_pixels(batch) if pixels else batch
            _step(state, batch, recipe, device, steps)
            progress.step(len(batch["im_file"]), note)
            stop = stopping()
            due = stop or time.perf_counter() - written >= save_every
            if due and number < steps:
                keep()
                if stop:
                    raise stopped(f"epoch {epoch + 1}, batch {number} of {steps}")
        losses = {name: float(value) / steps for name, value in state.sums.items()}  # waits for work queued on a GPU
        now = time.perf_counter()
        state.seconds, started = state.seconds + now - started, now
        _close_epoch(state, recipe, epoch, losses, len(images))
        if epoch == first and epoch + 1 < recipe.epochs:
            seconds, waited = (state.history[-1][key] for key in ("seconds", "waited"))
            logging.info(
                "epoch %d took %.1f s, %.0f %% of it waiting for images; %d epochs will take about %.2f hours",
                epoch + 1, seconds, 100 * waited / seconds, recipe.epochs, seconds * recipe.epochs / 3600,
            )  # fmt: skip
        if due or epoch + 1 == recipe.epochs:
            keep()
        if stop and epoch + 1 < recipe.epochs:
            raise stopped(f"the end of epoch {epoch + 1}")
    return state.average.ema, state.history


def _start(data: Data, recipe: Recipe, device: str, weights: Path | None, trust: bool) -> State:
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.model, data.classes, inside=data.inside)
    if weights:
        taken = start_from(model, weights, trust)
        logging.info("%d of %d tensors start from %s", taken, len(model.state_dict()), weights)
    model = model.to(device, memory_format=torch.channels_last).train()  # faster on CPUs and GPUs
    optimizer = _optimizer(model, recipe)
    return State(model, ModelEMA(model, decay=recipe.ema_decay, tau=recipe.ema_tau), optimizer)


def _optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser; weight decay applies to all parameters but biases and those of normalization layers."""
    groups: dict[str, list[torch.nn.Parameter]] = {"bias": [], "weight": [], "norm": []}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                norm = isinstance(module, NORMS)
                groups["bias" if "bias" in name else "norm" if norm else "weight"].append(parameter)
    accumulated = max(round(recipe.nominal_batch / recipe.batch), 1)
    decay = recipe.weight_decay * recipe.batch * accumulated / recipe.nominal_batch
    settings = [
        {"params": parameters, "name": name, "weight_decay": decay if name == "weight" else 0.0}
        for name, parameters in groups.items()
    ]
    if recipe.optimizer == "SGD":
        return torch.optim.SGD(settings, lr=recipe.lr0, momentum=recipe.momentum, nesterov=True, fused=True)
    if recipe.optimizer == "Muon":
        return muon(settings, recipe.lr0, recipe.momentum)
    return torch.optim.AdamW(settings, lr=recipe.lr0, betas=(recipe.momentum, 0.999), fused=True)


def _loader(
    images: TrainingImages, recipe: Recipe, device: str, workers: int, batches: list[list[tuple[int, int]]]
) -> torch.utils.data.DataLoader:
    leaving = multiprocessing.RawValue("b", False)
    atexit.register(setattr, leaving, "value", True)
    return torch.utils.data.DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=partial(_outlive_sigterm, leaving),
        collate_fn=images.collate_fn,
        pin_memory=device != "cpu",
    )


def _outlive_sigterm(leaving: Any, worker: int) -> None:
    """Make a process that reads images ignore SIGTERM until the training is `leaving`.

    A cluster sends SIGTERM to all processes of a job, but the training still needs images to finish its batch. When the
    training exits, it sends SIGTERM itself to end these processes.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if leaving.value else None)


def _step(state: State, batch: Mapping[str, Any], recipe: Recipe, device: str, steps: int) -> None:
    """Accumulate a batch's gradients, and step the optimiser if enough batches are accumulated."""
    accumulated = _set_rates(state.optimizer, recipe, state.done, steps)
    # RT-DETR draws random numbers; they must not depend on how many were drawn before, so that resuming repeats them.
    torch.manual_seed(step_seed(recipe, state.done))
    loss, parts = loss_of(state.model, batch, recipe, device)
    loss.backward()
    state.sums = {name: state.sums.get(name, 0) + part for name, part in parts.items()}
    if state.done - state.last_step >= accumulated:
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), max_norm=recipe.gradient_clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.average.update(state.model)
        state.last_step = state.done
    state.done += 1


def _set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> int:
    """Set the learning rates and momenta for batch `step`; return how many batches are accumulated.

    Unless the schedule is onecycle, the epoch in which warm-up ends keeps the rates at the end of warm-up.
    """
    epoch, one_cycle = step // steps, recipe.schedule == "onecycle"
    rate = learning_rate(recipe, step / steps if one_cycle else epoch)
    # Rounded as in ultralytics' trainer, so that a fraction of an epoch has the same meaning.
    warm = round(min(recipe.warmup_epochs, recipe.epochs - 1) * steps)
    accumulated = min(max(round(recipe.nominal_batch / recipe.batch), 1), steps * recipe.epochs)
    warming = bool(warm) and (step < warm if one_cycle else epoch * steps <= warm)
    done = min(step / warm, 1.0) if warming else 1.0
    # Fraction of the way from `momentum` to `warmup_momentum`; None leaves the momentum unchanged.
    way: float | None = 1 - done if warming else None
    if one_cycle:
        left = (steps * recipe.epochs - step) / (steps * recipe.epochs - warm)
        way = (1 - math.cos(math.pi * min(done, left))) / 2
    for group in optimizer.param_groups:
        start = recipe.warmup_bias_lr if group["name"] == "bias" else 0.0
        group["lr"] = start + (rate - start) * done
        if way is None:
            continue
        momentum = recipe.momentum + (recipe.warmup_momentum - recipe.momentum) * way
        if "momentum" in group:
            group["momentum"] = momentum
        elif one_cycle:
            group["betas"] = (momentum, group["betas"][1])
    return max(1, round(1 + (accumulated - 1) * done))


def _close_epoch(state: State, recipe: Recipe, epoch: int, losses: dict[str, float], images: int) -> None:
    """Add an epoch's row to the history and reset the sums; raise InputError if a loss is NaN or infinite."""
    if not all(math.isfinite(value) for value in losses.values()):
        raise InputError(
            f"the loss became NaN or infinite in epoch {epoch + 1}: {losses}; try a lower --lr0 than {recipe.lr0}"
        )
    spent = {"seconds": state.seconds, "waited": state.waited, "images_per_s": images / state.seconds}
    rates = {group["name"]: group["lr"] for group in state.optimizer.param_groups}  # of the epoch's last step
    state.history.append({"epoch": epoch + 1, **losses, "loss": sum(losses.values()), "lr": rates["weight"], **spent})
    state.sums, state.seconds, state.waited = {}, 0.0, 0.0


def _write_checkpoint(path: Path, saved: Mapping[str, Any]) -> None:
    """Write a checkpoint, and keep the one before it in case the newest is truncated."""
    save_tensors(path, saved)
    for old in sorted(path.parent.glob("batch-*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _read_checkpoint(folder: Path, device: str) -> dict[str, Any] | None:
    """Return the newest checkpoint in `folder` that can be read, None if there is none."""
    for path in sorted(folder.glob("batch-*.pt"), reverse=True):
        try:
            saved = read_tensors(path, device)
            return {name: saved[name] for name in _SAVED}
        except Exception as error:  # truncated, or of an older format: use the one before
            logging.warning("warning: %s cannot be read (%s); ignored", path, type(error).__name__)
    return None


@contextlib.contextmanager
def explained(recipe: Recipe, device: str, workers: int, cache: str) -> Iterator[None]:
    """Convert torch's out-of-memory errors, and errors of processes that read images, to an InputError."""
    try:
        yield
    except InputError as error:  # the message of one from another process contains the traceback from there
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None
    except Exception as error:
        if not lacks_memory(error):
            raise
        where = f"the memory of {device}" if "cuda" in f"{device} {error}".lower() else "this machine's memory"
        raise InputError(
            f"--batch {recipe.batch} of --image-size {recipe.image_size} with {recipe.model} does not fit {where} "
            f"({workers} --workers, --cache {cache}: {type(error).__name__}); use a smaller --batch "
            f"(--nominal-batch {recipe.nominal_batch} keeps the optimiser's steps), image size or model, the same for "
            "every variant, or fewer --workers and --cache none if it is the machine's memory"
        ) from error


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Make torch use deterministic algorithms; it warns about operations that have none."""
    cudnn, filling = torch.backends.cudnn, torch.utils.deterministic.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.deterministic, cudnn.benchmark = True, False
    # Filling is a debugging aid that costs a pass over each new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        torch.utils.deterministic.fill_uninitialized_memory = filling
