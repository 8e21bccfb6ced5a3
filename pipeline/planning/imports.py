"""What a source file imports and reads, found without running it."""

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
    """What is known of a source file.

    code: the SHA-256 of its code; comments, docstrings and layout do not count.
    imports: each import as the number of dots, the module, and the names that are imported from it.
    beside: what it finds beside itself, by `Path(__file__).parent / NAME` or `Path(__file__).with_name(NAME)`.
    revision: its number REVISION, None where it has none.
    """

    code: str
    imports: Sequence[tuple[int, str, Sequence[str]]]
    beside: Sequence[str]
    revision: int | None


def closure(names: Iterable[str], folders: Sequence[Path], wanted: Callable[[str], bool]) -> dict[str, Path]:
    """Return the file of each module in `names` and of each that they import, transitively, by dotted name, sorted.

    Only modules in `folders` count; a module in none of them is passed over. Imports inside functions count, because
    they decide results like any other; those under `if TYPE_CHECKING:` do not. As in Python, a module brings the
    `__init__` of the packages that it is in.

    Args:
        names: dotted names of modules.
        folders: where top-level modules and packages lie, in the order in which Python would look.
        wanted: says by a module's name whether it is listed and followed; a package's name means its `__init__`.
    """
    listed = cache(_listed)  # of this call: files may come and go between two
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
        if wanted(name) and (file := find_module(name, folders, listed)):
            found[name] = file
            waiting += _imported(file, name if file.name == "__init__.py" else parent)
    return dict(sorted(found.items()))


def find_module(
    name: str, folders: Iterable[Path], listed: Callable[[str], Collection[str]] | None = None
) -> Path | None:
    """Return the file of a module in one of `folders`: a package's `__init__.py`, source, or a compiled extension.

    `listed` gives the names in a folder.
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
    """Return what is known of a source file; nothing of one that is no Python, as Python itself says more when run."""
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
    beside = list(_beside(tree)) if b"__file__" in content else ()
    return Source(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports, beside, revision)


def _imported(file: Path, package: str) -> Iterator[str]:
    """Yield the dotted names that a file in `package` may import; some are of things in a module."""
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
    """Yield the statements that may run, and take the docstrings out of the tree."""
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


def _beside(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(ast.Attribute(base, "parent"), ast.Div(), ast.Constant(str(name))) | ast.Call(
                ast.Attribute(base, "with_name"), [ast.Constant(str(name))]
            ) if any(isinstance(part, ast.Name) and part.id == "__file__" for part in ast.walk(base)):
                yield name
