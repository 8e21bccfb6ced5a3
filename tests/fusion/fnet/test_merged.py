"""Merged convolutions are the networks', and pictures in tiles the untiled ones."""

import pytest
import torch

from fusion.fnet.inverse import IFNet
from fusion.fnet.merged import REACH, apply_block, connect, merge_network, spans, tiled
from fusion.fnet.network import FNet


@pytest.mark.parametrize("block", ["lzsc", "lcsc"])
@pytest.mark.parametrize(("make", "images"), [(FNet, 2), (IFNet, 1)])
def test_merged_networks_have_the_values_and_gradients_of_the_plain_ones(make, images, block):
    torch.manual_seed(7)
    network, inputs = make(block).double(), torch.rand(images, 1, 1, 10, 9, dtype=torch.float64)
    results = {}
    for name in ("plain", "merged"):
        network.zero_grad()
        outputs = network(*inputs) if name == "plain" else connect(merge_network(network), apply_block, inputs)
        outputs = outputs if isinstance(outputs, torch.Tensor) else torch.cat(outputs)
        outputs.square().sum().backward()
        results[name] = [outputs, *(parameter.grad.clone() for parameter in network.parameters())]
    for merged, plain in zip(results["merged"], results["plain"], strict=True):
        assert (merged - plain).norm() <= 1e-10 * plain.norm()


def test_a_tiled_picture_is_the_untiled_one():
    torch.manual_seed(3)
    network = FNet()
    visible, infrared = torch.rand(2, 1, 1, 185, 40)
    with torch.inference_mode():
        whole = network(visible, infrared)
        tiles = tiled(lambda *parts: [network(*parts)], [visible, infrared], 2 * REACH, tile=60)[0]
    assert (tiles - whole).abs().max() < 1e-5


def test_a_value_sees_as_far_as_the_tiles_overlap_and_no_further():
    torch.manual_seed(5)
    network, picture = FNet().double(), torch.zeros(1, 1, 1, 200, dtype=torch.float64)
    picture[..., 0] = 1
    with torch.inference_mode():
        seen = network(picture, picture)[0, 0, 0].nonzero()  # of zeros it makes exact zeros
    assert seen.max() == 2 * REACH


def test_spans_cover_a_length_evenly():
    assert spans(10, 4) == [(0, 3), (3, 6), (6, 10)]
    assert spans(4, 4) == [(0, 4)]
