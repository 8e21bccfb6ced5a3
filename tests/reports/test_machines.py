"""Runs of several machines in one table: what has to agree, and what is named below it."""

import pytest

from pipeline.artefacts import read_csv
from pipeline.stage import InputError
from reports import tables
from reports.runs import release


def two_machines(example, **second):
    """Return a run whose seed 1 was trained on another machine than seed 0; `second` are its versions."""
    run = example(seeds=(0, 1))
    for variant in run.variants:
        for seed, versions in ((0, {"torch": "2.7.0+cu126", "python": "3.11.7"}), (1, second)):
            run.change(run.training(variant, seed), "versions", value=versions)
            run.change(run.ap(variant, seed), "provenance", "versions", value={"ultralytics": "8.4.190", **versions})
    return run


def test_builds_patches_and_devices_are_named_below_the_table(example):
    run = two_machines(example, torch="2.7.1+cpu", python="3.11.9")
    for variant in run.variants:
        run.change(run.training(variant, 1), "device", value="NVIDIA A100")
        run.change(run.training(variant, 1), "threads", value=4)
    tables.main(run.tables_arguments())
    facts = read_csv(run.tables / "table2.csv")[1]
    assert facts["machines"] == "device cpu, NVIDIA A100; torch 2.7.0+cu126, 2.7.1+cpu; python 3.11.7, 3.11.9"
    assert facts["training.versions.torch"] == "2.7.0+cu126, 2.7.1+cpu"
    assert facts["testing.versions.ultralytics"] == "8.4.190"
    assert facts["machines"] in (run.tables / "table2.md").read_text()


def test_one_machine_has_no_note(example):
    run = two_machines(example, torch="2.7.0+cu126", python="3.11.7")
    tables.main(run.tables_arguments())
    assert "machines" not in read_csv(run.tables / "table2.csv")[1]
    assert "trained in different environments" not in (run.tables / "table2.md").read_text()


def test_how_many_trainings_shared_a_gpu_need_not_agree(example):
    run = two_machines(example, torch="2.7.0+cu126", python="3.11.7")
    for variant, number in zip(run.variants, (1, 3, *[None] * len(run.variants)), strict=False):
        if number:
            run.change(run.training(variant, 1), "speed", value={"hours": 1.0, "per_gpu": number})
    tables.main(run.tables_arguments())


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"torch": "2.8.0", "python": "3.11.7"}, "training.versions.torch is '2.8', expected '2.7'"),
        ({"torch": "3.7.0", "python": "3.11.7"}, "training.versions.torch is '3.7'"),
        ({"torch": "2.7.0", "python": "3.12.7"}, "training.versions.python is '3.12'"),
        ({"torch": "2.7.0", "python": "3.11.7", "ultralytics": "8.4.191"}, "versions.ultralytics is '8.4.191'"),
    ],
)
def test_other_releases_are_refused(example, versions, message):
    with pytest.raises(InputError, match=message):
        tables.main(two_machines(example, **versions).tables_arguments())


@pytest.mark.parametrize(("key", "value"), [("revision", 3), ("recipe.precision", "bf16"), ("weights", "other")])
def test_other_code_precision_or_starting_weights_are_refused(example, key, value):
    run = two_machines(example, torch="2.7.1", python="3.11.7")
    run.change(run.training("fnet", 1), *key.split("."), value=value)
    with pytest.raises(InputError, match=f"training.{key} is {value!r}, expected None"):
        tables.main(run.tables_arguments())


def test_only_versions_are_shortened():
    assert release("testing.versions.torch", "2.7.1+cu126") == "2.7"
    assert release("testing.versions.ultralytics", "8.4.190") == "8.4.190"
    assert release("training.recipe.lr0", 0.0123) == 0.0123
