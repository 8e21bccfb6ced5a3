"""Stripes of an image give what the whole image gives."""

import pytest
import torch
from torch import nn

from fusion.methods.parts import striping
from fusion.methods.parts.restormer import BaseFeatureExtraction, striped_base


@pytest.mark.parametrize("borders", ["zeros", "reflect"])
@pytest.mark.parametrize("size", [(2, 3), (9, 4), (31, 5)])
def test_stripes_of_convolutions_give_the_whole_images_values(size, borders, monkeypatch):
    monkeypatch.setattr(striping, "PIXELS", 16)
    seen, first, second = [], *(nn.Conv2d(3, 3, 3, padding=1, padding_mode=borders) for _ in range(2))
    first.register_forward_hook(lambda module, given, found: seen.append(given[0].shape[2]))
    maps = torch.randn(1, 3, *size)
    with torch.inference_mode():
        found = striping.apply_in_stripes(lambda x: second(first(x)), (maps,), reach=2)
        assert len(seen) == -(-size[0] // 4) and max(seen) <= 4 + 2 * 2
        assert torch.allclose(found, second(first(maps)), atol=1e-6)


def test_the_stripes_kept_rows_fill_the_image_once():
    for height in (1, 7, 100):
        rows = [row for kept, _, _ in striping.stripes(height, 3000, reach=1) for row in range(height)[kept]]
        assert rows == list(range(height))
        for kept, around, inside in striping.stripes(height, 3000, reach=1):
            assert list(range(height)[around][inside]) == list(range(height)[kept])


@pytest.mark.parametrize("borders", ["zeros", "reflect"])
def test_a_block_in_stripes_is_the_block(borders, monkeypatch):
    monkeypatch.setattr(striping, "PIXELS", 40)
    block, maps = BaseFeatureExtraction(16, borders), torch.randn(1, 16, 23, 10)
    with torch.inference_mode():
        wanted = block(maps)
        assert torch.allclose(striped_base(block)(maps), wanted, atol=1e-5 * float(wanted.max() - wanted.min()))
