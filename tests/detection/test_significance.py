import copy
import math

import numpy as np
import pytest
from scipy import stats

from detection import significance
from detection.average_precision import score
from detection.significance import (
    accumulate_matches,
    bootstrap,
    compare,
    draw_images,
    p_value,
    weighted_average_precision,
)
from pipeline.artefacts import read_json, write_json
from pipeline.stage import InputError


def simulated(rng, images=30, classes=3, quality=0.7, shift=2.0):
    """Ground truth and detections of `images`: each box found with probability `quality`, and false ones beside."""
    truth = {
        "images": [{"id": n, "file_name": f"{n}", "width": 200, "height": 200} for n in range(1, images + 1)],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(1, classes + 1)],
        "annotations": [],
    }
    found = []
    for image in truth["images"]:
        for _ in range(rng.integers(0, 6)):
            category = int(rng.integers(1, classes + 1))
            box = [*rng.uniform(0, 120, 2), *rng.uniform(15, 70, 2)]
            number = len(truth["annotations"]) + 1
            truth["annotations"].append(
                {"id": number, "image_id": image["id"], "category_id": category, "bbox": list(map(float, box))}
                | {"area": float(box[2] * box[3]), "iscrowd": 0}
            )
            if rng.random() < quality:
                near = np.abs(np.add(box, rng.normal(0, shift, 4)))
                found.append((image["id"], category, near, 0.3 + 0.7 * rng.random()))
        for _ in range(rng.integers(0, 4)):
            box = [*rng.uniform(0, 120, 2), *rng.uniform(15, 70, 2)]
            found.append((image["id"], int(rng.integers(1, classes + 1)), box, 0.8 * rng.random()))
    return truth, [
        {"image_id": i, "category_id": c, "bbox": list(map(float, b)), "score": float(s)} for i, c, b, s in found
    ]


def repeated(truth, predictions, weights):
    """The data set in which every image literally stands as often as its weight says."""
    images, annotations, detections = [], [], []
    for image, weight in zip(truth["images"], weights, strict=True):
        for _ in range(int(weight)):
            number = len(images) + 1
            images.append({**image, "id": number})
            for annotation in truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    annotations.append({**annotation, "id": len(annotations) + 1, "image_id": number})
            detections += [{**p, "image_id": number} for p in predictions if p["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": annotations}, detections


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_one_give_what_pycocotools_gives(seed):
    truth, predictions = simulated(np.random.default_rng(seed))
    values = [weighted_average_precision(m, np.ones((1, 30)))[0] for m in accumulate_matches(truth, predictions)]
    np.testing.assert_allclose(values, score(truth, predictions).average_precision(), rtol=1e-14)


def test_draw_gives_what_pycocotools_gives_on_images_literally_drawn(rng):
    truth, predictions = simulated(rng)
    weights = draw_images(30, 6, seed=3)
    ours = np.stack([weighted_average_precision(m, weights) for m in accumulate_matches(truth, predictions)], axis=1)
    theirs = [score(*repeated(truth, predictions, row)).average_precision() for row in weights]
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    assert weights.sum(axis=1).tolist() == [30] * 6 and ours.std(axis=0).min() > 0


def test_class_without_boxes_in_a_draw_is_undefined_and_left_out(rng):
    truth, predictions = simulated(rng, images=4)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 2]
    for number, annotation in enumerate(truth["annotations"], 1):
        annotation["id"] = number
    measured, _ = bootstrap({"v": [accumulate_matches(truth, predictions)]}, samples=5)
    assert math.isnan(measured["v"][1])
    assert measured["v"][-1] == pytest.approx(score(truth, predictions).table()["average"]["AP"])


def test_no_detections_at_all_are_zero_with_certainty(rng):
    truth, _ = simulated(rng)
    _, drawn = bootstrap({"v": [accumulate_matches(truth, [])]}, samples=20)
    assert (drawn["v"][:, -1] == 0).all()


