import subprocess
import sys

import pytest

from detection.datasets import DATASETS
from detection.datasets.layout import find_labels
from fusion.stage import InputError


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
    with pytest.raises(InputError, match=r"no label file for image 'x' in .*; wanted one, x\.xml or x\.txt"):
        find_labels((tmp_path,), "x")


def test_two_label_files_of_an_image_are_an_error(tmp_path):
    (tmp_path / "x.xml").touch()
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match=r"x\.xml and .*x\.txt for image 'x'"):
        find_labels((tmp_path,), "x")
