"""The stage that scores fused folders: its table, its refusals, its resumption."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusion import evaluate
from fusion.metrics import METRICS, prepare, score
from pipeline import artefacts
from pipeline.pairs import write_image
from pipeline.stage import InputError

NAMES = ["00042", "a b'c", "straße"]


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three small pairs, `mean` and `max` fused from them, with one source and one fused image in colour."""
    for name in NAMES:
        coarse = rng.integers(0, 256, (2, 6, 8), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        visible, infrared = coarse // 2 + rng.integers(0, 100, coarse.shape, dtype=np.uint8)
        if name == "00042":
            visible = np.stack([visible, infrared, visible // 2], axis=-1)
        write_image(tmp_path / f"visible/{name}.png", visible)
        write_image(tmp_path / f"infrared/{name}.bmp", infrared)
        grey = visible if visible.ndim == 2 else visible[..., 0]
        write_image(tmp_path / f"fused/mean/{name}.png", np.stack([grey // 2 + infrared // 2] * 3, axis=-1))
        write_image(tmp_path / f"fused/max/{name}.png", np.maximum(grey, infrared))
    return tmp_path


def run(root: Path, *extra: str, fused: tuple[str, ...] = ("mean",), output: str = "out.csv") -> Path:
    arguments = ["--visible", root / "visible", "--infrared", root / "infrared", "--output", root / output]
    arguments += ["--fused", *(root / "fused" / name for name in fused), *extra]
    evaluate.main([str(argument) for argument in arguments])
    return root / output


def write_manifest(folder: Path) -> None:
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".png")
    rows = [
        {"name": path.stem, "file": path.name, "width": 64, "height": 48, "colour": "grey",
         "sha256": artefacts.sha256_file(path)} for path in paths
    ]  # fmt: skip
    artefacts.write_csv(folder / "manifest.csv", pd.DataFrame(rows), {"method": "average"})


# --- The table -----------------------------------------------------------------------------------------------------


def test_table_has_one_row_an_image_and_the_paper_metrics_first(folders):
    table, _ = artefacts.read_csv(run(folders))
    assert list(table["name"]) == NAMES
    assert list(table.columns) == ["name", *METRICS]
    assert list(table.columns[:5]) == ["name", "MI", "VIF", "Qabf", "SSIM"]


def test_extra_metrics_stand_behind_the_usual_ones_where_they_are_named(folders):
    usual, facts = artefacts.read_csv(run(folders))
    table, extra_facts = artefacts.read_csv(run(folders, "--extra", "NCIE", "QCV", output="extra.csv"))
    assert list(table.columns) == ["name", *METRICS, "NCIE", "QCV"]
    pd.testing.assert_frame_equal(table[usual.columns], usual)
    assert table[["NCIE", "QCV"]].notna().all(axis=None)
    assert "scipy" in extra_facts["versions"] and "scipy" not in facts["versions"]


def test_table_holds_what_the_functions_give(folders):
    table, _ = artefacts.read_csv(run(folders))
    for row in table.to_dict("records"):
        name = row.pop("name")
        images = [
            evaluate._read(folders / path)
            for path in (f"visible/{name}.png", f"infrared/{name}.bmp", f"fused/mean/{name}.png")
        ]
        assert row == score(prepare(*images[:2]), images[2])


def test_facts_state_convention_and_digests(folders):
    _, facts = artefacts.read_csv(run(folders))
    assert facts["convention"] == "reference"
    assert "nats" in facts["definition"] and "data range 2" in facts["definition"]
    assert facts["images"] == "3"
    assert facts["names_sha256"] == artefacts.sha256_lines(NAMES)
    assert facts["manifest_sha256"] == "none"
    assert list(json.loads(facts["versions"])) == ["python", "numpy", "numba", "opencv-python-headless"]


def test_manifest_is_checked_and_named(folders):
    write_manifest(folders / "fused/mean")
    _, facts = artefacts.read_csv(run(folders))
    assert facts["method"] == "average"
    assert facts["manifest_sha256"] == artefacts.sha256_file(folders / "fused/mean/manifest.csv")


def test_mean_row_is_printed(folders, capsys):
    table, _ = artefacts.read_csv(run(folders))
    printed = capsys.readouterr().out
    assert printed.startswith("out: mean of 3 images: MI ")
    assert f"SSIM {table['SSIM'].mean():.4f}" in printed


def test_convention_is_applied_and_stated(folders):
    reference, _ = artefacts.read_csv(run(folders))
    bits, facts = artefacts.read_csv(run(folders, "--convention", "bits"))
    assert facts["convention"] == "bits"
    assert np.allclose(bits["MI"] * math.log(2), reference["MI"])
    assert bits["VIF"].equals(reference["VIF"])


def test_several_folders_give_the_same_tables_as_one_by_one(folders):
    together = run(folders, fused=("mean", "max"), output="all")
    for name in ("mean", "max"):
        alone = run(folders, fused=(name,), output=f"alone/{name}.csv")
        assert (together / f"{name}.csv").read_bytes() == alone.read_bytes()


def test_number_of_workers_changes_no_byte(folders):
    assert run(folders, "--workers", "1").read_bytes() == run(folders, "--workers", "2", output="b.csv").read_bytes()


def test_names_limit_what_is_scored(folders):
    (folders / "test.txt").write_text("straße\n00042\n", encoding="utf-8")
    (folders / "fused/mean/a b'c.png").unlink()
    table, facts = artefacts.read_csv(run(folders, "--names", folders / "test.txt"))
    assert list(table["name"]) == ["00042", "straße"]
    assert facts["names_sha256"] == artefacts.sha256_lines(["00042", "straße"])


def test_undefined_values_are_shown_and_not_averaged_in(folders, capsys, caplog):
    for folder, suffix in (("visible", "png"), ("infrared", "bmp"), ("fused/mean", "png")):
        write_image(folders / folder / f"a b'c.{suffix}", np.zeros((48, 64), np.uint8))
        write_image(folders / folder / f"straße.{suffix}", np.arange(40 * 60, dtype=np.uint8).reshape(40, 60))
    table, _ = artefacts.read_csv(run(folders))
    assert list(table["Qabf"].isna()) == [False, True, False]
    assert list(table["VIF"].isna()) == [False, False, True]
    printed = capsys.readouterr().out
    assert f"Qabf {table['Qabf'].dropna().mean():.4f} (over 2)" in printed
    assert "MI" in printed and f"MI {table['MI'].mean():.4f}," in printed
    assert "VIF of " in caplog.text and "is undefined for 'straße'" in caplog.text


def test_means_of_nothing_are_undefined():
    row = evaluate.Row("a", ("", "", ""), dict.fromkeys(METRICS, math.nan))
    assert evaluate.mean_row([row]).startswith("mean of 1 images: MI nan (over 0), VIF nan (over 0)")


# --- Refusals ------------------------------------------------------------------------------------------------------


def refusal(folders: Path, *extra: str, **options) -> str:
    with pytest.raises(InputError) as error:
        run(folders, *extra, **options)
    assert not list(folders.glob("*.csv"))
    return str(error.value).replace(f"{folders}/", "")


def test_a_folder_that_lacks_an_image_is_refused(folders):
    (folders / "fused/mean/00042.png").unlink()
    assert refusal(folders) == "fused/mean lacks '00042'; expected a fused image for each of 3 pairs"


def test_a_folder_that_adds_an_image_is_refused(folders):
    write_image(folders / "fused/mean/stray.png", np.zeros((48, 64), np.uint8))
    message = "fused/mean has images without a pair: 'stray'; expected one image for each pair and no other"
    assert refusal(folders) == message


def test_a_named_image_that_a_folder_lacks_is_refused(folders):
    (folders / "test.txt").write_text("00042\n")
    (folders / "fused/mean/00042.png").unlink()
    assert "fused/mean lacks '00042'" in refusal(folders, "--names", folders / "test.txt")


def test_a_fused_image_of_another_size_is_refused(folders):
    write_image(folders / "fused/mean/00042.png", np.zeros((48, 60), np.uint8))
    assert refusal(folders) == "fused/mean/00042.png is 60x48, expected 64x48 like visible/00042.png"


def test_sources_of_different_size_are_refused(folders):
    write_image(folders / "infrared/00042.bmp", np.zeros((40, 64), np.uint8))
    assert refusal(folders) == "infrared/00042.bmp is 64x40, expected 64x48 like visible/00042.png"


def test_an_image_changed_after_fusion_is_refused(folders):
    write_manifest(folders / "fused/mean")
    write_image(folders / "fused/mean/00042.png", np.zeros((48, 64), np.uint8))
    message = refusal(folders)
    assert message.startswith("fused/mean/00042.png has SHA-256 ")
    assert message.endswith("as in fused/mean/manifest.csv: it was changed after fusion")


def test_an_image_that_the_manifest_does_not_list_is_refused(folders):
    path = folders / "fused/mean/00042.png"
    data = path.read_bytes()
    path.unlink()
    write_manifest(folders / "fused/mean")
    path.write_bytes(data)
    assert refusal(folders).startswith("fused/mean/manifest.csv does not list 00042.png")


def test_a_manifest_of_another_kind_is_refused(folders):
    (folders / "fused/mean/manifest.csv").write_text("a,b\n1,2\n")
    assert refusal(folders) == "fused/mean/manifest.csv has the columns a, b; expected file and sha256"


def test_a_truncated_image_is_refused(folders):
    path = folders / "fused/mean/00042.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert refusal(folders).startswith("fused/mean/00042.png is truncated")


def test_a_visible_image_without_its_infrared_is_refused(folders):
    (folders / "infrared/00042.bmp").unlink()
    assert "00042" in refusal(folders)


def test_folders_of_one_name_are_refused(folders):
    (folders / "other/fused").mkdir(parents=True)
    (folders / "fused/mean").rename(folders / "other/fused/max")
    assert "fused folders share a name: max, max" in refusal(folders, fused=("max", "../other/fused/max"), output="all")


def test_a_folder_as_the_single_output_is_refused(folders):
    (folders / "all").mkdir()
    message = "all is a folder; expected the name of a CSV file, as there is one fused folder"
    assert refusal(folders, output="all") == message


# --- Resumption ----------------------------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for a kill while images are scored."""


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """Counts calls of `score`; a test may set a limit after which it dies."""
    calls = [0, 10**9]

    def counted(*arguments):
        if calls[0] == calls[1]:
            raise KilledError
        calls[0] += 1
        return score(*arguments)

    monkeypatch.setattr(evaluate, "score", counted)
    return calls


def kill_after(folders: Path, scored: list[int], count: int) -> None:
    scored[1] = count
    with pytest.raises(KilledError):
        run(folders, "--workers", "1")
    assert not (folders / "out.csv").exists()
    scored[0], scored[1] = 0, 10**9


def test_a_killed_evaluation_goes_on_where_it_was(folders, scored):
    whole = run(folders, output="whole.csv").read_bytes()
    scored[0] = 0
    kill_after(folders, scored, 2)
    assert run(folders).read_bytes() == whole
    assert scored[0] == 1
    assert not list(folders.glob(".*partial"))


def test_rows_of_changed_files_are_not_taken_up(folders, scored):
    kill_after(folders, scored, 2)
    write_image(folders / "fused/mean/00042.png", np.full((48, 64), 9, np.uint8))
    write_image(folders / "visible/a b'c.png", np.full((48, 64), 8, np.uint8))
    table, _ = artefacts.read_csv(run(folders))
    assert scored[0] == 3
    assert table["EN"][0] == 0


def test_rows_of_another_convention_are_not_taken_up(folders, scored):
    kill_after(folders, scored, 2)
    run(folders, "--convention", "bits")
    assert scored[0] == 3


def test_rows_of_an_earlier_definition_are_not_taken_up(folders, scored, monkeypatch):
    kill_after(folders, scored, 2)
    monkeypatch.setattr(evaluate, "REVISION", evaluate.REVISION + 1)
    run(folders)
    assert scored[0] == 3


def test_rows_of_another_version_of_a_package_are_not_taken_up(folders, scored, monkeypatch):
    kill_after(folders, scored, 2)
    monkeypatch.setattr(evaluate.artefacts, "versions", lambda *packages: dict.fromkeys(packages, "0"))
    run(folders)
    assert scored[0] == 3


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text + '["x", [', lambda text: text + "5\n"])
def test_a_torn_partial_file_costs_at_most_its_torn_row(folders, scored, damage):
    whole = run(folders, output="whole.csv").read_bytes()
    scored[0] = 0
    kill_after(folders, scored, 2)
    partial = folders / ".out.csv.partial"
    partial.write_text(damage(partial.read_text(encoding="utf-8")), encoding="utf-8")
    assert run(folders).read_bytes() == whole
    assert scored[0] in (1, 2)


def test_undefined_values_survive_a_kill(folders, scored):
    for folder, suffix in (("visible", "png"), ("infrared", "bmp"), ("fused/mean", "png")):
        write_image(folders / folder / f"00042.{suffix}", np.zeros((48, 64), np.uint8))
    kill_after(folders, scored, 2)
    table, _ = artefacts.read_csv(run(folders))
    assert scored[0] == 1
    assert math.isnan(table["Qabf"][0])
    assert table["PSNR"][0] == math.inf


def test_progress_is_logged(folders, caplog):
    with caplog.at_level(logging.INFO):
        run(folders)
    assert "evaluate: 3/3 pairs" in caplog.text
