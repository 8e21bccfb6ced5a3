"""The report's pictures: test images with boxes and detections, and crops of objects gained or lost by fusion.

As in COCO at an IoU of 0.5, a detection is correct if its intersection over union with a ground-truth box of its class
is at least 0.5 and no detection with a higher score is matched to this box. Detections come from one seed.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.average_precision import read_conditions
from detection.matching import in_crowds
from detection.predictions import read_predictions
from pipeline.artefacts import read_json, replacing
from pipeline.corruptions import CORRUPTIONS, corrupt
from pipeline.pairs import find_images, read_image
from pipeline.stage import InputError
from reports.collect import Split

OVERLAP = 0.5  # smallest intersection over union of a detection and the box that it finds
WEBP_QUALITY = 78
CROP = 120  # side of a gallery crop on the page, pixels
CORRUPTION_CROP = (160, 120)  # width and height of the crop of a corrupted image, pixels of the image


@dataclass
class ImageStore:
    """Stores the page's images: embedded in the page, or, if `folder` is given, as files in that folder next to it.

    total: bytes of all images so far.
    """

    folder: Path | None = None
    total: int = 0
    written: list[str] = field(default_factory=list)

    def add(self, image: np.ndarray) -> str:
        """Store an image, uint8 (H, W) or (H, W, 3) RGB; return its address for the page."""
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
        ok, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
        assert ok, "OpenCV cannot encode WebP"
        self.total += len(data)
        if self.folder is None:
            return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"
        name = f"{hashlib.sha256(data.tobytes()).hexdigest()[:16]}.webp"
        with replacing(self.folder / name) as part:
            part.write_bytes(data.tobytes())
        self.written.append(name)
        return f"{self.folder.name}/{name}"

    def finish(self) -> None:
        """Remove the images that an earlier page left in the folder."""
        if self.folder is not None and self.folder.is_dir():
            for file in self.folder.glob("*.webp"):
                if file.name not in self.written:
                    file.unlink()


def scaled(image: np.ndarray, width: int) -> np.ndarray:
    """Return an image scaled down to `width` pixels; an image that is not wider is returned unchanged."""
    height, own = image.shape[:2]
    if own <= width:
        return image
    return cv2.resize(image, (width, max(1, round(height * width / own))), interpolation=cv2.INTER_AREA)


def choose_images(names: Sequence[str], count: int) -> list[str]:
    """Return `count` names spread over the sorted list: the name with the smallest digest in each equal section.

    The digest depends only on the name, so that the choice is independent of any result; unlike a fixed stride, it
    cannot align with a periodic sequence of conditions in the dataset.
    """
    names = sorted(names)
    if not names or count < 1:
        return []
    count = min(count, len(names))
    bounds = [round(index * len(names) / count) for index in range(count + 1)]
    stretches = [names[start:end] for start, end in pairwise(bounds)]
    return [min(stretch, key=lambda name: hashlib.sha256(name.encode()).hexdigest()) for stretch in stretches]


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the intersection over union of two boxes (x, y, width, height); 0 if both are empty."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    union = first[2] * first[3] + second[2] * second[3] - shared
    return shared / union if union > 0 else 0.0


def match(truth: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the index of the ground-truth box that each detection finds, or -1.

    Boxes and detections have `bbox` (x, y, width, height) and `class`. Detections are sorted by descending score, so
    that leaving out those with lower scores does not change the others.
    """
    taken: set[int] = set()
    found = []
    for detection in detections:
        candidates = [
            (overlap(box["bbox"], detection["bbox"]), -index)
            for index, box in enumerate(truth)
            if box["class"] == detection["class"] and index not in taken
        ]
        best, index = max(candidates, default=(0.0, 0))
        found.append(-index if best >= OVERLAP else -1)
        taken.add(found[-1])
    return found


