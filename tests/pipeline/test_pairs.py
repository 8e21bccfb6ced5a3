"""Pairs are found by stem, less a suffix; what cannot be two bands is refused."""

import re

import cv2
import numpy as np
import pytest

from pipeline.pairs import Bands, find_images, find_pairs, read_image, read_names, write_image
from pipeline.stage import InputError


def put(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def picture(rng):
    return rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_pairs_are_matched_by_stem_whatever_the_extension(tmp_path, picture):
    put(tmp_path / "vi" / "b.png", picture)
    put(tmp_path / "vi" / "a.jpg", picture)
    put(tmp_path / "ir" / "a.bmp", picture)
    put(tmp_path / "ir" / "b.TIF", picture)
    pairs = find_pairs(tmp_path / "vi", tmp_path / "ir")
    assert [(p.name, p.visible.name, p.infrared.name) for p in pairs] == [
        ("a", "a.jpg", "a.bmp"),
        ("b", "b.png", "b.TIF"),
    ]


def test_a_visible_image_without_its_infrared_is_named(tmp_path, picture):
    put(tmp_path / "vi" / "lonely.png", picture)
    put(tmp_path / "ir" / "other.png", picture)
    with pytest.raises(InputError, match="lonely"):
        find_pairs(tmp_path / "vi", tmp_path / "ir")


def test_an_infrared_image_without_its_visible_is_left_out_with_a_warning(tmp_path, picture, caplog):
    for path in ("vi/a.png", "ir/a.png", "ir/extra.png"):
        put(tmp_path / path, picture)
    assert [pair.name for pair in find_pairs(tmp_path / "vi", tmp_path / "ir")] == ["a"]
    assert "extra" in caplog.text


def test_names_choose_pairs_and_a_name_without_image_is_an_error(tmp_path, picture):
    for name in ("a", "b", "c"):
        put(tmp_path / "vi" / f"{name}.png", picture)
        put(tmp_path / "ir" / f"{name}.png", picture)
    assert [p.name for p in find_pairs(tmp_path / "vi", tmp_path / "ir", ["c", "a"])] == ["a", "c"]
    with pytest.raises(InputError, match="'d'"):
        find_pairs(tmp_path / "vi", tmp_path / "ir", ["a", "d"])


@pytest.mark.parametrize("name", ["two words", "it's", 'a "quote"', "Straße-夜", "-dash", "$(touch x);#"])
def test_odd_names_are_only_names(tmp_path, picture, name):
    write_image(tmp_path / "vi" / f"{name}.png", picture)
    write_image(tmp_path / "ir" / f"{name}.png", picture)
    (pair,) = find_pairs(tmp_path / "vi", tmp_path / "ir")
    assert pair.name == name
    assert (read_image(pair.visible) == picture).all()


def test_an_empty_folder_and_a_missing_one_are_errors(tmp_path):
    with pytest.raises(InputError, match="has no images"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="absent"):
        find_images(tmp_path / "absent")


def test_two_images_of_one_stem_are_refused(tmp_path, picture):
    put(tmp_path / "a.png", picture)
    put(tmp_path / "a.jpg", picture)
    with pytest.raises(InputError, match="same stem"):
        find_images(tmp_path)


def test_a_list_of_names_must_name_each_once(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("b\na\n\n")
    assert read_names(path) == ["b", "a"]
    path.write_text("a\na\n")
    with pytest.raises(InputError, match="each name once"):
        read_names(path)
    path.write_text("")
    with pytest.raises(InputError, match="0 names"):
        read_names(path)


def test_a_list_may_name_files(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffvi/00001.png  \r\n00002.JPG\n  data\\vi\\00003_RGB.bmp\n00004.v2\n".encode())
    assert read_names(path, ["_RGB"]) == ["00001", "00002", "00003", "00004.v2"]
    assert "3 lines are read as names, such as 'vi/00001.png' as '00001'" in caplog.text
    path.write_text("vi/a.png\nir/a.png\n")
    with pytest.raises(InputError, match=r"2 names, 1 of them different.* 'a' is repeated"):
        read_names(path)


def test_one_folder_for_both_bands_is_refused(tmp_path, picture):
    put(tmp_path / "vi/a.png", picture)
    (tmp_path / "link").symlink_to(tmp_path / "vi")
    for infrared in (tmp_path / "vi", tmp_path / "vi/../vi", tmp_path / "link"):
        with pytest.raises(InputError, match=r"given for both bands.*--visible-suffix and --infrared-suffix"):
            find_pairs(tmp_path / "vi", infrared)


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_pair_of_one_file_is_refused(tmp_path, picture, link):
    put(tmp_path / "vi/a.png", picture)
    (tmp_path / "ir").mkdir()
    getattr(tmp_path / "ir/a.png", link)(tmp_path / "vi/a.png")
    with pytest.raises(InputError, match=r"vi/a\.png and .*ir/a\.png are the same file, as in 1 of 1 pairs"):
        find_pairs(tmp_path / "vi", tmp_path / "ir")


@pytest.mark.parametrize("suffixes", [("_RGB", "_PreviewData"), ("", "_ir"), ("_IR_RGB", "_IR"), ("-v", "-t")])
def test_suffixes_tell_the_bands_of_one_folder_apart(tmp_path, picture, suffixes):
    for name in ("FLIR_1", "b"):
        for suffix in suffixes:
            put(tmp_path / f"{name}{suffix}.png", picture)
    pairs = find_pairs(tmp_path, tmp_path, bands=Bands(*suffixes))
    assert [(pair.name, pair.visible.stem, pair.infrared.stem) for pair in pairs] == [
        (name, f"{name}{suffixes[0]}", f"{name}{suffixes[1]}") for name in ("FLIR_1", "b")
    ]
    assert [pair.name for pair in find_pairs(tmp_path, tmp_path, ["b"], Bands(*suffixes))] == ["b"]


@pytest.mark.parametrize(
    ("visible", "infrared"), [("_RGB", "_PreviewData"), ("_visible", ""), ("v", "t"), ("_co", "_ir"), (" (1)", "-IR")]
)
def test_suffixes_that_explain_missing_stems_are_suggested(tmp_path, picture, visible, infrared):
    for name in ("00007", "00009", "00117"):
        put(tmp_path / "vi" / f"{name}{visible}.png", picture)
        put(tmp_path / "ir" / f"{name}{infrared}.png", picture)
    with pytest.raises(InputError) as raised:
        find_pairs(tmp_path / "vi", tmp_path / "ir")
    found = re.search(r"try --visible-suffix=(.*) --infrared-suffix=(.*) \(--", str(raised.value))
    assert len(find_pairs(tmp_path / "vi", tmp_path / "ir", bands=Bands(*found.groups()))) == 3


def test_suffixes_are_suggested_for_one_folder_too_and_never_guessed_from_numbers(tmp_path, picture):
    for name in ("1_RGB", "1_T", "2_RGB", "2_T"):
        put(tmp_path / "both" / f"{name}.png", picture)
    with pytest.raises(InputError, match="try --visible-suffix=_RGB --infrared-suffix=_T or the other way round"):
        find_pairs(tmp_path / "both", tmp_path / "both")
    put(tmp_path / "vi/scene_1.png", picture)
    put(tmp_path / "ir/scene_2.png", picture)
    with pytest.raises(InputError, match=r"visible 'scene_1'$"):
        find_pairs(tmp_path / "vi", tmp_path / "ir")


def test_real_pairs_of_two_suffixes_are_found(shared, tmp_path):
    folders = [shared / f"data/flir_aligned/images_{band}_train/data" for band in ("rgb", "thermal")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("the FLIR pairs are absent")
    with pytest.raises(InputError, match="try --visible-suffix=_RGB --infrared-suffix=_PreviewData"):
        find_pairs(*folders)
    pairs = find_pairs(*folders, bands=Bands("_RGB", "_PreviewData"))
    assert len(pairs) == 40
    assert all(pair.visible.stem.startswith(pair.name) and pair.infrared.stem.startswith(pair.name) for pair in pairs)
