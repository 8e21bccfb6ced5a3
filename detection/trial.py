"""Find how many trainings to run concurrently on one GPU: time some steps of the recipe in 1, 2, ... processes."""

import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import torch

from detection.detector import lacks_memory
from detection.gpu_sharing import Trial, leaves_room, worthwhile
from detection.images import resized_bytes
from detection.loop import deterministic, train
from detection.recipe import Recipe, epoch_order
from detection.variant import Data
from pipeline.devices import memory_available, use

UNTIMED_STEPS = 5  # in which libraries are loaded and kernels are selected
STEPS, EPOCHS = 50, 400  # more than a trial takes; the training is stopped once it is measured
PATIENCE = 600.0  # seconds to wait for the slowest process to start


def subset_for_steps(data: Data, recipe: Recipe, steps: int) -> Data:
    """Return the data restricted to the images of the first `steps` batches of the first epoch, or all images."""
    order = epoch_order(recipe, len(data.images), 0)[: steps * recipe.batch]
    images = [data.truth["images"][index] for index in order]
    ids, names = {image["id"] for image in images}, [image["file_name"] for image in images]
    annotations = [a for a in data.truth["annotations"] if a["image_id"] in ids]
    truth = {**data.truth, "images": images, "annotations": annotations}
    return replace(
        data,
        truth=truth,
        images={name: data.images[name] for name in names},
        sha256={name: data.sha256[name] for name in names},
    )


class _DoneError(Exception):
    """Raised to leave a training that has been measured."""


def run_trials(
    data: Data,
    recipe: Recipe,
    device: str,
    most: int,
    threads: int,
    workers: Callable[[int], int],
    seconds: float = 15.0,
    **reading: bool,
) -> list[Trial]:
    """Train in 1, 2, ... concurrent processes for `seconds` each, until one more does not fit or gains too little.

    Args:
        data: the training part of a variant.
        recipe: recipe of the trainings.
        device: `cpu` or `cuda:N`.
        most: largest number of processes.
        threads: CPU threads of all processes together.
        workers: returns the number of processes that read images for each training, given the number of trainings.
        seconds: measured duration of each trial.
        reading: `keep_images` and `augment_on_device` of `train`.

    Raises:
        Exception: the exception of a single training. If several run out of memory, their number is not tried further.
    """
    trials: list[Trial] = []
    unread = 0  # bytes of images that a training keeps on the device, but a trial does not
    if reading.get("augment_on_device"):
        subset = subset_for_steps(data, recipe, STEPS)
        unread = resized_bytes(data, recipe.image_size) - resized_bytes(subset, recipe.image_size)
    for at_once in range(1, most + 1):
        how = {**reading, "workers": workers(at_once)}
        try:
            trial = _run_trial(at_once, (data, recipe, device, max(1, threads // at_once), how, seconds))
        except Exception as error:
            killed = isinstance(error, BrokenProcessPool)  # the system kills a process if memory runs out
            if not trials or not (killed or lacks_memory(error)):
                raise
            logging.info("%d concurrent trainings do not fit into memory", at_once)
            break
        trials.append(replace(trial, memory=trial.memory + unread, free=trial.free - at_once * unread))
        logging.info("%d concurrent trainings: %.1f images/s in total", at_once, trial.images_per_s)
        if worthwhile(trials) < at_once or not leaves_room(trials[-1]):
            break
    return trials


def _run_trial(at_once: int, work: tuple[Any, ...]) -> Trial:
    """Return the measurements of `at_once` concurrent trainings."""
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used in a forked process
    with ProcessPoolExecutor(at_once, context, _begin, (context.Barrier(at_once, timeout=PATIENCE),)) as pool:
        found = [pool.submit(_measure, *work) for _ in range(at_once)]
        errors = [error for one in found if (error := one.exception())]
    # A process that fails breaks the barrier of the others, so its error is the cause of theirs.
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    rates, memory, free = zip(*map(Future.result, found), strict=True)
    return Trial(at_once, sum(rates), max(memory), min(free))


def _begin(barrier: Any) -> None:
    """Store the barrier that synchronizes the processes, and exit when the parent process ends."""
    global _barrier
    _barrier = barrier
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measure(
    data: Data, recipe: Recipe, device: str, threads: int, how: dict[str, Any], seconds: float
) -> tuple[float, int, int]:
    """Train for `seconds` at the same time as the others; return images per second, memory used and memory free."""
    torch.set_num_threads(threads)
    if device != "cpu":
        torch.backends.cudnn.allow_tf32 = False  # as in `claimed_device`
        use(device)
    steps, start, found = 0, 0.0, None
    some = subset_for_steps(data, recipe, STEPS)
    per_step = len(some.images) / math.ceil(len(some.images) / recipe.batch)

    def stopping() -> bool:
        nonlocal steps, start, found
        steps += 1
        if steps < UNTIMED_STEPS or (steps > UNTIMED_STEPS and time.perf_counter() - start < seconds):
            return False
        _synchronize(device)
        if steps == UNTIMED_STEPS:
            _barrier.wait()
            start = time.perf_counter()
            return False
        rate = (steps - UNTIMED_STEPS) * per_step / (time.perf_counter() - start)
        _barrier.wait()  # free memory is read while all trainings still hold theirs
        found = rate, *_memory(device)
        _barrier.wait()
        raise _DoneError

    # With mosaic if the training has epochs with mosaic.
    long = replace(recipe, epochs=EPOCHS, close_mosaic=0 if recipe.close_mosaic < recipe.epochs else EPOCHS)
    logging.disable(logging.INFO)
    try:
        with tempfile.TemporaryDirectory() as folder, deterministic():
            train(some, long, device, **how, checkpoints=Path(folder), save_every=math.inf, stopping=stopping)
    except _DoneError:
        return found
    except BaseException:
        _barrier.abort()
        raise
    raise RuntimeError(f"the training ended after {steps} steps, in less than {seconds} s")


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _memory(device: str) -> tuple[int, int]:
    """Return the peak memory of this process on the device, and the free memory there, in bytes."""
    if device == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, int(memory_available())
    return torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[0]
