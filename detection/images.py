"""The detector's input images: read, resized, and in training augmented by ultralytics' own transforms."""

import math
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from detection.detector import STRIDE  # first, as it keeps the package offline

# isort: split
from ultralytics.data.augment import Compose, RandomHSV
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import IterableSimpleNamespace

from detection.static_loss import padded_boxes
from detection.truth import objects_of
from detection.variant import Data
from pipeline.devices import memory_available
from pipeline.pairs import read_grey, read_image
from pipeline.stage import InputError


def read_bgr(path: Path, height: int, width: int, counts: tuple[float, float] | None = None) -> np.ndarray:
    """Read an image as uint8 BGR (H, W, 3); a single channel is repeated three times.

    `counts` is the infrared range for files with 16-bit samples.

    Raises:
        InputError: the file is unreadable, or its size is not the one in the ground truth.
    """
    image = _of_size(read_image(path, counts), path, height, width)
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(image[..., ::-1])


def _of_size(image: np.ndarray, path: Path, height: int, width: int) -> np.ndarray:
    if image.shape[:2] != (height, width):
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise InputError(f"{path} is {found}, expected {width}x{height} as in its labels")
    return image


def read_input(data: Data, image: Mapping[str, Any]) -> np.ndarray:
    """Read the detector's input for an image of the ground truth: uint8, BGR (H, W, 3).

    For a detector that fuses inside itself it is red, green, blue and infrared luma, (H, W, 4). Before the network, the
    package converts BGR to RGB and leaves images of four channels as they are; `in_network_order` does the same.

    Raises:
        InputError: as `read_bgr`.
    """
    name, size = image["file_name"], (image["height"], image["width"])
    if not data.inside:
        return read_bgr(data.images[name], *size, data.infrared_range)
    luma = _of_size(read_grey(data.infrared[name], data.infrared_range), data.infrared[name], *size)
    return np.dstack([read_bgr(data.images[name], *size)[..., ::-1], luma])


def in_network_order(image: np.ndarray) -> np.ndarray:
    """Return an image of `read_input` with its channels in the order and layout of the network, (C, H, W)."""
    return (image[..., ::-1] if image.shape[2] == 3 else image).transpose(2, 0, 1)


def resize_long_side(image: np.ndarray, size: int) -> np.ndarray:
    """Resize bilinearly to a long side of `size` pixels; the short side is rounded up, as in the package's training."""
    height, width = image.shape[:2]
    sides = resized_sides(width, height, size)
    return image if sides == (width, height) else cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR)


