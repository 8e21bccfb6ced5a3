"""Splits into training and test images: the dataset's own, random, by whole scenes, or from lists.

Names are file stems. A split is the same on every machine: random choices use NumPy's PCG64 over the sorted names.
Fixed splits of M3FD are included in `detection/lists`, either published or sampled by this project; the README there
names their sources.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detection.datasets.layout import Dataset, Scene
from detection.scenes import numbering
from pipeline.artefacts import sha256_lines
from pipeline.pairs import read_names
from pipeline.stage import InputError, some_of

LISTS = Path(__file__).with_name("lists")
# SHA-256 of the included lists, training and test: an edited list is another split and needs another name.
INCLUDED = {
    "m3fd-scenes": (
        "28c41626edeac4152206e18d371a30a2c6404c36542d8ce2dca39c818a063070",
        "33c917dca7dd84e348a728f80cd80020a0b09ed8c8ebec48582a496f3d33ae8f",
    ),
    "random-3800-400": (
        "38fd3c09e17787b37930596a4348fa460e0ceea93da3168da8591c34cac1d263",
        "8694d5f1aad12d55b04fc6fe68e4e10061c916b540e19c1a90f88f38c13f71fb",
    ),
    "zx": (
        "2cc20fd5ed85e5a0166a36c7e99148446f6f2a5cfa11ee2675bbcbf4b575f307",
        "cf984bd2bfdddf96053d3ca33b3a9a2da458e44952fc0e145bbc422d7b56d37d",
    ),
    "e2e-mfd": (
        "ad434ae71c49da9022f5d4f24341fbf6b56576b79da84f7ac5fcca4ce3968cc4",
        "7b6ca5b965e78cd0e9b5a5862d8f1c16e21e8e03d9ac1e5018f655f69421492b",
    ),
    "rgbxfusion": (
        "e5f7d1c7f6dc000fbcc83ce37412954a7e98ce156221c8b32ab8a72a26421104",
        "2e337c27295c2ef9fb3a73615073af8f51dbd302d4b2e4ecb4de09014fa00724",
    ),
}
# The options that each kind of split requires; it accepts no others of these.
SPLITS = {
    "own": (),
    "random": ("train", "test"),
    **dict.fromkeys(INCLUDED, ()),
    "scene-blocked": ("test",),
    "list": ("train_list", "test_list"),
}
# If the data allow, a split by scenes has at least ENOUGH scenes in training and in test, and the test scenes have an
# effective number of ENOUGH_EFFECTIVE by images and by boxes. The tests of the verdict (`detection.differences`)
# require this many.
ENOUGH = 12
ENOUGH_EFFECTIVE = 8.0
# Largest share of test images that may have a training image whose number is one higher or lower.
MOST_NEIGHBOURS = 0.05
DRAWS = 1000


@dataclass(frozen=True)
class Split:
    """The names of the training and the test images, each sorted, and how they were chosen.

    For a split by scenes, `by` is the sampling unit: `place` or `sequence`.
    """

    kind: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int | None = None
    by: str | None = None

    @property
    def digests(self) -> tuple[str, str]:
        """The SHA-256 of the training names and of the test names, one name per line."""
        return sha256_lines(self.train), sha256_lines(self.test)


def check_split_options(
    kind: str, train: int | None, test: int | None, train_list: Path | str | None, test_list: Path | str | None
) -> None:
    """Raise InputError if a split lacks an option that it requires, or an option is given that it would ignore."""
    given = {"train": train, "test": test, "train_list": train_list, "test_list": test_list}
    found, needed = {key for key, value in given.items() if value is not None}, SPLITS[kind]
    shown = {key: f"--{key.replace('_', '-')} {'FILE' if 'list' in key else 'N'}" for key in given}
    if not found >= set(needed):
        raise InputError(f"--split {kind} requires {' and '.join(shown[key] for key in needed)}")
    if surplus := [f"--{key.replace('_', '-')} {given[key]}" for key in given if key in found - set(needed)]:
        fitting = [other for other, keys in SPLITS.items() if found == set(keys)]
        raise InputError(
            f"--split {kind} does not use {' and '.join(surplus)}; remove it"
            + (f", or use --split {' or '.join(fitting)}" if fitting else "")
        )


def own_split(dataset: Dataset, root: Path) -> Split:
    """Return the split that is part of the dataset.

    Raises:
        InputError: the dataset has no split.
    """
    parts = dataset.own_split(root)
    if parts is None:
        raise InputError(f"{root} has no train.txt and test.txt; expected both, or --split random or list")
    return _checked("own", *parts)


def random_split(names: Sequence[str], train: int, test: int, seed: int) -> Split:
    """Draw `train` training names and `test` test names at random, without replacement.

    Raises:
        InputError: a number is below 1, or there are fewer names than both numbers together.
    """
    if train < 1 or test < 1 or train + test > len(names):
        raise InputError(
            f"--train {train} --test {test}: found {len(names)} pairs; expected at least 1 each, and no more in all"
        )
    names = sorted(names)
    drawn = [names[index] for index in _shuffled(len(names), seed)[: train + test]]
    return _checked("random", drawn[:train], drawn[train:], seed)


def included_split(kind: str, names: Sequence[str]) -> Split:
    """Return a split whose lists are included in this project.

    Raises:
        InputError: `names` are not the names that the lists were drawn from, or a list was edited.
    """
    folder = LISTS / kind
    split = _checked(kind, read_names(folder / "train.txt"), read_names(folder / "test.txt"))
    if split.digests != INCLUDED[kind]:
        raise InputError(f"{folder} is not the split {kind}: the digests of its lists differ; restore the lists")
    apart = folder / "apart.txt"  # names of the dataset that are neither in training nor in test
    wanted = {*split.train, *split.test, *(read_names(apart) if apart.is_file() else ())}
    missing, surplus = sorted(wanted - set(names)), sorted(set(names) - wanted)
    if missing or surplus:
        raise InputError(
            f"--split {kind} is for the {len(wanted)} names {min(wanted)} to {max(wanted)}: found {len(names)} pairs, "
            f"{len(missing)} names missing, {len(surplus)} unknown ({some_of(missing or surplus)}); expected exactly "
            "these names, or another split"
        )
    return split


def scene_split(scenes: Mapping[str, Scene], boxes: Mapping[str, Mapping[str, int]], test: int, seed: int) -> Split:
    """Split by scenes: sample whole places or sequences until the test set has about `test` images.

    Scenes are visited in a seeded random order. Each scene that still fits into `test` images is added to the test set;
    all others are training scenes. The test set may therefore have fewer images than `test`, but never more. Up to
    `DRAWS` orders are tried. The first one is taken for which every class that has boxes in at least two scenes is in
    training and in test, and few test images have a neighbour in training (`MOST_NEIGHBOURS`). The unit is the place if
    this leaves enough places in both parts (`ENOUGH`), otherwise the sequence if there are enough sequences. If there
    are enough of neither, the unit is the place, or the sequence if no order of the places gives a valid split.

    Args:
        scenes: scene of every image, by name.
        boxes: for each class, the number of its boxes in each image that has any.
        test: the target number of test images.
        seed: seed of the orders.

    Raises:
        InputError: no order gives images and every class in both parts.
    """
    for least in (ENOUGH, 1):
        for unit in ("place", "sequence"):
            chosen = _draw(scenes, unit, boxes, test, seed, least)
            if chosen:
                split = _checked("scene-blocked", sorted(set(scenes) - chosen), sorted(chosen), seed)
                return replace(split, by=unit)
    sizes = Counter(scene.sequence for scene in scenes.values()).values()
    raise InputError(
        f"--split scene-blocked --test {test}: no choice of whole scenes found among the {len(sizes)} sequences "
        f"({min(sizes)} to {max(sizes)} pairs each, {len(scenes)} in all) at "
        f"{len({scene.place for scene in scenes.values()})} places; expected scenes for training and for test with "
        "boxes of every class in both: try another --test, or --scenes FILE"
    )


def _draw(
    scenes: Mapping[str, Scene], unit: str, boxes: Mapping[str, Mapping[str, int]], test: int, seed: int, least: int
) -> set[str] | None:
    """Return the names of a test set of whole scenes, with at least `least` scenes in both parts; None if none fits."""
    names = sorted(scenes)
    labels, scene_of = np.unique([getattr(scenes[name], unit) for name in names], return_inverse=True)
    if len(labels) < 2 * least:
        return None
    index = {name: number for number, name in enumerate(names)}
    sizes = np.bincount(scene_of)
    holding = [
        np.bincount(scene_of[[index[name] for name in found]], minlength=len(labels)) for found in boxes.values()
    ]
    objects = np.zeros(len(labels))
    for found in boxes.values():
        np.add.at(objects, scene_of[[index[name] for name in found]], list(found.values()))
    holding = [counts for counts in holding if np.count_nonzero(counts) > 1]  # one scene cannot be in both parts
    keys = {numbering(name)[:2]: name for name in names if numbering(name)[1] >= 0}
    pairs = [(name, keys.get((rest, number + 1))) for (rest, number), name in keys.items()]
    neighbours = np.array([(index[a], index[b]) for a, b in pairs if b], int).reshape(-1, 2)
    for draw in range(DRAWS):
        taken = np.zeros(len(labels), bool)
        room = test
        for scene in _shuffled(len(labels), [seed, draw]):
            if sizes[scene] <= room:
                taken[scene], room = True, room - sizes[scene]
        if not least <= taken.sum() <= len(labels) - least:
            continue
        if least == ENOUGH and not (_enough(sizes[taken]) and (not boxes or _enough(objects[taken]))):
            continue
        if not all(counts[taken].any() and counts[~taken].any() for counts in holding):
            continue
        tested = taken[scene_of]
        apart = neighbours[tested[neighbours[:, 0]] != tested[neighbours[:, 1]]]
        exposed = np.unique(apart[tested[apart]])
        if len(exposed) <= MOST_NEIGHBOURS * tested.sum():
            return {names[at] for at in np.flatnonzero(tested)}
    return None


def _enough(sizes: np.ndarray) -> bool:
    """Return whether the number and the effective number of scenes of these sizes suffice for the statistics."""
    return np.count_nonzero(sizes) >= ENOUGH and sizes.sum() ** 2 >= ENOUGH_EFFECTIVE * (sizes**2).sum()


def list_split(train: Path, test: Path, suffixes: Sequence[str] = ()) -> Split:
    """Return the split in two files of names, one name per line.

    Raises:
        InputError: a list is missing, empty or names an image twice, or both lists name the same image.
    """
    return _checked("list", read_names(train, suffixes), read_names(test, suffixes))


def limited(split: Split, train: int | None, test: int | None, seed: int) -> Split:
    """Return a seeded random subset of `split` with at most `train` and `test` names, for a reduced run."""

    def part(names: tuple[str, ...], count: int | None, stream: int) -> tuple[str, ...]:
        if count is None or count >= len(names):
            return names
        if count < 1:
            raise InputError(f"--limit-train or --limit-test {count}: expected at least 1")
        return tuple(sorted(names[index] for index in _shuffled(len(names), [seed, stream])[:count]))

    return replace(split, train=part(split.train, train, 0), test=part(split.test, test, 1))


def _shuffled(count: int, seed: int | list[int]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).permutation(count)


def _checked(kind: str, train: Sequence[str], test: Sequence[str], seed: int | None = None) -> Split:
    shared = sorted(set(train) & set(test))
    if shared:
        raise InputError(f"{len(shared)} images are both in training and in test: {some_of(shared)}; expected none")
    return Split(kind, tuple(sorted(train)), tuple(sorted(test)), seed)
