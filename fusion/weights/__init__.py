"""Reading and writing network weights: safetensors, and the authors' PyTorch files without running what is in them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.artefacts import replacing
from pipeline.stage import InputError
from pipeline.tensors import read_tensors

# Under what trainings keep the network's state dict beside others: the first that is there is taken.
CONTAINERS = (
    *("state_dict", "model_state_dict", "params_ema", "params", "model", "net", "network", "net_state_dict"),
    *("module", "weights", "generator", "ema"),
)
WRAPPERS = ("module", "_orig_mod")  # what torch's parallel training and its compiler put into keys
HOLDERS = ("model", "net", "network", "generator")  # a network's usual names in what trains it


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict: a safetensors file, or a PyTorch file of tensors alone (a pickle is never let run).

    A training's checkpoint is searched for the state dict under one of CONTAINERS, or where else only one is. What
    parallel training, torch.compile and Lightning put before every key is taken away.

    Raises:
        InputError: the file is missing, broken, or holds anything but tensors by name.
    """
    found = _read(Path(path))
    state = _tensors(_inner(found, path), path)
    lightning = isinstance(found, Mapping) and "pytorch-lightning_version" in found
    return _without_holder(_unwrapped(state), any_name=lightning)


def read_parts(path: Path) -> dict[str, Tensor]:
    """Read a file of several networks' state dicts by name into one, keys joined by a dot; one state dict stays.

    Searched and unwrapped as by `read_state`. Raises as that.
    """
    state = _read(Path(path))
    while isinstance(state, Mapping) and (inside := [state[key] for key in CONTAINERS if _is_mapping(state.get(key))]):
        state = inside[0]
    if isinstance(state, Mapping) and state and all(_is_mapping(part) for part in state.values()):
        parts = {name: _unwrapped(_tensors(part, path)) for name, part in state.items()}
        state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    return _without_holder(_unwrapped(_tensors(_inner(state, path), path)))


def _inner(state: object, path: Path) -> object:
    """Return the state dict in a training's checkpoint; what holds tensors already stays."""
    while isinstance(state, Mapping) and not any(isinstance(value, Tensor) for value in state.values()):
        named = [key for key in CONTAINERS if _is_mapping(state.get(key))]
        holding = named[:1] or [key for key, value in state.items() if _is_state(value)]
        if len(holding) != 1:
            break
        if len(named) > 1:
            logging.info("%s holds %s: the first is taken", path, ", ".join(named))
        state = state[holding[0]]
    return state


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _is_state(value: object) -> bool:
    return _is_mapping(value) and all(isinstance(one, Tensor) for one in value.values())


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the names of WRAPPERS in its keys, unless two keys would become one."""
    result = {".".join(part for part in key.split(".") if part not in WRAPPERS): state[key] for key in state}
    return result if len(result) == len(state) else dict(state)


def _without_holder(state: dict[str, Tensor], any_name: bool = False) -> dict[str, Tensor]:
    """Return a state dict without the name before all of its keys, if that is one of HOLDERS, or `any_name`."""
    names = {key.partition(".")[0] if "." in key else "" for key in state}
    (name,) = names if len(names) == 1 else ("",)
    if not name or not (any_name or name in HOLDERS):
        return state
    return {key.removeprefix(f"{name}."): value for key, value in state.items()}


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
            raise InputError(
                f"{path} holds more than tensors and was not loaded; wanted a plain state dict, as "
                "torch.save(network.state_dict(), ...) writes"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable weights file: {reason}") from None


def _tensors(state: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a {type(state).__name__}, no state dict; wanted tensors by name")
    if others := [f"{key} ({type(value).__name__})" for key, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(
            f"{path} is not a state dict: found {_few(others)}; wanted tensors by name, alone or under one of "
            f"{', '.join(CONTAINERS)}"
        )
    return {str(key): value for key, value in state.items()}


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"


def write_state(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically, with `facts` in the file's metadata."""
    with replacing(path) as part:
        part.write_bytes(
            save({key: value.detach().cpu().contiguous() for key, value in state.items()}, dict(facts or {}))
        )


def fill(network: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load `state` into `network`, with its own names before the keys or with others' (`_fitted`).

    Raises:
        InputError: keys are missing, unexpected or of another shape in `source`, which are listed.
    """
    wanted = network.state_dict()
    state = _fitted(state, wanted.keys(), source)
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {_few(missing)}")
    if surplus := sorted(state.keys() - wanted.keys()):
        problems.append(f"unexpected {_few(surplus)}")
    for key in sorted(wanted.keys() & state.keys()):
        if wanted[key].shape != state[key].shape:
            problems.append(f"{key} is {tuple(state[key].shape)}, expected {tuple(wanted[key].shape)}")
    if problems:
        raise InputError(f"{source} does not hold weights of {type(network).__name__}: {'; '.join(problems[:8])}")
    network.load_state_dict(dict(state))


def _fitted(state: Mapping[str, Tensor], wanted: Collection[str], source: Path) -> Mapping[str, Tensor]:
    """Return `state` under the keys that a network wants, where they differ by what stands before or wraps them.

    A checkpoint's key may have more before it than the network's, as Lightning's have, which may hold other networks
    beside (a loss's, say); or less, where `read_state` took away a name that is the network's own.

    Raises:
        InputError: the network's keys are there under several names.
    """
    if state.keys() == set(wanted):
        return state
    # The network's own keys as `read_state` has those of a file.
    bare = {".".join(part for part in key.split(".") if part not in WRAPPERS): key for key in wanted}
    if len(bare) != len(wanted) or not bare:
        return state
    one = next(iter(bare))
    before = {key.removesuffix(one) for key in state if key == one or key.endswith(f".{one}")}
    if fits := sorted(name for name in before if all(name + key in state for key in bare)):
        if "" not in fits and len(fits) > 1:
            raise InputError(
                f"{source} holds weights of {', '.join(fits)}, which would all fit; wanted those of one network"
            )
        name = "" if "" in fits else fits[0]
        if len(bare) == len(state) or name:
            if len(bare) < len(state):
                logging.info("%s: %d tensors under %s are taken, of %d", source, len(bare), name, len(state))
            return {key: state[name + short] for short, key in bare.items()}
    name = one.partition(".")[0]
    if {f"{name}.{key}" for key in state} == set(bare):
        return {bare[f"{name}.{key}"]: value for key, value in state.items()}
    return state
