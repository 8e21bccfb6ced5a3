import json

import numpy as np
import pytest
import torch

from detection import test as stage
from detection.detector import build_model, save_weights
from detection.test import letterbox, predict, suppress
from detection.variant import read_data
from pipeline.artefacts import read_json
from pipeline.stage import InputError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained weights of six classes, as training would write them."""
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.manual_seed(0)
    classes = ["People", "Car", "Bus", "Lamp", "Motorcycle", "Truck"]
    facts = {"model": "yolov5n", "classes": classes, "variant": "visible", "image_size": 64, "seed": 3, "digest": "d"}
    save_weights(path, build_model("yolov5n", classes), {**facts, "start": "random"})
    return path


def run(tiny, weights, output, *options, variant="visible"):
    arguments = ["--weights", str(weights), "--data", str(tiny / variant / "data.yaml"), "--output", str(output)]
    stage.main([*arguments, "--device", "cpu", "--threads", "1", *options])
    return json.loads((output / "predictions.json").read_text()), read_json(output / "ap.json")


def test_image_is_centred_on_grey_of_whole_strides():
    image = np.full((60, 100, 3), 200, np.uint8)
    boxed, (left, top) = letterbox(image, 100)
    assert boxed.shape == (64, 128, 3)
    assert (left, top) == (14, 2)
    assert (boxed[2:62, 14:114] == 200).all()
    assert (boxed == 200).sum() == 60 * 100 * 3 and (boxed[0] == 114).all()


def test_suppression_is_that_of_the_package():
    from ultralytics.utils.nms import non_max_suppression

    rng = np.random.default_rng(2)
    centres, sides = rng.uniform(20, 100, (2, 400)), rng.uniform(5, 40, (2, 400))
    found = torch.tensor(np.concatenate([centres, sides, rng.random((3, 400)) ** 4]), dtype=torch.float32)
    boxes, scores, labels = suppress(found, 0.1, 0.6, 50)
    theirs = non_max_suppression(found[None].clone(), 0.1, 0.6, multi_label=True, max_det=50, max_time_img=1e9)[0]
    assert len(scores) == 50 and (scores.diff() <= 0).all()
    torch.testing.assert_close(boxes, theirs[:, :4])
    torch.testing.assert_close(scores, theirs[:, 4])
    assert labels.tolist() == theirs[:, 5].int().tolist()


def test_suppression_of_nothing_is_nothing():
    boxes, scores, labels = suppress(torch.zeros(6, 10), 0.1, 0.6, 50)
    assert boxes.shape == (0, 4) and len(scores) == len(labels) == 0


class Blocks(torch.nn.Module):
    """A detector that knows the tiny set: one box around what is brighter than 200 in the letterboxed image."""

    def forward(self, pixels):
        found = []
        for image in pixels:
            ys, xs = torch.where(image.max(0).values > 200 / 255)
            x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
            box = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            found.append(torch.tensor([*box, 0.5, 0.25, 0, 0, 0, 0])[:, None])
        return torch.stack(found), None


def test_memory_that_does_not_suffice_is_an_error_that_says_what_to_set(tiny):
    class Full(torch.nn.Module):
        def forward(self, pixels):
            raise torch.OutOfMemoryError("CUDA out of memory")

    data = read_data(tiny / "infrared" / "data.yaml", "test")
    with pytest.raises(InputError, match=r"--batch 3 of --image-size 96 does not fit .*use a smaller --batch"):
        predict(Full(), data, "cpu", 96, 3, 0.1, 0.7, 100)


@pytest.mark.parametrize("size", [96, 192])
def test_boxes_are_in_pixels_of_the_original_image(tiny, size):
    data = read_data(tiny / "infrared" / "data.yaml", "test")
    found = predict(Blocks(), data, "cpu", size, 3, 0.1, 0.7, 100)
    truth = {a["image_id"]: a["bbox"] for a in data.truth["annotations"]}
    assert len(found) == 2 * len(truth)  # each box for two classes
    for prediction in found:
        assert prediction["bbox"] == pytest.approx(truth[prediction["image_id"]], abs=0.01 if size == 96 else 1.01)
    assert {(p["category_id"], p["score"]) for p in found} == {(1, 0.5), (2, 0.25)}


def test_predictions_stay_within_their_images(tiny, weights, tmp_path):
    predictions, _ = run(tiny, weights, tmp_path, "--conf", "0", "--batch", "3")
    sizes = {
        i["id"]: (i["width"], i["height"]) for i in read_data(tiny / "visible" / "data.yaml", "test").truth["images"]
    }
    assert predictions
    for prediction in predictions:
        x, y, w, h = prediction["bbox"]
        width, height = sizes[prediction["image_id"]]
        assert 0 <= x <= x + w <= width + 1e-3 and 0 <= y <= y + h <= height + 1e-3


def test_scores_say_what_they_are_of(tiny, weights, tmp_path):
    _, scores = run(tiny, weights, tmp_path)
    assert scores["variant"] == "visible" and scores["seed"] == 3
    assert scores["detector"].startswith("YOLOv5u (yolov5n")
    assert "COCO" in scores["protocol"]
    assert list(scores["classes"]) == ["People", "Car", "Bus", "Lamp", "Motorcycle", "Truck"]
    columns = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100")
    assert scores["classes"]["Bus"] == {**dict.fromkeys(columns), "boxes": 0}
    assert set(scores["classes_without_boxes"]) >= {"Bus", "Lamp", "Motorcycle", "Truck"}
    assert set(scores["average"]) == set(columns)
    assert scores["conditions"] == {}
    assert scores["confusion"]["least_score"] == 0.25 and scores["confusion"]["overlap"] == 0.5
    assert (scores["images"], scores["boxes"]) == (4, 4)
    data = read_data(tiny / "visible" / "data.yaml", "test")
    assert scores["provenance"]["data"] == data.digests()
    assert (scores["provenance"]["nms_iou"], scores["provenance"]["confidence"]) == (0.7, 0.001)
    assert (scores["provenance"]["device"], scores["provenance"]["threads"]) == ("cpu", 1)
    computing = {"torch", "torchvision", "ultralytics", "numpy", "opencv-python-headless", "pycocotools"}
    assert set(scores["provenance"]["versions"]) == {"python", *computing}


def test_no_detections_are_a_valid_result(tiny, weights, tmp_path):
    predictions, scores = run(tiny, weights, tmp_path, "--conf", "0.999")
    assert predictions == []
    assert scores["average"]["AP"] == 0


def test_weights_of_other_classes_are_refused(tiny, weights, tmp_path):
    save_weights(tmp_path / "w.pt", build_model("yolov5n", ["a"]), {"model": "yolov5n", "classes": ["a"]})
    with pytest.raises(InputError, match=r"w\.pt has the classes \['a'\]"):
        run(tiny, tmp_path / "w.pt", tmp_path)


def test_weights_of_another_variant_are_a_warning(tiny, weights, tmp_path, caplog):
    run(tiny, weights, tmp_path, variant="infrared")
    assert "was trained on visible and is tested on infrared" in caplog.text


def test_missing_weights_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match=r"none\.pt does not exist"):
        run(tiny, tmp_path / "none.pt", tmp_path)


def test_more_detections_of_a_class_than_are_kept_in_an_image_are_refused(tiny, weights, tmp_path):
    with pytest.raises(InputError, match="--most-detections 300 is more than --max-detections 100 keeps"):
        run(tiny, weights, tmp_path / "out", "--most-detections", "300", "--max-detections", "100")
    with pytest.raises(InputError, match="--most-detections 99: expected 100 to 300"):
        run(tiny, weights, tmp_path / "out", "--most-detections", "99")
    found, scores = run(tiny, weights, tmp_path / "out", "--most-detections", "200", "--conf", "0", "--iou", "1")
    assert scores["provenance"]["max_detections"] == scores["provenance"]["most_detections"] == 200
    assert "at most 200 detections of each class" in scores["protocol"]
    assert max(np.bincount([p["image_id"] for p in found])) > 100
