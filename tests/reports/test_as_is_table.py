"""The table of detectors that were not retrained: unknown classes, and files that must not be combined."""

import numpy as np
import pytest
from example_run import CLASSES, significance_of

from pipeline.artefacts import read_csv, read_json, write_json
from pipeline.stage import InputError
from reports import as_is, page, tables

VARIANTS = ("visible", "infrared", "fnet")


def write_scores(run, detector, unknown=(), **provenance):
    """Write ap.json of a detector on every variant, and its significance; return the stage's words for them."""
    known = [name for name in CLASSES if name not in unknown]
    words = []
    for variant in VARIANTS:
        content = read_json(run.ap(variant))
        classes = {name: {**content["classes"][name], **({"AP": None} if name in unknown else {})} for name in CLASSES}
        average = float(np.mean([classes[name]["AP"] for name in known]))
        stated = {name.lower(): name for name in known}
        content |= {
            **{"detector": f"{detector}.onnx as it is", "classes": classes, "average": {"AP": average}},
            "as_is": {"file": f"{detector}.onnx", "classes": stated, "dropped": ["dog"], "unknown": list(unknown)},
        }
        content["provenance"] |= {"predictions": f"p {variant}", "weights": detector, **provenance}
        file = run.folder / f"as_is/{detector}/{variant}/ap.json"
        write_json(file, content)
        words.append(f"{detector}/{variant}={file}")
    predictions = {variant: {"0": f"p {variant}"} for variant in VARIANTS}
    tested = significance_of(VARIANTS, [("visible", "fnet"), ("infrared", "fnet")])
    tested["provenance"] = {"predictions": predictions, "classes": sorted(known)}
    write_json(run.folder / f"as_is/{detector}/significance.json", tested)
    return words


def write_table(run, *words, detectors=("coco",)):
    tested = [f"{name}={run.folder}/as_is/{name}/significance.json" for name in detectors]
    options = ["--split", str(run.split), "--output", str(run.tables), "--significance", *tested]
    as_is.main([*options, "--ap", *words])
    return read_csv(run.tables / "table2_as_is.csv")


def test_a_class_without_partner_has_no_ap_and_is_named_below(example):
    run = example(VARIANTS)
    table, _ = write_table(run, *write_scores(run, "coco", ["Lamp"]))
    assert table["variant"].tolist() == list(VARIANTS) and table["Lamp"].isna().all()
    others = [name for name in CLASSES if name != "Lamp"]
    assert table["Average"].tolist() == pytest.approx(table[others].mean(axis=1).tolist())
    assert table["against_bands"].fillna("").tolist() == ["", "", "ahead"]
    text = (run.tables / "table2_as_is.md").read_text()
    assert "unknown to the detector and not in its averages: Lamp." in text and "since not in the dataset: dog" in text
    assert "people as People" in text and "The detectors were not retrained" in text and "| n/a |" in text


def test_columns_of_several_detectors_are_not_ranked(example):
    run = example(VARIANTS)
    write_table(run, *write_scores(run, "coco"))
    assert "**0." in (run.tables / "table2_as_is.md").read_text()
    words = [*write_scores(run, "coco"), *write_scores(run, "other", ["Bus"])]
    write_table(run, *words, detectors=("coco", "other"))
    assert "**0." not in (run.tables / "table2_as_is.md").read_text()


def test_what_does_not_belong_in_one_table_is_refused(example):
    run = example(VARIANTS)
    words = write_scores(run, "coco")
    file = run.folder / "as_is/coco/fnet/ap.json"
    whole = read_json(file)
    for change, message in (
        ({"protocol": "another"}, "protocol is 'another'"),
        ({"provenance": {**whole["provenance"], "weights": "other"}}, "weights is 'other'"),
        ({"provenance": {**whole["provenance"], "predictions": "other"}}, "predictions is 'p fnet', expected 'other'"),
        ({"provenance": {**whole["provenance"], "data": {"labels": "other"}}}, "labels is 'other'"),
        ({"variant": "visible"}, "variant is 'visible', expected 'fnet'"),
    ):
        write_json(file, {**whole, **change})
        with pytest.raises(InputError, match=message):
            write_table(run, *words)
    write_json(file, read_json(run.ap("fnet")))
    with pytest.raises(InputError, match="has no 'as_is'"):
        write_table(run, *words)
    write_json(file, whole)
    with pytest.raises(InputError, match="no file for other/infrared; expected every variant"):
        write_table(run, *words, words[0].replace("coco/visible", "other/visible", 1))
    assert not run.tables.exists()


def test_the_page_has_a_section_of_its_own_for_them(example):
    run = example(VARIANTS)
    tables.main(run.tables_arguments())
    before = (run.tables / "table2.csv").read_bytes()
    write_table(run, *write_scores(run, "coco", ["Lamp"]))
    assert (run.tables / "table2.csv").read_bytes() == before
    page.main([*run.page_arguments(), "--as-is-table", str(run.tables / "table2_as_is.csv")])
    html = (run.folder / "report.html").read_text()
    assert 'id="as-is"' in html and "coco.onnx as it is" in html
    assert "Not retrained" in html
