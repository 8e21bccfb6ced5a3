"""The networks are those of the paper: counts, inputs, the authors' checkpoint."""

import torch

from fusion.fnet.inverse import IFNet
from fusion.fnet.lcsc import LCSC
from fusion.fnet.network import FNet
from fusion.methods.fnet import from_authors, read_network


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_are_those_of_the_fact_sheet():
    assert count(FNet()) == 419_916
    assert count(FNet("lcsc")) == 212_559
    assert count(IFNet()) == 207_368
    assert count(LCSC(1)) == 46_661


def test_any_size_and_batch_works_and_infrared_and_visible_differ():
    network = FNet()
    visible, infrared = torch.rand(2, 1, 13, 22), torch.rand(2, 1, 13, 22)
    with torch.inference_mode():
        fused = network(visible, infrared)
        assert fused.shape == visible.shape
        assert not torch.allclose(fused, network(infrared, visible), atol=1e-3)
        assert torch.allclose(fused[1:], network(visible[1:], infrared[1:]), atol=1e-5)


def test_the_authors_checkpoint_loads_through_the_key_map(shared):
    path = shared / "data/checkpoints/FNet/FNet.pth"
    network = read_network(path)
    published = torch.load(path, weights_only=True)
    assert len(from_authors(published)) == len(published) == 74
    assert torch.equal(network.fuse_common.weight, published["decoder.conv_2.weight"])
    # The values that the fact sheet derives from the learned scalars.
    theta = [round(value.item(), 5) for value in network.code_visible.thresholds()]
    rho = [round(value.item(), 5) for value in network.code_common.momenta()]
    assert theta == [0.08943, 0.03536, 0.01375, 0.00531, 0.00205]
    assert rho[1:] == [0.18262, 0.32159, 0.42839, 0.51137]
