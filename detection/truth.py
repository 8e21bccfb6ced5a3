"""Ground truth in COCO format, with images, annotations and categories numbered from 1.

Image ids number the sorted names of the whole dataset, training and test together; categories are in the order of the
dataset. Annotation ids must not be 0, because evaluators use 0 for `unmatched`. The id of an image is not derived from
its name, even if the name is a number.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.boxes import Box
from pipeline.artefacts import read_json
from pipeline.stage import InputError


def build_truth(
    ids: Mapping[str, int],
    sizes: Mapping[str, tuple[int, int]],
    boxes: Mapping[str, Sequence[Box]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return the ground truth of the images named in `sizes`, in the order of their names.

    Args:
        ids: image ids by name.
        sizes: (width, height) in pixels by name.
        boxes: boxes by name.
        classes: class names in the order of their category ids.
    """
    images, annotations = [], []
    for name in sorted(sizes):
        width, height = sizes[name]
        images.append({"id": ids[name], "file_name": name, "width": width, "height": height})
        for box in boxes[name]:
            w, h = box.xmax - box.xmin, box.ymax - box.ymin
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": ids[name],
                    "category_id": classes.index(box.name) + 1,
                    "bbox": [round(value, 4) for value in (box.xmin, box.ymin, w, h)],
                    "area": round(w * h, 4),
                    "iscrowd": int(box.crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def objects_of(truth: Mapping[str, Any], crowds: bool = False) -> list[dict[str, Any]]:
    """Return the annotations of single objects; with `crowds`, the annotations of crowds (regions of many objects).

    Crowds are not used in training, and detections in them count neither as correct nor as wrong.
    """
    return [annotation for annotation in truth["annotations"] if bool(annotation.get("iscrowd")) == crowds]


def boxes_per_class(truth: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of boxes of each class without crowds; classes without boxes have 0."""
    counts = {category["id"]: 0 for category in truth["categories"]}
    for annotation in objects_of(truth):
        counts[annotation["category_id"]] += 1
    return {category["name"]: counts[category["id"]] for category in truth["categories"]}


def without_boxes(truth: Mapping[str, Any], part: str) -> str:
    """Return a warning that names the classes without a box; empty if every class has one.

    Raises:
        InputError: there are images but no boxes.
    """
    if truth["images"] and not objects_of(truth):
        raise InputError(
            f"the {len(truth['images'])} {part} images have no boxes; expected label files that are not all empty or "
            "missing"
        )
    empty = [name for name, count in boxes_per_class(truth).items() if not count]
    return f"no {part} box of {', '.join(empty)}" if empty else ""


def read_truth(path: Path) -> dict[str, Any]:
    """Read a ground truth that `build_truth` made.

    Raises:
        InputError: the file is missing or not a COCO ground truth with ids as in this module.
    """
    truth = read_json(path)
    check_truth(truth, str(path))
    return truth


def check_truth(truth: Any, where: str) -> None:
    """Raise InputError, beginning with `where`, unless this is a COCO ground truth with ids as in this module."""
    try:
        images = [image["id"] for image in truth["images"]]
        categories = [category["id"] for category in truth["categories"]]
        annotations = [annotation["id"] for annotation in truth["annotations"]]
        known = {(image, category) for image in images for category in categories}
        stray = [a["id"] for a in truth["annotations"] if (a["image_id"], a["category_id"]) not in known]
    except (KeyError, TypeError) as error:
        raise InputError(f"{where} is not a COCO ground truth: {error!r} is missing or has the wrong type") from None
    if not images or len(set(images)) < len(images):
        raise InputError(
            f"{where} has {len(images)} images with {len(set(images))} different ids; expected at least one image, and "
            "a different id for each"
        )
    if categories != list(range(1, len(categories) + 1)):
        raise InputError(f"{where} has the category ids {categories}; expected them numbered from 1")
    if annotations != list(range(1, len(annotations) + 1)):
        raise InputError(f"{where} has wrong annotation ids; expected 1 to {len(annotations)} in order")
    if stray:
        raise InputError(f"{where}: annotation {stray[0]} names an image or a category that is not in the file")
