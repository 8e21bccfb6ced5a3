"""Batches depend on the seed and the iteration's number only; crops, turns and tones are what they should be."""

import numpy as np
import torch

from fusion.training.batches import batch_indices, draw_batch, random_tones


def test_an_epoch_sees_every_pair_once_and_batches_depend_on_the_iteration_only():
    order = np.concatenate([batch_indices(10, 2, seed=0, stage=1, iteration=i) for i in range(5)])
    assert sorted(order) == list(range(10))
    images = [np.arange(2 * 30 * 40, dtype=np.uint32).reshape(2, 30, 40).astype(np.uint8) for _ in range(2)]
    draws = [draw_batch(images, np.array([0, 1]), 16, 0, 2, i) for i in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (2, 2, 1, 16, 16)


def test_both_images_of_a_pair_get_the_same_crop_and_all_eight_turns_occur(rng):
    image = rng.integers(0, 256, (40, 40), dtype=np.uint8)
    seen = set()
    for iteration in range(64):
        visible, infrared = draw_batch([np.stack([image, image])], np.array([0]), 40, 0, 1, iteration)[:, 0, 0]
        assert torch.equal(visible, infrared)
        seen.add(visible.numpy().tobytes())
    assert len(seen) == 8


def test_random_tones_keep_the_order_of_grey_levels_or_turn_it_and_only_when_asked_for(rng):
    image = rng.integers(0, 256, (40, 40), dtype=np.uint8)
    turned = set()
    for iteration in range(20):
        where = ([np.stack([image, image])], np.array([0]), 40, 0, 2, iteration)
        plain, varied = (draw_batch(*where, tones).numpy()[:, 0, 0] for tones in (0, 1))
        assert np.array_equal(plain[0], plain[1]) and not np.array_equal(varied[0], varied[1])
        assert varied.min() >= 0 and varied.max() <= 1
        for before, after in zip(plain, varied, strict=True):
            slopes = np.diff(after.ravel()[np.argsort(before.ravel(), kind="stable")])
            assert (slopes >= 0).all() or (slopes <= 0).all()
            turned.add(bool(slopes.sum() < 0))
    assert turned == {False, True}


def test_only_the_share_of_crops_that_is_asked_for_is_given_random_tones(rng):
    images = [rng.integers(0, 256, (2, 16, 16), dtype=np.uint8) for _ in range(8)]
    varied = []
    for iteration in range(50):
        where = (images, np.arange(8), 16, 0, 2, iteration)
        plain, some, every = (draw_batch(*where, tones) for tones in (0, 0.25, 1))
        assert torch.equal(plain, draw_batch(*where))
        for crop in range(8):
            kept = torch.equal(some[:, crop], plain[:, crop])
            assert kept or not torch.equal(some[0, crop], plain[0, crop])
            assert not torch.equal(every[:, crop], plain[:, crop])
            varied.append(not kept)
    assert 0.18 < np.mean(varied) < 0.32


def test_half_of_the_random_tones_leave_black_and_half_leave_white(rng):
    tones = np.array([random_tones(rng) for _ in range(2000)])
    ends = tones[:, [0, 255]]
    low, high = ends.min(axis=1), ends.max(axis=1)
    assert 0.45 < (low == 0).mean() < 0.55 and 0.45 < (high == 1).mean() < 0.55
    assert low.max() <= 0.3 and high.min() >= 0.6
    assert 0.2 < (ends[:, 0] > ends[:, 1]).mean() < 0.3
