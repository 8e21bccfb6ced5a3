"""Measure the processor seconds of each metric of `EXTRA` for a pair of 1024x768.

One pair, one fused image, one core; the sources are prepared in every round. A first, untimed round excludes
compilation.
"""

import argparse
import time
from collections.abc import Sequence

import cv2
import numpy as np
from metrics_speed import fused_images, scene

from fusion.metrics import EXTRA, prepare, score


def main(argv: Sequence[str] | None = None) -> None:
    """Print each metric's shortest time over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="number of rounds; the shortest time counts")
    rounds = parser.parse_args(argv).rounds
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    visible, infrared = scene(rng), scene(rng)
    (fused,) = fused_images(visible, infrared, 1)
    score(prepare(visible, infrared), fused, EXTRA)
    for name in EXTRA:
        times = []
        for _ in range(rounds):
            start = time.process_time()
            score(prepare(visible, infrared), fused, [name])
            times.append(time.process_time() - start)
        print(f"{name}: {min(times):.3f} s")


if __name__ == "__main__":
    main()
