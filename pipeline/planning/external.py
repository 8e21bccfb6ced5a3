"""External detections and detectors that were trained elsewhere: their files, and digests that detect changes."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.stage import InputError


def read_external_rows(config: Mapping[str, Any], rows: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each external row of Table II by its name; empty if Table II is not requested.

    Raises:
        InputError: a name is also the name of a row in `rows`, a file does not exist, or two files are equal.
    """
    if "table2" not in config["tables"]:
        return {}
    external = {}
    for name, files in config["detection"]["results"].items():
        if name in rows:
            raise InputError(f"config: detection.results.{name} is also the name of another row; expected another name")
        external[name] = [files] if isinstance(files, str) else list(files)
        for file in external[name]:
            if not Path(file).is_file():
                raise InputError(f"config: detection.results.{name}: {file} is not a file; expected COCO results")
        if len({content_digest(file) for file in external[name]}) < len(external[name]):
            raise InputError(
                f"config: detection.results.{name} names the same results twice; expected one file per training"
            )
    return external


def read_as_is_detectors(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of each detector that is used unchanged, by its name; empty if Table II is not requested.

    Raises:
        InputError: the weights of a detector do not exist.
    """
    if "table2" not in config["tables"]:
        return {}
    for name, settings in config["detection"]["as_is"].items():
        if not Path(settings["weights"]).is_file():
            raise InputError(
                f"config: detection.as_is.{name}: {settings['weights']} is not a file; expected the detector's weights"
            )
    return dict(config["detection"]["as_is"])


def content_digest(file: str) -> str:
    """Return a digest of a file's bytes, for params; a copied file may have an older time stamp."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
