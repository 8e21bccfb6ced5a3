"""Training images kept on the training device and augmented there in batches.

The package's own transforms draw the random numbers and move the boxes. They work on lazy images, which have no pixels
and record the operations. All images of a batch are then computed by tensor operations, in the integer arithmetic with
which OpenCV warps uint8 images (coordinates rounded to 1/32 pixel) and changes hue, saturation and value. Every pixel
equals OpenCV's.

There is one exception. In the last columns of a row, if the width is not a multiple of 64, OpenCV's scalar code rounds
fractions that its vector code truncates. There colours may differ by one grey level if hue, saturation or value are
varied.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.images import TrainingImages, resized_sides
from detection.variant import Data
from pipeline.stage import InputError, threads_available

# isort: split
from ultralytics.data import augment

GREY = 114  # of the canvas around images
# Fractional bits in OpenCV's fixed-point arithmetic: of coordinates as weights of pixels, of coordinates in sums, and
# in its tables for hue and saturation.
PLACE_BITS, FINE_BITS = 5, 10
SATURATION_BITS = 12
HUES = 180


@dataclass(frozen=True)
class LazyImage:
    """An image whose pixels are not computed yet: a record of the operations that make it.

    Attributes:
        height, width: in pixels; the package's transforms read them from `shape`.
        tiles: rows (image, left, top, right, bottom, x, y): an image, the rectangle of the canvas that it fills, and
            the position of its own first pixel on the canvas. The rest of the canvas is grey.
        matrix: maps the canvas to this image, float32 (3, 3); None before it is warped.
        blended: another lazy image to blend with, and the weight of this one; None if it is not blended.
        tables: new values of hue, saturation and value, uint8 (3, 256); None if they are not changed.
        flips: whether to flip upside down, and left to right.
    """

    height: int
    width: int
    tiles: tuple[tuple[int, ...], ...]
    matrix: np.ndarray | None = None
    blended: "tuple[LazyImage, float] | None" = None
    tables: np.ndarray | None = None
    flips: tuple[bool, bool] = (False, False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels, like the shape of an array."""
        return self.height, self.width, 3


def _tile(labels: dict[str, Any], params: Mapping[str, Any], size: int) -> None:
    keys = ("x1a", "y1a", "x2a", "y2a", "padw", "padh")
    rows = ((item["labels_patch"]["img"].tiles[0][0], *(item[key] for key in keys)) for item in params["layout"])
    labels["img"] = LazyImage(2 * size, 2 * size, tuple(rows))


def _warp(labels: dict[str, Any], params: Mapping[str, Any]) -> None:
    width, height = params["size"]
    labels["img"] = replace(labels["img"], height=height, width=width, matrix=params["M"])
    labels["resized_shape"] = (height, width)


def _blend(labels: dict[str, Any], params: Mapping[str, Any]) -> None:
    labels["img"] = replace(labels["img"], blended=(labels["mix_labels"][0]["img"], params["r"]))


def _flip(labels: dict[str, Any], params: Mapping[str, Any]) -> None:
    if params["flip"]:
        vertical, horizontal = labels["img"].flips
        vertical ^= params["direction"] == "vertical"
        horizontal ^= params["direction"] == "horizontal"
        labels["img"] = replace(labels["img"], flips=(vertical, horizontal))


def _vary(labels: dict[str, Any], _: Any, gains: Sequence[float]) -> None:
    if any(gains):
        hue, saturation, value = np.random.uniform(-1, 1, 3) * gains
        levels = np.arange(256.0)
        tables = [(levels + hue * HUES) % HUES, *(np.clip(levels * (1 + by), 0, 255) for by in (saturation, value))]
        tables[1][0] = 0  # grey stays grey
        labels["img"] = replace(labels["img"], tables=np.stack(tables).astype(np.uint8))


def _record_pixel_operations(transforms: augment.Compose) -> None:
    """Make the package's transforms record their pixel operations on a `LazyImage`; boxes are transformed as usual."""
    for transform in transforms.transforms:
        match transform:
            case augment.Compose():
                _record_pixel_operations(transform)
            case augment.Mosaic():
                _record_with(transform, _tile, transform.imgsz)
            case augment.RandomPerspective():
                _record_with(transform, _warp)
            case augment.MixUp():
                _record_with(transform, _blend)
            case augment.RandomHSV():
                _record_with(transform, _vary, (transform.hgain, transform.sgain, transform.vgain))
            case augment.RandomFlip():
                _record_with(transform, _flip)
            case augment.Format():
                _record_with(transform, lambda labels, params: None)


def _record_with(transform: augment.BaseTransform, record: Callable[..., None], *arguments: Any) -> None:
    def apply_image(labels: dict[str, Any], params: Any = None) -> dict[str, Any]:
        record(labels, params, *arguments)
        return labels

    transform.apply_image = apply_image


