"""Fixtures of the tests of fusing."""

import sys

import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Networks made by a test start from the same random weights at each run."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
