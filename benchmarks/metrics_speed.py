"""Measure how much faster `fusion.metrics` is than a straightforward implementation of the reference convention.

MI, VIF, Qabf and SSIM of 1024x768 images on one core, in one run, so that only ratios matter: for one fused image with
its sources, for fifteen fused images of one pair (time per image), and for a folder of fused images on two workers
compared with one. The straightforward implementation is `metrics_reference.py` in the same folder: 2-D
`scipy.signal.convolve2d` for VIF and Qabf, scikit-learn's mutual information, a uniform filter for SSIM. A first,
untimed round excludes compilation.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import metrics_reference as plain
import numpy as np

from fusion.evaluate import evaluate, open_folder
from fusion.metrics import prepare, score
from pipeline.artefacts import versions, write_json
from pipeline.pairs import find_pairs, write_image
from pipeline.stage import run, threads_available

SIZE = (768, 1024)
PAPER = tuple(plain.PAPER)


def scene(rng: np.random.Generator) -> np.ndarray:
    """Return a grey image with smooth shading, sharp boxes, a flat sky and sensor noise."""
    height, width = SIZE
    image = cv2.GaussianBlur(rng.normal(0, 1500, SIZE), (0, 0), 20) + 110 + rng.normal(0, 2.5, SIZE)
    for _ in range(40):
        y, x = rng.integers(0, height), rng.integers(0, width)
        image[y : y + rng.integers(10, 120), x : x + rng.integers(10, 120)] += rng.uniform(-90, 90)
    image[: height // 6] = 200
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def fused_images(visible: np.ndarray, infrared: np.ndarray, count: int) -> list[np.ndarray]:
    """Return `count` weighted averages, from mostly visible to mostly infrared."""
    return [np.rint(w * visible + (1 - w) * infrared).astype(np.uint8) for w in np.linspace(0.8, 0.2, count)]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_single(rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    visible, infrared = scene(rng), scene(rng)
    fused = fused_images(visible, infrared, 15)
    floats = [image.astype(np.float64) for image in (visible, infrared, fused[7])]

    def reference() -> dict[str, float]:
        return {name: function(*floats) for name, function in plain.PAPER.items()}

    def ours() -> dict[str, float]:
        return score(prepare(visible, infrared), fused[7], PAPER)

    def shared() -> None:
        sources = prepare(visible, infrared)
        for image in fused:
            score(sources, image, PAPER)

    expected, found = reference(), ours()
    times = {"reference": [], "ours": [], "shared": []}
    for index in range(rounds):  # alternately, so that other load affects all three equally
        times["reference"].append(seconds(reference))
        times["ours"].append(statistics.median(seconds(ours) for _ in range(5)))
        times["shared"].append(seconds(shared) / len(fused))
        logging.info(
            "metrics_speed: round %d/%d: %s", index + 1, rounds, {k: f"{v[-1]:.4f} s" for k, v in times.items()}
        )
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "reference_s": medians["reference"],
        "ours_s": medians["ours"],
        "shared_s": medians["shared"],
        "ratio": medians["reference"] / medians["ours"],
        "ratio_shared": medians["reference"] / medians["shared"],
        "largest_relative_error": max(abs(found[name] / expected[name] - 1) for name in PAPER),
    }


def measure_scaling(images: int, rounds: int) -> float:
    """Return the speed-up of two workers over one for a folder of fused images, with all metrics, files and digests."""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for index in range(images):
            visible, infrared = scene(rng), scene(rng)
            for folder, image in zip(
                ("visible", "infrared", "fused"), (visible, infrared, *fused_images(visible, infrared, 1)), strict=True
            ):
                write_image(root / folder / f"{index:05}.png", image)
        pairs = find_pairs(root / "visible", root / "infrared")

        def on(workers: int) -> float:
            output = root / f"{time.monotonic_ns()}.csv"  # a new name, so that nothing is resumed
            folder = open_folder(root / "fused", output, pairs, exact=True)
            return seconds(lambda: evaluate(pairs, [folder], "reference", workers))

        on(2)
        ratios = []
        for index in range(rounds):
            ratios.append(on(1) / on(2))
            logging.info("metrics_speed: scaling %d/%d: %.2f", index + 1, rounds, ratios[-1])
        return statistics.median(ratios)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="JSON file for the results")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="number of rounds, whose median counts")
    parser.add_argument(
        "--images", type=int, default=40, metavar="N", help="number of images in the folder that two workers score"
    )
    options = parser.parse_args(argv)
    cv2.setNumThreads(1)
    results = measure_single(options.rounds)
    results["scaling_two_workers"] = (
        measure_scaling(options.images, options.rounds) if threads_available() > 1 else float("nan")
    )
    results["versions"] = versions("numpy", "scipy", "scikit-learn", "numba", "opencv-python-headless")
    write_json(options.json, results)
    for name, value in results.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    run(main)
