"""Detectors that are given both bands: what they are shown, what they are made of, how they are trained and tested."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from detection import loop, test, train, variant
from detection.detector import build_model, load_weights, network_cost, save_weights, start_from
from detection.images import TrainingImages, in_network_order, read_input
from detection.inside import INSIDE, stream_names, two_streams
from detection.recipe import AUGMENTATION, Recipe
from detection.variant import read_data
from pipeline.artefacts import read_json
from pipeline.stage import InputError

SMALL = Path(__file__).with_name("small.yaml")
RECIPE = ["--model", str(SMALL), "--image-size", "64", "--epochs", "2", "--batch", "4", "--nominal-batch", "8"]
RECIPE += ["--optimizer", "AdamW", "--lr0", "0.0005", "--device", "cpu", "--threads", "1", "--close-mosaic", "1"]
VARIED = {name: getattr(Recipe(mixup=0.5, degrees=5.0, flipud=0.3), name) for name in AUGMENTATION}


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    """The folder of data.yaml of visible, infrared, stacked and twostream."""
    base = tmp_path_factory.mktemp("both")
    for name in INSIDE:
        describe(tiny, name, base / name / "data.yaml")
    for name in ("visible", "infrared"):
        folder = "Vis" if name == "visible" else "Ir"
        words = ["--variant", name, "--prepared", str(tiny / "split"), "--images", str(tiny / "m3fd" / folder)]
        variant.main([*words, "--output", str(base / name / "data.yaml")])
    return base


def describe(tiny, name, output, infrared="Ir"):
    words = ["--variant", name, "--prepared", str(tiny / "split"), "--images", str(tiny / "m3fd" / "Vis")]
    variant.main([*words, "--infrared", str(tiny / "m3fd" / infrared), "--output", str(output)])
    return output


def run(data, output, *options):
    train.main(["--data", str(data), "--output", str(output), *RECIPE, *options])
    return output


def scored(data, output, weights=None):
    weights = weights or output / "weights.pt"
    test.main(["--data", str(data), "--weights", str(weights), "--output", str(output), "--device", "cpu"])
    return read_json(output / "ap.json")


def images_of(data, augmentation=VARIED, canvas="square"):
    return TrainingImages(data, augmentation, 64, 3, 2, canvas)


def test_data_yaml_names_both_bands_and_its_digests_are_theirs(both):
    content = yaml.safe_load((both / "stacked/data.yaml").read_text())
    assert (content["inside"], content["channels"], content["manifest"]) == ("stacked", 4, None)
    assert [Path(content[key][0]).name for key in ("images", "infrared")] == ["Vis", "Ir"]
    for part in ("train", "test"):
        visible, infrared, stacked, twostream = (
            read_data(both / name / "data.yaml", part).digests() for name in ("visible", "infrared", *INSIDE)
        )
        assert stacked["images"] == visible["images"] and stacked["infrared_images"] == infrared["images"]
        assert twostream == stacked and visible.keys() == infrared.keys() == stacked.keys() - {"infrared_images"}


@pytest.mark.parametrize("canvas", ["square", "fitted"])
def test_the_same_random_numbers_move_both_bands(both, canvas):
    augmentation = VARIED if canvas == "square" else VARIED | {"mosaic": 0.0}
    visible, infrared, stacked = (
        images_of(read_data(both / name / "data.yaml", "train"), augmentation, canvas)
        for name in ("visible", "infrared", "stacked")
    )
    for key in [(0, 0), (0, 7), (1, 3), (5, 2)]:
        one, other, shown = visible[key], infrared[key], stacked[key]
        assert shown["img"].shape[0] == 4
        # Each band moves, and is varied in colour, as it is by itself.
        assert torch.equal(shown["img"][:3], one["img"]) and torch.equal(shown["img"][3], other["img"][0])
        assert torch.equal(shown["bboxes"], one["bboxes"]) and torch.equal(shown["cls"], one["cls"])


def test_colours_vary_the_infrared_luma_in_brightness_alone(both):
    data = read_data(both / "stacked/data.yaml", "train")
    plain = dict.fromkeys(AUGMENTATION, 0.0)
    still = images_of(data, plain)[0, 2]["img"]
    hue = images_of(data, plain | {"hsv_h": 1.0, "hsv_s": 1.0})[0, 2]["img"]
    bright = images_of(data, plain | {"hsv_v": 0.9})[0, 2]["img"]
    assert torch.equal(hue[3], still[3]) and not torch.equal(hue[:3], still[:3])
    assert not torch.equal(bright[3], still[3])


def test_a_test_image_is_shown_as_each_band_by_itself(both):
    visible, infrared, stacked = (
        read_data(both / f"{name}/data.yaml", "test") for name in ("visible", "infrared", "stacked")
    )
    image = stacked.truth["images"][1]
    shown = in_network_order(test.letterbox(read_input(stacked, image), 160)[0])
    alone = [in_network_order(test.letterbox(read_input(data, image), 160)[0]) for data in (visible, infrared)]
    assert np.array_equal(shown[:3], alone[0]) and np.array_equal(shown[3], alone[1][0])


def test_kept_images_take_four_bytes_a_pixel(both):
    visible, stacked = (images_of(read_data(both / f"{name}/data.yaml", "train")) for name in ("visible", "stacked"))
    assert 3 * stacked.keep(0) == 4 * visible.keep(0)


def warmed(model, pixels):
    """Return a model whose norms know these pixels; with those of the start its output hardly hangs on the input."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(pixels)
    return model.eval()


