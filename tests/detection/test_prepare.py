import csv
import json

import cv2
import numpy as np
import pytest

from detection import labelled_split, prepare
from detection.similarity import PairSummary
from detection.truth import read_truth
from pipeline.artefacts import sha256_lines
from pipeline.stage import InputError


def run(root, output, *options, dataset="m3fd"):
    prepare.main(["--dataset", dataset, "--root", str(root), "--output", str(output), *options])
    return json.loads((output / "dataset.json").read_text(encoding="utf-8"))


RANDOM = ("--split", "random", "--train", "4", "--test", "2")


def test_ground_truth_is_numbered_from_one_over_the_sorted_names(m3fd, tmp_path):
    run(m3fd, tmp_path / "out", *RANDOM)
    names = sorted(path.stem for path in (m3fd / "Vis").iterdir())
    for part in ("train", "test"):
        truth = read_truth(tmp_path / "out" / f"truth_{part}.json")
        assert [image["id"] for image in truth["images"]] == [
            names.index(image["file_name"]) + 1 for image in truth["images"]
        ]
        assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
        assert [c["id"] for c in truth["categories"]] == [1, 2, 3, 4, 5, 6]
        listed = (tmp_path / "out" / f"{part}.txt").read_text(encoding="utf-8").splitlines()
        assert listed == [image["file_name"] for image in truth["images"]]


def test_boxes_are_stated_as_corner_and_size_in_pixels(m3fd, tmp_path):
    run(m3fd, tmp_path / "out", *RANDOM)
    truth = read_truth(tmp_path / "out" / "truth_train.json")
    assert all(a["bbox"][2:] == [32, 24] and a["area"] == 768 and a["iscrowd"] == 0 for a in truth["annotations"])


def test_data_set_is_described_with_counts_and_digests(m3fd, tmp_path):
    facts = run(m3fd, tmp_path / "out", *RANDOM)
    assert facts["pairs"] == 6
    assert facts["visible"] == ["../m3fd/Vis"]
    assert sum(facts["boxes"]["train"].values()) == 4
    listed = (tmp_path / "out" / "train.txt").read_text(encoding="utf-8").splitlines()
    assert facts["split"]["digest_train"] == sha256_lines(listed)
    assert facts["split"]["kind"] == "random"


def test_own_split_is_that_of_the_lists_beside_the_folders(m3fd, tmp_path):
    (m3fd / "train.txt").write_text("00000\n00001\n")
    (m3fd / "test.txt").write_text("a b's ü\n", encoding="utf-8")
    run(m3fd, tmp_path / "out")
    assert (tmp_path / "out" / "test.txt").read_text(encoding="utf-8") == "a b's ü\n"


def test_own_split_of_a_data_set_without_one_is_refused(m3fd, tmp_path):
    with pytest.raises(InputError, match=r"has no train\.txt and test\.txt"):
        run(m3fd, tmp_path / "out")


@pytest.mark.parametrize("kind", ["random", "list"])
def test_split_without_its_options_is_refused(m3fd, tmp_path, kind):
    with pytest.raises(InputError, match=f"--split {kind} requires --train"):
        run(m3fd, tmp_path / "out", "--split", kind)


def test_name_of_a_list_without_a_pair_is_refused(m3fd, tmp_path):
    (m3fd / "train.txt").write_text("00000\nnone\n")
    (m3fd / "test.txt").write_text("00001\n")
    with pytest.raises(InputError, match="lacks 1 of the 3 images of the split: 'none'"):
        run(m3fd, tmp_path / "out")


