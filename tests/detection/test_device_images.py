"""Images augmented on the device are those that OpenCV makes on the CPU."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detection import train
from detection.detector import load_weights
from detection.device_images import DeviceImages, LazyImage, LazyTrainingImages, collate_operations, recolour
from detection.images import TrainingImages
from detection.recipe import AUGMENTATION, Recipe
from detection.variant import read_data
from pipeline.artefacts import read_json
from pipeline.stage import InputError

DEVICES = [
    "cpu",
    pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")),
]
ALL = {name: getattr(Recipe(mixup=0.5, degrees=10.0, shear=5.0, flipud=0.5), name) for name in AUGMENTATION}
PLAIN = dict.fromkeys(AUGMENTATION, 0.0)
COLOURS = ("hsv_h", "hsv_s", "hsv_v")


def both(tiny, augmentation, size, canvas="square", device="cpu", seed=0, count=10):
    """Return a batch of the CPU's augmentation for each of two epochs, with mosaic and without, and the device's."""
    data = read_data(tiny / "visible" / "data.yaml", "train")
    there, here = (kind(data, augmentation, size, seed, 1, canvas) for kind in (TrainingImages, LazyTrainingImages))
    pixels = DeviceImages(here, device)
    for epoch in (0, 1):
        keys = [(epoch, index) for index in range(count)]
        yield (
            there.collate_fn([there[key] for key in keys]),
            pixels.with_pixels(here.collate_fn([here[key] for key in keys])),
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("augmentation", "size", "canvas"),
    [
        (ALL, 64, "square"),
        (ALL, 128, "square"),
        (ALL | dict.fromkeys(COLOURS, 0.0), 96, "square"),  # a width that is no multiple of 64
        (ALL | {"mosaic": 0.0} | dict.fromkeys(COLOURS, 0.0), 96, "fitted"),
        (PLAIN, 96, "square"),
    ],
)
def test_batches_are_those_of_the_cpu_bit_for_bit(tiny, augmentation, size, canvas, device):
    for expected, found in both(tiny, augmentation, size, canvas, device):
        assert set(expected) <= set(found) and expected["im_file"] == found["im_file"]
        for key in ("img", "cls", "bboxes", "batch_idx"):
            assert torch.equal(found[key].cpu(), expected[key]), key
        assert found["img"].dtype == torch.uint8 and found["img"].is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
def test_colours_are_a_level_off_at_most_and_in_a_row_s_last_columns_alone(tiny, device):
    for expected, found in both(tiny, ALL | {"fliplr": 0.0, "flipud": 0.0}, 96, device=device):
        apart = (found["img"].cpu().int() - expected["img"].int()).abs()
        assert apart.max() == 1 and not apart[..., :64].any()


def test_every_colour_is_changed_as_opencv_changes_it(rng):
    levels = np.arange(256, dtype=np.uint8)
    every = np.stack(np.meshgrid(levels, levels[::5], levels[::3], indexing="ij"), -1).reshape(1, 256, -1, 3)
    tables = rng.integers(0, 256, (3, 256), dtype=np.uint8)
    tables[0] %= 180
    wide = every[:, :, : every.shape[2] // 64 * 64]
    changed = cv2.LUT(cv2.cvtColor(np.ascontiguousarray(wide[0]), cv2.COLOR_BGR2HSV), tables.T[None].copy())
    found = recolour(torch.from_numpy(wide.copy()), torch.from_numpy(tables[None]))
    np.testing.assert_array_equal(found[0], cv2.cvtColor(changed, cv2.COLOR_HSV2BGR))


def test_any_affine_map_is_opencv_s(rng):
    image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    store = argparse.Namespace(
        pixels=torch.from_numpy(np.concatenate([image.reshape(-1, 3), [[114] * 3]]).astype(np.uint8)),
        starts=torch.tensor([0]), widths=torch.tensor([90]), grey=70 * 90,
    )  # fmt: skip
    store._warped = lambda *values: DeviceImages._warped(store, *values)
    store._indices = lambda *values: DeviceImages._indices(store, *values)
    for _ in range(20):
        matrix = np.eye(3, dtype=np.float32)
        matrix[:2] = rng.normal(0, 1, (2, 3)) * [[1, 1, 50]]
        picture = LazyImage(48, 80, ((0, 0, 0, 90, 70, 0, 0),), matrix)
        found = DeviceImages.augmented(store, **collate_operations([picture]))[0].permute(1, 2, 0).flip(2)
        expected = cv2.warpAffine(image, matrix[:2], (80, 48), borderValue=(114,) * 4)
        np.testing.assert_array_equal(found, expected)


def test_tilted_images_are_refused(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    with pytest.raises(InputError, match=r"--augment-on-device with --perspective 0.0005: expected --perspective 0"):
        LazyTrainingImages(data, ALL | {"perspective": 0.0005}, 64, 0, 1)


def test_a_training_is_the_same_and_says_where_images_were_augmented(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    command = ["--data", str(tiny / "visible" / "data.yaml"), "--device", "cpu", "--threads", "1", "--epochs", "2"]
    command += ["--model", str(Path(__file__).with_name("small.yaml")), "--image-size", "64", "--batch", "4"]
    command += ["--nominal-batch", "4", "--close-mosaic", "1", "--lr0", "0.005", "--mixup", "0.2"]
    for name, options in (("cpu", []), ("device", ["--augment-on-device", "--workers", "1"])):
        train.main([*command, *options, "--output", str(tmp_path / name)])
    there, here = (load_weights(tmp_path / name / "weights.pt")[0].state_dict() for name in ("cpu", "device"))
    assert all(torch.equal(there[name], here[name]) for name in there)
    there, here = (read_json(tmp_path / name / "provenance.json") for name in ("cpu", "device"))
    assert here["augmented_on"] == "device" and "augmented_on" not in there and here["digest"] != there["digest"]
    assert "10 images on cpu" in caplog.text
