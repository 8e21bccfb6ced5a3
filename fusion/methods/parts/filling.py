"""Loading a weights file into a network, with the authors' keys renamed to ours."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from fusion.weights import fill, read_state
from fusion.weights.tensorflow import is_checkpoint, read_checkpoint

# A pattern in the authors' keys and its replacement, as `re.sub` takes them.
Renaming = tuple[str, str | Callable[[re.Match[str]], str]]
State = Mapping[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


def renamed(state: State, renamings: Sequence[Renaming]) -> dict[str, Tensor]:
    """Return the state dict with every renaming applied in turn to its keys; keys that are already ours stay."""
    result = {}
    for key, value in state.items():
        for pattern, replacement in renamings:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    return result


def read_tensorflow(path: Path) -> State:
    """Read a TensorFlow checkpoint, with kernels permuted to PyTorch's order, or any file that `read_state` reads."""
    if not is_checkpoint(path):
        return read_state(path)
    # From (height, width, inputs, outputs) or (inputs, outputs) to outputs first.
    orders = {4: (3, 2, 0, 1), 2: (1, 0)}
    state = read_checkpoint(path)
    return {key: value.permute(orders[value.ndim]) if value.ndim in orders else value for key, value in state.items()}


def in_folder(file: str) -> Callable[[Path], State]:
    """Return a function that reads a weights file, or the file named `file` if its path is the authors' folder."""
    return lambda path: read_state(path / file if path.is_dir() else path)


def filled(
    network: Network,
    weights: Path | None,
    read: Callable[[Path], State] = read_state,
    convert: Callable[[State], State] = dict,
) -> Network:
    """Return the network with the weights that `read` reads and `convert` renames; unchanged if `weights` is None.

    Raises:
        InputError: the file cannot be read, or its weights do not fit the network.
    """
    if weights is not None:
        fill(network, convert(read(weights)), weights)
    return network
