"""Stage: train FNet on aligned pairs, in the paper's two stages.

Stage I trains FNet and IFNet together, so that the sources can be had back from the fused image (Eq. 25); stage II
trains FNet alone to resemble both sources (Eq. 26). Every batch depends on the seed and the iteration's number alone,
so that a run that was killed resumes from its last checkpoint and ends bit for bit where it would have ended.
"""

import argparse
import copy
import logging
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fusion.artefacts import replacing, sha256_file, sha256_json, versions, write_csv, write_json
from fusion.colour import COLOURS, split_pair
from fusion.devices import DEVICES, PRECISIONS, claimed_device, resolved_precision
from fusion.losses import TERMS, stage1_loss, stage2_loss
from fusion.methods.fnet import from_authors
from fusion.networks.fast import compute
from fusion.networks.fnet import BLOCKS, FNet
from fusion.networks.graphs import recorded
from fusion.networks.ifnet import IFNet
from fusion.pairs import Pair, find_pairs, read_names
from fusion.stage import InputError, Progress, run, stop_asked, stopped
from fusion.weights import fill, read_state, write_state

REVISION = 2  # raise when the same options would train other weights
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Settings:
    """Everything but the data that decides which weights come out."""

    method: str
    block: str
    stage1_iterations: int
    stage2_iterations: int
    without: tuple[str, ...]
    batch: int
    crop: int
    lr: float
    ema: float
    seed: int
    colour: str
    precision: str
    device: str
    start: str = "random"  # or the SHA-256 of the weights that FNet starts from
    revision: int = REVISION


def load_luma(pairs: Sequence[Pair], colour: str, crop: int) -> list[np.ndarray]:
    """Read every pair's visible luma and infrared, uint8 (2, H, W) each, into memory (2 bytes a pixel).

    Raises:
        InputError: a pair is unreadable or smaller than the crop.
    """
    images = []
    for pair in pairs:
        visible, infrared, _, _ = split_pair(pair, colour)
        if min(visible.shape) < crop:
            height, width = visible.shape
            raise InputError(
                f"{pair.visible} is {width}x{height}, smaller than the crop; wanted at least {crop}x{crop}"
            )
        images.append(np.stack([visible, infrared]))
    return images


