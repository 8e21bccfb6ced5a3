"""What is recorded on a GPU and replayed is what was recorded."""

import copy

import pytest
import torch

from fusion.fnet.fast import trainable
from fusion.fnet.gpu.graphs import captured, captured_when_repeated
from fusion.fnet.losses import stage2_loss
from fusion.fnet.network import FNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


def test_a_recorded_step_has_the_gradients_of_the_step():
    torch.manual_seed(4)
    fnet, pair = FNet().cuda(), torch.rand(2, 2, 1, 32, 32)
    fuse = trainable(fnet)

    def step(pair):
        fnet.zero_grad(set_to_none=True)
        loss = stage2_loss(fuse(*pair), *pair)["total"]
        loss.backward()
        return loss.detach()

    replay = captured(step, torch.rand_like(pair).cuda())
    loss = replay(pair.pin_memory()).item()
    found = copy.deepcopy([parameter.grad for parameter in fnet.parameters()])
    assert step(pair.cuda()).item() == pytest.approx(loss, rel=1e-5)
    for one, parameter in zip(found, fnet.parameters(), strict=True):
        assert (one - parameter.grad).norm() <= 1e-3 * parameter.grad.norm()


def test_what_is_recorded_for_one_size_is_not_replayed_for_another():
    square = captured_when_repeated(lambda image: image * image)
    for side in (3, 3, 3, 4, 3, 3):
        image = torch.rand(side, side).cuda()
        assert torch.equal(square(image), image * image)
