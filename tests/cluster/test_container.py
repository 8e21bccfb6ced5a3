"""The recipes for containers copy what the package needs and pin nothing themselves; an image is not built here."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = ROOT / "container"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPES = ("Dockerfile", "benchmark.def")


def copied(recipe):
    """Return what a recipe copies, as {path in the image, below /opt/benchmark: path in the clone}."""
    text = (CONTAINER / recipe).read_text()
    if recipe == "benchmark.def":
        section = re.search(r"^%files\n((?: +.*\n)+)", text, re.MULTILINE)[1]
        pairs = [line.split() for line in section.splitlines()]
    else:
        lines = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY ")]
        pairs = [
            (name, target + Path(name).name if target.endswith("/") else target)
            for *names, target in lines
            for name in names
        ]
    return {target.removeprefix("/opt/benchmark/"): name for name, target in pairs}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_copies_what_the_package_and_the_workflow_need(recipe):
    found = copied(recipe)
    assert found and all(target == name and (ROOT / name).exists() for target, name in found.items())
    metadata = PROJECT["project"]
    wanted = {"pyproject.toml", metadata["readme"], *metadata["license-files"]}
    wanted |= set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert set(found) == wanted | {"config.yaml", "config", "workflow", "container/install.sh"}
    assert found.keys() == copied(RECIPES[0]).keys()


def test_what_is_copied_is_not_left_out_of_the_build():
    first, *lines = (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines()[1:]
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert first == "*" and kept == set(copied("Dockerfile").values())


def test_the_recipes_name_no_version_but_one_python_that_the_project_takes():
    texts = {path.name: path.read_text() for path in CONTAINER.iterdir() if path.is_file() and path.suffix != ".sif"}
    pythons = {found for text in texts.values() for found in re.findall(r"python:(\d+\.\d+)-slim", text)}
    assert len(pythons) == 1
    lowest, end = re.findall(r"\d+\.(\d+)", PROJECT["project"]["requires-python"])
    assert int(lowest) <= int(pythons.pop().split(".")[1]) < int(end)
    for name, text in texts.items():
        assert not re.search(r"\d+\.\d+|[=~<>]=\s*\d", re.sub(r"python:[\d.]+-slim", "", text)), name
    assert texts["benchmark.def"].count("From: docker.io/library/python") == 1
    extras = set(re.findall(r"--extra (\w+)", texts["install.sh"]))
    assert extras == set(PROJECT["project"]["optional-dependencies"])


def test_the_workflow_names_the_image_that_the_recipe_builds():
    build = re.search(r"apptainer build (\S+) (\S+)", (CONTAINER / "benchmark.def").read_text())
    assert f'container: "{build[1]}"' in (ROOT / "workflow/Snakefile").read_text()
    assert (ROOT / build[2]).is_file()


def test_the_installing_script_is_one_that_a_plain_shell_reads():
    subprocess.run(["sh", "-n", CONTAINER / "install.sh"], check=True)