def found_by(model, pixels):
    with torch.inference_mode():
        return model.eval()(pixels)[0]


@pytest.fixture
def pixels(rng):
    return torch.from_numpy(rng.random((2, 4, 64, 96), dtype=np.float32))


@pytest.mark.parametrize("model", ["yolov5n", str(SMALL)])
def test_with_the_infrared_kernels_zero_stacked_gives_the_three_channel_networks_output(model, pixels):
    alone = warmed(build_model(model, ["a", "b"]), pixels[:, :3])
    stacked = build_model(model, ["a", "b"], inside="stacked")
    state, first = alone.state_dict(), "model.0.conv.weight"
    state[first] = torch.cat([state[first], torch.zeros_like(state[first][:, :1])], dim=1)
    stacked.load_state_dict(state)
    wanted = found_by(alone, pixels[:, :3])
    torch.testing.assert_close(found_by(stacked, pixels), wanted, rtol=1e-3, atol=1e-3)
    stacked.model[0].conv.weight.data[:, 3] = 0.1
    assert (found_by(stacked, pixels) - wanted).abs().max() > 0.1


@pytest.mark.parametrize("model", ["yolov5n", "yolov8n", "yolo11n", str(SMALL)])
def test_with_joins_that_pass_the_visible_on_twostream_gives_the_three_channel_networks_output(model, pixels):
    alone = warmed(build_model(model, ["a", "b"]), pixels[:, :3])
    twostream = warmed(build_model(model, ["a", "b"], inside="twostream"), pixels)
    state = {n: one for name, one in alone.state_dict().items() for n in stream_names(name, twostream.yaml)[:1]}
    left = twostream.load_state_dict(state, strict=False)
    assert left.unexpected_keys == []
    layers = twostream.yaml["stream_layers"]
    infrared = range(layers + 3, 2 * layers + 3)
    joins = {int(name.split(".")[1]) for name in left.missing_keys} - set(infrared)
    assert len(joins) == 3  # the levels that the neck reads, and nothing besides
    for number in joins:
        join = twostream.model[number]
        channels = join.conv.out_channels
        join.conv.weight.data[:] = torch.cat([torch.eye(channels), torch.zeros(channels, channels)], 1)[..., None, None]
        join.bn.reset_running_stats()
        join.bn.weight.data[:] = (1 + join.bn.eps) ** 0.5
    wanted = found_by(alone, pixels[:, :3])
    torch.testing.assert_close(found_by(twostream, pixels), wanted, rtol=1e-3, atol=1e-3)
    for number in joins:
        twostream.model[number].conv.weight.data[:, twostream.model[number].conv.out_channels :] = 0.1
    assert (found_by(twostream, pixels) - wanted).abs().max() > 0.1


