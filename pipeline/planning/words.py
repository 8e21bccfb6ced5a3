"""Options as words of a command, and the summary of a run that is printed before Snakemake's list of jobs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BAND_KEYS = ("visible_suffix", "infrared_suffix", "infrared_range")
# Settings that do not affect the result of a training; by the schema, they are numbers and plain words.
NEUTRAL = ("checkpoint_every", "save_every", "cache", "workers")


def options(settings: Mapping[str, Any]) -> list[str]:
    """Return `--key value` words; a list gives several values, true a flag without value, null and false nothing."""
    words = []
    for key, value in sorted(settings.items()):
        if value is None or value is False or value == []:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return words


def chosen(settings: Mapping[str, Any], *keys: str) -> list[str]:
    """Return the options of some of the settings."""
    return options({key: settings[key] for key in keys})


def dataset_options(config: Mapping[str, Any], *keys: str) -> list[str]:
    """Return the options for the dataset with boxes: its name, its bands, and the settings `keys`."""
    dataset = config["dataset"]
    others = {key: dataset[key] for key in keys if key not in BAND_KEYS}
    sets: list[str] = []
    if isinstance(others.get("labels"), Mapping):
        sets = [word for name, paths in others.pop("labels").items() for word in ("--label-set", name, *paths)]
    return options({"dataset": dataset["name"], **others}) + sets + band_options(dataset)


def band_options(settings: Mapping[str, Any]) -> list[str]:
    """Return the options that distinguish the two bands in a dataset's settings, and define how they are read."""
    # One word each, `--key=value`, because a suffix may begin with a dash.
    suffixes = [f"--{key.replace('_', '-')}={settings[key]}" for key in BAND_KEYS[:2] if settings.get(key)]
    return options({"infrared_range": settings.get("infrared_range")}) + suffixes


def result_options(settings: Mapping[str, Any]) -> list[str]:
    """Return the options that affect a training's result, for params; other options may change without a new run."""
    return options({key: value for key, value in settings.items() if key not in NEUTRAL})


def neutral_options(settings: Mapping[str, Any]) -> str:
    """Return the options that do not affect the result as one text, for resources, which do not trigger a new run."""
    return " ".join(options({key: value for key, value in settings.items() if key in NEUTRAL}))


def named(names: Iterable[str], files: Iterable[str]) -> list[str]:
    """Return NAME=FILE words."""
    return [f"{name}={file}" for name, file in zip(names, files, strict=True)]


def test_set_options(config: Mapping[str, Any], test_set: Mapping[str, Any], treatment: str) -> list[str]:
    """Return the options for a test set: colour and format as published by its authors, or lossless as elsewhere."""
    settings = {"colour": config["fusion"]["colour"], "format": "png"}
    if treatment == "authors":
        settings = {key: test_set[key] for key in ("colour", "format")} | {"treatment": "authors"}
        if settings["format"] == "jpg":
            settings["quality"] = test_set["quality"]
    return options({**settings, "precision": config["fusion"]["precision"]})


def describe(title: str, names: Sequence[str], stages: Mapping[str, Sequence[Path]], remarks: Sequence[str]) -> str:
    """Return a summary of a run: what it compares, how many files of each stage exist, and remarks.

    Args:
        title: the run in one line.
        names: the compared variants or methods, in the order of the tables.
        stages: the files that each stage makes, by the stage's result, such as `fused`.
        remarks: one line each, such as the methods that are left out.
    """
    lines = [f"Plan: {title}", f"  {', '.join(names)}"]
    for what, files in stages.items():
        there = sum(file.is_file() for file in files)
        to_do = "" if there == len(files) else f", {len(files) - there} to do"
        lines.append(f"  {what}: {there} of {len(files)} exist{to_do}")
    return "\n".join([*lines, *(f"  {remark}" for remark in remarks)])


def cost_line(cost: Path) -> str:
    """Return the estimated cost of the trainings in the file `cost`, or that it is not measured yet."""
    try:
        hours = float(json.loads(cost.read_text(encoding="utf-8"))["hours_in_all"])
    except (OSError, ValueError, KeyError, TypeError):
        return "cost: not measured yet; the run first times some steps of the recipe and logs the estimated total"
    return f"estimated cost of training all detectors: about {hours:.1f} hours, one after the other ({cost})"
