"""Read image files strictly, with an error for every ambiguous or damaged file, and write them atomically.

PNG, JPEG, BMP, TIFF and WebP are recognized by their bytes, not by their names. Arrays contain the pixels as stored,
uint8, (H, W) for one channel or (H, W, 3) RGB for three, with the levels that OpenCV decodes.

A file is refused in every format for:

- decoder warnings or errors. JPEG has no checksum, but damage breaks the sequence of its Huffman codes. TIFF has a
  checksum for deflate only. Uncompressed TIFF, BMP and WebP have none, so that only truncation is detected;
- an EXIF orientation other than upright: boxes and the other band may refer to the pixels as stored or as displayed;
- several images in one file, alpha that is not opaque everywhere, and colours other than grey and RGB;
- samples other than 8-bit ones, except the 16-bit raw values of an infrared camera, which are mapped to levels if the
  caller gives their range.
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
# 8192 x 8192, fifty times the size of usual camera images. Without a limit, a few kilobytes could expand to gigabytes.
MOST_PIXELS = 2**26

Range = tuple[float, float]


def read_image(path: Path, counts: Range | None = None) -> np.ndarray:
    """Read an image as stored: uint8, (H, W) for one channel or (H, W, 3) RGB for three.

    Args:
        path: the file.
        counts: for a file with 16-bit samples, the raw values that are mapped to 0 and 255; see `levels`.

    Raises:
        InputError: the file is missing, damaged, of an unsupported kind, or has more than MOST_PIXELS pixels; with
            `counts`, its samples are not 16-bit ones of one channel.
    """
    return _read(path, counts, grey=False)


def read_grey(path: Path, counts: Range | None = None) -> np.ndarray:
    """Read an image as grey like OpenCV, uint8 (H, W), with the arguments and errors of `read_image`.

    OpenCV reads a JPEG as grey by decoding only its luma, not by converting its decoded colours. The two differ by
    single grey levels, and published fused images were made from the former.
    """
    return _read(path, counts, grey=True)


def levels(counts: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return raw values as uint8 levels: 0 up to `low`, 255 from `high`, linear and rounded to nearest in between."""
    return np.rint(np.clip((counts.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def encode_image(image: np.ndarray, extension: str = ".png", quality: int = 95) -> bytes:
    """Encode a uint8 (H, W) or (H, W, 3) RGB image as the bytes of a file; `quality` (0..100) is for JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if extension in (".jpg", ".jpeg") else []
    ok, data = cv2.imencode(extension, image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert ok, f"OpenCV cannot encode {extension}"
    return data.tobytes()


def write_image(path: Path, image: np.ndarray, quality: int = 95) -> bytes:
    """Write an image atomically in the format of the path's extension; return the bytes of the file."""
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
        raise InputError(f"{path} is empty; expected an image")
    if data.startswith(b"\x89PNG") and b"IEND\xaeB`\x82" not in data:
        raise InputError(f"{path} is truncated: the PNG file has no IEND chunk; expected a complete file")
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
                f"{path} has {_channels(image)} of {8 * image.itemsize} bits; expected one channel of 16 bits for the "
                f"infrared range {counts[0]:g} to {counts[1]:g}: omit the range for images of 8-bit levels"
            )
        return levels(image, *counts)
    if image.dtype != np.uint8:
        raise InputError(
            f"{path} has {8 * image.itemsize}-bit samples ({image.dtype}); expected 8-bit samples, or 16-bit "
            "infrared images with --infrared-range LOW HIGH (infrared_range: [LOW, HIGH] in the configuration), the "
            "same for all images"
        )
    if image.ndim == 2:
        return image
    image = _without_alpha(path, image)
    return image[..., 0].copy() if mode == "LA" else image if kind == "JPEG" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_header(path: Path, data: bytes) -> tuple[str, str]:
    """Return Pillow's names of a file's format and mode; raise InputError for properties that are not supported."""
    if data[:4] in tiff.STARTS:
        tiff.check(path, data, MOST_PIXELS)  # first, because Pillow cannot open some kinds that are read here
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, mode, (width, height) = image.format, image.mode, image.size
            several = kind in FORMATS and getattr(image, "n_frames", 1) > 1
            # In a PNG file, EXIF may follow the image data, which Pillow would decode first.
            orientation = (image.getexif() if kind != "PNG" else _png_exif(data)).get(0x0112)
            opaque = kind != "TIFF" or mode != "LA" or image.getextrema()[1] == (255, 255)  # OpenCV drops that alpha
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        _check_pixels(path, math.inf)
    except Exception:  # of many types, depending on the format; a file without a stated size is not decoded to find it
        raise InputError(f"{path} cannot be decoded; expected an image, as its extension indicates") from None
    _check_pixels(path, width * height)
    if kind not in FORMATS:
        raise InputError(f"{path} is a {kind} file; expected PNG, JPEG, BMP, TIFF or WebP")
    if several:
        raise InputError(
            f"{path} contains several images ({kind}); expected one (`magick 'FILE[0]' NEW` extracts the first)"
        )
    if mode in ("CMYK", "YCCK"):
        raise InputError(
            f"{path} has the colours {mode}; expected grey or RGB (`magick FILE -colorspace sRGB NEW` converts it)"
        )
    if orientation in range(2, 9):
        if orientation > 4 and kind == "TIFF":
            width, height = height, width  # only for TIFF, Pillow's size is the one after rotation
        shown = f"{height}x{width}" if orientation > 4 else f"{width}x{height}"
        raise InputError(
            f"{path} has EXIF orientation {orientation}: {width}x{height} as stored, {shown} when displayed (rotated "
            "or mirrored); expected upright pixels, because boxes and the other band may refer to either (`magick "
            "mogrify -auto-orient FILE` rotates the pixels, `exiftool -Orientation= FILE` keeps them as stored)"
        )
    _check_opaque(path, opaque)
    return ("JPEG" if kind == "MPO" else kind), mode


def _png_exif(data: bytes) -> Image.Exif:
    """Return the EXIF block of a PNG file, at any position among the chunks; empty if there is none."""
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
    """Decode with the library that OpenCV uses, to the same levels, but raise InputError for its warnings."""
    try:
        image = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", strict=True)
    except ValueError as error:
        raise InputError(f"{path} is damaged or truncated: {error}; expected an intact JPEG file") from None
    return image[..., 0] if grey else image


def _decode(path: Path, data: bytes, mode: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path} does not fit into memory") from None
        image = None
    if image is None:
        raise InputError(
            f"{path} cannot be decoded: it is damaged, truncated or not an image; expected an image, as its extension "
            "indicates"
        )
    return image


def _without_alpha(path: Path, image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 4:
        _check_opaque(path, image[..., 3].min() == 255)
        image = image[..., :3]
    return image


def _check_pixels(path: Path, pixels: float) -> None:
    if pixels > MOST_PIXELS:
        raise InputError(f"{path} has more than {MOST_PIXELS:,} pixels; expected an image that fits into memory")


def _check_opaque(path: Path, opaque: bool) -> None:
    if not opaque:
        raise InputError(
            f"{path} has an alpha channel that is not opaque everywhere; expected an image without one (`magick FILE "
            "-alpha off NEW` removes it)"
        )


def _channels(image: np.ndarray) -> str:
    return "one channel" if image.ndim == 2 else f"{image.shape[2]} channels"
