"""SwinFusion: the authors' network by the fact sheet's numbers, their checkpoint's layout, and its training."""

import numpy as np
import pytest
import torch
from golden import check_golden, fill_by_rule, golden_pair
from method_checks import check_cpu_version, check_sizes_and_batches, losses_of

from fusion.cost import count_parameters
from fusion.methods import swinfusion
from fusion.methods.swinfusion import (
    METHOD,
    SelfAttention,
    attention_mask,
    in_bands,
    network,
    window_partition,
    window_reverse,
)


def filled():
    made = network(None).eval()
    fill_by_rule(made, 6)
    return made


def test_parameters_are_those_of_the_fact_sheet():
    made = network(None)
    assert count_parameters(made) == 973_681
    assert sum(parameter.numel() for parameter in made.used_parameters()) == 973_681 - 8_430


@pytest.mark.parametrize(
    ("swapped", "values"),
    [
        (False, [0.053341, 0.109370, 0.112819, 0.120865, 0.112761, 0.015917]),
        (True, [0.041873, 0.108756, 0.111946, 0.118305, 0.112938, 0.016225]),
    ],
)
def test_the_fact_sheets_numbers_come_out(swapped, values):
    visible, infrared = golden_pair(44, 60)
    with torch.inference_mode():
        fused = filled()(infrared, visible) if swapped else filled()(visible, infrared)
    places = [(0, 0), (5, 9), (22, 30), (43, 59)]
    check_golden(fused, dict(zip(places, values[:4], strict=True)), *values[4:], tolerance=1e-3)


def test_any_size_and_batch():
    check_sizes_and_batches(filled(), sizes=((21, 33), (1, 5)))


def test_windows_come_back_and_attention_stays_within_them():
    tokens = torch.randn(2, 16, 24, 3)
    assert torch.equal(window_reverse(window_partition(tokens), 16, 24), tokens)
    assert torch.equal(window_partition(tokens)[1, 4, 9], tokens[1, 9, 9])
    mask = attention_mask(16, 24)
    assert mask.shape == (6, 1, 64, 64) and (mask[0] == 0).all()
    # In the last window rows 4..7 come from the picture's other edge.
    assert mask[5, 0, 0, 63] == -100 and mask[5, 0, 0, 4] == -100 and mask[5, 0, 0, 3] == 0


@pytest.mark.parametrize("size", [(8, 8), (8, 24), (24, 8), (19, 40)])
def test_the_network_in_bands_gives_the_plain_networks_values(size, monkeypatch):
    monkeypatch.setattr(swinfusion, "WINDOWS_AT_ONCE", 2)
    torch.manual_seed(0)
    plain = network(None).eval()
    for parameter in plain.parameters():  # biases of attention too small would let a wrong mask or table pass
        if parameter.shape == (225, 6):
            torch.nn.init.normal_(parameter)
    check_cpu_version(plain, in_bands, size)


def test_attention_without_a_bias_is_that_of_torch():
    ours, oracle = SelfAttention(), torch.nn.MultiheadAttention(60, 6, batch_first=True)
    with torch.no_grad():
        ours.relative_position_bias_table.zero_()
    state = {"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias}
    oracle.load_state_dict({**state, "out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias})
    windows = torch.randn(2, 3, 64, 60)
    found = oracle(*[windows.flatten(0, 1)] * 3)[0].view_as(windows)
    assert torch.allclose(ours(windows, None), found, atol=1e-5)


def test_a_file_laid_out_as_the_authors_loads_without_its_tables(tmp_path):
    made = filled()
    state = dict(made.state_dict())
    for key in list(state):
        if key.endswith("relative_position_bias_table"):
            state[key.replace("bias_table", "index")] = torch.zeros(64, 64, dtype=torch.int64)
    for key in list(state):
        if key.endswith("blocks.1.norm1.weight") or key.endswith("blocks.1.norm1_A.weight"):
            state[f"{key.rsplit('.', 2)[0]}.attn_mask"] = torch.zeros(256, 64, 64)
    torch.save(state, tmp_path / "10000_E.pth")
    again = network(tmp_path / "10000_E.pth").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


def test_the_method_continues_images_to_the_next_larger_multiple_of_8(tmp_path):
    made = filled()
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    fuse = METHOD.load(tmp_path / "weights.pth", "cpu", "fp32")
    rng = np.random.default_rng(0)
    visible, infrared = rng.random((2, 16, 13), np.float32)
    wide = [
        torch.from_numpy(np.pad(image, [(0, 8), (0, 3)], mode="symmetric"))[None, None] for image in (visible, infrared)
    ]
    with torch.inference_mode():
        assert np.allclose(fuse(visible, infrared), made(*wide)[0, 0, :16, :13].numpy(), atol=1e-5)


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    totals = losses_of(METHOD.training(None), 0, steps=8, side=16)
    assert totals[-1] < totals[0]
