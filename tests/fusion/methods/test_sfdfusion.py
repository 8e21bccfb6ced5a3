"""SFDFusion: the authors' network and weights, and its images' spectra."""

import numpy as np
import pytest
import torch
from method_checks import check_authors_file, check_authors_images, check_sizes_and_batches, random_pairs

from fusion.cost import count_multiply_adds, count_parameters
from fusion.methods.sfdfusion import Gradient, network
from fusion.training.similarity import gradient


def test_parameters_and_multiply_adds_are_those_of_the_fact_sheet():
    assert count_parameters(network(None)) == 139_695
    assert count_multiply_adds(network(None), 320, 320) == 14_269_150_080


def test_any_size_and_batch():
    check_sizes_and_batches(network(None).eval(), sizes=((37, 51), (1, 5)))


def test_an_odd_side_repeats_what_is_next_to_its_last_row_or_column():
    made, (visible, infrared) = network(None).eval(), random_pairs(1, 13, 11)
    with torch.inference_mode():
        fused = made(visible, infrared)
        even = made(visible[..., :12, :10], infrared[..., :12, :10])
    assert np.array_equal(fused[0, 0], np.pad(even[0, 0], (0, 1), mode="edge"))


def test_untrained_edges_are_sobels():
    maps = torch.rand(2, 8, 9, 12)
    for channel in range(8):
        assert torch.allclose(Gradient()(maps)[:, [channel]], gradient(maps[:, [channel]]), atol=1e-5)


def test_amplitudes_and_phases_left_as_they_are_give_back_the_image():
    made, (visible, infrared) = network(None).double(), random_pairs(1, 12, 10).double()
    made.ff1.forward = made.ff2.forward = lambda infrared, visible: infrared
    # Up to the 1e-8 that is added to both parts of a spectrum.
    assert torch.allclose(made.frequency_domain_fusion(visible, infrared), infrared, atol=1e-7)


def test_a_constant_image_is_black_and_every_other_one_has_the_whole_range():
    made, (visible, infrared) = network(None).eval(), random_pairs(1, 12, 10)
    with torch.inference_mode():
        fused = made(visible, infrared)
        made.fus_block.down_conv[-1][0].weight.zero_()
        assert torch.equal(made(visible, infrared), torch.zeros(1, 1, 12, 10))
    assert (fused.min(), fused.max()) == (0, 1)


def test_the_authors_file_loads_and_comes_back_from_ours(shared, tmp_path):
    check_authors_file(shared, "sfdfusion", "SFDFusion/model-1_1_10_1.pth", tmp_path)


def test_the_authors_image_of_even_sides_comes_out(shared):
    check_authors_images(shared, "sfdfusion", "SFDFusion", ["05"])


@pytest.mark.by_hand
def test_all_of_the_authors_images_come_out(shared):
    check_authors_images(shared, "sfdfusion", "SFDFusion", ["01", "02", "03", "04"])
