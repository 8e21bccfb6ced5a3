"""The user's own functions: import by name, and the digest of the files that determine their results."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artefacts import sha256_file, sha256_lines
from pipeline.stage import InputError

LONGEST_REASON = 400  # characters


def import_function(target: str) -> Any:
    """Import `package.module:name`; InputError if it does not exist, is not callable, or its module raises an error."""
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"callable {target} cannot be imported: {error}; expected package.module:name") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"callable {target} cannot be imported: {reason(error)}; correct its module") from error
    if not callable(found):
        raise InputError(f"callable {target} is a {type(found).__name__}; expected a function or a torch.nn.Module")
    return found


def reason(error: BaseException) -> str:
    """Return the class and message of an error in foreign code, as one line of limited length."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."
    if re.search(r"cuda|nvidia|\bgpu", text, re.IGNORECASE):
        text += " (it needs a GPU; expected code that computes on the device of its arguments, which may be a CPU)"
    return text


def files_digest(files: Sequence[Path]) -> str | None:
    """Return one digest of the files' names and contents, independent of their folders; None without files."""
    return sha256_lines(sorted(f"{path.name} {sha256_file(path)}" for path in files)) if files else None
