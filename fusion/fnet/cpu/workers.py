"""Threads that each run torch on one core, for work that falls into independent pieces.

Torch would split every operation among its threads and wait for the slowest, hundreds of times an image. Pieces that
each go through several operations on one thread keep their data in one core's cache and wait only at the end, and a
core that is busy elsewhere takes fewer of them. What a piece computes does not depend on how many threads there are.

The caller's own operations between the pieces run on one core too: threads of torch's, once they have had a part of
one, keep a core busy for milliseconds in waiting for the next.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import torch

from pipeline.stage import check_memory

Map = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


@contextmanager
def workers() -> Iterator[Map]:
    """Yield a `map` that runs without gradients on as many threads as torch has, and returns results in order."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield lambda function, pieces: [function(piece) for piece in pieces]
        return
    check_memory(threads)
    started = Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread would otherwise undo the next line
        torch.set_num_threads(1)
        with suppress(BrokenBarrierError):
            started.wait()

    with ThreadPoolExecutor(threads, initializer=start) as pool:
        try:
            for _ in range(threads):
                pool.submit(int)
            started.wait()
        except BaseException:
            started.abort()  # else those that did start would wait for the others for ever
            torch.set_num_threads(threads)  # what threads to come start with was set to 1 as well
            raise
        torch.set_num_threads(1)
        inference = torch.is_inference_mode_enabled()  # is a thread's own

        def run(function: Callable[[Any], Any], pieces: Iterable[Any]) -> list[Any]:
            pieces = list(pieces)
            results = [None] * len(pieces)
            indices = iter(range(len(pieces)))  # shared: `next` on it is atomic under the interpreter's lock

            def some() -> None:
                with torch.inference_mode(inference), torch.no_grad():
                    for index in indices:
                        results[index] = function(pieces[index])

            futures = [pool.submit(some) for _ in range(threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                for _ in indices:  # after an error, or when interrupted, nobody takes more
                    pass
            for future in futures:
                future.result()
            return results

        try:
            yield run
        finally:
            torch.set_num_threads(threads)
