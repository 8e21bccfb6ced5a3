"""Which images train the detector and which test it: the data set's own split, a random one, whole scenes, or lists.

Names are file stems. A split is the same on every machine: its random choice is NumPy's PCG64 over the sorted names.
`random-3800-400` is `random` for M3FD's names and the paper's sizes, drawn once (seed 0) and kept in `detection/lists`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detection.datasets.layout import Dataset
from detection.likeness import NEAR_DUPLICATE, ROWS_AT_ONCE, likeness
from pipeline.artefacts import sha256_lines
from pipeline.pairs import read_names
from pipeline.stage import InputError, some_of

LISTS = Path(__file__).with_name("lists")
# SHA-256 of the kept lists, training and test: an edited list is another split and needs another name.
KEPT = {
    "random-3800-400": (
        "38fd3c09e17787b37930596a4348fa460e0ceea93da3168da8591c34cac1d263",
        "8694d5f1aad12d55b04fc6fe68e4e10061c916b540e19c1a90f88f38c13f71fb",
    )
}
# A scene ends where a pair is less alike than this to the next, or where the numbering jumps by more than so many
# times its usual step.
SAME_SCENE = 0.5
JUMP = 10
SCENE_RULE = (
    f"names in the order of their last number; a new block where the rest of the name changes, the number jumps by "
    f"more than {JUMP} median steps, or the likeness to the pair before is below {SAME_SCENE}; blocks with near "
    f"duplicates of each other (from {NEAR_DUPLICATE} on) stay together"
)


@dataclass(frozen=True)
class Split:
    """The names of the training and the test images, each sorted, and how they were chosen.

    `blocks`, of a split by scenes: each scene's names in order.
    """

    kind: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int | None = None
    blocks: tuple[tuple[str, ...], ...] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What else dataset.json says of the split."""
        if self.blocks is None:
            return {}
        lines = (" ".join(block) for block in self.blocks)
        largest = max(map(len, self.blocks))
        return {
            "blocks": {
                "rule": SCENE_RULE,
                "count": len(self.blocks),
                "largest": largest,
                "digest": sha256_lines(lines),
            }
        }

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


def kept_split(kind: str, names: Sequence[str]) -> Split:
    """Return a split whose lists are part of this project.

    Raises:
        InputError: `names` are not those that the lists were drawn from, or a list was edited.
    """
    folder = LISTS / kind
    split = _checked(kind, read_names(folder / "train.txt"), read_names(folder / "test.txt"))
    if split.digests != KEPT[kind]:
        raise InputError(f"{folder} is not the split {kind}: its digests differ; restore the lists")
    wanted = {*split.train, *split.test}
    missing, surplus = sorted(wanted - set(names)), sorted(set(names) - wanted)
    if missing or surplus:
        raise InputError(
            f"--split {kind} is of the {len(wanted)} names {min(wanted)} to {max(wanted)}: found {len(names)} pairs, "
            f"{len(missing)} names missing, {len(surplus)} unknown ({some_of(missing or surplus)}); wanted just those, "
            "or another split"
        )
    return split


def scene_split(descriptors: Mapping[str, np.ndarray], test: int, seed: int) -> Split:
    """Split by scenes: whole blocks of successive frames are drawn for the test until it has about `test` pairs.

    Groups of blocks are drawn in a seeded order, and each that still fits into `test` is taken; the rest trains. So the
    test may have fewer pairs than wanted, never more.

    Args:
        descriptors: (2, 768) by name, of all pairs, as `detection.likeness` makes them.
        test: the wanted number of test pairs.
        seed: of the order in which groups are drawn.

    Raises:
        InputError: no group fits, or nothing is left to train on.
    """
    blocks = find_scenes(descriptors)
    groups = _together(blocks, descriptors)
    chosen: list[str] = []
    for index in _shuffled(len(groups), seed):
        if len(chosen) + len(groups[index]) <= test:
            chosen += groups[index]
    if not chosen or len(chosen) == len(descriptors):
        raise InputError(
            f"--split scene-blocked --test {test}: the {len(descriptors)} pairs are {len(groups)} groups of scenes, of "
            f"{min(map(len, groups))} to {max(map(len, groups))} pairs; wanted a test set that holds one and leaves one"
        )
    taken = set(chosen)
    split = _checked("scene-blocked", [name for name in descriptors if name not in taken], chosen, seed)
    return replace(split, blocks=tuple(map(tuple, blocks)))


