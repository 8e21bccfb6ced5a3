"""The stages on a tiny generated data set, each run in a process of its own that can be killed, starved or confined.

Processes are forked from a server that has imported the packages already: so a kill at a random moment meets the
stage's work, not its imports, and two hundred runs fit into minutes.
"""

import copy
import hashlib
import importlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "train": "fusion.train",
    "fuse": "fusion.fuse",
    "evaluate": "fusion.evaluate",
    "train_detector": "detection.train",
    "test_detector": "detection.test",
    "tables": "reports.tables",
}
OTHERS = ("fusion.synthetic.__main__", "detection.prepare", "detection.variant", "detection.late")
VARIANTS = ("visible", "infrared", "average")

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["stages", "detection.detector", *MODULES.values(), *OTHERS])


@dataclass(frozen=True)
class Outcome:
    """How a run of a stage ended: its exit status (negative: the signal), what it said, seconds."""

    status: int
    text: str
    seconds: float

    @property
    def error(self) -> str:
        """The one line by which a stage refuses; empty where there is none, or more than one."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return lines[0] if len(lines) == 1 and self.status == 1 and "Traceback" not in self.text else ""

    def summary(self) -> str:
        """What a table shows of it."""
        if self.status == 0:
            return "completes"
        return self.error or f"status {self.status}: {(self.text.strip().splitlines() or ['no word'])[-1]}"


class Process:
    """A stage under way."""

    def __init__(self, module: str, options: list[str], log: Path, memory: int | None = None) -> None:
        """Start `module` with `options`; `memory` is the most address space it gets, in bytes beyond what it has."""
        self.log, self.start = log, time.monotonic()
        self.process = _server.Process(target=_run, args=(module, options, str(log), memory))
        self.process.start()

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for its end, at most `timeout` seconds, and kill it by signal 9 after those."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        return Outcome(self.process.exitcode, text, time.monotonic() - self.start)


def _run(module: str, options: list[str], log: str, memory: int | None) -> None:
    """Be the stage: its output goes to `log`."""
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    main = importlib.import_module(module).main
    from pipeline import stage

    if memory is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.RLIM_INFINITY))
    sys.argv = [module, *options]
    stage.run(lambda _: main(options))


def run(module: str, options: list[str], log: Path, **limits: int) -> Outcome:
    """Run a module's `main` to its end."""
    return Process(module, options, log, **limits).wait()


