"""The benchmark at M3FD's scale: its stand-ins pass for a data set, and every stage runs on them."""

import importlib

import m3fd_scale as scale
import numpy as np
import pytest

from detection.datasets import find_dataset
from detection.datasets.layout import LabelReader
from pipeline.artefacts import read_json, write_json
from pipeline.pairs import read_image

CLASSES = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
NAMES = [f"{number:05}" for number in range(0, 4200, 105)]
SIZES = [(128, 96), (96, 64)]


def boxes_of(rng):
    """Return COCO boxes of forty of M3FD's names, a few in each image."""
    images = [
        {"id": n, "file_name": f"{name}.png", "width": SIZES[n % 2][0], "height": SIZES[n % 2][1]}
        for n, name in enumerate(NAMES, 1)
    ]
    places = [(image["id"], *rng.integers(0, 40, 2), *rng.integers(8, 24, 2)) for image in images for _ in range(4)]
    annotations = [
        {"id": n, "image_id": image, "category_id": 1 + n % 6, "bbox": list(map(int, box)), "area": 1, "iscrowd": 0}
        for n, (image, *box) in enumerate(places, 1)
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
    }


@pytest.fixture
def done(tmp_path, rng, monkeypatch):
    """The folder of the benchmark, its stages run within this process."""

    def run(module, *options, log):
        importlib.import_module(module).main(list(map(str, options)))
        return 1.0, 2.0, 3.0

    monkeypatch.setattr(scale.load, "run", run)
    write_json(tmp_path / "boxes.json", boxes_of(rng))
    scale.main(
        [
            *("--boxes", str(tmp_path / "boxes.json"), "--work", str(tmp_path), "--json", str(tmp_path / "cost.json")),
            *("--split", "random", "--methods", "fnet", "--seeds", "0"),
        ]
    )
    return tmp_path


def test_stand_ins_pass_the_audit_and_every_stage_runs(done):
    audit = read_json(done / "audit.json")
    assert (audit["pairs"], audit["boxes"], audit["errors"], audit["warnings"]) == (40, 160, [], [])
    assert audit["duplicate_counts"]["near"] == audit["duplicate_counts"]["same"] == 0
    assert audit["sizes"] == {"128x96": 20, "96x64": 20}
    costs = read_json(done / "cost.json")
    assert {stage: cost["runs"] for stage, cost in costs["stages"].items()} == {
        **dict.fromkeys(("audit", "prepare random", "prepare scene-blocked"), 1),
        **{"describe variants": 3, "make up and score detections": 3, "pool boxes": 1, "list objects": 1},
        **dict.fromkeys(("sort errors", "test differences", "build table 2", "build error table"), 1),
        **dict.fromkeys(("build fusion table", "build page"), 1),
    }
    assert costs["stages"]["pool boxes"]["processor_s"] == 2.0
    table = (done / "tables" / "table2.csv").read_text(encoding="utf-8")
    assert "Average_paper" in table and "late" in table
    assert (done / "report.html").stat().st_size > 1e5


def test_placeholder_has_its_size_and_the_colours_of_its_palette(tmp_path, rng):
    palette = rng.integers(0, 256, (256, 3), np.uint8)
    file = tmp_path / "a.png"
    file.write_bytes(scale.placeholder(64, 48, palette))
    image = read_image(file)
    assert image.shape == (48, 64, 3)
    np.testing.assert_array_equal(image[1::3, 1::4].reshape(-1, 3), palette)


def test_boxes_come_back_from_the_labels_as_they_were(tmp_path, rng):
    truth = boxes_of(rng)
    scale.lay_out(truth, tmp_path)
    reader = LabelReader(find_dataset("m3fd"), tmp_path)
    boxes, doubts = reader.read(NAMES[3], *SIZES[0])
    expected = [(CLASSES[a["category_id"] - 1], a["bbox"]) for a in truth["annotations"] if a["image_id"] == 4]
    found = [(box.name, [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]) for box in boxes]
    assert found == expected and doubts == []


def test_kept_splits_are_prepared_where_all_names_are_there():
    names = [f"{number:05}" for number in range(4200)]
    assert {"m3fd-scenes", "zx", "e2e-mfd", "rgbxfusion", "random-3800-400"} < set(scale.split_options(names))
    assert set(scale.split_options(NAMES)) == {"random", "scene-blocked"}
