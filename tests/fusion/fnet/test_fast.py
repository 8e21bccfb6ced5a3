"""The fast path is the plain one: values, gradients, sizes, tiles, precisions."""

import copy

import pytest
import torch

from fusion.fnet.cpu import backward
from fusion.fnet.cpu.memory import BufferPool
from fusion.fnet.fast import prepare, trainable
from fusion.fnet.inverse import IFNet
from fusion.fnet.losses import stage2_loss
from fusion.fnet.network import FNet
from fusion.methods.fnet import read_network
from pipeline.colour import split_pair
from pipeline.pairs import find_pairs


@pytest.fixture(scope="module")
def fnet():
    torch.manual_seed(3)
    return FNet()


@pytest.mark.parametrize("shape", [(1, 1, 30, 23), (3, 1, 12, 17), (2, 1, 5, 3), (1, 1, 1, 1), (1, 1, 100, 9)])
def test_values_are_those_of_the_plain_network(fnet, shape):
    visible, infrared = torch.rand(2, *shape)
    exact = FNet().double()
    exact.load_state_dict(fnet.state_dict())
    with torch.inference_mode():
        expected = exact(visible.double(), infrared.double())
    found = prepare(fnet)(visible, infrared)
    assert found.shape == visible.shape and found.dtype == torch.float32
    # Untrained thresholds are steep: where one is met, rounding grows a hundredfold, in the plain network as well.
    difference = (found - expected).abs()
    assert difference.mean() < 5e-6 and difference.max() < 2e-4


def test_black_pictures_stay_black(fnet):
    # The threshold of exactly 0 is 0, though that of any other small value is a jump away from it.
    assert prepare(fnet)(*torch.zeros(2, 1, 1, 20, 20)).count_nonzero() == 0


def test_the_inverse_network_gives_its_two_outputs():
    torch.manual_seed(4)
    network, fused = IFNet(), torch.rand(2, 1, 21, 30)
    with torch.inference_mode():
        expected = network(fused)
    found = prepare(network)(fused)
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-5


