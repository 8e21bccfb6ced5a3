import pytest

from detection import objects
from detection.objects import helps
from pipeline.artefacts import read_json, write_json
from pipeline.stage import InputError

BOXES = {"both": (0, 0, 20, 20), "visible": (40, 0, 50, 50), "fused": (0, 60, 100, 100), "none": (150, 0, 9, 9)}
TRUTH = {
    "images": [{"id": 7, "file_name": "scene", "width": 200, "height": 200}],
    "categories": [{"id": 1, "name": "Car"}],
    "annotations": [
        {"id": n, "image_id": 7, "category_id": 1, "bbox": list(map(float, b)), "area": float(b[2] * b[3])}
        | {"iscrowd": 0}
        for n, b in enumerate(BOXES.values(), 1)
    ],
}


def finding(*names, value=0.9):
    return [{"image_id": 7, "category_id": 1, "bbox": list(BOXES[n]), "score": value} for n in names]


PREDICTIONS = {
    "visible": finding("both", "visible") + finding("fused", value=0.2),
    "infrared": finding("both"),
    "fnet": finding("both", "fused") + finding("none", value=0.24),
}


def test_found_is_missed_by_both_bands_and_lost_is_found_by_either():
    result = helps(TRUTH, PREDICTIONS, {"scene": "night"})["fnet"]
    assert result["found"] == [
        {"image": "scene", "class": "Car", "bbox": [0, 60, 100, 100], "size": "large", "condition": "night"}
    ]
    assert [item["bbox"] for item in result["lost"]] == [[40, 0, 50, 50]]
    assert result["counts"]["size"] == {
        "small": {"objects": 2, "found": 0, "lost": 0},
        "medium": {"objects": 1, "found": 0, "lost": 1},
        "large": {"objects": 1, "found": 1, "lost": 0},
    }
    assert result["counts"]["condition"] == {"night": {"objects": 4, "found": 1, "lost": 1}}
    assert (result["least_score"], result["overlap"]) == (0.25, 0.5)


def test_bands_themselves_are_not_listed_and_unknown_conditions_not_counted():
    result = helps(TRUTH, PREDICTIONS, {})
    assert list(result) == ["fnet"]
    assert "condition" not in result["fnet"]["counts"]
    assert result["fnet"]["found"][0]["condition"] is None


def test_stage_writes_the_lists_and_wants_both_bands(tmp_path):
    write_json(tmp_path / "truth.json", TRUTH)
    for name, predictions in PREDICTIONS.items():
        write_json(tmp_path / f"{name}.json", predictions)
    words = [f"{name}={tmp_path / name}.json" for name in PREDICTIONS]
    options = ["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / "helps.json"), "--predictions"]
    objects.main([*options, *words])
    assert read_json(tmp_path / "helps.json") == helps(TRUTH, PREDICTIONS, {})
    with pytest.raises(InputError, match="does not name 'infrared'"):
        objects.main([*options, words[0], words[2]])
