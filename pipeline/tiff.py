"""Check that a TIFF file is of a supported kind, and that its compressed data are intact.

TIFF decoders continue after damaged data with arbitrary pixels. Each strip or tile is therefore checked by the means of
its compression: the checksum of deflate, the codes of LZW and JPEG, the run lengths of PackBits.
"""

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import simplejpeg
from PIL import Image, TiffImagePlugin

from pipeline.stage import InputError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Tags, by their numbers in the TIFF 6.0 specification.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_CHANNELS, _ROWS, _PLANAR, _EXTRA, _FORMAT, _TABLES = 277, 278, 284, 338, 339, 347
_PARTS = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
_TILE = (322, 323)  # width and height

_SAMPLES = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex integer", 6: "complex float"}
_COLOURS = {0: "grey with white as 0", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
_NONE, _LZW, _JPEG, _DEFLATE, _PACKBITS = (1,), (5,), (7,), (8, 32946), (32773,)


def check(path: Path, data: bytes, most_pixels: int) -> None:
    """Raise InputError for a TIFF file that is damaged or of an unsupported kind.

    Supported are files with one image of at most `most_pixels` pixels: grey, palette or RGB with unsigned 8-bit
    samples; grey also with 1 or 16 bits; optionally with alpha; uncompressed, or compressed by LZW, deflate, PackBits
    or JPEG.
    """
    try:
        tags, more = _read_tags(data)
        width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
        bits, formats = tuple(tags.get(_BITS) or (1,)), tuple(tags.get(_FORMAT) or (1,))
        compression, photometric = tags.get(_COMPRESSION, 1), tags.get(_PHOTOMETRIC)
        channels, extra = tags.get(_CHANNELS, 1), tuple(tags.get(_EXTRA) or ())
    except Exception:  # of many types, depending on the values that a damaged file has instead of numbers
        raise InputError(f"{path} cannot be decoded: its TIFF tags are damaged; expected an intact TIFF file") from None
    if width * height > most_pixels:
        raise InputError(f"{path} has more than {most_pixels:,} pixels; expected an image that fits into memory")
    if more:
        raise InputError(
            f"{path} contains several images (TIFF pages); expected one (`magick 'FILE[0]' NEW` extracts the first)"
        )
    samples = [f"{b}-bit {_SAMPLES.get(f, f'format {f}')}" for b, f in zip(bits, formats * len(bits), strict=False)]
    if set(samples) - {"1-bit unsigned", "8-bit unsigned", "16-bit unsigned", "16-bit signed"} or len(set(samples)) > 1:
        raise InputError(
            f"{path} has {', '.join(sorted(set(samples)))} samples; expected 8-bit unsigned samples, or 16-bit "
            "infrared images with --infrared-range LOW HIGH (infrared_range: [LOW, HIGH] in the configuration)"
        )
    colours = {1: 1, 3: 1, 2: 3, 6: 3}.get(photometric)
    if colours is None:
        raise InputError(f"{path} is {_COLOURS.get(photometric, f'of photometry {photometric}')}; expected grey or RGB")
    if channels != colours and (channels != colours + 1 or extra not in ((1,), (2,))):
        raise InputError(f"{path} has {channels} channels; expected one or three, optionally with alpha")
    if compression not in _NONE + _LZW + _JPEG + _DEFLATE + _PACKBITS:
        raise InputError(
            f"{path} has compression {compression}, whose damage cannot be detected; expected none, LZW or deflate "
            "(`magick FILE -compress LZW NEW`)"
        )
    if not _whole(data, tags, compression, channels * bits[0]):
        raise InputError(f"{path} is damaged: its compressed data cannot be decoded; expected an intact TIFF file")


def _read_tags(data: bytes) -> tuple[Mapping[int, Any], int]:
    """Return the tags of a file's first image, and the offset of the next image, 0 if there is none."""
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[:4] in STARTS[2:] else 8))
    file.seek(tags.next)
    tags.load(file)
    return tags, tags.next


def _whole(data: bytes, tags: Mapping[int, Any], compression: int, bits: int) -> bool:
    """Return whether every strip or tile can be decoded completely; `bits` is the number of bits per pixel."""
    places = next(((tags[a], tags[b]) for a, b in _PARTS if a in tags and b in tags), ((), ()))
    places = list(zip(*places, strict=False))
    if any(start + length > len(data) for start, length in places):
        return False
    parts = (data[start : start + length] for start, length in places)
    try:
        if compression in _LZW:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        elif compression in _DEFLATE:
            return all(map(_inflates, parts))
        elif compression in _JPEG:
            tables = tags.get(_TABLES, b"")[:-2]
            for part in parts:
                simplejpeg.decode_jpeg(tables + part[2:] if tables else part, "GRAY", strict=True)
        elif compression in _PACKBITS:
            width, height = (tags[tag] for tag in (_TILE if _TILE[0] in tags else (_WIDTH, _HEIGHT)))
            rows = height if _TILE[0] in tags else min(tags.get(_ROWS, height), height)
            planes = tags[_CHANNELS] if tags.get(_PLANAR) == 2 else 1
            row = -(-width * bits // planes // 8)
            in_plane = -(-height // rows)
            for number, part in enumerate(parts):
                last = _TILE[0] not in tags and number % in_plane == in_plane - 1
                if not _unpacks(part, row * (height - rows * (in_plane - 1) if last else rows)):
                    return False
    except (OSError, ValueError, SyntaxError, KeyError):  # including those that Pillow raises
        return False
    return True


def _inflates(part: bytes) -> bool:
    """Return whether a deflate stream ends with the checksum of its content; decompress at most 1 MiB at a time."""
    stream = zlib.decompressobj()
    try:
        while not stream.eof:
            got = stream.decompress(part, 2**20)
            part = stream.unconsumed_tail
            if not got and not part and not stream.eof:
                return False
    except zlib.error:
        return False
    return True


def _unpacks(part: bytes, size: int) -> bool:
    """Return whether the runs and literals of PackBits data expand to exactly `size` bytes."""
    at = length = 0
    while at < len(part) and length < size:
        head = part[at]
        at += head + 2 if head < 128 else 2 if head > 128 else 1
        length += head + 1 if head < 128 else 257 - head if head > 128 else 0
    return length == size and at <= len(part)
