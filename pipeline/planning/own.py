"""A method or metric of the user: its definition, and the files that determine its results.

It is defined as KIND=TARGET:

    folder=data/mine                                   existing fused images, one for each pair, by file stem
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
PLACEHOLDERS = ("{visible}", "{infrared}", "{output}")
WATCH_HELP = "further files and folders that your {} reads; their SHA-256 digests are recorded"
PACKAGES = ("pipeline", "fusion", "detection", "reports")  # packages of this project, which have revisions instead


@dataclass(frozen=True)
class OwnMethod:
    """A method or metric of the user.

    Attributes:
        kind: one of KINDS.
        target: the folder, `package.module:name`, file or command.
        watch: further files and folders that it reads, such as weights that a function loads itself.
    """

    kind: str
    target: str
    watch: tuple[Path, ...] = ()

    @property
    def is_onnx(self) -> bool:
        """Whether onnxruntime runs it."""
        return self.kind == "model" and self.target.lower().endswith(".onnx")


def parse_own(text: str, watch: Sequence[Path] = ()) -> OwnMethod:
    """Parse KIND=TARGET.

    Raises:
        InputError: the kind is unknown, the file or a watched file is missing, or the command lacks a placeholder.
    """
    kind, _, target = text.partition("=")
    if kind not in KINDS or not target:
        raise InputError(f"--own {text}: expected KIND=TARGET with a KIND of {', '.join(KINDS)}")
    if kind == "model" and not Path(target).is_file():
        raise InputError(f"--own {text}: {target} is not a file; expected an ONNX or a TorchScript file")
    if kind == "callable" and not all(part.isidentifier() for part in target.replace(":", ".").split(".")):
        raise InputError(f"--own {text}: expected callable=package.module:name")
    if kind == "command":
        missing = [place for place in PLACEHOLDERS if place not in target]
        if missing:
            raise InputError(
                f"--own {text} lacks {', '.join(missing)}; expected a command with {', '.join(PLACEHOLDERS)}"
            )
        command_words(target)
    own = OwnMethod(kind, target, tuple(watch))
    watched_files(own.watch)
    return own


def command_words(command: str) -> list[str]:
    """Split a command into words by the rules of a shell; raise InputError for an unclosed quote."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InputError(f"the command {command} cannot be split into words: {error}") from None


def source_files(own: OwnMethod) -> list[Path]:
    """Return the files that determine the results of an own method, sorted, without executing any of them.

    For a callable and for a Python program in a command, these are the source file and, transitively, the local modules
    that it imports; for a callable in a package, all modules of the package. For a model, these are the file and the
    external data files of an ONNX model. Watched files are included; the images of a folder are not.
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
    known = {path.resolve(): path for path in reversed(files)}  # a file with several paths counts once
    return [known[place] for place in sorted(known)]


def watched_files(watch: Iterable[Path]) -> list[Path]:
    """Return the files in `watch` and below its folders, without Python's bytecode files.

    Raises:
        InputError: a file or folder does not exist.
    """
    files = []
    for path in watch:
        if not path.exists():
            raise InputError(f"the watched path {path} does not exist; expected a file or a folder")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in inside if file.is_file() and "__pycache__" not in file.parts]
    return files


def external_data(model: Path) -> list[Path]:
    """Return the existing external data files of an ONNX file, which contain weights.

    An ONNX file is protobuf: each external tensor has an entry with the key `location` (field 1) and the name of the
    file (field 2). They are found by their encoding, so that no package is needed to read the file.
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
    relative = (Path(name) for name in sorted(names) if "\0" not in name and len(name) < 256)
    files = (model.parent / name for name in relative if not name.is_absolute() and ".." not in name.parts)
    return [file for file in files if file.is_file()]


def local_folders() -> list[Path]:
    """Return the folders on Python's path without the standard library and site-packages, working folder first."""
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
    # The working folder is first, as with `python -m`. Finding a module does not import it.
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return []
    if spec.origin is None:  # a folder of modules without __init__.py
        return _local_files([module], local_folders())
    file = Path(spec.origin)
    package = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else []
    names = [".".join(path.relative_to(file.parent.parent).with_suffix("").parts) for path in package]
    # All modules of the user's package count, because any may be imported by a name that is computed at run time.
    return [file, *package, *_local_files([module, *names], local_folders())]


def _local_files(names: Iterable[str], folders: Sequence[Path]) -> list[Path]:
    return list(closure(names, folders, lambda name: name.partition(".")[0] not in PACKAGES).values())
