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


# The files that take longest, in seconds on one core: two workers share the files, and the long ones start first.
LONGEST = (
    *("workflow/test_run.py", "fusion/test_train.py", "cluster/test_slurm.py", "workflow/test_small_runs.py"),
    *("fusion/test_fuse.py", "detection/test_training.py", "fusion/methods/test_u2fusion.py", "faults/test_faults.py"),
    *("fusion/fnet/gpu/test_columns.py", "fusion/fnet/cpu/test_kernels.py", "workflow/test_workflow.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
