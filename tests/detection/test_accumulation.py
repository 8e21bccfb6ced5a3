"""Weighted accumulation against pycocotools on scenes that literally stand several times; parts of scenes."""

import numpy as np
import pytest
from made_up import detections, repeated, swapped

from detection.accumulation import (
    accumulate_matches,
    number_scenes,
    scene_boxes,
    scene_parts,
    weighted_average_precision,
)
from detection.average_precision import score
from fusion.metrics.statistics import draw_scenes

CROWDS = [0.0, 0.3]


@pytest.mark.parametrize("crowds", CROWDS)
@pytest.mark.parametrize("seed", range(3))
def test_weights_of_one_give_what_pycocotools_gives(seed, crowds):
    truth, predictions = detections(np.random.default_rng(seed), crowds=crowds)
    matches = accumulate_matches(truth, predictions)
    assert any(one.ignored is not None for one in matches) == (crowds > 0)
    values = [weighted_average_precision(one, np.ones((1, 30)))[0] for one in matches]
    np.testing.assert_allclose(values, score(truth, predictions).average_precision(), rtol=1e-14)


@pytest.mark.parametrize("crowds", CROWDS)
def test_a_draw_of_scenes_gives_what_pycocotools_gives_on_scenes_that_literally_stand_so_often(rng, crowds):
    truth, predictions = detections(rng, images=40, crowds=crowds)
    scene, scenes = number_scenes([f"place {n // 4}" for n in range(40)])
    weights = draw_scenes(scenes, 6, seed=3)[:, scene]
    matches = accumulate_matches(truth, predictions)
    ours = np.stack([weighted_average_precision(one, weights) for one in matches], axis=1)
    theirs = [score(*repeated(truth, predictions, row)).average_precision() for row in weights]
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    assert weights.max() > 1 and ours.std(axis=0).min() > 0


def test_class_without_weight_is_undefined(rng):
    truth, predictions = detections(rng)
    one = accumulate_matches(truth, predictions)[0]
    weights = np.where(one.boxes > 0, 0.0, 1.0)[None]
    assert np.isnan(weighted_average_precision(one, weights)).all()
    truth["annotations"] = []
    assert np.isnan(scene_parts(accumulate_matches(truth, predictions)[0], np.zeros(30, int), 1)).all()


@pytest.mark.parametrize("crowds", CROWDS)
def test_parts_of_scenes_sum_to_what_pycocotools_gives(rng, crowds):
    truth, predictions = detections(rng, images=60, crowds=crowds)
    scene = np.arange(60) // 3
    matches = accumulate_matches(truth, predictions)
    parts = [scene_parts(one, scene, 20) for one in matches]
    np.testing.assert_allclose(np.sum(parts, axis=1), score(truth, predictions).average_precision(), rtol=1e-12)
    boxes = [a for a in truth["annotations"] if not a["iscrowd"]]
    assert scene_boxes(matches, scene, 20).sum() == len(boxes)


def test_parts_do_not_change_with_scores_that_keep_their_order(rng):
    truth, predictions = detections(rng)
    lower = [{**p, "score": p["score"] ** 3} for p in predictions]
    scene = np.arange(30)
    for one, other in zip(accumulate_matches(truth, predictions), accumulate_matches(truth, lower), strict=True):
        np.testing.assert_array_equal(scene_parts(one, scene, 30), scene_parts(other, scene, 30))


def test_no_detections_give_parts_of_zero(rng):
    truth, _ = detections(rng)
    assert (scene_parts(accumulate_matches(truth, [])[0], np.zeros(30, int), 1) == 0).all()


def test_part_of_a_scene_is_the_change_of_average_precision_with_its_weight(rng):
    # With its weight the boxes grow as well, which takes AP times their share away.
    truth, predictions = detections(rng, images=1500, classes=1)
    one = accumulate_matches(truth, predictions)[0]
    scene = np.arange(1500) // 50
    parts = scene_parts(one, scene, 30)
    influence = parts - parts.sum() * np.bincount(scene, one.boxes) / one.boxes.sum()
    # Whole steps: the 101 recalls make AP too rough a function of a weight for small ones.
    weights = 1 + 1.0 * (scene == np.arange(30)[:, None])
    change = (weighted_average_precision(one, weights) - weighted_average_precision(one, 2 - weights)) / 2
    assert np.corrcoef(change, influence)[0, 1] > 0.95
    assert influence.std() == pytest.approx(change.std(), rel=0.15)


def test_signs_of_parts_give_the_differences_of_detections_literally_swapped(rng):
    truth, good = detections(rng, images=240, classes=2, quality=0.9)
    first = [p for p in good if rng.random() < 0.85]
    second = [p for p in good if rng.random() < 0.85]
    scene = np.arange(240) // 8
    parts = [
        np.mean([scene_parts(one, scene, 30) for one in accumulate_matches(truth, found)], axis=0)
        for found in (first, second)
    ]
    literal, signed = [], []
    for _ in range(25):
        chosen = rng.random(30) < 0.5
        both = swapped(first, second, [n + 1 for n in range(240) if chosen[scene[n]]])
        literal.append(np.subtract(*(score(truth, found).average_precision().mean() for found in both)))
        signed.append(((1 - 2 * chosen) * (parts[0] - parts[1])).sum())
    assert np.corrcoef(literal, signed)[0, 1] > 0.98
    assert np.std(signed) == pytest.approx(np.std(literal), rel=0.1)