def test_yolo_labels_are_read_as_well(m3fd, tmp_path):
    for path in (m3fd / "Annotation").iterdir():
        path.with_suffix(".txt").write_text("4 0.5 0.5 0.5 0.5\n")
        path.unlink()
    # Two orders of M3FD's classes are in use: without a stated one, 4 may be a lamp or a motorcycle.
    with pytest.raises(InputError, match=r"3 Lamp, 4 Motorcycle, .*3 Motorcycle, 4 Lamp, .*expected a classes\.txt"):
        run(m3fd, tmp_path / "out", *RANDOM)
    (m3fd / "classes.txt").write_text("person\nbicycle\ncar\n")
    with pytest.raises(
        InputError, match=r"classes\.txt numbers the classes 0 person, .*; expected the classes of the dataset"
    ):
        run(m3fd, tmp_path / "out", *RANDOM)
    (m3fd / "classes.txt").unlink()
    theirs = ["People", "Car", "Bus", "Motorcycle", "Lamp", "Truck"]
    assert run(m3fd, tmp_path / "out", *RANDOM, "--classes", *theirs)["boxes"]["train"]["Lamp"] == 4
    (m3fd / "Annotation" / "classes.txt").write_text("\ufeff" + "\n".join(theirs), encoding="utf-8")
    assert run(m3fd, tmp_path / "out", *RANDOM)["boxes"]["train"]["Lamp"] == 4
    ours = ["People", "Car", "Bus", "Lamp", "Motorcycle", "Truck"]
    with pytest.raises(InputError, match=r"classes\.txt numbers the classes .*4 Lamp.* read with .*4 Motorcycle"):
        run(m3fd, tmp_path / "out", *RANDOM, "--classes", *ours)
    (m3fd / "Annotation" / "classes.txt").unlink()
    (m3fd / "data.yaml").write_text("names: {1: Car, 0: People, 2: Bus, 5: Truck, 4: Motorcycle, 3: Lamp}")
    assert run(m3fd, tmp_path / "out", *RANDOM)["boxes"]["train"]["Motorcycle"] == 4


def test_warnings_about_labels_are_kept(m3fd, tmp_path, write_voc):
    from detection.boxes import Box

    write_voc(m3fd / "Annotation" / "00000.xml", [Box("Car", 1, 1, 97, 60)])
    facts = run(m3fd, tmp_path / "out", *RANDOM)
    assert facts["warnings"][0] == "no training box of Bus, Lamp, Motorcycle, Truck"
    assert len(facts["warnings"]) == 2 and "00000.xml" in facts["warnings"][1]


@pytest.mark.parametrize("part", ["training", "test"])
def test_labels_without_any_box_are_refused_before_anything_is_written(m3fd, tmp_path, write_voc, part):
    (m3fd / "train.txt").write_text("00000\n00001\n")
    (m3fd / "test.txt").write_text("00002\n00003\n")
    for name in ("00000", "00001") if part == "training" else ("00002", "00003"):
        write_voc(m3fd / "Annotation" / f"{name}.xml", [])
    with pytest.raises(InputError, match=f"the 2 {part} images have no boxes"):
        run(m3fd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_labels_are_background_where_that_is_said_and_counted(m3fd, tmp_path):
    (m3fd / "train.txt").write_text("00000\n00001\nz\n")
    (m3fd / "test.txt").write_text("00002\n")
    (m3fd / "Annotation" / "z.xml").unlink()
    with pytest.raises(InputError, match=r"no label file for image 'z' .*with --unlabelled background"):
        run(m3fd, tmp_path / "out")
    facts = run(m3fd, tmp_path / "out", "--unlabelled", "background")
    assert sum(facts["boxes"]["train"].values()) == 2
    assert "1 images without a label file are taken as images without objects: 'z'" in facts["warnings"]
    for path in (m3fd / "Annotation").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="the 3 training images have no boxes"):
        run(m3fd, tmp_path / "out", "--unlabelled", "background")


def test_boxes_given_twice_are_dropped_and_counted(m3fd, tmp_path, write_voc):
    from detection.boxes import Box

    write_voc(m3fd / "Annotation" / "00000.xml", [Box("Car", 1, 1, 20, 20), Box("Car", "1.0", 1, 20, "20.000")])
    facts = run(m3fd, tmp_path / "out", *RANDOM)
    assert sum(sum(counts.values()) for counts in facts["boxes"].values()) == 6
    assert any("is given twice; dropped" in warning for warning in facts["warnings"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "own", "--train-list", "x"], "own does not use --train-list x; remove it"),
        (["--train", "4", "--test", "2"], "own does not use --train 4 and --test 2; .* or use --split random"),
        ([*RANDOM, "--train-list", "x", "--test-list", "y"], "random does not use --train-list x and --test-list y"),
        (["--split", "list", "--train-list", "x", "--test-list", "y", "--test", "2"], "list does not use --test 2"),
        (["--split", "list", "--train-list", "x"], "list requires --train-list FILE and --test-list FILE"),
        (["--split", "scene-blocked", "--train", "4", "--test", "2"], "scene-blocked does not use --train 4"),
        (
            ["--split", "random-3800-400", "--test", "2"],
            "random-3800-400 does not use --test 2; .* or use --split scene-blocked",
        ),
        (["--split", "scene-blocked"], "scene-blocked requires --test N"),
    ],
)
def test_split_options_that_do_not_go_together_are_refused(m3fd, tmp_path, options, message):
    with pytest.raises(InputError, match=f"--split {message}"):
        run(m3fd, tmp_path / "out", *options)


