"""The loss of each variant if a band is corrupted, as a table and on the page."""

import re

import numpy as np
import pytest

from detection.losses import UNCORRUPTED
from pipeline.artefacts import read_csv, read_json, sha256_json, write_json
from pipeline.stage import InputError
from reports import page, robustness, tables
from reports.robustness import compared_with_least, losses_sentence


def bounded(value, half=0.05):
    return {"value": value, "low": value - half, "high": value + half}


def write_losses(run, kind="infrared_shift", band="infrared", levels=("4", "16"), left_out=()):
    """Write losses.json in which the n-th variant that sees the band loses 0.1 n; return its path."""
    variants, predictions = {}, {}
    other = "visible" if band == "infrared" else "infrared"
    for number, variant in enumerate(v for v in run.variants if v not in left_out):
        averages = [read_json(run.ap(variant, seed))["average"]["AP"] for seed in run.seeds]
        for seed in run.seeds:
            run.change(run.ap(variant, seed), "provenance", "predictions", value=f"p {variant}")
        predictions[variant] = {str(seed): f"p {variant}" for seed in run.seeds}
        clean, sees = float(np.mean(averages)), variant != other
        lost = 0.1 * number if sees else 0
        at = {level: bounded(clean - lost * n) for n, level in enumerate(levels, 1)}
        variants[variant] = {"sees": sees, "AP": bounded(clean), "levels": at}
        if sees:
            mean = float(np.mean([one["value"] for one in at.values()]))
            variants[variant] |= {"mean": bounded(mean), "loss": bounded(clean - mean), "kept": bounded(mean / clean)}
    seeing = {v: one["loss"]["value"] for v, one in variants.items() if one["sees"]}
    least = min(seeing, key=seeing.get)
    compared = {}
    for variant, loss in seeing.items():
        if variant != least:
            entry = bounded(loss - seeing[least], 0.2)
            compared[variant] = {"difference": entry.pop("value"), **entry, "more": entry["low"] > 0}
    content = {
        **{"kind": kind, "band": band, "levels": list(levels), "variants": variants, "least": least},
        **{"compared": compared, "method": "bootstrap of 15 whole sequences", "samples": 1000, "seed": 0},
        **{"seeds": list(run.seeds), "unit": "sequence"},
        "provenance": {
            "labels": sha256_json(read_json(run.split / "truth_test.json")),
            **{"predictions": predictions, "versions": {"pycocotools": "2.0.8"}},
        },
    }
    file = run.folder / f"robustness/{kind}/losses.json"
    write_json(file, content)
    return file


def build(run, *files):
    runs = [str(run.ap(variant, seed)) for variant in run.variants for seed in run.seeds]
    words = ["--split", run.split, "--ap", *runs, "--losses", *files, "--variants", *run.variants]
    robustness.main([str(word) for word in (*words, "--output", run.tables)])
    return read_csv(run.tables / "robustness.csv")


def test_the_table_holds_every_level_and_the_mean_with_what_is_lost(example):
    run = example(seeds=(0, 1))
    file = write_losses(run)
    table, facts = build(run, file, write_losses(run, "visible_missing", "visible", ("black", "grey")))
    assert facts["method"] == "bootstrap of 15 whole sequences" and facts["seeds"] == "0 1"
    assert table.groupby(["kind", "variant"], sort=False)["level"].agg(list).iloc[0] == [UNCORRUPTED, "4", "16", "mean"]
    stated = read_json(file)["variants"]["fnet"]
    mean = table[(table["kind"] == "infrared_shift") & (table["variant"] == "fnet")].set_index("level").loc["mean"]
    assert mean["AP"] == stated["mean"]["value"] and mean["loss_low"] == stated["loss"]["low"]
    assert mean["beyond_least"] == pytest.approx(read_json(file)["compared"]["fnet"]["difference"])
    blind = table[(table["kind"] == "infrared_shift") & (table["variant"] == "visible")].set_index("level")
    assert set(blind["sees"]) == {"no"} and blind.loc["mean", ["loss", "kept"]].tolist() == [0, 1]
    assert np.isnan(blind.loc["mean", "beyond_least"]) and np.isnan(blind.loc["4", "loss"])


def test_the_texts_say_who_loses_least_and_whether_that_holds(example):
    run = example()
    file = write_losses(run)
    build(run, file)
    losses = read_json(file)
    text = (run.tables / "robustness.md").read_text()
    assert losses_sentence(losses) in text and "One seed (0)." in text and "4 px" in text
    assert re.match(
        r"Among the variants that use infrared, infrared loses the least mAP: 0\.150 of 0\.\d{3}, that is, it "
        r"keeps \d\d %\. The confidence intervals show a larger loss for fnet, but not for average\. The highest mAP "
        r"under corruption is that of visible, which does not use infrared: 0\.\d{3}\.$",
        losses_sentence(losses),
    )
    assert (
        compared_with_least(losses, "visible") == "does not use infrared"
        and compared_with_least(losses, "infrared") == "smallest"
    )
    assert compared_with_least(losses, "fnet") == "larger: 0.300 (0.100 to 0.500)"
    losses["compared"]["fnet"]["more"] = False
    sentence = "The confidence intervals do not show a larger loss for any other variant that uses infrared."
    assert sentence in losses_sentence(losses)
    losses["compared"]["fnet"]["more"] = True
    losses["compared"]["average"]["more"] = True
    sentence = "The confidence intervals show a larger loss for every other variant that uses infrared."
    assert sentence in losses_sentence(losses)
    for one in losses["variants"].values():
        one["AP"]["value"] = 0.01
    assert losses_sentence(losses) == (
        "The losses are not compared, because no detector was trained to a usable accuracy."
    )


def test_rows_that_cannot_be_made_anew_are_said_to_be_left_out(example):
    run = example()
    build(run, write_losses(run, left_out=("average",)))
    assert "Left out: average. They consist of images or detections" in (run.tables / "robustness.md").read_text()


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("variants", "fnet", "AP", "value"), 0.1, "'fnet' has the average 0.100000; expected .* as in its ap.json"),
        (
            ("provenance", "predictions", "fnet"),
            {"0": "x"},
            "predictions of 'fnet' with seed 0 .*detection.losses again",
        ),
        (("provenance", "labels"), "x", "disagree: labels"),
        (("kind",), "rain", "found kind 'rain'; expected one file for each kind of infrared_shift"),
    ],
)
def test_losses_of_something_else_are_refused(example, keys, value, message):
    run = example()
    file = write_losses(run)
    run.change(file, *keys, value=value)
    with pytest.raises(InputError, match=message):
        build(run, file)


def test_the_page_has_a_sentence_pictures_a_plot_and_a_table_for_each_kind(example):
    run = example()
    files = [write_losses(run), write_losses(run, "visible_missing", "visible", ("black", "grey"))]
    tables.main(run.tables_arguments())
    page.main([*run.page_arguments(), "--robustness", *map(str, files)])
    text = (run.folder / "report.html").read_text()
    section = text[text.index('<section id="robustness">') : text.index('<section id="scenes">')]
    assert section.count("<details") == section.count("<svg") == section.count("<table") == 2
    assert section.count('<img src="data:image/webp;base64,') == 6
    for file in files:
        assert losses_sentence(read_json(file)) in section
    assert "Robustness to a shifted" not in text
    page.main(run.page_arguments())
    text = (run.folder / "report.html").read_text()
    assert 'id="robustness"' not in text
    assert "Robustness to a shifted, noisy or missing band: see config/robustness.yaml." in text
