"""Reading and writing network weights: safetensors, and the authors' PyTorch files without running what is in them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.artefacts import replacing
from pipeline.stage import InputError
from pipeline.tensors import read_tensors


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict: a safetensors file, or a PyTorch file of tensors alone (a pickle is never let run).

    A training's checkpoint is searched for the state dict under `state_dict`, `model` or `params`.

    Raises:
        InputError: the file is missing, broken, or holds anything but tensors by name.
    """
    state = _read(Path(path))
    for key in ("state_dict", "model", "params"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    return _tensors(state, path)


def read_parts(path: Path) -> dict[str, Tensor]:
    """Read a file of several networks' state dicts by name into one, keys joined by a dot; one state dict stays.

    `module.`, which parallel training puts before every key, is taken away. Raises as `read_state`.
    """
    state = _read(Path(path))
    if isinstance(state, Mapping) and state and all(isinstance(part, Mapping) for part in state.values()):
        parts = {name: _tensors(part, path) for name, part in state.items()}
        state = {
            f"{name}.{key.removeprefix('module.')}": value
            for name, part in parts.items()
            for key, value in part.items()
        }
    return _tensors(state, path)


# What numpy scalars beside the weights, such as recorded losses, are made of; they hold numbers and run nothing.
_NUMPY_SCALARS = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"{path} is not a file; wanted network weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return read_tensors(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of many kinds, by what is wrong; pickle's own is not public in all versions of torch
        if type(error).__name__ == "UnpicklingError":
            raise InputError(f"{path} holds more than tensors and was not loaded; wanted a plain state dict") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable weights file: {reason}") from None


def _tensors(state: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is not a state dict; wanted tensors by name")
    return dict(state)


def write_state(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically, with `facts` in the file's metadata."""
    with replacing(path) as part:
        part.write_bytes(
            save({key: value.detach().cpu().contiguous() for key, value in state.items()}, dict(facts or {}))
        )


def fill(network: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load `state` into `network`; InputError lists what is missing, unexpected or of another shape in `source`."""
    wanted = network.state_dict()
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} ({len(missing)})")
    if surplus := sorted(state.keys() - wanted.keys()):
        problems.append(f"unexpected {', '.join(surplus[:5])}{' ...' if len(surplus) > 5 else ''} ({len(surplus)})")
    for key in sorted(wanted.keys() & state.keys()):
        if wanted[key].shape != state[key].shape:
            problems.append(f"{key} is {tuple(state[key].shape)}, expected {tuple(wanted[key].shape)}")
    if problems:
        raise InputError(f"{source} does not hold weights of {type(network).__name__}: {'; '.join(problems[:8])}")
    network.load_state_dict(dict(state))
