"""Choose the device of a process, such that jobs on one machine do not use the same GPU unless they share it.

A GPU is claimed by locking a file. The kernel releases the lock when the process ends for any reason.
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
MOST_PER_GPU = 8  # largest number of trainings that may share a GPU


@contextlib.contextmanager
def claimed_device(
    choice: Device, threads: int | None = None, per_gpu: int = 1, wait_s: float = 86400.0
) -> Iterator[str]:
    """Yield `cpu` or `cuda:N`, a GPU that no other stage on this machine uses meanwhile.

    `auto` is a GPU if torch finds one, else the CPU. Torch is set to `threads` threads. On the CPU, the process keeps
    the memory that it frees (`keep_freed_memory`). If all GPUs are in use, log this and wait for one; with
    `--resources gpu=N`, Snakemake does not start more jobs than there are GPUs. With `per_gpu` above 1, up to this
    many stages with the same `per_gpu` share a GPU, and divide `threads` between them.

    Raises:
        InputError: `cuda` is requested and torch finds no GPU, or no GPU became free within `wait_s` seconds.
    """
    import torch  # here, because stages without torch import names from this module

    torch.set_num_threads(threads_available(threads))
    count = 0 if choice == "cpu" else torch.cuda.device_count()
    if choice == "cuda" and not count:
        raise InputError("--device cuda: torch finds no GPU on this machine; expected a GPU, or --device cpu")
    if not count:
        keep_freed_memory()
        yield "cpu"
        return
    torch.set_num_threads(max(1, torch.get_num_threads() // per_gpu))
    torch.backends.cudnn.allow_tf32 = False  # TF32 would round float32 convolutions to a 10-bit mantissa
    identities = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    with claimed_one(identities, wait_s * per_gpu, per_gpu) as index:
        use(f"cuda:{index}")
        yield f"cuda:{index}"


def use(device: str) -> None:
    """Make a GPU, `cuda:N`, the current device of the calling thread; do nothing for `cpu`."""
    if device != "cpu":
        import torch

        torch.cuda.set_device(device)


def keep_freed_memory() -> None:
    """Make the C library keep freed blocks of up to 32 MiB for reuse, for the rest of the process.

    A network allocates and frees the same blocks in every step. Returning them to the system, which clears them every
    time, took 10 % of a training step of FNet on a virtual machine. The cost is that memory use stays at its peak. This
    has no effect if the C library is not glibc.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_threshold, 32 << 20)  # the largest value that glibc accepts
        mallopt(trim_threshold, 2**31 - 1)


def memory_available() -> float:
    """Return the number of bytes that this process may still allocate, infinity if unknown (on Linux only).

    This is the minimum of the machine's free memory and the remaining memory of each control group of the process, such
    as the limit of a container, or of a SLURM job if the cluster enforces it this way. Cached file pages count as free.
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
    """Yield the remaining memory of `group` and of each of its parent groups, if they have a limit."""
    folder = root / group.lstrip("/")
    for place in [folder, *folder.parents]:
        if root not in (place, *place.parents):
            return
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such file, or the word `max` for a number
            counts = _numbers(place / "memory.stat")
            files = counts[f"{prefix}active_file"] + counts[f"{prefix}inactive_file"]
            yield float(int((place / limit).read_text()) - int((place / used).read_text()) + files)


def _numbers(path: Path) -> dict[str, int]:
    """Return the first two words of each line, a name and a number, as a mapping."""
    return {name: int(number) for name, number, *_ in map(str.split, path.read_text().splitlines())}


def resolved_precision(precision: str, device: str, bf16_on: Collection[str] = ("cpu", "cuda")) -> str:
    """Return the precision to use, `fp32` or `bf16`; `auto` is bf16 if the processor multiplies it in hardware.

    Without hardware support, bf16 is emulated and slower than fp32. `bf16_on` are the kinds of device on which the
    caller can compute in bfloat16; on others, the result is fp32 for every `precision`.
    """
    import torch

    if device.split(":")[0] not in bf16_on:
        if precision == "bf16":
            logging.info("bf16 is not available here on %s: computing in fp32", device)
        return "fp32"
    if precision != "auto":
        return precision
    if device != "cpu":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # These functions are private in torch, so a version may lack them; fp32, the fallback, works everywhere.
    tests = [getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("amx_tile", "avx512_bf16")]
    return "bf16" if any(supported() for supported in tests) else "fp32"


@contextlib.contextmanager
def claimed_one(identities: list[str], wait_s: float, sharing: int = 1) -> Iterator[int]:
    """Yield the index of the first of `identities` that no other process holds, waiting up to `wait_s` seconds.

    With `sharing` above 1, up to this many processes with the same `sharing` hold one GPU together; processes are
    distributed evenly over the GPUs.
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
            raise InputError(f"all {len(identities)} GPUs were in use for {wait_s:.0f} s; expected a free one")
        if not told:
            logging.info("all %d GPUs are in use; waiting for one", len(identities))
            told = True
        time.sleep(min(1.0, wait_s))


def _held(stem: Path, sharing: int) -> int:
    """Return the number of places on a GPU that are held."""
    free = 0
    for place in range(sharing if sharing > 1 else 0):
        if locks := _locked(stem, place):
            locks.close()
            free += 1
    return sharing - free


def _locked(stem: Path, place: int | None) -> contextlib.ExitStack | None:
    """Return the locks of a GPU, or of one place on a shared GPU; None if another process holds them."""
    import fcntl  # here, because it exists on POSIX only and the CPU path works without it

    needed = [(f"{stem}.lock", fcntl.LOCK_EX if place is None else fcntl.LOCK_SH)]
    if place is not None:
        needed.append((f"{stem}.{place}.lock", fcntl.LOCK_EX))
    with contextlib.ExitStack() as locks:
        for name, kind in needed:
            file = locks.enter_context(Path(name).open("w"))
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        return locks.pop_all()
