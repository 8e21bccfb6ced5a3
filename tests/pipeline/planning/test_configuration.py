"""What the configuration does not know is refused by name."""

import functools

import pytest
from snakemake.exceptions import WorkflowError

from pipeline.stage import InputError

MILLION = functools.reduce(lambda inside, _: [inside] * 10, range(6), "ha")  # written as YAML of few aliases


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"fuson": {}}, "fuson"),
        ({"ablations": {"x": {"blok": "lcsc"}}}, "blok"),
        ({"detection": {"training": {"epoch": 3}}}, "epoch"),
        ({"fusion": {"methods": ["visible"]}}, "visible"),
        ({"detection": {"model": "yolov99"}}, "yolov99"),
        ({"dataset": {"name": "nosuch"}}, "nosuch"),
        ({"fusion": {"methods": ["a; touch x"]}}, "a; touch x"),
        ({"fusion": {"own": {"mine": {"callable": "m:f", "watch": ["-x"]}}}}, "-x"),
    ],
)
def test_the_schema_refuses_it(configure, overlay, message):
    with pytest.raises(WorkflowError, match=message):
        configure(overlay)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"dataset": {"root": MILLION}}, "more than 100,000 values"),
        ({"tables": ["table1"]}, r"test_sets.sets is empty; expected at least one entry for \['table1'\]"),
        (
            {"tables": ["table3"], "test_sets": {"sets": {"A": {"visible": "vi", "infrared": "ir"}}}},
            "ablations is empty",
        ),
        ({"test_sets": {"only": ["B"]}}, r"test_sets.only names \['B'\]"),
        ({"ablations": {"maximum": {}}}, r"ablations names \['maximum'\]"),
        ({"fusion": {"methods": ["fnet", "nosuch"]}}, r"fusion.methods names \['nosuch'\]"),
        ({"dataset": {"classes": ["a"]}}, "config: dataset: --dataset synthetic has its own folders and classes"),
        ({"dataset": {"name": "folders"}}, "config: dataset: --classes"),
        (
            {"dataset": {"name": "folders", "classes": ["a"], "visible": ["x"], "infrared": ["x/."]}},
            "config: dataset: data/x is given for both bands",
        ),
        ({"fnet": {"data": {"visible": ["x"], "infrared": ["x"]}}}, "config: x is given for both bands"),
        (
            {"test_sets": {"sets": {"A": {"visible": "a", "infrared": "a"}}, "root": "t"}},
            "t/A/a is given for both bands",
        ),
        ({"fusion": {"own": {"maximum": {"callable": "m:f"}}}}, r"fusion.own names \['maximum'\]"),
        (
            {"fusion": {"own": {"mine": {"callable": "m:f", "model": "a.onnx"}}}},
            "mine has callable and model; expected",
        ),
        ({"fusion": {"own": {"mine": {"watch": ["a"]}}}}, "mine has no key; expected one of folder, callable"),
        ({"fusion": {"methods": ["mine"], "own": {"mine": {"folder": "no/folder"}}}}, "no/folder is not a folder"),
        ({"fusion": {"methods": ["mine"], "own": {"mine": {"model": "no.onnx"}}}}, "no.onnx is not a file"),
        (
            {"fusion": {"methods": ["mine"], "own": {"mine": {"callable": "m:f", "watch": ["gone"]}}}},
            "the watched path gone does not exist",
        ),
        (
            {"metrics": {"own": {"kept": {"callable": "m:f", "better": "higher", "watch": ["gone"]}}}},
            "the watched path gone does not exist",
        ),
        (
            {"fusion": {"methods": ["mine"], "own": {"mine": {"command": "a 'b {visible}"}}}},
            "cannot be split into words",
        ),
    ],
)
def test_the_plan_refuses_it(plan, overlay, message):
    with pytest.raises(InputError, match=message):
        plan(overlay)
