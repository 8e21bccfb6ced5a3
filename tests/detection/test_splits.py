import cv2
import numpy as np
import pytest

from detection.likeness import describe, likeness, look_at
from detection.splits import KEPT, find_scenes, kept_split, limited, list_split, random_split, scene_split
from fusion.synthetic.__main__ import write_scenes
from pipeline.pairs import find_pairs
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
    with pytest.raises(InputError, match="1 images are in training and in test: 'c'; wanted none"):
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
    kept, drawn = kept_split("random-3800-400", M3FD_NAMES), random_split(M3FD_NAMES, 3800, 400, seed=0)
    assert (kept.train, kept.test) == (drawn.train, drawn.test)
    assert kept.digests == KEPT["random-3800-400"]


@pytest.mark.parametrize("names", [M3FD_NAMES[1:], [*M3FD_NAMES, "4200"], [f"{int(n)}" for n in M3FD_NAMES]])
def test_the_kept_list_is_refused_for_other_names(names):
    with pytest.raises(InputError, match="--split random-3800-400 is of the 4200 names 00000 to 04199"):
        kept_split("random-3800-400", names)


def sequences(rng, lengths, visits=None):
    """Frames of standing cameras in a row: names numbered through, each place a texture of its own, noise on it."""
    visits = visits or range(len(lengths))
    places = {place: rng.integers(0, 256, (2, 6, 8)).astype(np.uint8) for place in sorted(set(visits))}
    frames, number = {}, 0
    for place, length in zip(visits, lengths, strict=True):
        for _ in range(length):
            bands = [cv2.resize(band, (160, 120), interpolation=cv2.INTER_CUBIC) for band in places[place]]
            noisy = [np.clip(band + rng.normal(0, 12, band.shape), 0, 255).astype(np.uint8) for band in bands]
            frames[f"{number:04}"] = np.stack([describe(band) for band in noisy])
            number += 1
    return frames


def test_scenes_are_found_where_the_camera_moved(rng):
    lengths = [7, 1, 12, 5, 30, 2]
    assert [len(block) for block in find_scenes(sequences(rng, lengths))] == lengths


def test_scenes_end_where_the_name_changes_or_the_number_jumps(rng):
    (frame,) = sequences(rng, [1]).values()
    names = ["a00001", "a00002", "a00003", "a00900", "b00004"]
    assert find_scenes(dict.fromkeys(names, frame)) == [["a00001", "a00002", "a00003"], ["a00900"], ["b00004"]]


def test_no_scene_is_shared_between_train_and_test(rng):
    frames = sequences(rng, [10, 8, 6, 9, 12, 7, 5, 11], visits=[0, 1, 2, 3, 4, 1, 5, 6])
    for seed in range(5):
        split = scene_split(frames, 25, seed)
        assert 0 < len(split.test) <= 25 and len(split.train) + len(split.test) == len(frames)
        assert split == scene_split(dict(reversed(frames.items())), 25, seed)
        for block in split.blocks:
            assert set(block) <= set(split.train) or set(block) <= set(split.test)
        stacks = [np.stack([frames[name] for name in part]) for part in (split.train, split.test)]
        assert likeness(*stacks).max() < 0.5  # the place that is visited twice too
        assert split.facts["blocks"]["count"] == 8 and len(split.facts["blocks"]["digest"]) == 64


def test_one_scene_cannot_be_split_by_scenes(rng):
    with pytest.raises(InputError, match="are 1 groups of scenes, of 20 to 20 pairs"):
        scene_split(sequences(rng, [20]), 5, seed=0)


def test_the_generators_scenes_are_single_scenes(tmp_path):
    write_scenes(tmp_path, 16, 8, (96, 72), 0)
    looks = look_at(find_pairs(tmp_path / "Vis", tmp_path / "Ir"))
    split = scene_split({name: look.descriptor for name, look in looks.items()}, 8, seed=0)
    assert len(split.blocks) >= 22
    assert len(split.test) == 8
