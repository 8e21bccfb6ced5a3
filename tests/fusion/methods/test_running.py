"""A network as a function on a pair of arrays, and how its maps lie in memory."""

import numpy as np
import pytest
import torch
from torch import nn

from fusion.methods.parts.running import as_fuser


class Two(nn.Module):
    """Two convolutions; notes how the maps between them lie."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.seen = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1), []

    def forward(self, visible, infrared):
        """Return the second's map."""
        maps = self.first(torch.cat([visible, infrared], dim=1))
        self.seen.append(maps.is_contiguous(memory_format=torch.channels_last))
        return self.second(maps)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_networks_maps_lie_as_asked_and_its_values_stay(channels_last):
    network, pair = Two(), np.random.default_rng(0).random((2, 33, 47), np.float32)
    with torch.no_grad():
        wanted = network(*(torch.from_numpy(image)[None, None] for image in pair))[0, 0].numpy()
    network.seen.clear()
    fused = as_fuser(network, "cpu", "fp32", channels_last)(*pair)
    assert network.seen == [channels_last]
    assert fused.dtype == np.float32 and np.abs(fused - wanted).max() < 1e-6


def test_a_users_own_network_is_left_as_it_is():
    network = Two()
    as_fuser(network, "cpu", "fp32")
    assert network.second.weight.is_contiguous() and network.second.weight.stride() == (72, 9, 3, 1)
