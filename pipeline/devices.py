"""Which device a process computes on, so that jobs on one machine do not meet on one GPU.

A GPU is taken by locking a file; the kernel frees it when the process ends, however it ends.
"""

import contextlib
import ctypes
import logging
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from itertools import product
from pathlib import Path
from typing import Literal

from pipeline.stage import InputError, threads_available

Device = Literal["auto", "cpu", "cuda"]
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16", "auto")
MOST_PER_GPU = 8  # trainings that may share one


@contextlib.contextmanager
def claimed_device(
    choice: Device, threads: int | None = None, per_gpu: int = 1, wait_s: float = 86400.0
) -> Iterator[str]:
    """Yield `cpu` or `cuda:N`, a GPU that no other stage on this machine uses meanwhile.

    `auto` is a GPU where torch sees one, else the CPU. Torch is given `threads` threads. On the CPU the process keeps
    the memory that it frees (`keep_freed_memory`). Where every GPU is taken, waits for one, saying so: with
    `--resources gpu=N` no more jobs start than there are GPUs. With a `per_gpu` above 1, up to so many stages that say
    so share a GPU, and the threads beside it.

    Raises:
        InputError: `cuda` is wanted and torch sees no GPU, or none became free in `wait_s` seconds.
    """
    import torch  # late: stages that need no torch import this module's names

    torch.set_num_threads(threads_available(threads))
    count = 0 if choice == "cpu" else torch.cuda.device_count()
    if choice == "cuda" and not count:
        raise InputError("--device cuda: torch sees no GPU here; wanted one, or --device cpu")
    if not count:
        keep_freed_memory()
        yield "cpu"
        return
    torch.set_num_threads(max(1, torch.get_num_threads() // per_gpu))
    torch.backends.cudnn.allow_tf32 = False  # else float32 convolutions keep ten bits; bf16 is what asks for that
    identities = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    with claimed_one(identities, wait_s * per_gpu, per_gpu) as index:
        use(f"cuda:{index}")
        yield f"cuda:{index}"


def use(device: str) -> None:
    """Make a GPU, `cuda:N`, the calling thread's current one; nothing to do for `cpu`."""
    if device != "cpu":
        import torch

        torch.cuda.set_device(device)


def keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to 32 MiB for the next step, for the rest of the process.

    A network frees and takes the same megabytes at every step; to have the system clear them anew each time cost FNet a
    tenth of a training step on a virtual machine. The price is that memory stays at its peak. Does nothing where the C
    library is not glibc.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_threshold, 32 << 20)  # the most that it takes
        mallopt(trim_threshold, 2**31 - 1)


def memory_available() -> float:
    """Return how many bytes this process may still take, infinity where the system does not say. Linux only.

    The least of what the machine has free and what each control group around the process leaves: a container's limit,
    or a SLURM job's where the cluster enforces it that way. Pages of files that were read count as free.
    """
    free = [float("inf")]
    with contextlib.suppress(OSError, KeyError):
        free.append(1024.0 * _numbers(Path("/proc/meminfo"))["MemAvailable:"])
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                free += _left_in(Path("/sys/fs/cgroup"), group, "memory.max", "memory.current", "")
            elif "memory" in controllers.split(","):
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
                free += _left_in(Path("/sys/fs/cgroup/memory"), group, *files)
    return min(free)


def _left_in(root: Path, group: str, limit: str, used: str, prefix: str) -> Iterator[float]:
    """Yield what `group` and each group around it leaves of its limit, where it has one."""
    folder = root / group.lstrip("/")
    for place in [folder, *folder.parents]:
        if root not in (place, *place.parents):
            return
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such file, or the word `max` for a number
            counts = _numbers(place / "memory.stat")
            files = counts[f"{prefix}active_file"] + counts[f"{prefix}inactive_file"]
            yield float(int((place / limit).read_text()) - int((place / used).read_text()) + files)


def _numbers(path: Path) -> dict[str, int]:
    """Return the first two words of each line, a name and a number."""
    return {name: int(number) for name, number, *_ in map(str.split, path.read_text().splitlines())}


def resolved_precision(precision: str, device: str, bf16_on: Collection[str] = ("cpu", "cuda")) -> str:
    """Return what is computed, `fp32` or `bf16`; `auto` is bf16 where the processor multiplies it in hardware.

    Elsewhere bf16 is emulated, slower than fp32. `bf16_on` are the kinds of device on which what runs has a path in
    bfloat16 at all; on the others it is float32, whatever is asked for.
    """
    import torch

    if device.split(":")[0] not in bf16_on:
        if precision == "bf16":
            logging.info("bf16 is asked for and not taken: this is computed in fp32 on %s", device)
        return "fp32"
    if precision != "auto":
        return precision
    if device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Not public in torch, so a version may lack them: then fp32, which is right everywhere.
    questions = [getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("amx_tile", "avx512_bf16")]
    return "bf16" if any(question() for question in questions) else "fp32"


@contextlib.contextmanager
def claimed_one(identities: list[str], wait_s: float, sharing: int = 1) -> Iterator[int]:
    """Yield the index of the first of `identities` that no other process holds, waiting up to `wait_s` seconds.

    With `sharing` above 1, up to so many that say so hold one together; none gets a second before each has a first.
    """
    folder = Path(tempfile.gettempdir()) / f"fusion-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    deadline, told = time.monotonic() + wait_s, False
    while True:
        by_load = sorted(range(len(identities)), key=lambda index: _held(folder / identities[index], sharing))
        for index, place in product(by_load, range(sharing)):
            if locks := _locked(folder / identities[index], place if sharing > 1 else None):
                with locks:
                    yield index
                return
        if time.monotonic() > deadline:
            raise InputError(f"all {len(identities)} GPUs stayed in use for {wait_s:.0f} s; wanted a free one")
        if not told:
            logging.info("all %d GPUs are in use; waiting for one", len(identities))
            told = True
        time.sleep(min(1.0, wait_s))


def _held(stem: Path, sharing: int) -> int:
    """Return how many places on a GPU are held."""
    free = 0
    for place in range(sharing if sharing > 1 else 0):
        if locks := _locked(stem, place):
            locks.close()
            free += 1
    return sharing - free


def _locked(stem: Path, place: int | None) -> contextlib.ExitStack | None:
    """Return the locks of a GPU, or of a place on it beside others; None where another process has them."""
    import fcntl  # POSIX; the CPU path works without it

    wanted = [(f"{stem}.lock", fcntl.LOCK_EX if place is None else fcntl.LOCK_SH)]
    if place is not None:
        wanted.append((f"{stem}.{place}.lock", fcntl.LOCK_EX))
    with contextlib.ExitStack() as locks:
        for name, kind in wanted:
            file = locks.enter_context(Path(name).open("w"))
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        return locks.pop_all()
