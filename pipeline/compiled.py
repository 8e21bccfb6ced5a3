"""Functions compiled by numba, with the machine code kept on disk.

Reordering within a formula is not allowed by default: whole numbers would lose their exactness.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numba
from numba.core import event

from pipeline.planning.digests import digest

IN_ORDER = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
# What kernels call is compiled into them, and only they are kept on disk. Calls would go to whichever code of a part
# this process has first, compiled or kept, and that rounds otherwise: results would depend on what was compiled when.
PART = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # Python never calls one
part = numba.njit(**PART, **IN_ORDER)


def compiled(function: Callable, options: Mapping[str, Any] = IN_ORDER) -> Callable:
    """Compile on first call, and keep the machine code on disk where a cache folder can be written.

    The folder is named by the code of the function's module and of all project modules that this imports: numba itself
    looks at the function's file alone, and would take up old code after a change in what is compiled into it.
    """
    given = numba.config.CACHE_DIR
    beside = Path(function.__code__.co_filename).parent / "__pycache__"
    numba.config.CACHE_DIR = str(Path(given or beside) / f"numba-{digest(function.__module__)}")
    try:
        return numba.njit(cache=True, no_cfunc_wrapper=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache can be written
        return numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = given


class _Announcer(event.Listener):
    """Says once for each announced module that its functions are being compiled."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}

    def on_start(self, event: event.Event) -> None:
        function = getattr(event.data.get("dispatcher"), "py_func", None)
        if message := self.waiting.pop(getattr(function, "__module__", ""), None):
            logging.info(message)

    def on_end(self, event: event.Event) -> None:
        pass


_announcer = _Announcer()
event.register("numba:compile", _announcer)


def announce(module: str, what: str, seconds: int) -> None:
    """Have the log say when functions of a module are compiled for want of kept code, and how long all of them take."""
    _announcer.waiting[module] = f"compiling {what}, once on this machine: about {seconds} s of one core"
