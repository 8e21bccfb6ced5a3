"""Write and read results: atomic writes, JSON and CSV with metadata, and digests.

Every file is written through `replacing`, so that a reader never sees an incomplete file.
"""

import hashlib
import io
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import InputError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path in the folder of `path` to write to; rename it to `path` on success, remove it on failure.

    The yielded name has the extension of `path`, because image writers choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with naming(path):
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to errors of writing: the error of a failed write, for example on a full disk, names no file."""
    try:
        yield
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


@contextmanager
def only_writer(folder: Path, wait_s: float = 10.0) -> Iterator[None]:
    """Lock `folder` exclusively, so that a second run cannot write to it; create the folder if it is missing.

    The kernel releases the lock when the process and its forked processes have ended for any reason. Because they may
    still be ending, wait a little for the lock.

    Raises:
        InputError: another run still holds the lock after `wait_s` seconds.
    """
    import fcntl  # POSIX, as in pipeline.devices

    folder.mkdir(parents=True, exist_ok=True)
    handle, deadline = os.open(folder, os.O_RDONLY), time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InputError(f"{folder} is in use by another run; expected one run at a time") from None
                time.sleep(0.2)
                continue
            except OSError:  # a network file system without locks
                pass
            break
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # also unlocks the copies of the handle in forked processes
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN is written as null, since JSON has no NaN."""
    write_text(path, json.dumps(_without_nan(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_list(path: Path, values: Iterable[Any]) -> None:
    """Write a list as JSON, atomically, one item per line: this is ten times faster than Python's indented JSON.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    write_text(path, "[\n" + ",\n".join(map(encode, values)) + "\n]\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raise InputError if it is missing or invalid."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def write_csv(path: Path, frame: "pd.DataFrame", facts: Mapping[str, Any]) -> None:
    """Write `frame` as CSV, atomically, after one line `# key: value` for each of `facts`.

    NaN is written as `nan`. Values are written as JSON if they are not plain text or numbers, because a line break in a
    value would end its comment.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        for key, value in facts.items():
            plain = isinstance(value, (str, int, float)) and "\n" not in str(value) and "\r" not in str(value)
            file.write(f"# {key}: {value if plain else json.dumps(value, ensure_ascii=False)}\n")
        frame.to_csv(file, index=False, na_rep="nan", lineterminator="\n")


def read_csv(path: Path) -> tuple["pd.DataFrame", dict[str, str]]:
    """Read a CSV file written by `write_csv`: the frame (a column `name` as text) and its `#` facts as text.

    Raises:
        InputError: the file is missing, truncated or not CSV.
    """
    import pandas as pd  # here, because most stages read no table and the import takes a third of a second

    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from None
    facts = {}
    if text and not text.endswith("\n"):
        raise InputError(f"{path} is truncated: its last line has no line feed")
    while text.startswith("#"):
        line, _, text = text.partition("\n")
        key, _, value = line.lstrip("# ").partition(": ")
        facts[key] = value
    try:
        # Only numbers may be NaN: names such as `NA`, `nan` or `00042` are text.
        numbers = [column for column in pd.read_csv(io.StringIO(text), nrows=0).columns if column != "name"]
        frame = pd.read_csv(
            io.StringIO(text),
            dtype={"name": str},
            keep_default_na=False,
            na_values={column: ["nan", ""] for column in numbers},
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is not a table: {error}") from None
    return frame, facts


def relative(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder`, so that files that refer to each other can be moved together."""
    return Path(os.path.relpath(path, folder)).as_posix()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_lines(lines: Iterable[str]) -> str:
    """Return the SHA-256 of lines, each followed by a line feed; used for lists of names."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's JSON with sorted keys; used for settings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of the named packages, for provenance."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value
