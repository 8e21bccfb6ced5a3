"""Stage: train a fusion network on aligned pairs, through its phases.

FNet has the paper's two: stage I trains FNet and IFNet together, so that the sources can be had back from the fused
image (Eq. 25); stage II trains FNet alone to resemble both sources (Eq. 26). The other methods have those of their own
papers (`Method.training`). Every batch depends on the seed and the iteration's number alone, so that a run that was
killed resumes from its last checkpoint and ends bit for bit where it would have ended.
"""

import argparse
import copy
import logging
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fusion.fnet.gpu.graphs import recorded
from fusion.fnet.losses import TERMS
from fusion.fnet.network import BLOCKS
from fusion.fuse import weights_digest
from fusion.methods import METHODS, Phase, Training
from fusion.methods.fnet import from_authors
from fusion.training.batches import drawn_batches, load_luma
from fusion.training.soap import SOAP
from fusion.weights import fill, read_state, write_state
from pipeline.artefacts import only_writer, sha256_file, sha256_json, versions, write_csv, write_json
from pipeline.colour import COLOURS
from pipeline.devices import DEVICES, PRECISIONS, claimed_device, resolved_precision
from pipeline.pairs import Pair, find_pairs, read_names
from pipeline.stage import InputError, Progress, run, stop_asked, stopped
from pipeline.tensors import read_tensors, write_tensors

REVISION = 4  # raise when the same options would train other weights
KEPT_CHECKPOINTS = 2
OPTIMISERS = ("adam", "soap")
SCALARS_RATE = 3  # of SOAP: thresholds and momenta are of the order of 1, weights of 0.02
TRAINABLE = [name for name, method in METHODS.items() if method.training]


@dataclass(frozen=True)
class Settings:
    """Everything but the data that decides which weights come out.

    iterations: of each phase; lr: None for each phase's own; frozen: the SHA-256 of a frozen network's weights, or
    `none`; start: that of the weights that the network starts from, or `random`.
    """

    method: str
    iterations: tuple[int, ...]
    batch: int
    crop: int
    lr: float | None
    ema: float
    seed: int
    colour: str
    precision: str
    device: str
    block: str = "lzsc"
    without: tuple[str, ...] = ()
    tones: float = 0.0
    optimiser: str = "adam"
    frozen: str = "none"
    start: str = "random"
    revision: int = REVISION


