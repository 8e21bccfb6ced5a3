"""Fixtures that several test files share."""

import os
from pathlib import Path

import numpy as np
import pytest

# Two files are tested side by side: libraries that each take every core, read before they are imported, would wait for
# one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and the authors' files, beside the checkout; not part of the project."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED.name}/data, the real data beside the checkout, is absent")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
