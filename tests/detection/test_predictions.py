"""Predictions of foreign detectors: read right, refused with one line, or warned of; one reader for every stage."""

import json
import re

import pytest

from detection import late, objects, significance
from detection.predictions import check_predictions, read_predictions
from pipeline.artefacts import sha256_json, write_json
from pipeline.stage import InputError

TRUTH = {
    "images": [{"id": n, "file_name": f"scene{n}", "width": 200, "height": 100} for n in (1, 2)],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
    ],
}
GOOD = {"image_id": 1, "category_id": 1, "bbox": [10.0, 10, 20, 20], "score": 0.9}
BAD = {
    "words for images": (
        [GOOD | {"image_id": "scene1"}],
        "image_id 'scene1'; expected one of the 2 in the ground truth, 1 to 2: 1 scene1, 2",
    ),
    "a list for an image": ([GOOD | {"image_id": [1]}], r"image_id \[1\]; expected"),
    "true for an image": ([GOOD | {"image_id": True}], "image_id True; expected"),
    "categories from 0": ([GOOD, GOOD | {"category_id": 0}], "prediction 1 .*category_id 0; .*: 1 person, 2 car"),
    "COCO's 91 categories": ([GOOD | {"category_id": 3}], "category_id 3; expected"),
    "no category": ([{k: v for k, v in GOOD.items() if k != "category_id"}], "category_id None; expected"),
    "a null box": ([GOOD | {"bbox": None}], "bbox None and the score 0.9; expected five finite numbers"),
    "no box": ([{k: v for k, v in GOOD.items() if k != "bbox"}], "bbox None"),
    "a null in a box": ([GOOD | {"bbox": [1, 2, None, 4]}], r"bbox \[1, 2, None, 4\]"),
    "a box of three": ([GOOD | {"bbox": [1, 2, 3]}], r"bbox \[1, 2, 3\]"),
    "words in a box": ([GOOD | {"bbox": "1234"}], "bbox '1234'"),
    "a number without end": ([GOOD | {"bbox": [1, 2, 10**400, 4]}], "expected five finite numbers"),
    "NaN": ([GOOD | {"score": float("nan")}], "the score (nan|None)"),
    "no score": ([GOOD | {"score": None}], "the score None"),
    "percent": ([GOOD | {"score": 90.0}], "has the score 90; expected 0 to 1"),
    "a negative width": ([GOOD | {"bbox": [30, 10, -20, 20]}], "expected x, y, width, height"),
    "an item that is no object": ([GOOD, 5], "prediction 1 is 5; expected an object with image_id"),
    "a dictionary around it": ({"annotations": [GOOD]}, "JSON dict with the keys 'annotations'; expected COCO results"),
    "null": (None, "JSON NoneType; expected COCO results"),
}


def stages(tmp_path, file):
    """Each stage that takes predictions, given `file` for one of them."""
    write_json(tmp_path / "truth.json", TRUTH)
    write_json(tmp_path / "good.json", [GOOD])
    shared = ["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / "out" / "x.json")]
    good = tmp_path / "good.json"
    yield lambda: objects.main([*shared, "--predictions", f"visible={good}", f"infrared={file}", f"fnet={good}"])
    yield lambda: significance.main([*shared, "--predictions", f"visible/0={good}", f"fnet/0={file}"])
    for band, source in (("visible", good), ("infrared", file)):
        content = json.loads(source.read_text())
        write_json(tmp_path / band / "predictions.json", content)
        provenance = {"predictions": sha256_json(content), "data": {"labels": sha256_json(TRUTH)}}
        write_json(tmp_path / band / "ap.json", {"variant": band, "seed": 0, "provenance": provenance})
    folders = ["--visible", str(tmp_path / "visible"), "--infrared", str(tmp_path / "infrared")]
    yield lambda: late.main(["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / "out"), *folders])


@pytest.mark.parametrize("kind", BAD)
def test_every_stage_refuses_them_with_the_file_and_writes_nothing(tmp_path, kind):
    content, message = BAD[kind]
    file = tmp_path / "foreign.json"
    file.write_text(json.dumps(content))
    for stage in stages(tmp_path, file):
        with pytest.raises(InputError, match=message) as refusal:
            stage()
        assert "\n" not in str(refusal.value) and ".json" in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_whole_numbers_written_as_decimals_and_no_detections_are_read(tmp_path):
    write_json(tmp_path / "p.json", [GOOD | {"image_id": 1.0, "score": 1}])
    assert read_predictions(tmp_path / "p.json", TRUTH)[0]["image_id"] == 1
    check_predictions(TRUTH, [])


@pytest.mark.parametrize(
    ("boxes", "doubt"),
    [
        ([[120, 60, 180, 90], [10, 10, 20, 20]], "1 of 2 boxes end far outside their images; .* not xmin, ymin, xmax"),
        ([[0.1, 0.1, 0.2, 0.3]], "all 1 boxes lie within 0..1; expected pixels"),
        ([[10, 10, 20, 20], [150, 50, 55, 52]], ""),  # a little outside
    ],
)
def test_boxes_of_another_form_are_warned_of(tmp_path, caplog, boxes, doubt):
    write_json(tmp_path / "p.json", [GOOD | {"bbox": box} for box in boxes])
    read_predictions(tmp_path / "p.json", TRUTH)
    assert bool(caplog.text) == bool(doubt)
    if doubt:
        assert re.search(doubt, caplog.text)


def test_the_cases_of_other_projects_are_refused(shared):
    truth = {**TRUTH, "images": [{**TRUTH["images"][0], "id": n} for n in range(1, 200)]}
    truth["categories"] = [{"id": n, "name": str(n)} for n in (1, 2, 3)]
    refused = set()
    for file in sorted((shared / "cases" / "predictions").iterdir()):
        try:
            read_predictions(file, truth)
        except InputError:
            refused.add(file.stem)
    assert refused >= {"cat0", "dictform", "listid", "nobbox", "nullbbox", "strid"}
