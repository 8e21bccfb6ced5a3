"""The fast path is the plain one: values, sizes, tiles, precisions."""

import pytest
import torch

from fusion.colour import split_pair
from fusion.methods.fnet import read_network
from fusion.networks.fast import REACH, prepare, spans, tiled
from fusion.networks.fnet import FNet
from fusion.networks.ifnet import IFNet
from fusion.pairs import find_pairs


@pytest.fixture(scope="module")
def fnet():
    torch.manual_seed(3)
    return FNet()


@pytest.mark.parametrize("shape", [(1, 1, 40, 33), (3, 1, 17, 64), (2, 1, 5, 3), (1, 1, 1, 1), (1, 1, 300, 9)])
def test_values_are_those_of_the_plain_network(fnet, shape):
    visible, infrared = torch.rand(2, *shape)
    exact = FNet().double()
    exact.load_state_dict(fnet.state_dict())
    with torch.inference_mode():
        expected = exact(visible.double(), infrared.double())
    found = prepare(fnet)(visible, infrared)
    assert found.shape == visible.shape and found.dtype == torch.float32
    # Untrained thresholds are steep: where one is met, rounding grows a hundredfold, in the plain network as well.
    difference = (found - expected).abs()
    assert difference.mean() < 2e-6 and difference.max() < 1e-4


def test_black_pictures_stay_black(fnet):
    # The threshold of exactly 0 is 0, though that of any other small value is a jump away from it.
    assert prepare(fnet)(*torch.zeros(2, 1, 1, 20, 20)).count_nonzero() == 0


def test_the_inverse_network_gives_its_two_outputs():
    torch.manual_seed(4)
    network, fused = IFNet(), torch.rand(2, 1, 21, 30)
    with torch.inference_mode():
        expected = network(fused)
    found = prepare(network)(fused)
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-5


def test_other_number_types_and_blocks_run_as_well(fnet):
    visible, infrared = torch.rand(2, 1, 1, 20, 22)
    for network, kind in ((FNet("lcsc"), torch.float32), (FNet().double(), torch.float64)):
        with torch.inference_mode():
            expected = network(visible.to(kind), infrared.to(kind))
        found = prepare(network)(visible.to(kind), infrared.to(kind))
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-5


def test_the_result_does_not_depend_on_threads_or_on_what_was_computed_before(fnet):
    pictures = [torch.rand(2, 1, 1, 130, 150), torch.rand(2, 1, 1, 31, 40)]
    fast, threads = prepare(fnet), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([fast(*pictures[index]) for index in (0, 1, 0)])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for first, second, third in results:
        assert torch.equal(first, third)
        assert torch.equal(first, results[0][0]) and torch.equal(second, results[0][1])


def test_a_tiled_picture_is_the_untiled_one(fnet):
    visible, infrared = torch.rand(2, 1, 1, 190, 70)
    fast = prepare(fnet)
    whole = fast(visible, infrared)
    tiles = tiled(lambda *parts: [fast(*parts)], [visible, infrared], 2 * REACH, tile=60)[0]
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


def test_bfloat16_is_close(fnet):
    visible, infrared = torch.rand(2, 1, 1, 64, 64)
    difference = (prepare(fnet, "bf16")(visible, infrared) - prepare(fnet)(visible, infrared)).abs()
    assert 0 < difference.mean() < 0.02


def test_the_authors_weights_fuse_a_tno_pair_to_the_same_grey_levels(shared):
    network = read_network(shared / "data/checkpoints/FNet/FNet.pth")
    folder = shared / "data/fusion_test/TNO"
    visible, infrared, *_ = split_pair(find_pairs([folder / "vi"], [folder / "ir"])[0], "grey")
    pair = torch.from_numpy(visible[:160, :200]).float() / 255, torch.from_numpy(infrared[:160, :200]).float() / 255
    pair = [image[None, None] for image in pair]

    def grey(image):
        return (image.clamp(0, 1) * 255).round()

    with torch.inference_mode():
        expected = grey(network(*pair))
    difference = (grey(prepare(network)(*pair)) - expected).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3
    difference = (grey(prepare(network, "bf16")(*pair)) - expected).abs()
    assert difference.max() <= 4 and difference.mean() < 0.5
