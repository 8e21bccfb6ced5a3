"""Whatever a label file holds, it gives boxes inside the image or an InputError, never another exception."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.boxes import read_voc, read_yolo
from fusion.stage import InputError

CLASSES = ("People", "Car")
WORDS = st.sampled_from(["0", "1", "2", "-1", "²", "0.5", "1e999", "nan", "-0", "1_0", "", "People", "96", "640"])
LINES = st.lists(st.lists(WORDS | st.floats(-2, 2).map(str), max_size=6).map(" ".join), max_size=4)
TAGS = st.sampled_from(["annotation", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax", "size", "width"])
XML = st.recursive(
    WORDS, lambda inner: st.tuples(TAGS, st.lists(inner, max_size=5)).map(lambda n: f"<{n[0]}>{''.join(n[1])}</{n[0]}>")
)
QUICK = settings(max_examples=60, deadline=None)


def holds(read, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content)
        try:
            boxes, warnings = read(path, CLASSES, 96, 64)
        except InputError as error:
            assert str(path) in str(error)
            return
    assert all(0 <= box.xmin < box.xmax <= 96 and 0 <= box.ymin < box.ymax <= 64 for box in boxes)
    assert all(box.name in CLASSES for box in boxes) and all(str(path) in warning for warning in warnings)


@pytest.mark.parametrize("read", [read_voc, read_yolo])
@given(content=st.binary(max_size=200))
@QUICK
def test_any_bytes(read, content):
    holds(read, content)


@given(lines=LINES)
@QUICK
def test_lines_like_yolo(lines):
    holds(read_yolo, "\n".join(lines).encode())


@given(body=st.lists(XML, max_size=5))
@QUICK
def test_elements_like_voc(body):
    holds(read_voc, f"<annotation>{''.join(body)}</annotation>".encode())


@given(name=WORDS | st.just("cAR"), edges=st.lists(st.floats(-100, 200).map(str) | WORDS, min_size=4, max_size=4))
@QUICK
def test_objects_of_any_edges(name, edges):
    fields = "".join(
        f"<{tag}>{edge}</{tag}>" for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )
    text = f"<annotation><object><name>{name}</name><bndbox>{fields}</bndbox></object></annotation>"
    holds(read_voc, text.encode())
