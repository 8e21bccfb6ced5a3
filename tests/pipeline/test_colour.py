"""What is fused of a colour pair, and how the chroma comes back."""

import cv2
import numpy as np
import pytest

from pipeline.colour import (
    COLOURS,
    differs_in_channels,
    has_colours,
    inspect_bands,
    join_chroma,
    rgb_to_ycbcr,
    split_pair,
    ycbcr_to_rgb,
)
from pipeline.pairs import Pair, write_image
from pipeline.stage import InputError


def pair_of(tmp_path, visible, infrared):
    write_image(tmp_path / "v.png", visible)
    write_image(tmp_path / "i.png", infrared)
    return Pair("v", tmp_path / "v.png", tmp_path / "i.png")


def test_studio_luma_is_16_for_black_and_235_for_white():
    corners = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    assert rgb_to_ycbcr(corners, "ycbcr-studio").tolist() == [[[16, 128, 128], [235, 128, 128], [81, 90, 240]]]


def test_full_luma_agrees_with_opencv(rng):
    rgb = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    oracle = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    assert np.abs(rgb_to_ycbcr(rgb, "ycbcr-full").astype(int) - oracle).max() <= 1


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_channel_of_its_own_is_a_difference_and_from_eight_levels_on_a_colour(rng, channel):
    image = np.repeat(rng.integers(20, 200, (32, 40, 1), dtype=np.uint8), 3, axis=2)
    assert not differs_in_channels(image) and not has_colours(image)
    image[5, 7, channel] += 1
    assert differs_in_channels(image) and not has_colours(image)
    image[::4, ::8, channel] += 8
    assert not has_colours(image)
    image[::4, ::8, channel] += 1
    assert has_colours(image)


@pytest.mark.parametrize("colour", ["ycbcr-studio", "ycbcr-full"])
def test_the_inverse_gives_the_colours_back_but_for_rounding(rng, colour):
    rgb = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.abs(ycbcr_to_rgb(rgb_to_ycbcr(rgb, colour), colour).astype(int) - rgb).max() <= 2


@pytest.mark.parametrize(("colour", "black"), [("ycbcr-studio", 16.0), ("ycbcr-full", 0.0)])
def test_the_inverse_is_that_of_the_matrix_for_every_level(colour, black):
    # BT.601 from its two luma coefficients; black is the luma of R, G, B = 0, 0, 0.
    kr, kb = 0.299, 0.114
    luma = np.array([kr, 1 - kr - kb, kb])
    full = np.stack([luma, (np.eye(3)[2] - luma) / (2 * (1 - kb)), (np.eye(3)[0] - luma) / (2 * (1 - kr))])
    scale = np.array([219, 224, 224]) / 255 if colour == "ycbcr-studio" else np.ones(3)
    levels = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"), axis=-1)
    wanted = np.linalg.solve(full * scale[:, None], (levels - [black, 128, 128]).reshape(-1, 3).T).T
    found = ycbcr_to_rgb(levels.reshape(-1, 1, 3).astype(np.uint8), colour)[:, 0].astype(float)
    wanted = np.clip(wanted, 0, 255)
    # MATLAB's and JFIF's constants have three to six digits.
    assert np.abs(found - wanted).max() < 0.51


