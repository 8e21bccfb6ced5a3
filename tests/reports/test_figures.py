"""The paper's figures: their panels and their order; a missing panel is labelled and never filled."""

import cv2
import numpy as np
import pytest
import torch

from fusion.fnet.network import FNet
from fusion.methods import METHODS
from fusion.weights import write_state
from pipeline.artefacts import read_json
from pipeline.pairs import write_image
from pipeline.stage import InputError
from reports import figures


@pytest.fixture
def data(tmp_path, rng):
    """Test sets of one small pair each."""
    for dataset, (visible, infrared, _) in figures.SETS.items():
        for folder in (visible, infrared):
            image = rng.integers(0, 256, (40, 60, 3), np.uint8)
            write_image(tmp_path / "data" / dataset / folder / "1.png", image)
    return tmp_path / "data"


def test_the_three_thresholds_agree_with_their_equations():
    axes = figures.draw_thresholds().axes
    hard, soft, smooth = (panel.get_lines()[-1].get_xydata() for panel in axes)

    def at(curve, x):
        return curve[np.abs(curve[:, 0] - x).argmin(), 1]

    assert [at(hard, x) for x in (-2, -0.5, 0.5, 2)] == pytest.approx([-2, 0, 0, 2])
    assert [at(soft, x) for x in (-2, -0.5, 0.5, 2)] == pytest.approx([-1, 0, 0, 1], abs=1e-9)
    assert [at(smooth, x) for x in (-2, -0.5, 0.5, 2)] == pytest.approx([-1.9, 0, 0, 1.9], abs=1e-6)


def test_the_crop_is_where_both_sources_have_edges():
    visible, infrared = np.zeros((2, 50, 70), np.uint8)
    visible[5:45:2, 5:15] = 255  # much to see, but for one of them
    visible[30:36:2, 50:56] = infrared[30:36, 50:56:2] = 255
    x, y = figures.busiest_square(visible, infrared, 10)
    assert 44 <= x <= 52 and 24 <= y <= 32


def test_methods_of_our_own_come_first_and_fnet_last():
    order = figures.method_order(("SwinFusion", "NoSuchMethod", "FNet"))
    assert order[-1] == "fnet"
    assert "NoSuchMethod" in order
    assert order.index("average") < order.index("NoSuchMethod")
    assert set(METHODS) <= set(order)
    assert len(order) == len(set(order))


def test_a_method_without_weights_is_a_labelled_gap(data, tmp_path):
    figures.main(["--figures", "6", "--data", str(data), "--output", str(tmp_path / "out"), "--threads", "1"])
    facts = read_json(tmp_path / "out/figures.json")["figures"]["fig6"]
    assert facts["gaps"]["FNet"] == "no weights"
    # A method that the paper does not name has no panel without them.
    assert not {"average", "sage"} & facts["gaps"].keys()
    assert cv2.imread(str(tmp_path / "out/fig6.png")).std() > 0


def test_the_ablations_are_fused_with_their_own_weights(data, tmp_path):
    torch.manual_seed(0)
    for name, block in (("full", "lzsc"), ("lcsc", "lcsc")):
        write_state(tmp_path / f"{name}.safetensors", FNet(block).state_dict())
    words = [f"{name}={tmp_path}/{name}.safetensors" for name in ("full", "lcsc")]
    output = tmp_path / "out"
    figures.main(
        ["--figures", "10", "--data", str(data), "--output", str(output), "--threads", "1", "--ablations", *words]
    )
    facts = read_json(output / "figures.json")["figures"]["fig10"]
    assert [pair["dataset"] for pair in facts["pairs"]] == ["TNO", "RoadScene"]
    assert set(facts["gaps"]) == {figures.ABLATIONS[name] for name in figures.ABLATIONS if name not in ("full", "lcsc")}
    assert len(set(facts["weights"].values())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "nonsense"], "expected NAME=VALUE"),
        (["--weights", "nosuch=file"], "found name 'nosuch'"),
        (["--ablations", "fnet=file"], "expected one of lcsc"),
        (["--pairs", "TNO=absent"], "no visible image for 'absent'"),
        (["--columns", "1"], "expected at least 2"),
    ],
)
def test_mistakes_are_named(data, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        figures.main(["--data", str(data), "--output", str(tmp_path / "out"), *arguments])
