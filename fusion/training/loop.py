"""The training loop: phases, losses, checkpoints and the moving average of the weights.

Every batch depends only on the seed and the iteration's number. A training that was killed therefore resumes from its
last checkpoint and ends, on a CPU with the same number of threads, with bit for bit the weights of an uninterrupted
training. On a GPU the weights are only close to them: the backward passes of replicate padding, reflect padding and
interpolation are not deterministic there.
"""

import copy
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fusion.fnet.gpu.graphs import captured
from fusion.methods import Phase, Training
from fusion.training.batches import prefetched_batches
from fusion.training.soap import SOAP
from pipeline.stage import InputError, Progress, stopped
from pipeline.tensors import read_tensors, write_tensors

KEPT_CHECKPOINTS = 2
OPTIMISERS = ("adam", "soap")
SCALAR_RATE_FACTOR = 3  # of SOAP's rate: thresholds and momenta are of the order of 1, weights of the order of 0.02


@dataclass(frozen=True)
class Settings:
    """Everything except the data that determines the trained weights.

    iterations: number for each phase.
    lr: initial learning rate of all phases, None for each phase's own.
    frozen: SHA-256 of a frozen network's weights, or `none`.
    start: SHA-256 of the weights that the network starts from, or `random`.
    revision: REVISION of `fusion.train`.
    method_revision: revision of the method's training (`Entry.training_revision`).
    """

    method: str
    iterations: tuple[int, ...]
    batch: int
    crop: int
    lr: float | None
    ema: float
    seed: int
    colour: str
    device: str
    revision: int
    method_revision: int = 1
    tones: float = 0.0
    frozen: str = "none"
    # Options of FNet; the other methods train with these defaults.
    precision: str = "fp32"
    block: str = "lzsc"
    without: tuple[str, ...] = ()
    optimiser: str = "adam"
    start: str = "random"


def train(
    training: Training,
    images: Sequence[np.ndarray],
    names: Sequence[str],
    settings: Settings,
    device: str,
    checkpoints: Path,
    resume: bool = True,
    checkpoint_every: int = 1000,
    log_every: int = 20,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, dict[str, Tensor]], pd.DataFrame]:
    """Train through all phases; return the networks' state dicts by name, and the losses.

    The state dicts are `weights_raw`, `weights` (the moving average) and those of the method's auxiliary networks. When
    `stopping` returns True, progress is saved and the process ends. The losses have one row for every `log_every`
    iterations: stage (the phase's number), iteration (from 1, within the stage), and each term's mean over these
    iterations.

    Raises:
        InputError: there are fewer pairs than a batch, or a loss or gradient is NaN or infinite (checkpoints are kept).
    """
    if len(images) < settings.batch:
        raise InputError(
            f"found {len(images)} pairs to train on; expected at least a batch of {settings.batch}: use a smaller "
            "--batch"
        )
    for network in (training.network, *training.auxiliary.values()):
        network.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(training.network).requires_grad_(False)
    networks = {"weights_raw": training.network, "weights": average, **training.auxiliary}
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    saved = _restore(checkpoints, networks, device)
    rows = saved["rows"]
    for stage in range(saved["stage"], len(training.phases) + 1):
        phase, iterations = training.phases[stage - 1], settings.iterations[stage - 1]
        optimiser, schedule = _optimiser(phase, settings, device)
        if saved["optimiser"] is not None:
            optimiser.load_state_dict(saved["optimiser"])
        first, sums = saved["iteration"], saved["sums"]
        progress = Progress(f"train {settings.method}, stage {phase.title}", iterations, "iterations", done=first)
        gradients = None
        for iteration, indices, pair in prefetched_batches(
            images, settings.batch, settings.crop, settings.seed, stage, range(first, iterations), settings.tones
        ):
            if gradients is None:
                gradients = _gradients(phase, device, pair if training.capturable and device != "cpu" else None)
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * schedule(iteration / iterations)
            if not training.capturable:
                # Random draws of the network itself, such as dropout, must also depend only on the iteration.
                torch.manual_seed(int(np.random.default_rng([settings.seed, stage, 2, iteration]).integers(2**62)))
            read_terms = gradients(pair)
            optimiser.step()
            _update_average(average, training.network, settings.ema)
            # The terms are read after the GPU's work is queued. A NaN has then spoiled the weights; they are not saved.
            terms = read_terms()
            done = iteration + 1
            if not math.isfinite(terms["total"]):
                where = f"stage {stage}, iteration {done}, pairs {[names[index] for index in indices]}"
                raise InputError(
                    f"the loss or its gradient became NaN or infinite at {where}; expected finite values. "
                    f"The last good state is in {checkpoints}; {_advice(pair, [names[index] for index in indices])}"
                )
            sums = {key: sums.get(key, 0.0) + value for key, value in terms.items()}
            if done % log_every == 0 or done == iterations:
                count = (done - 1) % log_every + 1
                rows.append({"stage": stage, "iteration": done, **{key: sums[key] / count for key in sums}})
                sums = {}
            progress.step(note=f"loss {terms['total']:.4f}")
            if (done % checkpoint_every == 0 or stopping()) and done < iterations:
                _save(checkpoints, networks, _position(rows, stage, done, sums, optimiser.state_dict()))
                if stopping():
                    raise stopped(f"stage {stage}, iteration {done}")
        saved = _position(rows, stage + 1)
        if stage < len(training.phases) and iterations:
            _save(checkpoints, networks, saved)
    return {name: network.state_dict() for name, network in networks.items()}, pd.DataFrame(rows)


