"""Find the modules that a source file imports and the data files that it reads, without executing it."""

import ast
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class Source:
    """Properties of a source file.

    Attributes:
        code: the SHA-256 of its code, without comments, docstrings and layout.
        imports: each import as the number of dots, the module, and the names that are imported from it.
        data: the names of files and folders next to it that it refers to, by `Path(__file__).parent / NAME` or
            `Path(__file__).with_name(NAME)`.
        revision: its number REVISION, None if it has none.
    """

    code: str
    imports: Sequence[tuple[int, str, Sequence[str]]]
    data: Sequence[str]
    revision: int | None


def closure(names: Iterable[str], folders: Sequence[Path], included: Callable[[str], bool]) -> dict[str, Path]:
    """Return the files of the modules in `names` and of all modules that they import, by dotted name, sorted.

    Imports are followed transitively. Modules outside `folders` are ignored. Imports inside functions count, because
    they affect results like any other; imports under `if TYPE_CHECKING:` do not. As in Python, importing a module also
    imports the `__init__` of its packages.

    Args:
        names: dotted names of modules.
        folders: the folders of top-level modules and packages, in Python's search order.
        included: returns for the name of a module whether to list and follow it; the name of a package means its
            `__init__`.
    """
    listed = cache(_listed)  # for this call only, because files may change between two calls
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        waiting.append(parent)
        if included(name) and (file := find_module(name, folders, listed)):
            found[name] = file
            waiting += _imported(file, name if file.name == "__init__.py" else parent)
    return dict(sorted(found.items()))


def find_module(
    name: str, folders: Iterable[Path], listed: Callable[[str], Collection[str]] | None = None
) -> Path | None:
    """Return the file of a module in one of `folders`: a package's `__init__.py`, a source file or an extension module.

    `listed` returns the names in a folder.
    """
    *parents, last = name.split(".")
    listed = listed or _listed
    for folder in folders:
        place = os.path.join(folder, *parents)  # noqa: PTH118
        inside = listed(place)
        if last in inside and "__init__.py" in listed(f"{place}/{last}"):
            return Path(place, last, "__init__.py")
        for ending in (".py", *EXTENSION_SUFFIXES):
            if f"{last}{ending}" in inside:
                return Path(place, f"{last}{ending}")
    return None


def read_source(file: Path) -> Source:
    """Return the properties of a source file; without imports if it is not valid Python (running it will say so)."""
    return _read_source(file, file.stat().st_mtime_ns)


@cache
def _read_source(file: Path, changed: int) -> Source:
    content = file.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Source(hashlib.sha256(content).hexdigest(), (), (), None)
    imports, revision = [], None
    for statement in _statements(tree):
        match statement:
            case ast.Import(aliases):
                imports += [(0, alias.name, ()) for alias in aliases]
            case ast.ImportFrom(module, aliases, level):
                imports.append((level, module or "", [alias.name for alias in aliases]))
            case ast.Assign([ast.Name("REVISION")], ast.Constant(int(number))):
                revision = number
    data = list(_data_names(tree)) if b"__file__" in content else ()
    return Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports, data, revision)


def _imported(file: Path, package: str) -> Iterator[str]:
    """Yield the dotted names that a file in `package` may import; some are names inside modules, not modules."""
    for level, module, names in read_source(file).imports if file.suffix == ".py" else ():
        parents = package.split(".") if level else []
        base = ".".join([*parents[: len(parents) - level + 1], *([module] if module else [])])
        yield base
        yield from (f"{base}.{name}" for name in names)


def _listed(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return frozenset()


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that may be executed, and remove the docstrings from the tree."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        for block in BLOCKS:
            statements = getattr(node, block, None)
            if not isinstance(statements, list) or (block == "body" and _is_for_types(node)):
                continue
            match statements:
                case [ast.Expr(ast.Constant(str())), *_]:
                    del statements[0]
            yield from statements
            waiting += statements


def _is_for_types(node: ast.AST) -> bool:
    test = getattr(node, "test", None)
    return isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def _data_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names in `Path(__file__).parent / NAME` and `Path(__file__).with_name(NAME)`."""
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(ast.Attribute(base, "parent"), ast.Div(), ast.Constant(str(name))) | ast.Call(
                ast.Attribute(base, "with_name"), [ast.Constant(str(name))]
            ) if any(isinstance(part, ast.Name) and part.id == "__file__" for part in ast.walk(base)):
                yield name
