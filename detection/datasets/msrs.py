"""MSRS (Tang et al., Information Fusion 2022) with boxes as YOLO text: road scenes of 640x480 by day and by night.

The boxes are from the repository Lele-3/MSRS-detection-label, which has three label sets, drawn on the fused, the
visible and the infrared images. Their folders in `train` and `test` are `labels` (drawn on the fused images),
`labels_visible` and `labels_infrared`. The split is the authors' own: the folders `train` and `test`. An empty label
file means an image without objects.
"""

from pathlib import Path

from detection.datasets.layout import Dataset, Layout
from pipeline.pairs import find_images

CLASSES = ("person", "bicycle", "car")
_PARTS = ("train", "test")
_LABELS = {"fused": "labels", "visible": "labels_visible", "infrared": "labels_infrared"}


def layout(root: Path) -> Layout:
    """Return the folders of the training and the test part, and the label sets in both; they need not exist yet.

    `labels` counts as a label set even if only one part has it, so that the folder missing in the other is reported.
    """
    visible, infrared = (tuple(root / part / kind for part in _PARTS) for kind in ("vi", "ir"))
    sets = {name: tuple(root / part / kind for part in _PARTS) for name, kind in _LABELS.items()}
    found = {name: folders for name, folders in sets.items() if all(folder.is_dir() for folder in folders)}
    if not found or any(folder.is_dir() for folder in sets["fused"]):
        found = {"fused": sets["fused"], **found}
    return Layout(visible, infrared, tuple(folder for folders in found.values() for folder in folders), found)


def own_split(root: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible images in `train` and in `test`."""
    return list(find_images(root / "train" / "vi")), list(find_images(root / "test" / "vi"))


def condition(root: Path, name: str) -> str | None:
    """Return the condition by the last letter of the name: D is day, N night."""
    return {"D": "day", "N": "night"}.get(name[-1])


MSRS = Dataset(CLASSES, layout, own_split, condition, numbered=CLASSES)
