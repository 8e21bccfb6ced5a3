"""A data set of one folder, whose bands are told apart by suffixes, with infrared counts of 16 bits, in the stages."""

import json

import cv2
import numpy as np
import pytest

from detection import audit, prepare, variant
from detection.images import read_bgr
from detection.variant import read_data
from fusion import evaluate, fuse
from pipeline.artefacts import read_csv
from pipeline.stage import InputError
from reports.collect import read_split
from reports.scenes import read_pictures
from reports.tables import _split_facts
from reports.tables_layout import _split_note

FOLDERS = ["--dataset", "folders", "--classes", "car", "--visible", "all", "--infrared", "all"]
BANDS = ["--visible-suffix=_RGB", "--infrared-suffix=_T", "--infrared-range", "7000", "9000"]


@pytest.fixture
def root(tmp_path, rng):
    """Six pairs in `all`; level L of an infrared image is stored as the count that is L of the range 7000 to 9000."""
    for folder in ("all", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for name in "abcdef":
        visible, level = (rng.integers(0, 256, (40, 48, n), dtype=np.uint8) for n in (3, 1))
        cv2.imwrite(str(tmp_path / f"set/all/{name}_RGB.png"), visible)
        cv2.imwrite(str(tmp_path / f"set/all/{name}_T.tif"), np.uint16(np.rint(7000 + level / 255 * 2000)))
        (tmp_path / f"set/labels/{name}_T.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "train.txt").write_text("all/a_RGB.png\nall/b_RGB.png\nall/c_RGB.png\nall/d_RGB.png\n")
    (tmp_path / "test.txt").write_text("e_T\nf_T\n")
    return tmp_path / "set"


def levels_of(root, name):
    counts = cv2.imread(str(root / f"all/{name}_T.tif"), cv2.IMREAD_UNCHANGED)
    return np.uint8(np.rint((counts - 7000.0) / 2000 * 255))


def prepared(root, *options):
    lists = ["--train-list", str(root.parent / "train.txt"), "--test-list", str(root.parent / "test.txt")]
    output = root.parent / "split"
    prepare.main([*FOLDERS, "--root", str(root), "--output", str(output), "--split", "list", *lists, *options])
    return output


def test_the_audit_and_the_preparation_find_pairs_labels_and_lists(root):
    output = root.parent / "audit.json"
    lists = ["--train-list", str(root.parent / "train.txt"), "--test-list", str(root.parent / "test.txt")]
    audit.main([*FOLDERS, "--root", str(root), "--output", str(output), *BANDS, *lists])
    facts = json.loads(output.read_text())
    assert (facts["pairs"], facts["boxes"], facts["unpaired"], facts["warnings"]) == (6, 6, [], [])
    facts = json.loads((prepared(root, *BANDS) / "dataset.json").read_text())
    assert (facts["visible_suffix"], facts["infrared_suffix"]) == ("_RGB", "_T")
    assert facts["infrared_range"] == [7000, 9000]
    assert (facts["split"]["train"], facts["split"]["test"]) == (4, 2)


def test_without_suffixes_or_range_the_stages_refuse(root):
    for stage, options in ((audit.main, []), (prepare.main, ["--output", str(root.parent / "out")])):
        with pytest.raises(InputError, match=r"given for both bands.*try --visible-suffix=_RGB --infrared-suffix=_T"):
            stage([*FOLDERS, "--root", str(root), *options])
        with pytest.raises(InputError, match=r"16-bit samples.*--infrared-range LOW HIGH"):
            stage([*FOLDERS, "--root", str(root), *options, *BANDS[:2], "--split", "random", "--train=4", "--test=2"]
                  if options else [*FOLDERS, "--root", str(root), *BANDS[:2]])  # fmt: skip
    assert not (root.parent / "out").exists()


def test_the_detector_and_the_page_see_the_levels(root):
    split = prepared(root, *BANDS)
    for band, wanted in (("visible", None), ("infrared", [7000, 9000])):
        yaml = root.parent / band / "data.yaml"
        variant.main(
            ["--variant", band, "--prepared", str(split), "--images", str(root / "all"), "--output", str(yaml)]
        )
        data = read_data(yaml, "train")
        assert sorted(data.images) == ["a", "b", "c", "d"]
        assert data.digests().get("infrared_range") == wanted
        image = read_bgr(data.images["a"], 40, 48, data.infrared_range)
        stored = cv2.imread(str(root / "all/a_RGB.png"))
        assert np.array_equal(image, stored if band == "visible" else np.repeat(levels_of(root, "a")[..., None], 3, 2))
    pictures = read_pictures(read_split(split), {band: [root / "all"] for band in ("visible", "infrared")}, {})
    assert np.array_equal(pictures.image("infrared", "e"), levels_of(root, "e"))
    assert pictures.image("visible", "e").shape == (40, 48, 3)
    assert "Infrared: raw values 7000 to 9000 are mapped linearly to 0 to 255" in _split_note(
        _split_facts(read_split(split))
    )


def test_fused_images_and_metrics_are_those_of_the_levels_and_say_the_range(root):
    both = ["--visible", str(root / "all"), "--infrared", str(root / "all"), *BANDS]
    output = root.parent / "fused"
    fuse.main(["--method", "average", *both, "--output", str(output), "--colour", "grey"])
    assert sorted(path.name for path in output.glob("*.png")) == [f"{name}.png" for name in "abcdef"]
    visible = cv2.imread(str(root / "all/a_RGB.png"), cv2.IMREAD_GRAYSCALE)
    fused = cv2.imread(str(output / "a.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(fused - (visible / 2 + levels_of(root, "a") / 2)).max() <= 0.5
    assert json.loads(read_csv(output / "manifest.csv")[1]["infrared_range"]) == [7000, 9000]
    table = root.parent / "scores.csv"
    evaluate.main([*both, "--fused", str(output), "--output", str(table)])
    assert json.loads(read_csv(table)[1]["infrared_range"]) == [7000, 9000]
    # The infrared images in the place of fused ones: SSIM against themselves is 1, and the mean that of both sources.
    evaluate.main([*both, "--fused", str(root / "all"), "--fused-suffix=_T", "--output", str(table)])
    assert len(read_csv(table)[0]) == 6


@pytest.mark.parametrize("given", [["9000", "7000"], ["7000", "7000"], ["nan", "7000"]])
def test_a_range_that_is_none_is_refused(root, given):
    with pytest.raises(InputError, match="expected two raw values, the lower first"):
        audit.main([*FOLDERS, "--root", str(root), "--infrared-range", *given])


def test_suffixes_want_the_data_set_folders(root):
    with pytest.raises(InputError, match="--dataset m3fd has its own folders and classes"):
        audit.main(["--dataset", "m3fd", "--root", str(root), *BANDS])


def test_doubtful_bands_are_refused_or_warned_of(root):
    output = root.parent / "audit.json"
    apart = ["--dataset", "folders", "--classes", "car", "--root", str(root), "--output", str(output)]
    for name in "abc":
        grey = cv2.imread(str(root / f"all/{name}_RGB.png"), cv2.IMREAD_GRAYSCALE)
        for band, image in (("visible", grey), ("infrared", cv2.applyColorMap(255 - grey, cv2.COLORMAP_JET))):
            (root / band).mkdir(exist_ok=True)
            cv2.imwrite(str(root / band / f"{name}.png"), image)
        (root / f"labels/{name}.txt").write_text("0 0.5 0.5 0.2 0.2")
    for path in (root / "labels").glob("*_T.txt"):
        path.unlink()
    audit.main(apart)
    (doubt,) = json.loads(output.read_text())["warnings"]
    assert "3 of 3 infrared images inspected have colours" in doubt and "are the folders swapped?" in doubt
    for name in "abc":
        (root / f"infrared/{name}.png").write_bytes((root / f"visible/{name}.png").read_bytes())
    with pytest.raises(InputError, match="have the same pixels, as in all 3 pairs inspected"):
        audit.main(apart)
    with pytest.raises(InputError, match="have the same pixels, as in all 3 pairs inspected"):
        prepare.main([*apart[:-1], str(root.parent / "out"), "--split", "random", "--train", "2", "--test", "1"])
