"""Fixtures that several test files share."""

from pathlib import Path

import numpy as np
import pytest

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
