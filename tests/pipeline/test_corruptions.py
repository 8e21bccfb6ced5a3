"""Test images made worse: what each level does, that each is worse than the one before, and what is drawn."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from pipeline import corruptions
from pipeline.artefacts import read_json, sha256_file, sha256_lines
from pipeline.corruptions import CORRUPTIONS, chosen_levels, corrupt, corrupted_pairs, main
from pipeline.pairs import Bands, find_pairs, read_image, write_image
from pipeline.stage import InputError


def scene(height=60, width=80, channels=0):
    """Return a smooth image with an edge and fine texture, levels in the middle of the range."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    image = 90 + 40 * np.sin(x / 9) + 30 * (y > height / 2)
    image = image[..., None] + rng.normal(0, 6, (height, width, channels or 1))
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return image if channels else image[..., 0]


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("channels", [0, 3])
def test_every_level_keeps_shape_and_type_leaves_its_input_alone_and_differs_from_it(kind, channels):
    image = scene(channels=channels)
    before = image.copy()
    for level in chosen_levels(kind):
        worse = corrupt(image, kind, level, "a")
        assert worse.shape == image.shape and worse.dtype == np.uint8
        assert (worse != image).any()
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("function", "nothing"),
    [
        (corruptions.shift, 0),
        (corruptions.grey_noise, 0),
        (corruptions.colour_noise, 0),
        (corruptions.blur, 0),
        (corruptions.contrast, 1),
        (corruptions.dead_columns, 0),
        (corruptions.darkness, 1),
        (corruptions.glare, 0),
        (corruptions.fog, 0),
    ],
)
@pytest.mark.parametrize("channels", [0, 3])
def test_the_value_of_nothing_changes_nothing(function, nothing, channels):
    image = scene(channels=channels)
    assert np.array_equal(function(image, nothing, np.random.default_rng(0)), image)


def error(worse, image):
    return float(((worse.astype(float) - image) ** 2).mean())


def columns_at_0(worse, image):
    return int((worse == 0).all(axis=0).sum())


def fine_detail_lost(worse, image):
    return -float(np.abs(np.diff(worse.astype(float), axis=1)).mean())


def contrast_lost(worse, image):
    return -float(worse.std())


def light_added(worse, image):
    return float(worse.mean())


def light_lost(worse, image):
    return -float(worse.mean())


@pytest.mark.parametrize(
    ("kind", "measure"),
    [
        ("infrared_shift", error),
        ("infrared_noise", error),
        ("infrared_blur", fine_detail_lost),
        ("infrared_contrast", contrast_lost),
        ("infrared_dead_columns", columns_at_0),
        ("visible_darkness", light_lost),
        ("visible_glare", light_added),
        ("visible_fog", error),
        ("visible_noise", error),
        ("visible_jpeg", error),
    ],
)
def test_each_level_is_worse_than_the_one_before(kind, measure):
    image = scene(120, 160, 3 if kind.startswith("visible") else 0)
    values = [measure(corrupt(image, kind, level, "a"), image) for level in chosen_levels(kind)]
    assert values == sorted(set(values)) and values[0] > measure(image, image)


def test_a_shift_moves_to_the_right_and_repeats_the_left_column():
    image = np.array([[10, 20, 30, 40]], np.uint8)
    assert corruptions.shift(image, 2).tolist() == [[10, 10, 10, 20]]
    assert corruptions.shift(image, 9).tolist() == [[10, 10, 10, 10]]


def test_contrast_and_darkness_are_worked_out_by_hand():
    image = np.array([[0, 100, 200]], np.uint8)
    assert corruptions.contrast(image, 0.4).tolist() == [[60, 100, 140]]
    assert corrupt(image, "infrared_contrast", "1", "a").tolist() == [[60, 100, 140]]
    assert corruptions.darkness(image, 0.05).tolist() == [[0, 5, 10]]


def test_noise_has_its_deviation_and_is_one_for_all_channels_of_infrared():
    flat = np.full((200, 200, 3), 128, np.uint8)
    infrared, visible = (corrupt(flat, f"{band}_noise", "1", "a").astype(float) for band in ("infrared", "visible"))
    assert infrared.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert (infrared[..., 0] == infrared[..., 1]).all() and (infrared[..., 1] == infrared[..., 2]).all()
    assert abs(np.corrcoef(visible[..., 0].ravel(), visible[..., 1].ravel())[0, 1]) < 0.02


def test_a_blurred_point_is_the_gaussian():
    point = np.zeros((41, 41), np.uint8)
    point[20, 20] = 255
    worse = corruptions.blur(point, 2).astype(float)
    y, x = np.mgrid[-20:21, -20:21]
    assert np.abs(worse - 255 * np.exp(-(x**2 + y**2) / 8) / (8 * np.pi)).max() <= 1


def test_dead_columns_are_as_many_as_said_and_those_of_a_level_are_among_those_of_the_next():
    image = np.full((4, 200), 90, np.uint8)
    dead = [set(np.flatnonzero(corrupt(image, "infrared_dead_columns", str(n), "a")[0] == 0)) for n in range(1, 6)]
    assert [len(columns) for columns in dead] == [2, 4, 10, 20, 40]
    assert all(fewer < more for fewer, more in pairwise(dead))
    assert corruptions.dead_columns(image[:, :20], 0.01, np.random.default_rng(0)).min() == 0  # at least one


