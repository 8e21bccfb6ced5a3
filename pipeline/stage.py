"""What every stage's command line shares: errors of one line, progress that a log file can hold."""

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

# By what torch and the threads of Python say that memory ran out, in a process or in one that reads images for it.
# "a primitive descriptor" is something else: an operation that torch's library does not have.
NO_MEMORY = re.compile(
    "can't allocate memory|can't start new thread|could not create a primitive(?! descriptor)|DataLoader worker"
)


class InputError(ValueError):
    """A user's mistake: the message names the file or option, what was found and what was wanted."""


def some_of(names: Sequence[str]) -> str:
    """Return names as an error of one line lists them: the first five, and how many more there are."""
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def run(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run a stage's `main` as a program: progress on stderr, a user's mistake as one line and exit status 1.

    A `~` that the shell left, in `--option=~/folder` or NAME=~/file, is the home folder, as at the start of a word.

    Other exceptions keep their traceback: they are ours.
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
        # A full disk or a folder without permission is the user's to mend; the error already names the file.
        sys.exit(f"error: {error}")


def with_home(word: str) -> str:
    """Return a command line's word or a configuration's text with a leading `~` or `~user` as that home folder."""
    name, equals, path = word.rpartition("=") if "=~" in word else ("", "", word)
    return name + equals + os.path.expanduser(path)  # noqa: PTH111  # an unknown user's stays as it is


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; meanwhile the signal does nothing else.

    Clusters send it before they take a machine away, at a job's time limit too, and kill half a minute later: time to
    finish a step, save, and leave by `stopped`. A thread other than the main one gets no signals, and the answer no.
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
    """Return what to raise once progress is saved after SIGTERM: the exit status is the signal's own, 143."""
    logging.warning("stopped by SIGTERM at %s, progress saved: the same command with --resume goes on there", where)
    return SystemExit(128 + signal.SIGTERM)


def threads_available(wanted: int | None = None) -> int:
    """Return the number of CPU threads to use: `wanted`, at most what this process may run on."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted or here, here))


def check_memory(threads: int, each: int = 2**26) -> None:
    """Raise MemoryError unless `each` bytes can be had for each of some threads that are about to start.

    Python waits for ever for a thread that found no memory for its first steps.
    """
    try:
        mmap.mmap(-1, threads * each).close()
    except OSError as error:
        raise MemoryError(f"found no {threads * each >> 20} MB for {threads} threads") from error


class Progress:
    """Logs `done/total unit, rate, time left` at most every few seconds, as whole lines.

    Lines, not a bar: the same text must read well in a terminal, in a rule's log and in a cluster's log.
    """

    def __init__(self, what: str, total: int, unit: str, every_s: float = 5.0, done: int = 0) -> None:
        self.what, self.total, self.unit, self.every_s = what, total, unit, every_s
        self.start_done = self.done = done
        self.start = self.last = time.monotonic()

    def step(self, count: int = 1, note: str = "") -> None:
        """Count `count` more as done; log if it is time or the end; `note` (a loss, say) is appended."""
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
