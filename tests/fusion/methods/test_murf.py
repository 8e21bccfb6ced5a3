"""MURF: the authors' network and TensorFlow weights, its registration, its training."""

import numpy as np
import pytest
import torch
from method_checks import check_scores, check_sizes_and_batches, fused_scores, losses_of, random_pairs

from fusion.cost import count_parameters
from fusion.methods.murf import METHOD, laplacian, network, warp
from fusion.weights import write_state
from fusion.weights.tensorflow import read_checkpoint
from pipeline.stage import InputError


def test_parameters_are_those_of_the_fact_sheet():
    assert count_parameters(network(None)) == 116_123


def test_any_size_and_batch():
    torch.manual_seed(0)
    made = network(None).eval()
    with torch.no_grad():
        for parameter in made.fusion_parameters():  # fresh weights are so small that every image comes out grey
            parameter.mul_(4)
    check_sizes_and_batches(made, sizes=((37, 51), (1, 5)))


def test_the_authors_checkpoint_loads_and_comes_back_from_ours(shared, tmp_path):
    folder = shared / "data/checkpoints/MURF/RGB-IR_finetuning"
    published, made = read_checkpoint(folder), network(folder)
    assert len(made.state_dict()) == len(published) == 65
    assert torch.equal(made.fuse[0].weight[5, 7], published["f2m_net/wf1"][:, :, 7, 5])
    write_state(tmp_path / "ours.safetensors", made.state_dict())
    again = network(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


def test_another_modules_checkpoint_lists_what_is_missing(shared):
    with pytest.raises(InputError, match=r"missing average\.down\.bias"):
        network(shared / "data/checkpoints/MURF/RGB-IR_shared")


def test_the_two_sources_stay_apart_in_the_first_fusing_layer():
    made, maps = network(None), torch.randn(1, 64, 4, 4)
    with torch.no_grad():
        before = made.fuse[0](maps)
        maps[:, 32:] = 0
        after = made.fuse[0](maps)
    assert torch.equal(before[:, :16], after[:, :16]) and not torch.equal(before[:, 16:], after[:, 16:])


def test_an_image_is_looked_up_where_the_offset_says():
    image, still = torch.rand(2, 3, 9, 11), torch.zeros(2, 2, 9, 11)
    inner = (..., slice(1, -1), slice(1, -1))
    assert torch.allclose(warp(image, still)[inner], image[inner], atol=1e-6)
    right = still.clone()
    right[:, 0] = 2 / 10  # one pixel of eleven
    assert torch.allclose(warp(image, right)[..., 1:-1, 1:-2], image[..., 1:-1, 2:-1], atol=1e-4)
    assert (warp(image, right + 2) == 0).all()


def test_the_laplacian_is_that_of_a_parabola():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    found = laplacian((x**2 + 2 * y**2).expand(1, 2, 6, 7))
    assert (found[..., 1:-1, 1:-1] == 6).all()


def test_fusing_goes_through_a_square_and_back(tmp_path):
    torch.manual_seed(0)
    write_state(tmp_path / "w.safetensors", network(None).state_dict())
    fused = METHOD.load(tmp_path / "w.safetensors", "cpu", "fp32")(
        *np.random.default_rng(0).random((2, 30, 44), np.float32)
    )
    assert fused.shape == (30, 44) and np.isfinite(fused).all()
    assert METHOD.authors_output(np.array([-0.1, 0.2, 0.8])).tolist() == pytest.approx([0, 0.25, 1])


@pytest.mark.by_hand
def test_tno_scores_are_those_of_the_fact_sheet(shared):
    folder = shared / "data/checkpoints/MURF/RGB-IR_finetuning"
    rows = fused_scores(shared, "murf", folder, ["01", "05", "10", "16", "22"])
    check_scores({key: np.mean([row[key] for row in rows]) for key in rows[0]}, [1.11, 0.465, 0.361, 1.070])


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    totals = losses_of(METHOD.training(None), 0, steps=8, side=32)
    assert totals[-1] < totals[0]


def test_what_is_trained_on_aligned_pairs_moves_nothing():
    made, pair = METHOD.training(None).network.eval(), random_pairs(1, 40, 48)
    with torch.inference_mode():
        assert torch.equal(made(*pair), made(*pair, align=False))
