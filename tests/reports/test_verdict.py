"""The verdict: who leads, by unrounded values, and what is said of it."""

import numpy as np
import pandas as pd
from example_run import significance_of
from matplotlib.axes import Axes

from reports.charts import average_intervals
from reports.tables import add_significance
from reports.verdict import Leaders, changes, comparison, leaders, tied_with_best, verdict


def scores_of(low_high: bool = False, **averages: float) -> pd.DataFrame:
    frame = pd.DataFrame({"variant": list(averages), "Average": list(averages.values())})
    frame["Average_low"] = frame["Average"] - 0.01 if low_high else float("nan")
    frame["Average_high"] = frame["Average"] + 0.01 if low_high else float("nan")
    return frame.assign(seeds=2 if low_high else 1)


def test_without_tests_the_best_fused_stands_beside_the_better_band():
    answer, trust = verdict(scores_of(visible=0.5, infrared=0.4, average=0.45, fnet=0.523), "msrs")
    assert answer.startswith(
        "On msrs, the fused images scored higher; no significance test was made, so this may be chance: "
    )
    assert "fnet" in answer
    assert "visible, has 0.500 (difference +0.023)" in answer
    assert "1 of 2 fused variants scored above visible" in trust


def test_without_tests_the_verdict_says_when_fusion_scored_no_higher():
    assert verdict(scores_of(visible=0.5, infrared=0.6, fnet=0.55), "msrs")[0].startswith(
        "On msrs, the fused images scored lower"
    )
    assert verdict(scores_of(visible=0.5, infrared=0.4, fnet=0.5001), "x")[0].startswith("On x, the fused images gave")


AVERAGES = {"visible": 0.5, "infrared": 0.49, "average": 0.51, "fnet": 0.53}
BOTH = [("visible", "fnet"), ("infrared", "fnet")]


def test_a_variant_ahead_of_both_bands_is_the_answer():
    significance = significance_of(list(AVERAGES), BOTH, (0.01, 0.05))
    answer, trust = verdict(scores_of(**AVERAGES), "msrs", significance)
    assert answer.startswith(
        "On msrs, fusing the images improves detection: fnet has a significantly higher mAP than both single bands, "
        "for these trained detectors (variance between trainings not included). The best"
    )
    assert "Fused variants with a significantly higher mAP than both single bands: 1 of 2; with a " in trust
    assert "significantly lower mAP than at least one single band: 0 (one-sided tests, corrected" in trust
    assert "difference in mAP: fnet vs. visible [+0.010, +0.050], fnet vs. infrared [+0.010, +0.050] (not" in trust
    assert "These conclusions hold for these trained detectors, not for the methods in general (seeds: 1)." in trust


def test_from_three_seeds_on_the_answer_is_about_methods():
    significance = significance_of(list(AVERAGES), BOTH, (0.01, 0.05), seeds=3)
    answer, trust = verdict(scores_of(**AVERAGES), "msrs", significance)
    assert "than both single bands, for the methods (variance between trainings included)." in answer
    assert "trained detectors" not in trust
    assert "fnet vs. visible [+0.010, +0.050], fnet vs." in trust
    significance["comparisons"][2] |= {"methods_low": None, "methods_high": None}
    assert (significance["comparisons"][2]["first"], significance["comparisons"][2]["second"]) == BOTH[0]
    assert "vs. visible" not in verdict(scores_of(**AVERAGES), "msrs", significance)[1]


def test_ahead_of_one_band_only_cannot_be_told_and_the_reason_stands_there():
    answer, trust = verdict(scores_of(**AVERAGES), "msrs", significance_of(list(AVERAGES), BOTH[:1]))
    assert answer.startswith(
        "On msrs, the result is inconclusive: no fused variant has a significantly higher mAP than both single bands,"
    )
    assert (
        "fnet is neither significantly better than both single bands nor significantly worse than at least one single "
        "band (corrected one-sided p values: 0.400 for better, 1.000 for worse; significance level 0.025)."
    ) in trust


def test_all_behind_a_band_is_the_answer():
    significance = significance_of(list(AVERAGES))
    for entry in significance["against_bands"].values():
        entry["trained"] = entry["trained"] | {"verdict": "behind", "reason": ""}
    answer, _ = verdict(scores_of(**AVERAGES), "msrs", significance)
    assert answer.startswith(
        "On msrs, fusing the images does not improve detection: every fused variant has a significantly lower mAP than "
        "at least one single band, for these trained detectors (variance between trainings not included)."
    )


