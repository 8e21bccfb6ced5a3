"""LapH: the authors' network and weights, its pyramid and differences, its losses and training."""

import numpy as np
import pytest
import torch
from method_checks import check_scores, check_sizes_and_batches, fused_scores, losses_of, random_pairs
from torch.nn import functional as F

from fusion.cost import count_multiply_adds, count_parameters
from fusion.methods.laph import METHOD, CentralDifference, LapH, Pyramid, above_mean, contrast, from_authors, network
from fusion.weights import write_state
from pipeline.stage import InputError


def checkpoint(shared):
    return shared / "data/checkpoints/LapH/net_g_lateset.pth"


def test_parameters_are_those_of_the_fact_sheet():
    assert count_parameters(network(None)) == 134_201


def test_multiply_adds_of_the_attention_grow_with_the_square_of_the_pixels():
    small, large = (count_multiply_adds(network(None), side, side) for side in (64, 128))
    tokens = (64 // 8) ** 2
    # Nine attentions, each two products of 32 a pair of tokens; the rest grows with the pixels alone.
    assert large - 4 * small == 9 * 2 * 32 * (16 - 4) * tokens**2


def test_any_size_and_batch():
    check_sizes_and_batches(network(None).eval(), [(37, 51), (9, 16), (5, 3)])


def test_the_pyramid_gives_the_image_back():
    for size in ((64, 48), (37, 51), (9, 9)):
        image = torch.rand(2, 1, *size)
        pyramid = Pyramid()
        levels = pyramid.split(image)
        assert [tuple(level.shape[2:]) for level in levels[1:]] == [
            tuple(-(-side // 2**k) for side in size) for k in (1, 2, 3)
        ]
        assert torch.allclose(pyramid.collapse(levels), image, atol=1e-6)


def test_differences_are_between_the_neighbours_and_the_pixel():
    layer, x = CentralDifference(2), torch.rand(1, 16, 9, 8)
    plain = F.conv2d(x, layer.weight, padding=2, dilation=2, groups=16)
    expected = plain - x * layer.weight.sum((2, 3)).view(1, 16, 1, 1)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert layer(torch.ones(1, 16, 9, 8))[..., 2:-2, 2:-2].abs().max() < 1e-5


def test_the_authors_file_loads_and_comes_back_from_ours(shared, tmp_path):
    published = torch.load(checkpoint(shared), map_location="cpu", weights_only=True)
    made = network(checkpoint(shared))
    doubled = [key for key in published if ".hf_hd_block." in key]
    assert len(made.state_dict()) == len(published) - len(doubled) == 248 - 36
    for key in doubled:  # what is not loaded is there under another name
        last = key.replace("hf_hd_block", f"hf_hd_block_{key.split('.')[0].removeprefix('hf_branch_')}_2")
        assert torch.equal(published[key], published[last])
    assert torch.equal(
        made.details[1].blocks[0].differences[2].weight,
        published["hf_branch_12.hf_hd_block_12_0.dilation_3.0.conv.weight"],
    )
    write_state(tmp_path / "ours.safetensors", made.state_dict())
    again = network(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


def test_a_file_of_something_else_lists_what_is_missing_and_unexpected(tmp_path):
    state = LapH().state_dict()
    state["stranger"] = state.pop("details.0.out.bias")
    write_state(tmp_path / "wrong.safetensors", state)
    with pytest.raises(InputError, match=r"missing details\.0\.out\.bias \(1\).*unexpected stranger \(1\)"):
        network(tmp_path / "wrong.safetensors")


def test_keys_of_ours_are_not_renamed():
    state = LapH().state_dict()
    assert list(from_authors(state)) == list(state)


def test_tno_scores_are_those_of_the_fact_sheet(shared):
    (row,) = fused_scores(shared, "laph", checkpoint(shared), ["05"])
    check_scores(row, [0.81, 0.425, 0.365, 1.075])


@pytest.mark.by_hand
def test_mean_tno_scores_are_those_of_the_fact_sheet(shared):
    rows = fused_scores(shared, "laph", checkpoint(shared), ["01", "05", "10", "16", "22"])
    check_scores({key: np.mean([row[key] for row in rows]) for key in rows[0]}, [1.09, 0.592, 0.431, 1.026])


def test_the_mean_above_a_cells_mean_is_that_of_a_plain_count(rng):
    level = rng.standard_normal((9, 11)).astype(np.float32)
    level[:4, :4] = 0.25  # a flat cell, where no value is above the mean
    found = above_mean(torch.from_numpy(level)[None, None], 4)[0, 0].numpy()
    for row, column in np.ndindex(2, 2):
        cell = level[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        above = cell[cell > cell.mean()]
        assert found[row, column] == pytest.approx(above.mean() if above.size else 0, rel=1e-5)


def test_contrast_is_zero_only_where_the_differences_are_the_sources():
    visible, infrared = random_pairs(2, 64, 48)
    pyramid = Pyramid()
    assert contrast(pyramid, visible, visible, visible).item() == pytest.approx(0, abs=1e-10)
    assert contrast(pyramid, visible, infrared, visible) > 1e-4
    # A weighted mean of the differences lies between both sources.
    mean = contrast(pyramid, visible, infrared, (visible + infrared) / 2)
    assert mean < min(contrast(pyramid, visible, infrared, image) for image in (visible, infrared))


def test_training_lowers_the_loss():
    totals = losses_of(METHOD.training(None), 0, steps=8, side=64)
    assert totals[-1] < 0.95 * totals[0]
