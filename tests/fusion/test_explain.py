"""FNet's insides: they add up to what FNet returns, and the command writes them for both kinds of block."""

import json

import numpy as np
import pytest
import torch

from fusion import explain
from fusion.fnet.network import FNet
from fusion.methods.fnet import read_network
from fusion.weights import write_state
from pipeline.pairs import write_image
from pipeline.stage import InputError


@pytest.fixture
def pair(rng) -> dict[str, np.ndarray]:
    return {name: rng.random((18, 27), np.float32) for name in ("visible", "infrared")}


@pytest.mark.parametrize("block", ["lzsc", "lcsc"])
def test_the_three_reconstructions_sum_to_the_fused_luma(pair, block):
    torch.manual_seed(3)
    network = FNet(block)
    codes = explain.sparse_codes(network, **pair)
    with torch.inference_mode():
        fused = network(*(torch.from_numpy(pair[name])[None, None] for name in ("visible", "infrared")))
    assert np.allclose(sum(code.reconstruction for code in codes.values()), fused[0, 0].numpy(), atol=1e-5)


def test_the_unique_code_of_a_source_does_not_see_the_other(pair):
    torch.manual_seed(3)
    network = FNet()
    before = explain.sparse_codes(network, **pair)
    after = explain.sparse_codes(network, pair["visible"], 1 - pair["infrared"])
    assert np.array_equal(before["visible"].features, after["visible"].features)
    assert not np.allclose(before["infrared"].features, after["infrared"].features)
    assert not np.allclose(before["common"].features, after["common"].features)


def test_silent_values_of_a_hard_threshold_are_its_zeros(pair):
    torch.manual_seed(3)
    for code in explain.sparse_codes(FNet("lcsc"), **pair).values():
        assert 0 < code.silent[-1] < 1
        assert code.silent[-1] == pytest.approx((code.features == 0).mean(), abs=1e-6)


def test_a_code_that_adds_little_is_still_seen():
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    codes = {
        name: explain.Code(np.repeat(size * image[None], 4, 0), size * image, [0.1], [0.0], [0.0], [0.0])
        for name, size in (("visible", 1.0), ("infrared", 0.1), ("common", 0.01))
    }
    sources = {"visible": image, "infrared": image}
    for sheet in (explain.features_sheet, explain.reconstructions_sheet):
        pictures = [axes.get_images()[0] for axes in sheet(codes, sources).axes if ", to " in axes.get_title()]
        assert len(pictures) >= 3
        for picture in pictures:
            assert np.abs(picture.get_array()).max() >= 0.9 * picture.get_clim()[1]


def test_the_command_writes_sheets_and_numbers(pair, tmp_path):
    torch.manual_seed(3)
    write_state(tmp_path / "weights.safetensors", FNet().state_dict())
    for name, image in pair.items():
        write_image(tmp_path / f"{name}.png", np.uint8(255 * image))
    files = {name: str(tmp_path / f"{name}.png") for name in pair}
    arguments = ["--weights", str(tmp_path / "weights.safetensors"), "--output", str(tmp_path / "out")]
    explain.main([*arguments, "--visible", files["visible"], "--infrared", files["infrared"], "--threads", "1"])
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"features.png", "reconstructions.png", "iterations.png", "insides.json"}
    facts = json.loads((tmp_path / "out/insides.json").read_text())
    assert facts["provenance"]["size"] == [27, 18]
    for code in facts["codes"].values():
        assert code["thresholds"] == sorted(code["thresholds"], reverse=True)
        assert len(code["silent_share"]) == len(code["momenta"]) == 5


def test_of_folders_the_first_name_of_a_list_is_explained(pair, tmp_path):
    write_state(tmp_path / "weights.safetensors", FNet().state_dict())
    for name, image in pair.items():
        for stem in ("a", "b"):
            write_image(tmp_path / name / f"{stem}.png", np.uint8(255 * image))
    (tmp_path / "names.txt").write_text("b\na\n")
    arguments = ["--weights", str(tmp_path / "weights.safetensors"), "--output", str(tmp_path / "out")]
    folders = ["--visible", str(tmp_path / "visible"), "--infrared", str(tmp_path / "infrared")]
    explain.main([*arguments, *folders, "--names", str(tmp_path / "names.txt"), "--threads", "1"])
    assert json.loads((tmp_path / "out/insides.json").read_text())["provenance"]["name"] == "b"
    with pytest.raises(InputError, match="expected one image, or folders with --names"):
        explain.main([*arguments, *folders])


def test_sources_of_different_size_are_refused(pair, tmp_path):
    write_state(tmp_path / "weights.safetensors", FNet().state_dict())
    write_image(tmp_path / "a.png", np.uint8(255 * pair["visible"]))
    write_image(tmp_path / "b.png", np.uint8(255 * pair["infrared"][1:]))
    with pytest.raises(InputError, match=r"b\.png is 27x17, expected 27x18"):
        explain.main(
            f"--weights {tmp_path}/weights.safetensors --output {tmp_path}/out --visible {tmp_path}/a.png "
            f"--infrared {tmp_path}/b.png".split()
        )


def test_the_authors_weights_keep_what_only_infrared_sees(shared):
    network = read_network(shared / "data/checkpoints/FNet/FNet.pth")
    visible, infrared = np.full((64, 64), 0.3, np.float32), np.full((64, 64), 0.2, np.float32)
    infrared[24:40, 28:36] = 0.9  # somebody warm, whom the visible camera does not see
    codes = explain.sparse_codes(network, visible, infrared)
    added = codes["infrared"].reconstruction + codes["common"].reconstruction
    assert added[28:36, 30:34].mean() > added[:12].mean() + 0.1