def _advice(pair: Tensor, names: Sequence[str]) -> str:
    """Return advice about a loss that is NaN or infinite at a batch (2, N, 1, crop, crop) of the pairs `names`."""
    flat = (pair.amax((2, 3, 4)) == pair.amin((2, 3, 4))).any(0)
    if flat.any():
        which = ", ".join(dict.fromkeys(name for name, one in zip(names, flat.tolist(), strict=True) if one))
        return (
            f"crops of {which} are constant in a band, for which this loss may be undefined: leave these pairs out "
            "(--names), or use a larger --crop; otherwise a smaller --lr may help"
        )
    return "a smaller --lr may help"


def _position(
    rows: list[dict[str, float]],
    stage: int,
    iteration: int = 0,
    sums: Mapping[str, float] | None = None,
    optimiser: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the progress of a training: finished iterations of a stage, rows of losses, and sums of the next row.

    The optimiser's state is None at the start of a stage, which begins with a new optimiser.
    """
    return {"stage": stage, "iteration": iteration, "sums": sums or {}, "rows": rows, "optimiser": optimiser}


def _save(folder: Path, networks: Mapping[str, nn.Module], position: Mapping[str, Any]) -> None:
    """Write a checkpoint, and remove the oldest ones."""
    state = {**position, "networks": {name: network.state_dict() for name, network in networks.items()}}
    state["threads"] = torch.get_num_threads()
    write_tensors(folder / f"stage{position['stage']}-{position['iteration']:07}.pt", state)
    for old in sorted(folder.glob("stage*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _restore(folder: Path, networks: Mapping[str, nn.Module], device: str) -> dict[str, Any]:
    """Load the newest readable checkpoint into the networks and return its position; the start if there is none."""
    for path in sorted(folder.glob("stage*.pt"), reverse=True):
        try:
            state = read_tensors(path, device)
        except Exception as error:  # torch raises many kinds for a damaged file; the previous one may be intact
            logging.warning("warning: %s is unreadable (%s); trying the previous one", path, type(error).__name__)
            path.unlink()
            continue
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
        logging.info("resuming at stage %d, iteration %d", state["stage"], state["iteration"])
        threads = torch.get_num_threads()
        if device == "cpu" and threads != state["threads"]:
            before = state["threads"]
            logging.warning(
                "warning: the training ran on %d threads and resumes on %d: the last digits may differ", before, threads
            )
        return state
    return _position([], stage=1)


def _optimiser(phase: Phase, settings: Settings, device: str) -> tuple[torch.optim.Optimizer, Callable[[float], float]]:
    """Return a phase's optimiser, and the factor of its learning rates as a function of the phase's progress, 0..1."""
    rate = phase.lr if settings.lr is None else settings.lr
    if settings.optimiser == "soap":
        scalars = [parameter for parameter in phase.parameters if parameter.numel() == 1]
        weights = [parameter for parameter in phase.parameters if parameter.numel() > 1]
        groups = [{"params": weights, "initial_lr": rate}, {"params": scalars, "initial_lr": SCALAR_RATE_FACTOR * rate}]
        return SOAP(groups, lr=rate), lambda share: 1 - share
    groups = [{"params": list(part), "initial_lr": factor * rate} for part, factor in phase.groups()]
    # The fused implementation starts one kernel instead of dozens.
    fused = True if device != "cpu" else None
    adam = torch.optim.Adam(groups, rate, phase.betas, weight_decay=phase.weight_decay, fused=fused)
    return adam, phase.schedule or (lambda share: 1.0)


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Update the moving average of the weights; buffers, such as batch statistics, are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for averaged, current in zip(average.buffers(), network.buffers(), strict=True):
        averaged.copy_(current)


def _gradients(phase: Phase, device: str, example: Tensor | None) -> Callable[[Tensor], Callable[[], dict[str, float]]]:
    """Return a function that runs forward and backward on a batch; on a GPU it is captured as a CUDA graph.

    `example` is a batch to capture the graph from; None runs without one. The function returns a second function, which
    waits for the terms' values and must be called before the next batch. If the loss or the norm of its gradient is NaN
    or infinite, so is `total`.
    """
    names: list[str] = []

    def fill(pair: Tensor) -> Tensor:
        terms = phase.loss(pair[0], pair[1])
        for parameter in phase.parameters:
            parameter.grad = None
        terms["total"].backward()
        names[:] = terms
        norm = nn.utils.get_total_norm([parameter.grad for parameter in phase.parameters])
        if phase.clip is not None:
            for parameters, _ in phase.groups():
                nn.utils.clip_grad_norm_(parameters, phase.clip)
        return torch.stack([*terms.values(), norm]).detach()

    run_fill = fill if example is None else captured(fill, example.to(device))

    def gradients(pair: Tensor) -> Callable[[], dict[str, float]]:
        if device != "cpu":
            pair = pair.pin_memory() if example is not None else pair.to(device)
        filled = run_fill(pair)

        def read_terms() -> dict[str, float]:
            *values, norm = filled.tolist()
            terms = dict(zip(names, values, strict=True))
            return terms if math.isfinite(norm) else terms | {"total": math.nan}

        return read_terms

    return gradients
