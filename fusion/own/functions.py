"""The user's own functions: imported by name, with the digest of the files that decide what they compute."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artefacts import sha256_file, sha256_lines
from pipeline.stage import InputError

LONGEST_REASON = 400  # characters


def import_function(target: str) -> Any:
    """Import `package.module:name`; InputError where there is none, it cannot be called, or its module fails."""
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"callable {target} cannot be imported: {error}; wanted package.module:name") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"callable {target} cannot be imported: {reason(error)}; mend its module") from error
    if not callable(found):
        raise InputError(f"callable {target} is a {type(found).__name__}; wanted a function or a torch.nn.Module")
    return found


def reason(error: BaseException) -> str:
    """Return what an error of other people's code says, its kind first, as one line that is not too long."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."
    if re.search(r"cuda|nvidia|\bgpu", text, re.IGNORECASE):
        text += " (it wants a GPU; wanted code that computes on the device of what it is given, so on a CPU, too)"
    return text


def files_digest(files: Sequence[Path]) -> str | None:
    """Return one digest of files, wherever they lie; None for none."""
    return sha256_lines(sorted(f"{path.name} {sha256_file(path)}" for path in files)) if files else None
