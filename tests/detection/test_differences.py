"""Which variants differ: decisions on parts of scenes worked out by hand, and what is refused to be said."""

import itertools
import math

import numpy as np
import pytest
from made_up import detections
from scipy import stats

from detection import differences
from detection.accumulation import accumulate_matches, scene_boxes
from detection.differences import (
    compare,
    scene_variance,
    split_by_scene,
    swap_test,
    training_variance,
    verdicts_against,
)

ONE_PAIR = [(0, 1)]


def made(rng, gains, scenes=40, seeds=1, noise=0.01, training=0.0, classes=2):
    """Parts of variants whose average AP differs by `gains`, and one box of each class in each scene."""
    parts = {}
    for name, gain in gains.items():
        by_seed = gain + training * rng.standard_normal((seeds, 1, 1))
        parts[name] = (0.5 + by_seed) / scenes + noise * rng.standard_normal((seeds, classes, scenes)) / scenes
    return parts, np.ones((classes, scenes))


def pair(result, first, second):
    return next(c for c in result["comparisons"] if {c["first"], c["second"]} == {first, second})


def test_p_value_of_one_pair_is_the_exhaustive_count_of_signs(rng):
    parts = np.stack([rng.normal(0.4, 1, 10), np.zeros(10)])
    sums = np.array([np.dot(signs, parts[0]) for signs in itertools.product((-1, 1), repeat=10)])
    p, above, below = swap_test(parts, ONE_PAIR, swaps=40_000)
    assert p[0] == pytest.approx(np.mean(np.abs(sums) >= abs(parts[0].sum()) - 1e-12), abs=0.01)
    assert above[0] == pytest.approx(np.mean(sums >= parts[0].sum() - 1e-12), abs=0.01)
    assert below[0] == pytest.approx(np.mean(sums <= parts[0].sum() + 1e-12), abs=0.01)


def test_p_values_of_a_family_are_those_of_its_largest_statistic_step_by_step(rng):
    parts = rng.normal(size=(3, 12)) + np.array([[0.0], [0.3], [1.2]])
    pairs = list(itertools.combinations(range(3), 2))
    d = np.array([parts[i] - parts[j] for i, j in pairs])
    norm = np.sqrt((d**2).sum(axis=1))
    observed = np.abs(d.sum(axis=1)) / norm
    signs = np.array(list(itertools.product((-1, 1), repeat=12)))
    statistic = np.abs(signs @ d.T) / norm
    order = np.argsort(-observed)
    expected, highest = np.empty(3), 0.0
    for step, n in enumerate(order):
        left = statistic[:, order[step:]].max(axis=1)
        highest = max(highest, np.mean(left >= observed[n] - 1e-12))
        expected[n] = highest
    np.testing.assert_allclose(swap_test(parts, pairs, swaps=40_000)[0], expected, atol=0.01)


def test_a_variant_does_not_differ_from_itself_and_differs_from_a_steadily_worse_one(rng):
    parts, boxes = made(rng, {"a": 0.1, "c": 0.0})
    result = compare({"a": parts["a"], "b": parts["a"], "c": parts["c"]}, boxes)
    same, other = pair(result, "a", "b"), pair(result, "a", "c")
    assert same["difference"] == 0 and same["p_trained"] == 1 and not same["trained_differ"]
    assert other["difference"] == pytest.approx(0.1, abs=0.01) and other["trained_differ"]
    assert other["p_trained"] < 0.001


def test_p_is_never_below_one_in_the_number_of_swaps(rng):
    parts, boxes = made(rng, {"a": 0.4, "b": 0.0}, noise=0.001)
    assert compare(parts, boxes, swaps=500)["comparisons"][0]["p_trained"] == pytest.approx(1 / 501)


def test_the_same_seed_gives_the_same_p_values(rng):
    parts, boxes = made(rng, {"a": 0.001, "b": 0.0})
    first, again, other = (compare(parts, boxes, seed=seed)["comparisons"][0]["p_trained"] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        (np.ones((2, 11)), "11 scenes have boxes; a test needs at least 12"),
        (np.concatenate([np.ones((2, 11)), np.zeros((2, 9))], axis=1), "11 scenes have boxes"),
        (
            np.array([[100.0] * 5 + [1] * 15]),
            "20 scenes have boxes, but their effective number is only 5.3; "
            "a test needs an effective number of at least 8",
        ),
        (np.zeros((2, 20)), "0 scenes have boxes"),
        (np.ones((2, 1)), "1 scenes have boxes"),
    ],
)
def test_nothing_differs_in_few_scenes_and_the_reason_is_given(rng, boxes, reason):
    gains = {"visible": 0.0, "infrared": 0.0, "fnet": 0.4}
    parts, _ = made(rng, gains, scenes=boxes.shape[1], seeds=3, classes=len(boxes))
    result = compare(parts, boxes)
    assert result["untested"].startswith(reason) and result["training"] is None
    for entry in result["comparisons"]:
        assert math.isnan(entry["p_trained"]) and math.isnan(entry["p_methods"]) and math.isnan(entry["methods_low"])
        assert not entry["trained_differ"] and not entry["methods_differ"]
    assert result["against_bands"]["fnet"]["trained"]["verdict"] == "not shown"