@dataclass
class _State:
    """What a checkpoint holds: the networks, and the rows of losses so far."""

    networks: dict[str, nn.Module]
    rows: list[dict[str, float]]

    def save(self, folder: Path, stage: int, iteration: int, sums: Mapping[str, float], optimiser: Any) -> None:
        state = {"stage": stage, "iteration": iteration, "sums": dict(sums), "rows": self.rows}
        state["networks"] = {name: network.state_dict() for name, network in self.networks.items()}
        state["optimiser"] = optimiser.state_dict()
        write_tensors(folder / f"stage{stage}-{iteration:07}.pt", state)
        for old in sorted(folder.glob("stage*.pt"))[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def restore(self, folder: Path, device: str) -> dict[str, Any] | None:
        """Fill the networks from the newest readable checkpoint; return its content, None without one."""
        for path in sorted(folder.glob("stage*.pt"), reverse=True):
            try:
                state = read_tensors(path, device)
            except Exception as error:  # whatever a damaged file makes torch raise, the one before it may be whole
                logging.warning("warning: %s is unreadable (%s); trying the one before", path, type(error).__name__)
                path.unlink()
                continue
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name])
            self.rows.extend(state["rows"])
            logging.info("resuming at stage %d, iteration %d", state["stage"], state["iteration"])
            return state
        return None


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
    """Train through all phases; return state dicts `weights_raw`, `weights` (averaged), those beside, and the losses.

    Where `stopping` says so, progress is saved and the process ends. The losses have one row for every `log_every`
    iterations: stage (the phase's number), iteration (from 1, within the stage), and each term's mean over those.

    Raises:
        InputError: fewer pairs than a batch, or a loss or gradient that is not finite (checkpoints stay).
    """
    if len(images) < settings.batch:
        raise InputError(f"found {len(images)} pairs to train on; wanted at least a batch of {settings.batch}")
    for network in (training.network, *training.beside.values()):
        network.to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(training.network).requires_grad_(False)
    state = _State({"weights_raw": training.network, "weights": average, **training.beside}, [])
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    restored = state.restore(checkpoints, device)
    for stage, (phase, iterations) in enumerate(zip(training.phases, settings.iterations, strict=True), start=1):
        if restored is not None and restored["stage"] > stage:
            continue
        optimiser = _optimiser(phase, settings, device)
        schedule = phase.schedule if settings.optimiser == "adam" else lambda share: 1 - share
        first, sums = 0, {}
        if restored is not None and restored["stage"] == stage:
            optimiser.load_state_dict(restored["optimiser"])
            first, sums = restored["iteration"], restored["sums"]
        progress = Progress(f"train {settings.method}, stage {phase.title}", iterations, "iterations", done=first)
        gradients = None
        coming = drawn_batches(
            images,
            size=settings.batch,
            crop=settings.crop,
            seed=settings.seed,
            stage=stage,
            iterations=range(first, iterations),
            tones=settings.tones,
        )
        for iteration, indices, pair in coming:
            if gradients is None:
                gradients = _gradients(phase, device, pair if training.recordable and device != "cpu" else None)
            if schedule:
                for group in optimiser.param_groups:
                    group["lr"] = group["initial_lr"] * schedule(iteration / iterations)
            if not training.recordable:
                # What a network draws in training, such as dropout, depends on the iteration alone, too.
                torch.manual_seed(int(np.random.default_rng([settings.seed, stage, 2, iteration]).integers(2**62)))
            read_terms = gradients(pair)
            optimiser.step()
            _follow(average, training.network, settings.ema)
            # A GPU has all its work by now; what is not finite has spoiled the weights, but they are not saved.
            terms = read_terms()
            if not math.isfinite(terms["total"]):
                where = f"stage {stage}, iteration {iteration + 1}, pairs {[names[index] for index in indices]}"
                raise InputError(
                    f"the loss or its gradient is not finite at {where}; wanted finite ones. "
                    f"The last good state is in {checkpoints}; a smaller --lr may help"
                )
            sums = {key: sums.get(key, 0.0) + value for key, value in terms.items()}
            done = iteration + 1
            if done % log_every == 0 or done == iterations:
                count = (done - 1) % log_every + 1
                state.rows.append({"stage": stage, "iteration": done, **{key: sums[key] / count for key in sums}})
                sums = {}
            progress.step(note=f"loss {terms['total']:.4f}")
            if (done % checkpoint_every == 0 or stopping()) and done < iterations:
                state.save(checkpoints, stage, done, sums, optimiser)
                if stopping():
                    raise stopped(f"stage {stage}, iteration {done}")
        # The next stage starts with a fresh optimiser: its checkpoint is that of iteration 0.
        if stage < len(training.phases) and iterations:
            state.save(checkpoints, stage + 1, 0, {}, _optimiser(training.phases[stage], settings, device))
    states = {name: network.state_dict() for name, network in state.networks.items()}
    return states, pd.DataFrame(state.rows)


def _optimiser(phase: Phase, settings: Settings, device: str) -> torch.optim.Optimizer:
    rate = phase.lr if settings.lr is None else settings.lr
    if settings.optimiser == "soap":
        scalars = [parameter for parameter in phase.parameters if parameter.numel() == 1]
        weights = [parameter for parameter in phase.parameters if parameter.numel() > 1]
        groups = [{"params": weights, "initial_lr": rate}, {"params": scalars, "initial_lr": SCALARS_RATE * rate}]
        return SOAP([{**group, "lr": group["initial_lr"]} for group in groups], lr=rate)
    groups = [
        {"params": list(parameters), "lr": factor * rate, "initial_lr": factor * rate}
        for parameters, factor in phase.groups()
    ]
    # Fused: one kernel where there would be dozens.
    return torch.optim.Adam(groups, weight_decay=phase.weight_decay, fused=True if device != "cpu" else None)


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the network's; statistics that are no weights are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mine, its in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(its)


def _gradients(phase: Phase, device: str, example: Tensor | None) -> Callable[[Tensor], Callable[[], dict[str, float]]]:
    """Return what fills the phase's gradients from a batch; `example` to record it by, on a GPU.

    What that returns waits for the terms' values, and is called before the next batch. A `total` that is not finite
    says that the loss or its gradient is not.
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

    run_fill = fill if example is None else recorded(fill, example.to(device))

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


def data_digest(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of the pairs' names and file contents."""
    return sha256_json([[pair.name, sha256_file(pair.visible), sha256_file(pair.infrared)] for pair in pairs])


def write_results(
    output: Path, states: Mapping[str, Mapping[str, Tensor]], losses: pd.DataFrame, facts: dict[str, Any]
) -> None:
    """Write weights.safetensors (averaged), weights_raw.safetensors, those beside, losses.csv, provenance.json."""
    for name, state in states.items():
        write_state(output / f"{name}.safetensors", state, {"digest": facts["digest"]})
    columns = ["stage", "iteration", "total"]
    losses = losses.reindex(columns=[*columns, *(c for c in losses.columns if c not in columns)])
    write_csv(output / "losses.csv", losses, {"digest": facts["digest"], "values": "means since the row above"})
    final = {str(stage): group["total"].iloc[-1] for stage, group in losses.groupby("stage")}
    digests = {name: sha256_file(output / f"{name}.safetensors") for name in states}
    write_json(output / "provenance.json", {**facts, "final_losses": final, "sha256": digests})


