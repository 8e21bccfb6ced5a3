"""TensorFlow checkpoints (version 2: `.index` and `.data-00000-of-00001`) read without TensorFlow.

The index is a sorted string table as LevelDB writes it: blocks of prefix-compressed keys, found through an index block
that a footer of 48 bytes points to. Each value is a protocol buffer that says where in the data file a tensor lies;
the empty key's is a header. Every length and offset is checked before it is used, so that a broken or hostile file
gives an `InputError`; checksums are not compared.
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
FOOTER = 48  # bytes: two block handles, filled up with zeros to 40, and the magic number
DATA_SUFFIX = ".data-00000-of-00001"
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # TensorFlow's numbers: float, double, int32, int64
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


class _BrokenError(ValueError):
    """What is wrong with a file; `read_checkpoint` adds which."""


def is_checkpoint(path: Path) -> bool:
    """Tell whether `path` is a folder, or one of a TensorFlow checkpoint's files."""
    return path.is_dir() or path.suffix == ".index" or path.name.endswith(DATA_SUFFIX)


def find_checkpoint(path: Path) -> tuple[Path, Path]:
    """Return the index and the data file of the checkpoint in folder `path`, or that the file `path` belongs to.

    Raises:
        InputError: there is none, or a folder holds several.
    """
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise InputError(f"{path} holds {len(found)} TensorFlow checkpoints ({names}); wanted one .index file")
        index = found[0]
    else:
        index = path.with_name(path.name.removesuffix(DATA_SUFFIX).removesuffix(".index") + ".index")
    data = index.with_name(index.name.removesuffix(".index") + DATA_SUFFIX)
    for file in (index, data):
        if not file.is_file():
            raise InputError(f"{file} is not a file; wanted both files of a TensorFlow checkpoint")
    return index, data


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by name; `path` as for `find_checkpoint`.

    Raises:
        InputError: a file is missing or broken, or holds what is no tensor of numbers.
    """
    index, data = find_checkpoint(Path(path))
    table, values = index.read_bytes(), data.read_bytes()
    try:
        entries = dict(_entries(table))
        header = _message(entries.pop(b"", b""))
        if header.get(1, [0]) != [1] or header.get(2, [0]) != [0]:
            raise _BrokenError("its header does not say one data file with little-endian numbers")
        return {key.decode("utf-8"): _tensor(_message(entry), values) for key, entry in entries.items()}
    except _BrokenError as error:
        raise InputError(f"{index} is not a readable TensorFlow checkpoint: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{index} is not a readable TensorFlow checkpoint: a name is not text") from None


def _tensor(entry: dict[int, list], values: bytes) -> Tensor:
    kind, shard, offset, length = (_number(entry, field) for field in (1, 3, 4, 5))
    if kind not in TYPES:
        raise _BrokenError(f"a tensor has TensorFlow's type {kind}; wanted float, double, int32 or int64")
    if shard or 7 in entry:
        raise _BrokenError("a tensor is in several pieces; wanted whole ones in one data file")
    if len(shapes := entry.get(2, [b""])) != 1:
        raise _BrokenError("a tensor has several shapes")
    shape = [_number(_message(size), 1) for size in _message(shapes[0]).get(2, [])]
    if len(shape) > 8 or any(size >= 2**31 for size in shape):
        raise _BrokenError("a tensor's shape is out of bounds")
    if length != math.prod(shape) * np.dtype(TYPES[kind]).itemsize or offset + length > len(values):
        raise _BrokenError(
            f"{length} bytes at {offset} for a tensor of shape {tuple(shape)} in {len(values)} bytes of data"
        )
    array = np.frombuffer(values, TYPES[kind], math.prod(shape), offset)
    return torch.from_numpy(array.reshape(shape).copy())


def _number(message: dict[int, list], field: int) -> int:
    """Return a field that holds one whole number; 0 where it is left out, as protocol buffers have it."""
    found = message.get(field, [0])
    if len(found) != 1 or not isinstance(found[0], int):
        raise _BrokenError("an entry is not the description of a tensor")
    return found[0]


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a sorted string table."""
    if len(table) < FOOTER or table[-8:] != MAGIC:
        raise _BrokenError("its last bytes are not those of an index")
    footer = table[-FOOTER:-8]
    _, place = _handle(footer, 0)  # of the meta index, which says nothing here
    index, _ = _handle(footer, place)
    for _, handle in _block(table, index):
        yield from _block(table, _handle(handle, 0)[0])


def _handle(buffer: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = _varint(buffer, place)
    size, place = _varint(buffer, place)
    return (offset, size), place


def _block(table: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block, whose keys leave out what they share with the one before."""
    offset, size = handle
    # After the block: a byte that names the compression, and a checksum of four.
    if offset + size + 5 > len(table) - FOOTER or size < 4:
        raise _BrokenError("a block lies outside the file")
    if table[offset + size] != 0:
        raise _BrokenError("a block is compressed; wanted a plain one, as TensorFlow writes it")
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
            raise _BrokenError("an entry reaches beyond its block")
        key = key[:shared] + block[place : place + fresh]
        place += fresh
        yield key, block[place : place + length]
        place += length


def _message(buffer: bytes) -> dict[int, list[int | bytes]]:
    """Return the fields of a protocol buffer by number."""
    if not isinstance(buffer, bytes):
        raise _BrokenError("a number stands where a description was wanted")
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
                raise _BrokenError("a description has a field of unknown kind")
            if place + length > len(buffer):
                raise _BrokenError("a description is cut off")
            value = buffer[place : place + length]
            place += length
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(buffer: bytes, place: int) -> tuple[int, int]:
    """Return a whole number of 7 bits a byte, least first, and where it ends."""
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
