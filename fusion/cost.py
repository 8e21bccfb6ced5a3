"""Stage: measure the cost of a fusion method: parameters, multiply-adds, peak memory, runtime.

Only parameters that training changes are counted. Multiply-adds are counted by tracing the method's plain network:
every convolution with any padding mode, transposed convolution, matrix product and attention; nothing else. A method
without a network has 0 parameters, and its multiply-adds are not counted (null).

Peak memory is measured in a separate process. On the CPU, a small pair is fused first to load the libraries; peak
memory is then the rise of resident memory above its value before the weights are loaded, while they are loaded and one
pair is fused. On a GPU, it is the most that PyTorch allocated. Runtime is the median of several calls after one warm-up
call, with the code path, precision and threads that `fusion.fuse` would use, from the sources' luma in memory to the
fused luma in memory.
"""

import argparse
import gc
import logging
import math
import multiprocessing
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion.methods import METHODS, Entry, Fuser, Method, Precision, find_method
from fusion.own.method import own_bf16_on, own_entry, own_method, own_network
from pipeline.artefacts import write_json
from pipeline.devices import DEVICES, PRECISIONS, claimed_device, resolved_precision
from pipeline.planning.own import OwnMethod, parse_own
from pipeline.stage import InputError, run, threads_available

if TYPE_CHECKING:
    from torch import nn

WARM_UP_SIDE = 64  # pixels, the side of the pair that is fused to load the libraries before memory is measured


def count_parameters(network: "nn.Module") -> int:
    """Return the number of trainable parameter values, without frozen parts (a perceptual loss, fixed kernels)."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_multiply_adds(network: "nn.Module", width: int, height: int) -> int:
    """Return the multiply-adds of one fusion of a (height, width) pair, traced without computing it.

    Counts the operations that `pipeline.tensors.count_multiply_adds` counts.
    """
    import torch

    from pipeline import tensors

    image = torch.empty(1, 1, height, width, device="meta")
    network = network.eval().to("meta")
    return tensors.count_multiply_adds(lambda: network(image, image))


def random_pair(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two noise images, float32 (height, width) in 0..1."""
    rng = np.random.default_rng(0)
    return rng.random((height, width), np.float32), rng.random((height, width), np.float32)


def median_runtime(fuser: Fuser, width: int, height: int, repeats: int) -> float:
    """Return the median seconds of `repeats` fusions of one pair, after one warm-up fusion."""
    pair = random_pair(width, height)
    fuser(*pair)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        fuser(*pair)  # returns a numpy array, so the GPU's work is finished
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@dataclass(frozen=True)
class Case:
    """A measurement: a method of the table or of the user's `own`, its weights, how it runs, and the image size.

    size: width and height, pixels.
    threads: CPU threads of torch.
    """

    name: str
    weights: Path | None
    size: tuple[int, int]
    device: str = "cpu"
    precision: Precision = "fp32"
    threads: int = 1
    own: OwnMethod | None = None

    @property
    def entry(self) -> Entry:
        """The method's entry in the table of methods, known before the method is loaded."""
        return METHODS[self.name] if self.own is None else own_entry(self.own, self.weights)

    @property
    def method(self) -> Method:
        """The method that `fusion.fuse` would run."""
        return find_method(self.name) if self.own is None else own_method(self.own)

    def load(self) -> Fuser:
        """Return the function that fuses."""
        return self.method.load(self.weights, self.device, self.precision)


def peak_memory(case: Case) -> int:
    """Return the peak memory in bytes of loading the method and fusing one pair.

    Measured in a fresh process: this one may keep memory that it has freed, and its reuse would not be seen.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_memory_here, case).result()


def _peak_memory_here(case: Case) -> int:
    if case.entry.in_torch:
        import torch

        torch.set_num_threads(case.threads)
    case.load()(*random_pair(WARM_UP_SIDE, WARM_UP_SIDE))
    gc.collect()
    if case.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        case.load()(*random_pair(*case.size))
        return torch.cuda.max_memory_allocated()
    pair = random_pair(*case.size)
    before = _resident_bytes()
    case.load()(*pair)
    return max(0, _peak_resident_bytes() - before)


def _resident_bytes() -> int:
    """Return the resident memory and, on Linux, reset the kernel's high-water mark to it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    else:
        return _status_bytes("VmRSS")
    return _peak_resident_bytes()  # other systems cannot reset the mark: only a rise above the peak so far is measured


def _peak_resident_bytes() -> int:
    if Path("/proc/self/status").is_file():
        return _status_bytes("VmHWM")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _status_bytes(key: str) -> int:
    return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@contextmanager
