"""The condition of every image, day or night and the like: as the data set says, or by its visible luma."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.datasets.layout import Dataset
from detection.likeness import Look

# Mean visible luma, 0..255, below which a picture is one of the night. On MSRS' 560 pairs at hand, whose names say D or
# N, it is right for 97.7 in 100; 50 and 60 are right for 96.4 and 97.3.
NIGHT_BELOW = 55.0


def find_conditions(dataset: Dataset, root: Path, looks: Mapping[str, Look]) -> dict[str, Any]:
    """Return `source`, which rule was used, and `images`, the condition by name.

    Where the data set says nothing of an image, its luma decides, and `source` counts those.
    """
    said = {name: dataset.condition(root, name) if dataset.condition else None for name in looks}
    images = {
        name: said[name] or ("night" if seen.luma < NIGHT_BELOW else "day") for name, seen in sorted(looks.items())
    }
    rule = f"night where the visible image's mean luma is below {NIGHT_BELOW:g} of 255"
    silent = sum(condition is None for condition in said.values())
    if not silent:
        source = "the data set"
    elif silent == len(looks):
        source = rule
    else:
        source = f"the data set; for {silent} images, of which it says nothing: {rule}"
    return {"source": source, "images": images}
