"""Pairs are found by stem and read with every doubt about a file turned into an error that names it."""

import cv2
import numpy as np
import pytest

from pipeline.pairs import find_images, find_pairs, read_grey, read_image, read_names, write_image
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
    with pytest.raises(InputError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="absent"):
        find_images(tmp_path / "absent")


def test_two_images_of_one_stem_are_refused(tmp_path, picture):
    put(tmp_path / "a.png", picture)
    put(tmp_path / "a.jpg", picture)
    with pytest.raises(InputError, match="same stem"):
        find_images(tmp_path)


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_file_is_refused_by_name(tmp_path, picture, extension, share):
    path = put(tmp_path / f"cut.{extension}", np.tile(picture, (4, 4, 1)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match="cut"):
        read_image(path)


def test_sixteen_bits_and_four_channels_are_refused(tmp_path, picture):
    deep = put(tmp_path / "deep.png", picture.astype(np.uint16) * 256)
    clear = put(tmp_path / "clear.png", np.dstack([picture, picture[..., 0]]))
    for read in (read_image, read_grey):
        with pytest.raises(InputError, match=r"deep.png has 16-bit .* wanted 8-bit"):
            read(deep)
        with pytest.raises(InputError, match=r"clear.png has 4 channels; wanted 1 or 3"):
            read(clear)


def test_a_text_file_with_an_image_name_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_grey_is_opencv_grey(tmp_path, picture):
    for extension in ("png", "jpg"):
        path = put(tmp_path / f"a.{extension}", picture)
        assert (read_grey(path) == cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).all()


def test_writing_leaves_nothing_but_the_image(tmp_path, picture):
    data = write_image(tmp_path / "a.png", picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == data
    assert (read_image(tmp_path / "a.png") == picture).all()


def test_a_list_of_names_must_name_each_once(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("b\na\n\n")
    assert read_names(path) == ["b", "a"]
    path.write_text("a\na\n")
    with pytest.raises(InputError, match="each once"):
        read_names(path)
    path.write_text("")
    with pytest.raises(InputError, match="0 names"):
        read_names(path)
