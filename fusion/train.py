"""Stage: train a fusion network on aligned pairs, phase by phase.

FNet has the paper's two phases: stage I trains FNet and IFNet together, so that the sources can be reconstructed from
the fused image (Eq. 25); stage II trains only FNet, so that the fused image resembles both sources (Eq. 26). The other
methods have the phases of their own papers (`Method.training`). With `--resume`, a run that was killed continues from
its last checkpoint. On a CPU with the same number of threads, the result is bit for bit that of an uninterrupted run.
The number of threads matters because sums are split among them and rounded accordingly. On a GPU the result is only
close to it, because some of torch's backward passes are not deterministic in the last digits.
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fusion.fnet.losses import TERMS
from fusion.fnet.network import BLOCKS
from fusion.fuse import weights_digest
from fusion.methods import METHODS, Training, find_method
from fusion.methods.fnet import from_authors
from fusion.training.batches import load_luma
from fusion.training.loop import OPTIMISERS, Settings, train
from fusion.weights import fill, read_state, write_state
from pipeline.artefacts import only_writer, sha256_file, sha256_json, versions, write_csv, write_json
from pipeline.colour import COLOURS, inspect_bands
from pipeline.devices import DEVICES, PRECISIONS, claimed_device, resolved_precision
from pipeline.pairs import Pair, add_band_options, find_pairs, given_bands, read_names
from pipeline.stage import InputError, run, sigterm_received

REVISION = 4  # raise when the same options would train different weights of every method
TRAINABLE = [name for name, entry in METHODS.items() if entry.trainable]
FNET_OPTIONS = {  # options that only FNet has, with their defaults
    "stage1_iterations": None,
    "stage2_iterations": None,
    "block": "lzsc",
    "without": [],
    "start": None,
    "optimiser": "adam",
}


def data_digest(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of the pairs' names and file contents."""
    return sha256_json([[pair.name, sha256_file(pair.visible), sha256_file(pair.infrared)] for pair in pairs])


def write_results(
    output: Path, states: Mapping[str, Mapping[str, Tensor]], losses: pd.DataFrame, facts: dict[str, Any]
) -> None:
    """Write one .safetensors file per state dict (`weights` is the averaged one), losses.csv and provenance.json.

    The files' metadata contain the length of the training, which the tables print.
    """
    for name, state in states.items():
        write_state(output / f"{name}.safetensors", state, ("trained", facts["length"]))
    columns = ["stage", "iteration", "total"]
    losses = losses.reindex(columns=[*columns, *(c for c in losses.columns if c not in columns)])
    write_csv(output / "losses.csv", losses, {"digest": facts["digest"], "values": "means since the row above"})
    final = {str(stage): group["total"].iloc[-1] for stage, group in losses.groupby("stage")}
    digests = {name: sha256_file(output / f"{name}.safetensors") for name in states}
    write_json(output / "provenance.json", {**facts, "final_losses": final, "sha256": digests})


def fnet_training(options: argparse.Namespace, device: str) -> tuple[Training, list[int | None], dict[str, Any]]:
    """Return FNet's `Training`, the iterations of each phase from the options, and FNet's own fields of `Settings`.

    Raises:
        InputError: the options contradict one another, or `--start` does not contain weights of this network.
    """
    if options.iterations is not None:
        raise InputError(
            "--iterations is for methods other than fnet; expected --stage1-iterations and --stage2-iterations"
        )
    without = tuple(sorted(set(options.without)))
    if set(without) == set(TERMS):
        raise InputError(
            f"--without {' '.join(options.without)} leaves no loss in stage II; expected at least one remaining term"
        )
    if options.stage1_iterations == options.stage2_iterations == 0:
        raise InputError(
            "--stage1-iterations 0 --stage2-iterations 0 would write untrained weights; expected at least one iteration"
        )
    precision = resolved_precision(options.precision, device, find_method("fnet").bf16_on)
    training = find_method("fnet").training(None, block=options.block, without=without, precision=precision)
    start = "random"
    if options.start:
        fill(training.network, from_authors(read_state(options.start)), options.start)
        start = sha256_file(options.start)
    chosen = {"precision": precision, "block": options.block, "without": without}
    chosen |= {"optimiser": options.optimiser, "start": start}
    return training, [options.stage1_iterations, options.stage2_iterations], chosen


def other_training(options: argparse.Namespace) -> tuple[Training, list[int | None], dict[str, Any]]:
    """Return the `Training`, iterations and fields of `Settings` of a method other than FNet.

    Raises:
        InputError: an option does not suit the method, or a frozen network's weights are missing or broken.
    """
    given = [name for name, default in FNET_OPTIONS.items() if getattr(options, name) != default]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"--method {options.method} with {named}: only FNet has these options; expected --method fnet, or no such "
            "option"
        )
    frozen_option = METHODS[options.method].frozen
    frozen = getattr(options, frozen_option) if frozen_option else None
    training = find_method(options.method).training(frozen)
    given_iterations = options.iterations or [None]
    if len(given_iterations) == 1:
        given_iterations = given_iterations * len(training.phases)
    return training, given_iterations, {"frozen": weights_digest(frozen)}


