"""Run jobs again when their code changes: a digest of code for cheap rules, a revision number for expensive ones.

A cheap rule, which takes seconds, has in its params the digest of its module, of all project modules that it imports,
and of the data files that these read. Comments, docstrings and layout do not change the digest.

Trainings, fusing and the generated images have a number REVISION instead, which is increased manually when the same
options would give another result; with a digest, every edit would repeat all trainings. For the same reason, the rules
whose output a training depends on, `prepare_split` and `describe_variant`, have a digest `within` their package: the
packages below are edited often, and mostly in their messages.

The table of methods is not part of a digest. The revisions of the methods are in the params as numbers, and a rule that
runs one method names the module of that method itself.
"""

import hashlib
from pathlib import Path

from pipeline.planning.imports import closure, find_module, read_source

ROOT = Path(__file__).resolve().parents[2]
IGNORED = ("fusion.methods",)


def revision(module: str, root: Path = ROOT) -> int:
    """Return the number REVISION of a module, without importing it."""
    file = find_module(module, [root])
    number = read_source(file).revision if file else None
    if number is None:
        raise LookupError(f"{module} has no REVISION")
    return number


def digest(*modules: str, within: str = "", root: Path = ROOT) -> str:
    """Return the digest, 12 hexadecimal digits, of modules and of the project modules that they import.

    Args:
        modules: dotted names, such as `detection.test`.
        within: restrict imported modules to this package, such as `detection`; by default to the whole project.
        root: the folder of the packages.
    """
    known = closure(modules, [root], lambda name: name not in IGNORED and name.startswith(within))
    if missing := set(modules) - set(known):
        raise LookupError(f"not modules of the project: {sorted(missing)}")
    state = hashlib.sha256()
    for name, file in known.items():
        source = read_source(file)
        state.update(f"{name} {source.code}\n".encode())
        for place in (file.parent / name for name in source.data):
            for data in sorted(path for path in (place, *place.rglob("*")) if path.is_file()):
                state.update(f"{data.relative_to(root)} {hashlib.sha256(data.read_bytes()).hexdigest()}\n".encode())
    return state.hexdigest()[:12]
