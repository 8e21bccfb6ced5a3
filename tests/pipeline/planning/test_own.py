"""The files that decide what a method or metric of the user's own computes, found without running any."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.planning.own import OwnMethod, external_data, parse_own, source_files
from pipeline.stage import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, and a function that writes modules into it."""
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('0', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def names(own):
    return [path.resolve().relative_to(Path.cwd()).as_posix() for path in source_files(own)]


def test_a_callables_local_modules_are_watched_transitively_and_installed_ones_are_not(folder):
    folder(
        mine="import numpy\nimport torch\nfrom helper import blur\nfrom fusion.metrics import ssim",
        helper="def blur():\n    from parts0deep import x\n    import parts.deep",
        parts0__init__="",
        parts0deep="from . import shallow",
        parts0shallow="",
        unrelated="",
    )
    wanted = ["helper.py", "mine.py", "parts/__init__.py", "parts/deep.py", "parts/shallow.py"]
    assert names(OwnMethod("callable", "mine:fuse")) == wanted


def test_all_of_a_package_is_watched_and_what_it_imports_beside_it(folder):
    folder(mine0__init__="", mine0fuse="import helper", mine0plugins0blur="", helper="", other="")
    (Path("mine") / "table.csv").touch()
    assert names(OwnMethod("callable", "mine.fuse:fuse")) == [
        *("helper.py", "mine/__init__.py", "mine/fuse.py", "mine/plugins/blur.py")
    ]


def test_a_folder_of_modules_without_init_is_found(folder):
    folder(loose0fuse="from loose import helper", loose0helper="", loose0other="")
    assert names(OwnMethod("callable", "loose.fuse:fuse")) == ["loose/fuse.py", "loose/helper.py"]


def test_a_module_beside_the_callable_elsewhere_is_watched(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far.py").write_text("import beside")
    (elsewhere / "beside.py").touch()
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    assert source_files(OwnMethod("callable", "far:fuse")) == [elsewhere / "beside.py", elsewhere / "far.py"]


def test_an_installed_package_is_watched_and_what_it_imports_is_not(folder):
    files = source_files(OwnMethod("callable", "yaml:safe_load"))
    assert {path.name for path in files} > {"__init__.py", "loader.py"}
    assert {path.parent.name for path in files} == {"yaml"}
    assert source_files(OwnMethod("callable", "nosuchmodule:fuse")) == []


def test_a_program_is_watched_with_what_it_imports_beside_it(folder):
    folder(tools0fuse="import helper", tools0helper="", helper="")
    own = parse_own("command=python tools/fuse.py --strong {visible} {infrared} {output}")
    assert names(own) == ["tools/fuse.py", "tools/helper.py"]


def test_what_is_named_to_be_watched_is_watched_whole(folder):
    folder(mine="")
    for name in ("weights/a.pth", "weights/deep/b.pth", "weights/__pycache__/c.pyc", "table.csv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    own = parse_own("callable=mine:fuse", [Path("weights"), Path("table.csv"), Path("mine.py")])
    assert names(own) == ["mine.py", "table.csv", "weights/a.pth", "weights/deep/b.pth"]
    with pytest.raises(InputError, match="the watched path gone does not exist; expected a file or a folder"):
        parse_own("callable=mine:fuse", [Path("gone")])


@pytest.mark.parametrize("location", ["mean.onnx.data", "w" * 200 + ".bin", "other/weights.bin"])
def test_an_onnx_files_external_data_is_watched(folder, location):
    onnx = pytest.importorskip("onnx")
    from onnx import external_data_helper, helper, numpy_helper

    values = numpy_helper.from_array(np.arange(64, dtype=np.float32), "values")
    shape = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64])
    graph = helper.make_graph([helper.make_node("Add", ["x", "values"], ["y"])], "g", [shape], [shape], [values])
    Path(location).parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph), "mean.onnx", save_as_external_data=True, location=location, size_threshold=0)
    model = onnx.load("mean.onnx", load_external_data=False)
    (tensor,) = [tensor for tensor in model.graph.initializer if external_data_helper.uses_external_data(tensor)]
    assert external_data_helper.ExternalDataInfo(tensor).location == location
    assert external_data(Path("mean.onnx")) == [Path(location)]
    assert names(parse_own("model=mean.onnx")) == sorted(["mean.onnx", location])
    Path(location).unlink()
    assert external_data(Path("mean.onnx")) == []


def test_a_location_outside_the_models_folder_is_passed_over(folder, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "secret").touch()
    for name in ("../secret", str(tmp_path / "secret"), "\0"):
        entry = b"\x0a\x08location\x12" + bytes([len(name)]) + name.encode()
        (tmp_path / "deep/mean.onnx").write_bytes(entry)
        assert external_data(tmp_path / "deep/mean.onnx") == []
