"""Leakage of a split: the share of test images whose likest training image is a near duplicate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detection.likeness import DESCRIPTOR, NEAR_DUPLICATE, Look, nearest
from pipeline.stage import InputError

# From this share of test pairs on that stand in training, pixel for pixel, a result is one on training data.
MOST_EXACT = 0.01


def measure_leakage(looks: Mapping[str, Look], train: Sequence[str], test: Sequence[str]) -> dict[str, Any]:
    """Return `share` = `near_duplicates` / `images`, how it was measured, and the likest training image of each.

    `exact` counts the test pairs that are in training pixel for pixel, in both bands; they are near duplicates as well.
    """
    stacks = [np.stack([looks[name].descriptor for name in names]) for names in (test, train)]
    index, value = nearest(*stacks)
    known = {looks[name].digest for name in train}
    exact = [looks[name].digest in known for name in test]
    near = int(((value >= NEAR_DUPLICATE) | np.array(exact)).sum())
    return {
        "share": near / len(test),
        "images": len(test),
        "near_duplicates": near,
        "exact": sum(exact),
        "threshold": NEAR_DUPLICATE,
        "descriptor": DESCRIPTOR,
        "nearest": {
            name: {"train": train[at], "likeness": round(float(alike), 4)}
            for name, at, alike in zip(test, index, value, strict=True)
        },
    }


def refuse_tested_training(leakage: Mapping[str, Any]) -> None:
    """Refuse a split whose test set was trained on.

    Raises:
        InputError: more than one test pair in a hundred is in training, pixel for pixel.
    """
    if leakage["exact"] > MOST_EXACT * leakage["images"]:
        raise InputError(
            f"{leakage['exact']} of the {leakage['images']} test pairs are in training as well, pixel for pixel, under "
            f"other names; wanted at most {MOST_EXACT:.0%}: take --split scene-blocked, or lists without them"
        )
