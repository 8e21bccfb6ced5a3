"""The coding block is the paper's: Eq. 6, Eqs. 20 and 21."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fusion.fnet.lzsc import LZSC, threshold


def test_the_threshold_is_odd_and_nearly_hard():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    theta = torch.tensor(1.0, dtype=torch.float64)
    y = threshold(x, theta)
    assert torch.equal(y, -threshold(-x, theta))
    assert y[x.abs() < 0.9].abs().max() < 1e-4
    kept = x.abs() > 1.1
    assert torch.allclose(y[kept].abs(), x[kept].abs() - 0.1, atol=1e-3)


def test_the_sharp_threshold_minimises_the_l0_problem():
    """Over a grid, but for 0.1 theta, by which it shrinks what is kept: min (z - x)^2 / 2 + theta^2 / 2 [z != 0]."""
    theta, z = 0.5, np.arange(-4000, 4001) / 1000
    for value in (-2.0, -0.8, -0.6, -0.3, 0.2, 0.4, 0.9, 3.0):
        best = z[np.argmin((z - value) ** 2 / 2 + theta**2 / 2 * (z != 0))]
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
