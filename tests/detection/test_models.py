"""Other detectors of the package: built from their descriptions, trained by the same loop, tested alike."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from detection import loop, test, train
from detection.detector import build_model, describe, load_weights, own_architecture, raw_detections
from pipeline.artefacts import read_json, sha256_json
from pipeline.stage import InputError

SMALL = ["--image-size", "64", "--epochs", "2", "--batch", "5", "--nominal-batch", "5", "--close-mosaic", "1"]
SMALL += ["--optimizer", "AdamW", "--lr0", "0.0005", "--device", "cpu", "--threads", "1"]
OWN = yaml.safe_load(Path(__file__).with_name("small.yaml").read_text())
BACKBONE = OWN["backbone"]
DECODER = [[[3, 4, 5], 1, "RTDETRDecoder", ["nc", 32, 20, 2, 2, 2, 32]]]


@pytest.fixture
def write(tmp_path):
    def write(content, name="own.yaml"):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def run(tiny, output, model, *options):
    """Train and test; return the provenance, the losses and ap.json."""
    data = str(tiny / "visible" / "data.yaml")
    train.main(["--data", data, "--output", str(output), "--model", model, *SMALL, *options])
    test.main(["--data", data, "--weights", str(output / "weights.pt"), "--output", str(output), "--device", "cpu"])
    losses = pd.read_csv(output / "results.csv", comment="#")
    return read_json(output / "provenance.json"), losses, read_json(output / "ap.json")


@pytest.mark.parametrize(
    ("model", "name"),
    [("yolov5n", "YOLOv5u (yolov5n, "), ("yolov8n", "YOLOv8 (yolov8n, "), ("yolo11n", "YOLO11 (yolo11n, ")],
)
def test_a_yolo_of_the_package_is_trained_and_tested_by_its_name(tiny, tmp_path, model, name):
    provenance, losses, scores = run(tiny, tmp_path, model)
    assert provenance["detector"].startswith(name) and scores["detector"] == provenance["detector"]
    assert losses[["box", "cls", "dfl"]].notna().all(axis=None) and (losses["loss"] > 0).all()
    assert "architecture" not in provenance and provenance["recipe"]["model"] == model
    assert scores["detections"] > 0


def test_an_architecture_of_ones_own_goes_with_its_weights_and_its_digest(tiny, tmp_path, write):
    path = write(OWN)
    provenance, _, scores = run(tiny, tmp_path / "a", path)
    digest = sha256_json(OWN)
    assert provenance["architecture"] == digest
    assert provenance["detector"] == scores["detector"] == describe(path, OWN)
    assert provenance["detector"].startswith(f"own.yaml (sha256 {digest[:12]}, ")
    (tmp_path / "own.yaml").unlink()  # the weights know what they are weights of
    model, facts = load_weights(tmp_path / "a" / "weights.pt")
    assert facts["architecture"] == OWN and model.model[0].conv.out_channels == 8
    wider = {**OWN, "backbone": [[-1, 1, "Conv", [16, 3, 2]], *BACKBONE[1:]]}
    other, _, _ = run(tiny, tmp_path / "b", write(wider))
    assert other["digest"] != provenance["digest"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_transformer_is_trained_with_its_own_loss_and_tested_without_suppression(tiny, tmp_path, write, precision):
    path = write({**OWN, "head": DECODER})
    provenance, losses, scores = run(tiny, tmp_path / "a", path, "--precision", precision)
    assert "scipy" in provenance["versions"]
    assert losses[["giou", "cls", "l1"]].notna().all(axis=None) and "dfl" not in losses
    assert scores["detections"] > 0
    found = []
    for overlap in ("0.01", "0.99"):
        arguments = ["--data", str(tiny / "visible" / "data.yaml"), "--weights", str(tmp_path / "a" / "weights.pt")]
        test.main([*arguments, "--output", str(tmp_path / overlap), "--device", "cpu", "--iou", overlap])
        found.append((tmp_path / overlap / "predictions.json").read_text())
    assert found[0] == found[1]


def test_a_transformer_that_is_interrupted_ends_where_it_would_have(tiny, tmp_path, write, monkeypatch):
    path, real = write({**OWN, "head": DECODER}), loop._write_checkpoint
    run(tiny, tmp_path / "whole", path)

    def killed(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_write_checkpoint", killed)
        run(tiny, tmp_path / "killed", path)
    run(tiny, tmp_path / "killed", path, "--resume")
    assert (tmp_path / "killed/weights.pt").read_bytes() == (tmp_path / "whole/weights.pt").read_bytes()


def test_the_packages_transformer_is_built_and_its_boxes_are_in_pixels():
    torch.manual_seed(0)
    model = build_model("rtdetr-l", ["a", "b"]).eval()
    assert describe("rtdetr-l").startswith("RT-DETR (rtdetr-l, ")
    with torch.inference_mode():
        found = raw_detections(model, torch.rand(1, 3, 64, 96))
    assert found.shape[:2] == (1, 6)
    np.testing.assert_array_less(found[0, 2].numpy().max(), 96.001)
    assert found[0, 0].max() > 1 and found[0, 4:].min() >= 0 and found[0, 4:].max() <= 1


def test_the_scale_of_an_own_file_is_its_key_or_its_names_letter(write):
    scaled = {**OWN, "scales": {"n": [1.0, 0.25, 1024], "s": [1.0, 0.5, 1024]}}
    assert own_architecture(write(scaled, "yolov8s.yaml"))["scale"] == "s"
    assert own_architecture(write({**scaled, "scale": "n"}))["scale"] == "n"
    with pytest.raises(InputError, match=r"own.yaml has the scales \['n', 's'\]; expected a key `scale`"):
        own_architecture(write(scaled))


def with_layer(*layer):
    return {**OWN, "backbone": [[-1, 1, *layer], *BACKBONE[1:]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['touch exploded']", "is not valid YAML"),
        ("- 1", "is not an architecture"),
        ({"backbone": [], "head": []}, "is not an architecture"),
        (with_layer("torch_safe_load", ["bomb.pt"]), "has the layer 'torch_safe_load'"),
        (with_layer("os.system", ["touch exploded"]), "has the layer 'os.system'"),
        (with_layer("nn.functional", []), "has the layer 'nn.functional'"),
        (with_layer("TorchVision", [8, "resnet18", "DEFAULT"]), "has the layer 'TorchVision'"),
        ({**OWN, "activation": "__import__('os').system('touch exploded')"}, "cannot be built"),
        (with_layer("Conv", ["__import__('os').system('touch exploded')", 3, 2]), "cannot be built"),
        ({**OWN, "head": [[[3, 4, 5], 1, "Segment", ["nc", 32, 256]]]}, "has the head 'Segment'"),
        ({**OWN, "end2end": True}, "has a head with `end2end`"),
        ({**OWN, "backbone": [*BACKBONE, [-1, 1, "Conv", [32, 3, 2]]], "head": [[[4, 5, 6], 1, "Detect", ["nc"]]]},
         "has a stride of 64 pixels"),
    ],
)  # fmt: skip
def test_an_own_file_that_is_no_detector_or_means_harm_is_refused(write, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        build_model(write(content), ["a"])
    assert not (tmp_path / "exploded").exists()


def test_weights_with_a_harmful_architecture_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harmful = {**OWN, "activation": "__import__('os').system('touch exploded')"}
    facts = {"model": "own.yaml", "classes": ["a"], "architecture": harmful}
    torch.save({"format": 1, "facts": facts, "weights": {}}, "w.pt")
    with pytest.raises(InputError, match="cannot be built"):
        load_weights(tmp_path / "w.pt")
    assert not (tmp_path / "exploded").exists()


def test_own_file_that_is_missing_is_named():
    with pytest.raises(InputError, match=r"--model none\.yaml does not exist"):
        build_model("none.yaml", ["a"])
