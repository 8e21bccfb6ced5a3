"""Conclusions from Table II: which variants have the highest AP, which of them differ, and the verdict in words.

The leading rows are chosen by unrounded values, and only here, so that table, page and charts refer to the same rows.
A stated difference is computed from the printed values, so that it agrees with the printed numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from detection.differences import LEVEL
from reports.collect import BANDS, LATE, brought_rows, fused_variants
from reports.inside import inside_sentences, verdict_on

# Below this mean average precision a detector finds next to nothing, and differences say nothing about its images.
LEARNED = 0.05

PICKED = "The best fused variant was picked after seeing the scores, so its mAP is probably overstated."

# What a conclusion holds for, by the keys of `statement`.
SCOPES = {
    "methods": "for the methods (variance between trainings included)",
    "trained": "for these trained detectors (variance between trainings not included)",
}


@dataclass(frozen=True)
class Leaders:
    """The rows of Table II with the highest Average: of all, of the bands, of the fused variants; None if missing."""

    best: str | None
    band: str | None
    fused: str | None


def leaders(table: pd.DataFrame) -> Leaders:
    """Return the leading variants of Table II by unrounded Average; the first of equal ones."""
    average = _averages(table)
    fused = fused_variants(average.index, brought_rows(table))
    groups = (average.index, [name for name in average.index if name in BANDS], fused)
    return Leaders(*(str(average[list(names)].idxmax()) if len(names) else None for names in groups))


def statement(significance: Mapping[str, Any]) -> str:
    """Return the scope of the conclusions: `methods` with three seeds or more, else these `trained` detectors."""
    return "methods" if significance["training"] else "trained"


def comparison(significance: Mapping[str, Any], first: str, second: str) -> dict[str, Any]:
    """Return the result of detection.significance for the difference of two averages, `first` minus `second`."""
    for entry in significance["comparisons"]:
        if (entry["first"], entry["second"]) == (first, second):
            return dict(entry)
        if (entry["first"], entry["second"]) == (second, first):
            classes = {name: _reversed(values) for name, values in entry.get("classes", {}).items()}
            return {**_reversed(entry), "first": first, "second": second, "classes": classes}
    raise KeyError(f"no comparison of {first!r} with {second!r}")


def _reversed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a difference and its bounds with the opposite sign."""
    other = {"difference": "difference", "low": "high", "high": "low"}
    other |= {"methods_low": "methods_high", "methods_high": "methods_low"}
    reversed_values = {key: entry[source] for key, source in other.items() if key in entry}
    return {**entry, **{key: None if value is None else -value for key, value in reversed_values.items()}}


def against_best(table: pd.DataFrame, significance: Mapping[str, Any]) -> dict[str, str]:
    """Return how each variant of Table II compares with the best average: `best`, `tie`, `worse` or `not tested`.

    `tie`: not significantly different from the best. Variants without an Average are left out. The result of a
    comparison with an external row holds for these trained detectors, never for methods.
    """
    best, average, brought = leaders(table).best, _averages(table), brought_rows(table)
    results = {}
    for variant in average.index:
        if variant == best:
            results[variant] = "best"
        elif significance["untested"]:
            results[variant] = "not tested"
        else:
            kind = "trained" if {variant, best} & {*brought} else statement(significance)
            differ = comparison(significance, variant, best)[f"{kind}_differ"]
            results[variant] = "worse" if differ else "tie"
    return results


def own_seeds(table: pd.DataFrame) -> int:
    """Return the number of seeds of the rows of Table II that are not external."""
    return int(table.loc[~table["variant"].isin(brought_rows(table)), "seeds"].min())


def tied_with_best(table: pd.DataFrame, significance: Mapping[str, Any] | None) -> set[str]:
    """Return the variants whose average is not significantly different from the best one, without the best itself."""
    results = against_best(table, significance) if significance else {}
    return {variant for variant, word in results.items() if word == "tie"}


def against_bands(significance: Mapping[str, Any], variant: str, kind: str) -> str:
    """Return `ahead` (of both bands), `behind` (either band), `not shown`, `not tested`, or an empty text for a band.

    `ahead`: significantly higher AP than both bands; `behind`: significantly lower AP than at least one band. `kind` is
    the scope of the conclusion: `trained` or `methods`.
    """
    return verdict_on("against_bands", significance, variant, kind)


