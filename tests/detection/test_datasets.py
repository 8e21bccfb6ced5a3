import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from detection import audit, prepare
from detection.classes import LISTS
from detection.datasets import DATASETS, find_dataset
from detection.datasets.layout import LabelReader
from pipeline.planning.sources import CLASS_LISTS
from pipeline.stage import InputError


def test_classes_are_in_the_order_of_the_authors():
    assert DATASETS["m3fd"].classes == ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
    assert DATASETS["msrs"].classes == ("person", "bicycle", "car")


@pytest.mark.parametrize("name", DATASETS)
def test_layout_is_known_before_the_data_are_there(tmp_path, name):
    layout = DATASETS[name].layout(tmp_path / "later")
    for folders in (layout.visible, layout.infrared, layout.labels):
        assert folders and all(folder.is_relative_to(tmp_path / "later") for folder in folders)


@pytest.mark.parametrize("names", [("Vis", "Ir", "Annotation"), ("vi", "ir", "labels")])
def test_m3fd_is_found_under_the_common_names(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    layout = DATASETS["m3fd"].layout(tmp_path)
    assert tuple(folders[0].name for folders in (layout.visible, layout.infrared, layout.labels)) == names


def test_importing_the_data_sets_imports_no_network():
    heavy = "import sys, detection.datasets; sys.exit(any(m in sys.modules for m in ('torch', 'ultralytics')))"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0


def test_missing_label_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"no label file for image 'x' in .*; expected one, x\.xml or x\.txt"):
        LabelReader(DATASETS["m3fd"], tmp_path).read("x", 96, 64)


def test_two_label_files_of_an_image_are_an_error(tmp_path):
    (tmp_path / "Annotation").mkdir()
    (tmp_path / "Annotation" / "x.xml").touch()
    (tmp_path / "Annotation" / "x.TXT").touch()
    with pytest.raises(InputError, match=r"x\.xml and .*x\.TXT for image 'x'"):
        LabelReader(DATASETS["m3fd"], tmp_path).read("x", 96, 64)


def test_a_list_of_classes_that_contradicts_the_data_set_is_refused(tmp_path):
    for place in ("train/labels", "test/labels"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "train/labels/x.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("Person\nBicycle\nCar\n")
    boxes, _ = LabelReader(DATASETS["msrs"], tmp_path).read("x", 96, 64)
    assert [box.name for box in boxes] == ["bicycle"]
    (tmp_path / "classes.txt").write_text("person\ncar\nbicycle\n")
    with pytest.raises(
        InputError, match=r"classes\.txt numbers the classes 0 person, 1 car, .* read with 0 person, 1 bic"
    ):
        LabelReader(DATASETS["msrs"], tmp_path).read("x", 96, 64)


def test_llvip_is_read_from_its_own_folders(tmp_path, m3fd):
    for band, folder in (("visible", "Vis"), ("infrared", "Ir")):
        for number, path in enumerate(sorted((m3fd / folder).iterdir())):
            place = tmp_path / "LLVIP" / band / ("test" if number < 2 else "train") / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
    (m3fd / "Annotation").rename(tmp_path / "LLVIP" / "Annotations")
    for path in (tmp_path / "LLVIP" / "Annotations").iterdir():
        path.write_text(path.read_text().replace("People", "person").replace("Car", "Person"))
    audit.main(["--root", str(tmp_path / "LLVIP"), "--output", str(tmp_path / "audit.json")])
    facts = json.loads((tmp_path / "audit.json").read_text())
    assert (facts["dataset"], facts["pairs"], facts["boxes_per_class"]) == ("llvip", 6, {"person": 6})
    train, test = DATASETS["llvip"].own_split(tmp_path / "LLVIP")
    assert (len(train), test) == (4, ["00000", "00001"])


def test_classes_for_a_data_set_that_has_its_own_are_refused():
    with pytest.raises(InputError, match="--dataset m3fd has its own folders and classes"):
        find_dataset("m3fd", ["a"])
    with pytest.raises(InputError, match="expected at least one class, each once"):
        find_dataset("folders", ["a", "A"])


GUIDE = Path(__file__).parents[2] / "docs" / "own-dataset.md"


@pytest.fixture
def mine(m3fd, tmp_path, monkeypatch):
    """A data set laid out as docs/own-dataset.md has it, with the working folder above it."""
    root = tmp_path / "data" / "mine"
    root.mkdir(parents=True)
    for folder, name in (("Vis", "rgb"), ("Ir", "thermal"), ("Annotation", "boxes")):
        (m3fd / folder).rename(root / name)
    for path in (root / "boxes").iterdir():
        path.write_text(path.read_text().replace("People", "person"))
    monkeypatch.chdir(tmp_path)
    return root


def examples(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_commands_of_the_guide_run(mine):
    (commands,) = examples("sh")
    for line in commands.splitlines():
        _, _, module, *options = shlex.split(line)
        {"detection.audit": audit, "detection.prepare": prepare}[module].main(options)
    assert json.loads(Path("results/mine/audit.json").read_text())["boxes_per_class"] == {"person": 3, "car": 3}
    facts = json.loads(Path("results/mine/split/dataset.json").read_text())
    assert facts["classes"] == ["person", "car"] and facts["visible"] == ["../../../data/mine/rgb"]


def test_planning_watches_the_lists_of_classes_that_are_read():
    assert CLASS_LISTS == LISTS


def test_the_configuration_of_the_guide_is_that_of_its_commands(mine):
    text = examples("yaml")[0]
    settings = yaml.safe_load(text)["dataset"]
    layout = find_dataset(*(settings[key] for key in ("name", "classes", "visible", "infrared", "labels"))).layout(mine)
    assert (layout.visible, layout.infrared, layout.labels) == ((mine / "rgb",), (mine / "thermal",), (mine / "boxes",))


def test_the_file_of_the_guide_is_a_data_set(mine, monkeypatch):
    (source,) = examples("python")
    scope = {}
    exec(source, scope)
    monkeypatch.setitem(DATASETS, "mine", scope["MINE"])
    (mine / "train.txt").write_text("00000\n00001\n")
    (mine / "test.txt").write_text("00002\n")
    prepare.main(["--dataset", "mine", "--root", "data/mine", "--output", "out"])
    assert json.loads(Path("out/conditions.json").read_text())["images"]["00002"] == "day"
