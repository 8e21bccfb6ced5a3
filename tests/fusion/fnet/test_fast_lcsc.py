"""Networks with LCSC blocks on the fast path: values, gradients, sizes of either sign, tiles, training."""

import copy

import pytest
import torch

from fusion.fnet.cpu import backward
from fusion.fnet.fast import prepare, trainable
from fusion.fnet.inverse import IFNet
from fusion.fnet.lcsc import LCSC
from fusion.fnet.losses import stage1_loss, stage2_loss
from fusion.fnet.merged import REACH, merge_network, tiled
from fusion.fnet.network import FNet

SIZES = {"positive": (0.03, 0.02, 0.005, 0.01, 0.04), "mixed": (0.02, -0.01, 0.0, -0.004, 0.01)}


def with_sizes(network, sizes):
    """Return the network with other threshold sizes in each step and block."""
    for factor, block in enumerate((m for m in network.modules() if isinstance(m, LCSC)), 1):
        for parameter, size in zip(block.sizes, SIZES[sizes], strict=True):
            parameter.data.fill_(factor * size)
    return network


def exact(network):
    return copy.deepcopy(network).double()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("shape", [(1, 1, 30, 23), (3, 1, 12, 17), (2, 1, 5, 3), (1, 1, 1, 1), (1, 1, 100, 9)])
def test_fused_values_are_those_of_the_plain_network_in_float64(sizes, shape):
    torch.manual_seed(3)
    network, pair = with_sizes(FNet("lcsc"), sizes), torch.rand(2, *shape)
    with torch.inference_mode():
        expected = exact(network)(*pair.double())
    for fast in (prepare(network), trainable(network)):
        found = fast(*pair)
        assert found.shape == expected.shape and found.dtype == torch.float32
        # With a size below 0, the threshold jumps at 0, and rounding can change the sign of values near 0.
        difference = (found - expected).abs()
        assert difference.mean() < 2e-6 and difference.max() < (1e-5 if sizes == "positive" else 1e-2)


def test_the_inverse_network_gives_its_two_outputs():
    torch.manual_seed(4)
    network, fused = with_sizes(IFNet("lcsc"), "positive"), torch.rand(2, 1, 21, 30)
    with torch.inference_mode():
        expected = exact(network)(fused.double())
    for one, other in zip(prepare(network)(fused), expected, strict=True):
        assert (one - other).abs().max() < 1e-5


def test_a_large_image_in_tiles_is_the_untiled_one():
    torch.manual_seed(5)
    network, pair = with_sizes(FNet("lcsc"), "positive"), torch.rand(2, 1, 1, 185, 40)
    fast = prepare(network)
    tiles = tiled(lambda *parts: [fast(*parts)], list(pair), 2 * REACH, tile=60)[0]
    assert (tiles - fast(*pair)).abs().max() < 1e-5


@pytest.mark.parametrize("sizes", SIZES)
def test_every_gradient_is_that_of_the_plain_networks_in_float64(sizes, monkeypatch):
    monkeypatch.setattr(backward, "PORTIONS", 1)  # sums over several groups of tiles in a small image
    torch.manual_seed(6)
    networks = [with_sizes(FNet("lcsc"), sizes), with_sizes(IFNet("lcsc"), sizes)]
    pair = torch.rand(2, 2, 1, 30, 27).requires_grad_()

    def gradients(networks, fast, pair):
        fuse, split = map(trainable, networks) if fast else networks
        fused = fuse(*pair)
        loss = sum((a - b).square().sum() for a, b in zip((*split(fused), fused), (*pair, pair[0]), strict=True))
        return torch.autograd.grad(loss, [pair, *(p for network in networks for p in network.parameters())])

    expected = gradients([exact(network) for network in networks], False, pair.double())
    found = gradients(networks, True, pair)
    # The images; FNet's 3 blocks of 1 + 8 + 5 tensors and 5 convolutions; IFNet's 2 blocks and 2 convolutions.
    assert len(found) == 1 + (3 * 14 + 5) + (2 * 14 + 2)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < (5e-5 if sizes == "positive" else 1e-3) * other.norm()


def test_training_ends_where_that_of_the_plain_network_ends():
    torch.manual_seed(9)
    start, pair, ends = [FNet("lcsc"), IFNet("lcsc")], torch.rand(2, 2, 1, 12, 15), []
    for fast in (False, True):
        networks = copy.deepcopy(start)
        fuse, split = map(trainable, networks) if fast else networks
        optimiser = torch.optim.Adam([p for network in networks for p in network.parameters()], lr=1e-4)
        losses = []
        for _ in range(4):
            fused = fuse(*pair)
            loss = stage1_loss(*split(fused), *pair)["total"] + stage2_loss(fused, *pair)["total"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        ends.append(losses)
    plain, fast = ends
    assert plain[-1] < 0.9 * plain[0]
    assert fast == pytest.approx(plain, rel=1e-3)


def test_black_images_stay_black_without_gradients_and_nan_stays_nan():
    network = with_sizes(FNet("lcsc"), "mixed")
    black = torch.zeros(2, 1, 1, 20, 20)
    fused = trainable(network)(*black)
    assert fused.count_nonzero() == 0
    # Because sign(0) = 0, sizes below 0 have no effect on zeros either.
    assert all(grad.count_nonzero() == 0 for grad in torch.autograd.grad(fused.sum(), list(network.parameters())))
    network.code_common.encode.weight.data[5] = float("nan")
    assert prepare(network)(*black).isnan().all()


def test_no_second_image_is_read_or_made():
    counts = [(tuple(w.shape[1] for w in b.up), tuple(len(w) for w in b.down)) for b in merge_network(FNet("lcsc"))]
    assert counts == [((1, 2, 2, 2, 2), (1, 1, 1, 1, 2))] * 2 + [((2, 4, 4, 4, 4), (2, 2, 2, 2, 1))]
