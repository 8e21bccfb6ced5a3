"""A pool of reusable buffers.

The sparse code of a whole image is so large that allocating its array takes about as long as a convolution.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from fusion.fnet.cpu.kernels import Scratch, scratch_sizes

Shape = tuple[int, int, int]  # of a batch: N, H, W


class BufferPool:
    """A pool of float32 arrays, reused by size."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray]] = defaultdict(list)
        self.shape: Shape | None = None

    def fit(self, shape: Shape) -> None:
        """Free all arrays if the pool was used for batches of another shape."""
        if shape != self.shape:
            self.free.clear()
            self.shape = shape

    def take(self, *shape: int) -> np.ndarray:
        """Return an uninitialised array, aligned to a cache line."""
        size = math.prod(shape)
        try:
            flat = self.free[size].pop()
        except IndexError:
            whole = np.empty(size + 16, np.float32)
            start = -whole.ctypes.data % 64 // 4
            flat = whole[start : start + size]
        return flat.reshape(shape)

    def give(self, arrays: Iterable[np.ndarray]) -> None:
        """Return arrays from `take` to the pool; the caller must not use them any more."""
        for array in arrays:
            self.free[array.size].append(array.reshape(-1))

    @contextmanager
    def scratch(self, spectra: int) -> Iterator[Scratch]:
        """Yield the temporary arrays of one kernel call; the number `spectra` of them are for spectra of maps."""
        arrays = [self.take(size) for size in scratch_sizes(spectra)]
        yield Scratch(tuple(arrays[:spectra]), *arrays[spectra:])
        self.give(arrays)
