"""Measure the time and memory of the workflow's stages at M3FD's full size, without M3FD's images.

    python benchmarks/m3fd_scale.py --boxes boxes.json --work DIR --json FILE

The boxes are COCO JSON with M3FD's image names and sizes; `--scenario` is the authors' scenario.json, by default the
shipped ranges are used. Every image is replaced by two placeholders of its name and size, of 16 x 16 flat cells with
random levels, or random colours in visible. All placeholders differ, so that there are no near duplicates and no pair
with equal bands. Such files are small and fast to decode; the additional cost of real images is missing from the
numbers of `audit` and `prepare`.

Detections are simulated (by m3fd_detections.py in the same folder), fused images are the visible placeholders with a
manifest for each method, and fusion metrics are random numbers. Every other stage runs in its own process with the
options that the workflow's rules give it. If the boxes are of all of M3FD's images, every shipped split is prepared,
else one random and one scene-blocked split.

Printed and written are, for each stage, the number of its runs, the total elapsed and processor (user and system)
seconds of all runs, and the peak resident memory of one process. A busy machine disturbs processor seconds less.
"""

import argparse
import platform
import re
import shutil
import struct
import zlib
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import load
import numpy as np
import pandas as pd
import yaml

from detection.datasets.m3fd import all_scenes
from detection.splits import INCLUDED
from detection.truth import read_truth
from pipeline.artefacts import read_json, sha256_file, versions, write_csv, write_json
from pipeline.pairs import read_names
from pipeline.stage import InputError, run, threads_available

