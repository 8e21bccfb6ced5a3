"""What a run of the workflow will do, in a few lines, before Snakemake's own list of jobs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


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
        there = sum(Path(file).is_file() for file in files)
        lines.append(f"  {what}: {there} of {len(files)} there" + ("" if there == len(files) else ", the rest to make"))
    return "\n".join([*lines, *(f"  {remark}" for remark in remarks)])


def cost_line(cost: Path) -> str:
    """Say what the trainings cost by the estimate in `cost`; a missing or broken file is no estimate."""
    try:
        hours = float(json.loads(cost.read_text(encoding="utf-8"))["hours_in_all"])
    except (OSError, ValueError, KeyError, TypeError):
        return "cost: not yet measured; the run times some steps of the recipe first and says what all will take"
    return f"cost of training the detectors, all of them: about {hours:.1f} hours, one after the other ({cost})"
