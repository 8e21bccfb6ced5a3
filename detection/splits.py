"""Which images train the detector and which test it: the data set's own split, a random one, whole scenes, or lists.

Names are file stems. A split is the same on every machine: its random choice is NumPy's PCG64 over the sorted names.
Splits of M3FD's names are kept in `detection/lists`, drawn here or published by others: its README has the sources.
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
# SHA-256 of the kept lists, training and test: an edited list is another split and needs another name.
KEPT = {
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
# Of each kind of split the options that it needs; it takes no other of them.
SPLITS = {
    "own": (),
    "random": ("train", "test"),
    **dict.fromkeys(KEPT, ()),
    "scene-blocked": ("test",),
    "list": ("train_list", "test_list"),
}
# A split by scenes has as many scenes as this on both sides, and the test's are worth as many of equal size, by images
# and by boxes, where the data allow: what the statistics of the verdict ask for (`detection.differences`).
ENOUGH = 12
ENOUGH_EFFECTIVE = 8.0
# No more of the test images than this may have a training image whose number is one higher or lower.
MOST_NEIGHBOURS = 0.05
DRAWS = 1000


@dataclass(frozen=True)
class Split:
    """The names of the training and the test images, each sorted, and how they were chosen.

    `by`, of a split by scenes: `place` or `sequence`, what was drawn whole.
    """

    kind: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int | None = None
    by: str | None = None

    @property
    def digests(self) -> tuple[str, str]:
        """The SHA-256 of the training names and of the test names, one a line."""
        return sha256_lines(self.train), sha256_lines(self.test)


def check_split_options(
    kind: str, train: int | None, test: int | None, train_list: Path | str | None, test_list: Path | str | None
) -> None:
    """Raise InputError where a split lacks an option that it needs, or is given one that it would pass over."""
    given = {"train": train, "test": test, "train_list": train_list, "test_list": test_list}
    found, wanted = {key for key, value in given.items() if value is not None}, SPLITS[kind]
    shown = {key: f"--{key.replace('_', '-')} {'FILE' if 'list' in key else 'N'}" for key in given}
    if not found >= set(wanted):
        raise InputError(f"--split {kind} wants {' and '.join(shown[key] for key in wanted)}")
    if surplus := [f"--{key.replace('_', '-')} {given[key]}" for key in given if key in found - set(wanted)]:
        fitting = [other for other, keys in SPLITS.items() if found == set(keys)]
        raise InputError(
            f"--split {kind} takes no {' and no '.join(surplus)}; wanted it without"
            + (f", or --split {' or '.join(fitting)}" if fitting else "")
        )


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
    apart = folder / "apart.txt"  # names of the data set that the split uses for neither
    wanted = {*split.train, *split.test, *(read_names(apart) if apart.is_file() else ())}
    missing, surplus = sorted(wanted - set(names)), sorted(set(names) - wanted)
    if missing or surplus:
        raise InputError(
            f"--split {kind} is of the {len(wanted)} names {min(wanted)} to {max(wanted)}: found {len(names)} pairs, "
            f"{len(missing)} names missing, {len(surplus)} unknown ({some_of(missing or surplus)}); wanted just those, "
            "or another split"
        )
    return split


def scene_split(scenes: Mapping[str, Scene], boxes: Mapping[str, Mapping[str, int]], test: int, seed: int) -> Split:
    """Split by scenes: whole places or sequences are drawn for the test until it has about `test` images.

    They are drawn in a seeded order, and each that still fits into `test` is taken; the rest trains. So the test may
    have fewer images than wanted, never more. Of `DRAWS` draws the first is taken that has every class with boxes in
    two scenes on both sides, and few neighbours across (`MOST_NEIGHBOURS`). Places are drawn where that leaves enough
    of them on both sides (`ENOUGH`), else sequences where those are enough, else what there is, places first.

    Args:
        scenes: by name, of all images.
        boxes: for each class, the number of its boxes in each image that has some.
        test: the wanted number of test images.
        seed: of the draws.

    Raises:
        InputError: no draw has images and every class on both sides.
    """
    for least in (ENOUGH, 1):
        for unit in ("place", "sequence"):
            chosen = _draw(scenes, unit, boxes, test, seed, least)
            if chosen:
                split = _checked("scene-blocked", sorted(set(scenes) - chosen), sorted(chosen), seed)
                return replace(split, by=unit)
    sizes = Counter(scene.sequence for scene in scenes.values()).values()
    raise InputError(
        f"--split scene-blocked --test {test}: the {len(scenes)} pairs are {len(sizes)} sequences, of {min(sizes)} to "
        f"{max(sizes)} pairs, at {len({scene.place for scene in scenes.values()})} places; wanted whole ones for the "
        "test that leave some to train on, with boxes of every class on both sides: another --test, or --scenes FILE"
    )


def _draw(
    scenes: Mapping[str, Scene], unit: str, boxes: Mapping[str, Mapping[str, int]], test: int, seed: int, least: int
) -> set[str] | None:
    """Return the names of a test set of whole scenes, at least `least` of them on both sides; None where none fits."""
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
    holding = [counts for counts in holding if np.count_nonzero(counts) > 1]  # one scene cannot be on both sides
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
    """Return whether scenes of these sizes are as many, and worth as many of equal size, as statistics ask for."""
    return np.count_nonzero(sizes) >= ENOUGH and sizes.sum() ** 2 >= ENOUGH_EFFECTIVE * (sizes**2).sum()


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
