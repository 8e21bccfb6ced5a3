"""What decides the outcome of a training besides the data: every value, and the order in which images are seen."""

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


# Of the recipe's numbers. All others are at least 0, with no upper limit.
AT_LEAST = {"epochs": 1, "batch": 1, "nominal_batch": 1, "image_size": 64}
POSITIVE = ("lr0", "gradient_clip", "ema_tau")
FRACTIONS = ("lrf", "momentum", "warmup_momentum", "ema_decay", "hsv_h", "hsv_s", "hsv_v", "translate", "scale")
AT_MOST = {**dict.fromkeys((*FRACTIONS, "flipud", "fliplr", "mosaic", "mixup"), 1), "perspective": 0.001}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights but the data: two runs of one recipe on the same data end alike."""

    model: str = _option(
        "yolov5n", "architecture: yolov5, yolov8 or yolo11 with n, s, m, l or x, rtdetr-l or -x, or a .yaml"
    )
    image_size: int = _option(640, "long side in pixels, a multiple of 32")
    epochs: int = _option(100, "passes over the training images")
    batch: int = _option(16, "images in a step; never changed to fit memory")
    nominal_batch: int = _option(64, "images in an optimiser step: gradients of smaller batches are accumulated")
    optimizer: str = _option(
        "SGD",
        "SGD with Nesterov momentum, AdamW, or Muon for convolutions and AdamW for the rest",
        ("SGD", "AdamW", "Muon"),
    )
    lr0: float = _option(0.01, "learning rate after warm-up")
    lrf: float = _option(0.01, "learning rate at the end, as a fraction of the first")
    schedule: str = _option(
        "linear",
        "how the learning rate falls: linear or cosine, epoch by epoch; onecycle: as a cosine from the end of warm-up "
        "on, step by step, while the momentum falls in warm-up and rises thereafter",
        ("linear", "cosine", "onecycle"),
    )
    momentum: float = _option(0.937, "momentum of SGD and Muon, first beta of AdamW")
    weight_decay: float = _option(0.0005, "of convolutions' weights, for a nominal batch")
    warmup_epochs: float = _option(
        3.0, "epochs over which the learning rate rises from 0; the last epoch is never warm-up"
    )
    warmup_momentum: float = _option(
        0.8, "SGD's momentum at the start of warm-up; with onecycle, of either optimizer at its end"
    )
    warmup_bias_lr: float = _option(0.1, "learning rate of biases at the start of warm-up")
    gradient_clip: float = _option(10.0, "greatest norm of all gradients together")
    ema_decay: float = _option(0.9999, "decay of the moving average of the weights")
    ema_tau: float = _option(2000.0, "optimiser steps over which that decay sets in; small for short trainings")
    box: float = _option(7.5, "weight of the loss of boxes (CIoU)")
    cls: float = _option(0.5, "weight of the loss of classes")
    dfl: float = _option(1.5, "weight of the loss of edges' distributions")
    hsv_h: float = _option(0.015, "hue is varied by up to this fraction")
    hsv_s: float = _option(0.7, "saturation is varied by up to this fraction")
    hsv_v: float = _option(0.4, "brightness is varied by up to this fraction")
    degrees: float = _option(0.0, "images are turned by up to so many degrees")
    translate: float = _option(0.1, "images are shifted by up to this fraction")
    scale: float = _option(0.5, "images are enlarged or shrunk by up to this fraction")
    shear: float = _option(0.0, "images are sheared by up to so many degrees")
    perspective: float = _option(0.0, "images are tilted by up to this factor, 0 to 0.001")
    flipud: float = _option(0.0, "probability of a flip upside down")
    fliplr: float = _option(0.5, "probability of a flip left to right")
    canvas: str = _option(
        "square",
        "images are augmented on a square of the image size; fitted: on their own shape, as in tests",
        ("square", "fitted"),
    )
    mosaic: float = _option(1.0, "probability that four images are tiled into one")
    mixup: float = _option(0.0, "probability that two images are blended")
    close_mosaic: int = _option(10, "last epochs without mosaic and mixup")
    precision: str = _option(
        "fp32",
        "of the network; the loss is always fp32; auto: bf16 where the processor has it",
        PRECISIONS,
    )
    seed: int = _option(0, "of the first weights, the order and the augmentation")

    def __post_init__(self) -> None:
        """Refuse values that no training can have, as the configuration's schema does."""
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            if isinstance(value, str):
                continue
            least, most = AT_LEAST.get(name, 0), AT_MOST.get(name)
            if not math.isfinite(value):
                wanted = "a finite number"
            elif most is not None and not least <= value <= most:
                wanted = f"{least} to {most}"
            elif value < least:
                wanted = f"at least {least}"
            elif name in POSITIVE and value == 0:
                wanted = "above 0"
            else:
                continue
            raise InputError(f"--{name.replace('_', '-')} {value}: wanted {wanted}")
        if self.image_size % 32:
            raise InputError(f"--image-size {self.image_size}: wanted a multiple of 32")
        if self.canvas == "fitted" and self.mosaic:
            raise InputError(f"--canvas fitted with --mosaic {self.mosaic}: wanted --mosaic 0, as mosaics are squares")


AUGMENTATION = (
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
    "mixup",
)  # fmt: skip


def epoch_order(recipe: Recipe, images: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch goes through the images: the same for every variant and machine."""
    return np.random.Generator(np.random.PCG64([recipe.seed, epoch])).permutation(images)


def step_seed(recipe: Recipe, step: int) -> int:
    """Return the seed of what a network draws in a step."""
    return int(np.random.SeedSequence([recipe.seed, step]).generate_state(1)[0])


def epoch_batches(recipe: Recipe, images: int, first_epoch: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the batches of all epochs from `first_epoch` on, as keys (epoch, index) of `TrainingImages`."""
    for epoch in range(first_epoch, recipe.epochs):
        order = epoch_order(recipe, images, epoch)
        for start in range(0, images, recipe.batch):
            yield [(epoch, int(index)) for index in order[start : start + recipe.batch]]


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate after warm-up, when so many epochs are done."""
    begun = min(recipe.warmup_epochs, recipe.epochs - 1) if recipe.schedule == "onecycle" else 0
    done = max(epoch - begun, 0) / (recipe.epochs - begun)
    falls = 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return recipe.lr0 * (falls * (1 - recipe.lrf) + recipe.lrf)


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add one option for each value of the recipe."""
    recipe = parser.add_argument_group("recipe", "what decides the weights, besides the data")
    for item in fields(Recipe):
        recipe.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=item.type,
            default=item.default,
            choices=item.metadata["choices"],
            help=f"{item.metadata['help']} (default: {item.default})",
        )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe of the options that `add_recipe_options` added."""
    return Recipe(**{item.name: getattr(args, item.name) for item in fields(Recipe)})
