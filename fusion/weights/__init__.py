"""Reading and writing network weights: safetensors, and the authors' PyTorch files without running code in them."""

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

# Keys under which training checkpoints store the network's state dict; the first that is present is taken.
CONTAINERS = (
    *("state_dict", "model_state_dict", "params_ema", "params", "model", "net", "network", "net_state_dict"),
    *("module", "weights", "generator", "ema"),
)
WRAPPERS = ("module", "_orig_mod")  # key parts that torch's parallel training and torch.compile insert
ATTRIBUTES = ("model", "net", "network", "generator")  # usual names of the network as an attribute of a training class


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a PyTorch file of only tensors (no code of a pickle runs).

    In a training checkpoint, the state dict is taken from one of CONTAINERS, else from the only entry that is a state
    dict. Prefixes of all keys from parallel training, torch.compile and Lightning are removed.

    Raises:
        InputError: the file is missing or broken, or contains anything other than named tensors.
    """
    found = _read(Path(path))
    state = _tensors(_inner(found, path), path)
    lightning = isinstance(found, Mapping) and "pytorch-lightning_version" in found
    return _without_attribute(_unwrapped(state), any_name=lightning)


def read_parts(path: Path) -> dict[str, Tensor]:
    """Read a file of several named state dicts into one, with keys NAME.KEY; a single state dict is unchanged.

    Searches the file, removes prefixes and raises errors as `read_state` does.
    """
    state = _read(Path(path))
    while isinstance(state, Mapping) and (inside := [state[key] for key in CONTAINERS if _is_mapping(state.get(key))]):
        state = inside[0]
    if isinstance(state, Mapping) and state and all(_is_mapping(part) for part in state.values()):
        parts = {name: _unwrapped(_tensors(part, path)) for name, part in state.items()}
        state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    return _without_attribute(_unwrapped(_tensors(_inner(state, path), path)))


def _inner(state: object, path: Path) -> object:
    """Return the state dict inside a training checkpoint; a mapping that contains tensors itself is unchanged."""
    while isinstance(state, Mapping) and not any(isinstance(value, Tensor) for value in state.values()):
        named = [key for key in CONTAINERS if _is_mapping(state.get(key))]
        holding = named[:1] or [key for key, value in state.items() if _is_state(value)]
        if len(holding) != 1:
            break
        if len(named) > 1:
            logging.info("%s contains %s: the first is used", path, ", ".join(named))
        state = state[holding[0]]
    return state


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _is_state(value: object) -> bool:
    return _is_mapping(value) and all(isinstance(one, Tensor) for one in value.values())


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the parts of WRAPPERS in its keys, unless two keys would become equal."""
    result = {".".join(part for part in key.split(".") if part not in WRAPPERS): state[key] for key in state}
    return result if len(result) == len(state) else dict(state)


def _without_attribute(state: dict[str, Tensor], any_name: bool = False) -> dict[str, Tensor]:
    """Return a state dict without the first part that all its keys share, if it is in ATTRIBUTES or `any_name`."""
    names = {key.partition(".")[0] if "." in key else "" for key in state}
    (name,) = names if len(names) == 1 else ("",)
    if not name or not (any_name or name in ATTRIBUTES):
        return state
    return {key.removeprefix(f"{name}."): value for key, value in state.items()}


# Types of numpy scalars that checkpoints store with the weights, such as losses; unpickling them runs no foreign code.
_NUMPY_SCALARS = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected network weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return read_tensors(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # many kinds; the unpickling error's class is not public in all versions of torch
        if type(error).__name__ == "UnpicklingError":
            raise InputError(
                f"{path} contains objects other than tensors and was not loaded; expected a plain state dict, as "
                "torch.save(network.state_dict(), ...) writes it"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable weights file: {reason}") from None


def _tensors(state: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise InputError(f"{path} contains an object of type {type(state).__name__}; expected a state dict")
    if others := [f"{key} ({type(value).__name__})" for key, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(
            f"{path} is not a state dict: found {_few(others)}; expected only named tensors, or a state dict under one "
            f"of {', '.join(CONTAINERS)}"
        )
    return {str(key): value for key, value in state.items()}


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''} ({len(names)})"


def write_state(path: Path, state: Mapping[str, Tensor], fact: tuple[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically, with the name and text of one `fact` in the file's metadata.

    There is only one, because safetensors writes several in random order: equal weights would have different digests.
    """
    with replacing(path) as part:
        part.write_bytes(
            save({key: value.detach().cpu().contiguous() for key, value in state.items()}, dict([fact] if fact else []))
        )


def fill(network: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load `state` into `network`; prefixes of the keys may differ from the network's (`_renamed`).

    Raises:
        InputError: keys are missing, unexpected or of another shape in `source`; the message lists them.
    """
    expected = network.state_dict()
    state = _renamed(state, expected.keys(), source)
    problems = []
    if missing := sorted(expected.keys() - state.keys()):
        problems.append(f"missing {_few(missing)}")
    if surplus := sorted(state.keys() - expected.keys()):
        problems.append(f"unexpected {_few(surplus)}")
    for key in sorted(expected.keys() & state.keys()):
        if expected[key].shape != state[key].shape:
            problems.append(f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}")
    if problems:
        raise InputError(f"{source} does not contain weights of {type(network).__name__}: {'; '.join(problems[:8])}")
    network.load_state_dict(dict(state))


def _renamed(state: Mapping[str, Tensor], expected: Collection[str], source: Path) -> Mapping[str, Tensor]:
    """Return `state` under the keys that a network expects, if they differ only by a prefix or by WRAPPERS.

    A checkpoint's keys may have a longer prefix than the network's, as Lightning's do, and the checkpoint may contain
    other networks under other prefixes (of a loss, for example). Its keys are shorter than the network's if
    `read_state` removed a first part that is the network's own.

    Raises:
        InputError: the network's keys are present under several prefixes.
    """
    if state.keys() == set(expected):
        return state
    # The network's own keys, without WRAPPERS as `read_state` returns them.
    bare = {".".join(part for part in key.split(".") if part not in WRAPPERS): key for key in expected}
    if len(bare) != len(expected) or not bare:
        return state
    first = next(iter(bare))
    prefixes = {key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")}
    if fits := sorted(prefix for prefix in prefixes if all(prefix + key in state for key in bare)):
        if "" not in fits and len(fits) > 1:
            raise InputError(
                f"{source} contains weights that fit under each of {', '.join(fits)}; expected one such network"
            )
        prefix = "" if "" in fits else fits[0]
        if len(bare) == len(state) or prefix:
            if len(bare) < len(state):
                logging.info("%s: using the %d tensors under %s, of %d", source, len(bare), prefix, len(state))
            return {key: state[prefix + short] for short, key in bare.items()}
    prefix = first.partition(".")[0]
    if {f"{prefix}.{key}" for key in state} == set(bare):
        return {bare[f"{prefix}.{key}"]: value for key, value in state.items()}
    return state
