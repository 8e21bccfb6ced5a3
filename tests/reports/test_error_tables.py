"""The kinds of errors, the confusion and the cost as tables, and on the page."""

import math

import numpy as np
import pandas as pd
import pytest

from detection.errors import KINDS
from pipeline.artefacts import read_csv, read_json, write_csv, write_json
from pipeline.stage import InputError
from reports import costs, errors, page, tables
from reports.charts import error_gains
from reports.costs import cost_cells, cost_table
from reports.errors import error_sentences, mean_confusions
from reports.verdict import Leaders


def arguments(run, *options):
    runs = [run.ap(variant, seed) for variant in run.variants for seed in run.seeds]
    return [
        *("--split", str(run.split), "--ap", *map(str, runs), "--variants", *run.variants),
        *("--output", str(run.tables), *options),
    ]


@pytest.fixture
def tabled(example):
    run = example(seeds=(0, 1))
    run.errors = run.write_errors()
    errors.main(arguments(run, *run.errors))
    return run


def test_each_row_holds_what_errors_json_says_of_its_variant(tabled):
    table, facts = read_csv(tabled.tables / "errors.csv")
    assert table["variant"].tolist() == list(tabled.variants) and facts["people"] == "People"
    row = table.set_index("variant").loc["fnet"]
    stated = read_json(tabled.folder / "errors.json")["variants"]["fnet"]
    assert {kind: row[f"gain_{kind}"] for kind in KINDS} == {kind: stated["gains"][kind] for kind in KINDS}
    assert (row["AP50"], row["miss_rate"], row["count_missed"]) == (stated["AP50"], stated["miss_rate"], 12)
    text = (tabled.tables / "errors.md").read_text(encoding="utf-8")
    assert "miss rate, People" in text and "No significance test is made for this table" in text
    assert "tab:errors" in (tabled.tables / "errors.tex").read_text(encoding="utf-8")


def test_confusion_is_that_of_every_ap_json(tabled):
    table, _ = read_csv(tabled.tables / "confusion.csv")
    assert len(table) == 4 * 2 * 7 * 7
    one = table[(table["variant"] == "fnet") & (table["seed"] == 1)]
    counts = one["count"].to_numpy().reshape(7, 7).tolist()
    assert counts == read_json(tabled.ap("fnet", 1))["confusion"]["counts"]
    classes, means = mean_confusions(table)
    assert classes[-1] == "background" and means["fnet"][0, :2].tolist() == [3.5, 0.5]


def test_without_people_no_miss_rate_is_printed(example):
    run = example()
    errors.main(arguments(run, *run.write_errors(people=None)))
    table, _ = read_csv(run.tables / "errors.csv")
    assert table["miss_rate"].isna().all()
    text = (run.tables / "errors.md").read_text(encoding="utf-8")
    assert "No log-average miss rate" in text and "n/a" not in text.split("\n- ")[0]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("provenance", "predictions", "fnet", "0"), "another", "predictions of 'fnet' with seed 0"),
        (("provenance", "labels"), "another", "disagree: labels"),
        (("provenance", "most_detections"), 300, "disagree: most_detections"),
        (("variants", "fnet", "seeds", "1", "AP50"), 0.9, "with seed 1 has the AP50 0.900000"),
    ],
)
def test_errors_of_something_else_are_refused(tabled, keys, value, message):
    tabled.change(tabled.folder / "errors.json", *keys, value=value)
    with pytest.raises(InputError, match=message):
        errors.main(arguments(tabled, *tabled.errors))


def test_the_sentence_says_what_costs_most_and_what_differs_from_the_band():
    gains = {f"gain_{kind}": [0.01, 0.01] for kind in KINDS}
    gains["gain_missed"], gains["gain_background"] = [0.2, 0.15], [0.05, 0.06]
    table = pd.DataFrame({"variant": ["visible", "fnet"], "AP50": [0.6, 0.65], **gains, "miss_rate": [0.5, 0.45]})
    words = error_sentences(table, Leaders("fnet", "visible", "fnet"), "People")
    assert "The most costly errors of fnet are missed objects: if they were corrected, its AP50 would be 0.800" in words
    assert "Compared with visible, the better band, fnet loses less AP50 through missed objects (0.150 ins" in words
    assert "and more AP50 through boxes on background (0.060 instead of 0.050)" in words
    assert "The log-average miss rate of fnet for People is 0.450; that of visible is 0.500." in words
    alone = error_sentences(table, Leaders("visible", "visible", None), "")
    assert alone.startswith("The most costly errors of visible are") and "Compared" not in alone and "rate" not in alone
    assert error_sentences(table, Leaders(None, None, None), "") == ""


def test_bars_say_their_numbers_and_grow_with_them():
    text = error_gains(pd.DataFrame({kind: [0.1, 0.25] for kind in KINDS}, index=["visible", "a$b$"]))
    assert text.count(">0.250<") == 6 and ">a$b$<" in text
    assert ">0.000<" in error_gains(pd.DataFrame({"missed": [0.0], "class": [0.0]}, index=["visible"]))