def find_scenes(descriptors: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Return blocks of successive frames, by SCENE_RULE; every name is in one block."""
    order = sorted(descriptors, key=_numbering)
    keys = [_numbering(name) for name in order]
    steps = [b[1] - a[1] for a, b in pairwise(keys) if a[0] == b[0]]
    usual = max(float(np.median(steps)), 1.0) if steps else 1.0
    blocks = [[order[0]]]
    for a, b in pairwise(keys):
        last, name = a[2], b[2]
        same = a[0] == b[0] and b[1] - a[1] <= JUMP * usual
        if same and likeness(descriptors[last][None], descriptors[name][None])[0, 0] >= SAME_SCENE:
            blocks[-1].append(name)
        else:
            blocks.append([name])
    return blocks


def _numbering(name: str) -> tuple[str, int, str]:
    """Return the name without its last number, that number, and the name, which makes the order complete."""
    found = list(re.finditer(r"[0-9]+", name))
    if not found:
        return name, 0, name
    start, end = found[-1].span()
    return f"{name[:start]}#{name[end:]}", int(found[-1][0]), name


def _together(blocks: Sequence[Sequence[str]], descriptors: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Return the names of groups of blocks: two blocks with a near duplicate in each other are in one group."""
    names = [name for block in blocks for name in block]
    block_of = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    stack = np.stack([descriptors[name] for name in names])
    links = [], []
    for start in range(0, len(names), ROWS_AT_ONCE):
        rows, columns = np.nonzero(likeness(stack[start : start + ROWS_AT_ONCE], stack) >= NEAR_DUPLICATE)
        links[0].append(block_of[rows + start])
        links[1].append(block_of[columns])
    rows, columns = map(np.concatenate, links)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(blocks), len(blocks)))
    count, group_of = connected_components(graph, directed=False)
    groups: list[list[str]] = [[] for _ in range(count)]
    for name, block in zip(names, block_of, strict=True):
        groups[group_of[block]].append(name)
    return groups


def list_split(train: Path, test: Path, suffixes: Sequence[str] = ()) -> Split:
    """Return the split of two files of names, one a line.

    Raises:
        InputError: a list is missing, empty or names an image twice, or both name the same image.
    """
    return _checked("list", read_names(train, suffixes), read_names(test, suffixes))


def limited(split: Split, train: int | None, test: int | None, seed: int) -> Split:
    """Return a seeded random part of `split`, at most `train` and `test` names, for a reduced run."""

    def part(names: tuple[str, ...], count: int | None, stream: int) -> tuple[str, ...]:
        if count is None or count >= len(names):
            return names
        if count < 1:
            raise InputError(f"--limit-train or --limit-test {count}: wanted at least 1")
        return tuple(sorted(names[index] for index in _shuffled(len(names), [seed, stream])[:count]))

    return replace(split, train=part(split.train, train, 0), test=part(split.test, test, 1))


def _shuffled(count: int, seed: int | list[int]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).permutation(count)


def _checked(kind: str, train: Sequence[str], test: Sequence[str], seed: int | None = None) -> Split:
    shared = sorted(set(train) & set(test))
    if shared:
        raise InputError(f"{len(shared)} images are in training and in test: {some_of(shared)}; wanted none")
    return Split(kind, tuple(sorted(train)), tuple(sorted(test)), seed)