def test_methods_are_told_apart_from_three_seeds_on(rng):
    gains = {"visible": 0.0, "infrared": 0.0, "fnet": 0.2}
    two, three = (compare(*made(rng, gains, seeds=seeds, training=0.005)) for seeds in (2, 3))
    assert pair(two, "fnet", "visible")["trained_differ"] and not pair(two, "fnet", "visible")["methods_differ"]
    assert math.isnan(pair(two, "fnet", "visible")["p_methods"]) and two["training"] is None
    entry = pair(three, "fnet", "visible")
    assert entry["methods_differ"] and abs(entry["methods_low"]) < abs(entry["difference"]) + 0.1
    assert min(entry["methods_low"], entry["methods_high"]) <= entry["difference"] <= entry["methods_high"]


def test_trained_detectors_that_differ_by_training_alone_are_no_different_methods(rng):
    # Much larger between seeds than by scenes: every trained detector differs, the methods do not.
    parts, boxes = made(rng, {f"v{n}": 0.0 for n in range(6)}, seeds=3, training=0.05, noise=0.01)
    result = compare(parts, boxes)
    assert sum(c["trained_differ"] for c in result["comparisons"]) > 8
    assert not any(c["methods_differ"] for c in result["comparisons"])
    assert result["training"]["training"] == pytest.approx(0.05**2, rel=1)


def test_training_variance_is_what_variants_and_seeds_do_not_explain_less_that_of_the_scenes(rng):
    variants, seeds, scenes = 200, 3, 50
    names = [f"v{n}" for n in range(variants)]
    effects = rng.normal(0, 1, (variants, 1, 1)) + rng.normal(0, 1, (1, seeds, 1))
    training = rng.normal(0, 0.03, (variants, seeds, 1))
    share = rng.dirichlet(np.full(scenes, 2.0))
    parts = (effects + training) * share + rng.normal(0, 0.02, (variants, seeds, scenes)) * np.sqrt(share)
    found = training_variance(names, parts, share)
    assert found.df == 2 * 199
    assert found.total == pytest.approx(0.03**2 + 0.02**2, rel=0.2)
    assert found.interaction == pytest.approx(0.02**2, rel=0.1)
    assert found.training == pytest.approx(0.03**2, rel=0.3)
    assert list(found.deviations) == names


def test_training_variance_is_never_negative():
    parts = np.zeros((2, 3, 4))
    parts[0, 0] = [1, -1, 1, -1]  # scenes disagree, their sums do not
    found = training_variance(["a", "b"], parts, np.full(4, 0.25))
    assert found.total == 0 and found.interaction > 0 and found.training == 0


def test_late_trains_nothing_and_is_not_pooled(rng):
    gains = {"visible": 0.0, "infrared": 0.0, "late": 0.0}
    parts, boxes = made(rng, gains, seeds=3, training=0.01)
    parts["late"] = parts["late"] + np.array([0.0, 5.0, -5.0])[:, None, None] / 40
    training = compare(parts, boxes)["training"]
    assert list(training["deviations"]) == ["visible", "infrared"] and training["df"] == 2
    assert training["total"] < 0.01


def test_no_method_is_said_to_differ_from_one_brought_from_elsewhere(rng):
    parts, boxes = made(rng, {"visible": 0.0, "infrared": 0.0, "fnet": 0.2, "theirs": 0.2}, seeds=3, training=0.005)
    result = compare(parts, boxes, external=["theirs"])
    theirs, ours = pair(result, "theirs", "visible"), pair(result, "fnet", "visible")
    assert theirs["trained_differ"] and math.isnan(theirs["p_methods"]) and not theirs["methods_differ"]
    assert ours["methods_differ"] and "theirs" not in result["training"]["deviations"]
    verdicts = {name: (v["trained"]["verdict"], v["methods"]["verdict"]) for name, v in result["against_bands"].items()}
    assert verdicts == {"fnet": ("ahead", "ahead"), "theirs": ("ahead", "not shown")}


