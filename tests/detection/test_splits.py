import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from detection.datasets.layout import Scene
from detection.datasets.m3fd import all_scenes
from detection.splits import INCLUDED, included_split, limited, list_split, random_split, scene_split
from pipeline.stage import InputError

NAMES = [f"{number:05}" for number in range(100)]


def test_random_split_is_disjoint_and_of_the_wanted_sizes():
    split = random_split(NAMES, 70, 20, seed=1)
    assert (len(split.train), len(split.test)) == (70, 20)
    assert not set(split.train) & set(split.test)
    assert list(split.train) == sorted(split.train)


def test_random_split_does_not_change_with_the_machine_or_the_order_of_files():
    split = random_split(NAMES, 3, 3, seed=1)
    assert split == random_split(NAMES[::-1], 3, 3, seed=1)
    assert split.train == ("00008", "00016", "00048")  # as drawn when the rule was made
    assert split.test == ("00006", "00081", "00099")


def test_another_seed_gives_another_split():
    assert random_split(NAMES, 50, 50, seed=1).digests != random_split(NAMES, 50, 50, seed=2).digests


def test_random_split_of_too_few_names_is_refused():
    with pytest.raises(InputError, match="--train 90 --test 20: found 100 pairs"):
        random_split(NAMES, 90, 20, seed=1)


def test_lists_that_share_an_image_are_refused(tmp_path):
    (tmp_path / "train.txt").write_text("a\nb\nc\n")
    (tmp_path / "test.txt").write_text("c\nd\n")
    with pytest.raises(InputError, match="1 images are both in training and in test: 'c'; expected none"):
        list_split(tmp_path / "train.txt", tmp_path / "test.txt")


