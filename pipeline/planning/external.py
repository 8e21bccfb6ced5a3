"""Detectors trained elsewhere and their results: the files in the configuration, and digests to detect changes."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.stage import InputError


def read_brought(config: Mapping[str, Any], rows: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each external row of Table II by its name; empty if Table II is not among the tables.

    Raises:
        InputError: a name is in `rows`, the names of the other rows; a file does not exist; two files are the same.
    """
    if "table2" not in config["tables"]:
        return {}
    brought = {}
    for name, files in config["detection"]["results"].items():
        if name in rows:
            raise InputError(f"config: detection.results.{name} has the name of another row; wanted one of its own")
        brought[name] = [files] if isinstance(files, str) else list(files)
        for file in brought[name]:
            if not Path(file).is_file():
                raise InputError(f"config: detection.results.{name}: {file} is no file here; wanted COCO results")
        if len({content_digest(file) for file in brought[name]}) < len(brought[name]):
            raise InputError(
                f"config: detection.results.{name} names the same results twice; wanted one file for each training"
            )
    return brought


def read_as_is(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of each detector that is used as it is by its name; empty without Table II.

    Raises:
        InputError: the weights of a detector do not exist.
    """
    if "table2" not in config["tables"]:
        return {}
    for name, settings in config["detection"]["as_is"].items():
        if not Path(settings["weights"]).is_file():
            raise InputError(
                f"config: detection.as_is.{name}: {settings['weights']} is no file here; wanted its weights"
            )
    return dict(config["detection"]["as_is"])


def content_digest(file: str) -> str:
    """Return a digest of the file's content, for the params of a rule: a copied file may keep an old time stamp."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
