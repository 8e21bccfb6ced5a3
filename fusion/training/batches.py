"""Batches of random crops to train a fusion network on; each depends on the seed and the iteration's number alone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pipeline.colour import split_pair
from pipeline.pairs import Pair
from pipeline.stage import InputError, check_memory, threads_available


def load_luma(pairs: Sequence[Pair], colour: str, crop: int) -> list[np.ndarray]:
    """Read every pair's visible luma and infrared, uint8 (2, H, W) each, into memory (2 bytes a pixel), in threads.

    Raises:
        InputError: a pair is unreadable or smaller than the crop.
    """

    def read(pair: Pair) -> np.ndarray:
        visible, infrared, _, _ = split_pair(pair, colour)
        if min(visible.shape) < crop:
            height, width = visible.shape
            raise InputError(
                f"{pair.visible} is {width}x{height}, smaller than the crop; wanted at least {crop}x{crop}"
            )
        return np.stack([visible, infrared])

    threads = threads_available()
    check_memory(threads)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(read, pairs))


def batch_indices(count: int, batch: int, seed: int, stage: int, iteration: int) -> np.ndarray:
    """Return which pairs iteration `iteration` (from 0) of a stage sees: shuffled epochs, the odd rest dropped."""
    in_epoch = count // batch
    order = np.random.default_rng([seed, stage, 0, iteration // in_epoch]).permutation(count)
    start = iteration % in_epoch * batch
    return order[start : start + batch]


def random_tones(generator: np.random.Generator) -> np.ndarray:
    """Return what each grey level becomes, float32 (256,) in 0..1: a random power between random ends.

    The power lies in 0.5..2, the ends in 0..0.3 and 0.6..1, each left at 0 or 1 in half of the draws; one image in four
    is a negative.
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
    """Return random crops, each turned by one of the eight flips and rotations: (2, N, 1, crop, crop) in 0..1.

    `tones` is the share of crops, at random, whose bands are given `random_tones`, each its own.
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
    as_they_are = (np.arange(256) / 255).astype(np.float32)
    varied = np.random.default_rng([seed, stage, 3, iteration]).random(len(indices)) < tones
    drawn = [
        [(random_tones(generator) if vary else as_they_are)[patch] for vary, patch in zip(varied, band, strict=True)]
        for band in batch
    ]
    return torch.from_numpy(np.stack(drawn))


def drawn_batches(
    images: Sequence[np.ndarray], size: int, crop: int, seed: int, stage: int, iterations: range, tones: float = 0.0
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """Yield the iteration, its pairs' indices and its batch; the next one is drawn while the last is computed with."""

    def draw(iteration: int) -> tuple[int, np.ndarray, Tensor]:
        indices = batch_indices(len(images), size, seed, stage, iteration)
        return iteration, indices, draw_batch(images, indices, crop, seed, stage, iteration, tones)

    check_memory(threads=1)
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for iteration in iterations:
            ready, coming = coming or pool.submit(draw, iteration), None
            if iteration + 1 in iterations:
                coming = pool.submit(draw, iteration + 1)
            yield ready.result()
