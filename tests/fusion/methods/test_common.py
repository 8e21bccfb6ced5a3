"""What holds for every method that is a network, whatever it computes."""

import os
import pickle

import numpy as np
import pytest
import torch
from method_checks import random_pairs

from fusion.methods import METHODS, find_method
from fusion.weights import read_parts, read_state, write_state
from pipeline.devices import claimed_device
from pipeline.stage import InputError

NETWORKS = [name for name, entry in METHODS.items() if entry.needs_weights]
SIZES = ((1, 1), (1, 5), (6, 1))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "murf"])  # which fuses at a size of its own
def test_images_one_pixel_wide_keep_their_size(name, tmp_path, rng):
    torch.manual_seed(0)
    method, weights = find_method(name), tmp_path / "random.safetensors"
    write_state(weights, method.network(None).state_dict())
    fuse = method.load(weights, "cpu", "fp32")
    for size in SIZES:
        fused = fuse(*rng.random((2, *size), np.float32))
        assert fused.shape == size and fused.dtype == np.float32 and np.isfinite(fused).all()
        if method.authors_output:
            assert np.isfinite(method.authors_output(fused)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_fuses_what_the_cpu_does(name, tmp_path):
    torch.manual_seed(0)
    method, weights = find_method(name), tmp_path / "random.safetensors"
    write_state(weights, method.network(None).state_dict())
    pair = random_pairs(1, 72, 91)[:, 0, 0].numpy()
    with claimed_device("cuda") as device:
        there = method.load(weights, device, "fp32")(*pair)
    assert np.abs(there - method.load(weights, "cpu", "fp32")(*pair)).max() < 1e-3 * max(1, np.abs(there).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_something_else_lists_what_is_missing_and_unexpected(name, tmp_path):
    write_state(tmp_path / "other.safetensors", {"stranger": torch.zeros(1)})
    with pytest.raises(
        InputError, match=r"other\.safetensors does not contain .*missing \w.* unexpected stranger \(1\)"
    ):
        find_method(name).load(tmp_path / "other.safetensors", "cpu", "fp32")


WRAPPINGS = {
    "state_dict": lambda state: {"epoch": 3, "state_dict": prefixed(state, "module."), "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": prefixed(state, "_orig_mod.module.")},
    "params": lambda state: {"params": prefixed(state, "module._orig_mod.")},
    "params_ema": lambda state: {
        "params": {key: value + 1 for key, value in state.items()},
        "params_ema": state,
    },
    "net": lambda state: {"net": state, "acc": 0.5, "epoch": 2},
    "other": lambda state: {"my_weights": prefixed(state, "net."), "losses": [1.0]},
    "lightning": lambda state: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed(state, "fusion_net._orig_mod."),
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}, "param_groups": []}],
    },
    "with a loss": lambda state: {"state_dict": prefixed(state, "model.") | {"loss.vgg.0.weight": torch.zeros(3)}},
}


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_trainings_put_around_a_state_dict_is_taken_away(name, tmp_path):
    torch.manual_seed(0)
    state = find_method(name).network(None).state_dict()
    for number, wrap in enumerate(WRAPPINGS.values()):
        torch.save(wrap(state), tmp_path / f"{number}.pth")
        loaded = find_method(name).network(tmp_path / f"{number}.pth").state_dict()
        assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)


class Payload:
    """Unpickled by a careless reader, it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def write_program(path, marker, form):
    """Write what a careless reader would run; `form` is how PyTorch files have been packed over the years."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "bare":
        path.write_bytes(pickle.dumps({"weight": Payload(marker)}, protocol=2))
    else:
        torch.save({"weight": Payload(marker)}, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_the_authors_names_that_are_programs_run_nothing(name, tmp_path):
    marker, files = tmp_path / "it-ran", [tmp_path / "weights" / file for file in find_method(name).published.files]
    for file in files:
        write_program(file, marker, "zip")
    for weights in (tmp_path / "weights", files[0]):
        with pytest.raises(InputError):
            find_method(name).load(weights, "cpu", "fp32")
    assert not marker.exists()


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
@pytest.mark.parametrize("read", [read_state, read_parts])
def test_a_program_is_not_run_however_it_is_packed(read, form, tmp_path):
    write_program(tmp_path / "weights.pth", tmp_path / "it-ran", form)
    with pytest.raises(InputError, match=r"weights\.pth"):
        read(tmp_path / "weights.pth")
    assert not (tmp_path / "it-ran").exists()
