"""Averages by condition: scored as test sets of their own, drawn by their own scenes, and said to be unsure."""

import math

import numpy as np
import pytest
from made_up import detections, repeated

from detection.accumulation import accumulate_matches, matches_within
from detection.average_precision import score
from detection.by_condition import describe_conditions
from detection.intervals import bootstrap
from fusion.metrics.statistics import draw_scenes, effective_number, interval

CLASSES = ["c1", "c2", "c3"]


def part_of(truth, found, images):
    """Return truth and detections of some images alone, by index."""
    ids = {truth["images"][n]["id"] for n in images}
    part = truth | {
        "images": [image for image in truth["images"] if image["id"] in ids],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in ids],
    }
    return part, [p for p in found if p["image_id"] in ids]


def average(truth, found):
    return score(truth, found).table()["average"]["AP"]


@pytest.fixture
def night():
    """Forty images in scenes of two, of which every other scene is at night, one image of it by day after all."""
    scene = np.arange(40) // 2
    night = scene % 2 == 1
    night[3] = False
    return scene, night


@pytest.mark.parametrize("crowds", [0.0, 0.2])
def test_draws_are_pycocotools_on_the_conditions_scenes_that_literally_stand_so_often(rng, night, crowds):
    truth, found = detections(rng, images=40, crowds=crowds)
    scene, counted = night
    matches = [matches_within(one, counted) for one in accumulate_matches(truth, found)]
    measured, drawn = bootstrap({"v": [matches]}, scene[counted], samples=6, seed=3)
    part, kept = part_of(truth, found, np.flatnonzero(counted))
    np.testing.assert_allclose(measured["v"], [*score(part, kept).average_precision(), average(part, kept)])
    scenes, index = np.unique(scene[counted], return_inverse=True)
    for weights, values in zip(draw_scenes(len(scenes), 6, 3), drawn["v"], strict=True):
        copies = repeated(part, kept, weights[index])
        np.testing.assert_allclose(values, [*score(*copies).average_precision(), average(*copies)], atol=1e-9)


def test_intervals_are_those_of_a_bootstrap_by_hand_of_the_conditions_scenes(rng, night):
    truth, found = detections(rng, images=40)
    scene, counted = night
    runs = {"visible": found[::2], "infrared": found[1::2], "fnet": found}
    matches = {name: [accumulate_matches(truth, one)] for name, one in runs.items()}
    conditions = ["night" if is_night else None for is_night in counted]
    entry = describe_conditions(matches, conditions, scene, CLASSES, samples=40, seed=5)["night"]
    scenes, index = np.unique(scene[counted], return_inverse=True)
    parts = {name: part_of(truth, one, np.flatnonzero(counted)) for name, one in runs.items()}
    drawn = {
        name: np.array([average(*repeated(*part, weights[index])) for weights in draw_scenes(len(scenes), 40, 5)])
        for name, part in parts.items()
    }
    boxes = np.bincount(
        index,
        [sum(a["image_id"] == i["id"] for a in parts["fnet"][0]["annotations"]) for i in parts["fnet"][0]["images"]],
    )
    for name, part in parts.items():
        low, high = interval(drawn[name], effective_number(boxes), measured=average(*part))
        assert entry["variants"][name] == pytest.approx(
            {"AP": average(*part), "low": low, "high": high, "undefined": 0}, abs=1e-9
        )
    (less,) = (d for d in entry["differences"] if (d["first"], d["second"]) == ("fnet", "infrared"))
    gain = average(*parts["fnet"]) - average(*parts["infrared"])
    low, high = interval(drawn["fnet"] - drawn["infrared"], effective_number(boxes), measured=gain)
    assert [less[key] for key in ("difference", "low", "high")] == pytest.approx([gain, low, high], abs=1e-9)
    assert (entry["images"], entry["boxes"], entry["scenes"]) == (counted.sum(), boxes.sum(), (boxes > 0).sum())


def test_every_variant_is_compared_with_each_band_but_itself_and_images_without_a_condition_are_left_out(rng):
    truth, found = detections(rng, images=12)
    matches = {name: [accumulate_matches(truth, found)] for name in ("visible", "infrared", "late")}
    found = describe_conditions(matches, ["day", None, "fog"] * 4, np.arange(12), CLASSES, samples=20)
    assert list(found) == ["day", "fog"] and found["day"]["images"] == 4
    pairs = [(d["first"], d["second"]) for d in found["fog"]["differences"]]
    assert pairs == [("visible", "infrared"), ("infrared", "visible"), ("late", "visible"), ("late", "infrared")]
    assert describe_conditions(matches, [None] * 12, np.arange(12), CLASSES) == {}


def test_too_few_scenes_too_few_boxes_and_none_are_said(rng):
    truth, found = detections(rng, images=40, classes=2)
    few = [a for a in truth["annotations"] if a["category_id"] == 2][:3]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 2] + few
    truth["categories"].append({"id": 3, "name": "c3"})
    matches = {"visible": [accumulate_matches(truth, found)]}
    entry = describe_conditions(matches, ["day"] * 40, np.arange(40) // 10, CLASSES, samples=20)["day"]
    assert entry["classes"]["c2"] == 3 and entry["classes"]["c3"] == 0
    assert entry["remark"] == (
        "too few scenes for the tests of Table II; fewer than 10 boxes of c2; no boxes of c3, left out of the average"
    )
    single = describe_conditions(matches, ["day"] * 40, np.zeros(40, int), CLASSES, samples=20)["day"]
    assert math.isnan(single["variants"]["visible"]["low"]) and not math.isnan(single["variants"]["visible"]["AP"])
