"""U2Fusion: the authors' network and TensorFlow weights, its information measure, its training."""

import numpy as np
import pytest
import torch
from method_checks import check_scores, check_sizes_and_batches, fused_scores, losses_of
from scipy.ndimage import convolve
from torchvision.models import vgg16

from fusion.cost import count_parameters
from fusion.methods.u2fusion import METHOD, information, network, preservation_degrees
from fusion.weights import write_state
from fusion.weights.tensorflow import read_checkpoint
from pipeline.stage import InputError


def test_parameters_are_those_of_the_fact_sheet():
    assert count_parameters(network(None)) == 659_217


def test_any_size_and_batch():
    torch.manual_seed(0)
    check_sizes_and_batches(network(None).eval(), sizes=((37, 51), (1, 5)))


def test_the_authors_checkpoint_loads_and_comes_back_from_ours(shared, tmp_path):
    folder = shared / "data/checkpoints/U2Fusion"
    published, made = read_checkpoint(folder), network(folder)
    assert len(made.state_dict()) == len(published) == 20
    kernel = published["Generator/encoder/dense_block_conv2/kernel"]
    assert torch.equal(made.dense[1].weight[7, 50], kernel[:, :, 50, 7])
    write_state(tmp_path / "ours.safetensors", made.state_dict())
    again = network(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


def test_another_methods_checkpoint_lists_what_is_missing_and_unexpected(shared):
    with pytest.raises(InputError, match=r"missing decoder\.0\.bias.*unexpected f2m_net"):
        network(shared / "data/checkpoints/MURF/RGB-IR_f2m")


@pytest.mark.by_hand
def test_tno_scores_are_those_of_the_fact_sheet(shared):
    rows = fused_scores(shared, "u2fusion", shared / "data/checkpoints/U2Fusion", ["01", "05", "10", "16", "22"])
    check_scores({key: np.mean([row[key] for row in rows]) for key in rows[0]}, [1.16, 0.538, 0.412, 1.097])


def test_the_authors_stretch_makes_the_brightest_pixel_white():
    assert METHOD.authors_output(np.array([-0.1, 0.2, 0.8])).tolist() == pytest.approx([0, 0.25, 1])
    assert METHOD.authors_output(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_information_is_the_mean_squared_laplacian_of_the_maps():
    maps = [torch.rand(2, 3, 8, 9), torch.rand(2, 5, 4, 4)]
    kernel = np.full((3, 3), 1 / 8)
    kernel[1, 1] = -1
    for image in range(2):
        means = [
            np.mean([convolve(one.numpy(), kernel, mode="constant") ** 2 for one in layer[image]]) for layer in maps
        ]
        assert information(maps)[image].item() == pytest.approx(np.mean(means), rel=1e-5)


def test_the_source_with_more_information_gets_the_larger_share():
    noise, flat = torch.rand(2, 1, 40, 40), torch.full((2, 1, 40, 40), 0.5)
    found = preservation_degrees(lambda images: [images], noise, flat, 0.1)
    assert torch.allclose(found.sum(0), torch.ones(2))
    assert (found[0] > found[1]).all()


def test_training_lowers_the_loss_with_random_filters(tmp_path):
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg16(weights=None).features.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    totals = losses_of(METHOD.training(tmp_path / "vgg16.pth"), 0, steps=6, side=32)
    assert totals[-1] < totals[0]


def test_training_without_the_perceptual_weights_is_refused():
    with pytest.raises(InputError, match="vgg16-397923af"):
        METHOD.training(None)
