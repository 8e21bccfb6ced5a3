"""Intervals from whole scenes: what they rest on, and where nothing can be said."""

import math

import numpy as np
import pytest
from made_up import detections

from detection.accumulation import accumulate_matches, scene_boxes
from detection.average_precision import score
from detection.intervals import bootstrap, describe

CLASSES = ["c1", "c2", "c3"]


def test_measured_is_pycocotools_mean_over_seeds_and_seeds_are_not_drawn(rng):
    truth, found = detections(rng)
    runs = [found, found[::2]]
    matches = [accumulate_matches(truth, one) for one in runs]
    measured, drawn = bootstrap({"v": matches, "w": matches}, np.arange(30), samples=50)
    expected = np.mean(
        [[*score(truth, p).average_precision(), score(truth, p).table()["average"]["AP"]] for p in runs], 0
    )
    np.testing.assert_allclose(measured["v"], expected)
    np.testing.assert_array_equal(drawn["v"], drawn["w"])
    alone = [bootstrap({"v": [one]}, np.arange(30), samples=50)[1]["v"] for one in matches]
    np.testing.assert_allclose(drawn["v"], np.mean(alone, axis=0))


def test_draws_repeat_by_their_seed(rng):
    matches = {"v": [accumulate_matches(*detections(rng))]}
    first, again, other = (bootstrap(matches, np.arange(30), 20, seed)[1]["v"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_scenes_that_repeat_themselves_are_as_sure_as_single_images_of_them(rng):
    # Each image stands four times: drawn image by image, four times as much seems to be known.
    truth, found = detections(rng, images=40, classes=1)
    one = accumulate_matches(truth, found)[0]
    copies = type(one)(
        np.concatenate([4 * one.image[:, None] + np.arange(4)]).ravel(),
        np.repeat(one.hit, 4, axis=1),
        np.repeat(one.boxes, 4),
    )
    spread = bootstrap({"v": [[one]]}, np.arange(40), 400)[1]["v"].std()
    whole = bootstrap({"v": [[copies]]}, np.arange(160) // 4, 400)[1]["v"].std()
    single = bootstrap({"v": [[copies]]}, np.arange(160), 400)[1]["v"].std()
    assert whole == pytest.approx(spread, rel=0.05)
    assert single == pytest.approx(spread / 2, rel=0.2)


def test_interval_states_boxes_scenes_and_undefined_draws(rng):
    truth, found = detections(rng, images=40)
    rare = [a for a in truth["annotations"] if a["category_id"] == 3][:2]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 3] + rare
    for number, annotation in enumerate(truth["annotations"], 1):
        annotation["id"] = number
    matches, scene = accumulate_matches(truth, found), np.arange(40) // 2
    entries = describe(CLASSES, scene_boxes(matches, scene, 20), *bootstrap({"v": [matches]}, scene, 300))["v"]
    assert list(entries) == [*CLASSES, "Average"]
    assert entries["c3"]["boxes"] == 2 and entries["c3"]["scenes"] <= 2 and entries["c3"]["undefined"] > 0
    assert entries["c3"]["remark"] == "fewer than 10 boxes" and entries["c1"]["remark"] == ""
    assert entries["c1"]["undefined"] == 0 and entries["c1"]["low"] < entries["c1"]["AP"] < entries["c1"]["high"]
    assert entries["Average"]["boxes"] == len(truth["annotations"])


@pytest.mark.parametrize("images", [1, 8])
def test_a_single_scene_has_no_interval(rng, images):
    truth, found = detections(rng, images=images)
    matches, scene = accumulate_matches(truth, found), np.zeros(images, int)
    entries = describe(CLASSES, scene_boxes(matches, scene, 1), *bootstrap({"v": [matches]}, scene, 100))["v"]
    assert all(math.isnan(entry["low"]) and math.isnan(entry["high"]) for entry in entries.values())


def test_no_detections_are_zero_with_certainty(rng):
    truth, _ = detections(rng)
    matches, scene = accumulate_matches(truth, []), np.arange(30)
    average = describe(CLASSES, scene_boxes(matches, scene, 30), *bootstrap({"v": [matches]}, scene, 100))["v"][
        "Average"
    ]
    assert average["AP"] == average["low"] == average["high"] == 0