def test_too_few_scenes_are_said_everywhere():
    significance = significance_of(list(AVERAGES), untested="3 scenes hold boxes; a difference needs 12")
    answer, trust = verdict(scores_of(**AVERAGES), "msrs", significance)
    assert "the result is inconclusive" in answer
    assert trust.startswith("Nothing was tested: 3 scenes hold boxes; a difference needs 12.")
    table = add_significance(scores_of(**AVERAGES), [], significance)
    assert table["against_bands"].tolist() == ["", "", "not tested", "not tested"]
    assert table["against_best"].tolist() == ["not tested"] * 3 + ["best"]
    assert tied_with_best(table, significance) == set()


def test_verdict_table_and_chart_speak_of_the_same_band_where_both_print_alike(monkeypatch):
    averages = {"visible": 0.6001, "infrared": 0.6004, "fnet": 0.6203}
    significance = significance_of(list(averages), [("visible", "fnet")], (-0.01, 0.05))
    table = scores_of(**averages)
    assert leaders(table) == Leaders("fnet", "infrared", "fnet")
    answer, _ = verdict(table, "msrs", significance)
    assert "infrared, has 0.600 (difference +0.020)" in answer
    compared = add_significance(table, [], significance).set_index("variant")
    assert compared["against_bands"].to_dict() == {"visible": "", "infrared": "", "fnet": "not shown"}
    assert compared["against_best"].to_dict() == {"visible": "worse", "infrared": "tie", "fnet": "best"}
    assert "against_bands_methods" not in compared
    assert tied_with_best(table, significance) == {"infrared"}
    lines = []
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **style: lines.append(x))
    average_intervals(table, table.assign(AP=table["Average"], **{"class": "Average"}), {})
    assert lines == [0.6004]


def test_columns_of_both_statements_stand_in_the_table_from_three_seeds_on():
    significance = significance_of(list(AVERAGES), BOTH, seeds=3)
    significance["against_bands"]["fnet"]["methods"] = {"verdict": "not shown", "reason": "p"}
    table = add_significance(scores_of(**AVERAGES), [], significance)
    assert table["against_bands"].tolist() == ["", "", "not shown", "ahead"]
    assert table["against_bands_methods"].tolist() == ["", "", "not shown", "not shown"]


def test_a_difference_asked_for_the_other_way_round_is_turned():
    significance = significance_of(["visible", "fnet"], bounds=(0.01, 0.05), classes=["Car"], seeds=3)
    turned = comparison(significance, "fnet", "visible")
    assert (turned["low"], turned["high"], turned["methods_low"]) == (0.01, 0.05, 0.01)
    assert turned["classes"]["Car"]["high"] == 0.05
    assert comparison(significance, "visible", "fnet")["low"] == -0.05


def test_verdict_on_undefined_scores_says_so():
    assert verdict(scores_of(visible=0.5, fnet=float("nan")), "msrs")[0].startswith(
        "This run does not answer the question: it contains no"
    )


def test_verdict_on_detectors_that_learned_nothing_says_so():
    answer = verdict(scores_of(visible=0.01, infrared=0.0, fnet=0.02), "msrs")[0]
    assert answer == (
        "This run does not answer the question: no detector was trained to a usable accuracy (best mAP: 0.020)."
    )


def test_changes_are_the_best_fused_less_the_better_band_with_intervals():
    table = pd.DataFrame(
        {"variant": ["visible", "infrared", "fnet", "late"], "Car": [0.5, 0.1, 0.6, 0.9], "Bus": [0.5, 0.9, 0.4, 0.9]}
    ).assign(Lamp=np.nan, Average=[0.5, 0.45, 0.55, 0.9])
    lead = leaders(table)
    assert lead == Leaders("late", "visible", "fnet")  # pooled boxes are no fused image
    significance = significance_of(list(table["variant"]), bounds=(-0.2, 0.3), classes=["Bus", "Car", "Lamp"])
    words = "-0.200 to +0.300"
    columns = ["Bus", "Car", "Lamp"]
    assert changes(table, columns, lead, significance) == [("Car", 0.1, words), ("Bus", -0.1, words)]
    pair = next(c for c in significance["comparisons"] if (c["first"], c["second"]) == ("visible", "fnet"))
    pair["classes"] = pair["classes"] | {"Car": {"difference": 0.1, "low": None, "high": None, "remark": ""}}
    pair["classes"]["Bus"] = {"difference": 0.1, "low": -0.3, "high": 0.2, "remark": "fewer than 10 boxes"}
    assert changes(table, columns, lead, significance) == [("Bus", -0.1, "-0.200 to +0.300, fewer than 10 boxes")]
    assert changes(table, columns, lead, None) == []


def test_pooled_boxes_are_told_and_not_taken_for_a_fused_image():
    answer, trust = verdict(scores_of(visible=0.5, infrared=0.4, fnet=0.52, late=0.6), "msrs")
    assert "the best fused variant, fnet" in answer
    assert "Late fusion, which merges the detections of" in trust and "average precision of 0.600." in trust
