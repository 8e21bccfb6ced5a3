"""What a run of the workflow will do, in a few lines, before Snakemake's own list of jobs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def describe(
    dataset: str,
    variants: Sequence[str],
    seeds: Sequence[int],
    detector: str,
    stages: Mapping[str, Sequence[Path]],
    remarks: Sequence[str],
    cost: Path,
) -> str:
    """Say what is compared, what of each stage is there, and what training the detectors will cost.

    Args:
        dataset: its name.
        variants: what the detector is trained on, in the tables' order.
        seeds: of each variant.
        detector: model and image size, in words.
        stages: the files that each stage makes, by what it does, such as `fused`.
        remarks: what else is worth knowing, such as methods left out.
        cost: where `detection.cost` writes its estimate.
    """
    seeds_text = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    lines = [f"Plan: {len(variants)} variants x {seeds_text} of {detector} on {dataset}", f"  {', '.join(variants)}"]
    for what, files in stages.items():
        there = sum(Path(file).is_file() for file in files)
        lines.append(f"  {what}: {there} of {len(files)} there" + ("" if there == len(files) else ", the rest to make"))
    lines += [f"  {remark}" for remark in remarks]
    return "\n".join([*lines, f"  {cost_line(cost)}"])


def cost_line(cost: Path) -> str:
    """Say what the trainings cost by the estimate in `cost`; a missing or broken file is no estimate."""
    try:
        hours = float(json.loads(cost.read_text(encoding="utf-8"))["hours_in_all"])
    except (OSError, ValueError, KeyError, TypeError):
        return "cost: not yet measured; the run times some steps of the recipe first and says what all will take"
    return f"cost of training the detectors, all of them: about {hours:.1f} hours, one after the other ({cost})"