@dataclass(frozen=True)
class Pictures:
    """The data of all pictures of a page: the images of every variant, the ground-truth boxes, the detections.

    files: paths by variant and image name. boxes: ground-truth boxes by image name. crowds: crowd boxes by image name.
    detections: detections by variant and image name, highest score first. conditions: conditions by image name, if the
    dataset states them.
    """

    files: Mapping[str, Mapping[str, Path]]
    folders: Mapping[str, Sequence[Path]]
    classes: Sequence[str]
    boxes: Mapping[str, Sequence[Mapping[str, Any]]]
    crowds: Mapping[str, Sequence[Mapping[str, Any]]]
    detections: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    conditions: Mapping[str, str]
    infrared_range: tuple[float, float] | None = None

    def image(self, variant: str, name: str) -> np.ndarray:
        """Return a variant's image; InputError if it is missing."""
        if name not in self.files[variant]:
            raise InputError(
                f"{', '.join(map(str, self.folders[variant]))}: no image {name!r}; expected one of variant {variant!r}"
            )
        return read_image(self.files[variant][name], self.infrared_range if variant == "infrared" else None)


def read_pictures(
    split: Split,
    images: Mapping[str, Sequence[Path]],
    predictions: Mapping[str, Path],
    without_images: Sequence[str] = (),
) -> Pictures:
    """Read boxes and predictions, and find every variant's images; variants in `without_images` use the visible ones.

    Raises:
        InputError: the ground truth lacks a test image, or a predictions file is not a list of COCO results of this
            split.
    """
    truth_file = split.file.with_name("truth_test.json")
    truth = read_json(truth_file)
    names = {entry["id"]: entry["file_name"] for entry in truth["images"]}
    classes = {entry["id"]: entry["name"] for entry in truth["categories"]}
    missing = sorted(set(split.test) - set(names.values()))
    if missing:
        raise InputError(f"{truth_file}: no image {missing[0]!r}; expected every image of test.txt")
    boxes: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    crowds: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for entry in truth["annotations"]:
        kind = crowds if entry.get("iscrowd") else boxes
        kind[names[entry["image_id"]]].append({"bbox": entry["bbox"], "class": classes[entry["category_id"]]})
    bands = dict.fromkeys(without_images, "visible")
    return Pictures(
        files={
            variant: find_images(folders, split.dataset.get(f"{bands.get(variant, variant)}_suffix", ""))
            for variant, folders in images.items()
        },
        folders=images,
        classes=list(classes.values()),
        boxes=boxes,
        crowds=crowds,
        detections={
            variant: _detections(read_predictions(file, truth), names, classes) for variant, file in predictions.items()
        },
        conditions=read_conditions(split.file.with_name("conditions.json")),
        infrared_range=split.dataset.get("infrared_range"),
    )


def viewer_images(
    pictures: Pictures, names: Sequence[str], least_score: float, width: int, images: ImageStore
) -> list[dict[str, Any]]:
    """Return the viewer's test images: boxes, and every variant's image and detections with the box that each finds.

    Boxes are in pixels of the original images. Detections below `least_score` are left out, and so are detections in a
    crowd of their class that find no box, because they are neither correct nor false.
    """
    classes = {name: index for index, name in enumerate(pictures.classes)}
    scenes = []
    for name in names:
        truth = pictures.boxes[name]
        panes, size = {}, (0, 0)
        for variant in pictures.files:
            image = pictures.image(variant, name)
            size = image.shape[1::-1]
            detections = [d for d in pictures.detections[variant].get(name, []) if d["score"] >= least_score]
            panes[variant] = {
                "image": images.add(scaled(image, width)),
                "detections": [
                    [*(round(v, 1) for v in item["bbox"]), classes[item["class"]], round(item["score"], 3), found]
                    for item, found in zip(detections, match(truth, detections), strict=True)
                    if found >= 0 or not _in_crowd(item, pictures.crowds[name])
                ],
            }
        scenes.append(
            {
                "name": name,
                "condition": pictures.conditions.get(name, ""),
                "size": list(size),
                "truth": [[*(round(v, 1) for v in box["bbox"]), classes[box["class"]]] for box in truth],
                "panes": panes,
            }
        )
    return scenes


