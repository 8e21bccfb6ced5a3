import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from detection import prepare, variant
from detection.variant import read_data
from pipeline.artefacts import sha256_file, sha256_lines, write_csv
from pipeline.stage import InputError


@pytest.fixture
def split(m3fd, tmp_path):
    prepare.main(
        ["--dataset", "m3fd", "--root", str(m3fd), "--output", str(tmp_path / "split"), "--split", "random"]
        + ["--train", "4", "--test", "2"]
    )
    return tmp_path / "split"


def make(split, images, output, *options, name="visible"):
    variant.main(
        ["--variant", name, "--prepared", str(split), "--images", str(images), "--output", str(output), *options]
    )
    return output


def manifest_of(folder, names=None):
    files = sorted(folder.glob("*.png"))
    rows = [{"name": f.stem, "file": f.name, "sha256": sha256_file(f)} for f in files if not names or f.stem in names]
    write_csv(folder / "manifest.csv", pd.DataFrame(rows), {"method": "mean"})
    return folder / "manifest.csv"


def test_variants_differ_in_their_pixels_alone(m3fd, split, tmp_path):
    seen = [make(split, m3fd / folder, tmp_path / folder / "data.yaml", name=folder) for folder in ("Vis", "Ir")]
    visible, infrared = (read_data(path, "train") for path in seen)
    assert visible.truth == infrared.truth
    for key in ("names", "labels"):
        assert visible.digests()[key] == infrared.digests()[key]
    assert visible.digests()["images"] != infrared.digests()["images"]


def test_names_digest_is_that_of_the_split_list(m3fd, split, tmp_path):
    data = read_data(make(split, m3fd / "Vis", tmp_path / "data.yaml"), "test")
    assert data.digests()["names"] == sha256_lines((split / "test.txt").read_text(encoding="utf-8").splitlines())


def test_paths_are_relative_so_that_the_whole_can_move(m3fd, split, tmp_path):
    make(split, m3fd / "Vis", tmp_path / "detection" / "visible" / "data.yaml")
    moved = tmp_path / "moved"
    moved.mkdir()
    for folder in ("m3fd", "split", "detection"):
        shutil.move(tmp_path / folder, moved / folder)
    assert len(read_data(moved / "detection" / "visible" / "data.yaml", "train").images) == 4


def test_missing_image_of_the_split_is_refused(m3fd, split, tmp_path):
    name = (split / "test.txt").read_text(encoding="utf-8").splitlines()[0]
    (m3fd / "Vis" / f"{name}.png").unlink()
    with pytest.raises(InputError, match=f"Vis lacks 1 of the 2 images of the ground truth: {name!r}"):
        make(split, m3fd / "Vis", tmp_path / "data.yaml")
    assert not (tmp_path / "data.yaml").exists()


def test_image_missing_in_the_manifest_is_refused(m3fd, split, tmp_path):
    names = (split / "train.txt").read_text(encoding="utf-8").splitlines()
    manifest = manifest_of(m3fd / "Vis", set(names))
    with pytest.raises(InputError, match=r"manifest\.csv lacks 2 of the 2 images"):
        make(split, m3fd / "Vis", tmp_path / "data.yaml", "--manifest", str(manifest))


def test_image_that_is_not_the_manifests_is_refused(m3fd, split, tmp_path):
    data = make(split, m3fd / "Vis", tmp_path / "data.yaml", "--manifest", str(manifest_of(m3fd / "Vis")))
    name = (split / "train.txt").read_text(encoding="utf-8").splitlines()[0]
    cv2.imwrite(str(m3fd / "Vis" / f"{name}.png"), np.zeros((64, 96), np.uint8))
    with pytest.raises(InputError, match=r"is not the file that .*manifest\.csv describes"):
        read_data(data, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "has no key `names`"),
        ("{names: [a], images: [x]}", "has no key `variant`"),
        ("{names: [a], images: [x], variant: v, train: none.json}", r"none\.json does not exist"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_bad_data_yaml_is_refused(tmp_path, content, message):
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_data(tmp_path / "data.yaml", "train")


def test_classes_that_are_not_the_ground_truths_are_refused(m3fd, split, tmp_path):
    path = make(split, m3fd / "Vis", tmp_path / "data.yaml")
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "names": ["Car", "People"]}))
    with pytest.raises(InputError, match="names the classes"):
        read_data(path, "train")


def test_missing_data_yaml_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        read_data(tmp_path / "none.yaml", "train")


@pytest.mark.parametrize("place", ["set", "~/set"])
def test_the_form_of_ultralytics_is_read_as_well(m3fd, tmp_path, monkeypatch, place):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(m3fd / "Vis", tmp_path / "set" / "images" / "train")
    labels = tmp_path / "set" / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "00001.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({"path": place, "train": "images/train", "val": "val.txt", "names": {0: "a", 1: "b"}})
    )
    (tmp_path / "set" / "val.txt").write_text("images/train/00001.png\n")
    train, test = (read_data(tmp_path / "data.yaml", part) for part in ("train", "test"))
    assert train.classes == ("a", "b")
    assert len(train.images) == 6
    assert len(train.truth["annotations"]) == 1
    assert test.truth["annotations"][0]["bbox"] == [24, 16, 48, 32]
