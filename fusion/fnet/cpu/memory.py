"""Memory that is used again: to get it from the system costs as much as a convolution."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

from fusion.fnet.cpu.kernels import Scratch, scratch_sizes

Shape = tuple[int, int, int]  # of a batch: N, H, W


class Memory:
    """Arrays given back, for who next wants as much."""

    def __init__(self) -> None:
        self.free: dict[int, list[np.ndarray]] = defaultdict(list)
        self.shape: Shape | None = None

    def fit(self, shape: Shape) -> None:
        """Let go of what was kept for pictures of another shape."""
        if shape != self.shape:
            self.free.clear()
            self.shape = shape

    def take(self, *shape: int) -> np.ndarray:
        """Return an array of whatever values; its memory starts where a cache line does."""
        size = math.prod(shape)
        try:
            flat = self.free[size].pop()
        except IndexError:
            whole = np.empty(size + 16, np.float32)
            start = -whole.ctypes.data % 64 // 4
            flat = whole[start : start + size]
        return flat.reshape(shape)

    def give(self, arrays: Iterable[np.ndarray]) -> None:
        """Take back arrays of `take` that nobody uses any more."""
        for array in arrays:
            self.free[array.size].append(array.reshape(-1))

    @contextmanager
    def scratch(self, spectra: int) -> Iterator[Scratch]:
        """Lend what a pass of the kernels works in, with spectra of maps so many."""
        arrays = [self.take(size) for size in scratch_sizes(spectra)]
        yield Scratch(tuple(arrays[:spectra]), *arrays[spectra:])
        self.give(arrays)
