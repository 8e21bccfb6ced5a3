import json

import cv2
import numpy as np
import pytest

from detection import audit
from detection.boxes import Box
from pipeline.stage import InputError

KEYS = {"pairs", "boxes", "boxes_per_class", "sizes", "unpaired", "degenerate_boxes", "duplicates"}


@pytest.fixture
def m3fd(m3fd, rng):
    """The tiny data set with a texture of its own for every image, so that none is like another."""
    for path in [*sorted(m3fd.glob("Ir/*.png")), *sorted(m3fd.glob("Vis/*.png"))]:
        coarse = rng.integers(0, 200, (8, 12, 1 if path.parent.name == "Ir" else 3)).astype(np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC))
    return m3fd


def run(root, tmp_path, *options):
    file = tmp_path / "audit.json"
    try:
        audit.main(["--root", str(root), "--output", str(file), *options])
        error = None
    except InputError as refusal:
        error = str(refusal)
    return json.loads(file.read_text(encoding="utf-8")), error


def test_counts_are_those_of_the_files(m3fd, tmp_path, capsys):
    facts, error = run(m3fd, tmp_path)
    assert error is None and set(facts) >= KEYS
    assert (facts["dataset"], facts["pairs"], facts["boxes"]) == ("m3fd", 6, 6)
    assert facts["boxes_per_class"] == {"People": 3, "Car": 3, "Bus": 0, "Lamp": 0, "Motorcycle": 0, "Truck": 0}
    assert facts["sizes"] == {"96x64": 6}
    assert (facts["unpaired"], facts["degenerate_boxes"], facts["duplicates"]) == ([], 0, [])
    assert "boxes: 6: People 3, Car 3" in capsys.readouterr().out


def test_boxes_without_area_and_spare_files_are_warnings(m3fd, tmp_path, write_voc):
    write_voc(m3fd / "Annotation" / "00000.xml", [Box("Car", 5, 5, 5, 20), Box("Car", 5, 5, 9, 20)])
    cv2.imwrite(str(m3fd / "Ir" / "spare.png"), np.zeros((64, 96), np.uint8))
    facts, error = run(m3fd, tmp_path)
    assert error is None
    assert (facts["degenerate_boxes"], facts["unpaired"]) == (1, ["Ir/spare.png"])


def spoil_partner(root):
    (root / "Ir" / "z.png").unlink()


def spoil_image(root):
    (root / "Vis" / "z.png").write_bytes((root / "Vis" / "z.png").read_bytes()[:-100])


def spoil_size(root):
    cv2.imwrite(str(root / "Ir" / "z.png"), np.zeros((32, 32), np.uint8))


def spoil_labels(root):
    (root / "Annotation" / "z.xml").write_text("<annotation")


def lose_labels(root):
    (root / "Annotation" / "z.xml").unlink()


@pytest.mark.parametrize("spoil", [spoil_partner, spoil_image, spoil_size, spoil_labels, lose_labels])
def test_what_would_falsify_a_result_is_refused_and_the_report_written(m3fd, tmp_path, spoil):
    spoil(m3fd)
    facts, error = run(m3fd, tmp_path)
    assert facts["refused"] and len(facts["errors"]) == 1
    assert "is refused" in error and "z" in facts["errors"][0]


def test_faults_of_pairs_outside_the_split_are_warnings(m3fd, tmp_path):
    (m3fd / "train.txt").write_text("00000\n00001\n")
    (m3fd / "test.txt").write_text("00002\n")
    spoil_labels(m3fd)
    (m3fd / "Ir" / "00003.png").unlink()
    facts, error = run(m3fd, tmp_path)
    assert error is None and not facts["errors"]
    assert sum(warning.startswith("outside the split: ") for warning in facts["warnings"]) == 2
    _, error = run(m3fd, tmp_path, "--split", "random")  # which may draw them
    assert "is refused" in error


def test_boxes_given_twice_are_counted_and_labels_without_any_box_refused(m3fd, tmp_path, write_voc):
    write_voc(m3fd / "Annotation" / "00000.xml", [Box("Car", 5, 5, 9, 20), Box("Car", 5, "5.0", 9, 20)])
    facts, error = run(m3fd, tmp_path)
    assert (error, facts["repeated_boxes"], facts["boxes"]) == (None, 1, 6)
    for path in (m3fd / "Annotation").iterdir():
        write_voc(path, [])
    assert "the labels of 6 images contain no box" in run(m3fd, tmp_path)[1]


def test_folders_of_others_are_not_taken_for_m3fd(m3fd, tmp_path):
    for name, other in (("Vis", "vi"), ("Ir", "ir"), ("Annotation", "labels")):
        (m3fd / name).rename(m3fd / other)
    assert run(m3fd, tmp_path)[0]["dataset"] == "m3fd"
    for path in (m3fd / "labels").iterdir():
        path.unlink()
        path.with_suffix(".txt").write_text("1 0.5 0.5 0.5 0.5")
    with pytest.raises(InputError, match="has the folders of none of the datasets; expected --dataset"):
        audit.main(["--root", str(m3fd)])


def copy(root, name, other, change=0):
    for folder in ("Vis", "Ir"):
        image = cv2.imread(str(root / folder / f"{name}.png"), cv2.IMREAD_UNCHANGED).astype(int) + change
        cv2.imwrite(str(root / folder / f"{other}.png"), image.clip(0, 255).astype(np.uint8))
    text = (root / "Annotation" / f"{name}.xml").read_text()
    (root / "Annotation" / f"{other}.xml").write_text(text)


def test_duplicates_are_found_the_same_and_near(m3fd, tmp_path):
    copy(m3fd, "00000", "same")
    copy(m3fd, "00001", "near", change=3)
    facts, error = run(m3fd, tmp_path)
    found = {(duplicate["name"], duplicate["like"], duplicate["kind"]) for duplicate in facts["duplicates"]}
    assert error is None
    assert found == {
        *(("00000", "same", "same"), ("same", "00000", "same")),
        *(("00001", "near", "near"), ("near", "00001", "near")),
    }


def test_a_test_pair_that_is_in_training_is_refused(m3fd, tmp_path):
    copy(m3fd, "00000", "same")
    (m3fd / "train.txt").write_text("00000\n00001\n")
    (m3fd / "test.txt").write_text("same\n00002\n")
    facts, error = run(m3fd, tmp_path)
    assert "1 of 2 test pairs are also in training" in error
    assert [d["name"] for d in facts["duplicates"] if d["across_split"]] == ["same"]


def test_a_folder_of_no_known_data_set_wants_its_name(tmp_path):
    with pytest.raises(InputError, match="has the folders of none of the datasets; expected --dataset"):
        audit.main(["--root", str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "dataset", "boxes"),
    [("m3fd_sample", "m3fd", {"People": 76, "Car": 49, "Bus": 0, "Lamp": 5, "Motorcycle": 1, "Truck": 0})]
    + [("msrs", "msrs", {"person": 1480, "bicycle": 299, "car": 763})],
)
def test_real_data_pass_with_the_counts_of_their_readme(shared, tmp_path, name, dataset, boxes):
    facts, error = run(shared / "data" / name, tmp_path)
    assert error is None and facts["dataset"] == dataset
    assert facts["boxes_per_class"] == boxes
