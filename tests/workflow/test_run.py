"""One very small run of the whole workflow, and what is run again after it."""

import json
import re

import numpy as np
import pytest
from running import SMALLEST, dry_run, plan, snakemake

from pipeline.artefacts import read_csv


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    snakemake(folder, "--resources", "gpu=1", overlays=[SMALLEST])
    return folder


@pytest.mark.slow
def test_one_command_ends_with_the_tables_and_the_report(finished):
    results = finished / "results"
    table, facts = read_csv(results / "tables/table2.csv")
    assert table["variant"].tolist() == ["visible", "infrared", "fnet", "maximum", "stacked", "twostream", "late"]
    classes = ["People", "Car", "Truck", "Bus", "Lamp", "Motorcycle"]
    assert list(table.columns[:8]) == ["variant", *classes, "Average"]
    assert table[classes].stack().between(0, 1).all()
    assert "YOLOv5u" in facts["detector"]
    cost = table.set_index("variant")[["parameters", "multiply_adds"]]
    assert (cost.loc["stacked"] > cost.loc["visible"]).all() and (cost.loc["twostream"] > cost.loc["stacked"]).all()
    np.testing.assert_allclose(cost.loc["late"], 2 * cost.loc["visible"])
    assert "twostream" in (results / "report.html").read_text(encoding="utf-8")
    assert set(json.loads((results / "detection/cost.json").read_text())["hours"]) == set(table["variant"]) - {"late"}
    for path in ("tables/table2.md", "tables/table2.tex", "tables/fusion.csv", "tables/fusion.md", "report.html"):
        assert (results / path).stat().st_size > 200, path
    fusion, _ = read_csv(results / "tables/fusion.csv")
    assert list(fusion.columns[:5]) == ["method", "MI", "VIF", "Qabf", "SSIM"]
    assert np.isfinite(fusion[["MI", "VIF", "Qabf", "SSIM"]]).all(axis=None)
    config = json.loads((results / "config.json").read_text())
    assert config["detection"]["training"]["epochs"] == 1 and config["detection"]["training"]["weight_decay"] == 0.0005
    # The recipe and the order of training images are the same for all variants; only the pixels differ.
    recipes = [json.loads(path.read_text()) for path in results.glob("detection/*/seed0/provenance.json")]
    assert len(recipes) == 6 and len({json.dumps(recipe["recipe"]) for recipe in recipes}) == 1


@pytest.mark.slow
def test_a_second_run_does_nothing(finished):
    assert "Nothing to be done" in dry_run(finished, overlays=[SMALLEST])


@pytest.mark.slow
def test_a_changed_value_runs_only_what_depends_on_it(finished):
    longer = {"detection": {"training": {"epochs": 2}}}
    stats = plan(dry_run(finished, overlays=[SMALLEST, longer]))
    assert {"train_detector", "test_detector", "build_table2", "build_report"} <= set(stats)
    assert not {"generate_pairs", "prepare_split", "train_fnet", "fuse_pairs", "score_fusion"} & set(stats)
    more = {"fusion": {"methods": ["fnet", "maximum", "average"]}}
    stats = plan(dry_run(finished, overlays=[SMALLEST, more]))
    assert (stats["fuse_pairs"], stats["score_fusion"], stats["train_detector"]) == (1, 1, 1)


@pytest.mark.slow
def test_another_audit_of_the_same_data_splits_and_trains_nothing_again(finished):
    stats = plan(dry_run(finished, "--forcerun", "audit_dataset", overlays=[SMALLEST]))
    assert set(stats) == {"audit_dataset", "build_table2", "build_report", "all", "total"}


@pytest.mark.slow
def test_a_missing_fused_image_is_refused_by_name(finished):
    fused = finished / "results/fused/maximum"
    missing = fused / read_csv(fused / "manifest.csv")[0]["file"].iloc[-1]
    kept = missing.read_bytes()
    missing.unlink()
    targets = ["results/metrics/maximum.csv", "results/detection/maximum/data.yaml"]
    forced = ["--forcerun", "score_fusion", "describe_variant", "--", *targets]
    text = snakemake(finished, *forced, overlays=[SMALLEST], check=False)
    missing.write_bytes(kept)
    assert len(re.findall(rf"^error: .*'{missing.stem}'", text, re.MULTILINE)) >= 2, text[-3000:]
