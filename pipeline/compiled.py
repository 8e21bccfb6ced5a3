"""Functions compiled by numba, with the machine code kept on disk.

Reordering within a formula is not allowed by default: whole numbers would lose their exactness.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numba

IN_ORDER = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
# What kernels call is compiled into them, and only they are kept on disk. Calls would go to whichever code of a part
# this process has first, compiled or kept, and that rounds otherwise: results would depend on what was compiled when.
part = numba.njit(forceinline=True, **IN_ORDER)


def compiled(function: Callable, options: Mapping[str, Any] = IN_ORDER) -> Callable:
    """Compile on first call, and keep the machine code on disk where a cache folder can be written."""
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(**options)(function)
