"""Fixtures of the tests of tables and page."""

from pathlib import Path

import pytest
from example_run import ExampleRun


@pytest.fixture
def example(tmp_path: Path):
    """Make an example run: `example(variants, seeds, dataset)`."""

    def make(
        variants: tuple[str, ...] = ("visible", "infrared", "average", "fnet"),
        seeds: tuple[int, ...] = (0,),
        dataset: str = "m3fd",
    ) -> ExampleRun:
        return ExampleRun(tmp_path / "run", variants, seeds, dataset)

    return make


@pytest.fixture(scope="session")
def ordinary_run(tmp_path_factory: pytest.TempPathFactory) -> ExampleRun:
    """An example run that several tests share and none changes."""
    return ExampleRun(tmp_path_factory.mktemp("run"), ("visible", "infrared", "average", "fnet"), (0,), "m3fd")
