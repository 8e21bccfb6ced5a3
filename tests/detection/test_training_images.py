import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from detection import variant
from detection.images import TrainingImages, read_bgr
from detection.recipe import AUGMENTATION, Recipe, epoch_batches, epoch_order
from detection.variant import read_data
from pipeline.artefacts import sha256_file, write_csv
from pipeline.pairs import write_image
from pipeline.stage import InputError

PLAIN = dict.fromkeys(AUGMENTATION, 0.0)
VARIED = {name: getattr(Recipe(mixup=0.5), name) for name in AUGMENTATION}


def images_of(data, augmentation=VARIED, size=64, seed=0, mosaic_epochs=2, canvas="square"):
    return TrainingImages(data, augmentation, size, seed, mosaic_epochs, canvas)


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in ("img", "bboxes", "cls"))


@pytest.mark.parametrize(("canvas", "height"), [("square", 96), ("fitted", 64)])
def test_boxes_stay_on_their_objects(tiny, canvas, height):
    data = read_data(tiny / "infrared" / "data.yaml", "train")
    item = images_of(data, PLAIN, size=96, canvas=canvas)[0, 3]
    grey = item["img"][0].numpy()
    assert grey.shape == (height, 96)
    x, y, w, h = item["bboxes"][0].numpy() * np.array([96, height, 96, height])
    inside = grey[round(y - h / 2) : round(y + h / 2), round(x - w / 2) : round(x + w / 2)]
    assert inside.shape == (24, 32)
    assert np.mean(inside > 200) > 0.95  # 220 in the objects, at most 60 around, 114 beside the image
    assert np.sum(grey > 200) <= 24 * 32


def test_crowds_are_not_learnt(tiny):
    data = read_data(tiny / "infrared" / "data.yaml", "train")
    data.truth["annotations"][3]["iscrowd"] = 1
    labels = images_of(data, PLAIN).labels
    assert [len(label["cls"]) for label in labels] == [1, 1, 1, 0, *[1] * 6]


def test_a_fitted_canvas_holds_mixed_images_too(tiny):
    augmentation = VARIED | {"mosaic": 0.0, "mixup": 1.0}
    shown = images_of(read_data(tiny / "visible" / "data.yaml", "train"), augmentation, size=96, canvas="fitted")
    assert {tuple(shown[0, index]["img"].shape) for index in range(4)} == {(3, 64, 96)}


