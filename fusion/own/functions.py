"""The user's own functions: imported by name, with the digest of the files that decide what they compute."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artefacts import sha256_file, sha256_lines
from pipeline.stage import InputError


def import_function(target: str) -> Any:
    """Import `package.module:name`; InputError where there is none, or it cannot be called."""
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"callable {target} cannot be imported: {error}; wanted package.module:name") from None
    if not callable(found):
        raise InputError(f"callable {target} is a {type(found).__name__}; wanted a function or a torch.nn.Module")
    return found


def files_digest(files: Sequence[Path]) -> str | None:
    """Return one digest of files, wherever they lie; None for none."""
    return sha256_lines(sorted(f"{path.name} {sha256_file(path)}" for path in files)) if files else None