def test_other_number_types_and_blocks_run_as_well(fnet):
    visible, infrared = torch.rand(2, 1, 1, 20, 22)
    for network, kind in ((FNet("lcsc"), torch.float32), (FNet().double(), torch.float64)):
        with torch.inference_mode():
            expected = network(visible.to(kind), infrared.to(kind))
        found = prepare(network)(visible.to(kind), infrared.to(kind))
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("block", ["lzsc", "lcsc"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_weights_that_change_later_do_not_reach_a_prepared_network(kind, block):
    network, pair = FNet(block).to(kind), torch.rand(2, 1, 1, 20, 22, dtype=kind)
    fast = prepare(network)
    before = fast(*pair)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(fast(*pair), before) and before.any()


def test_the_result_does_not_depend_on_threads_or_on_what_was_computed_before(fnet):
    pictures = [torch.rand(2, 1, 1, 60, 50), torch.rand(2, 1, 1, 31, 40)]
    fast, threads = prepare(fnet), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append([fast(*pictures[index]) for index in (0, 1, 0)])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for first, second, third in results:
        assert torch.equal(first, third)
        assert torch.equal(first, results[0][0]) and torch.equal(second, results[0][1])


def test_on_a_cpu_bfloat16_is_float32(fnet):
    pair = torch.rand(2, 1, 1, 30, 26)
    assert torch.equal(prepare(fnet, "bf16")(*pair), prepare(fnet)(*pair))


def test_what_is_not_a_number_stays_so(fnet):
    network, pair = copy.deepcopy(fnet), torch.rand(2, 1, 1, 12, 10)
    network.code_common.encode[2].weight.data[5] = float("nan")
    assert prepare(network)(*pair).isnan().all()


def test_the_authors_weights_fuse_a_tno_pair_to_the_same_grey_levels(shared):
    network = read_network(shared / "data/checkpoints/FNet/FNet.pth")
    folder = shared / "data/fusion_test/TNO"
    visible, infrared, *_ = split_pair(find_pairs([folder / "vi"], [folder / "ir"])[0], "grey")
    pair = torch.from_numpy(visible[:100, :120]).float() / 255, torch.from_numpy(infrared[:100, :120]).float() / 255
    pair = [image[None, None] for image in pair]

    def grey(image):
        return (image.clamp(0, 1) * 255).round()

    with torch.inference_mode():
        expected = grey(network(*pair))
    difference = (grey(prepare(network)(*pair)) - expected).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3


# --- Training --------------------------------------------------------------------------------------------------------


def gradients(loss, *networks):
    loss.backward()
    found = [parameter.grad.double() for network in networks for parameter in network.parameters()]
    for network in networks:
        network.zero_grad()
    return found


def largest_error(found, expected):
    """The norm of the difference over the norm, largest over tensors."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True))


def smooth_loss(fnet, ifnet, visible, infrared, precision=None):
    """A loss without kinks of all three outputs, by the plain networks where `precision` is None."""

    def run(network, *inputs):
        return (network if precision is None else trainable(network, precision))(*inputs)

    fused = run(fnet, visible, infrared)
    estimates = run(ifnet, fused)
    return sum((a - b).square().sum() for a, b in zip((*estimates, fused), (visible, infrared, visible), strict=True))


def test_every_gradient_is_that_of_the_plain_networks(fnet, monkeypatch):
    monkeypatch.setattr(backward, "PORTIONS", 1)  # sums over several groups of tiles in a small image
    # At other weights than the first, where the scalars of the blocks differ from each other.
    torch.manual_seed(6)
    networks = [copy.deepcopy(fnet), IFNet()]
    for network in networks:
        for parameter in network.parameters():
            parameter.data *= 1 + 0.1 * torch.rand(())
    visible, infrared = torch.rand(2, 2, 1, 30, 27)  # several tiles, and more than a thread takes at once
    expected_loss = smooth_loss(*networks, visible, infrared)
    expected = gradients(expected_loss, *networks)
    loss = smooth_loss(*networks, visible, infrared, "fp32")
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert largest_error(gradients(loss, *networks), expected) < 2e-4


def test_the_gradient_of_the_inputs_is_that_of_the_plain_network():
    torch.manual_seed(8)
    network, fused = IFNet(), torch.rand(2, 1, 20, 17, requires_grad=True)
    weights = torch.randn(2, 2, 1, 20, 17)

    def gradient(outputs):
        return torch.autograd.grad(sum((w * o).sum() for w, o in zip(weights, outputs, strict=True)), fused)[0]

    expected, found = gradient(network(fused)), gradient(trainable(network)(fused))
    assert ((found - expected).norm() / expected.norm()) < 1e-4


def test_gradients_do_not_depend_on_threads(fnet):
    visible, infrared = torch.rand(2, 3, 1, 30, 22)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            output = trainable(fnet)(visible, infrared)
            found.append(gradients(output.square().sum(), fnet))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_second_backward_pass_is_refused_rather_than_computed_from_memory_of_others(fnet):
    loss = trainable(fnet)(*torch.rand(2, 1, 1, 12, 10)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass"):
        loss.backward()
    fnet.zero_grad()


def test_steps_in_turn_do_not_write_over_each_others_memory(fnet):
    pictures, fast = torch.rand(2, 2, 1, 1, 30, 22), trainable(fnet)
    alone = [gradients(fast(*pair).square().sum(), fnet) for pair in pictures]
    losses = [fast(*pair).square().sum() for pair in pictures]
    for loss, expected in zip(losses, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(gradients(loss, fnet), expected, strict=True))


def test_memory_is_kept_from_training_step_to_training_step(fnet, monkeypatch):
    pair, fast, taken = torch.rand(2, 1, 1, 30, 22), trainable(fnet), []
    take = BufferPool.take

    def note(pool, *shape):
        array = take(pool, *shape)
        taken[-1].append(array)  # held, so that the system cannot give its place to another
        return array

    monkeypatch.setattr(BufferPool, "take", note)
    for _ in range(2):
        taken.append([])
        gradients(fast(*pair).square().sum(), fnet)
    code = (1, 30, 22 * 64)
    first, second = ({array.ctypes.data for array in step if array.shape == code} for step in taken)
    assert len(first) == 32 and second == first


def test_training_starts_along_the_curve_of_the_plain_network(fnet):
    visible, infrared = torch.rand(2, 2, 1, 16, 16)
    curves = {}
    for precision in (None, "fp32"):
        network = copy.deepcopy(fnet)
        before = {name: value.shape for name, value in network.state_dict().items()}
        fuse = network if precision is None else trainable(network, precision)
        optimiser, curve = torch.optim.Adam(network.parameters(), lr=1e-4), []
        for _ in range(4):
            loss = stage2_loss(fuse(visible, infrared), visible, infrared)["total"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            curve.append(loss.item())
        curves[precision] = curve
        assert {name: value.shape for name, value in network.state_dict().items()} == before
    assert curves[None][-1] < 0.95 * curves[None][0]
    assert curves["fp32"] == pytest.approx(curves[None], rel=1e-3)


@pytest.mark.parametrize(("block", "kind", "most"), [("lcsc", torch.float32, 1e-5), ("lzsc", torch.float64, 1e-6)])
def test_other_blocks_and_number_types_train_as_well(block, kind, most):
    torch.manual_seed(9)
    network, pair = FNet(block).to(kind), torch.rand(2, 1, 1, 16, 16, dtype=kind)
    expected = gradients(network(*pair).square().sum(), network)
    # Outputs are float32, so that what flows back starts with its rounding.
    assert largest_error(gradients(trainable(network)(*pair).square().sum(), network), expected) < most