def test_variance_over_scenes_of_one_size_is_that_of_a_mean(rng):
    d = rng.normal(0.2, 1, (1, 30)) / 30
    expected = d[0].var(ddof=1) * 30
    assert scene_variance(d, np.full((1, 30), 1 / 30)) == pytest.approx(expected)


def test_variance_over_scenes_of_unlike_size_is_not_too_small(rng):
    share = np.sort(rng.dirichlet(np.full(20, 0.7)))[None]
    true, estimates = [], []
    for _ in range(2000):
        d = 0.3 * share + rng.normal(size=(1, 20)) * share
        true.append(d.sum())
        estimates.append(scene_variance(d, share))
    assert 1 < np.mean(estimates) / np.var(true) < 1.25
    assert math.isnan(scene_variance(np.ones((1, 1)), np.ones((1, 1))))


@pytest.mark.parametrize(
    ("over_visible", "over_infrared", "verdict"),
    [
        (0.001, 0.002, "ahead"),
        (0.001, 0.030, "not shown"),  # ahead of one band alone
        (0.001, 0.990, "not shown"),  # behind infrared at .01, of two comparisons .02: see the next case
        (0.001, 0.999, "behind"),  # ahead of one, behind the other
        (0.500, 0.500, "not shown"),
        (0.999, 0.999, "behind"),
    ],
)
def test_ahead_is_of_both_bands_and_behind_of_either(over_visible, over_infrared, verdict):
    above = np.full((3, 3), np.nan)
    above[2, :2] = over_visible, over_infrared
    above[:2, 2] = 1 - above[2, :2]
    if verdict == "not shown" and over_infrared == 0.99:
        above[1, 2] = 0.013  # .026 after Holm over both bands
    found = verdicts_against(["visible", "infrared", "fnet"], ["fnet"], ["visible", "infrared"], above)
    assert found["fnet"]["verdict"] == verdict
    assert found["fnet"]["p_ahead"] == max(over_visible, over_infrared)


def test_verdicts_are_corrected_for_the_number_of_variants():
    names = ["visible", "infrared", "a", "b", "c"]
    above = np.full((5, 5), 0.5)
    above[2, :2] = 0.01  # .03 of three variants
    assert verdicts_against(names, names[2:], ["visible", "infrared"], above)["a"] == {
        "p_ahead": pytest.approx(0.03),
        "p_behind": 1.0,
        "verdict": "not shown",
    }
    above[2, :2] = 0.008
    assert verdicts_against(names, names[2:], ["visible", "infrared"], above)["a"]["verdict"] == "ahead"


ALONE = {"visible": 0.0, "infrared": 0.0, "fnet": 0.2, "average": 0.2, "late": 0.1}
INSIDE = {"stacked": 0.19, "twostream": 0.1}


@pytest.mark.parametrize("seeds", [1, 3])
def test_fusing_in_the_detector_changes_nothing_that_is_said_of_others_against_the_bands(rng, seeds):
    parts, boxes = made(rng, ALONE | INSIDE, seeds=seeds, noise=0.6)
    parts["stacked"] += rng.normal(0, 1, (seeds, 1, 1))  # one whose training is noisier than all others'
    with_them, without = compare(parts, boxes), compare({name: parts[name] for name in ALONE}, boxes)
    for name in ("fnet", "average", "late"):
        for statement in ("trained", "methods") if seeds > 1 else ("trained",):
            found, expected = (result["against_bands"][name][statement] for result in (with_them, without))
            assert found == expected
    assert list(with_them["against_bands"]) == ["fnet", "average", "late", "stacked", "twostream"]
    # Their own family: two variants, not five.
    one_sided = swap_test(
        np.stack([parts[name].mean(axis=(0, 1)) for name in ("visible", "infrared", "stacked", "twostream")]),
        [(2, 0), (2, 1), (3, 0), (3, 1)],
    )[1]
    largest = one_sided.reshape(2, 2).max(axis=1)
    assert with_them["against_bands"]["stacked"]["trained"]["p_ahead"] == pytest.approx(
        min(1, 2 * largest[0]) if largest[0] <= largest[1] else max(largest[0], min(1, 2 * largest[1]))
    )


