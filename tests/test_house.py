"""The packages stand on floors, imports run in no circle, and each thing is defined once."""

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("pipeline", "fusion", "detection", "reports")  # each imports from those before it


def modules() -> dict[str, Path]:
    """Return every module of the project by its dotted name."""
    found = {}
    for package in FLOORS:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()
TREES = {name: ast.parse(file.read_text("utf-8")) for name, file in MODULES.items()}


def imports(tree: ast.AST) -> set[str]:
    """Return the project's modules that a module imports, also late, in functions, and for types only."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                # `from package import module` imports the module, `from module import name` the module alone.
                inner = {f"{module}.{alias.name}" for alias in names} & MODULES.keys()
                found |= inner if len(inner) == len(names) else {module, *inner}
    return found & MODULES.keys()


IMPORTS = {name: imports(tree) for name, tree in TREES.items()}


def test_imports_run_in_no_circle():
    try:
        list(TopologicalSorter(IMPORTS).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_no_floor_imports_from_one_above():
    floor = {name: FLOORS.index(name.partition(".")[0]) for name in MODULES}
    wrong = [f"{name} imports {other}" for name in MODULES for other in IMPORTS[name] if floor[other] > floor[name]]
    assert wrong == []


def test_imports_are_read_as_python_resolves_them():
    tree = ast.parse(
        "def late():\n    from fusion.fnet import lzsc\n    from pipeline.stage import run\n    import numpy"
    )
    assert imports(tree) == {"fusion.fnet.lzsc", "pipeline.stage"}


def names_in(tree: ast.Module) -> set[str]:
    """Return what a module defines at its top level."""
    found = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("holm", "relative", "tiled", "spans", "merge", "connect", "HALF", "compiled", "replacing"),
        *("sobel", "similarity", "stage1_loss", "stage2_loss", "threshold", "find_pairs", "split_pair"),
    ],
)
def test_each_thing_is_defined_once(name):
    assert len([module for module, tree in TREES.items() if name in names_in(tree)]) == 1


def test_no_function_stands_twice():
    places = defaultdict(list)
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not isinstance(node.body[0], ast.Pass):
                body = [part for part in node.body if not re.match(r"Expr\(value=Constant", ast.dump(part))]
                text = ast.dump(ast.Module([*body], [])) + ast.dump(node.args)
                if sum(isinstance(part, ast.stmt) for part in ast.walk(ast.Module(body, []))) > 3:
                    places[text].append(f"{module}.{node.name}")
    assert [names for names in places.values() if len(names) > 1] == []