def test_parameters_and_multiply_adds_are_what_the_layers_come_to():
    alone, stacked, twostream = (build_model("yolov5n", ["a"], inside=inside) for inside in (None, *INSIDE))
    costs = [network_cost(m.eval(), c, 64, 96) for m, c in ((alone, 3), (stacked, 4), (twostream, 4))]
    kernel = 16 * 6 * 6  # of the first convolution, for one channel more
    assert costs[1]["parameters"] - costs[0]["parameters"] == kernel
    assert costs[1]["multiply_adds"] - costs[0]["multiply_adds"] == kernel * 32 * 48
    layers, levels = 10, ((4, 64, 8), (6, 128, 16), (9, 256, 32))  # a level's layer, channels, stride
    backbone = sum(p.numel() for layer in alone.model[:layers] for p in layer.parameters())
    joins = sum(2 * channels * channels + 2 * channels for _, channels, _ in levels)
    assert costs[2]["parameters"] - costs[0]["parameters"] == backbone - 2 * kernel + joins
    assert costs[2]["image"] == [64, 96]
    extra = costs[2]["multiply_adds"] - costs[0]["multiply_adds"]
    joined = sum(2 * channels * channels * (64 // stride) * (96 // stride) for _, channels, stride in levels)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        alone.model[:layers](torch.zeros(1, 3, 64, 96))
    assert extra == counter.get_total_flops() // 2 - 2 * kernel * 32 * 48 + joined


@pytest.mark.parametrize("name", INSIDE)
def test_it_is_trained_tested_and_told_apart(both, tmp_path, name):
    data = both / name / "data.yaml"
    run(data, tmp_path / "a")
    provenance, scores = read_json(tmp_path / "a/provenance.json"), scored(data, tmp_path / "a")
    assert provenance["inside"] == name and load_weights(tmp_path / "a/weights.pt")[1]["inside"] == name
    other = read_json(run(both / "visible/data.yaml", tmp_path / "v") / "provenance.json")
    assert provenance["recipe"] == other["recipe"]
    assert provenance["data"]["order"] == other["data"]["order"] and provenance["detector"] == other["detector"]
    assert scores["variant"] == name and scores["detections"] > 0
    with pytest.raises(InputError, match=f"is a detector for {name}; expected one for one image of three channels"):
        scored(both / "visible/data.yaml", tmp_path / "b", tmp_path / "a/weights.pt")
    with pytest.raises(InputError, match=f"is a detector for one image of three channels; expected one for {name}"):
        scored(data, tmp_path / "b", tmp_path / "v/weights.pt")


@pytest.mark.parametrize("name", INSIDE)
def test_a_killed_training_ends_as_it_would_have(both, tmp_path, monkeypatch, name):
    data, real = both / name / "data.yaml", loop._write_checkpoint
    run(data, tmp_path / "whole")

    def killed(*args):
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_write_checkpoint", killed)
        run(data, tmp_path / "killed", "--save-every", "0")
    run(data, tmp_path / "killed", "--resume")
    assert (tmp_path / "killed/weights.pt").read_bytes() == (tmp_path / "whole/weights.pt").read_bytes()


def test_starting_weights_of_three_channels_fill_four_by_their_mean_and_two_streams_by_both(tmp_path):
    alone = build_model("yolov5n", ["a", "b"])
    save_weights(tmp_path / "w.pt", alone, {"model": "yolov5n", "classes": ["a", "b"]})
    state, total = alone.state_dict(), len(alone.state_dict())
    stacked, twostream = (build_model("yolov5n", ["a", "b"], inside=inside) for inside in INSIDE)
    random = {name: one.clone() for name, one in twostream.state_dict().items()}
    first = state["model.0.conv.weight"]
    assert start_from(stacked, tmp_path / "w.pt", trust=False) == total
    assert torch.equal(stacked.model[0].conv.weight[:, :3], first)
    torch.testing.assert_close(stacked.model[0].conv.weight[:, 3], first.mean(dim=1))
    backbone = [name for name in state if int(name.split(".")[1]) < 10]
    assert start_from(twostream, tmp_path / "w.pt", trust=False) == total + len(backbone)
    assert torch.equal(twostream.model[2].conv.weight, first)
    torch.testing.assert_close(twostream.model[13].conv.weight[:, 0], first.sum(dim=1))
    joins = [name for name in random if int(name.split(".")[1]) in (24, 26, 28)]
    assert len(joins) == 18 and all(torch.equal(twostream.state_dict()[name], random[name]) for name in joins)
    changed = {name for name, one in twostream.state_dict().items() if not torch.equal(one, random[name])}
    assert not changed & set(joins)
    # Weights of a detector like itself are taken as they are.
    save_weights(tmp_path / "t.pt", twostream, {"model": "yolov5n", "classes": ["a", "b"], "inside": "twostream"})
    again = build_model("yolov5n", ["a", "b"], inside="twostream")
    assert start_from(again, tmp_path / "t.pt", trust=False) == len(random)
    assert all(torch.equal(one, twostream.state_dict()[name]) for name, one in again.state_dict().items())


def test_two_streams_are_refused_where_a_levels_channels_do_not_stand_in_its_arguments():
    with pytest.raises(InputError, match=r"twostream cannot be made of rtdetr-l: .* HGBlock with 512 channels"):
        build_model("rtdetr-l", ["a"], inside="twostream")
    small = yaml.safe_load(SMALL.read_text())
    small["backbone"][4] = [-1, 1, "nn.MaxPool2d", []]
    with pytest.raises(InputError, match=r"made of own.yaml: .* nn.MaxPool2d with the arguments \[\]"):
        two_streams(small, "own.yaml")


def test_both_bands_are_named_for_these_variants_and_no_other(tiny, both, tmp_path):
    words = [
        "--prepared",
        str(tiny / "split"),
        "--images",
        str(tiny / "m3fd/Vis"),
        "--output",
        str(tmp_path / "d.yaml"),
    ]
    with pytest.raises(InputError, match="--variant stacked without --infrared; expected"):
        variant.main(["--variant", "stacked", *words])
    with pytest.raises(InputError, match="--variant visible with --infrared; expected"):
        variant.main(["--variant", "visible", *words, "--infrared", str(tiny / "m3fd/Ir")])
    with pytest.raises(InputError, match="are the same file"):
        read_data(describe(tiny, "stacked", tmp_path / "d.yaml", infrared="Vis"), "train")
    content = yaml.safe_load((both / "stacked/data.yaml").read_text())
    for changed in ({"channels": 3}, {"inside": "beside"}, {"inside": None}, {"infrared": []}):
        path = both / "stacked" / "changed.yaml"
        path.write_text(yaml.safe_dump(content | changed))
        with pytest.raises(
            InputError, match="expected none of these keys, or inside stacked or twostream with channels"
        ):
            read_data(path, "train")


def test_infrared_of_another_size_than_the_labels_say_is_refused(both, tmp_path):
    data = read_data(both / "stacked/data.yaml", "train")
    image = data.truth["images"][0]
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((10, 20), np.uint8))
    data = replace(data, infrared={**data.infrared, image["file_name"]: tmp_path / "a.png"})
    with pytest.raises(InputError, match=r"a\.png is 20x10, expected 96x64 as in its labels"):
        read_input(data, image)