def test_auto_is_studio_where_channels_differ_and_grey_elsewhere(tmp_path, rng):
    grey = rng.integers(0, 256, (10, 12), dtype=np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    assert split_pair(pair_of(tmp_path, rgb, grey), "auto")[3] == "grey"
    assert split_pair(pair_of(tmp_path, grey, grey), "auto")[3] == "grey"
    rgb[3, 4, 1] ^= 1
    assert split_pair(pair_of(tmp_path, rgb, grey), "auto")[3] == "ycbcr-studio"


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_takes_one_and_three_channels(tmp_path, rng, colour, channels):
    image = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
    image = image if channels == 3 else image[..., 0]
    visible, infrared, chroma, mode = split_pair(pair_of(tmp_path, image, image), colour)
    assert visible.shape == infrared.shape == (10, 12)
    joined = join_chroma(visible, chroma, mode)
    assert joined.shape == ((10, 12) if mode == "grey" else (10, 12, 3))
    # Fusing nothing leaves the visible image as it was, but for rounding.
    if mode != "grey":
        assert np.abs(joined.astype(int) - image.reshape(10, 12, -1)).max() <= 2


def test_a_pair_of_two_sizes_names_both(tmp_path, rng):
    pair = pair_of(tmp_path, np.zeros((10, 12), np.uint8), np.zeros((10, 13), np.uint8))
    for colour in COLOURS:
        with pytest.raises(InputError, match=r"i\.png is 13x10, expected 12x10 like .*v\.png"):
            split_pair(pair, colour)


def pairs_of(tmp_path, visible, infrared):
    """Return the pairs of two lists of images, written to `vi` and `ir`."""
    pairs = []
    for number, images in enumerate(zip(visible, infrared, strict=True)):
        paths = [tmp_path / band / f"{number}.png" for band in ("vi", "ir")]
        for path, image in zip(paths, images, strict=True):
            write_image(path, image)
        pairs.append(Pair(str(number), *paths))
    return pairs


def test_auto_is_one_mode_for_all_images_and_a_mixture_is_told(tmp_path, rng, caplog):
    greys = [rng.integers(0, 256, (10, 12), dtype=np.uint8) for _ in range(6)]
    colour = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
    one_pixel = np.repeat(greys[0][..., None], 3, axis=2)
    one_pixel[3, 4, 1] ^= 1
    assert inspect_bands(pairs_of(tmp_path / "a", greys[:3], greys[3:]), "auto") == (
        "grey",
        "grey for all: 0 of 3 sampled visible images have colours",
    )
    assert inspect_bands(pairs_of(tmp_path / "b", [colour] * 3, greys[3:]), "auto")[0] == "ycbcr-studio"
    assert not caplog.text
    mode, found = inspect_bands(pairs_of(tmp_path / "c", [one_pixel, *greys[1:3]], greys[3:]), "auto")
    assert (mode, found) == (
        "grey",
        "grey for all: 1 of 3 sampled visible images have colours, the others are grey",
    )
    assert inspect_bands(pairs_of(tmp_path / "d", [colour, colour, greys[2]], greys[3:]), "auto")[0] == "ycbcr-studio"
    assert caplog.text.count("the others are grey") == 2


def test_infrared_with_colours_is_warned_of_once(tmp_path, rng, caplog):
    grey = rng.integers(0, 256, (10, 12), dtype=np.uint8)
    colour = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
    pseudo = cv2.applyColorMap(grey, cv2.COLORMAP_JET)
    inspect_bands(pairs_of(tmp_path / "a", [colour] * 3, [pseudo, pseudo, grey]), "auto")
    (line,) = caplog.messages
    assert "2 of 3 infrared images inspected have colours, such as" in line and "0.png: they are read as grey" in line
    caplog.clear()
    inspect_bands(pairs_of(tmp_path / "b", [grey] * 3, [colour] * 3), "grey")
    (line,) = caplog.messages
    assert "3 of 3 infrared images" in line and "no visible image has: are the folders swapped?" in line


def test_a_grey_infrared_image_has_no_colours_after_jpeg(tmp_path, rng, caplog):
    grey = cv2.GaussianBlur(rng.integers(0, 256, (40, 48), dtype=np.uint8), (0, 0), 2)
    colour = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    write_image(tmp_path / "v.png", colour)
    write_image(tmp_path / "i.jpg", np.repeat(grey[..., None], 3, axis=2), quality=30)
    inspect_bands([Pair("v", tmp_path / "v.png", tmp_path / "i.jpg")], "auto")
    assert not caplog.text


def test_bands_of_the_same_pixels_are_refused_or_warned_of(tmp_path, rng, caplog):
    grey = rng.integers(0, 256, (10, 12), dtype=np.uint8)
    same = np.repeat(grey[..., None], 3, axis=2)
    with pytest.raises(
        InputError, match=r"vi/0\.png and .*ir/0\.png have the same pixels, as in all 2 pairs inspected"
    ):
        inspect_bands(pairs_of(tmp_path / "a", [same, same], [grey, grey]), "auto")
    inspect_bands(pairs_of(tmp_path / "b", [grey, 255 - grey], [grey, grey]), "auto")
    assert "the same pixels in 1 of 2 pairs inspected" in caplog.text


def test_infrared_counts_are_read_by_the_range_of_the_pair(tmp_path):
    write_image(tmp_path / "v.png", np.zeros((4, 3), np.uint8))
    assert cv2.imwrite(str(tmp_path / "i.tif"), np.repeat(np.uint16([[7000, 8000, 9000]]), 4, axis=0))
    pair = Pair("v", tmp_path / "v.png", tmp_path / "i.tif", (7000, 9000))
    assert split_pair(pair, "grey")[1][0].tolist() == [0, 128, 255]
