"""What a run shows: which variants lead, which of them differ, and the answer in words.

The leading rows are chosen by unrounded values, here and nowhere else, so that table, page and charts speak of the
same rows. A difference is stated between printed values, so that it is what the printed numbers give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.collect import BANDS, LATE, fused_variants

# Below this mean average precision a detector finds next to nothing, and differences say nothing about its images.
LEARNED = 0.05


@dataclass(frozen=True)
class Leaders:
    """The rows of Table II with the highest Average: of all, of the bands, of the fused; None where none has one."""

    best: str | None
    band: str | None
    fused: str | None


def leaders(table: pd.DataFrame) -> Leaders:
    """Return which variants of Table II lead, by unrounded Average; of equal ones the first."""
    average = _averages(table)
    groups = (average.index, [name for name in average.index if name in BANDS], fused_variants(average.index))
    return Leaders(*(str(average[list(names)].idxmax()) if len(names) else None for names in groups))


def comparison(significance: Mapping[str, Any], first: str, second: str) -> dict[str, Any]:
    """Return what detection.significance found of two variants' averages, `first` less `second`."""
    for entry in significance["comparisons"]:
        if (entry["first"], entry["second"]) == (first, second):
            return dict(entry)
        if (entry["first"], entry["second"]) == (second, first):
            turned = {"difference": -entry["difference"], "low": -entry["high"], "high": -entry["low"]}
            return {**entry, "first": first, "second": second, **turned}
    raise KeyError(f"no comparison of {first!r} with {second!r}")


def against(table: pd.DataFrame, significance: Mapping[str, Any], other: str | None) -> dict[str, str]:
    """Return how each variant of Table II compares with `other`: `better`, `worse` or `no difference shown`.

    Left out are `other` itself and variants without an Average; where `other` is None, all are.
    """
    average = _averages(table)
    told = {}
    for variant in average.index.drop(other) if other is not None else ():
        if not comparison(significance, variant, other)["different"]:
            told[variant] = "no difference shown"
        else:
            told[variant] = "better" if average[variant] > average[other] else "worse"
    return told


def tied_with_best(table: pd.DataFrame, significance: Mapping[str, Any] | None) -> set[str]:
    """Return the variants whose average is not shown to differ from the best one's, the best itself left out."""
    told = against(table, significance, leaders(table).best) if significance else {}
    return {variant for variant, word in told.items() if word == "no difference shown"}


def verdict(table: pd.DataFrame, dataset: str, significance: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Return the answer in one sentence and, in others, how far it can be trusted.

    The best fused variant is compared with the better single band. `significance` is what detection.significance
    wrote, if it ran.
    """
    lead, average = leaders(table), _averages(table)
    method, band = lead.fused, lead.band
    if method is None or band is None:
        return "This run cannot say: it has no score for a single band, or none for a fused variant.", ""
    if average.max() < LEARNED:
        return f"This run cannot say: no detector has learned, the best reached {average.max():.3f}.", ""
    printed = average.round(3)
    gain = round(float(printed[method] - printed[band]), 3)
    compared = comparison(significance, method, band) if significance else None
    chance = ", which chance can explain" if gain and compared is not None and not compared["different"] else ""
    said = "Fusion scored higher" if gain > 0 else "Fusion scored lower" if gain < 0 else "Fusion made no difference"
    answer = (
        f"{said} on {dataset}: the best fused variant, {method}, reached a mean average precision of "
        f"{printed[method]:.3f}; the better single band, {band}, {printed[band]:.3f} ({gain:+.3f}{chance})."
    )
    fused = printed[fused_variants(printed.index)]
    trust = [f"{(fused > printed[band]).sum()} of {len(fused)} fused variants scored above {band}."]
    if LATE in printed:
        trust.append(
            f"Pooling the boxes of both bands' detectors, without fusing any image, reached {printed[LATE]:.3f}."
        )
    seeds = int(table["seeds"].min())
    if compared is not None:
        low, high = compared["low"], compared["high"]
        told = "can be told from chance" if compared["different"] else "cannot be told from chance"
        trust.append(
            f"The difference between {method} and {band} {told}: its 95 % interval by itself is {low:+.3f} to "
            f"{high:+.3f}, p {printed_p(compared['p_holm'])} after correction for all comparisons "
            f"({significance['method']}, {significance['samples']} draws). A best of several flatters its winner."
        )
        if seeds == 1:
            trust.append("One seed: what training again would change is not in it.")
    elif seeds == 1:
        trust.append("One seed: not known to be more than noise.")
    else:
        first, second = (table.set_index("variant").loc[name] for name in (method, band))
        apart = first["Average_low"] > second["Average_high"] or first["Average_high"] < second["Average_low"]
        trust.append(
            f"Over {seeds} seeds the two ranges {'do not overlap' if apart else 'overlap'}; no interval over test "
            "images was computed, and a best of several flatters its winner."
        )
    return answer, " ".join(trust)


def changes(values: pd.DataFrame, columns: Sequence[str], lead: Leaders) -> list[tuple[str, float]]:
    """Return by how much the best fused variant's printed value differs from the better band's in each column.

    `values` has a row for each variant. The largest gain comes first; columns that are undefined for either are left
    out.
    """
    if lead.fused is None or lead.band is None:
        return []
    rows = values.set_index("variant")[list(columns)].round(3)
    difference = (rows.loc[lead.fused] - rows.loc[lead.band]).dropna().sort_values(ascending=False, kind="stable")
    return [(str(name), round(float(value), 3)) for name, value in difference.items()]


def printed_p(p: float) -> str:
    """Return a p value as it is printed, with two decimals."""
    return "< 0.01" if p < 0.01 else f"{p:.2f}"


def not_measured(
    table: pd.DataFrame,
    facts: Mapping[str, Any],
    present: Mapping[str, bool],
    left_out: Sequence[str] = (),
    uncosted: Sequence[str] = (),
) -> list[str]:
    """Return, one sentence each, what a reader might take for measured and is not.

    `present` says which optional results the page was given, `left_out` the methods that the configuration names and
    that have no row, `uncosted` those whose time is not known.
    """
    listed = []
    if left_out:
        listed.append(f"Named by the configuration and not run, for want of weights: {', '.join(left_out)}.")
    if int(table["seeds"].min()) == 1:
        listed.append("The spread between seeds: each detector was trained once.")
    if not present["significance"]:
        listed.append("Confidence intervals over test images, and tests of the differences between variants.")
    if not present["conditions"]:
        listed.append("Average precision by condition (day, night, fog, ...): all test images are scored together.")
    if not present["helps"]:
        listed.append("Which objects fusing found and lost: no list of them was given.")
    if not present["costs"]:
        listed.append("What each method costs in time and memory: in this run no cost was measured.")
    elif uncosted:
        listed.append(f"What these cost in time and memory: {', '.join(uncosted)}.")
    if not present["test_sets"]:
        listed.append("The fusion metrics on the paper's six test sets (Tables I and III): see config/table1.yaml.")
    empty = [name for name, count in facts["boxes"].items() if not count]
    if empty:
        listed.append(f"Average precision of {', '.join(empty)}: the test set has no box of it.")
    if "Average_paper" not in table:
        listed.append(f"Agreement with the paper: its Table II is on M3FD, this run on {facts['dataset']}.")
    listed.append("Fusion weights trained with other seeds: every method fused the pairs once.")
    return listed


def _averages(table: pd.DataFrame) -> pd.Series:
    """Return Average by variant, where it is defined."""
    return table.set_index("variant")["Average"].dropna()
