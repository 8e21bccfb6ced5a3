import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml

from detection import prepare, variant
from detection.variant import read_data
from pipeline.artefacts import read_json, sha256_file, sha256_lines, write_csv, write_json
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
    with pytest.raises(InputError, match=r"is not the file in .*manifest\.csv"):
        read_data(data, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "has no key `names`"),
        ("{names: [a], images: [x]}", "lacks the key `variant`"),
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
    labels = tmp_path / "set" / "labels"
    for part, name in (("train", "00002"), ("val", "00001")):
        (labels / part).mkdir(parents=True)
        (labels / part / f"{name}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "set" / "images" / "val").mkdir()
    (tmp_path / "set/images/train/00001.png").rename(tmp_path / "set/images/val/00001.png")
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({"path": place, "train": "images/train", "val": "val.txt", "names": {0: "a", 1: "b"}})
    )
    (tmp_path / "set" / "val.txt").write_text("images/val/00001.png\n")
    train, test = (read_data(tmp_path / "data.yaml", part) for part in ("train", "test"))
    assert train.classes == ("a", "b")
    assert len(train.images) == 5
    assert len(train.truth["annotations"]) == 1
    assert test.truth["annotations"][0]["bbox"] == [24, 16, 48, 32]


@pytest.fixture
def plain(m3fd, tmp_path):
    """Return a function that writes a data.yaml over two training images and one for validation, each with a box."""
    for part, names in (("train", ("00000", "00001")), ("valid", ("00002",))):
        for kind in ("images", "labels"):
            (tmp_path / "set" / part / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(m3fd / "Vis" / f"{name}.png", tmp_path / "set" / part / "images")
            (tmp_path / "set" / part / "labels" / f"{name}.txt").write_text("2 0.5 0.5 0.5 0.5\n")

    def write(**content):
        standard = {"train": "train/images", "val": "valid/images", "names": ["person", "bicycle", "car"]}
        (tmp_path / "set" / "data.yaml").write_text(yaml.safe_dump(standard | content))
        return tmp_path / "set" / "data.yaml"

    return write


@pytest.mark.parametrize("names", [{2: "car", 0: "person", 1: "bicycle"}, {"2": "car", "0": "person", "1": "bicycle"}])
def test_keys_of_names_number_the_classes_in_any_order(plain, names):
    data = read_data(plain(names=names, nc=3), "train")
    assert data.classes == ("person", "bicycle", "car")
    assert {a["category_id"] for a in data.truth["annotations"]} == {3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"names": {1: "person", 2: "bicycle", 3: "car"}}, "has the keys 1, 2, 3; expected 0 to 2, each once"),
        ({"names": {0: "person", 2: "car"}}, "has the keys 0, 2; expected 0 to 1"),
        ({"names": {"a": "person", "b": "car"}}, "has the keys 'a', 'b'; expected 0 to 1"),
        ({"names": {True: "person", False: "car"}}, "has the keys .*; expected 0 to 1"),
        ({"names": {0.0: "person", 1.0: "bicycle", 2.0: "car"}}, "has the keys .*; expected 0 to 2"),
        ({"names": {0: "person", "0": "car"}}, "has the keys 0, '0'; expected 0 to 1"),
        ({"nc": 2}, "`nc` is 2, `names` has 3; expected the same number"),
        ({"nc": "3"}, "`nc` is not a number, `names` has 3"),
        ({"names": ["person", "person", "car"]}, "`names` has a class twice"),
        ({"names": ["person", None, "car"]}, "a value that is not a word"),
        ({"names": [False, True, "car"]}, "quotes around no, yes, on and off"),
        ({"names": "person"}, "`names` is not a list"),
        ({"names": []}, "`names` is empty"),
        ({"train": []}, "has no `train`, or it is empty"),
        ({"train": "empty.txt"}, "empty.txt, which has no images"),
        ({"train": "valid/labels"}, "valid/labels, which has no images"),
        ({"train": "nowhere"}, "names .*nowhere, which does not exist"),
        ({"val": "train/images"}, "2 images are both in training and in test"),
        ({"val": ["valid/images", "train/images"]}, "2 images are both in training and in test"),
        (
            {"train": "bare/images"},
            "the 1 train images have no boxes; found 0 label files such as .*bare/labels/00003.txt",
        ),
    ],
)
def test_a_data_yaml_that_would_train_on_something_else_is_refused(plain, m3fd, tmp_path, content, message):
    (tmp_path / "set" / "empty.txt").write_text("\n")
    (tmp_path / "set" / "bare" / "images").mkdir(parents=True)
    shutil.copy(m3fd / "Vis" / "00003.png", tmp_path / "set" / "bare" / "images")
    with pytest.raises(InputError, match=message):
        read_data(plain(**content), "train")


def test_a_class_list_beside_the_labels_that_contradicts_names_is_refused(plain, tmp_path):
    (tmp_path / "set/train/labels/classes.txt").write_text("car\nbicycle\nperson\n")
    with pytest.raises(InputError, match=r"classes\.txt numbers the classes 0 car, .* read with 0 person"):
        read_data(plain(), "train")


def test_folders_are_searched_to_their_depth_and_missing_labels_counted(plain, m3fd, tmp_path, caplog):
    deep = tmp_path / "set/train/images/city/street"
    deep.mkdir(parents=True)
    shutil.copy(m3fd / "Vis" / "z.png", deep)
    data = read_data(plain(), "train")
    assert sorted(data.images) == ["00000", "00001", "z"] and len(data.truth["annotations"]) == 2
    assert "1 of 3 images have no label file" in caplog.text and "train/labels/city/street/z.txt" in caplog.text


def test_labels_beside_the_images_are_read(plain, tmp_path):
    for path in (tmp_path / "set/train/labels").iterdir():
        path.rename(tmp_path / "set/train/images" / path.name)
    assert len(read_data(plain(), "train").truth["annotations"]) == 2


def test_the_paths_of_roboflow_are_read_as_ultralytics_reads_them(plain):
    data = read_data(plain(train="../train/images", val="../valid/images"), "train")
    assert sorted(data.images) == ["00000", "00001"]


def test_doubts_about_plain_labels_are_warned_of(plain, tmp_path, caplog):
    (tmp_path / "set/train/labels/00000.txt").write_text("2 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.500000\n")
    assert len(read_data(plain(), "train").truth["annotations"]) == 2
    assert "is given twice; dropped" in caplog.text


def test_a_ground_truth_without_a_box_is_refused(m3fd, split, tmp_path):
    path = make(split, m3fd / "Vis", tmp_path / "data.yaml")
    truth = read_json(split / "truth_train.json")
    write_json(split / "truth_train.json", truth | {"annotations": []})
    with pytest.raises(InputError, match="have no boxes"):
        read_data(path, "train")
