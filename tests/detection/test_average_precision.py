import copy

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.average_precision import (
    accumulate,
    evaluate,
    read_conditions,
    score,
    score_conditions,
)
from detection.matching import confusion, found_annotations
from detection.truth import build_truth
from pipeline.stage import InputError


def truth_of(boxes, classes=("a", "b"), images=2):
    """Ground truth of images 1, 2, ... from (image, class index from 0, x, y, w, h)."""
    truth = {
        "images": [{"id": n, "file_name": str(n), "width": 100, "height": 100} for n in range(1, images + 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes, 1)],
        "annotations": [],
    }
    for number, (image, label, *bbox) in enumerate(boxes, 1):
        truth["annotations"].append(
            {"id": number, "image_id": image, "category_id": label + 1, "bbox": list(map(float, bbox))}
            | {"area": float(bbox[2] * bbox[3]), "iscrowd": 0}
        )
    return truth


def found(image, label, x, y, w, h, value):
    return {"image_id": image, "category_id": label + 1, "bbox": [x, y, w, h], "score": value}


def test_perfect_detections_score_one_even_of_the_first_annotation():
    truth = truth_of([(1, 0, 10, 10, 20, 20), (2, 1, 30, 30, 40, 40)])
    scores = score(truth, [found(1, 0, 10, 10, 20, 20, 0.9), found(2, 1, 30, 30, 40, 40, 0.8)])
    assert scores.average_precision() == pytest.approx([1, 1])


def test_no_detections_at_all_score_zero():
    table = score(truth_of([(1, 0, 10, 10, 20, 20)]), []).table()
    assert table["classes"]["a"]["AP"] == 0
    assert table["average"]["AP"] == 0


def test_class_without_boxes_is_undefined_and_left_out_of_the_average():
    table = score(truth_of([(1, 0, 10, 10, 20, 20)]), [found(1, 0, 10, 10, 20, 20, 0.9)]).table()
    assert np.isnan(table["classes"]["b"]["AP"])
    assert table["classes"]["b"]["boxes"] == 0
    assert table["average"]["AP"] == pytest.approx(1)
    assert table["classes_without_boxes"] == ["b"]


def test_detections_of_a_class_without_boxes_change_no_average():
    truth = truth_of([(1, 0, 10, 10, 20, 20)])
    table = score(truth, [found(1, 0, 10, 10, 20, 20, 0.9), found(1, 1, 50, 50, 9, 9, 0.9)]).table()
    assert table["average"]["AP"] == pytest.approx(1)
    assert np.isnan(table["classes"]["b"]["AP"])


def test_ground_truth_without_boxes_has_no_score():
    table = score(truth_of([]), []).table()
    assert np.isnan(table["average"]["AP"])


def test_overlap_of_sixty_percent_counts_at_three_of_ten_thresholds():
    # 20x20 found as 12x20 within it: intersection over union 0.6, a match at 0.50, 0.55 and 0.60.
    scores = score(truth_of([(1, 0, 10, 10, 20, 20)]), [found(1, 0, 10, 10, 12, 20, 0.9)])
    assert scores.average_precision()[0] == pytest.approx(0.3)
    assert scores.average_precision(0.5)[0] == pytest.approx(1)
    assert scores.average_precision(0.75)[0] == 0


def test_stronger_false_detection_halves_the_precision():
    truth = truth_of([(1, 0, 10, 10, 20, 20)])
    scores = score(truth, [found(1, 0, 60, 60, 20, 20, 0.9), found(1, 0, 10, 10, 20, 20, 0.8)])
    assert scores.average_precision()[0] == pytest.approx(0.5)


def test_half_of_the_boxes_found_gives_half_of_the_recalls():
    # Precision 1 at the recalls 0, 0.01, ..., 0.50: 51 of 101.
    scores = score(truth_of([(1, 0, 10, 10, 20, 20), (2, 0, 10, 10, 20, 20)]), [found(1, 0, 10, 10, 20, 20, 0.9)])
    assert scores.average_precision()[0] == pytest.approx(51 / 101)


