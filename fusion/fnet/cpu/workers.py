"""Threads that each run torch on one core, for work that consists of independent pieces.

Torch splits every operation among its threads and waits for the slowest one, hundreds of times per image. If each
piece goes through several operations on one thread, its data stay in one core's cache, threads wait only at the end,
and a core that is busy with other work takes fewer pieces. A piece's result does not depend on the number of threads.

While these threads exist, the caller's own torch operations are limited to one core as well. Otherwise torch's own
threads would keep their cores busy for milliseconds after each operation, waiting for the next one, and slow down the
workers.
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
    """Yield a `map` that runs on as many threads as torch uses, with autograd disabled; results are in order."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield lambda function, pieces: [function(piece) for piece in pieces]
        return
    check_memory(threads)
    started = Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread initialises its number, which would undo the next line
        torch.set_num_threads(1)
        with suppress(BrokenBarrierError):
            started.wait()

    with ThreadPoolExecutor(threads, initializer=start) as pool:
        try:
            for _ in range(threads):
                pool.submit(int)
            started.wait()
        except BaseException:
            started.abort()  # otherwise, the threads that did start would wait for ever
            torch.set_num_threads(threads)  # a worker's set_num_threads(1) also changed the default
            raise
        torch.set_num_threads(1)
        inference = torch.is_inference_mode_enabled()  # passed on, because every thread has its own mode

        def run(function: Callable[[Any], Any], pieces: Iterable[Any]) -> list[Any]:
            pieces = list(pieces)
            results = [None] * len(pieces)
            indices = iter(range(len(pieces)))  # shared: `next` on it is atomic under the interpreter's lock

            def work() -> None:
                with torch.inference_mode(inference), torch.no_grad():
                    for index in indices:
                        results[index] = function(pieces[index])

            futures = [pool.submit(work) for _ in range(threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                for _ in indices:  # after an error or an interrupt, no thread must take another piece
                    pass
            for future in futures:
                future.result()
            return results

        try:
            yield run
        finally:
            torch.set_num_threads(threads)
