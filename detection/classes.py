"""Class names and the order in which label files number them, from a data.yaml or from a list next to the labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.stage import InputError

LISTS = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")  # in the folder of labels, or in one above it


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that describes data: a mapping with the key `names`.

    Raises:
        InputError: the file is missing, not YAML, or lacks the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a data.yaml") from None
    except (UnicodeDecodeError, ValueError, yaml.YAMLError) as error:  # an impossible date raises a ValueError
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f"{path} has no key `names`; expected a data.yaml")
    return content


def names_of(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Return the class names of a data.yaml in the order of their numbers.

    `names` is a list, or a mapping with the keys 0 to n - 1 in any order.

    Raises:
        InputError: `names` is neither, contains a value that is not a word, or a name twice; `nc` is not the number of
            names.
    """
    names = content["names"]
    if isinstance(names, dict):
        numbers = {_number(key): value for key, value in names.items()}
        if sorted(numbers, key=str) != sorted(range(len(names)), key=str):
            raise InputError(
                f"{path}: `names` has the keys {_some(names)}; expected 0 to {len(names) - 1}, each once: labels "
                "number the classes from 0 without gaps"
            )
        names = [numbers[index] for index in range(len(names))]
    if not isinstance(names, list):
        raise InputError(f"{path}: `names` is not a list; expected the classes in their order")
    # Nested values are refused, not converted to text: with aliases a small YAML file can expand without bound. YAML
    # reads no and off as booleans.
    if not all(isinstance(name, (str, int, float)) and not isinstance(name, bool) for name in names):
        raise InputError(
            f"{path}: `names` contains a value that is not a word; expected class names, with quotes around no, yes, "
            "on and off"
        )
    found = tuple(map(str, names))
    if len({name.strip().casefold() for name in found}) < len(found):
        raise InputError(f"{path}: `names` has a class twice: {_some(found)}; expected each once")
    count = content.get("nc")
    if count is not None and (isinstance(count, bool) or count != len(found)):
        stated = count if isinstance(count, (int, float)) else "not a number"
        raise InputError(f"{path}: `nc` is {stated}, `names` has {len(found)}; expected the same number")
    return found


def stated_order(folder: Path, root: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Return the file next to YOLO labels that lists the class names, and its names; None if there is no such file.

    Label tools write such lists. They are looked for in the folder of the labels and in its parents, up to the root of
    the dataset.

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
                if "images" in content:  # written by detection.variant, with the names in the dataset's order
                    continue
                return path, names_of(content, path)
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is not text: {error}; expected UTF-8") from None
            return path, tuple(line.strip() for line in lines if line.strip())
    return None


def check_order(path: Path, stated: Sequence[str], numbered: Sequence[str]) -> None:
    """Raise InputError if the list `path` states another order than `numbered`, by which labels will be read."""
    if [name.casefold() for name in stated] != [name.casefold() for name in numbered]:
        raise InputError(
            f"{path} numbers the classes {numbered_names(stated)}; the labels would be read with "
            f"{numbered_names(numbered)}; expected the same order: state it with --classes (in the configuration "
            "dataset: classes), or correct the file"
        )


def numbered_names(names: Sequence[str]) -> str:
    """Return names with their numbers, for messages: 0 person, 1 car."""
    return ", ".join(f"{number} {name}" for number, name in enumerate(names))


def _number(key: Any) -> Any:
    if isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) < 9:
        return int(key)
    return str(key) if isinstance(key, (bool, float)) else key


def _some(values: Any) -> str:
    text = ", ".join(repr(value)[:40] for value, _ in zip(values, range(12), strict=False))
    return text + (", ..." if len(values) > 12 else "")
