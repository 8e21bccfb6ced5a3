"""Whatever a label file, a data.yaml or a configuration holds, it is read or refused by our error, never by another.

FUZZ_EXAMPLES=N in the environment asks for N inputs a test instead of a few.
"""

import os
import tempfile
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detection.boxes import read_voc, read_yolo
from detection.variant import read_data
from pipeline.stage import InputError

CLASSES = ("People", "Car")
WORDS = st.sampled_from(["0", "1", "2", "-1", "²", "0.5", "1e999", "nan", "-0", "1_0", "", "People", "96", "640"])
LINES = st.lists(st.lists(WORDS | st.floats(-2, 2).map(str), max_size=6).map(" ".join), max_size=4)
TAGS = st.sampled_from(["annotation", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax", "size", "width"])
XML = st.recursive(
    WORDS, lambda inner: st.tuples(TAGS, st.lists(inner, max_size=5)).map(lambda n: f"<{n[0]}>{''.join(n[1])}</{n[0]}>")
)
QUICK = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 60)), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
ROOT = Path(__file__).resolve().parents[2]
KEYS = st.sampled_from(["names", "variant", "images", "manifest", "train", "test", "val", "path"])
VALUES = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


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


def test_a_class_number_of_thousands_of_digits():
    holds(read_yolo, b"9" * 5000 + b" 0.5 0.5 0.1 0.1")


@given(content=st.dictionaries(KEYS, VALUES, max_size=8) | VALUES)
@QUICK
def test_any_data_yaml(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(InputError):  # its truth and images are not there
            read_data(path, "train")


@pytest.mark.parametrize(
    "content",
    [
        *({"names": [], "train": train} for train in ([None], [5], 5, True, ["a", {}])),
        *({"names": [], "train": "x", "path": place} for place in (5, ["a"], None)),
        *({"names": [], "images": images, "variant": "v", "train": "x"} for images in (None, 5, [None])),
        {"names": [], "images": ["a"], "variant": "v", "train": ["x"]},
    ],
)
def test_a_data_yaml_with_something_else_for_a_path(content):
    test_any_data_yaml.hypothesis.inner_test(content)


CONFIG = jsonschema.Draft202012Validator(
    yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
)
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
PLACES = [
    (section, key) for section, values in DEFAULT.items() for key in (values if isinstance(values, dict) else [None])
]


@given(place=st.sampled_from(PLACES), value=VALUES)
@QUICK
def test_any_value_in_the_configuration(place, value):
    section, key = place
    config = {**DEFAULT, section: value if key is None else {**DEFAULT[section], key: value}}
    found = list(CONFIG.iter_errors(config))
    assert all(error.message for error in found)  # listed, whatever it is; raised by none