def test_lists_are_taken_as_they_are(tmp_path):
    (tmp_path / "train.txt").write_text("b\na b's ü\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("d\n")
    split = list_split(tmp_path / "train.txt", tmp_path / "test.txt")
    assert (split.train, split.test) == (("a b's ü", "b"), ("d",))


def test_limits_draw_a_seeded_part_of_each_list():
    split = random_split(NAMES, 70, 30, seed=1)
    part = limited(split, 10, 5, seed=3)
    assert (len(part.train), len(part.test)) == (10, 5)
    assert set(part.train) < set(split.train) and set(part.test) < set(split.test)
    assert part == limited(split, 10, 5, seed=3) != limited(split, 10, 5, seed=4)
    assert limited(split, None, 1000, seed=3) == split


M3FD_NAMES = [f"{number:05}" for number in range(4200)]


def test_the_kept_list_is_the_seeded_draw_of_m3fds_names():
    kept, drawn = included_split("random-3800-400", M3FD_NAMES), random_split(M3FD_NAMES, 3800, 400, seed=0)
    assert (kept.train, kept.test) == (drawn.train, drawn.test)
    assert kept.digests == INCLUDED["random-3800-400"]


@pytest.mark.parametrize("names", [M3FD_NAMES[1:], [*M3FD_NAMES, "4200"], [f"{int(n)}" for n in M3FD_NAMES]])
def test_the_kept_list_is_refused_for_other_names(names):
    with pytest.raises(InputError, match="--split random-3800-400 is for the 4200 names 00000 to 04199"):
        included_split("random-3800-400", names)


@pytest.mark.parametrize("kind", INCLUDED)
def test_a_kept_list_is_taken_whole_for_m3fds_names(kind):
    split = included_split(kind, M3FD_NAMES)
    sizes = {"m3fd-scenes": (3000, 1200), "zx": (2905, 1295), "e2e-mfd": (2940, 1260), "rgbxfusion": (2727, 840)}
    assert (len(split.train), len(split.test)) == sizes.get(kind, (3800, 400))


def test_the_kept_scenes_are_a_draw_of_whole_places_with_every_class(shared):
    truth = json.loads((shared / "data/m3fd_labels/boxes.json").read_text())
    names = {image["id"]: image["file_name"][:5] for image in truth["images"]}
    boxes = {category["id"]: Counter() for category in truth["categories"]}
    for box in truth["annotations"]:
        boxes[box["category_id"]][names[box["image_id"]]] += 1
    scenes, kept = all_scenes(), included_split("m3fd-scenes", M3FD_NAMES)
    assert replace(scene_split(scenes, boxes, 1200, seed=364), by=None, seed=None, kind=kept.kind) == kept
    assert all(found.keys() & kept.test and found.keys() & kept.train for found in boxes.values())
    assert len({scenes[name].sequence for name in kept.test}) >= 25
    assert not {scenes[name].place for name in kept.test} & {scenes[name].place for name in kept.train}


def made(lengths, of_place=lambda sequence: sequence):
    """Scenes of sequences of such lengths, each name 100 numbers from the sequence before."""
    return {
        f"{100 * sequence + frame:05}": Scene(f"s{sequence}", f"p{of_place(sequence)}", "", "made")
        for sequence, length in enumerate(lengths)
        for frame in range(length)
    }


def cut(split, scenes, unit):
    return {getattr(scenes[name], unit) for name in split.train} & {getattr(scenes[name], unit) for name in split.test}


def test_whole_places_are_split_where_there_are_enough():
    scenes = made([5] * 80, lambda sequence: sequence // 2)
    split = scene_split(scenes, {}, 150, seed=0)
    assert split.by == "place" and not cut(split, scenes, "place") and len(split.test) == 150
    assert split == scene_split(dict(reversed(scenes.items())), {}, 150, seed=0) != scene_split(scenes, {}, 150, seed=1)


def test_sequences_are_split_where_places_are_too_few():
    scenes = made([5] * 80, lambda sequence: sequence // 20)
    split = scene_split(scenes, {}, 150, seed=0)
    assert split.by == "sequence" and not cut(split, scenes, "sequence") and cut(split, scenes, "place")


def test_places_are_split_where_neither_is_enough():
    scenes = made([5] * 8, lambda sequence: sequence // 2)
    split = scene_split(scenes, {}, 10, seed=0)
    assert split.by == "place" and len(split.test) == 10 and not cut(split, scenes, "place")


def test_a_rare_class_is_on_both_sides_of_a_split_by_scenes():
    scenes = made([5] * 60)
    rare, common = {"00300": 1, "04500": 1}, dict.fromkeys(scenes, 2)
    for seed in range(10):
        split = scene_split(scenes, {"rare": rare, "common": common, "absent": {}, "once": {"00100": 1}}, 75, seed)
        assert len(rare.keys() & split.test) == 1


def test_the_boxes_of_a_test_set_by_scenes_are_not_all_in_a_few_of_its_scenes():
    scenes = made([5] * 60)
    crowded = {name: 30 if scene.place in ("p3", "p4", "p5", "p6", "p7") else 1 for name, scene in scenes.items()}
    for seed in range(10):
        drawn = Counter()
        for name in scene_split(scenes, {"person": crowded}, 75, seed).test:
            drawn[scenes[name].place] += crowded[name]
        sizes = np.array(list(drawn.values()))
        assert sizes.sum() ** 2 >= 8 * (sizes**2).sum()


def test_few_neighbours_are_left_across_a_split_by_scenes():
    names = [f"{number:05}" for number in range(900)]
    scenes = {name: Scene(f"s{int(name) // 30}", f"s{int(name) // 30}", "", "made") for name in names}
    for seed in range(5):
        split = scene_split(scenes, {}, 400, seed)
        known = {int(name) for name in split.train}
        left = [name for name in split.test if known & {int(name) - 1, int(name) + 1}]
        assert 0 < len(left) <= 0.05 * len(split.test)


def test_one_scene_cannot_be_split_by_scenes():
    with pytest.raises(InputError, match=r"among the 1 sequences \(20 to 20 pairs each, 20 in all\) at 1 places"):
        scene_split(made([20]), {}, 5, seed=0)