class LazyTrainingImages(TrainingImages):
    """`TrainingImages` whose items have a `LazyImage` instead of pixels; `DeviceImages` makes the pixels of batches."""

    def __init__(self, data: Data, augmentation: Mapping[str, float], *args: Any, **kwargs: Any) -> None:
        """Prepare the images as `TrainingImages` does.

        Raises:
            InputError: the images have both bands, or the augmentation has a perspective; or as `TrainingImages`.
        """
        if data.inside:
            raise InputError(
                f"--augment-on-device with {data.inside}: expected images of three channels, or no --augment-on-device"
            )
        if augmentation["perspective"]:
            raise InputError(
                f"--augment-on-device with --perspective {augmentation['perspective']}: expected --perspective 0"
            )
        super().__init__(data, augmentation, *args, **kwargs)
        for transforms in (self.transforms, self.transforms_unmixed):
            _record_pixel_operations(transforms)

    def load_image(self, i: int, *_: Any, **__: Any) -> tuple[LazyImage, tuple[int, int], tuple[int, int]]:
        """Return image `i` as one tile, its original size and its resized size."""
        height, width = shape = self.labels[i]["shape"]
        width, height = resized_sides(width, height, self.imgsz)
        return LazyImage(height, width, ((i, 0, 0, width, height, 0, 0),)), shape, (height, width)

    def read_pixels(self) -> Iterator[np.ndarray]:
        """Yield all images in order, as BGR, resized to the training size."""
        with ThreadPoolExecutor(threads_available()) as pool:
            yield from pool.map(lambda i: TrainingImages.load_image(self, i)[0], range(len(self.labels)))

    @staticmethod
    def collate_fn(batch: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch with `operations`, the arguments of `DeviceImages.augmented`, instead of `img`."""
        images = [item.pop("img") for item in batch]
        return {**TrainingImages.collate_fn(batch), "operations": collate_operations(images)}


def collate_operations(images: Sequence[LazyImage]) -> dict[str, Tensor]:
    """Return the recorded operations of B lazy images of one size (H, W) as tensors, for L >= B warped layers.

    The first B layers are the images themselves, the others the images that are blended with them.

    Returns:
        `tiles` (L, T, 7), those of `LazyImage`; `across` (L, 2, W) and `down` (L, 2, H), whose sum is the position of
        each pixel on the canvas, x and y; `below` (B), the layer to blend with, which is the image itself if it is not
        blended; `share` (B), the weight of the image; `tables` (B, 3, 256), missing if no image has any; `flips`
        (B, 2).
    """
    layers, below, share = list(images), list(range(len(images))), [1.0] * len(images)
    for number, image in enumerate(images):
        if image.blended:
            below[number], share[number] = len(layers), image.blended[1]
            layers.append(image.blended[0])
    most = max(len(layer.tiles) for layer in layers)
    tiles = [[*layer.tiles, *[(0,) * 7] * (most - len(layer.tiles))] for layer in layers]
    across, down = zip(*(_places(layer) for layer in layers), strict=True)
    found = {
        "tiles": torch.tensor(tiles),
        "across": torch.from_numpy(np.stack(across)),
        "down": torch.from_numpy(np.stack(down)),
        "below": torch.tensor(below),
        "share": torch.tensor(share, dtype=torch.float64),
        "flips": torch.tensor([image.flips for image in images]),
    }
    tables = [image.tables for image in images if image.tables is not None]
    return found | ({"tables": torch.from_numpy(np.stack(tables))} if tables else {})


def _places(layer: LazyImage) -> tuple[np.ndarray, np.ndarray]:
    """Return the contributions of columns and of rows to positions on the canvas: int32 (2, W) and (2, H).

    The two rows are x and y, in 1/1024 pixel. The matrix is inverted and rounded in the same order as in OpenCV.
    """
    (a, b, c), (d, e, f) = layer.matrix[:2].astype(np.float64)
    determinant = a * e - b * d
    inverse = 1 / determinant if determinant else 0.0
    a, b, d, e = e * inverse, -b * inverse, -d * inverse, a * inverse
    columns, rows = np.arange(layer.width, dtype=np.float64), np.arange(layer.height, dtype=np.float64)
    one = float(1 << FINE_BITS)
    half = 1 << (FINE_BITS - PLACE_BITS - 1)
    across = np.rint(np.stack([a * columns, d * columns]) * one)
    down = np.rint(np.stack([b * rows + (-a * c - b * f), e * rows + (-d * c - e * f)]) * one) + half
    most = float(2**30)
    return tuple(np.clip(places, -most, most).astype(np.int32) for places in (across, down))


class DeviceImages:
    """All training images on a device, as uint8; makes augmented batches there."""

    def __init__(self, images: LazyTrainingImages, device: str) -> None:
        """Read all images and copy them to the device, where each pixel takes 3 bytes.

        Raises:
            InputError: an image cannot be read.
        """
        sides = [images.load_image(i)[2] for i in range(len(images))]
        counts = torch.tensor([height * width for height, width in sides])
        self.widths = torch.tensor([width for _, width in sides], device=device)
        self.starts = (counts.cumsum(0) - counts).to(device)
        self.grey = int(counts.sum())  # the index of a grey pixel, after all images
        self.pixels = torch.full((self.grey + 1, 3), GREY, dtype=torch.uint8, device=device)
        start = 0
        for image in images.read_pixels():
            flat = torch.from_numpy(image.reshape(-1, 3))
            self.pixels[start : start + len(flat)] = flat.to(device)
            start += len(flat)
        self.device = device

    def with_pixels(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of `LazyTrainingImages` with `img`, uint8 RGB (B, 3, H, W) on the device."""
        operations = {name: value.to(self.device, non_blocking=True) for name, value in batch["operations"].items()}
        return {**batch, "img": self.augmented(**operations)}

    def augmented(
        self,
        tiles: Tensor,
        across: Tensor,
        down: Tensor,
        below: Tensor,
        share: Tensor,
        flips: Tensor,
        tables: Tensor | None = None,
    ) -> Tensor:
        """Return uint8 RGB images (B, 3, H, W) from the operations of `collate_operations`."""
        made = self._warped(tiles, across, down)
        count = len(below)
        if len(made) > count:
            share = share.view(-1, 1, 1, 1)
            made = made[:count].double() * share + made[below].double() * (1 - share)
        made = made.to(torch.uint8)
        if tables is not None:
            made = recolour(made, tables)
        for axis in (1, 2):
            made = torch.where(flips[:, axis - 1].view(-1, 1, 1, 1), made.flip(axis), made)
        return made.flip(3).permute(0, 3, 1, 2).contiguous()

    def _warped(self, tiles: Tensor, across: Tensor, down: Tensor) -> Tensor:
        """Return the warped layers, int32 BGR (L, H, W, 3)."""
        x, y = ((down[:, axis, :, None] + across[:, axis, None, :]) >> (FINE_BITS - PLACE_BITS) for axis in (0, 1))
        one = 1 << PLACE_BITS
        right, low = x & (one - 1), y & (one - 1)
        x, y = x >> PLACE_BITS, y >> PLACE_BITS
        total = torch.zeros((*x.shape, 3), dtype=torch.int32, device=x.device)
        for step_y, weight_y in ((0, one - low), (1, low)):
            for step_x, weight_x in ((0, one - right), (1, right)):
                pixels = self.pixels[self._indices(tiles, x + step_x, y + step_y)]
                total += pixels * (weight_x * weight_y)[..., None]
        return (total + (1 << (2 * PLACE_BITS - 1))) >> (2 * PLACE_BITS)

    def _indices(self, tiles: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the index in `pixels` of each position (L, H, W) on the canvas."""
        found = torch.full(x.shape, self.grey, device=x.device)
        for tile in tiles.unbind(1):
            image, left, top, over, under, first_x, first_y = (value.view(-1, 1, 1) for value in tile.unbind(1))
            inside = (x >= left) & (x < over) & (y >= top) & (y < under)
            found = torch.where(inside, self.starts[image] + (y - first_y) * self.widths[image] + (x - first_x), found)
        return found


def recolour(images: Tensor, tables: Tensor) -> Tensor:
    """Return uint8 BGR images (B, H, W, 3) with hue, saturation and value mapped by `tables`, uint8 (B, 3, 256)."""
    levels = torch.arange(256, dtype=torch.float64, device=images.device).clamp(min=1)
    levels_of = [
        (top / levels).round().to(torch.int32) for top in (255 << SATURATION_BITS, (HUES << SATURATION_BITS) / 6)
    ]
    for table in levels_of:
        table[0] = 0
    blue, green, red = images.to(torch.int32).unbind(3)
    value = images.amax(3).to(torch.int32)
    spread = value - images.amin(3)
    half = 1 << (SATURATION_BITS - 1)
    saturation = (spread * levels_of[0][value] + half) >> SATURATION_BITS
    hue = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = (hue * levels_of[1][spread] + half) >> SATURATION_BITS
    hue = torch.where(hue < 0, hue + HUES, hue)
    mapped = [
        table.gather(1, old.flatten(1).long()).view(old.shape).float()
        for table, old in zip(tables.unbind(1), (hue, saturation, value), strict=True)
    ]
    return _from_hue(*mapped)


def _from_hue(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return uint8 BGR (B, H, W, 3) from hue, saturation and value as floats, with OpenCV's operations in its order."""
    place = hue * torch.tensor(6 / HUES, dtype=torch.float32)
    sector = place.floor()
    place, sector = place - sector, sector.long() % 6
    saturation, value = (level * torch.tensor(1 / 255, dtype=torch.float32) for level in (saturation, value))
    # OpenCV uses fused multiply-add here: the product is not rounded before it is subtracted from 1.
    rest = [
        torch.ones_like(value),
        1 - saturation,
        *((1 - saturation.double() * part).float() for part in (place, 1 - place)),
    ]
    found = torch.stack([part * value for part in rest], dim=3)
    order = torch.tensor([[1, 3, 0], [1, 0, 2], [3, 0, 1], [0, 2, 1], [0, 1, 3], [2, 1, 0]], device=hue.device)
    return (found.gather(3, order[sector]) * 255).floor().to(torch.uint8)
