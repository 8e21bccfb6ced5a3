"""Many pairs through fusing, scoring and back: is memory flat, and how many pairs a second?

    python benchmarks/load.py --pairs 400 4200 --size 1024 768

The pairs are copies, by hard link, of a few generated scenes: every file is read, hashed, fused and scored like any
other, and the disk holds the fused images alone (some gigabytes, deleted at the end).
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
    """Run a module, its messages into `log`.

    Returns its seconds, the processor's seconds in it and its children, the most resident memory of one of them, MB.
    """
    start = time.monotonic()
    with log.open("ab") as messages:
        process = subprocess.Popen([sys.executable, "-m", *map(str, options)], stdout=messages, stderr=messages)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{options[0]} failed with status {status}; its messages are in {log}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[400, 4200], help="how many pairs, in several runs")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("W", "H"), help="pixels")
    parser.add_argument("--method", default="average", help="a method without weights")
    parser.add_argument("--precision", default="fp32", help="of a network's convolutions")
    parser.add_argument("--workers", type=int, default=2, help="images scored at a time")
    parser.add_argument("--stages", nargs="+", choices=("fuse", "evaluate"), default=("fuse", "evaluate"))
    options = parser.parse_args()
    print("| stage | pairs | s | pairs/s | processor s a pair | most memory, MB |\n|---|---|---|---|---|---|")
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
