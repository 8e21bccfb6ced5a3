"""The ablation's coding block: its threshold."""

import pytest
import torch
from scipy.optimize import minimize_scalar

from fusion.fnet.lcsc import soft_threshold


def test_the_soft_threshold_minimises_the_l1_problem():
    for value in (-2.0, -0.3, 0.1, 0.7, 1.5):
        best = minimize_scalar(lambda z, x=value: 0.5 * (z - x) ** 2 + 0.5 * abs(z), bounds=(-3, 3), method="bounded")
        assert soft_threshold(torch.tensor(value), torch.tensor(0.5)).item() == pytest.approx(best.x, abs=1e-4)