def test_ahead_of_fusing_in_the_detector_is_ahead_of_each_way_that_is_there(rng):
    parts, boxes = made(rng, ALONE | {"stacked": 0.3, "twostream": 0.1})
    result = compare(parts, boxes)
    assert result["inside"] == ["late", "stacked", "twostream"] and list(result["against_inside"]) == [
        "fnet",
        "average",
    ]
    fnet = result["against_inside"]["fnet"]["trained"]
    assert fnet["verdict"] == "behind" and fnet["p_ahead"] > 0.9  # of one; ahead of the other two
    fewer = compare({name: part for name, part in parts.items() if name != "stacked"}, boxes)
    assert fewer["inside"] == ["late", "twostream"]
    assert {row["trained"]["verdict"] for row in fewer["against_inside"].values()} == {"ahead"}
    none = compare({name: parts[name] for name in ("visible", "infrared", "fnet")}, boxes)
    assert none["inside"] == [] and none["against_inside"] == {}


def test_p_against_fusing_in_the_detector_is_the_largest_over_the_ways_after_holm(rng):
    parts, boxes = made(rng, ALONE | {"stacked": 0.19, "twostream": 0.18}, noise=0.25)
    result = compare(parts, boxes)["against_inside"]
    rows, ways = ("fnet", "average"), ("late", "stacked", "twostream")
    summed = np.stack([parts[name].mean(axis=(0, 1)) for name in (*rows, *ways)])
    above = swap_test(summed, [(i, j) for i in (0, 1) for j in (2, 3, 4)])[1].reshape(2, 3).max(axis=1)
    smaller = int(np.argmin(above))
    expected = {rows[smaller]: 2 * above[smaller], rows[1 - smaller]: max(2 * above[smaller], above[1 - smaller])}
    for row, p in expected.items():
        assert result[row]["trained"]["p_ahead"] == pytest.approx(min(1, p))


def test_detectors_that_fuse_themselves_are_pooled_for_their_own_pairs_alone(rng):
    parts, boxes = made(rng, ALONE | INSIDE, seeds=3, training=0.01)
    result, without = compare(parts, boxes), compare({name: parts[name] for name in ALONE}, boxes)
    assert list(result["training"]["deviations"]) == ["visible", "infrared", "fnet", "average"]
    assert result["training"] == without["training"] and result["training"]["df"] == 3 * 2
    # Of all that are trained where one is not told apart from other rows: `inside` is empty.
    alike = compare(parts, boxes, inside=())
    assert alike["training"]["df"] == 5 * 2
    spans = {
        (e["first"], e["second"]): [
            next(o[key] for o in other["comparisons"] if (o["first"], o["second"]) == (e["first"], e["second"]))
            for other in (result, alike)
            for key in ("methods_low", "methods_high")
        ]
        for e in result["comparisons"]
    }
    assert spans["fnet", "stacked"][:2] == spans["fnet", "stacked"][2:]
    assert spans["visible", "fnet"][:2] != spans["visible", "fnet"][2:]


def test_pairs_with_a_band_are_confirmatory_and_others_exploration(rng):
    parts, boxes = made(rng, {"visible": 0.0, "infrared": 0.0, "fnet": 0.2, "average": 0.2})
    result = compare(parts, boxes)
    assert pair(result, "fnet", "visible")["confirmatory"] and not pair(result, "fnet", "average")["confirmatory"]
    assert not pair(result, "infrared", "visible")["confirmatory"]
    assert {name: found["trained"]["verdict"] for name, found in result["against_bands"].items()} == {
        "fnet": "ahead",
        "average": "ahead",
    }
    assert compare({"fnet": parts["fnet"], "average": parts["average"]}, boxes)["against_bands"] == {}
    assert compare({"fnet": parts["fnet"]}, boxes)["comparisons"] == []


def test_differences_are_those_of_the_averages_over_classes_with_boxes(rng):
    truth, found = detections(rng, images=48)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 2]
    for number, annotation in enumerate(truth["annotations"], 1):
        annotation["id"] = number
    scene = np.arange(48) // 3
    matches = {"a": [accumulate_matches(truth, found)], "b": [accumulate_matches(truth, found[::2])]}
    parts, boxes = split_by_scene(matches, scene, 16), scene_boxes(matches["a"][0], scene, 16)
    averages = {name: np.nanmean(part.sum(axis=2)) for name, part in parts.items()}
    result = compare(parts, boxes)
    assert result["comparisons"][0]["difference"] == pytest.approx(averages["a"] - averages["b"])
    assert result["scenes"] == (boxes.sum(axis=0) > 0).sum()


def test_ties_are_called_different_in_about_one_run_of_twenty(rng):
    wrong = 0
    for seed in range(300):
        parts = rng.standard_t(3, (6, 15)) * rng.gamma(1, 1, 15)
        p, *_ = swap_test(parts, list(itertools.combinations(range(6), 2)), swaps=400, seed=seed)
        wrong += p.min() < differences.LEVEL
    assert stats.binomtest(wrong, 300, differences.LEVEL).pvalue > 0.001
