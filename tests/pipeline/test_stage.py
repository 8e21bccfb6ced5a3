"""A program's command line: what the shell left of it, and a mistake as one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.stage import with_home


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("~/vi", "HOME/vi"),
        ("--visible=~/vi", "--visible=HOME/vi"),
        ("visible=~/vi", "visible=HOME/vi"),
        ("a~b/~", "a~b/~"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ("--own=command=python ~/x", "--own=command=python ~/x"),
    ],
)
def test_a_leading_tilde_is_the_home_folder(monkeypatch, word, found):
    monkeypatch.setenv("HOME", "/somewhere")
    assert with_home(word) == found.replace("HOME", "/somewhere")


def test_every_stage_knows_the_home_folder(tmp_path):
    stage = [sys.executable, "-m", "detection.audit", "--root=~/absent", "--dataset", "m3fd"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    result = subprocess.run(
        stage, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr == f"error: --root {tmp_path}/absent is not a folder; expected the folder of the dataset\n"
