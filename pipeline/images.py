"""Image files: read strictly, with every doubt about a file turned into an error, and written atomically.

PNG, JPEG, BMP, TIFF and WebP are told by their bytes, not by their names. An array has the pixels as stored, uint8,
(H, W) for one channel or (H, W, 3) RGB for three; the levels are those that OpenCV gives.

What no array can say is refused, in every format alike:

- a file whose decoder complains of its data. A JPEG file has no checksum, but damage leaves its Huffman codes out of
  step; TIFF has one in deflate only; uncompressed TIFF, BMP and WebP have none, and only what is cut off is noticed;
- an EXIF orientation other than upright: boxes and the other band may be meant for the pixels as stored or as shown;
- several images in one file, alpha that is not opaque everywhere, colours other than grey and RGB;
- samples other than 8-bit ones. 16-bit counts of an infrared camera become levels by a range that the caller states.
"""

import io
import math
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from pipeline import tiff
from pipeline.artefacts import replacing
from pipeline.stage import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP")  # Pillow's names; MPO is a JPEG file with more than one image
# 8192 x 8192, fifty times what the field's cameras give. A file of some kilobytes may unpack to gigabytes.
MOST_PIXELS = 2**26

Range = tuple[float, float]


def read_image(path: Path, counts: Range | None = None) -> np.ndarray:
    """Read an image as stored: uint8, (H, W) for one channel or (H, W, 3) RGB for three.

    Args:
        path: the file.
        counts: the counts that become level 0 and level 255, of a file with 16-bit samples; see `levels`.

    Raises:
        InputError: the file is missing, damaged, of another kind than those of this module, or has more than
            MOST_PIXELS; with `counts`, it has other samples than 16-bit ones of one channel.
    """
    return _read(path, counts, grey=False)


def read_grey(path: Path, counts: Range | None = None) -> np.ndarray:
    """Read an image as OpenCV's grey, uint8 (H, W), with the arguments and refusals of `read_image`.

    OpenCV's grey read of a JPEG is the file's own luma, not a conversion of its decoded colours; the two differ by
    single grey levels, and the field's fused images were made from the former.
    """
    return _read(path, counts, grey=True)


def levels(counts: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return counts as uint8 levels: 0 up to `low`, 255 from `high` on, linear and rounded to nearest between."""
    return np.rint(np.clip((counts.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


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


def _read(path: Path, counts: Range | None, grey: bool) -> np.ndarray:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    if not data:
        raise InputError(f"{path} is empty; wanted an image")
    if data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data:
        raise InputError(f"{path} is truncated: a PNG file without its end")
    kind, mode = _check_header(path, data)
    if kind == "JPEG":
        image = _decode_jpeg(path, data, grey or mode == "L")
    else:
        image = _decode(path, data, cv2.IMREAD_UNCHANGED)
        if grey and image.dtype == np.uint8 and image.ndim == 3 and mode != "LA":
            _without_alpha(path, image)
            return _decode(path, data, cv2.IMREAD_GRAYSCALE)
    if counts is not None:
        if image.itemsize != 2 or image.ndim != 2:
            raise InputError(
                f"{path} has {_channels(image)} of {8 * image.itemsize} bits; wanted one of 16 bits, as the infrared "
                f"range {counts[0]:g} to {counts[1]:g} is of counts: leave it out for images that are levels already"
            )
        return levels(image, *counts)
    if image.dtype != np.uint8:
        raise InputError(
            f"{path} has {8 * image.itemsize}-bit samples ({image.dtype}); wanted 8-bit, or infrared counts of 16 bits "
            "with --infrared-range LOW HIGH (infrared_range: [LOW, HIGH] in the configuration), the same for all images"
        )
    if image.ndim == 2:
        return image
    image = _without_alpha(path, image)
    return image[..., 0].copy() if mode == "LA" else image if kind == "JPEG" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_header(path: Path, data: bytes) -> tuple[str, str]:
    """Return Pillow's names of a file's format and mode; raise InputError for what the file states and is not read."""
    if data[:4] in tiff.STARTS:
        tiff.check(path, data, MOST_PIXELS)  # first: Pillow knows fewer kinds
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, mode, (width, height) = image.format, image.mode, image.size
            several = kind in FORMATS and getattr(image, "n_frames", 1) > 1
            # A PNG file may have it behind its data, which Pillow would unpack on the way.
            orientation = (image.getexif() if kind != "PNG" else _png_exif(data)).get(0x0112)
            opaque = kind != "TIFF" or mode != "LA" or image.getextrema()[1] == (255, 255)  # OpenCV drops that alpha
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        _check_pixels(path, math.inf)
    except Exception:  # of many kinds, by format; what states no size is not unpacked to find it
        raise InputError(f"{path} cannot be decoded; wanted an image as its name says") from None
    _check_pixels(path, width * height)
    if kind not in FORMATS:
        raise InputError(f"{path} is a {kind} file; wanted PNG, JPEG, BMP, TIFF or WebP")
    if several:
        raise InputError(
            f"{path} holds several images in one file ({kind}); wanted one (`magick 'FILE[0]' NEW` takes out the first)"
        )
    if mode in ("CMYK", "YCCK"):
        raise InputError(f"{path} has the colours {mode}; wanted grey or RGB")
    if orientation in range(2, 9):
        if orientation > 4 and kind == "TIFF":
            width, height = height, width  # Pillow states it as shown, for this format only
        shown = f"{height}x{width}" if orientation > 4 else f"{width}x{height}"
        raise InputError(
            f"{path} has EXIF orientation {orientation}: {width}x{height} as stored, {shown} turned or mirrored as "
            "shown; wanted upright pixels, as boxes and the other band may be meant for either (`magick mogrify "
            "-auto-orient FILE` turns the pixels, `exiftool -Orientation= FILE` keeps them as stored)"
        )
    _check_opaque(path, opaque)
    return ("JPEG" if kind == "MPO" else kind), mode


def _png_exif(data: bytes) -> Image.Exif:
    """Return the EXIF block of a PNG file, wherever it stands among the chunks; empty where there is none."""
    exif, at = Image.Exif(), 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"eXIf":
            exif.load(data[at + 8 : at + 8 + length])
        if kind in (b"eXIf", b"IEND"):
            break
        at += length + 12
    return exif


def _decode_jpeg(path: Path, data: bytes, grey: bool) -> np.ndarray:
    """Decode by the library that OpenCV has too, to the same levels; its warnings are errors here."""
    try:
        image = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", strict=True)
    except ValueError as error:
        raise InputError(f"{path} is damaged or truncated: {error}; wanted a whole JPEG file") from None
    return image[..., 0] if grey else image


def _decode(path: Path, data: bytes, mode: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path} does not fit into it") from None
        image = None
    if image is None:
        raise InputError(f"{path} cannot be decoded: damaged, truncated, or no image; wanted one as its name says")
    return image


def _without_alpha(path: Path, image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 4:
        _check_opaque(path, image[..., 3].min() == 255)
        image = image[..., :3]
    return image


def _check_pixels(path: Path, pixels: float) -> None:
    if pixels > MOST_PIXELS:
        raise InputError(f"{path} has more than {MOST_PIXELS:,} pixels; wanted an image that fits into memory")


def _check_opaque(path: Path, opaque: bool) -> None:
    if not opaque:
        raise InputError(f"{path} has an alpha channel that is not opaque everywhere; wanted an image without one")


def _channels(image: np.ndarray) -> str:
    return "one channel" if image.ndim == 2 else f"{image.shape[2]} channels"