def test_variant_does_not_differ_from_itself_and_differs_from_a_much_worse_one(rng):
    truth, good = simulated(rng, images=80, quality=0.95, shift=0.5)
    bad = [p for n, p in enumerate(good) if n % 3]
    matches = {name: [accumulate_matches(truth, p)] for name, p in (("a", good), ("b", good), ("c", bad))}
    result = compare(("c1", "c2", "c3"), *bootstrap(matches, samples=300))
    verdicts = {(c["first"], c["second"]): c for c in result["comparisons"]}
    assert verdicts["a", "b"]["difference"] == 0 and verdicts["a", "b"]["p"] == 1
    assert verdicts["a", "c"]["different"] and verdicts["a", "c"]["low"] > 0
    assert not verdicts["a", "b"]["different"]
    inside = result["variants"]["a"]["Average"]
    assert inside["low"] < inside["AP"] < inside["high"]


def test_seeds_are_drawn_too_and_alike_for_all_variants(rng):
    truth, one = simulated(rng)
    other = [p for n, p in enumerate(one) if n % 2]
    runs = [accumulate_matches(truth, p) for p in (one, other)]
    alone = bootstrap({"v": [runs[0]]}, samples=400)[1]["v"][:, -1]
    measured, drawn = bootstrap({"v": runs, "w": copy.deepcopy(runs)}, samples=400)
    expected = np.mean([score(truth, p).table()["average"]["AP"] for p in (one, other)])
    assert measured["v"][-1] == pytest.approx(expected)
    assert drawn["v"][:, -1].std() > 1.5 * alone.std()  # the two seeds differ more than draws of images do
    np.testing.assert_array_equal(drawn["v"], drawn["w"])


def test_p_value_is_normal(rng):
    drawn = rng.normal(0, 0.1, 1000)
    assert p_value(0.2, drawn) == pytest.approx(2 * stats.norm.sf(0.2 / drawn.std(ddof=1)))


@pytest.mark.parametrize("sets", [50, pytest.param(200, marks=pytest.mark.by_hand)])
def test_interval_covers_the_truth_in_about_95_of_100_simulated_test_sets(sets):
    # The truth: the AP that the same simulated detector has on very many images.
    quality = {"quality": 0.7, "shift": 2.0, "classes": 2}
    target = np.mean(
        [score(*simulated(np.random.default_rng([1, n]), images=1500, **quality)).average_precision() for n in range(2)]
    )
    covered = []
    for number in range(sets):
        truth, predictions = simulated(np.random.default_rng([2, number]), images=120, **quality)
        _, drawn = bootstrap({"v": [accumulate_matches(truth, predictions)]}, samples=300, seed=number)
        low, high = significance.interval(drawn["v"][:, -1])
        covered.append(low <= target <= high)
    assert abs(np.mean(covered) - 0.95) <= 4 * (0.95 * 0.05 / sets) ** 0.5  # standard errors


def test_stage_writes_intervals_and_comparisons_that_repeat(rng, tmp_path):
    truth, predictions = simulated(rng)
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "a.json", predictions)
    write_json(tmp_path / "b.json", predictions[::2])
    words = [f"{v}/{s}={tmp_path / v}.json" for v in "ab" for s in (0, 3)]
    for name in ("one.json", "two.json"):
        options = ["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / name), "--samples", "200"]
        significance.main([*options, "--predictions", *words])
    written = read_json(tmp_path / "one.json")
    assert written["seeds"] == [0, 3] and list(written["variants"]) == ["a", "b"]
    assert list(written["variants"]["a"]) == ["c1", "c2", "c3", "Average"]
    assert len(written["comparisons"]) == 1 and "Holm" in written["correction"]
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=x.json"], "wanted VARIANT/SEED=FILE"),
        (["a/0=x.json", "a/0=y.json"], "names a/0 twice"),
        (["a/0=x.json", "b/1=y.json"], r"'b' has the seeds \[1\], expected \[0\]"),
    ],
)
def test_unclear_predictions_are_refused(rng, tmp_path, words, message):
    write_json(tmp_path / "truth.json", simulated(rng)[0])
    with pytest.raises(InputError, match=message):
        significance.main(
            ["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / "s.json"), "--predictions", *words]
        )
