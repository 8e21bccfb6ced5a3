"""How many trainings at once on one GPU pay: some steps of the real recipe, by ever more processes."""

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
from detection.images import resized_bytes
from detection.loop import deterministic, train
from detection.recipe import Recipe, epoch_order
from detection.side_by_side import Trial, leaves_room, worthwhile
from detection.variant import Data
from pipeline.devices import memory_available, use

UNTIMED_STEPS = 5  # libraries load and kernels are chosen
STEPS, EPOCHS = 50, 400  # of a training that is left long before its end
PATIENCE = 600.0  # seconds until the slowest of the processes has begun


def part_of(data: Data, recipe: Recipe, steps: int) -> Data:
    """Return the first images of the first epoch, as many as `steps` take; all where there are not so many."""
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
    """Leaves a training that has been measured."""


def try_at_once(
    data: Data,
    recipe: Recipe,
    device: str,
    most: int,
    threads: int,
    workers: Callable[[int], int],
    seconds: float = 15.0,
    **reading: bool,
) -> list[Trial]:
    """Train by 1, 2, ... processes at once for `seconds` each, until one more does not fit, or does not pay.

    Args:
        data: the training part of a variant.
        recipe: of the trainings.
        device: `cpu` or `cuda:N`.
        most: processes to try.
        threads: of the CPU, for all together.
        workers: gives the processes that read images for each training, by how many trainings there are.
        seconds: of work that is measured.
        reading: `keep_images` and `augment_on_device` of `train`.

    Raises:
        Exception: what a single training raises; where memory does not suffice for more, they are not counted.
    """
    trials: list[Trial] = []
    unread = 0  # bytes of images that a training keeps on the device, and a trial has not
    if reading.get("augment_on_device"):
        all_of_them, read = (resized_bytes(part, recipe.image_size) for part in (data, part_of(data, recipe, STEPS)))
        unread = all_of_them - read
    for at_once in range(1, most + 1):
        how = {**reading, "workers": workers(at_once)}
        try:
            trial = _together(at_once, (data, recipe, device, max(1, threads // at_once), how, seconds))
        except Exception as error:
            killed = isinstance(error, BrokenProcessPool)  # as the system does where memory runs out
            if not trials or not (killed or lacks_memory(error)):
                raise
            logging.info("%d trainings at once do not fit the memory", at_once)
            break
        trials.append(replace(trial, memory=trial.memory + unread, free=trial.free - at_once * unread))
        logging.info("%d trainings at once: %.1f images/s together", at_once, trial.images_per_s)
        if worthwhile(trials) < at_once or not leaves_room(trials[-1]):
            break
    return trials


def _together(at_once: int, work: tuple[Any, ...]) -> Trial:
    context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
    with ProcessPoolExecutor(at_once, context, _begin, (context.Barrier(at_once, timeout=PATIENCE),)) as pool:
        found = [pool.submit(_measure, *work) for _ in range(at_once)]
        errors = [error for one in found if (error := one.exception())]
    # One that fails releases the others, which then know no reason of their own.
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    rates, memory, free = zip(*map(Future.result, found), strict=True)
    return Trial(at_once, sum(rates), max(memory), min(free))


def _begin(barrier: Any) -> None:
    """Keep the barrier at which processes wait for each other, and end with the process that started this one."""
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
    """Train for `seconds` while the others do; return images a second, memory taken, and memory left."""
    torch.set_num_threads(threads)
    if device != "cpu":
        torch.backends.cudnn.allow_tf32 = False  # as `claimed_device` has it
        use(device)
    steps, start, found = 0, 0.0, None
    some = part_of(data, recipe, STEPS)
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
        _barrier.wait()  # the memory that is left is that beside all of them
        found = rate, *_memory(device)
        _barrier.wait()
        raise _DoneError

    # With mosaic, where most of the trainings' epochs have it.
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
    raise RuntimeError(f"{steps} steps were over before {seconds} s were")


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _memory(device: str) -> tuple[int, int]:
    """Return the most bytes that this process took of the device's memory, and those that are free there."""
    if device == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, int(memory_available())
    return torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[0]
