"""Functions compiled by numba, with the machine code cached on disk.

By default, the compiler may not reorder operations within a formula, because sums of whole numbers would no longer be
exact.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numba
from numba.core import event

from pipeline.planning.digests import digest

IN_ORDER = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
# Options of functions that kernels call. These are inlined into the kernels, and only kernels are cached on disk.
# Without inlining, a call would use the code that this process compiled or loaded first; both round differently, so
# that results would depend on the order of compilation. Python never calls these functions, so they need no wrappers.
INLINED = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inlined = numba.njit(**INLINED, **IN_ORDER)


def compiled(function: Callable, options: Mapping[str, Any] = IN_ORDER) -> Callable:
    """Return a function that is compiled on its first call; cache the machine code on disk if a folder is writable.

    The folder is named by the digest of the function's module and of all project modules that it imports. Numba itself
    checks only the function's file, and would use outdated code after a change of an inlined function.
    """
    given = numba.config.CACHE_DIR
    in_package = Path(function.__code__.co_filename).parent / "__pycache__"
    numba.config.CACHE_DIR = str(Path(given or in_package) / f"numba-{digest(function.__module__)}")
    try:
        return numba.njit(cache=True, no_cfunc_wrapper=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache is writable
        return numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = given


class _Announcer(event.Listener):
    """Logs once for each announced module that its functions are being compiled."""

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
    """Log when functions of a module are compiled because no cached code exists, and how long all of them take."""
    _announcer.waiting[module] = f"compiling {what}, once on this machine: about {seconds} s of one core"
