"""The verdict: who leads, by unrounded values, and what is said of it."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from reports.charts import average_intervals
from reports.tables import add_significance
from reports.verdict import Leaders, against, changes, leaders, tied_with_best, verdict


def scores_of(low_high: bool = False, **averages: float) -> pd.DataFrame:
    frame = pd.DataFrame({"variant": list(averages), "Average": list(averages.values())})
    frame["Average_low"] = frame["Average"] - 0.01 if low_high else float("nan")
    frame["Average_high"] = frame["Average"] + 0.01 if low_high else float("nan")
    return frame.assign(seeds=2 if low_high else 1)


def test_verdict_compares_the_best_fused_with_the_better_band():
    answer, trust = verdict(scores_of(visible=0.5, infrared=0.4, average=0.45, fnet=0.523), "msrs")
    assert answer.startswith("Fusion scored higher on msrs")
    assert "fnet" in answer
    assert "visible, 0.500 (+0.023)" in answer
    assert "1 of 2 fused variants scored above visible" in trust
    assert "One seed: not known to be more than noise." in trust


def test_verdict_says_when_fusion_did_not_help():
    assert verdict(scores_of(visible=0.5, infrared=0.6, fnet=0.55), "msrs")[0].startswith("Fusion scored lower")
    assert verdict(scores_of(visible=0.5, infrared=0.4, fnet=0.5001), "x")[0].startswith("Fusion made no difference")


def test_verdict_says_whether_seeds_overlap():
    assert "overlap;" in verdict(scores_of(True, visible=0.50, fnet=0.51), "msrs")[1]
    assert "do not overlap" in verdict(scores_of(True, visible=0.50, fnet=0.53), "msrs")[1]


def significance_of(low: float, high: float, different: bool) -> dict:
    """What detection.significance writes, of two variants; the pair the other way round than the verdict asks."""
    entry = {"first": "visible", "second": "fnet", "difference": -(low + high) / 2, "low": -high, "high": -low}
    bounds = {"AP": 0.5, "low": 0.45, "high": 0.55}
    return {
        **{"method": "percentile bootstrap over test images", "samples": 1000, "correction": "Holm over 1 comparisons"},
        "variants": {name: {"Average": bounds} for name in ("visible", "fnet")},
        "comparisons": [entry | {"p": 0.01, "p_holm": 0.03, "different": different}],
    }


@pytest.mark.parametrize("different", [True, False])
def test_verdict_states_the_interval_of_the_difference(different):
    table = scores_of(visible=0.5, fnet=0.53)
    significance = significance_of(0.01, 0.05, different)
    answer, trust = verdict(table, "msrs", significance)
    assert ("can be told from chance" in trust) == different
    assert "its 95 % interval by itself is +0.010 to +0.050, p 0.03 after correction" in trust
    assert ("which chance can explain" in answer) != different
    assert tied_with_best(table, significance) == (set() if different else {"visible"})


def test_verdict_table_and_chart_compare_with_the_same_band_where_both_print_alike(monkeypatch):
    averages = {"visible": 0.6001, "infrared": 0.6004, "fnet": 0.6203}
    bounds = {"difference": 0.02, "low": -0.01, "high": 0.05, "p": 0.1, "p_holm": 0.2}
    pairs = combinations(averages, 2)
    significance = {
        **{"method": "percentile bootstrap over test images", "samples": 1000, "correction": "Holm over 3 comparisons"},
        "variants": {name: {"Average": {"AP": ap, "low": 0.5, "high": 0.7}} for name, ap in averages.items()},
        "comparisons": [
            {"first": a, "second": b, "different": (a, b) == ("visible", "fnet"), **bounds} for a, b in pairs
        ],
    }
    table = scores_of(**averages)
    assert leaders(table) == Leaders("fnet", "infrared", "fnet")
    answer, trust = verdict(table, "msrs", significance)
    assert "infrared, 0.600 (+0.020, which chance can explain)" in answer
    assert "The difference between fnet and infrared cannot be told from chance" in trust
    assert against(table, significance, "infrared")["fnet"] == "no difference shown"
    compared = add_significance(table, [], significance).set_index("variant")
    assert compared["against_band"].to_dict() == {
        "visible": "no difference shown", "infrared": "", "fnet": "no difference shown",
    }  # fmt: skip
    assert compared["against_best"].to_dict() == {"visible": "worse", "infrared": "tie", "fnet": "best"}
    assert tied_with_best(table, significance) == {"infrared"}
    lines = []
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **style: lines.append(x))
    average_intervals(table, table.assign(AP=table["Average"], **{"class": "Average"}), {})
    assert lines == [0.6004]


def test_verdict_on_undefined_scores_says_so():
    assert verdict(scores_of(visible=0.5, fnet=float("nan")), "msrs")[0].startswith("This run cannot say")


def test_verdict_on_detectors_that_learned_nothing_says_so():
    answer = verdict(scores_of(visible=0.01, infrared=0.0, fnet=0.02), "msrs")[0]
    assert answer == "This run cannot say: no detector has learned, the best reached 0.020."


def test_changes_are_the_best_fused_less_the_better_band():
    table = pd.DataFrame(
        {"variant": ["visible", "infrared", "fnet", "late"], "Car": [0.5, 0.1, 0.6, 0.9], "Bus": [0.5, 0.9, 0.4, 0.9]}
    ).assign(Lamp=np.nan, Average=[0.5, 0.45, 0.55, 0.9])
    lead = leaders(table)
    assert lead == Leaders("late", "visible", "fnet")  # pooled boxes are no fused image
    assert changes(table, ["Bus", "Car", "Lamp"], lead) == [("Car", 0.1), ("Bus", -0.1)]


def test_pooled_boxes_are_told_and_not_taken_for_a_fused_image():
    answer, trust = verdict(scores_of(visible=0.5, infrared=0.4, fnet=0.52, late=0.6), "msrs")
    assert "the best fused variant, fnet" in answer
    assert "without fusing any image, reached 0.600" in trust
