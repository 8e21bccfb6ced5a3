"""Labels in COCO's form: read and, crowds included, scored as pycocotools does, or refused where they are wrong."""

import contextlib
import io
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from made_up import detections
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection import audit, prepare
from detection.accumulation import accumulate_matches, weighted_average_precision
from detection.average_precision import score
from detection.boxes import NO_AREA, TWICE, Box
from detection.coco import CocoLabels
from detection.datasets import find_dataset
from detection.datasets.layout import LabelReader
from detection.datasets.m3fd import CLASSES as M3FD_CLASSES
from detection.truth import objects_of, read_truth
from pipeline.pairs import Bands
from pipeline.planning.words import band_options
from pipeline.planning.words import options as options_of
from pipeline.stage import InputError

CLASSES = ("Person", "Car")
GUIDE = Path(__file__).parents[2] / "docs" / "own-dataset.md"


def content():
    """Two images of 96x64, one of them without boxes; ids are words and numbers with gaps."""
    return {
        "images": [
            {"id": "first", "file_name": "train/a_T.jpg", "width": 96, "height": 64},
            {"id": 31, "file_name": "b.png"},
        ],
        "categories": [{"id": 17, "name": "car"}, {"id": 3, "name": "PERSON"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": "x", "image_id": "first", "category_id": 17, "bbox": [10, 20, 20, 30]},
            {"id": 9, "image_id": "first", "category_id": 3, "bbox": [1, 2.5, 4, 5], "area": 7, "iscrowd": 1},
            {"id": 7, "image_id": "first", "category_id": 3, "bbox": [50, 2, 4, 5], "iscrowd": 0, "ignore": 1},
        ],
    }


@pytest.fixture
def labels(tmp_path):
    """Write a content as JSON and read it for the classes of this file."""

    def read(written, classes=CLASSES, name="labels.json"):
        path = tmp_path / name
        path.write_text(written if isinstance(written, str) else json.dumps(written), encoding="utf-8")
        return CocoLabels(path, classes, ("_RGB", "_T"))

    return read


def test_images_are_matched_by_stem_and_classes_by_name_whatever_the_ids(labels):
    read = labels(content())
    assert list(read.images) == ["a", "b"]
    car, *crowds = read.read("a", 96, 64)[0]
    assert car == Box("Car", 10, 20, 30, 50)
    assert crowds == [Box("Person", 1, 2.5, 5, 7.5, crowd=True), Box("Person", 50, 2, 54, 7, crowd=True)]
    assert read.read("b", 96, 64) == ([], [])


def test_a_byte_order_mark_and_windows_folders_are_read(labels):
    given = content()
    given["images"][0]["file_name"] = "thermal\\train\\a_T.JPG"
    assert list(labels("\ufeff" + json.dumps(given)).images) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"labels\.json is not valid JSON"),
        ("[" * 100_000, r"labels\.json is not valid JSON"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "contains a list, the form"),
        ('{"images": [], "shapes": []}', r"contains {'images': \[\], 'shapes': \[\]}; expected COCO's ground truth"),
        ("3", "contains 3; expected"),
    ],
)
def test_other_files_are_refused(labels, text, message):
    with pytest.raises(InputError, match=message):
        labels(text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json is not a file; expected COCO JSON"):
        CocoLabels(tmp_path / "none.json", CLASSES)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("images", {"id": 31}, r"has the id 31 twice in images"),
        ("images", {"id": None}, r"as images\[0\]; expected an object with an id"),
        ("images", {"id": [1]}, r"as images\[0\]; expected an object with an id"),
        ("images", {"file_name": "other/b_RGB.jpg"}, r"has 'other/b_RGB.jpg' and 'b.png' for image 'b'; expected one"),
        ("images", {"file_name": 5}, r"image 'first' has the file_name 5; expected text"),
        ("categories", {"id": 3}, r"has the id 3 twice in categories"),
        ("categories", {"name": None}, r"category 17 has the name None; expected text"),
        ("categories", {"name": "bus"}, r"has 1 boxes of 'bus'; expected boxes of Person, Car: .*--leave-out"),
        ("annotations", {"id": 9}, r"has the id 9 twice in annotations"),
        ("annotations", {"image_id": "31"}, r"annotation 'x' has the image_id '31'; expected an id in the file"),
        ("annotations", {"image_id": {}}, r"annotation 'x' has the image_id {}; expected"),
        ("annotations", {"category_id": 0}, r"annotation 'x' has the category_id 0; expected an id .* such as 17"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(labels, part, change, message):
    given = content()
    given[part][0].update(change)
    with pytest.raises(InputError, match=r"labels\.json.* " + message):
        labels(given)


def test_an_entry_that_is_no_object_is_refused(labels):
    given = content()
    given["annotations"].append(4)
    with pytest.raises(InputError, match=r"has 4 as annotations\[3\]; expected an object with an id"):
        labels(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [60, 20, 90, 40]}, r"lies outside its image of 96x64; it would fit as xmin, ymin, xmax, ymax"),
        ({"bbox": [90, 20, 30, 30]}, r"lies outside its image of 96x64$"),
        ({"bbox": [10, 20, -5, 30]}, r"has exchanged edges"),
        ({"bbox": [0.1, 0.2, 0.5, 0.25]}, r"lies within 0\.\.1, as fractions"),
        ({"bbox": [10, "20", 5, 30]}, r"has '20' in its bbox; expected a number"),
        ({"bbox": [10, True, 5, 30]}, r"has True in its bbox"),
        ({"bbox": [10, float("nan"), 5, 30]}, r"has nan in its bbox"),
        ({"bbox": [10, 10**400, 5, 30]}, r"has 10+\.\.\. in its bbox"),
        ({"bbox": [10, 20, 5]}, r"has the bbox \[10, 20, 5\]; expected x, y, width and height"),
        ({"bbox": None, "segmentation": [[1, 2, 3, 4, 5, 6]]}, r"has the bbox None; .* also for a mask"),
        ({"iscrowd": "no"}, r"has the iscrowd 'no'; expected 0 or 1"),
        ({"ignore": 2}, r"has the ignore 2; expected 0 or 1"),
    ],
)
def test_a_wrong_box_is_refused_with_its_image(labels, change, message):
    given = content()
    given["annotations"][0].update(change)
    read = labels(given)
    with pytest.raises(InputError, match=r"labels\.json, image 'a', annotation 'x'.* ?" + message):
        read.read("a", 96, 64)
    assert read.read("b", 96, 64) == ([], [])


