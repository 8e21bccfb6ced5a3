"""What Table II and the page say of fusing inside the detector and after it: `stacked`, `twostream`, `late`."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from detection.inside import INSIDE
from detection.significance import BROUGHT
from pipeline.artefacts import read_json
from reports.collect import LATE, NO_IMAGES, group_of, require_equal, required

KEYS = ("parameters", "multiply_adds")
MEANING = {
    "stacked": "stacked: the detector is given both bands as one image of four channels, its first convolution wider",
    "twostream": "twostream: the detector has a backbone for each band, joined at the levels that its neck reads",
    "late": "late: the boxes of the visible and the infrared detector pooled, nothing trained",
}


def network_columns(cost: Mapping[str, Any] | None, variants: Sequence[str]) -> pd.DataFrame:
    """Return `parameters` and `multiply_adds` of each variant's detectors, a row each, by cost.json of detection.cost.

    `late` is two detectors. NaN without the file, and for a variant that this run does not train.
    """
    networks = cost["networks"] if cost else {}
    one = next(iter(networks.values()), {})  # of all that are shown one image
    rows = []
    for variant in variants:
        shown_one = bool(cost) and (variant == LATE or variant in cost["hours"]) and variant not in INSIDE
        network = networks.get(variant, one if shown_one else {})
        rows.append([network.get(key, math.nan) * (2 if variant == LATE else 1) for key in KEYS])
    return pd.DataFrame(rows, columns=list(KEYS)).astype(float)


def inside_facts(
    cost: Mapping[str, Any] | None, variants: Sequence[str], brought: Collection[str] = ()
) -> dict[str, str]:
    """Return what Table II says of its groups of rows, of those that are not in the paper, and of what each takes."""
    groups: dict[str, list[str]] = {}
    for variant in variants:
        groups.setdefault(group_of(variant, brought), []).append(variant)
    facts = {name: f"{words}; not in the paper." for name, words in MEANING.items() if name in variants}
    if facts:
        facts["groups"] = "; ".join(f"{name}: {', '.join(members)}" for name, members in groups.items())
    if cost:
        costs: dict[str, list[str]] = {}
        for variant, (parameters, adds) in zip(variants, network_columns(cost, variants).to_numpy(), strict=True):
            words = "not known" if math.isnan(adds) else f"{parameters / 1e6:.2f} M, {adds / 1e9:.2f} G"
            costs.setdefault(words, []).append(variant)
        height, width = next(iter(cost["networks"].values()))["image"]
        listed = "; ".join(f"{', '.join(members)} {words}" for words, members in costs.items())
        facts["networks"] = f"Parameters, and multiply-adds of an image of {width}x{height} pixels: {listed}."
    return facts


def read_cost(file: Path, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Read cost.json of detection.cost; InputError where it is of another detector than `shared` of `check_runs`."""
    cost = read_json(file)
    for key in ("networks", "hours", "recipe"):
        required(cost, key, file)
    for key in ("model", "image_size"):
        trained = shared.get(f"training.recipe.{key}", cost["recipe"].get(key))
        require_equal(file, {key: cost["recipe"].get(key)}, Path("the trainings"), {key: trained})
    return cost


def inside_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of `inside_facts`."""
    notes = [f"Rows by group: {facts['groups']}."] if "groups" in facts else []
    return [*notes, *(facts[name] for name in (*MEANING, "networks") if name in facts)]


def told_column(table: pd.DataFrame, name: str) -> str:
    """Return which column of a verdict holds the statement that the headline makes."""
    return f"{name}_methods" if f"{name}_methods" in table else name


def against_inside_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnote on the column that compares with fusing in the detector, where there is one."""
    if "ways" not in facts:
        return []
    about = "methods" if facts["marks"].startswith("methods") else "these trained detectors"
    return [
        f"Against fusing in the detector: as against both bands, now each of its ways ({facts['ways']}), about {about}."
    ]


def group_starts(variants: Sequence[str], brought: Collection[str] = ()) -> list[int]:
    """Return the rows that begin a group of Table II, but the first."""
    groups = [group_of(variant, brought) for variant in variants]
    return [row for row in range(1, len(groups)) if groups[row] != groups[row - 1]]


def against_inside(significance: Mapping[str, Any], variant: str, kind: str) -> str:
    """Return `ahead` (of every way of fusing in the detector), `behind` (any), `not shown` or `not tested`.

    Nothing for a variant that is not compared. `kind` is the statement: `trained` or `methods`.
    """
    found = significance["against_inside"].get(variant)
    if found is None:
        return ""
    untested = significance["untested"] or found[kind].get("reason") == BROUGHT
    return "not tested" if untested else found[kind]["verdict"]


def ways_run(significance: Mapping[str, Any]) -> str:
    """Return which ways of fusing in the detector were compared with, and in words which were not run."""
    there = [name for name in NO_IMAGES if name in significance["inside"]]
    absent = [name for name in NO_IMAGES if name not in there]
    return ", ".join(there) + (f"; not run: {', '.join(absent)}" if absent else "")


def inside_sentences(
    averages: Mapping[str, float], significance: Mapping[str, Any] | None, fused: Sequence[str], kind: str
) -> list[str]:
    """Return what the page says of fusing inside the detector, beside the verdict against the bands.

    `averages` are the printed averages of all variants, `fused` the fused images among them.
    """
    reached = [f"{averages[name]:.3f} ({name})" for name in INSIDE if name in averages]
    sentences = [f"A detector that is given both bands reached {', '.join(reached)}."] if reached else []
    if not significance or significance["untested"] or not significance["inside"]:
        return sentences
    told = {name: against_inside(significance, name, kind) for name in fused}
    ahead, behind = ([name for name in fused if told[name] == word] for word in ("ahead", "behind"))
    named = f" ({', '.join(ahead)})" if ahead else ""
    sentences.append(
        f"Fused variants ahead of fusing in the detector, by each of its ways ({ways_run(significance)}): {len(ahead)} "
        f"of {len(fused)}{named}; behind any: {len(behind)}."
    )
    return sentences
