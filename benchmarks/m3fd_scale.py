"""What the workflow's stages cost at M3FD's real size, without its images: seconds and memory of each.

    python benchmarks/m3fd_scale.py --boxes boxes.json --work DIR --json FILE

The boxes are COCO JSON of M3FD's names with the images' sizes; `--scenario` is the authors' scenario.json, without
which the shipped ranges stand for it. Every image gets two stand-ins of its name and size, 16 x 16 flat cells of random
levels, in visible of random colours: no two pairs are alike, so that there are no near duplicates, and no two bands.
Such files are small and quick to decode; what real ones cost beyond that is not in the numbers of `audit` and
`prepare`.

Detectors are made up (m3fd_detections.py beside this file), fused images are the visible stand-ins under a manifest of
each method, and the fusion metrics are random numbers. Every other stage runs as a process of its own with the options
that the rules give it. If the boxes are of all of M3FD's names, every kept split is prepared, else one drawn at random
and one by scenes.

Printed and written: how often each stage ran, wall and processor (user and system) seconds of all its runs together,
and the most resident memory of one process. A busy machine disturbs processor seconds less.
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
from detection.splits import KEPT
from detection.truth import read_truth
from pipeline.artefacts import read_json, sha256_file, versions, write_csv, write_json
from pipeline.pairs import read_names
from pipeline.stage import InputError, run, threads_available

PAPER = Path(__file__).parents[1] / "config" / "paper.yaml"
BANDS = ("visible", "infrared")
CELLS = 16  # a side; a palette has 256 entries
METRICS = ("MI", "VIF", "Qabf", "SSIM")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache
def cells(width: int, height: int) -> tuple[bytes, bytes]:
    """Return a PNG file of numbered cells up to its palette, and from there on: only palettes differ."""
    rows, columns = (np.arange(side) * CELLS // side for side in (height, width))
    index = np.zeros((height, width + 1), np.uint8)  # the first of a row is its filter, none
    index[:, 1:] = CELLS * rows[:, None] + columns
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head, chunk(b"IDAT", zlib.compress(index.tobytes(), 9)) + chunk(b"IEND", b"")


def stand_in(width: int, height: int, palette: np.ndarray) -> bytes:
    """Return a PNG file of that size, whose cells have the colours of the palette, uint8 (256, 3)."""
    before, after = cells(width, height)
    return before + chunk(b"PLTE", palette.tobytes()) + after


def voc(name: str, width: int, height: int, boxes: Iterable[tuple[str, Sequence[float]]]) -> str:
    """Return Pascal VOC XML as M3FD has it, from class and x, y, width, height of each box."""
    objects = "".join(
        f"  <object>\n    <name>{escape(label)}</name>\n    <bndbox><xmin>{x:g}</xmin><ymin>{y:g}</ymin>"
        f"<xmax>{x + w:g}</xmax><ymax>{y + h:g}</ymax></bndbox>\n  </object>\n"
        for label, (x, y, w, h) in boxes
    )
    size = f"<width>{width}</width><height>{height}</height><depth>3</depth>"
    return f"<annotation>\n  <filename>{name}.png</filename>\n  <size>{size}</size>\n{objects}</annotation>\n"


def lay_out(truth: dict[str, Any], root: Path, scenario: Path | None = None) -> None:
    """Write stand-ins and boxes (COCO) in M3FD's layout below `root`."""
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
        (root / "Vis" / f"{name}.png").write_bytes(stand_in(*size, colours))
        (root / "Ir" / f"{name}.png").write_bytes(stand_in(*size, levels.repeat(3, axis=1)))
        (root / "Annotation" / f"{name}.xml").write_text(voc(name, *size, boxes[image["id"]]), encoding="utf-8")
    if scenario:
        shutil.copyfile(scenario, root / "scenario.json")


def write_fused(work: Path, split: Path, methods: Sequence[str]) -> None:
    """Write what fusing and scoring would have: a manifest and fusion metrics of each method."""
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
    """Runs stages as processes, and keeps what they cost."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self.costs: dict[str, dict[str, float]] = {}

    def run(self, stage: str, commands: Sequence[Sequence[object]]) -> None:
        """Run the commands of a stage, each a module and its options, one after the other, and print the sums."""
        log = self.logs / f"{stage.replace(' ', '-')}.log"
        walls, processors, memories = zip(*(load.run(*command, log=log) for command in commands), strict=True)
        count, wall, busy, most = len(commands), sum(walls), sum(processors), max(memories)
        self.costs[stage] = {"runs": count, "wall_s": wall, "processor_s": busy, "peak_mb": most}
        print(f"| {stage} | {count} | {wall:.1f} | {busy:.1f} | {busy / count:.1f} | {most:.0f} |", flush=True)


def split_options(names: Collection[str]) -> dict[str, list[object]]:
    """Return the options of each split that a data set of these names can have."""
    test = round(len(names) * 1200 / 4200)
    drawn = {"random": ["--train", len(names) - test, "--test", test], "scene-blocked": ["--test", test]}
    return drawn | ({kept: [] for kept in KEPT} if set(names) == set(all_scenes()) else {})


def prepare_all(stages: Stages, work: Path, names: Collection[str]) -> None:
    """Audit the data set, and prepare each of its splits in a folder of its name."""
    data = ("--dataset", "m3fd", "--root", work / "m3fd")
    stages.run("audit", [["detection.audit", *data, "--split", "random", "--output", work / "audit.json"]])
    for split, options in split_options(names).items():
        command = ["detection.prepare", *data, "--split", split, *options, "--output", work / "splits" / split]
        stages.run(f"prepare {split}", [command])


def judge_all(stages: Stages, work: Path, split: Path, methods: Sequence[str], seeds: Sequence[int]) -> None:
    """Make detectors up for a prepared split, and run what follows on them, up to the page."""
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
    """Return the processor's name as Linux knows it, else as Python does."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else platform.processor()


def main(argv: Sequence[str] | None = None) -> None:
    """Lay out, run, print, write."""
    detection, fusion = (yaml.safe_load(PAPER.read_text(encoding="utf-8"))[key] for key in ("detection", "fusion"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=Path, required=True, metavar="FILE", help="all boxes, COCO JSON, ids from 1")
    parser.add_argument("--scenario", type=Path, metavar="FILE", help="the authors' scenario.json")
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="folder for all files, of some gigabytes"
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the results go")
    parser.add_argument("--split", default="m3fd-scenes", help="the split that is tested on (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=fusion["methods"], help="default: the paper's")
    parser.add_argument("--seeds", nargs="+", type=int, default=detection["seeds"], help="default: the paper's 0 1 2")
    options = parser.parse_args(argv)
    truth = read_truth(options.boxes)
    names = [Path(image["file_name"]).stem for image in truth["images"]]
    if options.split not in split_options(names):
        raise InputError(f"--split {options.split}: wanted one of {', '.join(split_options(names))}")
    work = options.work.resolve()
    split, stages = work / "splits" / options.split, Stages(work / "logs")
    lay_out(truth, work / "m3fd", options.scenario)
    print("| stage | runs | wall s | processor s | processor s a run | most memory, MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    prepare_all(stages, work, names)
    write_fused(work, split, options.methods)
    judge_all(stages, work, split, options.methods, options.seeds)
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
