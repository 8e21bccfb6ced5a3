"""The benchmark of the verdict: its table of sequences is M3FD's, and a few runs go through the project's functions."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.artefacts import read_json

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import verdict_calibration as calibration


def test_sequences_are_those_of_m3fd(shared):
    labels = shared / "data" / "m3fd_labels"
    conditions, boxes = read_json(labels / "scenario.json"), read_json(labels / "boxes.json")
    sequence = {}
    for span in (span for condition in conditions for scene in condition["scene"] for span in scene["range"]):
        for number in range(span["min"], span["max"] + 1):
            sequence.setdefault(number, span["min"])
    lengths = Counter(sequence.values())
    number = {image["id"]: int(Path(image["file_name"]).stem) for image in boxes["images"]}
    counts = Counter((sequence.get(number[a["image_id"]]), a["category_id"]) for a in boxes["annotations"])
    found, rates, classes = calibration.sequences()
    assert classes == tuple(category["name"] for category in boxes["categories"])
    assert found.tolist() == [lengths[first] for first in sorted(lengths)]
    expected = [[counts[first, k] for k in range(1, len(classes) + 1)] for first in sorted(lengths)]
    np.testing.assert_allclose(rates * found[:, None], expected)


@pytest.mark.parametrize("whole", [False, True])
def test_sequences_are_drawn_uncut_or_images_one_by_one(rng, whole):
    scene, boxes, _ = calibration.draw_test_set(rng, 400, whole)
    lengths, _, classes = calibration.sequences()
    sizes = np.bincount(scene)
    assert boxes.shape == (len(classes), len(scene))
    if whole:
        assert len(scene) >= 400 > len(scene) - sizes[-1] and set(sizes) <= set(lengths)
    else:
        assert sizes.tolist() == [1] * 400


def test_runs_of_a_case_are_counted(tmp_path, monkeypatch):
    values = np.tile(np.linspace(0.5, 0.7, 5)[:, None], 7)  # made up, the true ones take seconds
    monkeypatch.setattr(calibration, "truth_by_quality", lambda: (np.linspace(-0.3, 0.6, 5), values))
    options = ["--runs", "4", "--coverage-runs", "2", "--old-runs", "2", "--draws", "20", "--old-draws", "20"]
    calibration.main(["--json", str(tmp_path / "c.json"), *options, "--swaps", "100", "--cases", "threeseeds"])
    (case,) = read_json(tmp_path / "c.json")["cases"]
    assert case["name"] == "threeseeds" and case["runs"] == 4 and case["old_runs"] == 2 and case["coverage_runs"] == 2
    for share in ("familywise", "conditional_familywise", "power", "oracle_power", "coverage"):
        assert 0 <= case[share] <= 1
    assert case["familywise_low"] <= case["familywise"] <= case["familywise_high"]
