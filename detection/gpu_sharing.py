"""Several trainings on one GPU: choose how many, and claim the GPU for them.

A small network leaves a GPU idle while its process prepares the next step; another process can use the GPU meanwhile.
Each training remains a separate process with the same result as without sharing. The number of trainings that share a
GPU is set in the configuration, or found by a trial (detection.trial).
"""

import argparse
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.artefacts import only_writer, read_json, write_json
from pipeline.devices import MOST_PER_GPU, claimed_device
from pipeline.stage import InputError, threads_available

LEAST_GAIN = 0.05  # least relative gain in total throughput for which one more training is added
TRIAL_S = 3600.0  # seconds to wait for the trial of another process
CONTEXT = 2**30  # bytes of GPU memory that a process uses in addition to the memory that torch counts


@dataclass(frozen=True)
class Trial:
    """Measurements of several trainings that run concurrently on one device.

    Attributes:
        at_once: number of trainings.
        images_per_s: throughput of all trainings together.
        memory: bytes of device memory that torch reserved, the maximum over the trainings.
        free: bytes of device memory that were free while all trainings ran.
    """

    at_once: int
    images_per_s: float
    memory: int
    free: int


def leaves_room(trial: Trial) -> bool:
    """Return whether one more training fits into the device memory, with a margin of 10 % of its memory."""
    return trial.free >= 1.1 * (trial.memory + CONTEXT)


def worthwhile(trials: Sequence[Trial]) -> int:
    """Return the number of concurrent trainings to use, from trials of 1, 2, ... concurrent trainings.

    The number is increased as long as the total throughput increases by at least `LEAST_GAIN`.
    """
    best = trials[0]
    for trial in trials[1:]:
        if trial.images_per_s < (1 + LEAST_GAIN) * best.images_per_s:
            break
        best = trial
    return best.at_once


def add_sharing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how many trainings share a GPU."""
    parser.add_argument(
        "--per-gpu",
        default="1",
        metavar="N",
        help=f"number (1 to {MOST_PER_GPU}) of trainings and tests that share one GPU and divide --threads "
        "among them; auto: the number that a trial of several concurrent trainings gave (default: 1)",
    )
    parser.add_argument(
        "--tried",
        type=Path,
        help="with --per-gpu auto: the JSON file with the result of the trial; if it is missing, a training makes the "
        "trial and writes it",
    )


@contextlib.contextmanager
def shared_device(
    args: argparse.Namespace,
    of: Mapping[str, Any] | None = None,
    trial: Callable[[str, int], list[Trial]] | None = None,
) -> Iterator[tuple[str, int]]:
    """Yield the device as `claimed_device` does, and the number of processes that may share it.

    Args:
        args: the options of `add_sharing_options`, and `device` and `threads`.
        of: the settings that the result of a trial depends on. Without them, with --per-gpu auto, the number is the
            smallest of all trials, or 1 if there is none.
        trial: called with a device, which is claimed exclusively, and the largest number of processes, if there is no
            result for `of` yet.

    Raises:
        InputError: --per-gpu or --tried is invalid, or `claimed_device` raises one.
    """
    if args.per_gpu == "auto":
        if args.tried is None:
            raise InputError("--per-gpu auto without --tried: expected --tried FILE, for the result of the trial")
        number = _known(args.tried, of)
        if number is None and trial is not None:
            # Wait here for the trial of another process, not for an exclusive GPU: the other process goes on to train.
            with only_writer(args.tried.with_suffix(".trial"), TRIAL_S):
                number = _known(args.tried, of)
                if number is None:
                    number = _try(args, of, trial)
        number = number or 1
    elif args.per_gpu.isdecimal() and 1 <= int(args.per_gpu) <= MOST_PER_GPU:
        number = int(args.per_gpu)
    else:
        raise InputError(f"--per-gpu {args.per_gpu}: expected 1 to {MOST_PER_GPU}, or auto")
    with claimed_device(args.device, args.threads, number) as device:
        yield device, 1 if device == "cpu" else number


def _try(
    args: argparse.Namespace, of: Mapping[str, Any] | None, trial: Callable[[str, int], list[Trial]]
) -> int | None:
    """Return the number found by a trial on an exclusive GPU, and add it to the file --tried; None on a CPU."""
    with claimed_device(args.device, args.threads) as device:
        if device == "cpu":
            return None
        trials = trial(device, min(MOST_PER_GPU, threads_available(args.threads)))
    number = worthwhile(trials)
    found = {"per_gpu": number, "of": of, "trials": [asdict(one) for one in trials]}
    write_json(args.tried, {"tried": [*_tried(args.tried), found]})
    logging.info("%d trainings will share a GPU", number)
    return number


def _known(path: Path, of: Mapping[str, Any] | None) -> int | None:
    """Return the number found by a trial for `of`, without `of` the smallest of all trials; None if there is none."""
    return min((found["per_gpu"] for found in _tried(path) if of in (None, found["of"])), default=None)


def _tried(path: Path) -> list[dict[str, Any]]:
    """Return the results of the trials in the file; an empty list if the file is missing or malformed."""
    try:
        found = read_json(path)["tried"]
        return [one for one in found if one["per_gpu"] in range(1, MOST_PER_GPU + 1) and "of" in one]
    except (OSError, InputError, KeyError, TypeError):
        return []