def phase_iterations(method: str, training: Training, given: Sequence[int | None]) -> tuple[int, ...]:
    """Return the iterations of each phase: the given number, or the authors' number if it is None."""
    if len(given) != len(training.phases):
        titles = ", ".join(phase.title for phase in training.phases)
        raise InputError(f"--iterations has {len(given)} numbers; expected one, or one for each phase: {titles}")
    chosen = [
        phase.iterations if number is None else number for phase, number in zip(training.phases, given, strict=True)
    ]
    if None in chosen:
        raise InputError(f"--method {method}: its paper does not state the number of iterations; expected --iterations")
    return tuple(chosen)


def training_length(training: Training, settings: Settings) -> str:
    """Return the iterations of a training next to the authors'.

    Batch, crop and rate are added if they are not the authors', and the weights that it started from if not random.
    """
    stages = [
        f"{f'stage {phase.title}: ' if len(training.phases) > 1 else ''}{_of_authors(number, phase.iterations)}"
        for phase, number in zip(training.phases, settings.iterations, strict=True)
    ]
    rates = " and ".join(dict.fromkeys(f"{phase.lr:g}" for phase in training.phases))
    others = [
        f"{name} {ours} instead of {authors}"
        for name, ours, authors in (
            ("batch", settings.batch, training.batch),
            ("crop", settings.crop, training.crop),
            ("learning rate", rates if settings.lr is None else f"{settings.lr:g}", rates),
        )
        if ours != authors
    ]
    start = [] if settings.start == "random" else [f"started from existing weights (sha256 {settings.start[:12]})"]
    return "; ".join([", ".join(stages), *others, *start])


def _of_authors(number: int, authors: int | None) -> str:
    """Return the iterations of a stage next to the authors' number, None if they do not state it; "not run" for 0."""
    if number == 0:
        return "not run"
    return f"{number} iterations (authors: not stated)" if authors is None else f"{number} of {authors} iterations"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fusion.train", description=__doc__)
    parser.add_argument(
        "--method", default="fnet", help=f"the network to train: {', '.join(TRAINABLE)} (default: fnet)"
    )
    parser.add_argument("--visible", type=Path, required=True, nargs="+", help="folders of visible images")
    parser.add_argument("--infrared", type=Path, required=True, nargs="+", help="folders of infrared images")
    add_band_options(parser)
    parser.add_argument("--names", type=Path, nargs="+", help="lists of the names of the pairs (default: all pairs)")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, losses and checkpoints")
    parser.add_argument(
        "--perceptual-weights", type=Path, help="torchvision's VGG weights, for methods with a perceptual loss"
    )
    parser.add_argument(
        "--teacher-weights", type=Path, help="weights of the method whose fused images emma's first phases use"
    )
    parser.add_argument(
        "--iterations",
        type=int,
        nargs="+",
        metavar="N",
        help="iterations of a method other than fnet: one number, used for each phase, or one number per phase "
        "(default: the authors' numbers)",
    )
    parser.add_argument(
        "--stage1-iterations",
        type=int,
        help="iterations of FNet's stage I; 0 is the ablation 'without IFNet' (default: 20000, the paper's)",
    )
    parser.add_argument(
        "--stage2-iterations", type=int, help="iterations of FNet's stage II (default: 20000, the paper's)"
    )
    parser.add_argument(
        "--block", choices=list(BLOCKS), default="lzsc", help="FNet's coding block; lcsc is an ablation (default: lzsc)"
    )
    parser.add_argument(
        "--without", choices=TERMS, nargs="+", default=[], help="terms left out of FNet's stage II (default: none)"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="FNet's weights to start from; by default random weights. IFNet always starts from random weights; in "
        "stage I, this untrained IFNet draws FNet away from the weights given here: skip stage I in a short training "
        "(--stage1-iterations 0)",
    )
    parser.add_argument("--batch", type=int, help="pairs per iteration (default: the authors' number, 16 for fnet)")
    parser.add_argument(
        "--crop", type=int, help="side of the random crops in pixels (default: the authors' size, 128 for fnet)"
    )
    parser.add_argument(
        "--optimiser",
        choices=OPTIMISERS,
        default="adam",
        help="FNet's optimiser: adam is the paper's, at a constant rate; soap, whose rate falls linearly to 0 over "
        "each stage, reaches a lower loss in trainings of some hundreds of iterations (default: adam)",
    )
    parser.add_argument(
        "--lr", type=float, help="the initial learning rate (default: the authors' rate, 1e-4 for fnet)"
    )
    parser.add_argument(
        "--ema",
        type=float,
        help="decay of the moving average of the weights, which is saved as the result; use a lower decay in a short "
        "training (default: 0.999 for fnet; for the others 0, which gives the last weights)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the initial weights, the order, crops and flips (default: 0)"
    )
    parser.add_argument("--colour", choices=COLOURS, default="auto", help="the luma to train on (default: auto)")
    parser.add_argument(
        "--tones",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the crops, 0 to 1, whose brightness and contrast are also varied, in each band independently; "
        "no paper does this, but it prepares a network trained only on dark roads for bright images (default: 0)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="precision of FNet's convolutions; the other methods use fp32 (default: fp32)",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto: a free GPU if there is one (default: auto)"
    )
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: all that this process may use)")
    parser.add_argument(
        "--checkpoint-every", type=int, default=1000, help="iterations between checkpoints (default: 1000)"
    )
    parser.add_argument(
        "--log-every", type=int, default=20, help="iterations averaged in each row of losses.csv (default: 20)"
    )
    parser.add_argument("--resume", action="store_true", help="resume from a checkpoint of the same settings and data")
    return parser


