"""What is fused of a colour pair, and how the chroma comes back."""

import cv2
import numpy as np
import pytest

from pipeline.colour import COLOURS, join_chroma, rgb_to_ycbcr, split_pair, ycbcr_to_rgb
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


@pytest.mark.parametrize("colour", ["ycbcr-studio", "ycbcr-full"])
def test_the_inverse_gives_the_colours_back_but_for_rounding(rng, colour):
    rgb = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.abs(ycbcr_to_rgb(rgb_to_ycbcr(rgb, colour), colour).astype(int) - rgb).max() <= 2


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