def test_a_visible_image_without_infrared_outside_the_lists_is_a_warning(m3fd, tmp_path):
    (m3fd / "train.txt").write_text("00000\n00001\n")
    (m3fd / "test.txt").write_text("00002\n")
    (m3fd / "Ir" / "z.png").unlink()
    facts = run(m3fd, tmp_path / "out")
    assert any("1 visible images outside the split have no infrared image: 'z'" in text for text in facts["warnings"])


def test_pair_of_different_sizes_is_refused(m3fd, tmp_path):
    cv2.imwrite(str(m3fd / "Ir" / "00000.png"), np.zeros((32, 32), np.uint8))
    with pytest.raises(InputError, match=r"Ir/00000\.png is 32x32, expected 96x64 like .*Vis/00000\.png"):
        run(m3fd, tmp_path / "out", *RANDOM)
    assert not (tmp_path / "out").exists()


def test_truncated_image_is_refused_before_anything_is_written(m3fd, tmp_path):
    data = (m3fd / "Vis" / "00001.png").read_bytes()
    (m3fd / "Vis" / "00001.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"Vis/00001\.png is truncated"):
        run(m3fd, tmp_path / "out", *RANDOM)
    assert not (tmp_path / "out").exists()


def test_missing_partner_and_missing_labels_are_refused(m3fd, tmp_path):
    (m3fd / "Annotation" / "z.xml").unlink()
    with pytest.raises(InputError, match="no label file for image 'z'"):
        run(m3fd, tmp_path / "out", *RANDOM)
    (m3fd / "Ir" / "z.png").unlink()
    with pytest.raises(InputError, match=r"no infrared image in .* for visible 'z'"):
        run(m3fd, tmp_path / "out", *RANDOM)


def test_limits_are_recorded(m3fd, tmp_path):
    facts = run(m3fd, tmp_path / "out", *RANDOM, "--limit-train", "2", "--limit-test", "1", "--seed", "7")
    assert (facts["split"]["train"], facts["split"]["test"]) == (2, 1)
    assert facts["split"]["limits"] == {"train": 2, "test": 1, "seed": 7}


def test_msrs_brings_its_split_and_counts(shared, tmp_path, monkeypatch):
    def unseen(pairs):  # the audit's test decodes all 560 pairs
        return {
            pair.name: PairSummary(640, 480, 0.0, np.zeros((2, 768)), pair.name, (False, False), False)
            for pair in pairs
        }

    monkeypatch.setattr(labelled_split, "summarize_pairs", unseen)
    facts = run(shared / "data" / "msrs", tmp_path / "out", dataset="msrs")
    assert (facts["split"]["train"], facts["split"]["test"]) == (440, 120)
    assert facts["boxes"] == {
        "train": {"person": 1185, "bicycle": 259, "car": 595},
        "test": {"person": 295, "bicycle": 40, "car": 168},
    }


def test_m3fd_sample_has_the_counts_of_its_readme(shared, tmp_path):
    facts = run(shared / "data" / "m3fd_sample", tmp_path / "out", "--split", "random", "--train", "6", "--test", "3")
    found = {name: facts["boxes"]["train"][name] + facts["boxes"]["test"][name] for name in facts["classes"]}
    assert found == {"People": 76, "Car": 49, "Bus": 0, "Lamp": 5, "Motorcycle": 1, "Truck": 0}


def test_leakage_names_the_likest_training_pair_and_counts_near_duplicates(m3fd, tmp_path):
    for folder in ("Vis", "Ir"):
        image = cv2.imread(str(m3fd / folder / "00000.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(m3fd / folder / "00001.png"), image + np.uint8(2))
    (m3fd / "train.txt").write_text("00000\n00002\n00003\n")
    (m3fd / "test.txt").write_text("00001\nz\n")
    facts = run(m3fd, tmp_path / "out")
    leakage = json.loads((tmp_path / "out" / "leakage.json").read_text())
    assert (leakage["share"], leakage["near_duplicates"], leakage["images"], leakage["exact"]) == (0.5, 1, 2, 0)
    assert leakage["nearest"]["00001"]["train"] == "00000" and set(leakage["nearest"]) == {"00001", "z"}
    assert facts["leakage"]["share"] == 0.5


def test_split_whose_test_pairs_are_in_training_is_refused(m3fd, tmp_path):
    for folder in ("Vis", "Ir"):
        (m3fd / folder / "00001.png").write_bytes((m3fd / folder / "00000.png").read_bytes())
    (m3fd / "train.txt").write_text("00000\n")
    (m3fd / "test.txt").write_text("00001\n")
    with pytest.raises(
        InputError, match="1 of the 1 test pairs are also in training under other names, pixel for pixel"
    ):
        run(m3fd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def rows(folder):
    with (folder / "scenes.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_conditions_and_scenes_of_m3fd_are_those_of_its_ranges(m3fd, tmp_path):
    facts = run(m3fd, tmp_path / "out", "--split", "random", "--train", "4", "--test", "2")
    conditions = json.loads((tmp_path / "out" / "conditions.json").read_text(encoding="utf-8"))
    assert conditions["source"] == "M3FD's scenario.json, as shipped"
    assert len(conditions["images"]) == 6
    assert (conditions["images"]["00000"], conditions["images"]["z"]) == ("overcast", None)
    found = rows(tmp_path / "out")
    assert found["00000"]["sequence"] == "overcast/lake/00000-00059" and found["00000"]["place"] == "overcast/lake"
    assert found["z"]["source"] == "numbers and images" and len(found) == 6
    assert facts["split"]["unit"] == "sequence" and facts["leakage"]["sequence"] > 0


def test_conditions_of_folders_are_derived_from_luma(m3fd, tmp_path):
    for folder in ("Vis", "Ir"):
        image = cv2.imread(str(m3fd / folder / "z.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(m3fd / folder / "z.png"), image // 2 + np.uint8(100))
    folders = ["--visible", "Vis", "--infrared", "Ir", "--labels", "Annotation", "--classes", "People", "Car"]
    run(m3fd, tmp_path / "out", *RANDOM, *folders, dataset="folders")
    conditions = json.loads((tmp_path / "out" / "conditions.json").read_text(encoding="utf-8"))
    assert "mean luma of the visible image is below 55" in conditions["source"]
    assert len(conditions["images"]) == 6 and conditions["images"]["z"] == "day"
    assert conditions["images"]["00000"] == "night" == rows(tmp_path / "out")["00000"]["condition"]


def test_conditions_of_generated_scenes_are_the_generators(tmp_path):
    from fusion.synthetic import make_scene
    from fusion.synthetic.__main__ import write_scenes

    write_scenes(tmp_path / "scenes", 6, 2, (96, 72), 3)
    facts = run(tmp_path / "scenes", tmp_path / "out", dataset="synthetic")
    assert facts["split"]["unit"] == "image"
    conditions = json.loads((tmp_path / "out" / "conditions.json").read_text())
    drawn = {f"{index:05}": make_scene(3, index, 96, 72).condition for index in range(8)}
    assert conditions == {"source": "the dataset", "images": drawn}
    found = rows(tmp_path / "out")
    assert {name: row["condition"] for name, row in found.items()} == drawn
    assert all(row["sequence"] == row["place"] == name for name, row in found.items())


def test_split_by_scenes_is_described(m3fd, tmp_path):
    (tmp_path / "mine.csv").write_text(
        "name,sequence,place\n00000,s,p\n00001,s,p\n00002,t,q\n00003,t,q\na b's ü,u,r\nz,v,r\n", encoding="utf-8"
    )
    options = ["--split", "scene-blocked", "--test", "2", "--scenes", str(tmp_path / "mine.csv")]
    facts = run(m3fd, tmp_path / "out", *options)
    split = facts["split"]
    assert (split["kind"], split["by"], split["unit"], split["test"]) == ("scene-blocked", "place", "place", 2)
    assert split["scenes"]["train"] == {"sequence": split["scenes"]["train"]["sequence"], "place": 2}
    assert split["scenes"]["sources"] == ["the user's file"] and len(split["scenes"]["digest"]) == 64
    assert facts["leakage"]["place"] == facts["leakage"]["sequence"] == 0
    assert {name: row["place"] for name, row in rows(tmp_path / "out").items()}["z"] == "r"