PAPER = Path(__file__).parents[1] / "config" / "paper.yaml"
BANDS = ("visible", "infrared")
CELLS = 16  # per side, because a palette has 256 entries
METRICS = ("MI", "VIF", "Qabf", "SSIM")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache
def cells(width: int, height: int) -> tuple[bytes, bytes]:
    """Return the parts before and after the palette of a PNG file of numbered cells; only palettes differ."""
    rows, columns = (np.arange(side) * CELLS // side for side in (height, width))
    index = np.zeros((height, width + 1), np.uint8)  # the first byte of a row is its filter, 0 for none
    index[:, 1:] = CELLS * rows[:, None] + columns
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head, chunk(b"IDAT", zlib.compress(index.tobytes(), 9)) + chunk(b"IEND", b"")


def placeholder(width: int, height: int, palette: np.ndarray) -> bytes:
    """Return a PNG file of this size, whose cells have the colours of the palette, uint8 (256, 3)."""
    before, after = cells(width, height)
    return before + chunk(b"PLTE", palette.tobytes()) + after


def voc(name: str, width: int, height: int, boxes: Iterable[tuple[str, Sequence[float]]]) -> str:
    """Return Pascal VOC XML as in M3FD, from the class and x, y, width, height of each box."""
    objects = "".join(
        f"  <object>\n    <name>{escape(label)}</name>\n    <bndbox><xmin>{x:g}</xmin><ymin>{y:g}</ymin>"
        f"<xmax>{x + w:g}</xmax><ymax>{y + h:g}</ymax></bndbox>\n  </object>\n"
        for label, (x, y, w, h) in boxes
    )
    size = f"<width>{width}</width><height>{height}</height><depth>3</depth>"
    return f"<annotation>\n  <filename>{name}.png</filename>\n  <size>{size}</size>\n{objects}</annotation>\n"


def lay_out(truth: dict[str, Any], root: Path, scenario: Path | None = None) -> None:
    """Write placeholders, and the boxes of a COCO ground truth, in M3FD's layout below `root`."""
    for folder in ("Vis", "Ir", "Annotation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    labels = {category["id"]: category["name"] for category in truth["categories"]}
    boxes: dict[int, list[tuple[str, Sequence[float]]]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        boxes[annotation["image_id"]].append((labels[annotation["category_id"]], annotation["bbox"]))
    rng = np.random.default_rng(0)
    for image in truth["images"]:
        name, size = Path(image["file_name"]).stem, (image["width"], image["height"])
        colours, levels = rng.integers(0, 256, (256, 3), np.uint8), rng.integers(0, 256, (256, 1), np.uint8)
        (root / "Vis" / f"{name}.png").write_bytes(placeholder(*size, colours))
        (root / "Ir" / f"{name}.png").write_bytes(placeholder(*size, levels.repeat(3, axis=1)))
        (root / "Annotation" / f"{name}.xml").write_text(voc(name, *size, boxes[image["id"]]), encoding="utf-8")
    if scenario:
        shutil.copyfile(scenario, root / "scenario.json")


def write_fused(work: Path, split: Path, methods: Sequence[str]) -> None:
    """Write the files of fusing and scoring: a manifest and random fusion metrics for each method."""
    files = sorted((work / "m3fd" / "Vis").iterdir())
    manifest = pd.DataFrame(
        {"name": [f.stem for f in files], "file": [f.name for f in files], "sha256": list(map(sha256_file, files))}
    )
    test, rng = read_names(split / "test.txt"), np.random.default_rng(0)
    for method in methods:
        write_csv(work / "fused" / method / "manifest.csv", manifest, {"method": method, "weights": "none"})
        metrics = pd.DataFrame({"name": test} | {name: rng.random(len(test)) for name in METRICS})
        write_csv(work / "metrics" / f"{method}.csv", metrics, {"method": method, "convention": "made up"})


class Stages:
    """Runs stages as processes and records their cost."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self.costs: dict[str, dict[str, float]] = {}

    def run(self, stage: str, commands: Sequence[Sequence[object]]) -> None:
        """Run the commands of a stage, each a module and its options, one after another, and print the totals."""
        log = self.logs / f"{stage.replace(' ', '-')}.log"
        walls, processors, memories = zip(*(load.run(*command, log=log) for command in commands), strict=True)
        count, wall, busy, most = len(commands), sum(walls), sum(processors), max(memories)
        self.costs[stage] = {"runs": count, "wall_s": wall, "processor_s": busy, "peak_mb": most}
        print(f"| {stage} | {count} | {wall:.1f} | {busy:.1f} | {busy / count:.1f} | {most:.0f} |", flush=True)


def split_options(names: Collection[str]) -> dict[str, list[object]]:
    """Return the options of each split that is possible for a dataset with these names."""
    test = round(len(names) * 1200 / 4200)
    drawn = {"random": ["--train", len(names) - test, "--test", test], "scene-blocked": ["--test", test]}
    return drawn | ({kept: [] for kept in INCLUDED} if set(names) == set(all_scenes()) else {})


def prepare_all(stages: Stages, work: Path, names: Collection[str]) -> None:
    """Audit the dataset, and prepare each of its splits in a folder of the split's name."""
    data = ("--dataset", "m3fd", "--root", work / "m3fd")
    stages.run("audit", [["detection.audit", *data, "--split", "random", "--output", work / "audit.json"]])
    for split, options in split_options(names).items():
        command = ["detection.prepare", *data, "--split", split, *options, "--output", work / "splits" / split]
        stages.run(f"prepare {split}", [command])


def score_all(stages: Stages, work: Path, split: Path, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """Simulate the detections for a prepared split, and run all later stages up to the page."""
    variants = [*BANDS, *methods]
    folders = {variant: work / "m3fd" / ("Ir" if variant == "infrared" else "Vis") for variant in variants}
    manifests = [work / "fused" / method / "manifest.csv" for method in methods]
    tables, scenes, truth = work / "tables", split / "scenes.csv", split / "truth_test.json"

    def folder(variant: str, seed: int = seeds[0]) -> Path:
        return work / "detection" / variant / f"seed{seed}"

    def every(names: Sequence[str], file: str) -> list[Path]:
        return [folder(name, seed) / file for name in names for seed in seeds]

    described = {variant: work / "detection" / variant / "data.yaml" for variant in variants}
    stages.run(
        "describe variants",
        [
            ["detection.variant", "--variant", variant, "--prepared", split, "--images", folders[variant]]
            + (["--manifest", work / "fused" / variant / "manifest.csv"] if variant in methods else [])
            + ["--output", described[variant]]
            for variant in variants
        ],
    )
    stages.run(
        "make up and score detections",
        [
            ["benchmarks.m3fd_detections", "--data", described[variant], "--prepared", split, "--seed", seed]
            + ["--output", folder(variant, seed)]
            for variant in variants
            for seed in seeds
        ],
    )
    conditions = ["--conditions", split / "conditions.json"]
    stages.run(
        "pool boxes",
        [
            ["detection.late", "--truth", truth, *conditions, "--output", folder("late", seed)]
            + [word for band in BANDS for word in (f"--{band}", folder(band, seed))]
            for seed in seeds
        ],
    )
    rows = [*variants, "late"]
    predictions = [f"{row}={folder(row) / 'predictions.json'}" for row in rows]
    runs = [f"{row}/{seed}={folder(row, seed) / 'predictions.json'}" for row in rows for seed in seeds]
    stages.run(
        "list objects",
        [
            ["detection.objects", "--truth", truth, *conditions, "--predictions", *predictions]
            + ["--output", tables / "helps.json"]
        ],
    )
    errors = ["--errors", tables / "errors.json"]
    curves = ["--curves", tables / "pr_curves.csv"]
    stages.run(
        "sort errors",
        [["detection.errors", "--truth", truth, "--predictions", *runs, "--output", errors[1], *curves]],
    )
    significance = ["--significance", tables / "significance.json"]
    stages.run(
        "test differences",
        [
            ["detection.significance", "--truth", truth, "--scenes", scenes, "--predictions", *runs]
            + ["--output", significance[1]]
        ],
    )
    write_json(work / "config.json", yaml.safe_load(PAPER.read_text(encoding="utf-8")))
    shared = ["--split", split, "--config-snapshot", work / "config.json"]
    made = ["reports.tables", *shared, "--fused-manifests", *manifests, "--output", tables]
    ap = ["--ap", *every(rows, "ap.json")]
    trained = ["--training", *every(variants, "provenance.json")]
    stages.run("build table 2", [[*made, *ap, *trained, *significance, "--variants", *rows]])
    about = ["--split", split, *ap, *errors, "--variants", *rows, "--output", tables]
    stages.run("build error table", [["reports.errors", *about]])
    metrics = [work / "metrics" / f"{method}.csv" for method in methods]
    stages.run("build fusion table", [[*made, "--metrics", *metrics, "--variants", *methods]])
    images = [f"{variant}={path}" for variant, path in folders.items()]
    stages.run(
        "build page",
        [
            ["reports.page", *shared, "--tables", tables, "--images", *images, *ap, "--predictions", *predictions]
            + [*significance, *errors, *curves, "--helps", tables / "helps.json", "--output", work / "report.html"]
        ],
    )


def processor() -> str:
    """Return the processor's name as Linux reports it, else as Python does."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else platform.processor()


def main(argv: Sequence[str] | None = None) -> None:
    """Write the dataset, run the stages, print and write their cost."""
    detection, fusion = (yaml.safe_load(PAPER.read_text(encoding="utf-8"))[key] for key in ("detection", "fusion"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=Path, required=True, metavar="FILE", help="all boxes, COCO JSON, ids from 1")
    parser.add_argument("--scenario", type=Path, metavar="FILE", help="the authors' scenario.json")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for all files, some gigabytes")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="JSON file for the results")
    parser.add_argument("--split", default="m3fd-scenes", help="the split to test on (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=fusion["methods"], help="methods (default: the paper's)")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=detection["seeds"], help="seeds (default: those of config/paper.yaml)"
    )
    options = parser.parse_args(argv)
    truth = read_truth(options.boxes)
    names = [Path(image["file_name"]).stem for image in truth["images"]]
    if options.split not in split_options(names):
        raise InputError(f"--split {options.split}: expected one of {', '.join(split_options(names))}")
    work = options.work.resolve()
    split, stages = work / "splits" / options.split, Stages(work / "logs")
    lay_out(truth, work / "m3fd", options.scenario)
    print("| stage | runs | elapsed s | processor s | processor s per run | peak memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    prepare_all(stages, work, names)
    write_fused(work, split, options.methods)
    score_all(stages, work, split, options.methods, options.seeds)
    tested = read_json(work / "detection" / BANDS[0] / f"seed{options.seeds[0]}" / "ap.json")
    write_json(
        options.json,
        {
            "stages": stages.costs,
            "pairs": len(names),
            "boxes": len(truth["annotations"]),
            "split": options.split,
            **{f"test_{key}": tested[key] for key in ("images", "boxes", "detections")},
            "variants": len(BANDS) + len(options.methods),
            "seeds": options.seeds,
            "processor": processor(),
            "threads": threads_available(),
            "versions": versions("numpy", "scipy", "numba", "pandas", "pycocotools", "opencv-python-headless"),
        },
    )


if __name__ == "__main__":
    run(main)