def _check_options(options: argparse.Namespace) -> None:
    """Raise InputError for a method that cannot be trained, or an option that is out of range or that it ignores."""
    if options.method not in TRAINABLE:
        takes = METHODS[options.method].training_takes if options.method in METHODS else ""
        reason = f" here, because that needs {takes}" if takes else ""
        raise InputError(f"--method {options.method} cannot be trained{reason}; expected one of {', '.join(TRAINABLE)}")
    at_least = {"batch": 1, "stage1_iterations": 0, "stage2_iterations": 0, "seed": 0}
    for name, least in (at_least | {"checkpoint_every": 1, "log_every": 1}).items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value} is too small; expected at least {least}")
    if any(value < 1 for value in options.iterations or []):
        raise InputError(f"--iterations {min(options.iterations)} is too small; expected at least 1")
    if (options.lr is not None and not 0 < options.lr < math.inf) or not 0 <= (options.ema or 0) < 1:
        raise InputError(f"--lr {options.lr} --ema {options.ema}: expected a rate above 0, a decay from 0 to below 1")
    if not 0 <= options.tones <= 1:
        raise InputError(f"--tones {options.tones}: expected a share of the crops, 0 to 1")
    for name in ("perceptual_weights", "teacher_weights"):
        if getattr(options, name) and name != METHODS[options.method].frozen:
            raise InputError(
                f"--{name.replace('_', '-')} with --method {options.method}: its losses use no such network; expected "
                "the command without this option"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Train a fusion network."""
    options = _parser().parse_args(argv)
    _check_options(options)
    bands = given_bands(options)
    names = [name for path in options.names for name in read_names(path, bands.suffixes)] if options.names else None
    pairs = find_pairs(options.visible, options.infrared, names, bands)
    colour, colours = inspect_bands(pairs, options.colour)
    with only_writer(options.output), claimed_device(options.device, options.threads) as device:
        torch.backends.cudnn.deterministic = True
        torch.manual_seed(options.seed)
        fnet = options.method == "fnet"
        training, given, chosen = fnet_training(options, device) if fnet else other_training(options)
        crop = training.crop if options.crop is None else options.crop
        if crop < training.smallest_crop or crop % training.crop_step:
            step = f", a multiple of {training.crop_step}" if training.crop_step > 1 else ""
            allowed = f"at least {training.smallest_crop}{step}"
            raise InputError(f"--crop {crop} does not suit {options.method}; expected {allowed}")
        settings = Settings(
            method=options.method,
            iterations=phase_iterations(options.method, training, given),
            batch=training.batch if options.batch is None else options.batch,
            crop=crop,
            lr=options.lr,
            ema=training.ema if options.ema is None else options.ema,
            seed=options.seed,
            colour=options.colour,
            device=device.split(":")[0],
            revision=REVISION,
            method_revision=METHODS[options.method].training_revision,
            tones=options.tones,
            **chosen,
        )
        images = load_luma(pairs, colour, settings.crop)
        packages = METHODS[options.method].packages
        facts = {
            "settings": asdict(settings),
            "rates": [phase.lr if options.lr is None else options.lr for phase in training.phases],
            "choices": list(training.choices),
            "log_every": options.log_every,
            "data": {"pairs": len(pairs), "sha256": data_digest(pairs), **bands.facts()},
            "versions": versions("numpy", "opencv-python-headless", "torch", "torchvision", *packages),
        }
        facts["digest"] = sha256_json(facts)
        facts["colours"] = colours  # not in the digest, because it follows from the data
        facts["threads"] = torch.get_num_threads()
        facts["length"] = training_length(training, settings)
        # One folder per digest: a run with other settings or data neither resumes from these checkpoints nor deletes
        # them.
        checkpoints = options.output / "checkpoints" / facts["digest"][:16]
        logging.info("train %s on %d pairs, %s", options.method, len(pairs), device)
        with sigterm_received() as stopping:
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
