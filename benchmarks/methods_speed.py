"""Compare the speed of every network method, as `fusion.fuse` runs it, with its plain network in eager mode.

Both have the same random weights and fuse the same pairs alternately in one run, so that only ratios matter: the
runtime of the method's own path (inference mode, channels-last, merged or collapsed layers, computation in stripes)
divided by that of the plain network's forward pass. In addition to elapsed time, the processor time of all threads is
measured; a busy machine disturbs its ratio less. The order alternates; each ratio is the median of the rounds' ratios.
A third ratio, of the plain network to itself in the same rounds, shows the noise of the machine: a smaller gain is not
significant. A method that fuses at a fixed size, such as MURF's 1240 x 1240, is compared at that size, and SwinFusion
at the size that it pads images to. Differences are relative to the range of the plain network's values.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fusion.methods import METHODS, find_method
from fusion.weights import write_state
from pipeline.artefacts import versions, write_json
from pipeline.stage import InputError, run, threads_available

NETWORKS = [name for name, entry in METHODS.items() if entry.needs_weights]
OWN_SIZE = {"murf": (1240, 1240)}
PADDED = {"swinfusion": 8}  # padded to the next larger multiple, by mirroring that repeats the edge pixel
LIMIT = 1.2  # largest allowed ratio


def measure(name: str, height: int, width: int, repeats: int, folder: Path) -> dict[str, float]:
    """Return the median elapsed and processor seconds of both paths, their ratios, and the largest difference."""
    method = find_method(name)
    torch.manual_seed(0)
    plain = method.network(None).eval()
    weights = folder / f"{name}.safetensors"
    write_state(weights, plain.state_dict())
    ours = method.load(weights, "cpu", "fp32")
    height, width = OWN_SIZE.get(name, (height, width))
    images = np.random.default_rng(0).random((2, height, width), np.float32)
    images[:, 0, :2] = 0, 1  # the whole range, so that LRRNet's stretch changes nothing
    multiple = PADDED.get(name)
    border = [(0, multiple - side % multiple if multiple else 0) for side in (height, width)]
    given = [torch.from_numpy(np.pad(image, border, mode="symmetric"))[None, None] for image in images]

    def naive() -> np.ndarray:
        with torch.no_grad():
            return plain(*given)[0, 0, :height, :width].numpy()

    # After a warm-up call, the paths are timed alternately in changing order, so that other load affects all equally.
    fused, expected = ours(*images), naive()
    runs = [("fast", lambda: ours(*images)), ("naive", naive), ("again", naive)]
    times: dict[str, list[float]] = {f"{key}{unit}": [] for key, _ in runs for unit in ("_s", "_cpu_s")}
    for number in range(repeats):
        for key, function in runs[number % 3 :] + runs[: number % 3]:
            start, start_cpu = time.perf_counter(), time.process_time()
            function()
            times[f"{key}_s"].append(time.perf_counter() - start)
            times[f"{key}_cpu_s"].append(time.process_time() - start_cpu)

    def ratio(key: str, unit: str) -> float:
        return statistics.median(a / b for a, b in zip(times[key + unit], times["naive" + unit], strict=True))

    medians = {key: statistics.median(values) for key, values in times.items() if not key.startswith("again")}
    ratios = {
        "ratio": ratio("fast", "_s"),
        "cpu_ratio": ratio("fast", "_cpu_s"),
        "null_ratio": ratio("again", "_cpu_s"),
    }
    difference = float(np.abs(fused - expected).max()) if fused.shape == expected.shape else float("nan")
    span = float(np.ptp(expected))
    return {
        **medians,
        **ratios,
        "max_difference": difference,
        "relative_difference": difference / span if span else np.nan,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per method and write all results as JSON."""
    parser = argparse.ArgumentParser(prog="python benchmarks/methods_speed.py", description=__doc__)
    parser.add_argument("--method", nargs="+", default=NETWORKS, help=f"any of: {', '.join(NETWORKS)}; default all")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(320, 320), metavar=("W", "H"), help="pixels; default 320 320"
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of timed rounds; default 5")
    parser.add_argument("--threads", type=int, help="CPU threads; default all that this process may use")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.method if name not in NETWORKS]:
        raise InputError(f"--method {' '.join(unknown)} has no network; expected methods among {', '.join(NETWORKS)}")
    torch.set_num_threads(threads_available(options.threads))
    width, height = options.size
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.method:
            found = results[name] = measure(name, height, width, options.repeats, Path(folder))
            logging.info(
                "%s: %.3f s, plain %.3f s, ratio %.2f, of processor time %.2f (limit %.1f; plain to itself %.2f), "
                "difference %.1e of the range",
                *(name, found["fast_s"], found["naive_s"], found["ratio"], found["cpu_ratio"], LIMIT),
                *(found["null_ratio"], found["relative_difference"]),
            )
    if options.json:
        facts = {"threads": torch.get_num_threads(), "size": [width, height], "versions": versions("torch", "numpy")}
        write_json(options.json, {**facts, "methods": results})


if __name__ == "__main__":
    run(main)