def _terms(values: Collection[str]) -> tuple[str, ...]:
    if set(values) == set(TERMS):
        raise InputError(f"--without {' '.join(values)} leaves no loss in stage II; wanted at least one term kept")
    return tuple(sorted(set(values)))


def _iterations(options: argparse.Namespace, training: Training) -> tuple[int, ...]:
    """Return each phase's iterations: those asked for, else those that its authors take."""
    if options.method == "fnet":
        asked = [options.stage1_iterations, options.stage2_iterations]
        if options.iterations is not None:
            raise InputError("--iterations is for the other methods; wanted --stage1-iterations, --stage2-iterations")
    else:
        asked = list(options.iterations or [None])
        if len(asked) not in (1, len(training.phases)):
            titles = ", ".join(phase.title for phase in training.phases)
            raise InputError(f"--iterations has {len(asked)} numbers; wanted one, or one for each of: {titles}")
        asked = asked * len(training.phases) if len(asked) == 1 else asked
    chosen = [
        given if given is not None else phase.iterations for given, phase in zip(asked, training.phases, strict=True)
    ]
    if None in chosen:
        raise InputError(f"--method {options.method}: its paper does not say how long it trains; wanted --iterations")
    return tuple(chosen)


def _frozen(options: argparse.Namespace) -> Path | None:
    """Return the weights of a frozen network that were given; InputError where the method has no use for them."""
    wanted = METHODS[options.method].frozen
    for name in ("perceptual_weights", "teacher_weights"):
        if getattr(options, name) and name != wanted:
            raise InputError(f"--{name.replace('_', '-')} with --method {options.method}: its losses need none")
    return getattr(options, wanted) if wanted else None


def _training(options: argparse.Namespace, frozen: Path | None, precision: str) -> Training:
    """Return what `--method` trains, with random weights from the seed, or those of `--start`."""
    make = METHODS[options.method].training
    if options.method == "fnet":
        make = partial(make, block=options.block, without=_terms(options.without), precision=precision)
    elif options.block != "lzsc" or options.without or options.start or options.optimiser != "adam":
        raise InputError(
            f"--method {options.method} with --block, --without, --start or --optimiser: these are for fnet alone"
        )
    torch.manual_seed(options.seed)
    training = make(frozen)
    if options.start:
        start = from_authors(read_state(options.start))
        fill(training.network, start, options.start)
    return training


