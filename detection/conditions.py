"""The condition of each image (day, night, ...), stated by its scene or the dataset, or decided by its visible luma."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.datasets.layout import Dataset, Scene
from detection.similarity import PairSummary

# Mean visible luma, 0..255, below which an image counts as night. It agrees with the D or N in the names of 560 MSRS
# pairs for 97.7 %; thresholds of 50 and 60 agree for 96.4 % and 97.3 %.
NIGHT_BELOW = 55.0


def find_conditions(
    dataset: Dataset, root: Path, summaries: Mapping[str, PairSummary], scenes: Mapping[str, Scene]
) -> dict[str, Any]:
    """Return `source`, the rule used, and `images`, the condition of each image by name, or None if it is unknown.

    If scenes state conditions, only these are used, because their words need not be day and night: an image whose scene
    states none has none. Otherwise the dataset decides, and the luma of an image for which the dataset states nothing;
    `source` then has the number of such images.
    """
    if any(scene.condition for scene in scenes.values()):
        images = {name: scenes[name].condition or None if name in scenes else None for name in sorted(summaries)}
        sources = {scenes[name].source for name, condition in images.items() if condition}
        return {"source": ", ".join(sorted(sources)), "images": images}
    stated = {name: dataset.condition(root, name) if dataset.condition else None for name in summaries}
    images = {
        name: stated[name] or ("night" if summary.luma < NIGHT_BELOW else "day")
        for name, summary in sorted(summaries.items())
    }
    rule = f"night if the mean luma of the visible image is below {NIGHT_BELOW:g} of 255"
    unstated = sum(condition is None for condition in stated.values())
    if not unstated:
        source = "the dataset"
    elif unstated == len(summaries):
        source = rule
    else:
        source = f"the dataset; for {unstated} images without a stated condition: {rule}"
    return {"source": source, "images": images}
