"""Intervals of means and paired tests: against scipy, by exhaustive count, and where nothing can be said."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fusion.metrics.statistics import bootstrap_mean, effective_number, holm, interval, paired_test


def test_interval_is_that_of_scipy(rng):
    values = rng.gamma(2, 1, 60)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000).confidence_interval
    assert bootstrap_mean(values, seed=1) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_interval_covers_the_true_mean_as_often_as_it_says(rng):
    inside = 0
    for seed in range(1000):
        low, high = bootstrap_mean(rng.normal(3, 1, 50), seed=seed, confidence=0.8, samples=300)
        inside += low <= 3 <= high
    assert 0.74 < inside / 1000 < 0.82


def test_interval_of_equal_values_is_that_value():
    assert bootstrap_mean(np.full(10, 0.25)) == (0.25, 0.25)


def test_the_same_seed_gives_the_same_interval(rng):
    values = rng.normal(size=30)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5) != bootstrap_mean(values, seed=6)


def test_undefined_values_are_left_out(rng):
    values = rng.normal(size=30)
    holed = np.concatenate([values, [np.nan]])
    assert bootstrap_mean(holed) == bootstrap_mean(values)
    other = rng.normal(size=30)
    assert paired_test(holed, np.append(other, 0.0)) == paired_test(values, other)


def test_fewer_than_two_values_say_nothing():
    assert all(math.isnan(bound) for bound in bootstrap_mean(np.array([1.0, np.nan])))
    assert all(math.isnan(bound) for bound in bootstrap_mean(np.array([])))
    assert math.isnan(paired_test(np.array([1.0]), np.array([2.0])))


def test_p_value_is_the_exhaustive_count_of_signs(rng):
    first, second = rng.normal(0.4, 1, 10), rng.normal(0, 1, 10)
    differences = first - second
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=10)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert paired_test(first, second, samples=40_000) == pytest.approx(exact, abs=0.01)


def test_equal_methods_do_not_differ():
    values = np.arange(20.0)
    assert paired_test(values, values) == 1


def test_a_steady_difference_is_found_however_much_images_differ(rng):
    values = rng.normal(0, 100, 40)
    assert paired_test(values + 0.1, values) == pytest.approx(1 / 10_001)


def test_order_of_the_methods_does_not_matter(rng):
    first, second = rng.normal(size=(2, 25))
    assert paired_test(first, second) == paired_test(second, first)


def test_mean_over_whole_scenes_is_that_of_images_that_literally_stand_twice(rng):
    values = rng.normal(size=25)
    spread = np.subtract(*bootstrap_mean(values, scene=np.arange(25)))
    assert np.subtract(*bootstrap_mean(np.repeat(values, 4), scene=np.repeat(np.arange(25), 4))) == pytest.approx(
        spread
    )
    assert np.subtract(*bootstrap_mean(np.repeat(values, 4))) == pytest.approx(spread / 2, rel=0.15)


def test_interval_of_scenes_covers_the_true_mean_as_often_as_it_says(rng):
    inside, scene = 0, np.repeat(np.arange(15), 4)
    for seed in range(600):
        values = rng.normal(0, 1, 15)[scene] + rng.normal(0, 0.3, 60)
        low, high = bootstrap_mean(values, seed=seed, samples=300, scene=scene)
        inside += low <= 0 <= high
    assert 0.92 < inside / 600 < 0.98


def test_signs_are_those_of_whole_scenes(rng):
    first, second = rng.normal(0.4, 1, 10), rng.normal(0, 1, 10)
    scene = np.repeat(np.arange(10), 3)
    assert paired_test(np.repeat(first, 3), np.repeat(second, 3), scene=scene) == paired_test(first, second)
    assert paired_test(np.repeat(first, 3), np.repeat(second, 3)) < paired_test(first, second)


def test_fewer_than_two_scenes_say_nothing(rng):
    values, scene = rng.normal(size=8), np.zeros(8, int)
    assert all(math.isnan(bound) for bound in bootstrap_mean(values, scene=scene))
    assert math.isnan(paired_test(values, values + 1, scene=scene))
    assert all(math.isnan(bound) for bound in bootstrap_mean(np.full(3, np.nan), scene=np.arange(3)))


def test_interval_is_moved_outwards_to_the_t_distribution_and_against_the_bias(rng):
    drawn = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    outer = math.sqrt(10 / 9) * stats.t.isf(0.025, 9)
    assert interval(drawn, 10) == pytest.approx((-outer, outer), rel=0.01)
    assert interval(drawn, 1e9) == pytest.approx((-1.96, 1.96), abs=0.01)
    # Draws that lie 0.2 above what was measured say that it lies 0.2 above the truth.
    assert interval(drawn, 1e9, measured=-0.2) == pytest.approx((-1.96 - 0.4, 1.96 - 0.4), abs=0.01)
    assert all(math.isnan(bound) for bound in interval(drawn, 1.2))


def test_effective_number_is_that_of_scenes_of_one_size():
    assert effective_number(np.full(7, 3)) == pytest.approx(7)
    assert effective_number(np.array([10, 0, 0])) == 1
    assert effective_number(np.zeros(3)) == 0


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.9, 0.6]) == [1.0, 1.0]
