"""Rows of Table II that fuse inside the detector (`stacked`, `twostream`) or after it (`late`): notes and verdicts."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from detection.inside import INSIDE
from detection.significance import EXTERNAL
from pipeline.artefacts import read_json
from reports.collect import LATE, NO_IMAGES, group_of, require_equal, required

NETWORK_KEYS = ("parameters", "multiply_adds")
DESCRIPTIONS = {
    "stacked": "stacked: the detector's input is one four-channel image of both bands; only its first convolution is "
    "wider",
    "twostream": "twostream: the detector has one backbone per band, joined at the levels that its neck reads",
    "late": "late: the detections of the visible and the infrared detector are merged, without further training",
}


def network_columns(cost: Mapping[str, Any] | None, variants: Sequence[str]) -> pd.DataFrame:
    """Return one row per variant with the detector's `parameters` and `multiply_adds`, from detection.cost's cost.json.

    `late` counts two detectors. Values are NaN without the file, and for a variant that this run does not train.
    """
    networks = cost["networks"] if cost else {}
    one = next(iter(networks.values()), {})  # the network of every variant whose input is one image
    rows = []
    for variant in variants:
        shown_one = bool(cost) and (variant == LATE or variant in cost["hours"]) and variant not in INSIDE
        network = networks.get(variant, one if shown_one else {})
        rows.append([network.get(key, math.nan) * (2 if variant == LATE else 1) for key in NETWORK_KEYS])
    return pd.DataFrame(rows, columns=list(NETWORK_KEYS)).astype(float)


def inside_facts(
    cost: Mapping[str, Any] | None, variants: Sequence[str], brought: Collection[str] = ()
) -> dict[str, str]:
    """Return Table II's facts about groups of rows, rows that are not in the paper, and the cost of the networks."""
    groups: dict[str, list[str]] = {}
    for variant in variants:
        groups.setdefault(group_of(variant, brought), []).append(variant)
    facts = {name: f"{words}; not in the paper." for name, words in DESCRIPTIONS.items() if name in variants}
    if facts:
        facts["groups"] = ", ".join(f"{name} ({', '.join(members)})" for name, members in groups.items())
    if cost:
        costs: dict[str, list[str]] = {}
        for variant, (parameters, adds) in zip(variants, network_columns(cost, variants).to_numpy(), strict=True):
            size = f"{parameters / 1e6:.2f} M parameters, {adds / 1e9:.2f} G multiply-adds"
            words = "unknown" if math.isnan(adds) else size
            costs.setdefault(words, []).append(variant)
        height, width = next(iter(cost["networks"].values()))["image"]
        listed = "; ".join(f"{', '.join(members)}: {words}" for words, members in costs.items())
        facts["networks"] = f"Detector size, and its cost for an image of {width}x{height} pixels: {listed}."
    return facts


def read_cost(file: Path, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Read cost.json of detection.cost; InputError if its detector is not that of `shared`, from `check_runs`."""
    cost = read_json(file)
    for key in ("networks", "hours", "recipe"):
        required(cost, key, file)
    for key in ("model", "image_size"):
        trained = shared.get(f"training.recipe.{key}", cost["recipe"].get(key))
        require_equal(file, {key: cost["recipe"].get(key)}, Path("the trainings"), {key: trained})
    return cost


def inside_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes from `inside_facts`."""
    notes = [f"Row groups: {facts['groups']}."] if "groups" in facts else []
    return [*notes, *(facts[name] for name in (*DESCRIPTIONS, "networks") if name in facts)]


def headline_column(table: pd.DataFrame, name: str) -> str:
    """Return the column of a verdict that the headline uses: the one for methods if there is one."""
    return f"{name}_methods" if f"{name}_methods" in table else name


def against_inside_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnote on the comparison with fusion in or after the detector; empty without this column."""
    if "ways" not in facts:
        return []
    about = "the methods" if facts["marks"].startswith("methods") else "these trained detectors"
    return [
        f"vs. fusion in/after detector: the same comparison, with these rows instead of the bands: {facts['ways']}. "
        f"These comparisons hold for {about}."
    ]


def group_starts(variants: Sequence[str], brought: Collection[str] = ()) -> list[int]:
    """Return the rows that begin a group of Table II, without the first row."""
    groups = [group_of(variant, brought) for variant in variants]
    return [row for row in range(1, len(groups)) if groups[row] != groups[row - 1]]


def against_inside(significance: Mapping[str, Any], variant: str, kind: str) -> str:
    """Return the verdict on a variant against `stacked`, `twostream` and `late`, as far as they were run.

    It is `ahead` of all of them, `behind` at least one, `not shown` or `not tested`; empty for a variant that is not
    compared. `kind` is the scope of the conclusion: `trained` or `methods`.
    """
    return verdict_on("against_inside", significance, variant, kind)


def verdict_on(question: str, significance: Mapping[str, Any], variant: str, kind: str) -> str:
    """Return the verdict of `against_bands` or `against_inside`, `not tested`, or an empty text if there is none."""
    found = significance[question].get(variant)
    if found is None:
        return ""
    untested = significance["untested"] or found[kind].get("reason") == EXTERNAL
    return "not tested" if untested else found[kind]["verdict"]


def ways_run(significance: Mapping[str, Any]) -> str:
    """Return a text that lists those of `stacked`, `twostream` and `late` that were run, and those that were not."""
    there = [name for name in NO_IMAGES if name in significance["inside"]]
    absent = [name for name in NO_IMAGES if name not in there]
    return ", ".join(there) + (f" (not run: {', '.join(absent)})" if absent else "")


def inside_sentences(
    averages: Mapping[str, float], significance: Mapping[str, Any] | None, fused: Sequence[str], kind: str
) -> list[str]:
    """Return the page's sentences on fusing inside the detector, which follow the verdict against the bands.

    `averages` are the printed averages of all variants, `fused` the variants that are fused images.
    """
    reached = [f"{averages[name]:.3f} ({name})" for name in INSIDE if name in averages]
    sentences = [f"mAP of detectors that take both bands as input: {', '.join(reached)}."] if reached else []
    if not significance or significance["untested"] or not significance["inside"]:
        return sentences
    verdicts = {name: verdict_on("against_bands", significance, name, kind) for name in INSIDE if name in averages}
    if verdicts:
        said = ", ".join(f"{name} {word}" for name, word in verdicts.items())
        sentences.append(f"Verdict of these detectors vs. both bands: {said}.")
    results = {name: against_inside(significance, name, kind) for name in fused}
    ahead, behind = ([name for name in fused if results[name] == word] for word in ("ahead", "behind"))
    named = f" ({', '.join(ahead)})" if ahead else ""
    several = len(significance["inside"]) > 1
    all_of, any_of = (" than all of these", " than at least one") if several else ("", "")
    sentences.append(
        f"The fused variants were also compared with {ways_run(significance)}. Significantly higher mAP{all_of}: "
        f"{len(ahead)} of {len(fused)}{named}; significantly lower mAP{any_of}: {len(behind)}."
    )
    return sentences
