"""Measure fusing and scoring of many pairs: pairs per second, and whether memory stays constant.

    python benchmarks/load.py --pairs 400 4200 --size 1024 768

The pairs are hard links to a few generated images. Every file is read, hashed, fused and scored like any other, but
only the fused images take disk space (some gigabytes, deleted at the end).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENES = 8


def run(*options: object, log: Path = Path(os.devnull)) -> tuple[float, float, float]:
    """Run a module and append its output to `log`.

    Returns the elapsed seconds, the processor seconds of the process and its children, and the peak resident memory of
    the largest of them, MB.
    """
    start = time.monotonic()
    with log.open("ab") as messages:
        process = subprocess.Popen([sys.executable, "-m", *map(str, options)], stdout=messages, stderr=messages)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{options[0]} failed with status {status}; its output is in {log}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[400, 4200], help="number of pairs of each run")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("W", "H"), help="image size, pixels")
    parser.add_argument("--method", default="average", help="a method without weights")
    parser.add_argument("--precision", default="fp32", help="precision of a network's convolutions")
    parser.add_argument("--workers", type=int, default=2, help="images scored in parallel")
    parser.add_argument("--stages", nargs="+", choices=("fuse", "evaluate"), default=("fuse", "evaluate"))
    options = parser.parse_args()
    print("| stage | pairs | s | pairs/s | processor s per pair | peak memory, MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        base = Path(folder)
        size = map(str, options.size)
        run("fusion.synthetic", "--output", base / "scenes", "--train", SCENES, "--test", 0, "--size", *size)
        for count in options.pairs:
            place = base / str(count)
            for band in ("Vis", "Ir"):
                (place / band).mkdir(parents=True)
                scenes = sorted((base / "scenes" / band).iterdir())
                for number in range(count):
                    os.link(scenes[number % SCENES], place / band / f"{number:05}.png")
            bands = ("--visible", place / "Vis", "--infrared", place / "Ir")
            fused = place / "fused"
            fuse = ["fusion.fuse", *bands, "--output", fused, "--method", options.method]
            evaluate = ["fusion.evaluate", *bands, "--fused", fused, "--output", place / "metrics.csv"]
            commands = {
                "fuse": [*fuse, "--precision", options.precision],
                "evaluate": [*evaluate, "--workers", options.workers],
            }
            for stage in options.stages:
                seconds, busy, memory = run(*commands[stage])
                numbers = f"{seconds:.1f} | {count / seconds:.1f} | {busy / count:.3f} | {memory:.0f}"
                print(f"| {stage} | {count} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