@pytest.mark.parametrize(("stated", "message"), [(97, "says that the image is 97x64; it is 96x64"), ("96", "has '96'")])
def test_labels_of_an_image_of_another_size_are_refused(labels, stated, message):
    given = content()
    given["images"][0]["width"] = stated
    with pytest.raises(InputError, match=message):
        labels(given).read("a", 96, 64)


def test_sides_exchanged_in_the_stated_size_are_a_warning(labels):
    given = content()
    given["images"][0] |= {"width": 64, "height": 96}
    (warning,) = labels(given).read("a", 96, 64)[1]
    assert "image 'a' says that the image is 64x96; it is 96x64: width and height are taken as exchanged" in warning


def test_boxes_twice_without_area_and_slightly_outside_are_warnings(labels):
    given = content()
    box = {"image_id": 31, "category_id": 17}
    places = ([5, 5, 9, 9], [5.0, 5, 9, 9], [5, 5, 0, 9], [-1, 30, 9, 9])
    given["annotations"] += [{"id": 100 + n, **box, "bbox": place} for n, place in enumerate(places)]
    boxes, warnings = labels(given).read("b", 96, 64)
    assert boxes == [Box("Car", 5, 5, 14, 14), Box("Car", 0, 30, 8, 39)]
    assert [warning.endswith(end) for warning, end in zip(warnings, (TWICE, NO_AREA, "clipped"), strict=True)] == [
        True
    ] * 3


# Data sets: pairs of two suffixes below `root`, and the options that name them.


