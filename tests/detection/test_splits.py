import pytest

from detection.splits import limited, list_split, random_split
from fusion.stage import InputError

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
    with pytest.raises(InputError, match="1 images are in training and in test, 'c' among them"):
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
