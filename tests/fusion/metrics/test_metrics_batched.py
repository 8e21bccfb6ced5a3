"""The batched metrics against those of single images."""

import numpy as np
import pytest
import torch

from fusion.metrics import CONVENTIONS, prepare, score
from fusion.metrics.batched import score_batch
from pipeline.stage import InputError

PAPER = ("MI", "VIF", "Qabf", "SSIM")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.fixture
def batch(rng: np.random.Generator) -> np.ndarray:
    """Visible, infrared and fused images (3, N, H, W): noise, blocks, flat, black, two levels, equal sources."""
    height, width = 67, 90
    noise = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    coarse = rng.integers(30, 200, (3, 10, 10), dtype=np.uint8).repeat(9, axis=1).repeat(9, axis=2)[:, :height]
    blocks = coarse + rng.integers(0, 4, coarse.shape, dtype=np.uint8)
    flat = np.stack([coarse[0], np.full_like(coarse[0], 200), np.full_like(coarse[0], 201)])
    black = np.stack([np.zeros_like(coarse[0]), blocks[1], np.zeros_like(coarse[0])])
    levels = (noise > 127) * np.uint8(255)
    equal = np.stack([blocks[0]] * 3)
    return np.stack([noise, blocks, flat, black, levels, equal], axis=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_batched_values_are_those_of_single_images(batch, convention, device):
    scores = score_batch(*torch.from_numpy(batch).to(device), convention)
    for index in range(batch.shape[1]):
        visible, infrared, fused = batch[:, index]
        expected = score(prepare(visible, infrared, convention), fused, PAPER)
        for name in PAPER:
            assert scores[name][index].item() == pytest.approx(expected[name], rel=1e-6, abs=1e-9), (index, name)


def test_undefined_values_are_nan():
    black = torch.zeros((1, 50, 50), dtype=torch.uint8)
    scores = score_batch(black, black, black)
    assert scores["Qabf"].isnan().all()
    assert scores["VIF"].item() == 2


def test_tensors_of_another_kind_are_refused(batch):
    tensors = torch.from_numpy(batch)
    with pytest.raises(InputError, match=r"torch\.float32 \(6, 67, 90\)"):
        score_batch(tensors[0], tensors[1].float(), tensors[2])
    with pytest.raises(InputError, match=r"\(6, 67, 89\)"):
        score_batch(tensors[0], tensors[1], tensors[2][:, :, 1:])
    with pytest.raises(InputError, match="90x40; wanted at least 41x41"):
        score_batch(*tensors[:, :, :40])
