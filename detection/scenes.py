"""A scene for every image: its sequence, a run of frames at one place, and its place, all its sequences together.

What is known is used in this order: a file of the user's, what the data set says of itself, else the images. From the
images, by `RULE`: frames whose names differ in their last number only are ordered by it, and stay together unless the
picture changes strongly under a descriptor that bears a moving camera. A place is then all sequences with near
duplicates of one another.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detection.datasets.layout import Dataset, Scene
from detection.likeness import NEAR_DUPLICATE, ROWS_AT_ONCE, Look, likeness, shifted_likeness
from pipeline.artefacts import write_text
from pipeline.stage import InputError, some_of

COLUMNS = ("name", "sequence", "place", "condition", "source")
# A sequence ends where none of the last frames is as much like one of the next as this, shifts allowed, or where the
# numbering jumps by more than so many times its usual step. On MSRS' 560 pairs at hand, of which 212 have a successor
# numbered one higher, this parts 11 of those and makes 75 sequences; 0.55 parts 22 (137 sequences), 0.45 parts 4 (44,
# too few for a test of 120 pairs). One frame instead of two on each side parts 27 at 0.5: a passing car is enough.
SAME_SCENE = 0.5
AROUND = 2
JUMP = 10
FROM_IMAGES = "numbers and images"
RULE = (
    f"names in the order of their last number; a new sequence where the rest of the name changes, the number jumps by "
    f"more than {JUMP} median steps, or none of the {AROUND} frames before is like one of the {AROUND} after by "
    f"{SAME_SCENE}, the greater of both bands at the best shift; sequences with near duplicates of each other (from "
    f"{NEAR_DUPLICATE} on) are one place"
)


def find_scenes(dataset: Dataset, root: Path, looks: Mapping[str, Look], file: Path | None = None) -> dict[str, Scene]:
    """Return the scene of every image of `looks`, by `file`, else by the data set, else by the images.

    Raises:
        InputError: the file is not a table of scenes, or lacks an image.
    """
    if file is not None:
        given = read_scenes(file)
        missing = sorted(set(looks) - set(given))
        if missing:
            raise InputError(
                f"{file} lacks {len(missing)} of the {len(looks)} images: {some_of(missing)}; wanted a row for each"
            )
        return {name: given[name] for name in looks}
    stated = stated_scenes(dataset, root, list(looks))
    rest = {name: seen.descriptor for name, seen in looks.items() if name not in stated}
    return stated | (scenes_from_images(rest) if rest else {})


def stated_scenes(dataset: Dataset, root: Path, names: Sequence[str]) -> dict[str, Scene]:
    """Return the scenes of those of `names` that the data set has an answer for."""
    return dict(dataset.scenes(root, names)) if dataset.scenes else {}


def scenes_from_images(descriptors: Mapping[str, np.ndarray]) -> dict[str, Scene]:
    """Return the scenes by RULE; a sequence and a place are named after their first and last frame.

    Args:
        descriptors: (2, 768) by name, as `detection.likeness` makes them.
    """
    sequences = find_sequences(descriptors)
    result = {}
    for place in _together(sequences, descriptors):
        for sequence in place:
            names = (f"{sequence[0]} to {sequence[-1]}", f"{place[0][0]} to {place[-1][-1]}")
            result |= {name: Scene(*names, "", FROM_IMAGES) for name in sequence}
    return result


def find_sequences(descriptors: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Return runs of frames, by RULE, each in order; every name is in one of them."""
    order = sorted(descriptors, key=numbering)
    keys = [numbering(name) for name in order]
    steps = [b[1] - a[1] for a, b in pairwise(keys) if a[0] == b[0]]
    reach = JUMP * max(float(np.median(steps)), 1.0) if steps else 0
    follows = np.array([a[0] == b[0] and b[1] - a[1] <= reach for a, b in pairwise(keys)], bool)
    near = np.flatnonzero(follows)
    stack = np.stack([descriptors[name] for name in order])
    likest = np.full(len(near), -1.0)
    for before in range(AROUND):
        for after in range(AROUND):
            left, right = np.maximum(near - before, 0), np.minimum(near + 1 + after, len(order) - 1)
            # Frames beyond the next jump say nothing of this place.
            within = np.array([follows[a:b].all() for a, b in zip(left, right, strict=True)], bool)
            for start in range(0, len(near), ROWS_AT_ONCE):
                part = np.arange(start, min(start + ROWS_AT_ONCE, len(near)))[within[start : start + ROWS_AT_ONCE]]
                found = shifted_likeness(stack[left[part]], stack[right[part]])
                likest[part] = np.maximum(likest[part], found)
    follows[near] = likest >= SAME_SCENE
    ends = np.flatnonzero(~follows) + 1
    return [part.tolist() for part in np.split(np.array(order, object), ends)]