def make_pairs(root, names, size=(96, 64)):
    rng = np.random.default_rng(7)
    for folder, suffix in (("rgb", "_RGB"), ("thermal", "_T")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            shape = (size[1], size[0], 3) if folder == "rgb" else (size[1], size[0])
            cv2.imwrite(str(root / folder / f"{name}{suffix}.png"), rng.integers(0, 255, shape, dtype=np.uint8))


def options(root, classes, *more, labels=("labels.json",)):
    words = ["--dataset", "folders", "--root", root, "--visible", "rgb", "--infrared", "thermal", "--labels", *labels]
    words += ["--visible-suffix", "_RGB", "--infrared-suffix", "_T", "--classes", *classes, *more]
    return [str(word) for word in words]


def reader(root, labels, classes=CLASSES, **more):
    bands = Bands("_RGB", "_T")
    return LabelReader(find_dataset("folders", classes, bands=bands, **more), root, [root / name for name in labels])


def test_images_without_an_entry_follow_the_rule_for_missing_label_files(labels, tmp_path):
    labels(content())
    with pytest.raises(
        InputError, match=r"no label file for image 'c' in .*labels\.json; expected .*COCO \.json .*; with --unl"
    ):
        reader(tmp_path, ["labels.json"]).read("c", 96, 64)
    read = reader(tmp_path, ["labels.json"], unlabelled="background")
    assert read.read("c", 96, 64) == ([], []) and read.read("b", 96, 64) == ([], [])
    assert read.unlabelled == ["c"]


def test_several_files_and_folders_share_the_images(labels, tmp_path):
    given = content()
    labels({**given, "images": given["images"][:1]}, name="train.json")
    labels({**given, "images": given["images"][1:], "annotations": []}, name="val.JSON")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c_T.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    read = reader(tmp_path, ["train.json", "val.JSON", "more"])
    assert [len(read.read(name, 96, 64)[0]) for name in "abc"] == [3, 0, 1]
    (tmp_path / "more" / "b.txt").touch()
    with pytest.raises(InputError, match=r"b\.txt and .*val\.JSON for image 'b'"):
        read.read("b", 96, 64)


def test_classes_left_out_are_counted_and_passed_over_in_every_format(labels, tmp_path, write_voc):
    given = content()
    given["annotations"][0]["category_id"] = 5
    labels(given, ("Person", "Car", "dog"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.txt").write_text("2 0.5 0.5 0.25 0.5\n1 0.25 0.5 0.25 0.5\n")
    write_voc(tmp_path / "more" / "d.xml", [Box("DOG", 1, 2, 30, 40), Box("Person", 1, 2, 30, 40)])
    read = reader(tmp_path, ["labels.json", "more"], ("Person", "dog", "Car"), left_out=["Dog"])
    assert read.dataset.classes == ("Person", "Car")
    assert [[box.name for box in read.read(name, 96, 64)[0]] for name in "acd"] == [
        ["Person", "Person"],
        ["Car"],
        ["Person"],
    ]
    assert "boxes left out by class: dog 3" in read.doubts()
    assert any(doubt.startswith("2 boxes are marked as crowds or as ignored") for doubt in read.doubts())


@pytest.mark.parametrize("left_out", [["bus"], ["person", "car"]])
def test_leaving_out_an_unknown_class_or_all_is_refused(left_out):
    with pytest.raises(InputError, match=r"--leave-out .*: expected some, but not all, of --classes Person Car"):
        find_dataset("folders", CLASSES, left_out=left_out)


def test_the_audit_counts_boxes_and_crowds_and_names_entries_without_a_pair(labels, tmp_path):
    make_pairs(tmp_path, "ab")
    given = content()
    given["images"].append({"id": 2, "file_name": "lone.png"})
    labels(given)
    audit.main(options(tmp_path, CLASSES, "--output", tmp_path / "audit.json"))
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert (facts["boxes_per_class"], facts["crowds"], facts["left_out"]) == ({"Person": 0, "Car": 1}, 2, {})
    assert any("1 images that have no visible image; left out: 'lone'" in warning for warning in facts["warnings"])
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(InputError, match="contains a list"):
        audit.main(options(tmp_path, CLASSES))


def original(truth, rng):
    """Return a made-up truth as another would have written it, and our image names and classes by their ids."""
    images = {image["id"]: f"w{3 * image['id']:03}" for image in truth["images"]}
    categories = {category["id"]: 100 - 7 * category["id"] for category in truth["categories"]}
    annotations = [
        {
            **{"id": 1000 - 3 * a["id"], "image_id": images[a["image_id"]], "bbox": a["bbox"], "area": a["area"]},
            **{"category_id": categories[a["category_id"]], "iscrowd": a["iscrowd"]},
        }
        for a in truth["annotations"]
    ]
    rng.shuffle(annotations)
    written = {
        "images": [
            {"id": key, "file_name": f"set/{key}_T.jpg", "width": 200, "height": 200} for key in images.values()
        ],
        "categories": [{"id": categories[c["id"]], "name": c["name"].upper()} for c in truth["categories"]],
        "annotations": annotations,
    }
    return written, images, categories


def quietly(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
def test_ap_of_a_prepared_file_with_crowds_is_that_of_pycocotools_on_the_file_itself(tmp_path, rng, mark):
    truth, found = detections(rng, images=24, crowds=0.3)
    written, images, categories = original(truth, rng)
    make_pairs(tmp_path, images.values(), (200, 200))
    if mark == "iscrowd":
        (tmp_path / "labels.json").write_text(json.dumps(written))
    else:  # pycocotools itself does not read it
        marked = [{**a, "iscrowd": 0, "ignore": a["iscrowd"]} for a in written["annotations"]]
        (tmp_path / "labels.json").write_text(json.dumps({**written, "annotations": marked}))
    names = [category["name"] for category in truth["categories"]]
    split = ["--split", "random", "--train", "6", "--test", "18", "--output", tmp_path / "out"]
    prepare.main(options(tmp_path, names, *split))
    ours = read_truth(tmp_path / "out" / "truth_test.json")
    ids = {image["file_name"]: image["id"] for image in ours["images"]}
    tested = [p for p in found if images[p["image_id"]] in ids]
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert sum(facts["boxes"]["test"].values()) == len(objects_of(ours)) < len(ours["annotations"])

    oracle = COCO()
    oracle.dataset = written
    quietly(oracle.createIndex)
    theirs = [{**p, "image_id": images[p["image_id"]], "category_id": categories[p["category_id"]]} for p in tested]
    evaluation = COCOeval(oracle, quietly(oracle.loadRes, theirs), "bbox")
    evaluation.params.imgIds = list(ids)
    for step in (evaluation.evaluate, evaluation.accumulate):
        quietly(step)
    # Their categories are numbered the other way round.
    expected = evaluation.eval["precision"][:, :, ::-1, :, -1].astype(float)

    mapped = [{**p, "image_id": ids[images[p["image_id"]]]} for p in tested]
    scores = score(ours, mapped)
    # Truth is rounded to four decimals, detections are not: no overlap lies so near its bound.
    np.testing.assert_allclose(scores.precision[..., -1], np.where(expected < 0, np.nan, expected), atol=1e-12)
    accumulated = [
        weighted_average_precision(one, np.ones((1, len(ids))))[0] for one in accumulate_matches(ours, mapped)
    ]
    np.testing.assert_allclose(accumulated, scores.average_precision(), atol=1e-9)


def boxes_by_pycocotools(path):
    """Return the boxes of each image and class as (x, y, x + width, y + height), by the stem of the image's file."""
    coco = quietly(COCO, path)
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        stem = image["file_name"].rpartition(".")[0]
        for a in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            x, y, w, h = a["bbox"]
            found.setdefault((stem, names[a["category_id"]]), []).append((x, y, x + w, y + h))
    return {key: sorted(boxes) for key, boxes in found.items()}


def boxes_by_us(read, sizes, suffix=""):
    found = {}
    for name, (width, height) in sizes.items():
        for box in read.read(name, width, height)[0]:
            edges = (box.xmin, box.ymin, box.xmax, box.ymax)
            found.setdefault((name + suffix, box.name), []).append(edges)
    return {key: sorted(boxes) for key, boxes in found.items()}


def test_the_boxes_of_flir_by_the_configuration_of_the_guide_are_those_that_pycocotools_reads(shared, tmp_path):
    path = shared / "data/flir_aligned/meta/thermal/flir_train.json"
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    text = next(block for block in blocks if "flir_train.json" in block)
    settings = yaml.safe_load(text)["dataset"] | {"root": str(shared / "data/flir_aligned")}
    plain = ("root", "classes", "visible", "infrared", "labels", "split")
    words = options_of({"dataset": settings["name"], **{key: settings[key] for key in plain}})
    words += [*band_options(settings), "--output"]
    audit.main([*words, str(tmp_path / "audit.json")])
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert (facts["pairs"], facts["boxes_per_class"]) == (40, {"person": 102, "bike": 33, "car": 229})
    sizes = options_of({part: settings[part] for part in ("train", "test")})
    prepare.main([*words, str(tmp_path / "split"), *sizes])
    truths = [read_truth(tmp_path / "split" / f"truth_{part}.json") for part in ("train", "test")]
    assert [len(truth["images"]) for truth in truths] == [30, 10]
    assert sum(len(truth["annotations"]) for truth in truths) == 364

    read = CocoLabels(path, ("person", "bike", "car"), ("_RGB", "_PreviewData"))
    ours = boxes_by_us(read, dict.fromkeys(read.images, (640, 512)), "_PreviewData")
    # Some boxes begin one pixel outside: x = -1.
    clipped = {
        key: sorted((max(x, 0), max(y, 0), right, bottom) for x, y, right, bottom in boxes)
        for key, boxes in boxes_by_pycocotools(path).items()
    }
    assert ours == clipped


def test_all_boxes_of_m3fd_are_those_that_pycocotools_reads(shared):
    path = shared / "data/m3fd_labels/boxes.json"
    read = CocoLabels(path, M3FD_CLASSES)
    ours = boxes_by_us(read, {name: (image["width"], image["height"]) for name, image in read.images.items()})
    assert sum(map(len, ours.values())) == 34407 and len(read.images) == 4200
    assert ours == boxes_by_pycocotools(path)
