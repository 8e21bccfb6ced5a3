"""Batches of random crops to train a fusion network on; each depends only on the seed and the iteration's number."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pipeline.colour import split_pair
from pipeline.pairs import Pair
from pipeline.stage import InputError, check_memory, threads_available


def load_luma(pairs: Sequence[Pair], colour: str, crop: int) -> list[np.ndarray]:
    """Read every pair's visible luma and infrared, uint8 (2, H, W), into memory (2 bytes per pixel), in threads.

    Raises:
        InputError: a pair is unreadable or smaller than the crop.
    """

    def read(pair: Pair) -> np.ndarray:
        visible, infrared, _, _ = split_pair(pair, colour)
        if min(visible.shape) < crop:
            height, width = visible.shape
            raise InputError(
                f"{pair.visible} is {width}x{height}, smaller than the crop; expected at least {crop}x{crop}"
            )
        return np.stack([visible, infrared])

    threads = threads_available()
    check_memory(threads)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(read, pairs))


def batch_indices(count: int, batch: int, seed: int, stage: int, iteration: int) -> np.ndarray:
    """Return the indices of the pairs in iteration `iteration` (from 0) of a stage.

    Epochs are shuffled; pairs that do not fill a batch at an epoch's end are dropped.
    """
    per_epoch = count // batch
    order = np.random.default_rng([seed, stage, 0, iteration // per_epoch]).permutation(count)
    start = iteration % per_epoch * batch
    return order[start : start + batch]


def random_tones(generator: np.random.Generator) -> np.ndarray:
    """Return a random tone curve, the new value of each grey level, float32 (256,) in 0..1: a power between two ends.

    The power is in 0.5..2, the ends are in 0..0.3 and 0.6..1. Each end stays at 0 or 1 in half of the draws; one curve
    in four is inverted.
    """
    low, high = max(0, generator.uniform(-0.3, 0.3)), min(1, generator.uniform(0.6, 1.4))
    levels = (np.arange(256) / 255) ** 2 ** generator.uniform(-1, 1)
    if generator.random() < 0.25:
        levels = 1 - levels
    return (low + (high - low) * levels).astype(np.float32)


def draw_batch(
    images: Sequence[np.ndarray],
    indices: np.ndarray,
    crop: int,
    seed: int,
    stage: int,
    iteration: int,
    tones: float = 0.0,
) -> Tensor:
    """Return random crops, each in one of the eight flips and rotations: (2, N, 1, crop, crop) in 0..1.

    `tones` is the share of crops, chosen at random, whose bands each get their own `random_tones`.
    """
    generator = np.random.default_rng([seed, stage, 1, iteration])
    patches = []
    for index in indices:
        _, height, width = images[index].shape
        top, left = generator.integers(height - crop + 1), generator.integers(width - crop + 1)
        patch = images[index][:, top : top + crop, left : left + crop]
        patch = np.rot90(patch, generator.integers(4), axes=(1, 2))
        patches.append(patch[:, :, ::-1] if generator.integers(2) else patch)
    batch = np.stack(patches, axis=1)[:, :, None]
    if not tones:
        return torch.from_numpy(batch.astype(np.float32) / 255)
    identity = (np.arange(256) / 255).astype(np.float32)
    varied = np.random.default_rng([seed, stage, 3, iteration]).random(len(indices)) < tones
    toned = [
        [(random_tones(generator) if vary else identity)[patch] for vary, patch in zip(varied, band, strict=True)]
        for band in batch
    ]
    return torch.from_numpy(np.stack(toned))


def prefetched_batches(
    images: Sequence[np.ndarray], size: int, crop: int, seed: int, stage: int, iterations: range, tones: float = 0.0
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Yield each iteration's number, its pairs' indices and its batch; a thread prepares the next batch meanwhile."""

    def draw(iteration: int) -> tuple[int, np.ndarray, Tensor]:
        indices = batch_indices(len(images), size, seed, stage, iteration)
        return iteration, indices, draw_batch(images, indices, crop, seed, stage, iteration, tones)

    check_memory(threads=1)
    with ThreadPoolExecutor(1) as pool:
        upcoming = None
        for iteration in iterations:
            current, upcoming = upcoming or pool.submit(draw, iteration), None
            if iteration + 1 in iterations:
                upcoming = pool.submit(draw, iteration + 1)
            yield current.result()
