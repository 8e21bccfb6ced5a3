"""Runs side by side: what is compared, what is tested, and what is refused."""

import math
import shutil

import pandas as pd
import pytest

from detection.average_precision import write_scores
from pipeline.artefacts import read_csv, read_json, sha256_json, sha256_lines, write_csv, write_json, write_text
from pipeline.stage import InputError
from reports import compare

CLASSES = ["car", "person"]
BOX = [10.0, 10.0, 30.0, 30.0]


def make_run(folder, found, detector="YOLOv8 (yolov8n)", first=0, classes=CLASSES, versions=None, scenes=None):
    """Write a finished run of 20 test images with a box each; `found` says for each variant how many it finds."""
    names = [f"{number:02}" for number in range(first, first + 20)]
    truth = {
        "images": [{"id": n, "file_name": name, "width": 100, "height": 100} for n, name in enumerate(names, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": BOX, "area": 900.0, "iscrowd": 0}
            for n in range(1, 21)
        ],
    }
    split = folder / "data/split"
    write_json(split / "truth_test.json", truth)
    write_json(split / "truth_train.json", truth)
    for part in ("train", "test"):
        write_text(split / f"{part}.txt", "".join(f"{name}\n" for name in names))
    digests = {f"digest_{part}": sha256_lines(names) for part in ("train", "test")}
    boxes = {part: dict.fromkeys(classes, 10) for part in ("train", "test")}
    write_json(
        split / "dataset.json",
        {
            "dataset": "made",
            "classes": classes,
            "boxes": boxes,
            "split": {"kind": "own", "unit": "sequence", **digests},
        },
    )
    rows = [f"{name},{(scenes or names)[n]},p\n" for n, name in enumerate(names)]
    write_text(split / "scenes.csv", "".join(["name,sequence,place\n", *rows]))
    files = []
    for variant, count in found.items():
        results = [{"image_id": n, "category_id": 1 + n % 2, "bbox": BOX, "score": 0.9} for n in range(1, count + 1)]
        place = folder / f"detection/{variant}/seed0"
        provenance = {"data": {"labels": sha256_json(truth)}, "trained_on": variant, "training": variant}
        provenance["versions"] = {"torch": "2.7.0", **(versions or {})}
        write_scores(place, truth, results, {}, {"variant": variant, "seed": 0, "detector": detector}, provenance)
        data = {"data": {"labels": sha256_json(truth)}, "recipe": {"model": detector}}
        write_json(place / "provenance.json", {"digest": variant, "versions": provenance["versions"], **data})
        files.append(place / "ap.json")
    scores = [read_json(file) for file in files]
    frame = pd.DataFrame(
        [
            {"variant": one["variant"], **{name: one["classes"][name]["AP"] for name in classes}}
            | {"Average": one["average"]["AP"], "seeds": 1, "against_bands": ""}
            for one in scores
        ]
    )
    write_csv(folder / "tables/table2.csv", frame, {"digest_test": digests["digest_test"], "seeds": "0"})
    return str(folder)


def run(folder, *words):
    compare.main([*words, "--output", str(folder / "out"), "--samples", "200", "--swaps", "1000"])
    return [read_csv(folder / f"out/{name}.csv")[0] for name in ("compare", "compare_differences")]


FOUND = {"visible": 10, "fnet": 10}


def test_runs_of_one_test_set_have_differences_tested_by_scenes(tmp_path):
    small = make_run(tmp_path / "small", FOUND)
    large = make_run(tmp_path / "large", {"visible": 10, "fnet": 20, "other": 3}, "YOLOv8 (yolov8s)")
    table, differences = run(tmp_path, small, large)
    assert table["variant"].tolist() == ["visible", "visible", "fnet", "fnet", "other"]
    assert table["run"].tolist() == ["small", "large", "small", "large", "large"]
    rows = differences.set_index("variant")
    assert rows.index.tolist() == ["visible", "fnet"]
    fnet = rows.loc["fnet"]
    assert fnet["Average"] == pytest.approx(table["Average"][3] - table["Average"][2]) and fnet["Average"] > 0.4
    assert fnet["low"] < fnet["Average"] < fnet["high"] and fnet["differ"] == "yes" and fnet["p"] < 0.01
    same = rows.loc["visible"]
    assert same["Average"] == 0 and same["p"] == 1 and same["differ"] == "not shown"
    text = (tmp_path / "out/compare.md").read_text()
    assert "large minus small" in text and "YOLOv8 (yolov8s) on made" in text
    html = (tmp_path / "out/compare.html").read_text()
    assert (
        "Facts that differ between the runs" in html
        and "training.recipe.model" in html
        and "http" not in html.split("<body>")[1]
    )


def test_a_run_beside_itself_differs_in_nothing(tmp_path):
    one = make_run(tmp_path / "one", FOUND)
    shutil.copytree(one, tmp_path / "two")
    _, differences = run(tmp_path, f"a={one}", f"b={tmp_path / 'two'}")
    assert (differences["Average"] == 0).all() and set(differences["differ"]) == {"not shown"}
    assert differences["first"].tolist() == ["a", "a"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"first": 7}, "different test images"),
        ({"scenes": [str(n // 2) for n in range(20)]}, "different scenes of the test images"),
    ],
)
def test_other_test_sets_stand_side_by_side_without_a_difference(tmp_path, other, reason):
    one, two = make_run(tmp_path / "one", FOUND), make_run(tmp_path / "two", FOUND, **other)
    table, differences = run(tmp_path, one, two)
    assert len(table) == 4 and table["Average"].notna().all()
    assert set(differences["reason"]) == {reason} and set(differences["differ"]) == {"not tested"}
    assert differences[["Average", "low", "p"]].isna().all(axis=None)


def test_other_boxes_of_the_same_images_are_not_compared(tmp_path):
    one, two = make_run(tmp_path / "one", FOUND), make_run(tmp_path / "two", FOUND)
    file = tmp_path / "two/data/split/truth_test.json"
    truth = read_json(file)
    truth["annotations"][0]["bbox"][0] += 1
    write_json(file, truth)
    for variant in FOUND:
        scores = read_json(tmp_path / f"two/detection/{variant}/seed0/ap.json")
        scores["provenance"]["data"]["labels"] = sha256_json(truth)
        write_json(tmp_path / f"two/detection/{variant}/seed0/ap.json", scores)
    assert set(run(tmp_path, one, two)[1]["reason"]) == {"different boxes of the test images"}


def test_few_scenes_are_not_tested_and_the_interval_stands(tmp_path):
    scenes = [str(n // 4) for n in range(20)]
    one = make_run(tmp_path / "one", FOUND, scenes=scenes)
    two = make_run(tmp_path / "two", {"fnet": 18}, scenes=scenes)
    row = run(tmp_path, one, two)[1].iloc[0]
    assert row["differ"] == "not tested" and row["reason"].startswith("5 scenes have boxes") and math.isnan(row["p"])
    assert row["low"] < row["Average"] < row["high"]


def test_other_patches_want_a_word_and_other_releases_are_refused(tmp_path):
    one = make_run(tmp_path / "one", FOUND)
    patch = make_run(tmp_path / "patch", FOUND, versions={"torch": "2.7.1+cpu"})
    minor = make_run(tmp_path / "minor", FOUND, versions={"torch": "2.8.0"})
    with pytest.raises(
        InputError, match=r"different patches of torch: 2.7.0 and 2.7.1\+cpu; expected .* --allow versions"
    ):
        run(tmp_path, one, patch)
    assert not (tmp_path / "out").exists()
    run(tmp_path, one, patch, "--allow", "versions")
    assert "Versions differ only in patch or build, which was allowed" in (tmp_path / "out/compare.md").read_text()
    with pytest.raises(
        InputError, match=r"different releases of torch, which could cause a difference: 2.7.0 and 2.8.0"
    ):
        run(tmp_path, one, minor, "--allow", "versions")


def test_runs_that_cannot_stand_side_by_side_are_refused(tmp_path):
    one = make_run(tmp_path / "one", FOUND)
    other = make_run(tmp_path / "other", FOUND, classes=["car", "bus"])
    with pytest.raises(InputError, match="one and other have different classes: car, person and car, bus"):
        run(tmp_path, one, other)
    with pytest.raises(InputError, match="expected two or more with different names"):
        run(tmp_path, one, one)
    with pytest.raises(InputError, match=r"table2.csv does not exist"):
        run(tmp_path, one, str(tmp_path / "none"))
    two = make_run(tmp_path / "two", FOUND)
    write_json(tmp_path / "two/detection/fnet/seed0/predictions.json", [])
    with pytest.raises(InputError, match="scores other predictions than the"):
        run(tmp_path, one, two)
    file = tmp_path / "one/detection/fnet/seed0/ap.json"
    scores = read_json(file)
    write_json(file, {**scores, "average": {**scores["average"], "AP": 0.9}})
    with pytest.raises(InputError, match="the averages are not those of the scores in"):
        run(tmp_path, one, two)


def test_detectors_of_one_run_are_checked_as_its_tables_check_them(tmp_path):
    folder = tmp_path / "one"
    one, two = make_run(folder, FOUND), make_run(tmp_path / "two", FOUND)
    file = folder / "detection/fnet/seed0/provenance.json"
    write_json(file, {**read_json(file), "recipe": {"model": "another"}})
    with pytest.raises(InputError, match=r"training.recipe.model is 'another'"):
        run(tmp_path, one, two)
