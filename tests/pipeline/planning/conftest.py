"""Configurations and plans, made in this process as the Snakefile makes them."""

from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config, validate

from detection.datasets import find_dataset
from fusion.methods import METHODS, packaged_weights
from fusion.own.method import own_entry
from pipeline.planning.configuration import check_size
from pipeline.planning.plan import make_plan

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """Return the configuration with overlays: dictionaries, or names in config/; the working folder is empty."""
    monkeypatch.chdir(tmp_path)

    def configure(*overlays):
        config = yaml.safe_load((ROOT / "config.yaml").read_text())
        for overlay in overlays:
            named = isinstance(overlay, str)
            update_config(config, yaml.safe_load((ROOT / f"config/{overlay}.yaml").read_text()) if named else overlay)
        check_size(config)
        validate(config, str(ROOT / "workflow/schemas/config.schema.yaml"))
        return config

    return configure


@pytest.fixture
def plan(configure):
    """Return the plan of the configuration with overlays, for two cores."""
    return lambda *overlays, cores=2: make_plan(
        configure(*overlays), METHODS, own_entry, packaged_weights, find_dataset, cores
    )


@pytest.fixture
def touch(tmp_path):
    """Make empty files below the working folder."""

    def touch(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return touch
