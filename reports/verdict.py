"""What a run shows: which variants lead, which of them differ, and the answer in words.

The leading rows are chosen by unrounded values, here and nowhere else, so that table, page and charts speak of the
same rows. A difference is stated between printed values, so that it is what the printed numbers give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from detection.significance import BROUGHT
from reports.collect import BANDS, LATE, brought_rows, fused_variants
from reports.inside import inside_sentences

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
    fused = fused_variants(average.index, brought_rows(table))
    groups = (average.index, [name for name in average.index if name in BANDS], fused)
    return Leaders(*(str(average[list(names)].idxmax()) if len(names) else None for names in groups))


def statement(significance: Mapping[str, Any]) -> str:
    """Return which statement is made of differences: about `methods` from three seeds on, else `trained` detectors."""
    return "methods" if significance["training"] else "trained"


def comparison(significance: Mapping[str, Any], first: str, second: str) -> dict[str, Any]:
    """Return what detection.significance found of two variants' averages, `first` less `second`."""
    for entry in significance["comparisons"]:
        if (entry["first"], entry["second"]) == (first, second):
            return dict(entry)
        if (entry["first"], entry["second"]) == (second, first):
            classes = {name: _turned(values) for name, values in entry.get("classes", {}).items()}
            return {**_turned(entry), "first": first, "second": second, "classes": classes}
    raise KeyError(f"no comparison of {first!r} with {second!r}")


