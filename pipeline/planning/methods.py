"""Choose the methods of a run and their weights."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.planning.own import OwnMethod
from pipeline.stage import InputError


class Entry(Protocol):
    """The properties of a method in the table of methods that planning uses."""

    module: str
    needs_weights: bool
    trainable: bool
    training_takes: str
    frozen: str | None
    in_torch: bool
    revision: int
    training_revision: int


@dataclass(frozen=True)
class Methods:
    """The methods of a run.

    Attributes:
        names: the methods that get a row, in the order of the tables.
        trained: the methods among them that this run trains, except FNet.
        left_out: for each method in the configuration that gets no row, the reason why it has no weights.
        ablations: names of FNet's ablations, which are FNet with weights of their own.
        entries: properties of every method by name, including the user's methods and the ablations.
        weights_given: the weights that the configuration names, or that this project ships, by method.
        training: the training options of each method except FNet.
        fnet_start: the weights file that FNet's training starts from, None for random weights.
    """

    names: list[str]
    trained: list[str]
    left_out: Mapping[str, str]
    ablations: Collection[str]
    entries: Mapping[str, Entry]
    weights_given: Mapping[str, str]
    training: Mapping[str, Mapping[str, Any]]
    fnet_start: str | None = None

    def run_as(self, name: str) -> str:
        """Return the method that a name runs: FNet for its ablations, else the name itself."""
        return "fnet" if name in self.ablations else name

    def weights(self, method: str) -> list[str]:
        """Return the weights file or folder of a method as a list: the user's, a shipped one or one that is trained.

        The list is empty if the method needs no weights.
        """
        if method in self.ablations:
            return [f"<results>/ablations/{method}/weights.safetensors"]
        if not self.entries[method].needs_weights:
            return []
        given = None if method in self.trained else self.weights_given.get(method)
        return [given or f"<results>/fusion/{method}/weights.safetensors"]

    def options(self, method: str) -> Mapping[str, Any]:
        """Return the training options of a method other than FNet."""
        return self.training.get(method, {})

    def frozen_weights(self, method: str) -> list[str]:
        """Return the weights file of the frozen network that a method's losses need, as a list."""
        frozen = self.entries[method].frozen
        return [self.options(method)[frozen]] if frozen else []

    def start_weights(self) -> list[str]:
        """Return the weights file that FNet's training starts from, as a list; ablations always start from scratch."""
        return [self.fnet_start] if self.fnet_start else []

    def start_digest(self) -> str:
        """Return a digest of the content of that file, empty if there is none."""
        file = Path(self.fnet_start or "")
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else ""

    def on_device(self, method: str) -> bool:
        """Return whether a method computes on the GPU if there is one."""
        return self.entries[method].in_torch

    def module(self, method: str) -> str:
        """Return the project's module that implements a method; all methods of the user have the same module."""
        return self.entries[method].module

    def revision(self, method: str) -> int:
        """Return the revision of a method, which is increased when equal weights would give another image."""
        return self.entries[method].revision

    def training_revision(self, method: str) -> int:
        """Return the training revision of a method, which is increased when its losses would train other weights."""
        return self.entries[method].training_revision


def choose_methods(
    config: Mapping[str, Any],
    table: Mapping[str, Entry],
    own: Mapping[str, OwnMethod],
    own_entry: Callable[[OwnMethod, str | None], Entry],
    packaged_weights: Callable[[str], Path | None],
) -> Methods:
    """Return the methods of a run according to `fusion.methods` and `fusion.missing_weights`.

    Args:
        config: the configuration.
        table: the project's methods by name.
        own: the user's methods by name.
        own_entry: makes the entry of a user's method from the method and its weights.
        packaged_weights: returns the weights of a method that this project ships, None if there are none.

    Raises:
        InputError: a method is unknown, has no weights and none are trained, or cannot be trained.
    """
    ablations = config["ablations"]
    chosen, policy, training = (config["fusion"][key] for key in ("methods", "missing_weights", "training"))
    named = config["fusion"]["weights"] | {"fnet": config["fnet"]["weights"]}
    if clash := sorted(set(own) & set(table)):
        raise InputError(f"config: fusion.own names {clash}; expected names that no method has")
    entries = {**table, **{name: own_entry(method, named.get(name)) for name, method in own.items()}}
    if unknown := [name for name in chosen if name not in entries]:
        raise InputError(f"config: fusion.methods names {unknown}; expected names among {sorted(entries)}")
    if clash := [name for name in ablations if name in entries]:
        raise InputError(f"config: ablations names {clash}; expected names that no method has")
    entries |= dict.fromkeys(ablations, entries["fnet"])
    given = {name: named[name] for name in {*chosen, "fnet"} if named.get(name)}
    given |= {name: _shipped(name, packaged_weights) for name, path in given.items() if path == "packaged"}
    start = config["fnet"]["start"]
    start = _shipped("fnet", packaged_weights) if start == "packaged" else start
    missing = _without_weights([name for name in chosen if entries[name].needs_weights and name != "fnet"], given)
    if missing and policy == "refuse":
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise InputError(
            f"config: methods without weights ({reasons}). `python -m fusion.weights` lists where they are published; "
            "set fusion.missing_weights to train or leave_out to continue without them"
        )
    if policy == "train":
        for name, reason in missing.items():
            _check_trainable(name, entries[name], reason, training.get(name, {}))
        return Methods(chosen, list(missing), {}, ablations, entries, given, training, start)
    left = [name for name in chosen if name not in missing]
    return Methods(left, [], missing, ablations, entries, given, training, start)


def _shipped(method: str, packaged_weights: Callable[[str], Path | None]) -> str:
    path = packaged_weights(method)
    if path is None:
        raise InputError(
            f"config: this project ships no weights for {method}; expected the path of a file instead of `packaged`"
        )
    # Relative where it can be: the path is an input of jobs, and a clone that was moved must not train again.
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _without_weights(methods: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the methods without weights, each with the reason."""
    reasons = {}
    for name in methods:
        if name not in given:
            reasons[name] = "none named in fusion.weights"
        elif not Path(given[name]).exists():
            reasons[name] = f"{given[name]} does not exist"
    return reasons


def _check_trainable(method: str, entry: Entry, reason: str, options: Mapping[str, Any]) -> None:
    if not entry.trainable:
        takes = f", which requires {entry.training_takes}" if entry.training_takes else ""
        raise InputError(f"config: the method {method} has no weights ({reason}) and cannot be trained here{takes}")
    if entry.frozen and not options.get(entry.frozen):
        raise InputError(f"config: training {method} requires fusion.training.{method}.{entry.frozen}")