def test_recall_and_areas_stay_at_hand():
    scores = score(truth_of([(1, 0, 10, 10, 20, 20)]), [found(1, 0, 10, 10, 20, 20, 0.9)])
    assert scores.precision.shape == (10, 101, 2, 4, 3)
    assert scores.recall.shape == (10, 2, 4, 3)
    assert scores.average_precision(area=1)[0] == pytest.approx(1)  # small: under 32x32
    assert np.isnan(scores.average_precision(area=3)[0])  # no large box


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (found(0, 0, 1, 1, 2, 2, 0.5), "image_id 0; expected one of the 2 in the ground truth, 1 to 2"),
        (found("1", 0, 1, 1, 2, 2, 0.5), "image_id '1'"),
        (found(1, -1, 1, 1, 2, 2, 0.5), "category_id 0; expected one of the 2 in the ground truth"),
        (found(1, 2, 1, 1, 2, 2, 0.5), "category_id 3"),
        (found(1, 0, 1, 1, 2, 2, float("nan")), "five finite numbers"),
        (found(1, 0, 1, 1, 2, None, 0.5), "five finite numbers"),
    ],
)
def test_prediction_of_an_unknown_id_or_without_numbers_is_refused(prediction, message):
    with pytest.raises(InputError, match=message):
        score(truth_of([(1, 0, 10, 10, 20, 20)]), [prediction])


def test_nothing_is_printed_and_nothing_written_into_the_input(capsys):
    truth = truth_of([(1, 0, 10, 10, 20, 20)])
    predictions = [found(1, 0, 10, 10, 20, 20, 0.9)]
    before = repr(truth), repr(predictions)
    score(truth, predictions)
    assert capsys.readouterr() == ("", "")
    assert (repr(truth), repr(predictions)) == before


def random_case(rng, images=12, classes=4):
    boxes, predictions = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 9)):
            label = int(rng.integers(0, classes - 1))  # the last class has no box
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(4, 40, 2)]).round(3)
            boxes.append((image, label, *map(float, box)))
            for _ in range(rng.integers(0, 3)):
                near = np.abs(box + rng.normal(0, 1, 4)).round(3)
                predictions.append(found(image, label, *map(float, near), float(rng.random())))
        for _ in range(rng.integers(0, 5)):
            box = np.concatenate([rng.uniform(0, 60, 2), rng.uniform(4, 40, 2)]).round(3)
            predictions.append(found(image, int(rng.integers(0, classes)), *map(float, box), float(rng.random())))
    return truth_of(boxes, tuple("abcd"[:classes]), images), predictions


@pytest.mark.parametrize("seed", range(4))
def test_a_second_evaluator_agrees(seed):
    faster = pytest.importorskip("faster_coco_eval", reason="the second evaluator is not installed")
    truth, predictions = random_case(np.random.default_rng(seed))
    ours = score(truth, predictions)
    expected = faster.COCO(truth)
    evaluation = faster.COCOeval_faster(expected, expected.loadRes(predictions), "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    theirs = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])
    np.testing.assert_allclose(ours.precision, theirs, atol=1e-9)
    np.testing.assert_allclose(
        ours.recall, np.where(evaluation.eval["recall"] < 0, np.nan, evaluation.eval["recall"]), atol=1e-9
    )
    evaluation.summarize()  # the published summary: AP, AP50, AP75, small, medium, large, ..., AR100 at the ninth place
    table = ours.table()["average"]
    columns = ("AP", "AP50", "AP75", "AP_small", "AP_medium")
    np.testing.assert_allclose([table[c] for c in columns], evaluation.stats[[0, 1, 2, 3, 4]], atol=1e-9)
    assert np.isnan(table["AP_large"])  # the boxes of this case are smaller
    assert table["AR100"] == pytest.approx(evaluation.stats[8], abs=1e-9)
    assert 0.05 < np.nanmean(ours.average_precision()) < 0.95


def test_more_detections_than_the_protocols_count_where_asked_for_and_the_recall_at_100_stays():
    wrong = [found(1, 0, 60, 60, 9, 9, 0.9)] * 120
    truth, predictions = truth_of([(1, 0, 10, 10, 20, 20)]), [*wrong, found(1, 0, 10, 10, 20, 20, 0.5)]
    averages = [score(truth, predictions, most).table()["average"] for most in (100, 300)]
    assert [average["AP"] for average in averages] == pytest.approx([0, 1 / 121])
    assert [average["AR100"] for average in averages] == [0, 0]
    night = score_conditions(evaluate(truth, predictions, most=300), {"1": "night"})["night"]["average"]
    assert night["AP"] == pytest.approx(1 / 121)


def test_conditions_are_scored_as_data_sets_of_their_own():
    truth = truth_of([(1, 0, 10, 10, 20, 20), (2, 0, 10, 10, 20, 20)], images=3)
    tables = score_conditions(
        evaluate(truth, [found(1, 0, 10, 10, 20, 20, 0.9)]), {"1": "day", "2": "night", "x": "fog"}
    )
    assert {name: (t["images"], t["average"]["AP"]) for name, t in tables.items()} == {
        "day": (1, pytest.approx(1)),
        "night": (1, 0.0),
    }


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_pycocotools(seed):
    truth, predictions = random_case(np.random.default_rng(seed))
    for number, annotation in enumerate(truth["annotations"]):
        annotation["iscrowd"] = int(number % 7 == 0)
    detections = [
        {**p, "id": n, "area": p["bbox"][2] * p["bbox"][3], "iscrowd": 0} for n, p in enumerate(predictions, 1)
    ]
    indexes = [COCO(), COCO()]
    for index, annotations in zip(indexes, (copy.deepcopy(truth["annotations"]), detections), strict=True):
        index.dataset = truth | {"annotations": annotations}
        index.createIndex()
    plain = COCOeval(*indexes, "bbox")
    plain.evaluate()
    for ours, theirs in zip(evaluate(truth, predictions).evalImgs, plain.evalImgs, strict=True):
        assert (ours is None) == (theirs is None)
        for key in theirs or ():
            np.testing.assert_array_equal(ours[key], theirs[key], key)


def test_part_of_the_images_scores_as_if_it_were_all(rng):
    truth, predictions = random_case(rng)
    ids = {1, 4, 5, 11}
    part = truth | {
        "images": [image for image in truth["images"] if image["id"] in ids],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in ids],
    }
    expected = score(part, [p for p in predictions if p["image_id"] in ids])
    evaluation = evaluate(truth, predictions)
    whole = accumulate(evaluation)
    found = accumulate(evaluation, ids)
    np.testing.assert_array_equal(found.precision, expected.precision)
    np.testing.assert_array_equal(found.recall, expected.recall)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert not np.array_equal(found.precision, whole.precision, equal_nan=True)
    np.testing.assert_array_equal(accumulate(evaluation).precision, whole.precision)  # nothing is left behind