def weights_or_random(method: Method, weights: Path | None) -> Iterator[Path | None]:
    """Yield `weights`, or a file of random weights if the method needs weights and none are given."""
    if weights is not None or method.network is None:
        yield weights
        return
    import torch

    from fusion.weights import write_state

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        write_state(path, method.network(None).state_dict())
        yield path


def measure(case: Case, repeats: int = 5) -> dict[str, Any]:
    """Return a method's cost as the command writes it to JSON.

    For a method of the user's own, an unknown quantity is NaN: every quantity of a folder of images, the parameters and
    multiply-adds of a command, a function or an ONNX file, the peak memory of a command, and the multiply-adds of a
    network that cannot be traced.
    """
    cost = _own_cost(case, repeats) if case.own is not None else _cost(case, repeats)
    facts = {"device": case.device.split(":")[0], "threads": case.threads, "size": list(case.size)}
    note = {"parameters_note": case.method.parameters_note} if case.method.parameters_note else {}
    return {"method": case.name, **cost, **note, **facts, "precision": case.precision}


def _cost(case: Case, repeats: int) -> dict[str, float]:
    cost = {"parameters": 0, "multiply_adds": math.nan}
    if case.method.network is not None:
        network = case.method.network(case.weights)
        cost = {"parameters": count_parameters(network), "multiply_adds": count_multiply_adds(network, *case.size)}
    with weights_or_random(case.method, case.weights) as weights:
        case = replace(case, weights=weights)
        cost["peak_memory_bytes"] = peak_memory(case)
        cost["median_s"] = median_runtime(case.load(), *case.size, repeats)
    return cost


def _own_cost(case: Case, repeats: int) -> dict[str, float]:
    cost = dict.fromkeys(("parameters", "multiply_adds", "peak_memory_bytes", "median_s"), math.nan)
    if case.own.kind == "folder":
        return cost
    cost["median_s"] = median_runtime(case.load(), *case.size, repeats)
    if case.own.kind != "command":  # the memory of another program is not measured
        cost["peak_memory_bytes"] = peak_memory(case)
    if (network := own_network(case.own, case.weights)) is not None:
        cost["parameters"] = count_parameters(network) or math.nan  # a frozen TorchScript file has only constants
        try:
            cost["multiply_adds"] = count_multiply_adds(network, *case.size)
        except Exception as error:  # a user's network may fail on meta tensors in any way
            logging.warning("warning: multiply-adds of %s are not counted: %s", case.name, str(error).split("\n")[0])
    return cost


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one method and print its cost."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", required=True, help=f"one of: {', '.join(METHODS)}; with --own, any name")
    parser.add_argument("--own", metavar="KIND=TARGET", help="your own method; see docs/own-method.md")
    parser.add_argument(
        "--weights", type=Path, help="weights file or folder (default: random weights, which cost the same)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[320, 320],
        metavar=("WIDTH", "HEIGHT"),
        help="size of the images in pixels (default: 320 320)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="precision of a network's convolutions")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a free GPU if there is one")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: all that this process may use)")
    parser.add_argument("--repeats", type=int, default=5, help="number of timed calls for the median (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON file to write the cost to as well")
    options = parser.parse_args(argv)

    own = parse_own(options.own) if options.own else None
    if own is None and options.method not in METHODS:
        raise InputError(f"--method {options.method} is unknown; expected one of {', '.join(METHODS)}")
    entry = METHODS[options.method] if own is None else own_entry(own, options.weights)
    for name, values in (("size", options.size), ("repeats", [options.repeats])):
        if min(values) < 1:
            raise InputError(f"--{name} {' '.join(map(str, values))} is too small; expected at least 1")
    weights = options.weights if entry.needs_weights else None
    if weights is not None and not weights.exists():
        raise InputError(f"--weights {weights} does not exist; expected a weights file or folder")
    threads = threads_available(options.threads)
    claim = claimed_device(options.device, threads) if entry.in_torch else nullcontext("cpu")
    with claim as device:
        bf16_on = find_method(options.method).bf16_on if own is None else own_bf16_on(own)
        precision = resolved_precision(options.precision, device, bf16_on) if entry.in_torch else "fp32"
        logging.info("cost of %s at %dx%d on %s, %d threads", options.method, *options.size, device, threads)
        case = Case(options.method, weights, tuple(options.size), device, precision, threads, own)
        cost = measure(case, options.repeats)
    if options.json:
        write_json(options.json, cost)
    for key, value in cost.items():
        shown = f"{value:,}" if isinstance(value, int) else "not counted" if value != value else value
        print(f"{key:18} {' '.join(map(str, value)) if isinstance(value, list) else shown}")


if __name__ == "__main__":
    run(main)
