"""Table II by label set: how much the result depends on which boxes are the ground truth (`detection.truths`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artefacts import read_json
from pipeline.stage import InputError
from reports.collect import Split, require_equal, required
from reports.render import Block, Layout, rank_marks
from reports.runs import Run, check_source
from reports.verdict import against_bands

# ap.json and truths.json sum the averages in different orders.
_ROUNDING = 1e-9

# Verdicts as they are worded in a sentence.
VERDICTS = {
    "ahead": "significantly better than both bands",
    "behind": "significantly worse than at least one band",
    "not shown": "neither significantly better nor significantly worse",
}


def read_truths(file: Path, split: Split, runs: Sequence[Run]) -> dict[str, Any]:
    """Read truths.json, and check that it was computed from this split's labels and the predictions of `runs`.

    Raises:
        InputError: it was computed from other labels or predictions, or its averages with the chosen label set differ
            from those of `runs`.
    """
    truths = read_json(file)
    for key in ("truth", "several", "sets"):
        required(truths, key, file)
    if not truths["several"]:
        return truths
    require_equal(split.file, {"truth": split.dataset.get("truth")}, file, truths, ["truth"])
    chosen = truths["truth"]
    stated = truths["provenance"]
    check_source(file, "detection.truths", stated["labels"][chosen], stated["predictions"], split, runs)
    by_seed = truths["sets"][chosen]["seeds"]
    for run in runs:
        found, expected = by_seed[run.variant][str(run.seed)]["Average"], run.scores["average"]["AP"]
        if abs(found - expected) > _ROUNDING:
            raise InputError(
                f"{file}: {run.variant!r} with seed {run.seed} has the average {found:.6f}; expected {expected:.6f} "
                f"as in {run.file}; run detection.truths again"
            )
    return truths


def truth_table(truths: Mapping[str, Any], variants: Sequence[str]) -> pd.DataFrame:
    """Return one row per variant: `AP_<set>` for each label set, then `rank_<set>`, then `verdict_<set>`.

    AP is the average over classes and seeds, a fraction. The highest has rank 1; equal averages share the lower number.
    A verdict is `ahead` of both bands, `behind` at least one band, `not shown` or `not tested`; empty for a band.
    """
    sets = truths["sets"]
    averages = {f"AP_{name}": [one["AP"][variant]["Average"] for variant in variants] for name, one in sets.items()}
    table = pd.DataFrame({"variant": list(variants), **averages})
    for name in sets:
        table[f"rank_{name}"] = table[f"AP_{name}"].rank(ascending=False, method="min").astype(int)
    for name, one in sets.items():
        table[f"verdict_{name}"] = [against_bands(one, variant, truths["statement"]) for variant in variants]
    return table


def truth_facts(truths: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of the table."""
    return {
        "truth": truths["truth"],
        "label_sets": {name: one["boxes"] for name, one in truths["sets"].items()},
        "statement": truths["statement"],
        "hangs": dependence_sentence(truths),
        "protocol": truths["protocol"],
        "unit": truths["unit"],
        "untested": {name: one["untested"] for name, one in truths["sets"].items() if one["untested"]},
        "kendall_tau": {f"{one['first']}, {one['second']}": one["kendall_tau"] for one in truths["agreement"]},
        "alone": {
            f"{one[side]} not {one[other]}": sum(one[f"{side}_alone"].values())
            for one in truths["agreement"]
            for side, other in (("first", "second"), ("second", "first"))
            if one[f"{side}_alone"] is not None
        },
    }


def dependence_sentence(truths: Mapping[str, Any]) -> str:
    """Return the sentence on whether the verdict and the best row depend on the label set."""
    sets, depends = truths["sets"], truths["hangs"]["verdict"]
    best = {name: one["order"][0] for name, one in sets.items()}
    untested = [name for name, one in sets.items() if one["untested"]]
    question = f"on which label set is the ground truth ({', '.join(map(repr, sets))})"
    if depends is None:
        answer = f"It is not known whether the verdict depends {question}"
    elif depends:
        verdicts = "; ".join(f"{variant} is {_grouped(words)}" for variant, words in truths["changing"].items())
        answer = f"The verdict depends {question}: {verdicts}"
    else:
        answer = f"The verdict does not depend {question}: no variant's verdict changes"
    if untested:
        answer += f"; nothing was tested with {_listed(untested)}"
    if len(set(best.values())) > 1:
        rows = ", ".join(f"{row} with {_listed(names)}" for row, names in _sets_by_word(best).items())
        return f"{answer}. The row with the highest mAP is {rows}."
    return f"{answer}. {next(iter(best.values()))} has the highest mAP with every label set."


