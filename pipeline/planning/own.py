"""A method or metric of the user's own: how it is named, and the files that decide what it computes.

Written as KIND=TARGET:

    folder=data/mine                                   fused images already made, one for each pair, by file stem
    callable=package.module:name                       visible, infrared -> fused, or a torch.nn.Module
    model=mine.onnx, model=mine.pt                     ONNX, or TorchScript
    command=prog --flag {visible} {infrared} {output}  a program that reads two images and writes one
"""

import re
import shlex
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from pipeline.planning.imports import closure
from pipeline.stage import InputError

KINDS = ("folder", "callable", "model", "command")
PLACES = ("{visible}", "{infrared}", "{output}")
WATCH_HELP = "files and folders that your own code reads besides; their digests are recorded with those of the code"
PACKAGES = ("pipeline", "fusion", "detection", "reports")  # this project's, which have revisions instead


@dataclass(frozen=True)
class Own:
    """A method of the user's own.

    kind: one of KINDS.
    target: the folder, `package.module:name`, file or command.
    watch: files and folders that it reads besides, such as weights that a function loads itself.
    """

    kind: str
    target: str
    watch: tuple[Path, ...] = ()

    @property
    def is_onnx(self) -> bool:
        """Whether onnxruntime runs it."""
        return self.kind == "model" and self.target.lower().endswith(".onnx")


def parse_own(text: str, watch: Sequence[Path] = ()) -> Own:
    """Read KIND=TARGET.

    Raises:
        InputError: the kind is unknown, the file or something watched is missing, or the command lacks a place.
    """
    kind, _, target = text.partition("=")
    if kind not in KINDS or not target:
        raise InputError(f"--own {text}: wanted KIND=TARGET with a KIND of {', '.join(KINDS)}")
    if kind == "model" and not Path(target).is_file():
        raise InputError(f"--own {text}: {target} is not a file; wanted an ONNX or a TorchScript file")
    if kind == "callable" and not all(part.isidentifier() for part in target.replace(":", ".").split(".")):
        raise InputError(f"--own {text}: wanted callable=package.module:name")
    if kind == "command":
        missing = [place for place in PLACES if place not in target]
        if missing:
            raise InputError(f"--own {text} lacks {', '.join(missing)}; wanted a command with {', '.join(PLACES)}")
        command_words(target)
    own = Own(kind, target, tuple(watch))
    watched_files(own.watch)
    return own


def command_words(command: str) -> list[str]:
    """Split a command into its words as a shell would, without running one; InputError for an open quote."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InputError(f"the command {command} cannot be split into words: {error}") from None


def source_files(own: Own) -> list[Path]:
    """Return the files that decide what an own method computes, sorted, without running any of them.

    Of a callable and of a Python program in a command: the source and, transitively, the local modules that it imports;
    of a callable in a package, all of the package. Of a model: the file, and the files that an ONNX file keeps its
    weights in. Whatever is watched. A folder's images are not among them.
    """
    files = watched_files(own.watch)
    if own.kind == "callable":
        files += _callable_files(own.target.partition(":")[0])
    elif own.kind == "model":
        files += [Path(own.target), *(external_data(Path(own.target)) if own.is_onnx else [])]
    elif own.kind == "command":
        for path in (Path(word) for word in command_words(own.target)):
            if path.is_file():
                files.append(path)
                if path.suffix == ".py":
                    files += _local_files([path.stem], [path.parent, *local_folders()[1:]])
    known = {path.resolve(): path for path in reversed(files)}  # a file that is reached in two ways counts once
    return [known[place] for place in sorted(known)]


def watched_files(watch: Iterable[Path]) -> list[Path]:
    """Return the files in `watch` and in its folders, without those that Python compiles.

    Raises:
        InputError: there is no such file or folder.
    """
    files = []
    for path in watch:
        if not path.exists():
            raise InputError(f"{path} is to be watched and does not exist; wanted a file or a folder")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in inside if file.is_file() and "__pycache__" not in file.parts]
    return files


def external_data(model: Path) -> list[Path]:
    """Return the files beside an ONNX file that it keeps weights in, as far as they are there.

    The file is protobuf: each tensor that lies elsewhere has an entry of key `location` (field 1) and the file's name
    (field 2), which are found as they are encoded, so that no package is needed to read them.
    """
    try:
        content = model.read_bytes()
    except OSError:
        return []
    names = set()
    for match in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]?[\x00-\x7f])", content):
        low, *high = match[1]
        length = low % 128 + 128 * sum(high)
        names.add(content[match.end() : match.end() + length].decode(errors="replace"))
    beside = (Path(name) for name in sorted(names) if "\0" not in name and len(name) < 256)
    files = (model.parent / name for name in beside if not name.is_absolute() and ".." not in name.parts)
    return [file for file in files if file.is_file()]


def local_folders() -> list[Path]:
    """Return the folders that Python imports from and nothing is installed into, the working folder first."""
    library = Path(sysconfig.get_path("stdlib")).resolve()
    folders = [Path.cwd(), *(Path(folder).resolve() for folder in sys.path if folder)]
    return [
        folder
        for folder in dict.fromkeys(folders)
        if folder.is_dir()
        and not {"site-packages", "dist-packages"} & set(folder.parts)
        and library not in (folder, *folder.parents)
    ]


def _callable_files(module: str) -> list[Path]:
    top = module.partition(".")[0]
    # The working folder first, as `python -m` has it; finding imports nothing.
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return []
    if spec.origin is None:  # a folder of modules without __init__.py
        return _local_files([module], local_folders())
    file = Path(spec.origin)
    package = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else []
    names = [".".join(path.relative_to(file.parent.parent).with_suffix("").parts) for path in package]
    # Of a package of the user's each module is watched: it may be imported by a name that is made up when it runs.
    return [file, *package, *_local_files([module, *names], local_folders())]


def _local_files(names: Iterable[str], folders: Sequence[Path]) -> list[Path]:
    return list(closure(names, folders, lambda name: name.partition(".")[0] not in PACKAGES).values())
