"""Aligned visible-infrared pairs: found by file stem, read with every doubt about a file turned into an error.

Images are 8-bit with one or three channels; arrays of three channels are RGB.
"""

import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.artefacts import replacing
from pipeline.stage import InputError, some_of

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# 8192 x 8192, fifty times what the field's cameras give. A file of some kilobytes may unpack to gigabytes.
MOST_PIXELS = 2**26


@dataclass(frozen=True)
class Pair:
    """One scene: its name (the file stem) and the files of its two aligned images."""

    name: str
    visible: Path
    infrared: Path


def find_images(folders: Path | Sequence[Path]) -> dict[str, Path]:
    """Return the images of one or more folders by file stem, sorted by stem; hidden files are passed over.

    Raises:
        InputError: a folder is missing, none holds an image, or two images share a stem.
    """
    folders = [folders] if isinstance(folders, (str, Path)) else list(folders)
    images: dict[str, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; wanted a folder of images")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
                continue
            if "\n" in path.name:
                raise InputError(f"{str(path)!r} has a line break in its name; wanted none: a list has one name a line")
            if path.stem in images:
                raise InputError(f"{path} and {images[path.stem]} have the same stem; wanted one image for each name")
            images[path.stem] = path
    if not images:
        where = ", ".join(map(str, folders))
        raise InputError(f"{where} holds no image; wanted files ending in {', '.join(EXTENSIONS)}")
    return dict(sorted(images.items()))


def find_pairs(
    visible: Path | Sequence[Path], infrared: Path | Sequence[Path], names: Iterable[str] | None = None
) -> list[Pair]:
    """Return the pairs of the visible and infrared folders, matched by stem and sorted by name.

    With `names`, only those, in sorted order. An infrared image without its visible one is left out with a warning.

    Raises:
        InputError: a visible image has no infrared one, or a name of `names` has no visible image.
    """
    visible_images, infrared_images = find_images(visible), find_images(infrared)
    if names is not None:
        wanted = sorted(set(names))
        missing = [name for name in wanted if name not in visible_images]
        if missing:
            raise InputError(f"no visible image for {some_of(missing)} in {_where(visible)}")
        visible_images = {name: visible_images[name] for name in wanted}
    else:
        surplus = sorted(infrared_images.keys() - visible_images.keys())
        if surplus:
            logging.warning("warning: left out infrared images without a visible one: %s", some_of(surplus))
    missing = [name for name in visible_images if name not in infrared_images]
    if missing:
        raise InputError(f"no infrared image in {_where(infrared)} for visible {some_of(missing)}")
    return [Pair(name, path, infrared_images[name]) for name, path in visible_images.items()]


def read_names(path: Path) -> list[str]:
    """Read a list of names, one a line; empty lines are passed over.

    Raises:
        InputError: the file is missing, holds no name, or names one twice.
    """
    try:
        names = [line for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a list of names: {error}") from None
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path} holds {len(names)} names, {len(set(names))} different; wanted each once, one a line")
    return names


def read_image(path: Path) -> np.ndarray:
    """Read an image as stored: uint8, (H, W) for one channel or (H, W, 3) RGB for three.

    Raises:
        InputError: the file is missing, truncated, no image, not 8-bit, has another number of channels, or more than
            MOST_PIXELS.
    """
    image = _decode(path, _read_bytes(path), cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8:
        raise InputError(f"{path} has {8 * image.itemsize}-bit samples ({image.dtype}); wanted 8-bit")
    if image.ndim == 2:
        return image
    if image.shape[2] != 3:
        raise InputError(f"{path} has {image.shape[2]} channels; wanted 1 or 3")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_grey(path: Path) -> np.ndarray:
    """Read an image as OpenCV's grey, uint8 (H, W), with the refusals of `read_image`.

    OpenCV's grey read of a JPEG is the file's own luma, not a conversion of its decoded colours; the two differ by
    single grey levels, and the field's fused images were made from the former.
    """
    data = _read_bytes(path)
    image = _decode(path, data, cv2.IMREAD_UNCHANGED)
    if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
        read_image(path)  # raises
    return image if image.ndim == 2 else _decode(path, data, cv2.IMREAD_GRAYSCALE)


def check_pair_size(pair: Pair, visible: np.ndarray, infrared: np.ndarray) -> None:
    """Raise InputError, which names both files, where a pair's arrays differ in height or width."""
    if visible.shape[:2] != infrared.shape[:2]:
        (h, w), (hi, wi) = visible.shape[:2], infrared.shape[:2]
        raise InputError(f"{pair.infrared} is {wi}x{hi}, expected {w}x{h} like {pair.visible}")


def encode_image(image: np.ndarray, extension: str = ".png", quality: int = 95) -> bytes:
    """Encode a uint8 (H, W) or (H, W, 3) RGB image as the bytes of a file; `quality` (0..100) is JPEG's."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if extension in (".jpg", ".jpeg") else []
    ok, data = cv2.imencode(extension, image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert ok, f"OpenCV cannot encode {extension}"
    return data.tobytes()


def write_image(path: Path, image: np.ndarray, quality: int = 95) -> bytes:
    """Write an image, atomically, in the format of its extension; return the file's bytes."""
    data = encode_image(image, Path(path).suffix, quality)
    with replacing(path) as part:
        part.write_bytes(data)
    return data


def _read_bytes(path: Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    if not data:
        raise InputError(f"{path} is empty; wanted an image")
    # OpenCV fills what a cut-off file lacks with grey or black and says nothing, so look for the end ourselves.
    if data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data[-4096:]:
        raise InputError(f"{path} is truncated: a PNG file without its end")
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]:
        raise InputError(f"{path} is truncated: a JPEG file without its end")
    if data.startswith(b"BM") and len(data) < int.from_bytes(data[2:6], "little"):
        raise InputError(f"{path} is truncated: {len(data)} bytes of {int.from_bytes(data[2:6], 'little')}")
    if _stated_pixels(path, data) > MOST_PIXELS:
        raise InputError(f"{path} has more than {MOST_PIXELS:,} pixels; wanted an image that fits into memory")
    return data


def _stated_pixels(path: Path, data: bytes) -> float:
    """Return the width times the height that an image's header states; nothing is unpacked."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        return float("inf")
    except Exception:  # of many kinds, by format; what states no size is not unpacked to find it
        raise InputError(f"{path} cannot be decoded; wanted an image as its name says") from None


def _decode(path: Path, data: bytes, mode: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path} does not fit into it") from None
        image = None
    if image is None:
        raise InputError(f"{path} cannot be decoded; wanted an image as its name says")
    return image


def _where(folders: Path | Sequence[Path]) -> str:
    return str(folders) if isinstance(folders, (str, Path)) else ", ".join(map(str, folders))
