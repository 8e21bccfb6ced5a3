"""Several trainings on one GPU: how many, and their claim of it.

One small network leaves a GPU idle while its process prepares the next step; another process can use it then. Each
training stays a process of its own and ends where it would have ended alone. How many pay is said by the configuration,
or found by a trial (detection.trial).
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

LEAST_GAIN = 0.05  # of the rate of all together, for which one more is worth its memory
TRIAL_S = 3600.0  # for which another's trial is waited for
CONTEXT = 2**30  # bytes that a process takes of a GPU besides what torch counts


@dataclass(frozen=True)
class Trial:
    """What some trainings did at once.

    Attributes:
        at_once: how many there were.
        images_per_s: of all together.
        memory: bytes of the device that torch took in the one that took most.
        free: bytes that were left on the device while all were at work.
    """

    at_once: int
    images_per_s: float
    memory: int
    free: int


def leaves_room(trial: Trial) -> bool:
    """Return whether one more training fits the device, and a tenth of its memory stays to spare."""
    return trial.free >= 1.1 * (trial.memory + CONTEXT)


def worthwhile(trials: Sequence[Trial]) -> int:
    """Return how many at once pay, from trials of 1, 2, ... at once: up to the first that gains too little.

    Each has to be ahead of the one before by `LEAST_GAIN`.
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
        help=f"trainings and tests that share a GPU, 1 to {MOST_PER_GPU}, and the --threads beside it; auto: as many "
        "as --tried says (default: 1)",
    )
    parser.add_argument(
        "--tried", type=Path, help="with --per-gpu auto: the JSON file of the trial; a training makes it"
    )


@contextlib.contextmanager
def shared_device(
    args: argparse.Namespace,
    of: Mapping[str, Any] | None = None,
    trial: Callable[[str, int], list[Trial]] | None = None,
) -> Iterator[tuple[str, int]]:
    """Yield the device as `claimed_device` does, and how many processes may share it.

    Where the number is to be tried and is not known for `of`, what the trial hangs on, the GPU is claimed alone, and
    `trial` called with it and the largest number. Without `of` the number is taken from any trial, and is 1 without.

    Raises:
        InputError: the options say no number, or as `claimed_device`.
    """
    if args.per_gpu == "auto":
        if args.tried is None:
            raise InputError("--per-gpu auto without --tried: wanted the file for what a trial finds")
        number = _known(args.tried, of)
        if number is None and trial is not None:
            # Who waits here for another's trial does not wait for the GPU alone, on which that one goes on to train.
            with only_writer(args.tried.with_suffix(".trial"), TRIAL_S):
                number = _known(args.tried, of)
                if number is None:
                    number = _try(args, of, trial)
        number = number or 1
    elif args.per_gpu.isdecimal() and 1 <= int(args.per_gpu) <= MOST_PER_GPU:
        number = int(args.per_gpu)
    else:
        raise InputError(f"--per-gpu {args.per_gpu}: wanted 1 to {MOST_PER_GPU}, or auto")
    with claimed_device(args.device, args.threads, number) as device:
        yield device, 1 if device == "cpu" else number


def _try(
    args: argparse.Namespace, of: Mapping[str, Any] | None, trial: Callable[[str, int], list[Trial]]
) -> int | None:
    """Return the number that a trial on a GPU of its own finds, kept beside those of other trials; None on a CPU."""
    with claimed_device(args.device, args.threads) as device:
        if device == "cpu":
            return None
        trials = trial(device, min(MOST_PER_GPU, threads_available(args.threads)))
    number = worthwhile(trials)
    found = {"per_gpu": number, "of": of, "trials": [asdict(one) for one in trials]}
    write_json(args.tried, {"tried": [*_tried(args.tried), found]})
    logging.info("%d at once on a GPU", number)
    return number


def _known(path: Path, of: Mapping[str, Any] | None) -> int | None:
    """Return the number that a trial of `of` found, without it the least of all; None where the file does not say."""
    return min((found["per_gpu"] for found in _tried(path) if of in (None, found["of"])), default=None)


def _tried(path: Path) -> list[dict[str, Any]]:
    """Return what is kept of the trials so far; nothing where the file is missing or of another kind."""
    try:
        found = read_json(path)["tried"]
        return [one for one in found if one["per_gpu"] in range(1, MOST_PER_GPU + 1) and "of" in one]
    except (OSError, InputError, KeyError, TypeError):
        return []
