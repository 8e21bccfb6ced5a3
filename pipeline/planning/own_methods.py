"""The user's own methods and metrics, and the extra metrics, of a run: options, files that jobs depend on, checks."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any

from pipeline.planning.own import OwnMethod, source_files, watched_files
from pipeline.stage import InputError


@dataclass(frozen=True)
class OwnMethods:
    """The methods and metrics of the user in a run.

    Attributes:
        dataset: the name of the run's dataset, which replaces `{dataset}` in the path of a folder.
        methods: the methods by name.
        metrics: the metrics by name, each with `higher` or `lower` for the better direction.
        extra: names of metrics of this project that are computed only if the configuration names them.
    """

    dataset: str
    methods: Mapping[str, OwnMethod]
    metrics: Mapping[str, tuple[str, OwnMethod]]
    extra: Sequence[str]

    def premade(self, names: Sequence[str]) -> list[str]:
        """Return the methods in `names` whose fused images already exist in a folder of the user."""
        return [name for name in names if name in self.methods and self.methods[name].kind == "folder"]

    def options(self, name: str, dataset: str | None = None) -> list[str]:
        """Return the option that passes an own method to a stage; empty for other methods."""
        return ["--own", self._text(name, dataset or self.dataset)] if name in self.methods else []

    def watch(self, name: str) -> list[str]:
        """Return the option with the watched files of an own method; empty for other methods."""
        return _watch([self.methods[name]] if name in self.methods else [])

    def files(self, name: str, dataset: str | None = None) -> list[str]:
        """Return the files that determine the results of an own method; empty for other methods."""
        if name not in self.methods:
            return []
        own = self.methods[name]
        folder = [self._target(name, dataset or self.dataset)] if own.kind == "folder" else []
        return folder + [os.path.relpath(path) for path in source_files(own)]

    def metric_options(self) -> list[str]:
        """Return the options that pass the extra metrics and the user's metrics to the evaluation."""
        if not self.metrics:
            return self.extra_options()
        metrics = [f"{name}:{better}={own.target}" for name, (better, own) in self.metrics.items()]
        watched = _watch([own for _, own in self.metrics.values()])
        return [*self.extra_options(), "--own-metric", *metrics, *watched]

    def extra_options(self) -> list[str]:
        """Return the option that names the extra metrics; empty if there are none."""
        return ["--extra", *self.extra] if self.extra else []

    def metric_files(self) -> list[str]:
        """Return the files that determine the results of the user's metrics."""
        files = (path for _, own in self.metrics.values() for path in source_files(own))
        return list(dict.fromkeys(os.path.relpath(path) for path in files))

    def checks(
        self, config: Mapping[str, Any], names: Sequence[str], pairs: Sequence[str], tried: Sequence[str]
    ) -> list[str]:
        """Return the commands that check the own methods in `names`.

        Args:
            config: the configuration.
            names: names of methods.
            pairs: words of the options for the pairs that a folder of fused images must have.
            tried: words of the options for the pair that all other kinds of methods are tried on.
        """
        commands = []
        for name in [name for name in names if name in self.methods]:
            words = ["python", "-m", "fusion.check", *self.options(name), "--colour", config["fusion"]["colour"]]
            if weights := config["fusion"]["weights"].get(name):
                words += ["--weights", weights]
            results = config["pathvars"]["results"]
            given = pairs if self.methods[name].kind == "folder" else tried
            commands.append(join([*words, *given, *self.watch(name), "--output", f"{results}/checks/{name}.json"]))
        return commands

    def remarks(self, names: Sequence[str]) -> list[str]:
        """Return the remarks of the plan about the own methods in `names` and the own metrics."""
        methods = [f"{name} ({self._text(name, '{dataset}')})" for name in names if name in self.methods]
        remarks = {
            "own methods, each tried on one pair before the first job": methods,
            "extra metrics": self.extra,
            "own metrics": sorted(self.metrics),
        }
        return [f"{what}: {', '.join(found)}" for what, found in remarks.items() if found]

    def _target(self, name: str, dataset: str) -> str:
        own = self.methods[name]
        return own.target.replace("{dataset}", dataset) if own.kind == "folder" else own.target

    def _text(self, name: str, dataset: str) -> str:
        return f"{self.methods[name].kind}={self._target(name, dataset)}"


def read_own_methods(config: Mapping[str, Any]) -> OwnMethods:
    """Return the own methods and metrics in the configuration.

    Raises:
        InputError: a method does not have exactly one of the keys folder, callable, model and command; or a file of a
            metric, or of a method in this run, is missing.
    """
    methods = {}
    for name, settings in config["fusion"]["own"].items():
        kinds = [key for key in settings if key != "watch"]
        if len(kinds) != 1:
            raise InputError(
                f"config: fusion.own.{name} has {' and '.join(kinds) or 'no key'}; expected one of folder, callable, "
                "model, command"
            )
        target = settings[kinds[0]]
        methods[name] = OwnMethod(kinds[0], target if isinstance(target, str) else join(target), _paths(settings))
    for name in set(methods) & set(config["fusion"]["methods"]):
        _check(name, methods[name])
    metrics = {
        name: (settings["better"], OwnMethod("callable", settings["callable"], _paths(settings)))
        for name, settings in config["metrics"]["own"].items()
    }
    for _, own in metrics.values():
        watched_files(own.watch)
    return OwnMethods(config["dataset"]["name"], methods, metrics, config["metrics"]["extra"])


def _check(name: str, own: OwnMethod) -> None:
    # A folder with `{dataset}` in its path is checked by the rule that reads it.
    if own.kind == "folder" and "{dataset}" not in own.target and not Path(own.target).is_dir():
        raise InputError(
            f"config: fusion.own.{name}: {own.target} is not a folder; expected one with a fused image for each pair"
        )
    if own.kind == "model" and not Path(own.target).is_file():
        raise InputError(
            f"config: fusion.own.{name}: {own.target} is not a file; expected an ONNX or a TorchScript file"
        )
    source_files(own)


def _paths(settings: Mapping[str, Any]) -> tuple[Path, ...]:
    return tuple(Path(path).expanduser() for path in settings.get("watch", ()))


def _watch(owns: Sequence[OwnMethod]) -> list[str]:
    paths = list(dict.fromkeys(str(path) for own in owns for path in own.watch))
    return ["--watch", *paths] if paths else []
