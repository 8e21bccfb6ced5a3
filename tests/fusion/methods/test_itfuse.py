"""ITFuse: the authors' network and weights, and its training."""

import numpy as np
import pytest
import torch
from method_checks import check_scores, check_sizes_and_batches, fused_scores, losses_of, random_pairs, settled

from fusion.cost import count_parameters
from fusion.methods.itfuse import METHOD, Attention, ITFuse, from_authors, network
from fusion.weights import write_state
from pipeline.stage import InputError


def test_parameters_are_those_of_the_fact_sheet():
    made = network(None)
    assert count_parameters(made) == 82_487
    assert (
        sum(parameter.numel() for parameter in made.used_parameters()) == 18_359 - 3 * 8
    )  # bias tables have no effect


def test_parameters_called_unused_do_not_change_the_image():
    made = settled(network(None))
    used = {id(parameter) for parameter in made.used_parameters()}
    pair = random_pairs(1, 20, 24)
    with torch.no_grad():
        before = made(*pair)
        for parameter in made.parameters():
            if id(parameter) not in used:
                parameter.add_(1)
        assert torch.equal(made(*pair), before)


def test_attention_in_windows_of_one_token_is_that_of_torch():
    ours, oracle = Attention(), torch.nn.MultiheadAttention(16, 8, batch_first=True)
    oracle.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    tokens = torch.randn(5, 1, 16)
    assert torch.allclose(ours(tokens), oracle(tokens, tokens, tokens)[0], atol=1e-6)


def test_any_size_and_batch():
    check_sizes_and_batches(settled(network(None)))


def test_the_authors_file_loads_and_comes_back_from_ours(shared, tmp_path):
    path = shared / "data/checkpoints/ITFuse/model.pth"
    published = torch.load(path, map_location="cpu", weights_only=True)
    made = network(path)
    assert len(made.state_dict()) == len(published) == 199
    assert torch.equal(made.refine.conv.weight, published["conv16_16.conv.weight"])
    write_state(tmp_path / "ours.safetensors", made.state_dict())
    again = network(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


def test_a_file_of_something_else_lists_what_is_missing_and_unexpected(tmp_path):
    state = ITFuse().state_dict()
    state["stranger"] = state.pop("out.bias")
    write_state(tmp_path / "wrong.safetensors", state)
    with pytest.raises(InputError, match=r"missing out\.bias \(1\).*unexpected stranger \(1\)"):
        network(tmp_path / "wrong.safetensors")


def test_keys_of_ours_are_not_renamed():
    state = ITFuse().state_dict()
    assert list(from_authors(state)) == list(state)


def test_the_authors_cut_grey_levels_off():
    fused = np.array([0.5 / 255, 1.9 / 255, 254.999 / 255, 1.2, -0.1])
    assert np.rint(METHOD.authors_output(fused) * 255).tolist() == [0, 1, 254, 255, 0]


@pytest.mark.by_hand
def test_tno_scores_are_those_of_the_fact_sheet(shared):
    rows = fused_scores(shared, "itfuse", shared / "data/checkpoints/ITFuse/model.pth", ["01", "10"])
    check_scores(rows[0], [1.35, 0.428, 0.186, 0.826])
    check_scores(rows[1], [2.12, 0.702, 0.284, 1.034])


def test_training_lowers_the_loss():
    training = METHOD.training(None)
    totals = losses_of(training, 0, steps=8, side=32)
    assert totals[-1] < 0.95 * totals[0]
