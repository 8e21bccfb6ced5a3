"""A metric of the user's own stands beside the others, from the images to the table."""

import math

import numpy as np
import pytest

from fusion import evaluate
from fusion.own.metric import directions, read_own_metric
from pipeline.artefacts import read_csv
from pipeline.pairs import write_image
from pipeline.stage import InputError
from reports.tables_layout import metric_directions

MODULE = """
import numpy as np

def share(visible, infrared, fused):
    assert visible.dtype == np.uint8 and visible.shape == fused.shape
    return float(np.mean(fused >= visible)) if fused.max() > 10 else float("nan")

def broken(visible, infrared, fused):
    return 1 / 0

def endless(visible, infrared, fused):
    return float("inf")

def returns_none(visible, infrared, fused):
    fused - visible

def turned(fused, ir, vis):
    return share(vis, ir, fused)
"""


@pytest.fixture
def folders(tmp_path, monkeypatch):
    (tmp_path / "mymetric_of_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(3)
    for name in "ab":
        pair = rng.integers(0, 256, (2, 24, 20), dtype=np.uint8)
        write_image(tmp_path / f"vi/{name}.png", pair[0])
        write_image(tmp_path / f"ir/{name}.png", pair[1])
        write_image(tmp_path / f"fused/{name}.png", np.zeros_like(pair[0]) if name == "b" else pair.max(0))
    return tmp_path


def run(folders, metric, *options):
    where = ["--visible", folders / "vi", "--infrared", folders / "ir", "--fused", folders / "fused"]
    where = [str(word) for word in where]
    evaluate.main([*where, "--own-metric", metric, *options, "--output", str(folders / "scores.csv")])
    return read_csv(folders / "scores.csv")


def test_its_values_stand_beside_the_others_and_its_direction_in_the_file(folders):
    frame, facts = run(folders, "share:higher=mymetric_of_tests:share")
    assert frame.columns[-1] == "share" and frame["share"][0] == 1 and math.isnan(frame["share"][1])
    assert frame["MI"].notna().any()
    assert facts["own_metrics"].startswith("share:higher=mymetric_of_tests:share code ")
    known = metric_directions(facts)
    turned, _ = run(folders, "share:higher=mymetric_of_tests:turned")
    assert turned["share"].equals(frame["share"])
    assert known["share"] is True and known["MSE"] is False
    assert directions("a:lower=m:f code 1; b:higher=m:g code 2") == {"a": False, "b": True}


def test_a_metrics_helper_and_what_it_is_said_to_read_are_in_its_digest(folders, monkeypatch):
    monkeypatch.chdir(folders)
    helper, table = folders / "helper_of_metric.py", folders / "table.csv"
    (folders / "metric_of_helper.py").write_text("from helper_of_metric import share\n")
    helper.write_text(MODULE)
    table.write_text("1")
    digests = []
    for file in (helper, table, None):
        _, facts = run(folders, "share:higher=metric_of_helper:share", "--watch", str(table))
        digests.append(facts["own_metrics"].partition(" code ")[2])
        if file:
            file.write_text(file.read_text() + "\n")
    assert len(set(digests)) == 3
    with pytest.raises(InputError, match=r"the watched path gone does not exist"):
        run(folders, "share:higher=metric_of_helper:share", "--watch", "gone")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("share=mymetric_of_tests:share", "expected NAME:higher="),
        ("MI:higher=mymetric_of_tests:share", "the name MI is already in use"),
        ("own:higher=mymetric_of_tests:nothing", "cannot be imported"),
        ("own:lower=mymetric_of_tests:broken", "metric own, .*:broken, failed on '[ab]': ZeroDivisionError"),
        ("own:lower=mymetric_of_tests:returns_none", "failed on '[ab]': TypeError: it returned nothing"),
        ("own:lower=mymetric_of_tests:endless", "returned inf for '[ab]'"),
    ],
)
def test_what_is_wrong_with_it_is_one_clear_error(folders, metric, message):
    with pytest.raises(InputError, match=message):
        run(folders, metric)
    assert not (folders / "scores.csv").exists()


def test_a_metric_is_read_with_its_function(folders):
    metric = read_own_metric("share:lower=mymetric_of_tests:share")
    assert not metric.higher_is_better
    assert metric.of(*np.full((3, 4, 4), 50, np.uint8)) == 1