def resized_sides(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the width and height that `resize_long_side` gives an image."""
    ratio = size / max(width, height)
    return min(math.ceil(width * ratio), size), min(math.ceil(height * ratio), size)


def resized_bytes(data: Data, size: int) -> int:
    """Return the size in bytes of all resized images."""
    sides = (resized_sides(image["width"], image["height"], size) for image in data.truth["images"])
    return sum(data.channels * width * height for width, height in sides)


class BothBandsHSV(RandomHSV):
    """Varies the colours of both bands with the same random numbers as for images of a single band.

    The visible colours change as in the visible variant. Of the infrared luma only the brightness changes, because a
    grey image has neither hue nor saturation. (The package's own transform does not change images of four channels.)
    """

    def apply_image(self, labels: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return `labels` with the image (H, W, 4) varied."""
        image, before = labels["img"], np.random.get_state()
        visible = super().apply_image({"img": np.ascontiguousarray(image[..., 2::-1])}, params)["img"]
        np.random.set_state(before)
        infrared = super().apply_image({"img": np.repeat(image[..., 3:], 3, axis=2)}, params)["img"]
        labels["img"] = np.dstack([visible[..., ::-1], infrared[..., 0]])
        return labels


def padded_sides(data: Data, size: int) -> tuple[int, int]:
    """Return the height and width, padded to the stride, that most images of `data` have in tests."""
    sides = Counter(resized_sides(image["width"], image["height"], size) for image in data.truth["images"])
    width, height = sides.most_common(1)[0][0]
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def _fitted(data: Data, size: int) -> tuple[int, int]:
    """Return the height and width, in multiples of the stride, of all resized images.

    Raises:
        InputError: the images do not all have the same shape.
    """
    shapes = {}
    for image in data.truth["images"]:
        width, height = resized_sides(image["width"], image["height"], size)
        shapes.setdefault((-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE), image)
    if len(shapes) > 1:
        one, other = (f"{image['file_name']} is {image['width']}x{image['height']}" for image in [*shapes.values()][:2])
        raise InputError(f"--canvas fitted: {one} and {other}; expected images of one shape, or --canvas square")
    return next(iter(shapes))


class TrainingImages(YOLODataset):
    """The training images of one variant, augmented by the package's own transforms.

    The key of an item is (epoch, index). Its random augmentation depends only on the seed, the epoch and the index: not
    on the order of reading, the number of worker processes, or what an interrupted run had read. All variants therefore
    get the same crops of the same images, and only the pixels differ.

    Labels are taken from the ground truth and images from the folders of the variant, into which nothing is written.
    """

    def __init__(
        self,
        data: Data,
        augmentation: Mapping[str, float],
        size: int,
        seed: int,
        mosaic_epochs: int,
        canvas: str = "square",
    ) -> None:
        """Prepare the images; they are read when an item is requested.

        Args:
            data: training part of a variant.
            augmentation: the package's names and values.
            size: long side of the resized images, in pixels.
            seed: of the augmentation.
            mosaic_epochs: number of epochs, from the first, with mosaic and mixup.
            canvas: "square", or "fitted" to the images' own shape in multiples of the stride.

        Raises:
            InputError: the canvas is "fitted" and the images do not all have the same shape.
        """
        self.source, self.seed, self.mosaic_epochs = data, seed, mosaic_epochs
        self.canvas = _fitted(data, size) if canvas == "fitted" else None
        self.kept: dict[int, np.ndarray] = {}
        fixed = {"copy_paste": 0.0, "copy_paste_mode": "flip", "cutmix": 0.0, "bgr": 0.0, "augmentations": []}
        unused = {"mask_ratio": 1, "overlap_mask": True}
        values = IterableSimpleNamespace(**augmentation, **fixed, **unused)
        super().__init__(
            img_path=[], imgsz=size, cache=None, augment=True, hyp=values, rect=False, batch_size=1, stride=STRIDE,
            pad=0.0, data={"names": dict(enumerate(data.classes)), "channels": data.channels}, task="detect",
        )  # fmt: skip
        values.mosaic = values.mixup = 0.0
        self.transforms_unmixed = self.build_transforms(values)

    def get_img_files(self, img_path: list[str]) -> list[str]:
        """Return the image files of the variant; the package's own method would search folders."""
        return [str(self.source.images[image["file_name"]]) for image in self.source.truth["images"]]

    def get_labels(self) -> list[dict[str, Any]]:
        """Return the boxes of the ground truth in the package's form; its own method would read text files.

        Crowds are left out, because a box around many objects is not an example of an object.
        """
        boxes: dict[int, list[tuple[float, ...]]] = {image["id"]: [] for image in self.source.truth["images"]}
        for annotation in objects_of(self.source.truth):
            boxes[annotation["image_id"]].append((annotation["category_id"] - 1, *annotation["bbox"]))
        labels = []
        for image, file in zip(self.source.truth["images"], self.im_files, strict=True):
            rows = np.array(boxes[image["id"]], dtype=np.float32).reshape(-1, 5)
            x, y, w, h = (rows[:, 1:] / np.tile(np.float32([image["width"], image["height"]]), 2)).T
            labels.append(
                {
                    "im_file": file,
                    "shape": (image["height"], image["width"]),
                    "cls": rows[:, :1],
                    "bboxes": np.stack([x + w / 2, y + h / 2, w, h], axis=1),
                    "segments": [],
                    "keypoints": None,
                    "normalized": True,
                    "bbox_format": "xywh",
                }
            )
        return labels

    def build_transforms(self, hyp: SimpleNamespace) -> Compose:
        """Return the package's transforms, with mosaics drawn from all images, not only from those last read."""
        self.cache = "ram"  # with this value, the package draws mosaics from all images
        built = super().build_transforms(hyp)
        if self.source.inside:
            for number, transform in enumerate(built.transforms):
                if isinstance(transform, RandomHSV):
                    built.transforms[number] = BothBandsHSV(transform.hgain, transform.sgain, transform.vgain)
        return built

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        """Add the size of a canvas that is not square to the label, for the transforms."""
        if self.canvas is not None:
            label["rect_shape"] = self.canvas
        return super().update_labels_info(label)

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Return image `i` resized to the training size, its original size and its new size."""
        shape = self.labels[i]["shape"]
        if i in self.kept:
            return self.kept[i], shape, self.kept[i].shape[:2]
        image = read_input(self.source, self.source.truth["images"][i])
        image = resize_long_side(image, self.imgsz)
        return image, shape, image.shape[:2]

    def check_cache_fits(self) -> None:
        """Check that all resized images fit into the memory that is available to this process.

        Raises:
            InputError: they do not fit. Without this check the system would kill the process without a message.
        """
        needed, free = resized_bytes(self.source, self.imgsz), memory_available()
        if needed > free:
            raise InputError(
                f"--cache ram needs {needed / 1e9:.1f} GB for {len(self.labels)} images of {self.imgsz} pixels, and "
                f"{free / 1e9:.1f} GB are available to this process; expected --cache none (in the configuration "
                "detection: training: cache), or more memory (on a cluster --set-resources "
                "train_detector:mem_mb=MEGABYTES)"
            )

    def keep(self, i: int) -> int:
        """Read image `i` and keep it in memory; return its size in bytes."""
        image = self.load_image(i)[0]
        image.setflags(write=False)
        self.kept[i] = image
        return image.nbytes

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return image `index` with its augmentation in `epoch`; `key` is (epoch, index)."""
        epoch, index = key
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        random.seed(int(state[0]))
        np.random.seed(int(state[1]))  # the transforms use the global generators
        transforms = self.transforms if epoch < self.mosaic_epochs else self.transforms_unmixed
        return transforms(self.get_image_and_label(index))

    @staticmethod
    def collate_fn(batch: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the package's batch with `padded`, its boxes as `padded_boxes` returns them."""
        collated = YOLODataset.collate_fn(batch)
        boxes = (collated[name] for name in ("batch_idx", "cls", "bboxes"))
        return {**collated, "padded": padded_boxes(*boxes, len(batch))}
