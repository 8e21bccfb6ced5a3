"""What makes a job run again when the code changes: a digest for cheap rules, a number for expensive ones.

A cheap rule, of seconds, has in its params the digest of its module and of all project modules that this imports, with
the data files that they read. Comments, docstrings and layout do not count.

Trainings, fusing and the generated scenes have a number REVISION instead, raised by hand when the same options would
give another result: by a digest every edit would train everything again. For the same reason the rules whose output a
training depends on, `prepare_split` and `describe_variant`, have a digest `within` their package: the ground below is
edited often, and mostly in how it reports.

The table of methods is passed over: what decides of it, the methods' revisions, is in the params as numbers, and a rule
that runs one method names that method's module itself.
"""

import hashlib
from pathlib import Path

from pipeline.planning.imports import closure, find_module, read_source

ROOT = Path(__file__).resolve().parents[2]
PASSED_OVER = ("fusion.methods",)


def revision(module: str, root: Path = ROOT) -> int:
    """Return the number REVISION of a module, without importing it."""
    file = find_module(module, [root])
    number = read_source(file).revision if file else None
    if number is None:
        raise LookupError(f"{module} has no REVISION")
    return number


def digest(*modules: str, within: str = "", root: Path = ROOT) -> str:
    """Return the digest, 12 hexadecimal digits, of modules and of what they import of the project.

    Args:
        modules: dotted names, such as `detection.test`.
        within: the package that counts, `detection` say; the whole project by default.
        root: the folder of the packages.
    """
    known = closure(modules, [root], lambda name: name not in PASSED_OVER and name.startswith(within))
    if missing := set(modules) - set(known):
        raise LookupError(f"no modules of the project: {sorted(missing)}")
    state = hashlib.sha256()
    for name, file in known.items():
        source = read_source(file)
        state.update(f"{name} {source.code}\n".encode())
        for place in (file.parent / name for name in source.beside):
            for data in sorted(path for path in (place, *place.rglob("*")) if path.is_file()):
                state.update(f"{data.relative_to(root)} {hashlib.sha256(data.read_bytes()).hexdigest()}\n".encode())
    return state.hexdigest()[:12]
