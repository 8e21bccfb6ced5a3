"""Scenes: the sequence of every image (a run of frames at one place) and its place (one or more sequences).

Scenes are taken from a file of the user, else from the scenes that come with the dataset. Without either, they are
estimated from the file names and the images, by `RULE`: frames whose names differ only in their last number are sorted
by this number, and a sequence ends where the image changes strongly, measured by a similarity that is robust to a
moving camera. Sequences with near duplicates of each other are one place.
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
from detection.similarity import NEAR_DUPLICATE, ROWS_AT_ONCE, PairSummary, pair_similarity, shifted_similarity
from pipeline.artefacts import write_text
from pipeline.stage import InputError, some_of

COLUMNS = ("name", "sequence", "place", "condition", "source")
# A sequence ends if none of its last AROUND frames has this similarity, with shifts, to one of the next AROUND frames,
# or if the number increases by more than JUMP times its median step. On 560 pairs of MSRS, 212 of which have a
# successor numbered one higher, 0.5 separates 11 of these and gives 75 sequences; 0.55 separates 22 (137 sequences) and
# 0.45 separates 4 (44 sequences, too few for a test set of 120 pairs). Comparing one frame on each side instead of two
# separates 27 at 0.5, because a passing car is enough.
SAME_SCENE = 0.5
AROUND = 2
JUMP = 10
FROM_IMAGES = "numbers and images"
RULE = (
    f"names sorted by their last number; a new sequence begins where the rest of the name changes, where the number "
    f"increases by more than {JUMP} times its median step, or where each of the {AROUND} frames before has a "
    f"similarity below {SAME_SCENE} to each of the {AROUND} frames after (the similarity of two frames is the higher "
    "of the similarities of their two bands, at the best shift); sequences with near duplicates of each other "
    f"(similarity of at least {NEAR_DUPLICATE}) are one place"
)


def find_scenes(
    dataset: Dataset, root: Path, summaries: Mapping[str, PairSummary], file: Path | None = None
) -> dict[str, Scene]:
    """Return the scene of every image in `summaries`: from `file`, else from the dataset, else from the images.

    Raises:
        InputError: the file is not a table of scenes, or lacks an image.
    """
    if file is not None:
        given = read_scenes(file)
        missing = sorted(set(summaries) - set(given))
        if missing:
            raise InputError(
                f"{file} lacks {len(missing)} of the {len(summaries)} images: {some_of(missing)}; expected a row for "
                "each image"
            )
        return {name: given[name] for name in summaries}
    stated = stated_scenes(dataset, root, list(summaries))
    rest = {name: summary.descriptor for name, summary in summaries.items() if name not in stated}
    return stated | (scenes_from_images(rest) if rest else {})


def stated_scenes(dataset: Dataset, root: Path, names: Sequence[str]) -> dict[str, Scene]:
    """Return the scenes of the images in `names` whose scene the dataset itself states."""
    return dict(dataset.scenes(root, names)) if dataset.scenes else {}


def scenes_from_images(descriptors: Mapping[str, np.ndarray]) -> dict[str, Scene]:
    """Return the scenes found by RULE; sequences and places are named after their first and last frame.

    Args:
        descriptors: descriptors (2, 768) of `detection.similarity` by name.
    """
    sequences = find_sequences(descriptors)
    result = {}
    for place in _group_places(sequences, descriptors):
        for sequence in place:
            names = (f"{sequence[0]} to {sequence[-1]}", f"{place[0][0]} to {place[-1][-1]}")
            result |= {name: Scene(*names, "", FROM_IMAGES) for name in sequence}
    return result


def find_sequences(descriptors: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Return the sequences found by RULE, each in the order of its frames; every name is in one sequence."""
    order = sorted(descriptors, key=numbering)
    keys = [numbering(name) for name in order]
    steps = [b[1] - a[1] for a, b in pairwise(keys) if a[0] == b[0]]
    reach = JUMP * max(float(np.median(steps)), 1.0) if steps else 0
    follows = np.array([a[0] == b[0] and b[1] - a[1] <= reach for a, b in pairwise(keys)], bool)
    near = np.flatnonzero(follows)
    stack = np.stack([descriptors[name] for name in order])
    highest = np.full(len(near), -1.0)
    for before in range(AROUND):
        for after in range(AROUND):
            left, right = np.maximum(near - before, 0), np.minimum(near + 1 + after, len(order) - 1)
            # Frames beyond another jump of the number do not belong to this place.
            within = np.array([follows[a:b].all() for a, b in zip(left, right, strict=True)], bool)
            for start in range(0, len(near), ROWS_AT_ONCE):
                part = np.arange(start, min(start + ROWS_AT_ONCE, len(near)))[within[start : start + ROWS_AT_ONCE]]
                found = shifted_similarity(stack[left[part]], stack[right[part]])
                highest[part] = np.maximum(highest[part], found)
    follows[near] = highest >= SAME_SCENE
    ends = np.flatnonzero(~follows) + 1
    return [part.tolist() for part in np.split(np.array(order, object), ends)]


def numbering(name: str) -> tuple[str, int, str]:
    """Return a sort key: the name without its last number, that number (-1 if there is none), and the name."""
    found = list(re.finditer(r"[0-9]+", name))
    if not found:
        return name, -1, name
    start, end = found[-1].span()
    return f"{name[:start]}#{name[end:]}", int(found[-1][0]), name


def _group_places(
    sequences: Sequence[Sequence[str]], descriptors: Mapping[str, np.ndarray]
) -> list[list[Sequence[str]]]:
    """Return the sequences grouped by place: two sequences that share a near duplicate are in one group."""
    names = [name for sequence in sequences for name in sequence]
    sequence_of = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    stack = np.stack([descriptors[name] for name in names])
    links: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for start in range(0, len(names), ROWS_AT_ONCE):
        rows, columns = np.nonzero(pair_similarity(stack[start : start + ROWS_AT_ONCE], stack) >= NEAR_DUPLICATE)
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
    """Write scenes.csv, one row per image, sorted by name."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((name, one.sequence, one.place, one.condition, one.source) for name, one in sorted(scenes.items()))
    write_text(path, text.getvalue())


def read_scenes(path: Path) -> dict[str, Scene]:
    """Read a table of scenes (CSV) with the columns `name` and `sequence`, and optionally `place` and `condition`.

    Without a place, the place is the sequence.

    Raises:
        InputError: the file is not such a table, names an image twice, has an empty name or sequence, or gives two
            places for one sequence.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a table of scenes: {error}") from None
    found = list(rows[0]) if rows else []
    if not {"name", "sequence"} <= set(found) or any(None in (*row, *row.values()) for row in rows):
        raise InputError(
            f"{path} is not a table of scenes: found {some_of(found)}; expected CSV with name and sequence"
        )
    scenes: dict[str, Scene] = {}
    places: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        cells = {key: value.strip() for key, value in row.items()}
        name, sequence, place = cells["name"], cells["sequence"], cells.get("place") or cells["sequence"]
        if not name or not sequence or name in scenes:
            raise InputError(
                f"{path}, line {number}: {name!r} with sequence {sequence!r}; expected each name once, neither empty"
            )
        if places.setdefault(sequence, place) != place:
            raise InputError(
                f"{path}, line {number}: sequence {sequence!r} has the place {place!r}; expected "
                f"{places[sequence]!r}, as in an earlier line"
            )
        scenes[name] = Scene(sequence, place, cells.get("condition", ""), cells.get("source") or "the user's file")
    return scenes