def truth_layout(table: pd.DataFrame, truth: str) -> Layout:
    """Return the layout of the table; the label set that Table II uses is marked."""
    sets = label_sets(table)
    shown = {name: f"{name} (Table II)" if name == truth else name for name in sets}
    averages = {f"AP_{name}": f"mAP, label set {shown[name]}" for name in sets}
    ranks = {f"rank_{name}": f"rank, label set {shown[name]}" for name in sets}
    verdicts = {f"verdict_{name}": f"vs. both bands, label set {shown[name]}" for name in sets}
    digits = dict.fromkeys(averages, 3) | dict.fromkeys(ranks, 0)
    return Layout({"variant": "Variant", **averages, **ranks, **verdicts}, digits, dict.fromkeys(averages, True))


def label_sets(table: pd.DataFrame) -> list[str]:
    """Return the label sets that have columns in the table."""
    return [name.removeprefix("AP_") for name in table.columns if name.startswith("AP_")]


def truth_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the table; the first says whether the verdict depends on the label set."""
    sets = facts["label_sets"]
    counted = "; ".join(f"{name!r} {', '.join(f'{k} {n}' for k, n in boxes.items())}" for name, boxes in sets.items())
    notes = [
        facts["hangs"],
        f"The detectors were trained and, in Table II, evaluated on the label set {facts['truth']!r}. Here the same "
        "detectors are evaluated on every label set. mAP is the mean over classes and seeds. The verdict is computed "
        "as in Table II, for each label set; it holds for "
        f"{'the methods' if facts['statement'] == 'methods' else 'these trained detectors'}.",
        f"Boxes of the test set: {counted}.",
    ]
    empty = {name: [kind for kind, count in boxes.items() if not count] for name, boxes in sets.items()}
    for name, kinds in empty.items():
        if kinds:
            notes.append(
                f"The label set {name!r} has no test box of {', '.join(kinds)}: its averages are over the other "
                "classes."
            )
    notes += [
        f"Nothing was tested with the label set {name!r}: {reason}." for name, reason in facts["untested"].items()
    ]
    taus = (
        f"{' and '.join(map(repr, pair.split(', ')))} {'n/a' if tau is None else format(tau, '.2f')}"
        for pair, tau in facts["kendall_tau"].items()
    )
    notes.append(f"Agreement of the variants' ranks between two sets, Kendall's tau: {'; '.join(taus)}.")
    if facts["alone"]:
        pairs = ((*pair.split(" not "), count) for pair, count in facts["alone"].items())
        unmatched = "; ".join(f"{count} in {name!r} but not in {other!r}" for name, other, count in pairs)
        notes.append(
            "Boxes for which the other label set has no box of the same class with an IoU of at least 0.5: "
            f"{unmatched}."
        )
    return notes


def truth_block(table: pd.DataFrame, facts: Mapping[str, Any]) -> Block:
    """Return the printed table."""
    layout = truth_layout(table, facts["truth"])
    caption = f"Average precision, mAP@[0.5:0.95], with each label set of {facts['dataset']}"
    return Block("table2_truth", table, layout, rank_marks(table, layout), caption, truth_notes(facts))


def _grouped(verdicts: Mapping[str, str]) -> str:
    """Return verdicts by label set, such as `significantly better than both bands with 'a' and 'b', ...`."""
    groups = _sets_by_word(verdicts)
    return ", ".join(f"{VERDICTS.get(word, word)} with {_listed(names)}" for word, names in groups.items())


def _sets_by_word(words: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the label sets of each word, from the word of each label set."""
    groups: dict[str, list[str]] = {}
    for name, word in words.items():
        groups.setdefault(word, []).append(name)
    return groups


def _listed(names: Sequence[str]) -> str:
    """Return label sets as `'A', 'B' and 'C'`."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} and {last}" if others else last
