"""The condition of every image, day, night and the like: as its scene or the data set says, or by its visible luma."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.datasets.layout import Dataset, Scene
from detection.likeness import Look

# Mean visible luma, 0..255, below which a picture is one of the night. On MSRS' 560 pairs at hand, whose names say D or
# N, it is right for 97.7 in 100; 50 and 60 are right for 96.4 and 97.3.
NIGHT_BELOW = 55.0


def find_conditions(
    dataset: Dataset, root: Path, looks: Mapping[str, Look], scenes: Mapping[str, Scene]
) -> dict[str, Any]:
    """Return `source`, which rule was used, and `images`, the condition by name, None where none is known.

    Where the data set says nothing of an image, its luma decides, and `source` counts those. Conditions of scenes are
    words of their own, and luma's day and night are not mixed with them: images that they leave out have none.
    """
    if any(scene.condition for scene in scenes.values()):
        images = {name: scenes[name].condition or None if name in scenes else None for name in sorted(looks)}
        sources = {scenes[name].source for name, condition in images.items() if condition}
        return {"source": ", ".join(sorted(sources)), "images": images}
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
