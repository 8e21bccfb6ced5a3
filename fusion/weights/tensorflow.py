"""TensorFlow checkpoints (version 2: `.index` and `.data-00000-of-00001`) read without TensorFlow.

The index is a sorted string table as LevelDB writes it: blocks of prefix-compressed keys, found through an index block
that a footer of 48 bytes points to. Each value is a protocol buffer with the position of a tensor in the data file; the
value of the empty key is a header. Every length and offset is checked before use, so that a broken or malicious file
raises an `InputError`. Checksums are not verified.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.stage import InputError

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48  # bytes: two block handles, zero-padded to 40, and the magic number
DATA_SUFFIX = ".data-00000-of-00001"
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # by TensorFlow's type numbers: float, double, int32, int64
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


class _BrokenError(ValueError):
    """A defect of a file; `read_checkpoint` adds the file's name."""


def is_checkpoint(path: Path) -> bool:
    """Return whether `path` is a folder, or one of the files of a TensorFlow checkpoint."""
    return path.is_dir() or path.suffix == ".index" or path.name.endswith(DATA_SUFFIX)


def find_checkpoint(path: Path) -> tuple[Path, Path]:
    """Return the index and the data file of the checkpoint in folder `path`, or of the checkpoint that has file `path`.

    Raises:
        InputError: a file is missing, or the folder contains no checkpoint or several.
    """
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise InputError(f"{path} contains {len(found)} TensorFlow checkpoints ({names}); expected one .index file")
        index = found[0]
    else:
        index = path.with_name(path.name.removesuffix(DATA_SUFFIX).removesuffix(".index") + ".index")
    data = index.with_name(index.name.removesuffix(".index") + DATA_SUFFIX)
    for file in (index, data):
        if not file.is_file():
            raise InputError(f"{file} is not a file; expected both files of a TensorFlow checkpoint")
    return index, data


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by name; `path` as for `find_checkpoint`.

    Raises:
        InputError: a file is missing or broken, or contains a tensor of another type than numbers.
    """
    index, data = find_checkpoint(Path(path))
    table, values = index.read_bytes(), data.read_bytes()
    try:
        entries = dict(_entries(table))
        header = _message(entries.pop(b"", b""))
        if header.get(1, [0]) != [1] or header.get(2, [0]) != [0]:
            raise _BrokenError("its header does not describe one data file with little-endian numbers")
        return {key.decode("utf-8"): _tensor(_message(entry), values) for key, entry in entries.items()}
    except _BrokenError as error:
        raise InputError(f"{index} is not a readable TensorFlow checkpoint: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{index} is not a readable TensorFlow checkpoint: a name is not text") from None


def _tensor(entry: dict[int, list], values: bytes) -> Tensor:
    dtype, shard, offset, length = (_number(entry, field) for field in (1, 3, 4, 5))
    if dtype not in DTYPES:
        raise _BrokenError(f"a tensor has TensorFlow's type {dtype}; expected float, double, int32 or int64")
    if shard or 7 in entry:
        raise _BrokenError("a tensor is split into pieces; expected whole tensors in one data file")
    if len(shapes := entry.get(2, [b""])) != 1:
        raise _BrokenError("a tensor has several shapes")
    shape = [_number(_message(size), 1) for size in _message(shapes[0]).get(2, [])]
    if len(shape) > 8 or any(size >= 2**31 for size in shape):
        raise _BrokenError("a tensor's shape is out of bounds")
    if length != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize or offset + length > len(values):
        raise _BrokenError(
            f"{length} bytes at {offset} for a tensor of shape {tuple(shape)} in {len(values)} bytes of data"
        )
    array = np.frombuffer(values, DTYPES[dtype], math.prod(shape), offset)
    return torch.from_numpy(array.reshape(shape).copy())


def _number(message: dict[int, list], field: int) -> int:
    """Return a field that is one whole number; 0, the default of protocol buffers, if it is absent."""
    found = message.get(field, [0])
    if len(found) != 1 or not isinstance(found[0], int):
        raise _BrokenError("an entry does not describe a tensor")
    return found[0]


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a sorted string table."""
    if len(table) < FOOTER or table[-8:] != MAGIC:
        raise _BrokenError("it does not end with the magic number of an index")
    footer = table[-FOOTER:-8]
    _, place = _handle(footer, 0)  # the meta index block, which is not used
    index, _ = _handle(footer, place)
    for _, handle in _block(table, index):
        yield from _block(table, _handle(handle, 0)[0])


def _handle(buffer: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = _varint(buffer, place)
    size, place = _varint(buffer, place)
    return (offset, size), place


def _block(table: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; each key is stored without the prefix that it shares with the previous."""
    offset, size = handle
    # The block is followed by one byte for the compression and four for a checksum.
    if offset + size + 5 > len(table) - FOOTER or size < 4:
        raise _BrokenError("a block is outside the file")
    if table[offset + size] != 0:
        raise _BrokenError("a block is compressed; expected an uncompressed one, as TensorFlow writes it")
    block = table[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    end = size - 4 - 4 * restarts
    if end < 0:
        raise _BrokenError("a block is shorter than its list of restarts")
    block, place, key = block[:end], 0, b""
    while place < end:
        shared, place = _varint(block, place)
        fresh, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + fresh + length > end:
            raise _BrokenError("an entry extends beyond its block")
        key = key[:shared] + block[place : place + fresh]
        place += fresh
        yield key, block[place : place + length]
        place += length


def _message(buffer: bytes) -> dict[int, list[int | bytes]]:
    """Return the fields of a protocol buffer by number."""
    if not isinstance(buffer, bytes):
        raise _BrokenError("a field is a number; expected an embedded message")
    fields: dict[int, list[int | bytes]] = {}
    place = 0
    while place < len(buffer):
        tag, place = _varint(buffer, place)
        wire = tag & 7
        if wire == VARINT:
            value, place = _varint(buffer, place)
        else:
            if wire == BYTES:
                length, place = _varint(buffer, place)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise _BrokenError("a message has a field of unknown wire type")
            if place + length > len(buffer):
                raise _BrokenError("a message is cut off")
            value = buffer[place : place + length]
            place += length
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(buffer: bytes, place: int) -> tuple[int, int]:
    """Return a variable-length whole number, 7 bits per byte, least significant first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(buffer):
            raise _BrokenError("a number is cut off")
        byte = buffer[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _BrokenError("a number has more than 64 bits")