def numbering(name: str) -> tuple[str, int, str]:
    """Return the name without its last number, that number, and the name, which makes the order complete.

    A name without a number has -1.
    """
    found = list(re.finditer(r"[0-9]+", name))
    if not found:
        return name, -1, name
    start, end = found[-1].span()
    return f"{name[:start]}#{name[end:]}", int(found[-1][0]), name


def _together(sequences: Sequence[Sequence[str]], descriptors: Mapping[str, np.ndarray]) -> list[list[Sequence[str]]]:
    """Return groups of sequences: two with a near duplicate in each other are in one group."""
    names = [name for sequence in sequences for name in sequence]
    sequence_of = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    stack = np.stack([descriptors[name] for name in names])
    links: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for start in range(0, len(names), ROWS_AT_ONCE):
        rows, columns = np.nonzero(likeness(stack[start : start + ROWS_AT_ONCE], stack) >= NEAR_DUPLICATE)
        links[0].append(sequence_of[rows + start])
        links[1].append(sequence_of[columns])
    rows, columns = map(np.concatenate, links)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(sequences), len(sequences)))
    count, group_of = connected_components(graph, directed=False)
    groups: list[list[Sequence[str]]] = [[] for _ in range(count)]
    for sequence, group in zip(sequences, group_of, strict=True):
        groups[group].append(sequence)
    return groups


def write_scenes(path: Path, scenes: Mapping[str, Scene]) -> None:
    """Write scenes.csv: a row for every image, sorted by name."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((name, one.sequence, one.place, one.condition, one.source) for name, one in sorted(scenes.items()))
    write_text(path, text.getvalue())


def read_scenes(path: Path) -> dict[str, Scene]:
    """Read a table of scenes (CSV), by name: `name` and `sequence`, and where it has them `place` and `condition`.

    A place that is not given is the sequence.

    Raises:
        InputError: it is no such table, names an image twice, leaves a sequence empty, or has one sequence at two
            places.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a table of scenes: {error}") from None
    found = list(rows[0]) if rows else []
    if not {"name", "sequence"} <= set(found) or any(None in (*row, *row.values()) for row in rows):
        raise InputError(f"{path} is not a table of scenes: found {some_of(found)}; wanted CSV with name and sequence")
    scenes: dict[str, Scene] = {}
    places: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        cells = {key: value.strip() for key, value in row.items()}
        name, sequence, place = cells["name"], cells["sequence"], cells.get("place") or cells["sequence"]
        if not name or not sequence or name in scenes:
            raise InputError(
                f"{path}, line {number}: {name!r} with sequence {sequence!r}; wanted each name once, neither empty"
            )
        if places.setdefault(sequence, place) != place:
            raise InputError(
                f"{path}, line {number}: sequence {sequence!r} is at {place!r} and at {places[sequence]!r}"
            )
        scenes[name] = Scene(sequence, place, cells.get("condition", ""), cells.get("source") or "the user's file")
    return scenes
