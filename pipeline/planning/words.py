"""Options as words of a command, and what a run will do, in a few lines, before Snakemake's own list of jobs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BAND_KEYS = ("visible_suffix", "infrared_suffix", "infrared_range")
# Settings of trainings that do not decide their results; numbers and plain words by the schema.
INDIFFERENT = ("checkpoint_every", "save_every", "cache", "workers")


def options(settings: Mapping[str, Any]) -> list[str]:
    """Return `--key value` words for a mapping; a list gives several values, true a bare flag, null and false none."""
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
    """Return the options that name the data set with boxes, its bands and some of its other settings."""
    dataset = config["dataset"]
    others = {key: dataset[key] for key in keys if key not in BAND_KEYS}
    sets: list[str] = []
    if isinstance(others.get("labels"), Mapping):
        sets = [word for name, paths in others.pop("labels").items() for word in ("--label-set", name, *paths)]
    return options({"dataset": dataset["name"], **others}) + sets + band_options(dataset)


def band_options(settings: Mapping[str, Any]) -> list[str]:
    """Return the options by which the two bands of a data set's settings are told apart and read."""
    # Of one word each: a suffix may begin with a dash.
    suffixes = [f"--{key.replace('_', '-')}={settings[key]}" for key in BAND_KEYS[:2] if settings.get(key)]
    return options({"infrared_range": settings.get("infrared_range")}) + suffixes


def deciding(settings: Mapping[str, Any]) -> list[str]:
    """Return the options that decide a training's result, for params; the others may change without a new run."""
    return options({key: value for key, value in settings.items() if key not in INDIFFERENT})


def indifferent(settings: Mapping[str, Any]) -> str:
    """Return the other options as one text; resources carry them, as those make nothing run again."""
    return " ".join(options({key: value for key, value in settings.items() if key in INDIFFERENT}))


def named(names: Iterable[str], files: Iterable[str]) -> list[str]:
    """Return NAME=FILE words."""
    return [f"{name}={file}" for name, file in zip(names, files, strict=True)]


def test_set_options(config: Mapping[str, Any], test_set: Mapping[str, Any], treatment: str) -> list[str]:
    """Return how a test set is read and written: as its authors published, or losslessly as the whole project does."""
    settings = {"colour": config["fusion"]["colour"], "format": "png"}
    if treatment == "authors":
        settings = {key: test_set[key] for key in ("colour", "format")} | {"treatment": "authors"}
        if settings["format"] == "jpg":
            settings["quality"] = test_set["quality"]
    return options({**settings, "precision": config["fusion"]["precision"]})


def describe(title: str, names: Sequence[str], stages: Mapping[str, Sequence[Path]], remarks: Sequence[str]) -> str:
    """Say what is compared, what of each stage is there, and what else is worth knowing.

    Args:
        title: the run in one line.
        names: what is compared, in the tables' order.
        stages: the files that each stage makes, by what it does, such as `fused`.
        remarks: one line each, such as methods left out.
    """
    lines = [f"Plan: {title}", f"  {', '.join(names)}"]
    for what, files in stages.items():
        there = sum(file.is_file() for file in files)
        lines.append(f"  {what}: {there} of {len(files)} there" + ("" if there == len(files) else ", the rest to make"))
    return "\n".join([*lines, *(f"  {remark}" for remark in remarks)])


def cost_line(cost: Path) -> str:
    """Say what the trainings cost by the estimate in `cost`; a missing or broken file is no estimate."""
    try:
        hours = float(json.loads(cost.read_text(encoding="utf-8"))["hours_in_all"])
    except (OSError, ValueError, KeyError, TypeError):
        return "cost: not yet measured; the run times some steps of the recipe first and says what all will take"
    return f"cost of training the detectors, all of them: about {hours:.1f} hours, one after the other ({cost})"
