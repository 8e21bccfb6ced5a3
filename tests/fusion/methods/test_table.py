"""The table of methods says what their modules are, and imports none of them."""

import subprocess
import sys

import pytest

from fusion.methods import METHODS, Method, find_method


@pytest.mark.parametrize("name", METHODS)
def test_the_table_and_the_module_agree(name):
    entry, method = METHODS[name], find_method(name)
    assert entry.module == f"fusion.methods.{name}"
    assert isinstance(method, Method)
    assert entry.trainable == (method.training is not None)
    assert entry.needs_weights == (method.network is not None)
    assert method.published is None or entry.needs_weights
    assert entry.trainable or entry.frozen is None
    # A network that cannot be trained here says what that would take.
    assert bool(entry.training_takes) == (entry.needs_weights and not entry.trainable)


def test_the_table_imports_nothing_heavy():
    code = "import sys, fusion.methods; print(*{'torch', 'numba', 'pywt', 'cv2'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
