"""Detectors of elsewhere, used as they are: what is loaded, how classes find partners, which outputs are understood."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from detection import test as testing
from detection.as_is import AsIs, LoadedDetector, in_plain_layout, load_as_is, map_classes
from detection.average_precision import without_classes
from detection.detector import build_model, save_weights
from pipeline.artefacts import read_json
from pipeline.stage import InputError

NAMES = {0: "person", 1: "car", 2: "dog"}
# One box, from (8, 16) to (40, 48), of the second class.
PLAIN = np.array([[[24.0], [32], [32], [32], [0.1], [0.9], [0.0]]], np.float32)
FINISHED = np.array([[[8.0, 16, 40, 48, 0.9, 1]]], np.float32)
FRACTIONS = np.array([[[24 / 64, 32 / 64, 0.5, 0.5, 0.1, 0.9, 0.0]]], np.float32)


def write_onnx(path, output, shape=(1, 3, 64, 64), **metadata):
    """Write an ONNX detector that finds the same in every image."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    found = helper.make_tensor_value_info("output0", TensorProto.FLOAT, output.shape)
    constant = helper.make_tensor("c", TensorProto.FLOAT, output.shape, output.ravel())
    node = helper.make_node("Constant", [], ["output0"], value=constant)
    model = helper.make_model(
        helper.make_graph([node], "g", [image], [found]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    stated = {"names": str(NAMES), "imgsz": "[64, 64]", "task": "detect", **metadata}
    helper.set_model_props(model, {key: value for key, value in stated.items() if value})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("output", "metadata", "suppressed"),
    [
        (PLAIN, {}, False),
        (FINISHED, {"args": "{'nms': True}"}, True),
        (FRACTIONS, {"head": "RTDETRDecoder"}, True),
        (FRACTIONS, {"description": "Ultralytics RT-DETR-l model"}, True),
    ],
    ids=["plain", "suppressed", "rtdetr", "rtdetr before heads were stated"],
)
def test_each_layout_of_an_export_gives_the_same_box(tmp_path, caplog, output, metadata, suppressed):
    path = write_onnx(tmp_path / "d.onnx", output, **metadata)
    model, facts = load_as_is(path, ["person=People", "car=Car"], ["Car", "Bus", "People"], False, 1)
    found, _ = model(torch.zeros(1, 3, 64, 64))
    assert found[0, :4, 0].tolist() == [24, 32, 32, 32] and model.suppressed == suppressed
    expected = [0.9, 0.0, 0.0 if output is FINISHED else 0.1]  # Car, Bus, People
    assert found[0, 4:, 0].tolist() == pytest.approx(expected)
    assert facts["image_size"] == 64 and facts["fixed"]
    assert ("its own NMS" in facts["detector"]) == (output is FINISHED) == ("score threshold is unknown" in caplog.text)
    assert facts["as_is"] == {
        **{"file": "d.onnx", "classes": {"person": "People", "car": "Car"}, "dropped": ["dog"], "unknown": ["Bus"]}
    }


def test_a_fixed_input_is_filled_up_and_images_go_one_by_one(tmp_path):
    path = write_onnx(tmp_path / "d.onnx", PLAIN)
    model, _ = load_as_is(path, ["car=Car"], ["Car"], False, 1)
    assert model(torch.zeros(3, 3, 32, 64))[0].shape == (3, 5, 1)


def test_of_several_classes_with_one_partner_the_largest_score_counts():
    detector = LoadedDetector(lambda pixels: torch.tensor(PLAIN), ("a", "b", "c"), 64)
    assert AsIs(detector, [[0, 1], []])(torch.zeros(1, 3, 64, 64))[0][0, 4:, 0].tolist() == pytest.approx([0.9, 0.0])


def test_suppressed_boxes_are_suppressed_again_only_where_two_classes_are_one_of_ours():
    rows = torch.tensor([[[8.0, 8, 24, 24, 0.9, 0], [8, 8, 24, 24, 0.8, 1]]])
    detector = LoadedDetector(lambda pixels: rows, ("car", "truck"), 64)
    assert AsIs(detector, [[0, 1]]).shared and not AsIs(detector, [[0], [1]]).shared
    plain = LoadedDetector(lambda pixels: torch.tensor(PLAIN), ("a", "b", "c"), 64)
    assert not AsIs(plain, [[0, 1, 2]]).shared


@pytest.mark.parametrize("shape", [(1, 8, 100), (1, 300, 7), (1, 6), (1, 300, 38)])
def test_other_layouts_are_refused_with_what_was_found(shape):
    detector = LoadedDetector(lambda pixels: torch.zeros(shape), ("a", "b", "c"), 64)
    with pytest.raises(InputError, match=r"shape \(1, .* for 3 classes; expected \(B, 7, N\), \(B, M, 6\)"):
        in_plain_layout(torch.zeros(shape), detector, (64, 64))
    with pytest.raises(InputError, match="output has the shape"):
        AsIs(detector, [[0]])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"names": ""}, "has no metadata `names`"),
        ({"names": "__import__('os').system('touch ran')"}, "has no metadata `names`"),
        ({"names": "{1: 'a', 2: 'b', 3: 'c'}"}, "has no metadata `names`"),
        ({"shape": (1, 4, 64, 64)}, "expected one input of floats"),
        ({"shape": (1, 3, 64, 96)}, "expected one input of floats"),
        ({"shape": (2, 3, 64, 64)}, "expected one input of floats"),
        ({"names": "{0: 'a'}"}, "the shape (1, 7, 1) for 1 classes"),
    ],
)
def test_an_onnx_file_of_another_kind_is_refused(tmp_path, monkeypatch, made, message):
    monkeypatch.chdir(tmp_path)
    path = write_onnx(tmp_path / "d.onnx", PLAIN, **made)
    with pytest.raises(InputError) as refusal:
        load_as_is(path, ["a=Car"], ["Car"], False, 1)
    assert message in str(refusal.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["person"], "expected THEIRS=OURS"),
        (["person=People", "person=Car"], "each class of theirs once"),
        (["cat=Car"], "d.pt has no class 'cat'; expected one of 'person', 'car', 'dog'"),
        (["car=Lorry"], "the dataset has no class 'Lorry'; expected one of 'People', 'Car'"),
        ([], "--as-is without --classes"),
    ],
)
def test_partners_that_there_are_not_are_refused(tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        map_classes(words, list(NAMES.values()), ["People", "Car"], tmp_path / "d.pt")


def test_a_class_that_is_not_known_has_no_ap_and_no_part_in_averages():
    table = {
        "classes": {
            "a": {"AP": 0.5, "AP_small": float("nan"), "boxes": 3},
            "b": {"AP": 0.0, "AP_small": 0.0, "boxes": 9},
        },
        "average": {"AP": 0.25, "AP_small": 0.0},
    }
    found = without_classes(table, ["b"])
    assert found["average"]["AP"] == 0.5 and np.isnan(found["average"]["AP_small"])
    assert np.isnan(found["classes"]["b"]["AP"]) and found["classes"]["b"]["boxes"] == 9
    assert without_classes(table, []) == table


@pytest.fixture
def network(tmp_path):
    """A detector with random weights, as this project and as ultralytics write it."""
    torch.manual_seed(3)
    model = build_model("yolov8n", ["People", "Car"]).eval()
    facts = {"model": "yolov8n", "classes": ["People", "Car"], "variant": "visible", "image_size": 64, "seed": 0}
    save_weights(tmp_path / "weights.pt", model, {**facts, "digest": "d", "start": "random"})
    torch.save({"model": model, "ema": None, "train_args": {"imgsz": 96}}, tmp_path / "theirs.pt")
    return model


def test_a_pickle_is_loaded_on_trust_alone_and_is_the_same_network_as_our_weights(network, tmp_path):
    classes, words = ["People", "Car", "Bus"], ["People=People", "Car=Car"]
    with pytest.raises(InputError, match=r"if you trust its origin, add --trust-weights .* or export it as ONNX"):
        load_as_is(tmp_path / "theirs.pt", words, classes, False, 1)
    theirs, facts = load_as_is(tmp_path / "theirs.pt", words, classes, True, 1)
    ours, own = load_as_is(tmp_path / "weights.pt", words, classes, False, 1)
    assert (facts["image_size"], own["image_size"], own["fixed"]) == (96, 64, False)
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(pixels)[0]
        for model in (theirs, ours):
            found = model(pixels)[0]
            assert torch.equal(found[:, :6], expected) and not found[:, 6].any()
    for content in ({"model": "text"}, {"model": torch.nn.Linear(1, 1)}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(
            InputError, match=r"contains (str|Linear); expected a detector of ultralytics|not a weights file"
        ):
            load_as_is(tmp_path / "other.pt", words, classes, True, 1)


def test_the_stage_tests_it_on_a_variant_and_says_what_it_is(tiny, network, tmp_path, caplog):
    words = ["--data", str(tiny / "infrared/data.yaml"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    caplog.set_level("INFO")
    testing.main(["--as-is", "--weights", str(tmp_path / "weights.pt"), "--classes", "Car=Car", *words])
    scores = read_json(tmp_path / "out/ap.json")
    assert scores["variant"] == "infrared" and scores["detector"].startswith("weights.pt as it is (sha256 ")
    assert scores["as_is"]["dropped"] == ["People"] and scores["classes"]["People"]["AP"] is None
    assert scores["average"]["AP"] == scores["classes"]["Car"]["AP"] is not None
    assert "training" not in scores["provenance"]
    assert "the detector's classes without a partner: 'People'" in caplog.text
    with pytest.raises(InputError, match="require --as-is"):
        testing.main(["--weights", str(tmp_path / "weights.pt"), "--classes", "Car=Car", *words])