def _turned(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a difference, and its bounds, the other way round."""
    other = {"difference": "difference", "low": "high", "high": "low"}
    other |= {"methods_low": "methods_high", "methods_high": "methods_low"}
    turned = {key: entry[source] for key, source in other.items() if key in entry}
    return {**entry, **{key: None if value is None else -value for key, value in turned.items()}}


def against_best(table: pd.DataFrame, significance: Mapping[str, Any]) -> dict[str, str]:
    """Return how each variant of Table II compares with the best average: `best`, `tie`, `worse` or `not tested`.

    A tie is not shown to differ. Variants without an Average are left out. Of a variant that was brought from elsewhere
    no statement about methods is made, only that about these trained detectors.
    """
    best, average, brought = leaders(table).best, _averages(table), brought_rows(table)
    told = {}
    for variant in average.index:
        if variant == best:
            told[variant] = "best"
        elif significance["untested"]:
            told[variant] = "not tested"
        else:
            kind = "trained" if {variant, best} & {*brought} else statement(significance)
            differ = comparison(significance, variant, best)[f"{kind}_differ"]
            told[variant] = "worse" if differ else "tie"
    return told


def own_seeds(table: pd.DataFrame) -> int:
    """Return how many seeds the rows of Table II have that were not brought from elsewhere."""
    return int(table.loc[~table["variant"].isin(brought_rows(table)), "seeds"].min())


def tied_with_best(table: pd.DataFrame, significance: Mapping[str, Any] | None) -> set[str]:
    """Return the variants whose average is not shown to differ from the best one's, the best itself left out."""
    told = against_best(table, significance) if significance else {}
    return {variant for variant, word in told.items() if word == "tie"}


def against_bands(significance: Mapping[str, Any], variant: str, kind: str) -> str:
    """Return `ahead` (of both bands), `behind` (either), `not shown`, `not tested`, or nothing for a band itself.

    `kind` is the statement: `trained` or `methods`.
    """
    found = significance["against_bands"].get(variant)
    if found is None:
        return ""
    untested = significance["untested"] or found[kind].get("reason") == BROUGHT
    return "not tested" if untested else found[kind]["verdict"]


def verdict(table: pd.DataFrame, dataset: str, significance: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Return the answer in one or two sentences and, in others, how far it can be trusted.

    With `significance`, what detection.significance wrote, the answer is the confirmatory one: which fused variants are
    ahead of both single bands. Without it the best fused variant's average stands beside the better band's.
    """
    lead, average = leaders(table), _averages(table)
    method, band = lead.fused, lead.band
    if method is None or band is None:
        return "This run cannot say: it has no score for a single band, or none for a fused variant.", ""
    if average.max() < LEARNED:
        return f"This run cannot say: no detector has learned, the best reached {average.max():.3f}.", ""
    printed = average.round(3)
    gain = round(float(printed[method] - printed[band]), 3)
    scores = (
        f"the best fused variant, {method}, reached a mean average precision of {printed[method]:.3f}; the better "
        f"single band, {band}, {printed[band]:.3f} ({gain:+.3f})."
    )
    fused = fused_variants(printed.index, brought_rows(table))
    if significance:
        answer, trust = _confirmed(fused, dataset, significance, method, [name for name in BANDS if name in printed])
        answer = f"{answer} {scores[0].upper()}{scores[1:]}"
    else:
        said = "scored higher" if gain > 0 else "scored lower" if gain < 0 else "made no difference"
        answer = f"Fusion {said} on {dataset}, and no test says whether by more than chance: {scores}"
        trust = [f"{(printed[fused] > printed[band]).sum()} of {len(fused)} fused variants scored above {band}."]
        trust.append(f"Seeds: {own_seeds(table)}. A best of several flatters its winner.")
    if LATE in printed:
        trust.append(
            f"Pooling the boxes of both bands' detectors, without fusing any image, reached {printed[LATE]:.3f}."
        )
    kind = statement(significance) if significance else "trained"
    trust += inside_sentences(printed, significance, fused, kind)
    return answer, " ".join(trust)


def _confirmed(
    fused: Sequence[str], dataset: str, significance: Mapping[str, Any], best: str, bands: Sequence[str]
) -> tuple[str, list[str]]:
    """Return whether the fused variants are ahead of the bands, and the sentences that say why, and how sure."""
    kind = statement(significance)
    told = {name: against_bands(significance, name, kind) for name in fused}
    ahead, behind = ([name for name in fused if told[name] == word] for word in ("ahead", "behind"))
    target = "both single bands" if len(bands) > 1 else f"the single band {bands[0]}"
    either = "a single band" if len(bands) > 1 else target
    scope = "as a method" if kind == "methods" else "as trained here"
    if ahead:
        answer = (
            f"Fusion is ahead on {dataset}: {', '.join(ahead)} {'are' if len(ahead) > 1 else 'is'} ahead of {target}"
        )
        answer += f", {scope}."
    elif len(behind) == len(fused):
        answer = f"Fusion is behind on {dataset}: every fused variant is behind {either}, {scope}."
    else:
        answer = f"Whether fusion helps on {dataset} cannot be told: no fused variant is shown to be ahead of {target}."
    trust = []
    if significance["untested"]:
        trust.append(f"Nothing was tested: {significance['untested']}.")
    else:
        trust.append(
            f"Fused variants ahead of {target}: {len(ahead)} of {len(fused)}; behind {either}: {len(behind)}. "
            "Corrected for their number."
        )
        if reason := significance["against_bands"][best][kind]["reason"]:
            trust.append(f"{best} is neither: {reason}.")
    low, high = ("methods_low", "methods_high") if kind == "methods" else ("low", "high")
    compared = {band: comparison(significance, best, band) for band in bands}
    differences = [
        f"less {band} {entry[low]:+.3f} to {entry[high]:+.3f}"
        for band, entry in compared.items()
        if entry[low] is not None
    ]
    if differences:
        resampled = "" if kind == "methods" else f"; {significance['method']}, {significance['samples']} draws"
        trust.append(f"{best} {', '.join(differences)} (95 % intervals, each by itself{resampled}).")
        trust.append("A best of several flatters its winner.")
    if kind == "trained" and not significance["untested"]:
        reason = significance["against_bands"][best]["methods"]["reason"]
        trust.append(f"The statements are about these trained detectors, not about the methods ({reason}).")
    return answer, trust


def changes(
    table: pd.DataFrame, columns: Sequence[str], lead: Leaders, significance: Mapping[str, Any] | None
) -> list[tuple[str, float, str]]:
    """Return the best fused variant's printed gain on the better band in each class, and its 95 % interval in words.

    The largest gain comes first. Classes that are undefined for either, or whose gain has no interval, are left out; so
    is all without `significance`.
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
            words = f"{bounds['low']:+.3f} to {bounds['high']:+.3f}{remark}"
            found.append((str(name), round(float(value), 3), words))
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
    """Return, one sentence each, what a reader might take for measured and is not.

    `present` says which optional results the page was given, `left_out` the methods that the configuration names and
    that have no row, `uncosted` those whose time is not known.
    """
    listed = []
    if left_out:
        listed.append(f"Named by the configuration and not run, for want of weights: {', '.join(left_out)}.")
    if own_seeds(table) == 1:
        listed.append("The spread between seeds: each detector was trained once.")
    if not present["significance"]:
        listed.append("Confidence intervals over test images, and tests of the differences between variants.")
    if not present["conditions"]:
        listed.append(
            "Average precision by condition (day, night, fog, ...), with intervals: no condition or no test was given."
        )
    if not present["errors"]:
        listed.append("What kind of mistakes each detector makes: they were not sorted.")
    if not present["helps"]:
        listed.append("Which objects fusing found and lost: no list of them was given.")
    if not present["costs"]:
        listed.append("What each method costs in time and memory: in this run no cost was measured.")
    elif uncosted:
        listed.append(f"What these cost in time and memory: {', '.join(uncosted)}.")
    if not present["robustness"]:
        listed.append("What each variant loses where a band is shifted, noisy or missing: see config/robustness.yaml.")
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
