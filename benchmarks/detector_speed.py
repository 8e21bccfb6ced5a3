"""Compare the detector's training loop with ultralytics' own trainer: images per second, alternately in one run.

Both train the same model from random weights on the visible images of the same generated pairs, with the same image
size, batch, device, threads, precision, optimiser and augmentation. Both read images in this process, keep resized
images in memory, and update a moving average at every step. Timing starts after some warm-up steps and ends within the
first epoch, so that neither validates nor writes a checkpoint. `limit` is the rate in images per second if the model
did only its multiply-adds, forward and backward, at the speed of plain matrix products measured in the same run.
"""

import argparse
import contextlib
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from detection.detector import build_model  # imported first, because it keeps ultralytics offline

# isort: split
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOGGER

from detection.loop import deterministic, train
from detection.recipe import AUGMENTATION, Recipe
from detection.variant import read_data
from fusion.synthetic import CLASSES, make_scene
from pipeline.artefacts import versions, write_json, write_text
from pipeline.devices import DEVICES, claimed_device
from pipeline.pairs import write_image
from pipeline.stage import InputError, run

WARM_UP = 3  # steps
EXPECTED_RATIO = {"cpu": 1.0, "cuda": 2.0}  # at least
PRODUCT = 2048  # side of the matrices whose product is timed


class _MeasuredError(Exception):
    """Ends a training after its steps are timed."""


class Clock:
    """Counts a training's steps and ends it after `steps` timed ones, which took `seconds` and `cpu_seconds`."""

    def __init__(self, steps: int, device: str) -> None:
        self.steps, self.device, self.done = steps, device, 0

    def __call__(self, *_: Any) -> bool:
        """Count a step; return False, which requests no orderly stop."""
        self.done += 1
        if self.done in (WARM_UP, WARM_UP + self.steps):
            if self.device != "cpu":
                torch.cuda.synchronize()
            now = time.perf_counter(), time.process_time()
            if self.done > WARM_UP:
                self.seconds, self.cpu_seconds = (b - a for a, b in zip(self.start, now, strict=True))
                raise _MeasuredError
            self.start = now
        return False


def write_data(folder: Path, images: int, size: int) -> Path:
    """Write generated images with labels in ultralytics' format, and one for validation; return the data.yaml."""
    for index in range(images + 1):
        part = folder / ("train" if index < images else "val")
        scene = make_scene(0, index, size, size * 3 // 4)
        height, width = scene.visible.shape[:2]
        lines = []
        for box in scene.boxes:
            x, y = (box.left + box.right) / 2 / width, (box.top + box.bottom) / 2 / height
            sides = f"{(box.right - box.left) / width:.6f} {(box.bottom - box.top) / height:.6f}"
            lines.append(f"{CLASSES.index(box.label)} {x:.6f} {y:.6f} {sides}\n")
        write_image(part / "images" / f"{index:05}.png", scene.visible)
        write_text(part / "labels" / f"{index:05}.txt", "".join(lines))
    content = {"path": str(folder), "train": "train", "val": "val", "names": dict(enumerate(CLASSES))}
    write_text(folder / "data.yaml", yaml.safe_dump(content))
    return folder / "data.yaml"


def time_ours(data: Path, recipe: Recipe, device: str, clock: Clock, folder: Path) -> None:
    """Run the loop of detection.loop until `clock` ends it."""
    shown = read_data(data, "train")
    train(shown, recipe, device, keep_images=True, checkpoints=folder, save_every=math.inf, stopping=clock)


def time_theirs(data: Path, recipe: Recipe, device: str, clock: Clock, folder: Path) -> None:
    """Run ultralytics' trainer with the same settings until `clock` ends it."""
    same = ("epochs", "batch", "optimizer", "lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "box", "cls")
    same += ("dfl", "warmup_momentum", "warmup_bias_lr", "close_mosaic", "seed", *AUGMENTATION)
    trainer = DetectionTrainer(
        overrides={name: getattr(recipe, name) for name in same}
        | {"data": str(data), "imgsz": recipe.image_size, "nbs": recipe.nominal_batch, "model": f"{recipe.model}.yaml"}
        | {"amp": "bf16" if recipe.precision == "bf16" else False, "device": device.removeprefix("cuda:")}
        | {"cache": "ram", "workers": 0, "val": False, "plots": False, "save": False, "save_dir": str(folder)}
        | {"deterministic": True, "pretrained": False}
    )
    threads = torch.get_num_threads()
    trainer.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))  # it would use all
    trainer.add_callback("on_train_batch_end", clock)
    trainer.train()


