"""MDA: the authors' network and weights, and its training."""

import numpy as np
import pytest
import torch
from method_checks import check_scores, check_sizes_and_batches, fused_scores, losses_of
from torchvision.models import vgg16

from fusion.cost import count_parameters
from fusion.methods.mda import METHOD, edges, entropy, network
from fusion.training.similarity import multiscale_similarity
from fusion.weights import write_state
from pipeline.stage import InputError


def test_parameters_are_those_of_the_fact_sheet():
    made = network(None)
    assert count_parameters(made) == 516_120 and len(made.state_dict()) == 165
    assert sum(parameter.numel() for parameter in made.used_parameters()) == 516_120 - 31_906


def test_any_size_and_batch():
    check_sizes_and_batches(network(None).eval(), sizes=((37, 51), (1, 5)))


def test_the_authors_file_loads_although_it_holds_numpy_scalars_and_comes_back_from_ours(shared, tmp_path):
    made = network(shared / "data/checkpoints/MDA/fusion_model.pth")
    write_state(tmp_path / "ours.safetensors", made.state_dict())
    again = network(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


def test_another_methods_file_lists_what_is_missing(shared):
    with pytest.raises(InputError, match=r"missing downsample_1x"):
        network(shared / "data/checkpoints/FNet/FNet.pth")


@pytest.mark.by_hand
def test_tno_scores_are_those_of_the_fact_sheet(shared):
    (row,) = fused_scores(shared, "mda", shared / "data/checkpoints/MDA/fusion_model.pth", ["05"])
    check_scores(row, [1.03, 0.427, 0.362, 0.939])


def test_the_authors_stretch_to_the_whole_range_and_cut_downwards():
    assert np.rint(METHOD.authors_output(np.array([0.3, 0.4, 0.5])) * 255).tolist() == [0, 127, 255]


def test_entropy_is_that_of_the_histogram():
    assert entropy(torch.full((1, 1, 4, 4), 0.3)).item() == 0
    two = torch.tensor([0.1, 0.9]).repeat(8).view(1, 1, 4, 4)
    assert entropy(two).item() == pytest.approx(1)


def test_edges_of_a_constant_inside_are_nearly_none():
    # The kernel's sum is not nought: its seventh row lacks one.
    inside = edges(torch.ones(1, 2, 20, 20), 1)
    assert inside.shape == (1, 2, 14, 14)
    assert inside[0, 0, 7, 7].item() / 255 == pytest.approx(inside[0, 1, 7, 7].item() / 255)


def test_multiscale_similarity_is_one_for_equal_images_and_less_for_others():
    a, b = torch.rand(2, 1, 176, 180), torch.rand(2, 1, 176, 180)
    assert torch.allclose(multiscale_similarity(a, a), torch.ones(2), atol=1e-5)
    assert (multiscale_similarity(a, b) < 0.2).all()
    with pytest.raises(ValueError, match="176x176"):
        multiscale_similarity(a[..., :100], b[..., :100])


def test_training_lowers_the_loss_with_random_filters(tmp_path):
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg16(weights=None).features.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    totals = losses_of(METHOD.training(tmp_path / "vgg16.pth"), 0, steps=3, side=176, batch=1)
    assert totals[-1] < totals[0]


def test_training_without_the_perceptual_weights_is_refused():
    with pytest.raises(InputError, match="vgg16-397923af"):
        METHOD.training(None)
