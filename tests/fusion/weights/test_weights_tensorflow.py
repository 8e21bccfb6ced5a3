"""TensorFlow checkpoints: the real ones whole, small ones written here, and broken ones refused."""

import struct

import numpy as np
import pytest
import torch

from fusion.weights.tensorflow import DATA_SUFFIX, MAGIC, read_checkpoint
from pipeline.stage import InputError


def varint(value):
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def block(entries):
    """Write a block with prefix-compressed keys, and what follows it: compression type and checksum."""
    body, previous = b"", b""
    for key, value in entries:
        shared = next((n for n, (a, b) in enumerate(zip(key, previous, strict=False)) if a != b), len(previous))
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    return body + struct.pack("<II", 0, 1)


def tensor(shape, offset, length, kind=1, **others):
    dims = b"".join(field(2, field(1, size)) for size in shape)
    extra = b"".join(field(int(number.removeprefix("f")), value) for number, value in others.items())
    return field(1, kind) + field(2, dims) + field(4, offset) + field(5, length) + extra


HEADER = field(1, 1) + field(3, field(1, 1))


def write(folder, entries, data, header=HEADER, compression=b"\0"):
    content = block([(b"", header), *entries])
    table = content + compression + bytes(4)
    meta = (len(table), 8)
    table += block([]) + bytes(5)
    index = block([(b"z", varint(0) + varint(len(content)))])
    place = len(table)
    table += index + bytes(5)
    footer = varint(meta[0]) + varint(meta[1]) + varint(place) + varint(len(index))
    (folder / "model.ckpt.index").write_bytes(table + footer.ljust(40, b"\0") + MAGIC)
    (folder / f"model.ckpt{DATA_SUFFIX}").write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path):
    data = np.arange(6, dtype="<f4").tobytes() + np.array(7, "<i8").tobytes()
    entries = [(b"net/bias", tensor((2,), 16, 8)), (b"net/kernel", tensor((2, 2), 0, 16))]
    return write(tmp_path, [*entries, (b"step", tensor((), 24, 8, kind=9))], data)


def test_tensors_come_back_with_names_shapes_and_types(folder):
    found = read_checkpoint(folder)
    assert list(found) == ["net/bias", "net/kernel", "step"]
    assert found["net/bias"].tolist() == [4, 5]
    assert found["net/kernel"].tolist() == [[0, 1], [2, 3]]
    assert found["step"].item() == 7 and found["step"].dtype == torch.int64


def test_the_folder_or_either_file_names_the_checkpoint(folder):
    for path in (folder / "model.ckpt.index", folder / f"model.ckpt{DATA_SUFFIX}"):
        assert read_checkpoint(path)["net/bias"].tolist() == [4, 5]


def test_the_published_checkpoints_are_read_whole(shared):
    u2fusion = read_checkpoint(shared / "data/checkpoints/U2Fusion")
    assert len(u2fusion) == 20 and sum(value.numel() for value in u2fusion.values()) == 659_217
    murf = read_checkpoint(shared / "data/checkpoints/MURF/RGB-IR_finetuning")
    assert len(murf) == 65 and sum(value.numel() for value in murf.values()) == 116_123
    assert murf["f2m_net/wf1"].shape == (3, 3, 32, 32)
    assert all(value.isfinite().all() for value in [*u2fusion.values(), *murf.values()])


def test_a_file_cut_off_anywhere_is_refused(folder):
    for path in (folder / "model.ckpt.index", folder / f"model.ckpt{DATA_SUFFIX}"):
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"model\.ckpt"):
                read_checkpoint(folder)
        path.write_bytes(whole)


def test_a_published_checkpoint_cut_off_or_changed_gives_an_error_or_tensors(shared, tmp_path, rng):
    source = shared / "data/checkpoints/MURF/RGB-IR_f2m"
    whole = (source / "0000.ckpt.index").read_bytes()
    (tmp_path / f"m{DATA_SUFFIX}").symlink_to(source / f"0000.ckpt{DATA_SUFFIX}")
    refused = 0
    for trial in range(300):
        bad = bytearray(whole)
        if trial % 3 == 0:
            bad = bad[: rng.integers(len(whole))] + whole[-48:] * int(rng.integers(2))
        for place in rng.integers(max(len(bad), 1), size=1 + trial % 5 if bad else 0):
            bad[place] = rng.integers(256)
        (tmp_path / "m.index").write_bytes(bad)
        try:
            found = read_checkpoint(tmp_path)
        except InputError:
            refused += 1
        else:  # a changed letter of a name, a checksum
            assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert refused > 100


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (tensor((2,), 20, 8), "8 bytes at 20"),
        (tensor((2**40,), 0, 2**42), "out of bounds"),
        (tensor((3,), 0, 16), "shape"),
        (tensor((2,), 2**63, 8), "data"),
        (tensor((2,), 0, 8, kind=7), "type 7"),
        (tensor((2,), 0, 8, f3=1), "pieces"),
        (tensor((2,), 0, 8, f7=b""), "pieces"),
        (tensor((1,) * 9, 0, 4), "out of bounds"),
        (field(1, 1) + field(2, 5), "a field is a number"),
        (field(1, b"1"), "does not describe a tensor"),
        (b"\x0f", "unknown wire type"),
        (b"\x12\x7f", "cut off"),
        (b"\x08" + b"\xff" * 12, "64 bits"),
    ],
)
def test_a_hostile_entry_is_refused(tmp_path, entry, message):
    with pytest.raises(InputError, match=message):
        read_checkpoint(write(tmp_path, [(b"a", entry)], bytes(24)))


def test_another_layout_than_tensorflow_writes_is_refused(tmp_path):
    entries = [(b"a", tensor((2,), 0, 8))]
    with pytest.raises(InputError, match="compressed"):
        read_checkpoint(write(tmp_path, entries, bytes(24), compression=b"\1"))
    for header in (field(1, 2), field(1, 1) + field(2, 1)):
        with pytest.raises(InputError, match="header"):
            read_checkpoint(write(tmp_path, entries, bytes(24), header=header))


def test_missing_or_several_checkpoints_are_refused(folder):
    (folder / "other.index").write_bytes(b"")
    with pytest.raises(InputError, match="contains 2 TensorFlow checkpoints"):
        read_checkpoint(folder)
    with pytest.raises(InputError, match="both files"):
        read_checkpoint(folder / "other.index")
