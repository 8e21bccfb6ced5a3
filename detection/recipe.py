"""The training recipe: all hyperparameters, the seed, and the order of the images in each epoch."""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from pipeline.devices import PRECISIONS
from pipeline.stage import InputError


def _option(default: Any, text: str, choices: Sequence[str] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


# Bounds of the recipe's numbers. All others are at least 0 and have no upper bound.
AT_LEAST = {"epochs": 1, "batch": 1, "nominal_batch": 1, "image_size": 64}
POSITIVE = ("lr0", "gradient_clip", "ema_tau")
FRACTIONS = ("lrf", "momentum", "warmup_momentum", "ema_decay", "hsv_h", "hsv_s", "hsv_v", "translate", "scale")
AT_MOST = {**dict.fromkeys((*FRACTIONS, "flipud", "fliplr", "mosaic", "mixup"), 1), "perspective": 0.001}


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the weights: two trainings with one recipe on the same data give equal weights."""

    model: str = _option(
        "yolov5n", "architecture: yolov5, yolov8 or yolo11 with n, s, m, l or x; rtdetr-l or rtdetr-x; or a .yaml file"
    )
    image_size: int = _option(640, "long side in pixels, a multiple of 32")
    epochs: int = _option(100, "passes over the training images")
    batch: int = _option(16, "images per forward pass; never reduced to fit into memory")
    nominal_batch: int = _option(64, "images per optimiser step: gradients of smaller batches are accumulated")
    optimizer: str = _option(
        "SGD",
        "SGD with Nesterov momentum, AdamW, or Muon for convolutions with AdamW for the other parameters",
        ("SGD", "AdamW", "Muon"),
    )
    lr0: float = _option(0.01, "learning rate after warm-up")
    lrf: float = _option(0.01, "final learning rate, as a fraction of lr0")
    schedule: str = _option(
        "linear",
        "how the learning rate decreases: linear or cosine, per epoch; onecycle: after warm-up, a cosine per "
        "step; the momentum decreases during warm-up and increases after it",
        ("linear", "cosine", "onecycle"),
    )
    momentum: float = _option(0.937, "momentum of SGD and Muon, first beta of AdamW")
    weight_decay: float = _option(0.0005, "weight decay of convolutions' weights, for a nominal batch")
    warmup_epochs: float = _option(
        3.0, "epochs in which the learning rate increases from 0; the last epoch is never warm-up"
    )
    warmup_momentum: float = _option(
        0.8, "momentum of SGD at the start of warm-up; with onecycle, of every optimiser at the end of warm-up"
    )
    warmup_bias_lr: float = _option(0.1, "learning rate of biases at the start of warm-up")
    gradient_clip: float = _option(10.0, "maximum norm of all gradients together")
    ema_decay: float = _option(0.9999, "decay of the moving average of the weights")
    ema_tau: float = _option(2000.0, "optimiser steps over which that decay ramps up; small for short trainings")
    box: float = _option(7.5, "weight of the box loss (CIoU)")
    cls: float = _option(0.5, "weight of the classification loss")
    dfl: float = _option(1.5, "weight of the distribution focal loss of box edges")
    hsv_h: float = _option(0.015, "maximum change of hue, as a fraction")
    hsv_s: float = _option(0.7, "maximum change of saturation, as a fraction")
    hsv_v: float = _option(0.4, "maximum change of brightness, as a fraction")
    degrees: float = _option(0.0, "maximum rotation in degrees")
    translate: float = _option(0.1, "maximum translation, as a fraction of the image")
    scale: float = _option(0.5, "maximum change of scale, as a fraction")
    shear: float = _option(0.0, "maximum shear in degrees")
    perspective: float = _option(0.0, "maximum perspective factor, 0 to 0.001")
    flipud: float = _option(0.0, "probability of a flip upside down")
    fliplr: float = _option(0.5, "probability of a flip left to right")
    canvas: str = _option(
        "square",
        "square: images are augmented on a square of the image size; fitted: on their own shape, as in testing",
        ("square", "fitted"),
    )
    mosaic: float = _option(1.0, "probability that four images are tiled into one")
    mixup: float = _option(0.0, "probability that two images are blended")
    close_mosaic: int = _option(10, "number of last epochs without mosaic and mixup")
    precision: str = _option(
        "fp32",
        "precision of the network; the loss is always fp32; auto: bf16 if the processor supports it",
        PRECISIONS,
    )
    seed: int = _option(0, "seed of the initial weights, the order of the images and the augmentation")

    def __post_init__(self) -> None:
        """Raise InputError for invalid values, as the configuration's schema does."""
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            if isinstance(value, str):
                continue
            least, most = AT_LEAST.get(name, 0), AT_MOST.get(name)
            if not math.isfinite(value):
                expected = "a finite number"
            elif most is not None and not least <= value <= most:
                expected = f"{least} to {most}"
            elif value < least:
                expected = f"at least {least}"
            elif name in POSITIVE and value == 0:
                expected = "above 0"
            else:
                continue
            raise InputError(f"--{name.replace('_', '-')} {value}: expected {expected}")
        if self.image_size % 32:
            raise InputError(f"--image-size {self.image_size}: expected a multiple of 32")
        if self.canvas == "fitted" and self.mosaic:
            raise InputError(
                f"--canvas fitted with --mosaic {self.mosaic}: expected --mosaic 0, because mosaics are square"
            )


AUGMENTATION = (
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
    "mixup",
)  # fmt: skip


def epoch_order(recipe: Recipe, images: int, epoch: int) -> np.ndarray:
    """Return the order of the images in an epoch, which is the same for every variant and machine."""
    return np.random.Generator(np.random.PCG64([recipe.seed, epoch])).permutation(images)


def step_seed(recipe: Recipe, step: int) -> int:
    """Return the seed for random numbers that the network draws in a step."""
    return int(np.random.SeedSequence([recipe.seed, step]).generate_state(1)[0])


def epoch_batches(recipe: Recipe, images: int, first_epoch: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the batches of all epochs from `first_epoch`, as keys (epoch, index) of `TrainingImages`."""
    for epoch in range(first_epoch, recipe.epochs):
        order = epoch_order(recipe, images, epoch)
        for start in range(0, images, recipe.batch):
            yield [(epoch, int(index)) for index in order[start : start + recipe.batch]]


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate, without warm-up, after `epoch` epochs."""
    begun = min(recipe.warmup_epochs, recipe.epochs - 1) if recipe.schedule == "onecycle" else 0
    done = max(epoch - begun, 0) / (recipe.epochs - begun)
    falls = 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return recipe.lr0 * (falls * (1 - recipe.lrf) + recipe.lrf)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each value of the recipe."""
    recipe = parser.add_argument_group("recipe", "settings that determine the weights")
    for item in fields(Recipe):
        recipe.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=item.type,
            default=item.default,
            choices=item.metadata["choices"],
            help=f"{item.metadata['help']} (default: {item.default})",
        )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe in the options of `add_recipe_options`."""
    return Recipe(**{item.name: getattr(args, item.name) for item in fields(Recipe)})
