"""Which modules a module imports, beside what the standard library's own finder says."""

from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from pipeline.planning.imports import closure, read_source

ROOT = Path(__file__).resolve().parents[3]


def everything(name):
    return True


def write(folder, files):
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("module", ["detection.audit", "detection.test", "detection.late", "fusion.evaluate"])
def test_it_finds_what_pythons_own_finder_finds(module):
    finder = ModuleFinder([str(ROOT)])
    finder.run_script(str(ROOT / f"{module.replace('.', '/')}.py"))
    wanted = {Path(found.__file__) for name, found in finder.modules.items() if found.__file__}
    assert set(closure([module], [ROOT], everything).values()) == wanted | {
        ROOT / module.partition(".")[0] / "__init__.py"
    }


def test_imports_of_every_form_are_followed_and_those_for_types_are_not(tmp_path):
    types = "if TYPE_CHECKING:\n    import types_only\nelse:\n    import f\n"
    late = "def f():\n    try:\n        import d\n    except ImportError:\n        from e import x\n"
    files = {
        "start": f"import a.b\nfrom c import value\n{late}{types}import numpy",
        "a/__init__": "from . import sibling",
        "a/b": "from .sibling import x\nfrom ..a import last",
        "a/last": "match 1:\n    case 1:\n        import g",
        "c": "with open() as file:\n    import h",
    }
    write(tmp_path, files | dict.fromkeys(["a/sibling", "d", "e", "f", "g", "h", "types_only", "never"], ""))
    found = closure(["start"], [tmp_path], everything)
    assert list(found) == ["a", "a.b", "a.last", "a.sibling", "c", "d", "e", "f", "g", "h", "start"]
    assert found["a"] == tmp_path / "a/__init__.py"
    assert "c" not in closure(["start"], [tmp_path], lambda name: name != "c")
    assert "h" not in closure(["start"], [tmp_path], lambda name: name != "c")


def test_the_first_folder_that_has_a_module_wins_and_a_circle_ends(tmp_path):
    write(tmp_path, {"one/x": "import y", "two/x": "import z", "two/y": "import x", "two/z": ""})
    found = closure(["x"], [tmp_path / "one", tmp_path / "two"], everything)
    assert found == {"x": tmp_path / "one/x.py", "y": tmp_path / "two/y.py"}


def test_of_a_file_that_is_no_python_only_its_bytes_are_known(tmp_path):
    write(tmp_path, {"broken": "import (", "null": "import a\0"})
    for name in ("broken", "null"):
        source = read_source(tmp_path / f"{name}.py")
        assert not source.imports and len(source.code) == 64
