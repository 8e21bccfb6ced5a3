"""Table II by label set: its numbers, ranks and verdicts, and the sentence on the label set."""

import re

import pytest

from detection.truths import label_dependence
from pipeline.artefacts import read_csv, read_json
from pipeline.stage import InputError
from reports import page, tables
from reports.truths import dependence_sentence


def write(run, *options):
    tables.main([*run.tables_arguments(), *options])
    return read_csv(run.tables / "table2_truth.csv")[0].set_index("variant")


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_chosen_sets_column_is_table_two_and_each_set_has_rank_and_verdict(example, seeds):
    run = example(seeds=seeds)
    table = write(run, *run.write_truths())
    main = read_csv(run.tables / "table2.csv")[0].set_index("variant")
    assert table["AP_fused"].tolist() == pytest.approx(main["Average"].tolist(), abs=1e-12)
    assert table["rank_fused"].tolist() == [4, 3, 2, 1] and table["rank_visible"].tolist() == [1, 2, 3, 4]
    assert table["verdict_union"].fillna("").tolist() == ["", "", "not shown", "behind"]
    assert list(table.columns) == [f"{k}_{s}" for k in ("AP", "rank", "verdict") for s in ("fused", "visible", "union")]


def test_equal_averages_share_a_rank(example):
    run = example()
    for variant in ("visible", "infrared"):
        run.write_ap(variant, 0, Bus=None, Car=0.9)
    run.change(run.ap("infrared"), "average", value=read_json(run.ap("visible"))["average"])
    assert write(run, *run.write_truths(flip=False))["rank_fused"].tolist() == [1, 1, 4, 3]


def test_the_texts_mark_the_chosen_set_and_say_what_depends_on_it(example):
    run = example()
    write(run, *run.write_truths())
    sentence = (
        "The verdict depends on which label set is the ground truth ('fused', 'visible', 'union'): fnet is neither "
        "significantly better nor significantly worse with 'fused', significantly worse than at least one band with "
        "'visible' and 'union'. The row with the highest mAP is fnet with 'fused', visible with 'visible' and 'union'."
    )
    for ending in ("md", "tex"):
        text = (run.tables / f"table2_truth.{ending}").read_text()
        assert sentence in text and "fused (Table II)" in text.replace(r" \\ ", " ")
        assert "The label set 'visible' has no test box of Bus: its averages are over the other classes." in text
        assert "'fused' and 'visible' -1.00" in text and "4 in 'fused' but not in 'visible'" in text
    assert "Boxes of the test set, label set 'fused': " in (run.tables / "table2.md").read_text()


def test_sets_that_agree_are_said_to(example):
    run = example()
    write(run, *run.write_truths(flip=False))
    text = (run.tables / "table2_truth.md").read_text()
    assert (
        "The verdict does not depend on which label set is the ground truth ('fused', 'visible', 'union'): no "
        "variant's verdict changes. fnet has the highest mAP with every label "
        "set."
    ) in text
    assert "'fused' and 'visible' n/a" in text


def test_a_set_without_a_test_does_not_count():
    def told(changing, **untested):
        against = {"fnet": {"trained": {"verdict": "behind"}}}
        sets = {name: {"order": ["a"], "untested": why, "against_bands": against} for name, why in untested.items()}
        for name in changing:
            sets[name]["against_bands"] = {"fnet": {"trained": {"verdict": "ahead"}}}
        return dependence_sentence({"sets": sets, **label_dependence(sets, "trained")})

    start = "on which label set is the ground truth ('fused', 'visible', 'union')"
    assert told([], fused="", visible="few", union="few") == (
        f"It is not known whether the verdict depends {start}; nothing was tested with 'visible' and 'union'. "
        "a has the highest mAP with every label set."
    )
    assert told(["visible"], fused="", visible="few", union="") == (
        f"The verdict does not depend {start}: no variant's verdict changes; "
        "nothing was tested with 'visible'. a has the highest mAP with every label set."
    )
    assert told(["union"], fused="", visible="few", union="") == (
        f"The verdict depends {start}: fnet is significantly worse than at least one band with 'fused', significantly "
        "better than both bands with 'union'; nothing was tested with 'visible'. a has the highest mAP with every "
        "label set."
    )


def test_one_label_set_makes_no_table_and_is_not_named(example):
    run = example()
    tables.main([*run.tables_arguments(), *run.write_truths(["labels"])])
    assert not list(run.tables.glob("table2_truth.*"))
    assert "Boxes of the test set: " in (run.tables / "table2.md").read_text()


def test_the_page_shows_the_table_and_the_sentence_and_without_it_neither(example):
    run = example()
    write(run, *run.write_truths())
    file = run.folder / "report.html"
    page.main([*run.page_arguments(), "--truth-table", str(run.tables / "table2_truth.csv")])
    text = file.read_text(encoding="utf-8")
    section = re.search(r'<section id="truths">.*?</section>', text, re.DOTALL)[0]
    assert (
        "mAP, label set fused (Table II)" in section
        and "rank 4, behind" in section
        and "The verdict depends on" in section
    )
    assert "The verdict depends on" in re.search(r'<p class="trust">(.*?)</p>', text, re.DOTALL)[1]
    page.main(run.page_arguments())
    assert "Label sets: Table II" not in file.read_text(encoding="utf-8")


def test_the_page_of_bands_alone_has_no_verdict_to_show(example):
    run = example(variants=("visible", "infrared", "fnet"))
    given = run.write_truths(flip=False)
    for name in ("fused", "visible", "union"):
        run.change(run.folder / "truths.json", "sets", name, "against_bands", value={})
    write(run, *given)
    page.main([*run.page_arguments(), "--truth-table", str(run.tables / "table2_truth.csv")])
    assert "rank 1<" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_truths_of_other_labels_predictions_or_scores_are_refused(example):
    run = example()
    given = run.write_truths()
    for keys, value, message in [
        (("truth",), "visible", "disagree: truth is 'visible', expected 'fused'"),
        (("provenance", "labels", "fused"), "other", "labels is 'other'"),
        (("provenance", "predictions", "fnet", "0"), "other", "run detection.truths again"),
        (("sets", "fused", "seeds", "fnet", "0", "Average"), 0.1, "'fnet' with seed 0 has the average 0.100000"),
    ]:
        run.change(run.folder / "truths.json", *keys, value=value)
        with pytest.raises(InputError, match=message):
            tables.main([*run.tables_arguments(), *given])
        given = run.write_truths()
    assert not run.tables.exists()
    write(run, *given)
    text = (run.tables / "table2_truth.csv").read_text()
    (run.tables / "table2_truth.csv").write_text(text.replace("\nfnet,0.", "\nfnet,0.9"))
    with pytest.raises(InputError, match="AP_fused differs from Average; make the tables again"):
        page.main([*run.page_arguments(), "--truth-table", str(run.tables / "table2_truth.csv")])
