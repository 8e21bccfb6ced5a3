"""The networks are those of the paper: counts, formulas, the authors' checkpoint."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from fusion.fnet.inverse import IFNet
from fusion.fnet.lcsc import LCSC, soft_threshold
from fusion.fnet.lzsc import LZSC, threshold
from fusion.fnet.network import FNet
from fusion.methods.fnet import from_authors, read_network


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_are_those_of_the_fact_sheet():
    assert count(FNet()) == 419_916
    assert count(FNet("lcsc")) == 212_559
    assert count(IFNet()) == 207_368
    assert count(LCSC(1)) == 46_661


def test_the_threshold_is_odd_and_nearly_hard():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    theta = torch.tensor(1.0, dtype=torch.float64)
    y = threshold(x, theta)
    assert torch.equal(y, -threshold(-x, theta))
    assert y[x.abs() < 0.9].abs().max() < 1e-4
    kept = x.abs() > 1.1
    assert torch.allclose(y[kept].abs(), x[kept].abs() - 0.1, atol=1e-3)


def test_the_soft_threshold_minimises_the_l1_problem():
    for value in (-2.0, -0.3, 0.1, 0.7, 1.5):
        best = minimize_scalar(lambda z, x=value: 0.5 * (z - x) ** 2 + 0.5 * abs(z), bounds=(-3, 3), method="bounded")
        assert soft_threshold(torch.tensor(value), torch.tensor(0.5)).item() == pytest.approx(best.x, abs=1e-4)


def test_the_sharp_threshold_minimises_the_l0_problem():
    # Hard thresholding at theta solves min (z - x)^2 / 2 + theta^2 / 2 [z != 0]; ours shrinks kept values by 0.1 theta.
    theta = 0.5
    for value in (-2.0, -0.8, -0.3, 0.2, 0.9, 3.0):
        best = value if 0.5 * theta**2 < 0.5 * value**2 else 0.0
        ours = threshold(torch.tensor(value), torch.tensor(theta)).item()
        assert ours == pytest.approx(best - np.sign(best) * 0.1 * theta, abs=1e-3)


def test_thresholds_decrease_and_momenta_increase_from_zero():
    block = LZSC(1)
    theta = [value.item() for value in block.thresholds()]
    rho = [value.item() for value in block.momenta()]
    assert theta == sorted(theta, reverse=True) and min(theta) > 0
    assert rho[0] == 0 and rho == sorted(rho) and rho[-1] < 1


def test_the_block_is_eq_20_step_by_step():
    torch.manual_seed(1)
    block = LZSC(2).double()
    image = torch.rand(2, 2, 20, 17, dtype=torch.float64)

    def conv(x, layer):
        return F.conv2d(x, layer.weight, padding=4)

    def residual(u, projector):
        return u - conv(conv(u, projector.down), projector.up)

    theta = [F.softplus(block.w_theta * k + block.b_theta) for k in range(5)]
    rho = [1 - F.softplus(block.b_rho) / F.softplus(block.w_rho * k + block.b_rho) for k in range(5)]
    u = [threshold(conv(image, block.encode[0]), theta[0])]
    u.append(threshold((1 + rho[1]) * residual(u[0], block.project[0]) + conv(image, block.encode[1]), theta[1]))
    for k in (2, 3, 4):
        ahead = (1 + rho[k]) * residual(u[k - 1], block.project[k - 1])
        back = rho[k] * residual(u[k - 2], block.project_previous[k - 2])
        u.append(threshold(ahead - back + conv(image, block.encode[k]), theta[k]))
    assert torch.allclose(block(image), u[4], atol=1e-12)


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
