"""The scenes: which are chosen, and what a detection finds."""

import cv2
import numpy as np
import pytest

from pipeline.artefacts import read_json, write_json
from reports import scenes
from reports.collect import read_split


def test_scenes_are_spread_over_the_sorted_list():
    names = [f"{number:03}" for number in range(60)]
    chosen = scenes.choose_images(names[::-1], 6)
    assert [int(name) // 10 for name in chosen] == [0, 1, 2, 3, 4, 5]
    assert chosen == scenes.choose_images(names, 6)


def test_few_names_are_all_chosen():
    assert scenes.choose_images(["b", "a"], 6) == ["a", "b"]
    assert scenes.choose_images([], 6) == []


def test_images_are_scaled_down_and_never_up():
    image = np.zeros((30, 100, 3), np.uint8)
    assert scenes.scaled(image, 50).shape == (15, 50, 3)
    assert scenes.scaled(image, 500).shape == image.shape


def viewed(run) -> list[dict]:
    """The viewer's scenes of a run's first two test images."""
    images = {name: [run.folder / f"fused/{name}"] for name in run.variants}
    predictions = {name: run.ap(name).with_name("predictions.json") for name in run.variants}
    pictures = scenes.read_pictures(read_split(run.split), images, predictions)
    return scenes.viewer_images(pictures, run.test[:2], 0.05, 640, scenes.ImageStore())


def test_detections_say_which_true_box_they_find(example):
    run = example()
    truth = read_json(run.split / "truth_test.json")
    box = next(entry for entry in truth["annotations"] if entry["image_id"] == int(run.test[0]))
    found = {"image_id": box["image_id"], "category_id": box["category_id"], "bbox": box["bbox"], "score": 0.9}
    stray = found | {"category_id": 1 + box["category_id"] % 6, "score": 0.8}
    write_json(run.ap("fnet").with_name("predictions.json"), [found | {"score": 0.01}, stray, found])
    scene = viewed(run)[0]
    detections = scene["panes"]["fnet"]["detections"]
    assert [item[5:] for item in detections] == [[0.9, 0], [0.8, -1]]  # the weakest is left out
    assert scene["truth"][0][:4] == box["bbox"]


def test_a_scene_says_its_condition(example):
    run = example()
    write_json(run.split / "conditions.json", {"source": "the data set", "images": {run.test[0]: "fog"}})
    assert [scene["condition"] for scene in viewed(run)] == ["fog", ""]


def test_pictures_of_an_earlier_page_are_removed(tmp_path):
    (tmp_path / "0123456789abcdef.webp").write_bytes(b"of an earlier page")
    images = scenes.ImageStore(tmp_path)
    images.add(np.zeros((4, 4), np.uint8))
    images.finish()
    assert [file.name for file in tmp_path.iterdir()] == images.written


# What a detection finds


def box(x: float, y: float, width: float, height: float, name: str = "Car") -> dict:
    return {"bbox": [x, y, width, height], "class": name}


def test_overlap_is_intersection_over_union():
    assert scenes.overlap([0, 0, 4, 4], [2, 0, 4, 4]) == pytest.approx(8 / 24)
    assert scenes.overlap([0, 0, 4, 4], [4, 0, 4, 4]) == 0
    assert scenes.overlap([0, 0, 0, 0], [0, 0, 0, 0]) == 0


def test_a_box_is_found_once_and_by_the_most_certain():
    truth = [box(0, 0, 10, 10)]
    assert scenes.match(truth, [box(1, 0, 10, 10), box(0, 0, 10, 10)]) == [0, -1]


def test_a_detection_of_another_class_finds_nothing():
    assert scenes.match([box(0, 0, 10, 10)], [box(0, 0, 10, 10, "Bus")]) == [-1]


def test_a_detection_finds_the_box_that_it_covers_best():
    truth = [box(0, 0, 10, 10), box(2, 0, 10, 10)]
    assert scenes.match(truth, [box(2, 0, 10, 10), box(1, 0, 10, 10)]) == [1, 0]


def test_a_false_detection_in_a_crowd_of_its_class_is_not_shown(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 100), np.uint8))
    inside, beside = box(41, 41, 8, 8), box(0, 0, 8, 8)
    found = [{**one, "score": 0.9} for one in (inside, beside, {**inside, "class": "Bus"})]
    pictures = scenes.Pictures(
        files={"visible": {"a": tmp_path / "a.png"}},
        folders={"visible": [tmp_path]},
        classes=["Car", "Bus"],
        boxes={"a": []},
        crowds={"a": [box(40, 40, 30, 30)]},
        detections={"visible": {"a": found}},
        conditions={},
    )
    (scene,) = scenes.viewer_images(pictures, ["a"], 0.25, 100, scenes.ImageStore())
    assert [shown[:2] for shown in scene["panes"]["visible"]["detections"]] == [[0, 0], [41, 41]]


def test_matches_are_those_of_the_coco_evaluator(rng):
    """Found boxes at overlap 0.5 are as many as pycocotools counts, over random scenes."""
    from detection.average_precision import score

    for _ in range(20):
        corners = rng.uniform(0, 60, (6, 2))
        truth = [box(*map(float, corner), 20.0, 20.0) for corner in corners]
        shifted = corners[rng.integers(0, 6, 9)] + rng.normal(0, 4, (9, 2))
        detections = [box(*map(float, corner), 20.0, 20.0) for corner in shifted]
        images = [{"id": 1, "file_name": "a", "width": 100, "height": 100}]
        entries = [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": b["bbox"], "area": 400.0, "iscrowd": 0}
            for n, b in enumerate(truth, 1)
        ]
        results = [
            {"image_id": 1, "category_id": 1, "bbox": b["bbox"], "score": 0.9 - 0.01 * n}
            for n, b in enumerate(detections)
        ]
        coco = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "Car"}]}
        found = sum(index >= 0 for index in scenes.match(truth, detections))
        assert found / 6 == pytest.approx(score(coco, results).recall[0, 0, 0, -1])
