"""Parts of the workflow, run: a table of test sets, a method of the user's own."""

import json

import numpy as np
import pytest
from running import SMALLEST, dry_run, plan, snakemake

from fusion.fnet.network import FNet
from fusion.weights import write_state
from pipeline.artefacts import read_csv
from pipeline.pairs import write_image


@pytest.mark.slow
def test_table1_is_built_from_folders_of_pairs(tmp_path, rng):
    for kind, shape in (("vi", (64, 72, 3)), ("ir", (64, 72))):
        for number in range(3):
            write_image(tmp_path / f"pairs/ours/{kind}/{number}.png", rng.integers(0, 256, shape, dtype=np.uint8))
    write_state(tmp_path / "fnet.safetensors", FNet().state_dict())
    overlay = {
        **{"device": "cpu", "threads": 1, "tables": ["table1"], "cost": {"size": [24, 16], "repeats": 1}},
        **{"fusion": {"methods": ["fnet"]}, "fnet": {"weights": "fnet.safetensors"}},
        "test_sets": {
            "root": "pairs",
            "sets": {"ours": {"visible": "vi", "infrared": "ir", "colour": "ycbcr-studio", "format": "jpg"}},
        },
    }
    snakemake(tmp_path, overlays=[overlay])
    table, facts = read_csv(tmp_path / "results/tables/table1.csv")
    assert list(table.columns[:7]) == ["dataset", "quantity", "visible", "infrared", "average", "maximum", "fnet"]
    assert table["fnet"].iloc[0] == 419.916 and len(table) == 3 + 4
    assert np.isfinite(table.iloc[3:, 2:7].astype(float)).all(axis=None)
    assert json.loads(facts["treatments"]) == {"ours": "ycbcr-studio, jpg quality 95"}
    assert all((tmp_path / f"results/tables/table1.{kind}").stat().st_size > 500 for kind in ("md", "tex", "html"))
    assert not (tmp_path / "results/data").exists() and not (tmp_path / "results/detection").exists()
    assert "Nothing to be done" in dry_run(tmp_path, overlays=[overlay])


@pytest.mark.slow
def test_a_method_of_ones_own_is_checked_fused_and_scored(tmp_path):
    (tmp_path / "ownfusion.py").write_text("from helper import mix\n\nfuse = mix\n")
    (tmp_path / "helper.py").write_text("def mix(visible, infrared):\n    return (visible + infrared) / 2\n")
    (tmp_path / "notes.txt").write_text("a")
    (tmp_path / "bad.py").write_text("def fuse(visible, infrared):\n    return 255 * visible\n")
    small = {**SMALLEST, "threads": 1, "synthetic": {"train": 2, "test": 2, "size": [96, 64]}}
    mine = {"fusion": {"methods": ["mine"], "own": {"mine": {"callable": "ownfusion:fuse", "watch": ["notes.txt"]}}}}
    bad = {"fusion": {"methods": ["mine"], "own": {"mine": {"callable": "bad:fuse"}}}}
    target = ["--", "results/metrics/mine.csv"]
    text = snakemake(tmp_path, *target, overlays=[small, bad], check=False)
    assert "expected 0 to 1" in text and not (tmp_path / "results/data").exists()
    snakemake(tmp_path, *target, overlays=[small, mine])
    assert len(read_csv(tmp_path / "results/metrics/mine.csv")[0]) == 2
    assert "own_sha256" in read_csv(tmp_path / "results/fused/mine/manifest.csv")[1]
    assert "Nothing to be done" in dry_run(tmp_path, *target, overlays=[small, mine])
    for name in ("helper.py", "notes.txt"):
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(whole + "\n")
        stats = plan(dry_run(tmp_path, *target, overlays=[small, mine]))
        assert (stats["fuse_pairs"], stats["score_fusion"], stats["total"]) == (1, 1, 2), name
        (tmp_path / name).write_text(whole)