def test_split_without_conditions_has_none_and_a_broken_file_is_refused(tmp_path):
    assert read_conditions(tmp_path / "conditions.json") == read_conditions(None) == {}
    (tmp_path / "conditions.json").write_text('{"source": "x", "images": {"a": "day", "b": null}}')
    assert read_conditions(tmp_path / "conditions.json") == {"a": "day"}
    (tmp_path / "conditions.json").write_text("[]")
    with pytest.raises(InputError, match="no mapping `images`"):
        read_conditions(tmp_path / "conditions.json")


def test_confusion_counts_boxes_by_true_and_found_class():
    truth = truth_of([(1, 0, 10, 10, 20, 20), (1, 1, 50, 50, 20, 20), (2, 0, 5, 5, 9, 9)])
    predictions = [
        found(1, 0, 10, 10, 20, 20, 0.9),  # right
        found(1, 1, 11, 10, 20, 20, 0.8),  # the box is taken: background
        found(1, 0, 50, 50, 20, 20, 0.7),  # b taken for a
        found(2, 0, 5, 5, 9, 9, 0.2),  # too weak: missed
    ]
    assert confusion(truth, predictions)["counts"] == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert confusion(truth, predictions)["classes"] == ["a", "b", "background"]


def test_crowds_are_no_objects_and_what_lies_in_them_is_no_false_alarm():
    truth = truth_of([(1, 0, 10, 10, 20, 20), (1, 1, 50, 50, 40, 40), (2, 1, 0, 0, 9, 9)])
    for crowd in truth["annotations"][1:]:
        crowd["iscrowd"] = 1
    predictions = [
        found(1, 0, 10, 10, 20, 20, 0.9),  # right
        found(1, 1, 55, 55, 8, 8, 0.8),  # in the crowd
        found(1, 0, 60, 55, 8, 8, 0.8),  # likewise, of another class
        found(1, 1, 86, 86, 9, 9, 0.7),  # by less than half in it: background
    ]
    assert confusion(truth, predictions)["counts"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert found_annotations(truth, predictions) == {1}
    assert score(truth, predictions).table()["classes_without_boxes"] == ["b"]


def test_object_is_found_by_a_detection_of_its_class_alone():
    truth = truth_of([(1, 0, 10, 10, 20, 20), (1, 1, 50, 50, 20, 20), (2, 0, 5, 5, 9, 9)])
    predictions = [found(1, 0, 10, 10, 20, 20, 0.9), found(1, 0, 50, 50, 20, 20, 0.7), found(2, 0, 5, 5, 9, 9, 0.2)]
    assert found_annotations(truth, predictions) == {1}


def test_truth_that_we_build_can_be_scored():
    from detection.boxes import Box

    truth = build_truth({"00042": 7}, {"00042": (50, 40)}, {"00042": [Box("b", 1.5, 2, 10, 20)]}, ("a", "b"))
    assert truth["annotations"][0]["bbox"] == [1.5, 2, 8.5, 18]
    assert score(truth, [found(7, 1, 1.5, 2, 8.5, 18, 0.9)]).table()["classes"]["b"]["AP"] == pytest.approx(1)
