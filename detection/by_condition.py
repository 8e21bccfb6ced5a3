"""Average AP of the variants, and their differences from the single bands, for each condition of the test set.

A condition is scored as a test set of its own: only its images, with a bootstrap of its scenes. The results are
exploratory: a condition has fewer scenes than the test set, no hypothesis is tested, and the intervals are not adjusted
for their number.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from detection.accumulation import Matches, matches_within, scene_boxes
from detection.differences import too_few_scenes
from detection.intervals import LEAST_BOXES, bootstrap, describe


def describe_conditions(
    matches: Mapping[str, Sequence[Sequence[Matches]]],
    conditions: Sequence[str | None],
    scene: np.ndarray,
    classes: Sequence[str],
    samples: int = 1000,
    seed: int = 0,
    bands: Sequence[str] = ("visible", "infrared"),
) -> dict[str, dict[str, Any]]:
    """Return the intervals of each condition by its name, in the order of the names. Images without one are left out.

    Args:
        matches: for each variant and each of its seeds, the matches of every class.
        conditions: (N,) condition of each image, None if it is unknown.
        scene: (N,) index of the scene of each image.
        classes: K names.
        samples: number of bootstrap resamples.
        seed: seed of the resamples.
        bands: variants that are single bands; those not in `matches` are left out.

    Returns:
        For each condition: `images`, `boxes`, `scenes` with boxes, `classes` (the number of boxes of each), and
        `remark`, on too few scenes or boxes, or empty; `variants`, for each variant the `AP` averaged over the classes
        with boxes, `low`, `high` and the number of `undefined` resamples; `differences`, for each variant (`first`)
        minus each band (`second`), the `difference`, `low`, `high`.
    """
    names = np.array([name or "" for name in conditions])
    return {
        str(name): _describe_one(matches, names == name, scene, classes, samples, seed, bands)
        for name in np.unique(names[names != ""])
    }


def _describe_one(
    matches: Mapping[str, Sequence[Sequence[Matches]]],
    counted: np.ndarray,
    scene: np.ndarray,
    classes: Sequence[str],
    samples: int,
    seed: int,
    bands: Sequence[str],
) -> dict[str, Any]:
    part = {
        variant: [[matches_within(one, counted) for one in by_class] for by_class in runs]
        for variant, runs in matches.items()
    }
    scenes, index = np.unique(scene[counted], return_inverse=True)
    boxes = scene_boxes(next(iter(part.values()))[0], index, len(scenes))
    measured, drawn = bootstrap(part, index, samples, seed)
    pairs = [(first, band) for first, band in product(part, bands) if band in part and first != band]
    variants = describe(classes, boxes, measured, drawn)
    differences = describe(
        classes,
        boxes,
        {pair: measured[pair[0]] - measured[pair[1]] for pair in pairs},
        {pair: drawn[pair[0]] - drawn[pair[1]] for pair in pairs},
    )
    by_class = {name: int(row.sum()) for name, row in zip(classes, boxes, strict=True)}
    return {
        "images": int(counted.sum()),
        "boxes": int(boxes.sum()),
        "scenes": int((boxes.sum(axis=0) > 0).sum()),
        "classes": by_class,
        "remark": _remark(boxes, by_class),
        "variants": {
            name: {key: entries["Average"][key] for key in ("AP", "low", "high", "undefined")}
            for name, entries in variants.items()
        },
        "differences": [
            {"first": first, "second": band, "difference": entries["Average"]["AP"]}
            | {key: entries["Average"][key] for key in ("low", "high")}
            for (first, band), entries in differences.items()
        ],
    }


def _remark(boxes: np.ndarray, by_class: Mapping[str, int]) -> str:
    """Return the reasons why the averages of a condition are uncertain; empty if there are none."""
    few = [name for name, number in by_class.items() if 0 < number < LEAST_BOXES]
    none = [name for name, number in by_class.items() if not number]
    remarks = [
        "too few scenes for the tests of Table II" if too_few_scenes(boxes) else "",
        f"fewer than {LEAST_BOXES} boxes of {', '.join(few)}" if few else "",
        f"no boxes of {', '.join(none)}, left out of the average" if none else "",
    ]
    return "; ".join(filter(None, remarks))
