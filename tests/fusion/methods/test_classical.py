"""What holds for the methods that need no training, whatever the pictures."""

import numpy as np
import pytest

from fusion.methods import METHODS, find_method
from fusion.methods.guided import guided_filter

CLASSICAL = [name for name, entry in METHODS.items() if not entry.needs_weights]


def fuser(name):
    return find_method(name).load(None, "cpu", "fp32")


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("shape", [(40, 53), (7, 5), (1, 1), (2, 90)])
def test_two_equal_sources_come_out_as_they_are(name, shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    fused = fuser(name)(image, image)
    assert fused.shape == shape and fused.dtype == np.float32
    assert np.abs(fused - image).max() < 1e-5


@pytest.mark.parametrize("name", ["laplacian", "dwt", "guided"])
def test_an_edge_that_one_source_has_is_kept_better_than_by_averaging(name):
    flat, edge = np.full((64, 64), 0.5, np.float32), np.full((64, 64), 0.3, np.float32)
    edge[:, 32:] = 0.7
    for pair in ((flat, edge), (edge, flat)):
        fused = fuser(name)(*pair)
        assert (fused[:, 33] - fused[:, 30]).min() > 0.22  # averaging keeps 0.2 of 0.4


def test_the_guided_filter_keeps_a_linear_image_of_its_guide():
    # The model is image = a guide + b in every window: what fits it passes unchanged as epsilon vanishes.
    guide = np.random.default_rng(1).random((30, 40))
    assert np.allclose(guided_filter(guide, 0.3 * guide + 0.2, 4, 1e-12), 0.3 * guide + 0.2, atol=1e-6)


def test_the_guided_filter_is_a_plain_mean_where_epsilon_is_large():
    rng = np.random.default_rng(2)
    guide, image = rng.random((2, 30, 40))
    smooth = guided_filter(guide, image, 2, 1e9)
    assert smooth.std() < 0.2 * image.std()