def test_images_of_several_shapes_do_not_fit_one_canvas(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    images = [dict(image) for image in data.truth["images"]]
    images[1]["height"] = 200
    data = replace(data, truth={**data.truth, "images": images})
    images_of(data)
    with pytest.raises(
        InputError, match=r"--canvas fitted: 0\d is 96x64 and \d\d is 96x200; expected images of one shape"
    ):
        images_of(data, canvas="fitted")


def test_one_channel_becomes_three_equal_ones(tiny):
    item = images_of(read_data(tiny / "infrared" / "data.yaml", "train"), PLAIN)[0, 0]
    assert torch.equal(item["img"][0], item["img"][1]) and torch.equal(item["img"][0], item["img"][2])


def test_colours_reach_the_network_as_rgb(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    item = images_of(data, PLAIN, size=96)[0, 0]
    x, y = (item["bboxes"][0, :2] * 96).int().tolist()
    assert item["img"][:, y, x].tolist() == [220, 160, 40]  # written by OpenCV as blue 40, green 160, red 220


def test_an_item_hangs_on_seed_epoch_and_index_alone(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    first, second = images_of(data), images_of(data)
    items = [first[epoch, index] for epoch in range(3) for index in range(4)]
    again = [second[epoch, index] for epoch in reversed(range(3)) for index in reversed(range(4))]
    assert all(same(one, other) for one, other in zip(items, reversed(again), strict=True))
    assert not same(first[0, 0], first[1, 0])
    assert not same(first[0, 0], images_of(data, seed=1)[0, 0])


def test_variants_see_the_same_boxes_in_every_augmented_image(tiny):
    visible, infrared = (images_of(read_data(tiny / name / "data.yaml", "train")) for name in ("visible", "infrared"))
    for key in [(0, 0), (0, 7), (1, 3), (5, 2)]:
        one, other = visible[key], infrared[key]
        assert torch.equal(one["bboxes"], other["bboxes"]) and torch.equal(one["cls"], other["cls"])
        assert not torch.equal(one["img"], other["img"])


@pytest.fixture
def fused(tiny, tmp_path):
    """A data.yaml of the mean of both bands, with its manifest."""
    rows = []
    for file in sorted((tiny / "m3fd" / "Vis").iterdir()):
        pair = [cv2.imread(str(tiny / "m3fd" / kind / file.name)) for kind in ("Vis", "Ir")]
        write_image(tmp_path / "mean" / file.name, np.mean(pair, axis=0).astype(np.uint8))
        rows.append({"name": file.stem, "file": file.name, "sha256": sha256_file(tmp_path / "mean" / file.name)})
    write_csv(tmp_path / "mean" / "manifest.csv", pd.DataFrame(rows), {"method": "mean"})
    variant.main(
        ["--variant", "mean", "--prepared", str(tiny / "split"), "--images", str(tmp_path / "mean")]
        + ["--manifest", str(tmp_path / "mean" / "manifest.csv"), "--output", str(tmp_path / "data.yaml")]
    )
    return tmp_path / "data.yaml"


def digests_of_what_training_sees(data):
    """Return the SHA-256 of the names with their order, of the boxes, and of the pixels, of all batches of training."""
    recipe = Recipe(epochs=3, batch=4, seed=3)
    images = images_of(data, seed=recipe.seed)
    names, boxes, pixels = (hashlib.sha256() for _ in range(3))
    for keys in epoch_batches(recipe, len(images), 0):
        batch = images.collate_fn([images[key] for key in keys])
        names.update(json.dumps([Path(file).stem for file in batch["im_file"]]).encode())
        for key in ("batch_idx", "cls", "bboxes"):
            boxes.update(batch[key].numpy().tobytes())
        pixels.update(batch["img"].numpy().tobytes())
    return names.hexdigest(), boxes.hexdigest(), pixels.hexdigest()


def test_single_bands_and_fused_variants_are_trained_on_the_same_labels_in_the_same_order(tiny, fused):
    paths = [tiny / "visible" / "data.yaml", tiny / "infrared" / "data.yaml", fused]
    variants = [read_data(path, "train") for path in paths]
    names, boxes, pixels = map(set, zip(*map(digests_of_what_training_sees, variants), strict=True))
    assert (len(names), len(boxes), len(pixels)) == (1, 1, 3)
    for key, different in (("names", 1), ("labels", 1), ("images", 3)):
        assert len({data.digests()[key] for data in variants}) == different


def test_mosaic_ends_with_its_epochs(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    images = images_of(data, {**PLAIN, "mosaic": 1.0}, mosaic_epochs=1)
    assert max(len(images[0, index]["cls"]) for index in range(10)) > 1
    assert all(len(images[1, index]["cls"]) == 1 for index in range(10))


def test_images_kept_in_memory_are_the_same(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    kept = images_of(data)
    assert sum(kept.keep(index) for index in range(10)) == 10 * 64 * 43 * 3
    assert all(same(kept[0, index], images_of(data)[0, index]) for index in range(10))


def test_images_that_do_not_fit_the_memory_are_not_kept(tiny, monkeypatch):
    images = images_of(read_data(tiny / "visible" / "data.yaml", "train"))
    kept = sum(images.keep(index) for index in range(len(images)))
    monkeypatch.setattr("detection.images.memory_available", lambda: float(kept))
    images.check_cache_fits()
    monkeypatch.setattr("detection.images.memory_available", lambda: kept - 1.0)
    with pytest.raises(InputError, match=r"--cache ram needs .* for \d+ images of .*; expected --cache none"):
        images.check_cache_fits()


def test_nothing_is_written_beside_the_images(tiny):
    before = sorted(tiny.rglob("*"))
    images = images_of(read_data(tiny / "visible" / "data.yaml", "train"))
    assert len([images[0, index] for index in range(10)]) == 10
    assert sorted(tiny.rglob("*")) == before


def test_image_of_another_size_than_its_labels_say_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((10, 20), np.uint8))
    with pytest.raises(InputError, match=r"a\.png is 20x10, expected 10x20 as in its labels"):
        read_bgr(tmp_path / "a.png", 20, 10)


def test_every_epoch_goes_once_through_all_images_in_its_own_order():
    recipe = Recipe(epochs=3, batch=4, seed=3)
    batches = list(epoch_batches(recipe, 10, 0))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    keys = [key for batch in batches for key in batch]
    assert Counter(keys) == Counter((epoch, index) for epoch in range(3) for index in range(10))
    assert not np.array_equal(epoch_order(recipe, 10, 0), epoch_order(recipe, 10, 1))
    assert list(epoch_batches(recipe, 10, 1)) == batches[3:]


def test_order_does_not_change_with_the_machine():
    assert epoch_order(Recipe(seed=3), 8, 2).tolist() == [1, 7, 4, 0, 2, 6, 3, 5]