def test_glare_is_strongest_at_its_source_in_the_upper_half_and_half_of_it_a_radius_away():
    black = np.zeros((100, 200), np.uint8)
    worse = corrupt(black, "visible_glare", "1", "a")
    y, x = np.unravel_index(worse.argmax(), worse.shape)
    assert y <= 50 and worse[y, x] == pytest.approx(0.4 * 255, abs=1)
    away = round(corruptions.GLARE_RADIUS * 200)
    assert worse[y + away, x] == pytest.approx(0.2 * 255, rel=0.06)  # the source lies between pixels


def test_fog_of_an_even_image_is_its_mixture_with_the_cloud():
    rng, again = (np.random.default_rng(3) for _ in range(2))
    cloud = corruptions.plasma(30, 50, again)
    assert cloud.min() == 0 and cloud.max() == 1
    worse = corruptions.fog(np.full((30, 50), 102, np.uint8), 2.0, rng)
    assert np.abs(worse - 255 * (0.4 + 2 * cloud) * 0.4 / 2.4).max() <= 0.5 + 1e-9


def test_jpeg_is_that_of_opencv_at_its_quality():
    image = scene(channels=3)
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 18])
    assert np.array_equal(corrupt(image, "visible_jpeg", "2", "a"), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def test_a_missing_band_is_black_or_grey_at_its_mean():
    image = np.array([[[0, 10, 20], [100, 110, 121]]], np.uint8)
    assert np.unique(corrupt(image, "visible_missing", "black", "a")).tolist() == [0]
    assert np.unique(corrupt(image, "visible_missing", "grey", "a")).tolist() == [60]  # of 60.17


RANDOM = ["infrared_noise", "infrared_dead_columns", "visible_glare", "visible_fog", "visible_noise"]


@pytest.mark.parametrize("kind", RANDOM)
def test_what_is_random_hangs_on_the_name_of_the_image(kind):
    image = scene()
    first, again, other = (corrupt(image, kind, "3", name) for name in ("a", "a", "b"))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_what_is_random_is_the_same_on_every_machine():
    image = np.full((2, 4), 128, np.uint8)
    assert corrupt(image, "infrared_noise", "1", "00001").tolist() == [[131, 125, 134, 110], [116, 94, 134, 137]]
    image = np.full((1, 20), 128, np.uint8)
    assert np.flatnonzero(corrupt(image, "infrared_dead_columns", "5", "00001")[0] == 0).tolist() == [8, 11, 16, 19]


@pytest.fixture
def folders(tmp_path, rng):
    for name in ("a", "b c"):
        write_image(tmp_path / "vi" / f"{name}_RGB.png", scene(20, 26, 3))
        counts = rng.integers(7000, 9000, (20, 26)).astype(np.uint16)
        (tmp_path / "ir").mkdir(exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "ir" / f"{name}.png"), counts)
    (tmp_path / "names.txt").write_text("b c\n")
    return tmp_path


def make(folders, kind, *options):
    where = ["--visible", folders / "vi", "--infrared", folders / "ir", "--output", folders / "out"]
    bands = ["--visible-suffix=_RGB", "--infrared-range", "7000", "9000", "--kind", kind]
    main([str(word) for word in (*where, *bands, "--names", folders / "names.txt", *options)])
    return read_json(folders / "out/worse.json")


def test_the_stage_writes_the_band_at_each_level_by_the_pairs_name_with_its_digest(folders):
    facts = make(folders, "infrared_shift", "--levels", "16", "4")
    assert (facts["band"], facts["levels"], facts["names"]) == ("infrared", ["4", "16"], ["b c"])
    file = folders / "out/4/b c.png"
    assert facts["images"]["4"] == sha256_lines([f"b c {sha256_file(file)}"])
    counts = read_image(folders / "ir/b c.png", (7000, 9000))
    assert np.array_equal(read_image(file), corruptions.shift(counts, 4))
    assert sorted(path.name for path in (folders / "out").iterdir()) == ["16", "4", "worse.json"]


@pytest.mark.parametrize(("kind", "band"), [("infrared_blur", "infrared"), ("visible_fog", "visible")])
def test_worse_pairs_have_one_band_exchanged_and_its_levels_read_as_they_are(folders, kind, band):
    make(folders, kind)
    pairs = find_pairs(folders / "vi", folders / "ir", None, Bands("_RGB", "", (7000, 9000)))
    facts, by_level = corrupted_pairs(folders / "out", pairs)
    assert list(by_level) == ["1", "2", "3", "4", "5"] == facts["levels"]
    (worse,), clean = by_level["2"], pairs[1]
    assert getattr(worse, band) == folders / "out/2/b c.png" and worse.name == "b c"
    kept = "visible" if band == "infrared" else "infrared"
    assert getattr(worse, kept) == getattr(clean, kept)
    assert worse.infrared_range == (None if band == "infrared" else (7000, 9000))
    with pytest.raises(InputError, match=r"names 'b c', which is in no pair"):
        corrupted_pairs(folders / "out", pairs[:1])


@pytest.mark.parametrize(
    ("kind", "levels", "message"),
    [
        ("infrared_rain", None, "the kind 'infrared_rain' is unknown; expected one of infrared_shift, "),
        ("infrared_shift", [3, 4], "infrared_shift has no level 3; expected levels among 2, 4, 8, 16"),
        ("visible_fog", ["black"], "visible_fog has no level black; expected levels among 1, 2, 3, 4, 5"),
    ],
)
def test_kinds_and_levels_that_are_not_there_are_refused(kind, levels, message):
    with pytest.raises(InputError, match=message):
        chosen_levels(kind, levels)


def test_a_folder_without_its_description_is_refused(tmp_path):
    (tmp_path / "worse.json").write_text("[]")
    with pytest.raises(InputError, match=r"lacks the key kind; expected a file that pipeline.corruptions wrote"):
        corrupted_pairs(tmp_path, [])
