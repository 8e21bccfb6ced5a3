"""Results made elsewhere: how images and classes may be named, and what is refused or warned of."""

import json

import pytest

from detection import external
from detection.average_precision import score
from pipeline.artefacts import read_json, sha256_file, write_json
from pipeline.stage import InputError

BOX = [10.0, 10.0, 20.0, 20.0]


def truth_of(names, first_id=1):
    return {
        "images": [{"id": n, "file_name": name, "width": 200, "height": 100} for n, name in enumerate(names, first_id)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"id": n, "image_id": first_id + n - 1, "category_id": 1 + n % 2, "bbox": BOX, "area": 400.0, "iscrowd": 0}
            for n in range(1, len(names) + 1)
        ],
    }


def run(folder, truth, results, *options):
    write_json(folder / "truth.json", truth)
    (folder / "mine.json").write_text(json.dumps(results))
    external.main(
        ["--variant", "mine", "--results", str(folder / "mine.json"), "--truth", str(folder / "truth.json")]
        + ["--output", str(folder / "out"), *options]
    )
    return read_json(folder / "out/ap.json"), read_json(folder / "out/predictions.json")


def found(image, category=1, **more):
    return {"image_id": image, "category_id": category, "bbox": BOX, "score": 0.9, **more}


NAMES = ["a", "b.c", "00007", "x_1"]


@pytest.mark.parametrize(
    "images",
    [
        [found(n) for n in (1, 2, 3, 4)],
        [found(float(n)) for n in (1, 2, 3, 4)],
        [found(name) for name in NAMES],
        [found(f"{name}.png") for name in NAMES],
        [found(f"test/vi/{name}.jpg") for name in NAMES],
        [found(99, file_name=f"{name}.png", area=400, segmentation=[]) for name in NAMES],
    ],
    ids=["ids", "decimals", "names", "files", "paths", "file_name"],
)
@pytest.mark.parametrize("person", [1, "person"])
def test_images_and_classes_are_named_by_number_or_by_text(tmp_path, images, person):
    _, predictions = run(tmp_path, truth_of(NAMES), [one | {"category_id": person} for one in images])
    assert predictions == [{"image_id": n, "category_id": 1, "bbox": BOX, "score": 0.9} for n in (1, 2, 3, 4)]


def test_a_number_may_be_an_images_name_and_is_refused_where_it_could_be_an_id_of_another(tmp_path):
    names = ["00005", "00006", "00007", "00008"]
    _, predictions = run(tmp_path, truth_of(names, 100), [found(n) for n in (5, 6, 7, 8)])
    assert [one["image_id"] for one in predictions] == [100, 101, 102, 103]
    truth = truth_of(["2", "3", "1", "4"])
    with pytest.raises(InputError, match="both ids in the ground truth and names of other images"):
        run(tmp_path, truth, [found(n) for n in (1, 2, 3, 4)])
    _, predictions = run(tmp_path, truth, [found(0, file_name=name) for name in ("2", "3", "1", "4")])
    assert [one["image_id"] for one in predictions] == [1, 2, 3, 4]
    _, predictions = run(tmp_path, truth_of(["1", "2", "3", "4"]), [found(n) for n in (1, 2, 3, 4)])
    assert len(predictions) == 4


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([found("nobody")], "names 1 images that are not test images, 'nobody'; expected names such as 'a'"),
        ([found("a"), found(2)], "names some images by text and some by number"),
        ([found(1, file_name="a"), found(2)], "has `file_name` in 1 of 2 detections"),
        ([found("a", "lorry")], "has the class 'lorry'; expected one of person, car"),
        ([found(9)], "prediction 0 has the image_id 9"),
        ([found(1), 5], "prediction 1 is 5; expected an object"),
        ([found(1), found([1])], "prediction 1 has the image_id"),
        ([found(1, 3)], "prediction 0 has the category_id 3"),
        ([found(1) | {"score": 90}], "has the score 90; expected 0 to 1"),
        ([], "no detection in 4 of the 4 test images with a box"),
        ([found(1)] * 9, "no detection in 3 of the 4 test images with a box, '00007', 'b.c', 'x_1'"),
        ({"annotations": []}, "expected COCO results"),
    ],
)
def test_what_would_be_counted_wrongly_is_refused_and_nothing_written(tmp_path, results, message):
    with pytest.raises(InputError, match=message) as refusal:
        run(tmp_path, truth_of(NAMES), results)
    assert "mine.json" in str(refusal.value) and not (tmp_path / "out").exists()


def test_absent_images_and_classes_are_warned_of_and_counted(tmp_path, caplog):
    scores, _ = run(tmp_path, truth_of(NAMES), [found(n, 2) for n in (1, 2)])
    assert "no detection in 2 of 4 test images, 2 of them with a box: counted as nothing found" in caplog.text
    assert "no detection of 'person': are its classes numbered from 1?" in caplog.text
    assert scores["brought"]["images_without_detection"] == 2


def test_an_image_without_a_box_need_not_have_a_detection(tmp_path):
    truth = truth_of(NAMES)
    truth["annotations"] = truth["annotations"][:1]
    assert run(tmp_path, truth, [found(1, 2)])[0]["brought"]["images_without_detection"] == 3


def test_scores_are_the_evaluators_and_the_file_is_named_by_its_digest(tmp_path):
    results = [found(n, 1 + n % 2) | {"score": 0.1 * n} for n in (1, 2, 3, 4)] + [found(1) | {"bbox": [90, 50, 9, 9]}]
    scores, predictions = run(tmp_path, truth_of(NAMES), results, "--run", "2")
    assert scores["average"]["AP"] == pytest.approx(score(truth_of(NAMES), predictions).table()["average"]["AP"])
    assert (scores["variant"], scores["seed"]) == ("mine", 2)
    assert scores["provenance"]["results"] == scores["brought"]["sha256"] == sha256_file(tmp_path / "mine.json")
    assert "training" not in scores["provenance"]


def test_no_more_is_kept_of_an_image_than_a_test_keeps(tmp_path):
    many = [found(1) | {"score": n / 200} for n in range(150)] + [found(n) for n in (2, 3, 4)]
    scores, predictions = run(tmp_path, truth_of(NAMES), many)
    kept = [one["score"] for one in predictions if one["image_id"] == 1]
    assert len(kept) == 100 and min(kept) == 50 / 200 and scores["brought"]["left_out"] == 50
    assert scores["provenance"]["max_detections"] == 100
    assert run(tmp_path, truth_of(NAMES), many, "--max-detections", "300")[0]["brought"]["left_out"] == 0