def main(argv: Sequence[str] | None = None) -> None:
    """Train a fusion network."""
    parser = argparse.ArgumentParser(prog="python -m fusion.train", description=__doc__)
    parser.add_argument("--method", default="fnet", help=f"the network to train: {', '.join(TRAINABLE)}; default fnet")
    parser.add_argument("--visible", type=Path, required=True, nargs="+", help="folders of visible images")
    parser.add_argument("--infrared", type=Path, required=True, nargs="+", help="folders of infrared images")
    parser.add_argument("--names", type=Path, nargs="+", help="lists of stems, one a line, to train on; default all")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, losses and checkpoints")
    parser.add_argument(
        "--perceptual-weights", type=Path, help="torchvision's VGG weights, for methods whose losses look through one"
    )
    parser.add_argument(
        "--teacher-weights", type=Path, help="weights of the method whose fused images emma starts from"
    )
    parser.add_argument(
        "--iterations",
        type=int,
        nargs="+",
        metavar="N",
        help="of each phase of a method other than fnet: one number for all, or one each; default its authors'",
    )
    parser.add_argument(
        "--stage1-iterations", type=int, help="of FNet; 0: the ablation 'without IFNet'; default 20000, the paper's"
    )
    parser.add_argument("--stage2-iterations", type=int, help="of FNet alone; default 20000, the paper's")
    parser.add_argument(
        "--block", choices=list(BLOCKS), default="lzsc", help="FNet's coding block; lcsc is an ablation; default lzsc"
    )
    parser.add_argument(
        "--without", choices=TERMS, nargs="+", default=[], help="terms left out of FNet's stage II; default none"
    )
    parser.add_argument("--start", type=Path, help="FNet's weights to start from; default random ones")
    parser.add_argument("--batch", type=int, help="pairs in an iteration; default the authors', 16 for fnet")
    parser.add_argument("--crop", type=int, help="side of the random crops, pixels; default the authors', 128 for fnet")
    parser.add_argument(
        "--optimiser",
        choices=OPTIMISERS,
        default="adam",
        help="of FNet: adam is the paper's, at a constant rate; soap, whose rate falls evenly to 0 over each stage, "
        "is ahead of it from some hundreds of iterations on; default adam",
    )
    parser.add_argument("--lr", type=float, help="the first learning rate; default the authors', 1e-4 for fnet")
    parser.add_argument(
        "--ema",
        type=float,
        help="decay of the weights' moving average that is used, lower for a short training; default 0.999 for fnet, "
        "and 0, the last weights, for the others",
    )
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, order, crops and flips; default 0")
    parser.add_argument("--colour", choices=COLOURS, default="auto", help="which luma is trained on; default auto")
    parser.add_argument(
        "--tones",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the share of crops, 0 to 1, of which the brightness and contrast of each band are varied, too; no paper "
        "does, but a network that has seen only dark roads learns what bright images are; default 0",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of FNet's convolutions; the others take fp32; default fp32",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default auto: a free GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default all that this process may use")
    parser.add_argument(
        "--checkpoint-every", type=int, default=1000, help="iterations between checkpoints; default 1000"
    )
    parser.add_argument(
        "--log-every", type=int, default=20, help="iterations averaged in a row of losses.csv; default 20"
    )
    parser.add_argument("--resume", action="store_true", help="go on from a checkpoint of the same settings and data")
    options = parser.parse_args(argv)

    if options.method not in TRAINABLE:
        raise InputError(f"--method {options.method} cannot be trained; wanted one of {', '.join(TRAINABLE)}")
    at_least = {"batch": 1, "stage1_iterations": 0, "stage2_iterations": 0, "seed": 0}
    for name, least in (at_least | {"checkpoint_every": 1, "log_every": 1}).items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value} is too small; wanted at least {least}")
    if any(value < 1 for value in options.iterations or []):
        raise InputError(f"--iterations {min(options.iterations)} is too small; wanted at least 1")
    if (options.lr is not None and options.lr <= 0) or not 0 <= (options.ema or 0) < 1:
        raise InputError(f"--lr {options.lr} --ema {options.ema}: wanted a rate above 0 and a decay from 0 to below 1")
    if not 0 <= options.tones <= 1:
        raise InputError(f"--tones {options.tones}: wanted a share of the crops, 0 to 1")
    names = [name for path in options.names for name in read_names(path)] if options.names else None
    pairs = find_pairs(options.visible, options.infrared, names)
    with only_writer(options.output), claimed_device(options.device, options.threads) as device:
        torch.backends.cudnn.deterministic = True
        precision = resolved_precision(options.precision, device) if options.method == "fnet" else "fp32"
        frozen = _frozen(options)
        training = _training(options, frozen, precision)
        crop = training.crop if options.crop is None else options.crop
        if crop < training.smallest_crop or crop % training.crop_step:
            step = f", a multiple of {training.crop_step}" if training.crop_step > 1 else ""
            wanted = f"at least {training.smallest_crop}{step}"
            raise InputError(f"--crop {crop} does not suit {options.method}; wanted {wanted}")
        settings = Settings(
            method=options.method,
            iterations=_iterations(options, training),
            batch=training.batch if options.batch is None else options.batch,
            crop=crop,
            lr=options.lr,
            ema=training.ema if options.ema is None else options.ema,
            seed=options.seed,
            colour=options.colour,
            precision=precision,
            device=device.split(":")[0],
            block=options.block,
            without=_terms(options.without),
            tones=options.tones,
            optimiser=options.optimiser,
            frozen=weights_digest(frozen),
            start=sha256_file(options.start) if options.start else "random",
        )
        images = load_luma(pairs, options.colour, settings.crop)
        facts = {
            "settings": asdict(settings),
            "rates": [phase.lr if options.lr is None else options.lr for phase in training.phases],
            "choices": list(training.choices),
            "log_every": options.log_every,
            "data": {"pairs": len(pairs), "sha256": data_digest(pairs)},
            "versions": versions("torch", "numpy"),
        }
        facts["digest"] = sha256_json(facts)
        facts["threads"] = torch.get_num_threads()
        # A folder for each digest: what a run with other settings or data left is neither taken up nor lost.
        checkpoints = options.output / "checkpoints" / facts["digest"][:16]
        logging.info("train %s on %d pairs, %s", options.method, len(pairs), device)
        with stop_asked() as stopping:
            states, losses = train(
                training,
                images,
                [pair.name for pair in pairs],
                settings,
                device,
                checkpoints,
                options.resume,
                options.checkpoint_every,
                options.log_every,
                stopping,
            )
    write_results(options.output, states, losses, facts)


if __name__ == "__main__":
    run(main)
