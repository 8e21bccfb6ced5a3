import numpy as np
import pytest
import torch
import torchvision

from detection import late
from detection.average_precision import score
from detection.late import OVERLAP, pool, suppressed_boxes, weighted_boxes
from pipeline.artefacts import read_json, sha256_json, write_json
from pipeline.stage import InputError


def found(bbox, value, image=1, category=1):
    return {"image_id": image, "category_id": category, "bbox": list(map(float, bbox)), "score": value}


def truth_of(*boxes):
    return {
        "images": [{"id": 1, "file_name": "a", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": list(b), "area": b[2] * b[3], "iscrowd": 0}
            for n, b in enumerate(boxes, 1)
        ],
    }


def test_two_boxes_of_one_object_become_their_weighted_mean():
    boxes, scores = weighted_boxes(np.array([[10.0, 10, 20, 20], [12, 10, 20, 20]]), np.array([0.9, 0.3]))
    assert boxes.tolist() == [[pytest.approx(10.5), 10, 20, 20]]
    assert scores.tolist() == [pytest.approx(0.6)]


def test_box_that_one_detector_alone_sees_counts_for_half():
    merged = pool([found((10, 10, 20, 20), 0.8)], [found((60, 60, 20, 20), 0.6)])
    assert [p["score"] for p in merged] == [pytest.approx(0.4), pytest.approx(0.3)]


def test_boxes_of_other_classes_and_images_are_not_pooled():
    merged = pool([found((10, 10, 20, 20), 0.8)], [found((10, 10, 20, 20), 0.6, category=2)])
    assert len(merged) == 2
    assert len(pool([found((10, 10, 20, 20), 0.8)], [found((10, 10, 20, 20), 0.6, image=2)])) == 2


def test_at_most_a_hundred_boxes_of_an_image_are_kept_the_strongest():
    many = [found((n, 0, 1, 1), (n + 1) / 200) for n in range(150)]
    merged = pool(many, [], "suppressed")
    assert len(merged) == 100
    assert [p["score"] for p in merged] == sorted((p["score"] for p in many), reverse=True)[:100]


def test_as_many_boxes_of_an_image_are_kept_and_counted_as_by_the_bands_tests(tmp_path):
    truth = truth_of((10, 10, 20, 20))
    many = [found((60, 60 + n / 10, 9, 9), 0.9 - n / 1000) for n in range(130)]
    for band in ("visible", "infrared"):
        write_band(tmp_path / band, band, truth, [*many, found((10, 10, 20, 20), 0.5)], most_detections=300)
    run(tmp_path, truth, "--pooling", "suppressed")
    usual = read_json(tmp_path / "late" / "ap.json")
    assert usual["provenance"]["most_detections"] == 300 and "at most 300 detections of each class" in usual["protocol"]
    assert len(read_json(tmp_path / "late" / "predictions.json")) <= 100
    for band in ("visible", "infrared"):
        spread = [found((n % 20 * 5, n // 20 * 5, 3, 3), 0.9 - n / 1000) for n in range(130)]
        write_band(tmp_path / band, band, truth, spread, most_detections=300, max_detections=300)
    run(tmp_path, truth, "--pooling", "suppressed")
    assert len(read_json(tmp_path / "late" / "predictions.json")) == 130
    write_band(tmp_path / "infrared", "infrared", truth, [], most_detections=300)
    with pytest.raises(InputError, match=r"has max_detections 300 and .* has 100; expected the same number"):
        run(tmp_path, truth)


def test_suppression_is_torchvisions(rng):
    boxes = np.concatenate([rng.uniform(0, 60, (80, 2)), rng.uniform(10, 40, (80, 2))], axis=1)
    scores = rng.random(80)
    corners = torch.tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
    expected = torchvision.ops.nms(corners, torch.tensor(scores), OVERLAP).numpy()
    ours = suppressed_boxes(boxes, scores)
    np.testing.assert_array_equal(ours[0], boxes[expected])
    np.testing.assert_array_equal(ours[1], scores[expected])


@pytest.mark.parametrize("pooling", ["weighted", "suppressed"])
def test_objects_that_each_band_sees_alone_are_all_found(pooling):
    truth = truth_of((10, 10, 20, 20), (60, 60, 20, 20))
    one, other = [found((10, 10, 20, 20), 0.9)], [found((60, 60, 20, 20), 0.9)]
    assert score(truth, one).average_precision()[0] < 0.6
    assert score(truth, pool(one, other, pooling)).average_precision()[0] == pytest.approx(1)


def write_band(folder, band, truth, predictions, seed=0, **tested):
    write_json(folder / "predictions.json", predictions)
    provenance = {"weights": f"w {band}", "training": f"t {band}", "trained_on": band, "image_size": 64, "versions": {}}
    provenance |= tested | {"data": {"labels": sha256_json(truth)}, "predictions": sha256_json(predictions)}
    facts = {"variant": band, "seed": seed, "detector": "YOLOv5u", "provenance": provenance}
    write_json(folder / "ap.json", facts)


def run(tmp_path, truth, *options):
    write_json(tmp_path / "truth.json", truth)
    folders = [str(tmp_path / name) for name in ("truth.json", "visible", "infrared", "late")]
    late.main(sum(zip(("--truth", "--visible", "--infrared", "--output"), folders, strict=True), options))


def test_stage_writes_what_testing_writes_and_where_it_came_from(tmp_path):
    truth = truth_of((10, 10, 20, 20))
    for band in ("visible", "infrared"):
        write_band(tmp_path / band, band, truth, [found((10, 10, 20, 20), 0.9)])
    run(tmp_path, truth)
    scores = read_json(tmp_path / "late" / "ap.json")
    assert (scores["variant"], scores["seed"], scores["average"]["AP"]) == ("late", 0, pytest.approx(1))
    assert scores["provenance"]["training"] == ["t visible", "t infrared"]
    assert scores["provenance"]["predictions"] == sha256_json(read_json(tmp_path / "late" / "predictions.json"))


def test_other_seeds_other_bands_and_other_labels_are_refused(tmp_path):
    truth = truth_of((10, 10, 20, 20))
    write_band(tmp_path / "visible", "visible", truth, [])
    write_band(tmp_path / "infrared", "infrared", truth, [], seed=1)
    with pytest.raises(InputError, match="expected the same seed"):
        run(tmp_path, truth)
    write_band(tmp_path / "infrared", "visible", truth, [])
    with pytest.raises(InputError, match="describes the variant 'visible'; expected 'infrared'"):
        run(tmp_path, truth)
    write_band(tmp_path / "infrared", "infrared", truth_of((1, 1, 2, 2)), [])
    with pytest.raises(InputError, match=r"with other labels than --truth"):
        run(tmp_path, truth)