def _in_crowd(detection: Mapping[str, Any], crowds: Sequence[Mapping[str, Any]]) -> bool:
    boxes = np.array([crowd["bbox"] for crowd in crowds if crowd["class"] == detection["class"]])
    return bool(in_crowds(np.array(detection["bbox"]), boxes)[0])


def gallery(
    pictures: Pictures, helps: Mapping[str, Mapping[str, Any]], count: int, images: ImageStore
) -> list[dict[str, Any]]:
    """Return, for each variant of `helps`, crops of the largest objects that it gained and lost.

    `helps[variant]` contains the lists `found` (gained) and `lost` of objects: `image`, `class`, `bbox`. At most one
    object per image is shown. Each object is cropped from visible, infrared and the variant, with a margin around it.
    """
    shown = []
    for variant, lists in helps.items():
        if variant not in pictures.files:
            continue
        entry: dict[str, Any] = {"variant": variant}
        for kind in ("found", "lost"):
            objects = list(lists.get(kind, []))
            largest = sorted(objects, key=lambda item: -item["bbox"][2] * item["bbox"][3])
            one_each = list({item["image"]: item for item in reversed(largest)}.values())[::-1][:count]
            entry[kind] = {"total": len(objects), "objects": [_crops(pictures, variant, o, images) for o in one_each]}
        shown.append(entry)
    return shown


def corruption_strip(
    pictures: Pictures, name: str, kind: str, levels: Sequence[str], images: ImageStore
) -> list[dict[str, Any]]:
    """Return crops of an image's band without corruption and at each level, around its largest object, not resized.

    Each crop has `image`, `level` (empty without corruption), `width` and `height`.
    """
    band = CORRUPTIONS[kind].band
    image = pictures.image(band, name)
    x, y, w, h = max((box["bbox"] for box in pictures.boxes[name]), key=lambda box: box[2] * box[3])
    width, height = (min(side, full) for side, full in zip(CORRUPTION_CROP, image.shape[1::-1], strict=True))
    left = round(min(max(x + w / 2 - width / 2, 0), image.shape[1] - width))
    top = round(min(max(y + h / 2 - height / 2, 0), image.shape[0] - height))
    shown = {"": image} | {level: corrupt(image, kind, level, name) for level in levels}
    return [
        {"image": images.add(one[top : top + height, left : left + width])}
        | {"level": level, "width": width, "height": height}
        for level, one in shown.items()
    ]


def _crops(pictures: Pictures, variant: str, item: Mapping[str, Any], images: ImageStore) -> dict[str, Any]:
    """Return an object's crops and the position of its box in them, in per cent of the crop's side."""
    x, y, width, height = item["bbox"]
    sources = [*(band for band in ("visible", "infrared") if band in pictures.files), variant]
    crops = []
    for source in sources:
        image = pictures.image(source, item["image"])
        side = min(max(2.2 * max(width, height), 48), *image.shape[:2])
        left = min(max(x + width / 2 - side / 2, 0), image.shape[1] - side)
        top = min(max(y + height / 2 - side / 2, 0), image.shape[0] - side)
        crop = image[round(top) : round(top + side), round(left) : round(left + side)]
        size = min(2 * CROP, max(CROP, crop.shape[1]))
        kind = cv2.INTER_AREA if crop.shape[1] > size else cv2.INTER_CUBIC
        crops.append({"source": source, "image": images.add(cv2.resize(crop, (size, size), interpolation=kind))})
    box = [100 * value / side for value in (x - left, y - top, width, height)]
    facts = [item["class"], *(str(item[key]) for key in ("size", "condition") if item.get(key))]
    return {
        "image": item["image"],
        "class": item["class"],
        "caption": ", ".join(facts),
        "crops": crops,
        "box": [round(value, 1) for value in box],
    }


def _detections(
    predictions: Sequence[Mapping[str, Any]], names: Mapping[int, str], classes: Mapping[int, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return detections by image name, highest score first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted(predictions, key=lambda entry: -entry["score"]):
        found.setdefault(names[entry["image_id"]], []).append(
            {
                "bbox": [float(value) for value in entry["bbox"]],
                "class": classes[entry["category_id"]],
                "score": float(entry["score"]),
            }
        )
    return found
