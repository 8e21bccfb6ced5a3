"""Rows of detectors that fuse inside themselves: in Table II, its notes and its verdict, on the page, and refused."""

import pytest
from example_run import significance_of
from test_page import viewer_data
from test_verdict import scores_of

from pipeline.artefacts import read_csv
from pipeline.stage import InputError
from reports import page, tables
from reports.inside import group_starts, inside_sentences
from reports.verdict import verdict

ROWS = ["visible", "infrared", "average", "fnet", "stacked", "twostream", "late"]
ALL = [("visible", "fnet"), ("infrared", "fnet"), *((way, "fnet") for way in ROWS[4:])]


@pytest.fixture
def run(example):
    run = example()
    run.add_inside()
    run.add_late()
    return run


def test_rows_stand_in_groups_marked_with_what_each_takes(run):
    tables.main([*run.tables_arguments(), *run.write_cost()])
    table, facts = read_csv(run.tables / "table2.csv")
    assert table["variant"].tolist() == ROWS and group_starts(ROWS) == [2, 4, 6]
    groups = ["single band"] * 2 + ["fused images"] * 2 + ["inside the detector"] * 2 + ["after the detector"]
    assert table["group"].tolist() == groups
    assert table["remark"].fillna("").tolist() == [""] * 4 + ["not in the paper"] * 3
    assert table["parameters"].tolist() == [2e6] * 5 + [3e6, 4e6]
    assert table["multiply_adds"].tolist() == [4e8] * 4 + [5e8, 6e8, 8e8]
    text = (run.tables / "table2.md").read_text()
    assert "inside the detector (stacked, twostream), after the detector (late)." in text
    assert "of 192x160 pixels: visible, infrared, average, fnet: 2.00 M parameters, 0.40 G multiply-adds; st" in text
    assert "twostream: the detector has one backbone per band" in text and "| twostream (not in the paper)" in text
    assert (run.tables / "table2.tex").read_text().count(r"\addlinespace") == 3
    assert "stacked" in facts["stacked"]


def test_the_page_shows_them_on_the_visible_images(run):
    significance = run.write_significance(ALL)
    tables.main([*run.tables_arguments(), *significance])
    page.main([*run.page_arguments(), *significance])
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "stacked, twostream, late have no images of their own: the boxes are drawn on the visible images" in text
    assert viewer_data(text)["variants"] == ROWS
    assert "also compared with stacked, twostream, late. Significantly higher mAP than all of these: 1 of 2 (fn" in text
    assert ">vs. fusion in/after detector: ahead<" in text
    assert "Below each verdict vs. both bands: the verdict vs. fusion in or after the detector." in text
    assert "mAP of detectors that take both bands as input: 0.575 (sta" in text


def test_the_verdict_against_fusing_in_the_detector_stands_beside_that_against_the_bands(run):
    tables.main([*run.tables_arguments(), *run.write_significance(ALL)])
    table, facts = read_csv(run.tables / "table2.csv")
    assert table["against_inside"].fillna("").tolist() == ["", "", "not shown", "ahead", "", "", ""]
    assert table["against_bands"].fillna("").tolist()[2:4] == ["not shown", "ahead"]
    assert facts["ways"] == "stacked, twostream, late" and "against_inside_methods" not in table
    assert (
        "the same comparison, with these rows instead of the bands: stacked, twostream, late. These comparisons hold "
        "for these trained detectors." in (run.tables / "table2.md").read_text()
    )


def test_a_way_that_was_not_run_is_named_and_without_any_nothing_is_said():
    averages = dict.fromkeys(["visible", "infrared", "fnet", "late"], 0.5)
    found = inside_sentences(averages, significance_of(list(averages)), ["fnet"], "trained")
    assert found == [
        "The fused variants were also compared with late (not run: stacked, twostream). Significantly higher mAP: 0 "
        "of 1; significantly lower mAP: 0."
    ]
    assert inside_sentences(averages, significance_of(["visible", "infrared", "fnet"]), ["fnet"], "trained") == []
    assert inside_sentences(averages, significance_of(list(averages), untested="few"), ["fnet"], "trained") == []


def test_the_answer_against_the_bands_is_the_same_with_and_without_them():
    averages = dict(zip(ROWS, (0.5, 0.4, 0.51, 0.53, 0.6, 0.7, 0.5), strict=True))
    bands = ALL[:2]
    with_them = verdict(scores_of(**averages), "msrs", significance_of(ROWS, bands, (0.01, 0.05)))
    fewer = {name: averages[name] for name in ROWS[:4]}
    without = verdict(scores_of(**fewer), "msrs", significance_of(ROWS[:4], bands, (0.01, 0.05)))
    assert with_them[0] == without[0] and with_them[1].startswith(without[1])
    assert "mAP of detectors that take both bands as input: 0.600 (stacked), 0.700 (twostream)." in with_them[1]
    assert "Verdict of these detectors vs. both bands: stacked not shown, twostream not shown." in with_them[1]


def test_the_cost_of_another_detector_is_refused_and_without_it_none_is_known(run):
    with pytest.raises(
        InputError, match=r"the trainings and .*cost.json disagree: model is 'yolov5n', expected 'yolov5s"
    ):
        tables.main([*run.tables_arguments(), *run.write_cost("yolov5s")])
    tables.main(run.tables_arguments())
    assert read_csv(run.tables / "table2.csv")[0][["parameters", "multiply_adds"]].isna().all(axis=None)
    assert "Detector size" not in (run.tables / "table2.md").read_text()


@pytest.mark.parametrize(("part", "key", "band"), [
    ("ap", "images", "visible"), ("ap", "infrared_images", "infrared"), ("training", "infrared_images", "infrared"),
])  # fmt: skip
def test_other_bands_than_those_of_the_single_rows_are_refused(run, part, key, band):
    file = run.ap("twostream") if part == "ap" else run.training("twostream")
    keys = ("provenance", "data", key) if part == "ap" else ("data", key)
    run.change(file, *keys, value="other")
    with pytest.raises(InputError, match=rf"twostream/.* and .*{band}/.* disagree: data.{key} is 'other', expected"):
        tables.main(run.tables_arguments())


def test_a_band_with_a_range_of_counts_stands_beside_one_without(run):
    for variant in ("infrared", "stacked", "twostream"):
        run.change(run.ap(variant), "provenance", "data", "infrared_range", value=[7000, 9000])
        run.change(run.training(variant), "data", "infrared_range", value=[7000, 9000])
    tables.main(run.tables_arguments())
