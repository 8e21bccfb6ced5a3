"""Class names and the order in which label files number them: of a data.yaml, and of the lists beside labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.stage import InputError

LISTS = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")  # in the folder of labels, or in one above it


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that describes data: a mapping with the key `names`.

    Raises:
        InputError: the file is missing, no YAML, or lacks the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; wanted a data.yaml") from None
    except (UnicodeDecodeError, ValueError, yaml.YAMLError) as error:  # a ValueError: a date that is none
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f"{path} has no key `names`; wanted a data.yaml")
    return content


def names_of(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Return the class names of a data.yaml in the order of their numbers.

    A mapping has the keys 0 to n - 1, in any order.

    Raises:
        InputError: `names` is no list and no such mapping, holds something else than words, or one twice; `nc` is
            another number than that of the names.
    """
    names = content["names"]
    if isinstance(names, dict):
        numbers = {_number(key): value for key, value in names.items()}
        if sorted(numbers, key=str) != sorted(range(len(names)), key=str):
            raise InputError(
                f"{path}: `names` has the keys {_some(names)}; wanted 0 to {len(names) - 1}, each once: labels number "
                "classes from 0 without gaps"
            )
        names = [numbers[index] for index in range(len(names))]
    if not isinstance(names, list):
        raise InputError(f"{path}: `names` is no list; wanted the classes in their order")
    # Nothing deeper is taken as text: aliases in YAML make a small file an endless one. YAML reads no and off as false.
    if not all(isinstance(name, (str, int, float)) and not isinstance(name, bool) for name in names):
        raise InputError(f"{path}: `names` holds something else than words; wanted class names, no, yes and off quoted")
    found = tuple(map(str, names))
    if len({name.strip().casefold() for name in found}) < len(found):
        raise InputError(f"{path}: `names` has a class twice: {_some(found)}; wanted each once")
    count = content.get("nc")
    if count is not None and (isinstance(count, bool) or count != len(found)):
        said = count if isinstance(count, (int, float)) else "no number"
        raise InputError(f"{path}: `nc` is {said}, `names` has {len(found)}; wanted the same number")
    return found


def stated_order(folder: Path, root: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Return the list of class names that a label tool wrote beside YOLO labels, and its names; None without one.

    Looked for in the folder of the labels and in those above it, up to the data set's root.

    Raises:
        InputError: the list cannot be read.
    """
    above = [place for place in folder.parents if place.is_relative_to(root)]
    for place in (folder, *above):
        for name in LISTS:
            path = place / name
            if not path.is_file():
                continue
            if path.suffix == ".yaml":
                content = read_yaml(path)
                if "images" in content:  # a variant's, whose names are in the data set's order
                    continue
                return path, names_of(content, path)
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is not text: {error}; wanted UTF-8") from None
            return path, tuple(line.strip() for line in lines if line.strip())
    return None


def check_order(path: Path, stated: Sequence[str], numbered: Sequence[str]) -> None:
    """Raise InputError where the list `path` states another order than that by which labels will be read."""
    if [name.casefold() for name in stated] != [name.casefold() for name in numbered]:
        raise InputError(
            f"{path} numbers the classes {numbered_names(stated)}; labels would be read by {numbered_names(numbered)}: "
            "wanted one order: state it by --classes (in the configuration dataset: classes), or correct the file"
        )


def numbered_names(names: Sequence[str]) -> str:
    """Return names as a message shows their numbers: 0 person, 1 car."""
    return ", ".join(f"{number} {name}" for number, name in enumerate(names))


def _number(key: Any) -> Any:
    if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 9:
        return int(key)
    return str(key) if isinstance(key, (bool, float)) else key


def _some(values: Any) -> str:
    text = ", ".join(repr(value)[:40] for value, _ in zip(values, range(12), strict=False))
    return text + (", ..." if len(values) > 12 else "")