def test_page_has_the_section_with_its_charts_numbers_and_curves(tabled):
    tables.main(tabled.tables_arguments())
    curves = pd.DataFrame({"recall": np.linspace(0, 1, 101), "precision": 0.5})
    both = [
        curves.assign(variant=variant, seed=seed, **{"class": "Car"}) for variant in tabled.variants for seed in (0, 1)
    ]
    stated = read_json(tabled.folder / "errors.json")["provenance"]
    curves_file = tabled.folder / "curves.csv"
    write_csv(curves_file, pd.concat(both), stated | {"labels": "another"})
    with pytest.raises(InputError, match="disagree: labels"):
        page.main([*tabled.page_arguments(), "--curves", str(curves_file)])
    write_csv(curves_file, pd.concat(both), stated)
    page.main([*tabled.page_arguments(), *tabled.errors, "--curves", str(curves_file)])
    text = (tabled.folder / "report.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="errors">') :]
    section = section[: section.index("</section>")]
    assert "The most costly errors of fnet are missed objects" in section
    assert section.count("<svg") == 2 and "Confusion matrices of the detectors" in section
    assert "number of errors, no score threshold: 12" in section
    assert '<a href="#errors">Error types</a>' in text
    assert "Precision-recall curves per class" in text
    assert "they were not analysed" not in text


def test_page_without_errors_says_so(example):
    run = example()
    tables.main(run.tables_arguments())
    page.main(run.page_arguments())
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "they were not analysed" in text and 'id="errors"' not in text


# Cost


SPEED = {"hours": 1.5, "images_per_s": 40.0}
COST = {"method": "fnet", "parameters": 419916, "multiply_adds": 43e9, "median_s": 0.5, "peak_memory_bytes": 8e7}
COST |= {"device": "cpu", "threads": 1, "size": [320, 240]}


def test_hours_are_means_and_sums_over_the_seeds():
    trainings = [{"variant": "fnet", "seed": seed, "speed": {**SPEED, "hours": seed + 1.0}} for seed in (0, 1)]
    trainings += [{"variant": "visible", "seed": 0, "speed": SPEED}, {"variant": "visible", "seed": 1}]
    table = cost_table(["visible", "fnet", "late"], {"fnet": COST}, trainings).set_index("variant")
    assert table.loc["fnet", ["training_hours", "training_hours_all_seeds"]].tolist() == [1.5, 3.0]
    assert math.isnan(table.at["visible", "training_hours_all_seeds"])  # one seed's is not known
    assert math.isnan(table.at["late", "training_hours"]) and table.at["fnet", "multiply_adds"] == 43e9


def test_what_a_row_does_not_do_is_empty_and_what_is_not_known_is_said_to_be():
    cells = cost_cells(cost_table(["visible", "fnet", "late"], {}, [])).set_index("variant")
    assert cells.at["visible", "parameters"] == "" and cells.at["late", "training_hours"] == ""
    assert math.isnan(cells.at["fnet", "parameters"]) and math.isnan(cells.at["visible", "training_hours"])


def test_stage_writes_the_table_and_the_page_shows_it(example):
    run = example()
    for variant in run.variants:
        run.change(run.training(variant), "speed", value=SPEED)
        run.change(run.training(variant), "threads", value=2)
    write_json(run.folder / "fnet.json", COST | {"parameters_note": "419,916 of which none is unused"})
    trainings = [str(run.training(variant)) for variant in run.variants]
    options = ["--training", *trainings, "--costs", str(run.folder / "fnet.json"), "--output", str(run.tables)]
    costs.main(["--variants", *run.variants, *options])
    table, facts = read_csv(run.tables / "cost.csv")
    assert facts["fused_on"] == "320x240 on cpu, 1 thread" and facts["trained_on"] == "cpu, 2 threads"
    assert table.set_index("variant").at["fnet", "training_hours"] == 1.5
    text = (run.tables / "cost.md").read_text(encoding="utf-8")
    assert "| fnet | 420 | 43.00 | 0.5000 | 80 | 1.500 | 1.500 | 40.0 |" in text
    assert "| visible |  |  |  |  | 1.500 | 1.500 | 40.0 |" in text
    note = "Remarks on the numbers of parameters. fnet: 419,916 of which none is unused."
    assert "| average | n/a |" in text and note in text
    tables.main(run.tables_arguments())
    page.main([*run.page_arguments(), "--cost-table", str(run.tables / "cost.csv")])
    page_text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert '<section id="cost">' in page_text and "detector: hours per training" in page_text and note in page_text
    costs.main(["--variants", *run.variants[::-1], *options])
    with pytest.raises(InputError, match="has the rows fnet, average, infrared, visible; expected visible"):
        page.main([*run.page_arguments(), "--cost-table", str(run.tables / "cost.csv")])
    with pytest.raises(InputError, match="found variant 'average'; expected one of --variants"):
        costs.main(["--variants", "fnet", *options])


def test_table2_prints_ap_at_one_overlap(example):
    run = example(seeds=(0, 1))
    for seed, value in ((0, 0.8), (1, 0.7)):
        run.change(run.ap("fnet", seed), "average", "AP75", value=value)
    tables.main(run.tables_arguments())
    table, _ = read_csv(run.tables / "table2.csv")
    row = table.set_index("variant").loc["fnet"]
    assert row["AP75"] == pytest.approx(0.75)
    assert row["AP50"] == pytest.approx(np.mean([read_json(run.ap("fnet", s))["average"]["AP50"] for s in (0, 1)]))
    for ending in ("md", "tex"):
        text = (run.tables / f"table2.{ending}").read_text(encoding="utf-8")
        assert "AP50" in text and "AP75" in text and "0.750" in text
