"""Which images train the detector and which test it: the data set's own split, a seeded random one, or two lists.

Names are file stems. A split is the same on every machine: its random choice is NumPy's PCG64 over the sorted names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.datasets.layout import Dataset
from fusion.artefacts import sha256_lines
from fusion.pairs import read_names
from fusion.stage import InputError


@dataclass(frozen=True)
class Split:
    """The names of the training and the test images, each sorted, and how they were chosen."""

    kind: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int | None = None

    @property
    def digests(self) -> tuple[str, str]:
        """The SHA-256 of the training names and of the test names, one a line."""
        return sha256_lines(self.train), sha256_lines(self.test)


def own_split(dataset: Dataset, root: Path) -> Split:
    """Return the split that the data set brings.

    Raises:
        InputError: it brings none.
    """
    parts = dataset.own_split(root)
    if parts is None:
        raise InputError(f"{root} has no train.txt and test.txt; wanted both, or --split random or list")
    return _checked("own", *parts)


def random_split(names: Sequence[str], train: int, test: int, seed: int) -> Split:
    """Draw `train` and `test` of `names` at random, none of them twice.

    Raises:
        InputError: there are fewer names than wanted.
    """
    if train < 1 or test < 1 or train + test > len(names):
        raise InputError(f"--train {train} --test {test}: found {len(names)} pairs; wanted at least one each, no more")
    names = sorted(names)
    drawn = [names[index] for index in _shuffled(len(names), seed)[: train + test]]
    return _checked("random", drawn[:train], drawn[train:], seed)


def list_split(train: Path, test: Path) -> Split:
    """Return the split of two files of names, one a line.

    Raises:
        InputError: a list is missing, empty or names an image twice, or both name the same image.
    """
    return _checked("list", read_names(train), read_names(test))


def limited(split: Split, train: int | None, test: int | None, seed: int) -> Split:
    """Return a seeded random part of `split`, at most `train` and `test` names, for a reduced run."""

    def part(names: tuple[str, ...], count: int | None, stream: int) -> tuple[str, ...]:
        if count is None or count >= len(names):
            return names
        if count < 1:
            raise InputError(f"--limit-train or --limit-test {count}: wanted at least 1")
        return tuple(sorted(names[index] for index in _shuffled(len(names), [seed, stream])[:count]))

    return Split(split.kind, part(split.train, train, 0), part(split.test, test, 1), split.seed)


def _shuffled(count: int, seed: int | list[int]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).permutation(count)


def _checked(kind: str, train: Sequence[str], test: Sequence[str], seed: int | None = None) -> Split:
    shared = sorted(set(train) & set(test))
    if shared:
        shown = ", ".join(map(repr, shared[:5]))
        raise InputError(f"{len(shared)} images are in training and in test, {shown} among them; wanted none")
    return Split(kind, tuple(sorted(train)), tuple(sorted(test)), seed)