def product_rate(device: str, precision: str) -> float:
    """Return the multiply-adds per second of a plain matrix product, the best of six."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = torch.randn(2, PRODUCT, PRODUCT, device=device).to(dtype)
    best = math.inf
    for _ in range(6):
        start = time.perf_counter()
        product = one @ other
        float(product[0, 0])  # waits for the GPU
        best = min(best, time.perf_counter() - start)
    return PRODUCT**3 / best


def multiply_adds(recipe: Recipe) -> float:
    """Return the multiply-adds of training on one image, forward and backward."""
    model = build_model(recipe.model, CLASSES).train()
    with FlopCounterMode(display=False) as counter:
        maps = model(torch.zeros(1, 3, recipe.image_size, recipe.image_size) + 0.5)
        sum(map(_total, maps.values() if isinstance(maps, dict) else maps)).backward()
    return counter.get_total_flops() / 2


def _total(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.sum() if value.requires_grad else 0.0
    return sum(map(_total, value.values() if isinstance(value, dict) else value))


def measure(recipe: Recipe, device: str, steps: int, rounds: int) -> dict[str, Any]:
    """Return the median images per second of both trainers, those of all rounds, the ratios and the limit."""
    sides: dict[str, Callable[..., None]] = {"ours": time_ours, "ultralytics": time_theirs}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    products = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data", (WARM_UP + steps + 1) * recipe.batch, recipe.image_size)
        for number in range(rounds):
            products.append(product_rate(device, recipe.precision))
            for name, side in sides.items():
                clock = Clock(steps, device)
                with contextlib.suppress(_MeasuredError), deterministic():
                    side(data, recipe, device, clock, Path(folder) / f"{name}{number}")
                rates[name].append(steps * recipe.batch / clock.seconds)
                cpu[name].append(steps * recipe.batch / clock.cpu_seconds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        **medians,
        "ratio": medians["ours"] / medians["ultralytics"],
        "limit": statistics.median(products) / multiply_adds(recipe),
        "cpu_ratio": statistics.median(cpu["ours"]) / statistics.median(cpu["ultralytics"]),
        "rounds": rates,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the results in one line and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python benchmarks/detector_speed.py", description=__doc__)
    parser.add_argument("--model", default="yolov5n", help="the model to train; default yolov5n")
    parser.add_argument("--image-size", type=int, default=192, help="long side of the images, pixels; default 192")
    parser.add_argument("--batch", type=int, default=8, help="images per step; default 8")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both trainers; default fp32")
    parser.add_argument("--mosaic", type=float, default=0.0, help="probability of a mosaic; default 0")
    parser.add_argument("--steps", type=int, default=12, help="timed steps per round; default 12")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each of both trainers; default 5")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="device to train on; default auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default 1")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    options = parser.parse_args(argv)
    if min(options.steps, options.rounds) < 1:
        raise InputError(f"--steps {options.steps} --rounds {options.rounds}: expected at least 1 each")
    LOGGER.setLevel(logging.ERROR)
    with claimed_device(options.device, options.threads) as device:
        if options.precision == "bf16" and device == "cpu":
            raise InputError("--precision bf16 on a CPU: expected fp32, the only one of ultralytics' trainer there")
        recipe = Recipe(
            model=options.model, image_size=options.image_size, batch=options.batch, nominal_batch=options.batch,
            epochs=100, optimizer="AdamW", lr0=0.001, mosaic=options.mosaic,
            precision=options.precision,
        )  # fmt: skip
        found = measure(recipe, device, options.steps, options.rounds)
        facts = {
            "model": recipe.model, "image_size": recipe.image_size, "batch": recipe.batch,
            "precision": recipe.precision, "device": device, "threads": torch.get_num_threads(),
        }  # fmt: skip
    logging.info(
        "%.1f images/s, ultralytics %.1f: ratio %.2f, of processor time %.2f (expected at least %.1f); limit %.1f",
        *(found[key] for key in ("ours", "ultralytics", "ratio", "cpu_ratio")),
        *(EXPECTED_RATIO[device.split(":")[0]], found["limit"]),
    )
    if options.json:
        write_json(options.json, facts | found | {"versions": versions("torch", "ultralytics", "numpy")})


if __name__ == "__main__":
    run(main)