class Bench:
    """All stages' inputs and undisturbed results in one folder; what a test spoils is in a folder of its own."""

    def __init__(self, base: Path, train: int = 24, test: int = 12, size: tuple[int, int] = (128, 96)) -> None:
        """Generate the pairs and run every stage once."""
        self.base = base
        base.mkdir(parents=True, exist_ok=True)
        self.pairs, self.split = base / "pairs", base / "split"
        self.bands = {"visible": self.pairs / "Vis", "infrared": self.pairs / "Ir"}
        numbers = ["--train", str(train), "--test", str(test), "--size", *map(str, size)]
        self._once("fusion.synthetic.__main__", ["--output", str(self.pairs), *numbers])
        dataset = ["--dataset", "synthetic", "--root", str(self.pairs), "--output", str(self.split)]
        self._once("detection.prepare", dataset)
        self.seconds: dict[str, float] = {}
        for variant in VARIANTS:
            images, manifest = self.bands.get(variant), []
            if images is None:
                images = base / "fused" / variant
                self._stage("fuse", images)
                manifest = ["--manifest", str(images / "manifest.csv")]
            data = base / variant / "data.yaml"
            named = ["--variant", variant, "--prepared", str(self.split), "--images", str(images), *manifest]
            self._once("detection.variant", [*named, "--output", str(data)])
            seed = base / variant / "seed0"
            self._stage("train_detector", seed, variant)
            self._stage("test_detector", seed, variant)
        self._stage("evaluate", base / "metrics/average.csv")
        self._stage("train", base / "fnet")
        self._stage("tables", base / "tables")

    def options(self, stage: str, output: Path, variant: str = "average") -> list[str]:
        """Return the options by which `stage` writes to `output`."""
        bands = [word for band, folder in self.bands.items() for word in (f"--{band}", str(folder))]
        seeds = [str(self.base / name / "seed0") for name in VARIANTS]
        fused = str(self.base / "fused/average")
        cpu = ["--device", "cpu", "--threads", "1"]
        options = {
            "train": [*bands, *cpu, "--stage1-iterations", "8", "--stage2-iterations", "12", "--batch", "2"]
            + ["--crop", "24", "--checkpoint-every", "3", "--log-every", "5", "--resume"],
            "fuse": ["--method", "average", *bands],
            "evaluate": [*bands, "--fused", fused, "--workers", "2"],
            "train_detector": ["--data", str(self.base / variant / "data.yaml"), "--model", "yolov5n", *cpu]
            + ["--image-size", "64", "--epochs", "3", "--batch", "8", "--nominal-batch", "8", "--mosaic", "0"]
            + ["--close-mosaic", "0", "--optimizer", "AdamW", "--save-every", "0", "--resume"],
            "test_detector": ["--data", str(self.base / variant / "data.yaml"), *cpu, "--batch", "4"]
            + ["--weights", str(self.base / variant / "seed0/weights.pt")]
            + ["--conditions", str(self.split / "conditions.json")],
            "tables": ["--split", str(self.split), "--variants", *VARIANTS]
            + ["--ap", *(f"{seed}/ap.json" for seed in seeds)]
            + ["--training", *(f"{seed}/provenance.json" for seed in seeds)]
            + ["--metrics", str(self.base / "metrics/average.csv")]
            + ["--fused-manifests", f"{fused}/manifest.csv"],
        }
        return [*options[stage], "--output", str(output)]

    def output(self, stage: str, folder: Path) -> Path:
        """Return what `stage` is told to write to in `folder`."""
        return folder / "average.csv" if stage == "evaluate" else folder

    def results(self, stage: str) -> dict[str, str]:
        """Return the undisturbed run's results: SHA-256 by path."""
        place = {"train": "fnet", "fuse": "fused/average", "evaluate": "metrics", "tables": "tables"}
        found = results(self.base / place.get(stage, "average/seed0"))
        ours = {"train_detector": ("weights.pt", "results.csv", "provenance.json"), "test_detector": None}
        if stage not in ours:
            return found
        return {name: digest for name, digest in found.items() if (name in ours["train_detector"]) == bool(ours[stage])}

    def start(self, stage: str, folder: Path, **limits: int) -> Process:
        """Start `stage`, writing to `folder`."""
        options = self.options(stage, self.output(stage, folder))
        return Process(MODULES[stage], options, folder.with_name(f"{folder.name}.log"), **limits)

    def run(self, stage: str, folder: Path, **limits: int) -> Outcome:
        """Run `stage` to its end, writing to `folder`."""
        return self.start(stage, folder, **limits).wait()

    def copied(self, folder: Path) -> "Bench":
        """Return a copy of all of it in `folder`, to be spoilt."""
        shutil.copytree(self.base, folder)
        other = copy.copy(self)
        other.base, other.pairs, other.split = folder, folder / "pairs", folder / "split"
        other.bands = {band: other.pairs / path.name for band, path in self.bands.items()}
        return other

    def _stage(self, stage: str, output: Path, variant: str = "average") -> None:
        self.seconds[stage] = self._once(MODULES[stage], self.options(stage, output, variant))

    def _once(self, module: str, options: list[str]) -> float:
        outcome = run(module, options, self.base / f"{module}.log")
        if outcome.status:
            raise RuntimeError(f"{module} {options}: {outcome.text}")
        return outcome.seconds


def results(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files below `folder` by path; hidden ones and checkpoints are no results."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder): path for path in files}
    return {
        str(name): hashlib.sha256(_without_times(path)).hexdigest()
        for name, path in named.items()
        if not any(part.startswith(".") or part == "checkpoints" for part in name.parts)
    }


def _without_times(path: Path) -> bytes:
    """Return a file's bytes; of a detector's training without the time that it took, which no two runs share."""
    if path.name == "results.csv":
        lines = path.read_bytes().splitlines()
        speed = next((line.split(b",").index(b"seconds") for line in lines if b",seconds," in line), None)
        return b"\n".join(line if line.startswith(b"#") else b",".join(line.split(b",")[:speed]) for line in lines)
    if path.name == "provenance.json":
        return re.sub(rb'"(hours|images_per_s|waited_share)": [^,\n]*', b"", path.read_bytes())
    return path.read_bytes()


def parts_left(folder: Path) -> list[str]:
    """Return the half-written files below `folder`: those of `pipeline.artefacts.replacing`."""
    return [path.name for path in folder.rglob(".*-*") if path.name[1].isdigit()] if folder.is_dir() else []


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Say how results differ; empty where they do not."""
    return json.dumps(sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name)))[1:-1]
