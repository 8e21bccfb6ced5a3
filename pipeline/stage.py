"""Shared parts of all command lines: one-line errors, signals, threads, and progress in log lines."""

import logging
import mmap
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

# Messages of torch and of Python's threads if memory ran out, in this process or in one that reads images for it.
# "a primitive descriptor" is not one of them: it means that torch's library lacks an operation.
NO_MEMORY = re.compile(
    "can't allocate memory|can't start new thread|could not create a primitive(?! descriptor)|DataLoader worker"
)


class InputError(ValueError):
    """A mistake in the user's input; the message names the file or option, the value found and the value expected."""


def some_of(names: Sequence[str]) -> str:
    """Return a list of names for a one-line message: the first five, and the number of others."""
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def run(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run a stage's `main` as a program: log to stderr; print an InputError as one line and exit with status 1.

    A `~` that the shell does not expand, as in `--option=~/folder` or NAME=~/file, is replaced by the home folder.

    Other exceptions are bugs and keep their traceback.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    sys.argv[1:] = map(with_home, sys.argv[1:])
    try:
        main(None)
    except InputError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        os._exit(1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        sys.exit(f"error: memory ran out, or a process was killed for it: {reason}")
    except OSError as error:
        # For example a full disk or missing permissions, which the user can fix; the error already names the file.
        sys.exit(f"error: {error}")


def with_home(word: str) -> str:
    """Return a word of a command line or a text of the configuration with a leading `~` or `~user` expanded."""
    name, equals, path = word.rpartition("=") if "=~" in word else ("", "", word)
    return name + equals + os.path.expanduser(path)  # noqa: PTH111  # leaves `~user` of an unknown user unchanged


@contextmanager
def sigterm_received() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM was received; the signal has no other effect meanwhile.

    Clusters send SIGTERM before they preempt a job or when it reaches its time limit, and kill it half a minute later.
    This leaves time to finish a step, save, and exit with `stopped`. In a thread other than the main one, which cannot
    handle signals, the function always returns false.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def stopped(where: str) -> SystemExit:
    """Return the exception to raise after SIGTERM once progress is saved; its exit status is 143, as for SIGTERM."""
    logging.warning("stopped by SIGTERM at %s, progress saved: the same command with --resume continues there", where)
    return SystemExit(128 + signal.SIGTERM)


def threads_available(requested: int | None = None) -> int:
    """Return the number of CPU threads to use: `requested`, at most the number of cores available to this process."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(requested or here, here))


def check_memory(threads: int, each: int = 2**26) -> None:
    """Raise MemoryError unless `each` bytes can be allocated for each of `threads` threads that will be started.

    Python waits forever for a thread that runs out of memory while it starts.
    """
    try:
        mmap.mmap(-1, threads * each).close()
    except OSError as error:
        raise MemoryError(f"cannot allocate {threads * each >> 20} MB for {threads} threads") from error


class Progress:
    """Logs `done/total unit, rate, time left` at most every few seconds, as whole lines.

    It prints lines instead of a progress bar, because the output also goes to log files of rules and clusters.
    """

    def __init__(self, what: str, total: int, unit: str, every_s: float = 5.0, done: int = 0) -> None:
        self.what, self.total, self.unit, self.every_s = what, total, unit, every_s
        self.start_done = self.done = done
        self.start = self.last = time.monotonic()

    def step(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; log if the interval has passed or all is done; append `note`, such as a loss."""
        self.done += count
        now = time.monotonic()
        if self.done < self.total and now - self.last < self.every_s:
            return
        self.last = now
        rate = (self.done - self.start_done) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        message = f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.2f} {self.unit}/s"
        if self.done < self.total:
            message += f", {_duration(left)} left"
        logging.info(message + (f", {note}" if note else ""))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
