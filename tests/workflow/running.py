"""The workflow started by tests: run, or planned in this process; and a configuration of the smallest run."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.cli import main

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

SMALLEST = {
    "device": "cpu",
    "threads": 2,
    "synthetic": {"train": 8, "test": 8, "size": [96, 64]},
    "fusion": {"methods": ["fnet", "maximum"]},
    "fnet": {"training": {"stage1_iterations": 2, "stage2_iterations": 3, "batch": 2, "crop": 32}},
    "detection": {"image_size": 64, "stacked": True, "twostream": True, "training": {"epochs": 1}},
}


def words(folder, overlays):
    """Return the words after `snakemake`, with the root's config.yaml and more overlays (dictionaries or files)."""
    (folder / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    files = []
    for number, overlay in enumerate(overlays):
        files.append(folder / f"overlay{number}.yaml")
        text = overlay.read_text() if isinstance(overlay, Path) else yaml.safe_dump(overlay)
        files[-1].write_text(text)
    given = ["--snakefile", ROOT / "workflow/Snakefile", "--directory", folder, "--cores", "2"]
    given += ["--workflow-profile", ROOT / "workflow/profiles/default"]
    return [*map(str, [*given, *(["--configfile", *files] if files else [])])]


def snakemake(folder, *options, overlays=(), check=True):
    """Run the workflow in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [BIN / "snakemake", *words(folder, overlays), *options]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    text = result.stdout + result.stderr
    assert not check or result.returncode == 0, text[-6000:]
    return text


def dry_run(folder, *options, overlays=(), check=True):
    """Plan the workflow in `folder`, in this process: Snakemake is started once for all."""
    said = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as ended,
    ):
        main([*words(folder, overlays), "-n", "-p", *options])
    text = said.getvalue()
    assert not check or ended.value.code == 0, text[-6000:]
    return text


def plan(text):
    """Return how often each rule is planned."""
    table = text[text.index("Job stats") :].split("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
