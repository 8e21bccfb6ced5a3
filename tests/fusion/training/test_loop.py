"""What the training loop does in one iteration."""

import pytest
import torch

from fusion.methods import Phase
from fusion.training import loop


@pytest.mark.parametrize("clip", [0.01, None])
def test_gradients_are_clipped_to_the_norm_that_a_phase_names(clip):
    network = torch.nn.Conv2d(1, 1, 3, padding=1)

    def loss(visible, infrared):
        return {"total": (network(visible) - infrared).square().mean()}

    phase = Phase("only", list(network.parameters()), loss, clip=clip)
    terms = loop._gradients(phase, "cpu", None)(torch.rand(2, 2, 1, 16, 16))()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in phase.parameters]).item()
    assert terms["total"] > 0
    assert norm == pytest.approx(0.01, rel=1e-3) if clip else norm > 0.02


def test_averaged_weights_follow_by_the_decay_and_statistics_are_copied():
    average, network = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(3)
        network.running_mean.fill_(5)
    loop._update_average(average, network, 0.75)
    assert average.weight.tolist() == [1.5, 1.5] and average.running_mean.tolist() == [5, 5]


def test_a_loss_that_is_not_finite_on_flat_crops_names_their_pairs_and_what_helps():
    pair = torch.rand(2, 3, 1, 8, 8)
    assert loop._advice(pair, ["a", "b", "c"]) == "a smaller --lr may help"
    pair[1, 2] = 0.5
    assert loop._advice(pair, ["a", "b", "c"]).startswith("crops of c are constant in a band")
    assert "leave these pairs out (--names)" in loop._advice(pair, ["a", "b", "c"])