def batch_indices(count: int, batch: int, seed: int, stage: int, iteration: int) -> np.ndarray:
    """Return which pairs iteration `iteration` (from 0) of a stage sees: shuffled epochs, the odd rest dropped."""
    batches = count // batch
    order = np.random.default_rng([seed, stage, 0, iteration // batches]).permutation(count)
    start = iteration % batches * batch
    return order[start : start + batch]


def draw_batch(
    images: Sequence[np.ndarray], indices: np.ndarray, crop: int, seed: int, stage: int, iteration: int
) -> Tensor:
    """Return random crops, each turned by one of the eight flips and rotations: (2, N, 1, crop, crop) in 0..1."""
    generator = np.random.default_rng([seed, stage, 1, iteration])
    patches = []
    for index in indices:
        _, height, width = images[index].shape
        top, left = generator.integers(height - crop + 1), generator.integers(width - crop + 1)
        patch = images[index][:, top : top + crop, left : left + crop]
        patch = np.rot90(patch, generator.integers(4), axes=(1, 2))
        patches.append(patch[:, :, ::-1] if generator.integers(2) else patch)
    return torch.from_numpy(np.stack(patches, axis=1)[:, :, None].astype(np.float32) / 255)


def _batches(
    images: Sequence[np.ndarray], settings: Settings, stage: int, iterations: range
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Yield the iteration, its pairs' indices and its batch; the next one is drawn while the last is computed with."""

    def draw(iteration: int) -> tuple[int, np.ndarray, Tensor]:
        indices = batch_indices(len(images), settings.batch, settings.seed, stage, iteration)
        return iteration, indices, draw_batch(images, indices, settings.crop, settings.seed, stage, iteration)

    with ThreadPoolExecutor(1) as pool:
        coming = None
        for iteration in iterations:
            ready, coming = coming or pool.submit(draw, iteration), None
            if iteration + 1 in iterations:
                coming = pool.submit(draw, iteration + 1)
            yield ready.result()


def train(
    images: Sequence[np.ndarray],
    names: Sequence[str],
    settings: Settings,
    device: str,
    checkpoints: Path,
    resume: bool = True,
    checkpoint_every: int = 1000,
    log_every: int = 20,
    start: Mapping[str, Tensor] | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, dict[str, Tensor]], pd.DataFrame]:
    """Train through both stages; return state dicts `fnet`, `ema`, `ifnet` and the losses.

    `start`, a state dict of FNet, replaces its random initial weights. Where `stopping` says so, progress is saved and
    the process ends. The losses have one row for every `log_every`
    iterations: stage, iteration (from 1, within the stage), and each term's mean over those iterations.

    Raises:
        InputError: fewer pairs than a batch, or a loss or gradient that is not finite (checkpoints stay).
    """
    if len(images) < settings.batch:
        raise InputError(f"found {len(images)} pairs to train on; wanted at least a batch of {settings.batch}")
    torch.manual_seed(settings.seed)
    fnet, ifnet = FNet(settings.block), IFNet(settings.block)
    if start:
        fnet.load_state_dict(start)
    for network in (fnet, ifnet):
        network.to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(fnet).requires_grad_(False)
    rows: list[dict[str, float]] = []
    if not resume:
        shutil.rmtree(checkpoints, ignore_errors=True)
    restored = _restore(checkpoints, device, fnet, ifnet, ema, rows)
    for stage, iterations in ((1, settings.stage1_iterations), (2, settings.stage2_iterations)):
        if restored is not None and restored["stage"] > stage:
            continue
        parameters = [*fnet.parameters(), *(ifnet.parameters() if stage == 1 else ())]
        optimiser = torch.optim.Adam(parameters, lr=settings.lr)
        first, sums = 0, {}
        if restored is not None and restored["stage"] == stage:
            optimiser.load_state_dict(restored["optimiser"])
            first, sums = restored["iteration"], restored["sums"]
        progress = Progress(f"train stage {'I' * stage}", iterations, "iterations", done=first)
        gradients = None
        for iteration, indices, pair in _batches(images, settings, stage, range(first, iterations)):
            if gradients is None:
                gradients = _gradients(stage, fnet, ifnet, parameters, settings, device, pair)
            terms = gradients(pair)
            if not math.isfinite(terms["total"]):
                where = f"stage {stage}, iteration {iteration + 1}, pairs {[names[index] for index in indices]}"
                raise InputError(
                    f"the loss or its gradient is not finite at {where}; wanted finite ones. "
                    f"The last good state is in {checkpoints}; a smaller --lr may help"
                )
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(ema.parameters()), list(fnet.parameters()), 1 - settings.ema)
            sums = {key: sums.get(key, 0.0) + value for key, value in terms.items()}
            done = iteration + 1
            if done % log_every == 0 or done == iterations:
                count = (done - 1) % log_every + 1
                rows.append({"stage": stage, "iteration": done, **{key: sums[key] / count for key in sums}})
                sums = {}
            progress.step(note=f"loss {terms['total']:.4f}")
            if (done % checkpoint_every == 0 or stopping()) and done < iterations:
                _save(checkpoints, stage, done, sums, optimiser, fnet, ifnet, ema, rows)
                if stopping():
                    raise stopped(f"stage {stage}, iteration {done}")
        # The next stage starts with a fresh optimiser: its checkpoint is that of iteration 0.
        if stage == 1 and iterations:
            fresh = torch.optim.Adam(fnet.parameters(), lr=settings.lr)
            _save(checkpoints, 2, 0, {}, fresh, fnet, ifnet, ema, rows)
    states = {"fnet": fnet.state_dict(), "ema": ema.state_dict(), "ifnet": ifnet.state_dict()}
    return states, pd.DataFrame(rows)


def _gradients(
    stage: int,
    fnet: FNet,
    ifnet: IFNet,
    parameters: Sequence[nn.Parameter],
    settings: Settings,
    device: str,
    example: Tensor,
) -> Callable[[Tensor], dict[str, float]]:
    """Return what fills the parameters' gradients from a batch and returns the terms' values.

    A `total` that is not finite says that the loss or its gradient is not.
    """
    names: list[str] = []

    def fill(pair: Tensor) -> Tensor:
        visible, infrared = pair
        fused = compute(fnet, visible, infrared, precision=settings.precision)
        if stage == 1:
            terms = stage1_loss(*compute(ifnet, fused, precision=settings.precision), visible, infrared)
        else:
            terms = stage2_loss(fused, visible, infrared, settings.without)
        for parameter in parameters:
            parameter.grad = None
        terms["total"].backward()
        names[:] = terms
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        return torch.stack([*terms.values(), norm]).detach()

    run_fill = fill if device == "cpu" else recorded(fill, example.to(device))

    def gradients(pair: Tensor) -> dict[str, float]:
        *values, norm = run_fill(pair if device == "cpu" else pair.pin_memory()).tolist()
        terms = dict(zip(names, values, strict=True))
        return terms if math.isfinite(norm) else terms | {"total": math.nan}

    return gradients


def _save(
    checkpoints: Path,
    stage: int,
    iteration: int,
    sums: Mapping[str, float],
    optimiser: torch.optim.Optimizer,
    fnet: nn.Module,
    ifnet: nn.Module,
    ema: nn.Module,
    rows: Sequence[Mapping[str, float]],
) -> None:
    state = {"stage": stage, "iteration": iteration, "sums": dict(sums), "rows": list(rows)}
    state |= {"fnet": fnet.state_dict(), "ifnet": ifnet.state_dict(), "ema": ema.state_dict()}
    state["optimiser"] = optimiser.state_dict()
    with replacing(checkpoints / f"stage{stage}-{iteration:07}.pt") as part:
        torch.save(state, part)
    for old in sorted(checkpoints.glob("stage*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _restore(
    checkpoints: Path,
    device: str,
    fnet: nn.Module,
    ifnet: nn.Module,
    ema: nn.Module,
    rows: list[dict[str, float]],
) -> dict[str, Any] | None:
    """Fill the networks from the newest readable checkpoint; return its state, None without one."""
    for path in sorted(checkpoints.glob("stage*.pt"), reverse=True):
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch raise, the one before it may be whole
            logging.warning("warning: %s is unreadable (%s); trying the one before", path, type(error).__name__)
            path.unlink()
            continue
        fnet.load_state_dict(state["fnet"])
        ifnet.load_state_dict(state["ifnet"])
        ema.load_state_dict(state["ema"])
        rows.extend(state["rows"])
        logging.info("resuming at stage %d, iteration %d", state["stage"], state["iteration"])
        return state
    return None


def data_digest(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of the pairs' names and file contents."""
    return sha256_json([[pair.name, sha256_file(pair.visible), sha256_file(pair.infrared)] for pair in pairs])


def write_results(
    output: Path, states: Mapping[str, Mapping[str, Tensor]], losses: pd.DataFrame, facts: dict[str, Any]
) -> None:
    """Write weights.safetensors (EMA), weights_raw.safetensors, ifnet.safetensors, losses.csv, provenance.json."""
    files = {"weights_raw": states["fnet"], "ifnet": states["ifnet"], "weights": states["ema"]}
    for name, state in files.items():
        write_state(output / f"{name}.safetensors", state, {"digest": facts["digest"]})
    columns = ["stage", "iteration", "total"]
    losses = losses.reindex(columns=[*columns, *(c for c in losses.columns if c not in columns)])
    write_csv(output / "losses.csv", losses, {"digest": facts["digest"], "values": "means since the row above"})
    final = {str(stage): group["total"].iloc[-1] for stage, group in losses.groupby("stage")}
    digests = {name: sha256_file(output / f"{name}.safetensors") for name in files}
    write_json(output / "provenance.json", {**facts, "final_losses": final, "sha256": digests})


def _terms(values: Collection[str]) -> tuple[str, ...]:
    if set(values) == set(TERMS):
        raise InputError(f"--without {' '.join(values)} leaves no loss in stage II; wanted at least one term kept")
    return tuple(sorted(set(values)))


def main(argv: Sequence[str] | None = None) -> None:
    """Train FNet."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--method", default="fnet", help="the network to train: fnet")
    parser.add_argument("--visible", type=Path, required=True, nargs="+", help="folders of visible images")
    parser.add_argument("--infrared", type=Path, required=True, nargs="+", help="folders of infrared images")
    parser.add_argument("--names", type=Path, nargs="+", help="lists of stems, one a line, to train on; default all")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, losses and checkpoints")
    parser.add_argument("--block", choices=list(BLOCKS), default="lzsc", help="coding block; lcsc is an ablation")
    parser.add_argument("--start", type=Path, help="FNet's weights to start from; default random ones")
    parser.add_argument("--stage1-iterations", type=int, default=20000, help="0: the ablation 'without IFNet'")
    parser.add_argument("--stage2-iterations", type=int, default=20000, help="iterations of FNet alone")
    parser.add_argument("--without", choices=TERMS, nargs="+", default=[], help="terms left out of stage II's loss")
    parser.add_argument("--batch", type=int, default=16, help="pairs in an iteration")
    parser.add_argument("--crop", type=int, default=128, help="side of the random crops, pixels")
    parser.add_argument("--lr", type=float, default=1e-4, help="Adam's learning rate, constant")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the weights' moving average; short: lower")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, order, crops and flips")
    parser.add_argument("--colour", choices=COLOURS, default="auto", help="which luma is trained on")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the convolutions")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a free GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default all that this process may use")
    parser.add_argument("--checkpoint-every", type=int, default=1000, help="iterations between checkpoints")
    parser.add_argument("--log-every", type=int, default=20, help="iterations averaged in a row of losses.csv")
    parser.add_argument("--resume", action="store_true", help="go on from a checkpoint of the same settings and data")
    options = parser.parse_args(argv)

    if options.method != "fnet":
        raise InputError(f"--method {options.method} cannot be trained; wanted fnet")
    at_least = {"batch": 1, "crop": 11, "stage1_iterations": 0, "stage2_iterations": 0, "seed": 0}
    for name, least in (at_least | {"checkpoint_every": 1, "log_every": 1}).items():
        if getattr(options, name) < least:
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(options, name)} is too small; wanted at least {least}"
            )
    if not (options.lr > 0 and 0 <= options.ema < 1):
        raise InputError(f"--lr {options.lr} --ema {options.ema}: wanted a rate above 0 and a decay from 0 to below 1")
    names = [name for path in options.names for name in read_names(path)] if options.names else None
    pairs = find_pairs(options.visible, options.infrared, names)
    images = load_luma(pairs, options.colour, options.crop)
    start = None
    if options.start:
        start = from_authors(read_state(options.start))
        fill(FNet(options.block), start, options.start)
    with claimed_device(options.device, options.threads) as device:
        torch.backends.cudnn.deterministic = True
        settings = Settings(
            method=options.method,
            block=options.block,
            stage1_iterations=options.stage1_iterations,
            stage2_iterations=options.stage2_iterations,
            without=_terms(options.without),
            batch=options.batch,
            crop=options.crop,
            lr=options.lr,
            ema=options.ema,
            seed=options.seed,
            colour=options.colour,
            precision=resolved_precision(options.precision, device),
            device=device.split(":")[0],
            start=sha256_file(options.start) if options.start else "random",
        )
        facts = {
            "settings": asdict(settings),
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
                images,
                [pair.name for pair in pairs],
                settings,
                device,
                checkpoints,
                options.resume,
                options.checkpoint_every,
                options.log_every,
                start,
                stopping,
            )
    write_results(options.output, states, losses, facts)


if __name__ == "__main__":
    run(main)