def verdict(table: pd.DataFrame, dataset: str, significance: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Return the answer in one or two sentences and, as a second text, how far it can be trusted.

    With `significance`, the result of detection.significance, the answer is the confirmatory one: which fused variants
    have a significantly higher AP than both single bands. Without it, the averages of the best fused variant and of the
    better band are compared.
    """
    lead, average = leaders(table), _averages(table)
    method, band = lead.fused, lead.band
    if method is None or band is None:
        return "This run does not answer the question: it contains no single-band row or no fused row.", ""
    if average.max() < LEARNED:
        return (
            "This run does not answer the question: no detector was trained to a usable accuracy (best mAP: "
            f"{average.max():.3f}).",
            "",
        )
    printed = average.round(3)
    gain = round(float(printed[method] - printed[band]), 3)
    scores = (
        f"the best fused variant, {method}, has a mean average precision of {printed[method]:.3f}; the better single "
        f"band, {band}, has {printed[band]:.3f} (difference {gain:+.3f})."
    )
    fused = fused_variants(printed.index, brought_rows(table))
    if significance:
        answer, trust = _confirmatory_answer(
            fused, dataset, significance, method, [name for name in BANDS if name in printed]
        )
        answer = f"{answer} {scores[0].upper()}{scores[1:]}"
    else:
        said = "scored higher" if gain > 0 else "scored lower" if gain < 0 else "gave the same score"
        answer = (
            f"On {dataset}, the fused images {said}; no significance test was made, so this may be chance: {scores}"
        )
        trust = [f"{(printed[fused] > printed[band]).sum()} of {len(fused)} fused variants scored above {band}."]
        trust.append(f"Seeds: {own_seeds(table)}. {PICKED}")
    if LATE in printed:
        trust.append(
            "Late fusion, which merges the detections of the visible and the infrared detector, has a mean average "
            f"precision of {printed[LATE]:.3f}."
        )
    kind = statement(significance) if significance else "trained"
    trust += inside_sentences(printed, significance, fused, kind)
    return answer, " ".join(trust)


def _confirmatory_answer(
    fused: Sequence[str], dataset: str, significance: Mapping[str, Any], best: str, bands: Sequence[str]
) -> tuple[str, list[str]]:
    """Return the sentence on whether fused variants are better than the bands, and the sentences on its evidence."""
    kind = statement(significance)
    results = {name: against_bands(significance, name, kind) for name in fused}
    ahead, behind = ([name for name in fused if results[name] == word] for word in ("ahead", "behind"))
    target = "both single bands" if len(bands) > 1 else f"the single band {bands[0]}"
    either = "at least one single band" if len(bands) > 1 else target
    if ahead:
        answer = (
            f"On {dataset}, fusing the images improves detection: {', '.join(ahead)} "
            f"{'have' if len(ahead) > 1 else 'has'} a significantly higher mAP than {target}"
        )
    elif len(behind) == len(fused):
        answer = (
            f"On {dataset}, fusing the images does not improve detection: every fused variant has a significantly "
            f"lower mAP than {either}"
        )
    else:
        answer = (
            f"On {dataset}, the result is inconclusive: no fused variant has a significantly higher mAP than {target}"
        )
    answer += f", {SCOPES[kind]}."
    trust = []
    if significance["untested"]:
        trust.append(f"Nothing was tested: {significance['untested']}.")
    else:
        trust.append(
            f"Fused variants with a significantly higher mAP than {target}: {len(ahead)} of {len(fused)}; with a "
            f"significantly lower mAP than {either}: {len(behind)} (one-sided tests, corrected by Holm's procedure)."
        )
        entry = significance["against_bands"][best][kind]
        if entry["reason"]:
            trust.append(
                f"{best} is neither significantly better than {target} nor significantly worse than {either} "
                f"({_not_shown_words(entry)})."
            )
    low, high = ("methods_low", "methods_high") if kind == "methods" else ("low", "high")
    compared = {band: comparison(significance, best, band) for band in bands}
    differences = [
        f"{best} vs. {band} [{entry[low]:+z.3f}, {entry[high]:+z.3f}]"
        for band, entry in compared.items()
        if entry[low] is not None
    ]
    if differences:
        resampled = "" if kind == "methods" else f"; {significance['method']}, {significance['samples']} draws"
        trust.append(
            f"95 % confidence intervals of the difference in mAP: {', '.join(differences)} (not corrected for multiple "
            f"comparisons{resampled})."
        )
        trust.append(PICKED)
    if kind == "trained" and not significance["untested"]:
        reason = significance["against_bands"][best]["methods"]["reason"]
        trust.append(f"These conclusions hold for these trained detectors, not for the methods in general ({reason}).")
    return answer, trust


def _not_shown_words(entry: Mapping[str, Any]) -> str:
    """Return the p values of a verdict `not shown`, or the reason why there are none."""
    ahead, behind = entry["p_ahead"], entry["p_behind"]
    if any(p is None or math.isnan(p) for p in (ahead, behind)):
        return entry["reason"]
    return (
        f"corrected one-sided p values: {ahead:.3f} for better, {behind:.3f} for worse; significance level {LEVEL / 2}"
    )


def changes(
    table: pd.DataFrame, columns: Sequence[str], lead: Leaders, significance: Mapping[str, Any] | None
) -> list[tuple[str, float, str]]:
    """Return the printed difference of the best fused variant and the better band per class, and its 95 % interval.

    The largest gain comes first. Classes that are undefined for either variant, or whose difference has no interval,
    are left out. The list is empty without `significance`.
    """
    if lead.fused is None or lead.band is None or not significance:
        return []
    rows = table.set_index("variant")[list(columns)].round(3)
    difference = (rows.loc[lead.fused] - rows.loc[lead.band]).dropna().sort_values(ascending=False, kind="stable")
    known = comparison(significance, lead.fused, lead.band)["classes"]
    found = []
    for name, value in difference.items():
        bounds = known[name]
        if bounds["low"] is not None:
            remark = f", {bounds['remark']}" if bounds["remark"] else ""
            words = f"{bounds['low']:+z.3f} to {bounds['high']:+z.3f}{remark}"
            found.append((str(name), round(float(value), 3) + 0.0, words))
    return found


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
    """Return one sentence for each quantity that a reader might expect and that was not measured.

    `present` says which optional results the page contains, `left_out` are the methods of the configuration that have
    no row, `uncosted` the methods whose time is unknown.
    """
    listed = []
    if left_out:
        listed.append(
            f"Methods of the configuration that were not run because they have no weights: {', '.join(left_out)}."
        )
    if own_seeds(table) == 1:
        listed.append("The spread between seeds: each detector was trained once.")
    if not present["significance"]:
        listed.append("Confidence intervals over test images, and tests of the differences between variants.")
    if not present["conditions"]:
        listed.append(
            "Average precision by condition (day, night, fog, ...) with intervals: the run has no condition labels or "
            "no significance results."
        )
    if not present["errors"]:
        listed.append("The error types of each detector: they were not analysed.")
    if not present["helps"]:
        listed.append("Objects gained and lost by fusion: not computed in this run.")
    if not present["costs"]:
        listed.append("Time and memory of each fusion method: no cost was measured in this run.")
    elif uncosted:
        listed.append(f"Time and memory of these fusion methods: {', '.join(uncosted)}.")
    if not present["robustness"]:
        listed.append("Robustness to a shifted, noisy or missing band: see config/robustness.yaml.")
    if not present["test_sets"]:
        listed.append("The fusion metrics on the paper's six test sets (Tables I and III): see config/table1.yaml.")
    empty = [name for name, count in facts["boxes"].items() if not count]
    if empty:
        which = "these classes" if len(empty) > 1 else "this class"
        listed.append(f"Average precision of {', '.join(empty)}: the test set has no box of {which}.")
    if "Average_paper" not in table:
        listed.append(f"Agreement with the paper: its Table II uses M3FD, this run {facts['dataset']}.")
    listed.append(
        "The spread between trainings of a fusion method: each method fused the pairs with one set of weights."
    )
    return listed


def _averages(table: pd.DataFrame) -> pd.Series:
    """Return Average by variant, without undefined values."""
    return table.set_index("variant")["Average"].dropna()
