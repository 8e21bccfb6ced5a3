"""Rows of external detections, in Table II, in the verdict and on the page."""

import numpy as np
import pandas as pd
import pytest
from example_run import significance_of

from pipeline.artefacts import read_csv, read_json, write_json
from pipeline.stage import InputError
from reports import page, tables
from reports.collect import brought_rows, read_table
from reports.page_charts import precision_charts
from reports.verdict import against_best, leaders, not_measured, verdict


def add_mine(run, number=0, **provenance):
    """Add a file of external detections; return the arguments of reports.tables."""
    source = read_json(run.ap("visible"))
    folder = run.folder / f"detection/mine/run{number}"
    stated = {"data": source["provenance"]["data"], "results": "abc", **provenance}
    facts = {"file": "mine.json", "sha256": "0123456789abcdef", "images_without_detection": 2, "left_out": 0}
    own = {"variant": "mine", "seed": number, "detector": "brought", "brought": facts, "provenance": stated}
    write_json(folder / "ap.json", source | own)
    write_json(folder / "predictions.json", read_json(run.ap("visible").with_name("predictions.json")))
    words = run.tables_arguments()
    words.insert(words.index("--ap") + 1, str(folder / "ap.json"))
    words.insert(words.index("--variants") + 1 + len(run.variants), "mine")
    return words


def test_an_external_row_is_marked_named_by_its_file_and_compared_only_by_its_split(example):
    run = example(seeds=(0, 1))
    tables.main(add_mine(run))
    frame, facts = read_csv(run.tables / "table2.csv")
    assert frame["variant"].tolist() == [*run.variants, "mine"] and frame["seeds"].tolist() == [2, 2, 2, 2, 1]
    assert brought_rows(frame) == ["mine"] and facts["seeds"] == "0 1"
    text = (run.tables / "table2.md").read_text()
    assert "mine (external, recipe unknown)" in text and "external detections, mine.json (sha256" in text
    assert "no detection in 2 images" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"labels": "other"}}, "data.labels is 'other'"),
        ({"max_detections": 300}, "max_detections is 300, expected None"),
    ],
)
def test_an_external_row_of_other_boxes_or_scored_differently_is_refused(example, change, message):
    with pytest.raises(InputError, match=message):
        tables.main(add_mine(example(), **change))


def test_an_external_row_is_not_a_fused_variant_whatever_it_scores():
    averages = {"visible": 0.5, "infrared": 0.4, "fnet": 0.55, "mine": 0.9}
    table = pd.DataFrame({"variant": list(averages), "Average": list(averages.values())})
    table = table.assign(brought=[False, False, False, True], seeds=[3, 3, 3, 1])
    assert leaders(table).fused == "fnet" and leaders(table).best == "mine"
    assert "the best fused variant, fnet" in verdict(table, "msrs")[0]
    facts = {"boxes": {}, "dataset": "msrs"}
    said = not_measured(
        table,
        facts,
        dict.fromkeys(("significance", "conditions", "helps", "errors", "costs", "robustness", "test_sets"), True),
    )
    assert not any("trained once" in line for line in said)
    # No statement about methods is possible with it, only one about these detectors.
    significance = significance_of(list(averages), [("fnet", "mine")], seeds=3)
    for entry in significance["comparisons"]:
        if "mine" in (entry["first"], entry["second"]):
            entry["methods_differ"] = False
    assert against_best(table, significance) == {"visible": "tie", "infrared": "tie", "fnet": "worse", "mine": "best"}


def test_each_row_is_drawn_by_its_own_first_seed():
    rows = [("fnet", 3, 0.5), ("fnet", 4, 0.9), ("mine", 0, 0.25)]
    curves = pd.concat(
        pd.DataFrame(
            {"variant": name, "seed": seed, "class": "Car", "recall": np.linspace(0, 1, 101), "precision": level}
        )
        for name, seed, level in rows
    )
    assert len(precision_charts(curves, ["Car"], ["fnet", "mine"])) == 1


def test_the_page_shows_an_external_row_on_the_visible_images(example):
    run = example()
    tables.main(add_mine(run))
    words = run.page_arguments()
    words.insert(words.index("--ap") + 1, str(run.folder / "detection/mine/run0/ap.json"))
    words.insert(words.index("--predictions") + 1, f"mine={run.folder}/detection/mine/run0/predictions.json")
    page.main(words)
    html = (run.folder / "report.html").read_text()
    assert "mine has no images of its own: the boxes are drawn on the visible images" in html
    assert "Triangles pointing up: external results." in html
    assert read_table(run.tables / "table2.csv")[1]["brought"]["mine"].startswith("mine.json")
