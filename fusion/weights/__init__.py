"""Reading and writing network weights: safetensors, and the authors' PyTorch files without running what is in them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fusion.artefacts import replacing
from fusion.stage import InputError


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict: a safetensors file, or a PyTorch file of tensors alone (a pickle is never let run).

    Raises:
        InputError: the file is missing, broken, or holds anything but tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; wanted network weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable weights file: {reason}") from None
    except Exception as error:  # torch raises pickle's own error, whose class is not public in all versions
        if type(error).__name__ != "UnpicklingError":
            raise
        raise InputError(f"{path} holds more than tensors and was not loaded; wanted a plain state dict") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # a training's checkpoint, with its optimiser beside
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
