"""The user's own methods and metrics, and the extra metrics, in a run: options, files that jobs depend on, checks."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any

from pipeline.planning.own import Own, source_files, watched_files
from pipeline.stage import InputError


@dataclass(frozen=True)
class Doors:
    """The methods and metrics of the user's own.

    dataset: the name of the run's data set, for which a folder may hold `{dataset}`.
    methods: by name.
    metrics: by name, with `higher` or `lower` for the better.
    extra: the project's metrics that are scored by name only.
    """

    dataset: str
    methods: Mapping[str, Own]
    metrics: Mapping[str, tuple[str, Own]]
    extra: Sequence[str]

    def made(self, names: Sequence[str]) -> list[str]:
        """Return those of `names` that are methods whose images the user has made."""
        return [name for name in names if name in self.methods and self.methods[name].kind == "folder"]

    def options(self, name: str, dataset: str | None = None) -> list[str]:
        """Return the option that hands an own method to a stage; nothing for the others."""
        return ["--own", self._text(name, dataset or self.dataset)] if name in self.methods else []

    def watch(self, name: str) -> list[str]:
        """Return the option that names what is watched of an own method; nothing for the others."""
        return _watch([self.methods[name]] if name in self.methods else [])

    def files(self, name: str, dataset: str | None = None) -> list[str]:
        """Return the files that an own method is made of; nothing for the others."""
        if name not in self.methods:
            return []
        own = self.methods[name]
        folder = [self._target(name, dataset or self.dataset)] if own.kind == "folder" else []
        return folder + [os.path.relpath(path) for path in source_files(own)]

    def metric_options(self) -> list[str]:
        """Return the options that hand the extra metrics and the user's own to the scoring."""
        if not self.metrics:
            return self.extra_options()
        metrics = [f"{name}:{better}={own.target}" for name, (better, own) in self.metrics.items()]
        watched = _watch([own for _, own in self.metrics.values()])
        return [*self.extra_options(), "--own-metric", *metrics, *watched]

    def extra_options(self) -> list[str]:
        """Return the option that names the extra metrics; nothing where there are none."""
        return ["--extra", *self.extra] if self.extra else []

    def metric_files(self) -> list[str]:
        """Return the files that the user's own metrics are made of."""
        files = (path for _, own in self.metrics.values() for path in source_files(own))
        return list(dict.fromkeys(os.path.relpath(path) for path in files))

    def checks(
        self, config: Mapping[str, Any], names: Sequence[str], pairs: Sequence[str], tried: Sequence[str]
    ) -> list[str]:
        """Return the commands that check those of the own methods that are in `names`.

        `pairs` are the options that name the pairs that a folder must have, as words, `tried` those that name the pair
        which the others are tried on.
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
        """Return what the plan says of the own methods in `names` and of the own metrics."""
        doors = [f"{name} ({self._text(name, '{dataset}')})" for name in names if name in self.methods]
        remarks = {
            "own methods, each tried on one pair before the first job": doors,
            "extra metrics": self.extra,
            "own metrics": sorted(self.metrics),
        }
        return [f"{what}: {', '.join(found)}" for what, found in remarks.items() if found]

    def _target(self, name: str, dataset: str) -> str:
        own = self.methods[name]
        return own.target.replace("{dataset}", dataset) if own.kind == "folder" else own.target

    def _text(self, name: str, dataset: str) -> str:
        return f"{self.methods[name].kind}={self._target(name, dataset)}"


def read_doors(config: Mapping[str, Any]) -> Doors:
    """Return the own methods and metrics of the configuration.

    Raises:
        InputError: a method has no door or several, or what a method of this run, or a metric, is made of is missing.
    """
    methods = {}
    for name, settings in config["fusion"]["own"].items():
        kinds = [key for key in settings if key != "watch"]
        if len(kinds) != 1:
            raise InputError(
                f"config: fusion.own.{name} has {' and '.join(kinds) or 'no door'}; wanted one of folder, callable, "
                "model, command"
            )
        target = settings[kinds[0]]
        methods[name] = Own(kinds[0], target if isinstance(target, str) else join(target), _paths(settings))
    for name in set(methods) & set(config["fusion"]["methods"]):
        _check(name, methods[name])
    metrics = {
        name: (settings["better"], Own("callable", settings["callable"], _paths(settings)))
        for name, settings in config["metrics"]["own"].items()
    }
    for _, own in metrics.values():
        watched_files(own.watch)
    return Doors(config["dataset"]["name"], methods, metrics, config["metrics"]["extra"])


def _check(name: str, own: Own) -> None:
    # What lies elsewhere for each data set is missed by the rule that reads it.
    if own.kind == "folder" and "{dataset}" not in own.target and not Path(own.target).is_dir():
        raise InputError(
            f"config: fusion.own.{name}: {own.target} is no folder here; wanted one with a fused image for each pair"
        )
    if own.kind == "model" and not Path(own.target).is_file():
        raise InputError(
            f"config: fusion.own.{name}: {own.target} is no file here; wanted an ONNX or a TorchScript file"
        )
    source_files(own)


def _paths(settings: Mapping[str, Any]) -> tuple[Path, ...]:
    return tuple(Path(path).expanduser() for path in settings.get("watch", ()))


def _watch(owns: Sequence[Own]) -> list[str]:
    paths = list(dict.fromkeys(str(path) for own in owns for path in own.watch))
    return ["--watch", *paths] if paths else []
