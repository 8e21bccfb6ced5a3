"""How Table II and the fusion metrics are printed: columns, digits, ranks and footnotes."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.inside import against_inside_notes, inside_notes, told_column
from reports.means import ALPHA, tied_methods
from reports.render import Block, Layout, format_value, rank_marks

YOLOV5U = (
    "YOLOv5u is the anchor-free re-issue of YOLOv5 in the ultralytics package: its rows are not comparable one to one "
    "with a paper that used the original YOLOv5."
)
OTHER = "The paper's detector is YOLOv5: its rows are not comparable with these."
SPLITS = {"own": "the data set's own", "random": "random", "list": "two given lists"}
TIED_MEANS = (
    f"not shown to differ from the best of its column: paired sign-flip test over whole scenes, two-sided, p at least "
    f"{ALPHA} after Holm's correction for the number of methods. Exploration."
)
METRIC_DIGITS = {"NCIE": 4}  # whose values lie close together; of the other metrics 2, as the paper prints
SMOKE = 1000  # images, each as often as it was shown to a detector in training: with fewer none has learned
MARKS = "Bold: best of a column; underlined: second best; values that print alike share a mark. n/a: undefined."


def detection_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table II with what is printed beside a row's name and average.

    `Average_seeds` and `Average_interval` are the bounds as one text, empty where there are none; `ours_less_paper` is
    the difference as one; `variant` ends with the row's remark.
    """
    cells = table.copy()
    for name, bounds in (("seeds", ("low", "high")), ("interval", ("interval_low", "interval_high"))):
        columns = [f"Average_{bound}" for bound in bounds]
        if columns[0] in table:
            pairs = table[columns].itertuples(index=False)
            cells[f"Average_{name}"] = [
                "" if math.isnan(low) or math.isnan(high) else f"{format_value(low, 3)}\u2013{format_value(high, 3)}"
                for low, high in pairs
            ]
    if "Average_difference" in table:
        found = table["Average_difference"]
        cells["ours_less_paper"] = ["" if math.isnan(value) else f"ours {value:+.3f}" for value in found]
    if "remark" in table:
        named = zip(table["variant"], table["remark"], strict=True)
        cells["variant"] = [f"{variant} ({remark})" if remark else variant for variant, remark in named]
    return cells


def detection_layout(table: pd.DataFrame, classes: Sequence[str], bounds: bool = True) -> Layout:
    """Return how `detection_cells` of Table II are printed: the paper's columns where it has rows.

    `bounds` gives columns to the seeds' spread, where there are several, to the intervals, to the verdict against
    fusing in the detector, and to the difference from the paper.
    """
    ranked = [*classes, "Average", "AP50", "AP75"]
    columns = {"variant": "Variant", **{name: name for name in (*classes, "Average")}}
    if bounds and table["Average_low"].notna().any():
        columns["Average_seeds"] = "lowest to highest seed"
    if bounds and "Average_interval_low" in table:
        columns["Average_interval"] = "95 % interval"
    columns |= {"AP50": "AP50", "AP75": "AP75"}
    if "Average_paper" in table:
        columns["Average_paper"] = "Average (paper)"
        if bounds:
            columns["Average_difference"] = "ours - paper"
    if "Average_interval_low" in table:
        columns |= {"against_best": "Against the best", "against_bands": "Against both bands"}
        if "against_bands_methods" in table:
            columns |= {
                "against_bands": "Against both bands: detectors",
                "against_bands_methods": "Against both bands: methods",
            }
        # Of the two statements the one that the headline makes; both stand in the CSV.
        told = told_column(table, "against_inside")
        columns |= {told: "Against fusing in the detector"} if bounds and told in table else {}
    digits = {name: 3 for name in columns if name != "variant" and not name.startswith("against")}
    return Layout(columns, digits, dict.fromkeys(ranked, True))


def fusion_layout(table: pd.DataFrame, higher_is_better: Mapping[str, bool]) -> Layout:
    """Return how the fusion metrics are printed; a metric of unknown direction is printed but not ranked."""
    metrics = fusion_metrics(table)
    counts = [name for name in table.columns if name.endswith("_undefined")]
    ranked = {name: higher_is_better[name] for name in metrics if name in higher_is_better}
    headings = {name: name.replace("_", " ") for name in (*metrics, *counts)}
    columns = {"method": "Method"} | headings | {name: headings[name] + arrow(ranked[name]) for name in ranked}
    return Layout(columns, {name: METRIC_DIGITS.get(name, 2) for name in metrics}, ranked)


def arrow(higher_is_better: bool) -> str:
    """Return what follows a metric's name in a heading: up where a higher value is the better, else down."""
    return " ↑" if higher_is_better else " ↓"


def fusion_metrics(table: pd.DataFrame) -> list[str]:
    """Return the metrics of fusion.csv: its columns between `method` and `images`."""
    return list(table.columns[1 : table.columns.get_loc("images")])


def fusion_ties(table: pd.DataFrame, higher_is_better: Mapping[str, bool]) -> set[tuple[str, str]]:
    """Return method and metric of what is not shown to differ from the best of its column."""
    metrics = [name for name in fusion_metrics(table) if name in higher_is_better]
    return {(method, name) for name in metrics for method in tied_methods(table, name, higher_is_better[name])}


def fusion_blocks(table: pd.DataFrame, facts: Mapping[str, Any], higher_is_better: Mapping[str, bool]) -> list[Block]:
    """Return what is printed of the fusion metrics: the means with their marks, and the intervals."""
    layout, caption = fusion_layout(table, higher_is_better), f"Fusion metrics on {facts['dataset']}"
    ties, cells, bounds = fusion_ties(table, higher_is_better), table.copy(), table.copy()
    for name in fusion_metrics(table):
        digits = layout.digits[name]
        means = [format_value(value, digits) for value in table[name]]
        stars = ["*" if (method, name) in ties else "" for method in table["method"]]
        cells[name] = [mean + star for mean, star in zip(means, stars, strict=True)]
        pairs = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        bounds[name] = [
            format_value(low, digits) if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"
            for low, high in pairs
        ]
    plain = Layout({name: layout.columns[name] for name in ("method", *fusion_metrics(table))}, layout.digits, {})
    notes = [*fusion_notes(table, facts), *([f"*: {TIED_MEANS}"] if ties else [])]
    below, drawn = f"{caption}: 95 % intervals of the means", [f"Intervals: {facts['intervals']}."]
    return [
        Block("fusion", cells, layout, rank_marks(table, layout), caption, notes),
        Block("fusion-intervals", bounds, plain, rank_marks(bounds, plain), below, drawn),
    ]


def metric_directions(facts: Mapping[str, Any]) -> dict[str, bool]:
    """Return for each fusion metric, and those of the user's own in `facts`, whether a higher value is the better."""
    # Here, because Table II needs no compiled metrics.
    from fusion.metrics import EXTRA, METRICS
    from fusion.own.metric import directions

    known = {name: metric.higher_is_better for name, metric in (METRICS | EXTRA).items()}
    return known | directions(facts.get("own_metrics", ""))


def smoke_note(facts: Mapping[str, Any]) -> str:
    """Return the warning under a run whose detectors saw too few images to learn from; nothing under others."""
    shown = float(facts.get("training.recipe.epochs", "nan")) * int(facts["train_images"])
    if not shown < SMOKE:
        return ""
    return (
        f"A run to try the workflow with: each detector was shown {shown:,.0f} images, far too few to learn from, and "
        f"tested on {facts['test_images']}. These numbers mean nothing."
    )


def detection_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of Table II."""
    seeds = facts["seeds"].split()
    notes = [
        *filter(None, [smoke_note(facts)]),
        f"Detector: {facts['detector']}. {YOLOV5U if facts['detector'].startswith('YOLOv5u') else OTHER}",
        _recipe_note(facts),
        f"Protocol: {facts['protocol']}{_kept_words(facts)}.",
        _split_note(facts),
        _boxes_note(facts),
    ]
    if len(seeds) == 1:
        notes.append(
            f"One seed ({seeds[0]}): differences smaller than the spread between seeds, which was not measured, are "
            "not known to be real; intervals and tests, where there are any, are about these trained detectors."
        )
    else:
        notes.append(
            f"Means over {len(seeds)} seeds ({', '.join(seeds)}); lowest and highest seed are a spread, not a "
            "confidence interval."
        )
    if "significance" in facts:
        notes += significance_notes(facts)
    if "machines" in facts:
        notes.append(
            f"Not all detectors were trained alike: {facts['machines']}. Recipe, data, the "
            "code's revision, precision and the versions' first two numbers are the same; whether the rest moves a "
            "result beyond its last digits was not measured."
        )
    if "leakage" in facts:
        notes.append(facts["leakage"])
    notes += inside_notes(facts)
    for name, files in facts.get("brought", {}).items():
        notes.append(
            f"{name}: detections brought from elsewhere, {files}. How that detector was trained is not known: its row "
            "says what it finds, not what its images are worth. Not in the variance of training, compared as these "
            "trained detectors only, and without effect on the other rows' verdicts."
        )
    if "paper" in facts:
        notes.append(f"Paper: {facts['paper']}.")
    return [*notes, MARKS]


def significance_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes on intervals and on the columns that compare."""
    intervals = f"Intervals: {facts['significance']}, of these trained detectors."
    if "untested" in facts:
        return [intervals, f"No difference is tested: {facts['untested']}."]
    return [
        intervals,
        "Against both bands: ahead of both (the larger of two one-sided p values below 0.025, Holm over the variants), "
        "behind either (Holm over variants and bands), or not shown; the run's question, fixed before its results.",
        *against_inside_notes(facts),
        f"Against the best: exploration. Tie: not shown to differ from the best average, as {facts['marks']}.",
    ]


def fusion_notes(table: pd.DataFrame, facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the fusion metrics."""
    notes = [
        f"Convention: {facts.get('convention')}" + (f" ({facts['definition']})." if "definition" in facts else "."),
        f"Means over {facts['images']} pairs. {_split_note(facts)}",
    ]
    if "own_metrics" in facts:
        notes.append(f"The user's own metrics: {facts['own_metrics']}.")
    if any(name.endswith("_undefined") for name in table.columns):
        notes.append("Undefined values take no part in a mean; they are counted beside it.")
    return [*notes, MARKS]


def _boxes_note(facts: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in facts["boxes"].items())
    drawn = f", label set {facts['truth']}" if facts.get("truth", "labels") != "labels" else ""
    return f"Boxes of the test set{drawn}: {counts}."


def _kept_words(facts: Mapping[str, Any]) -> str:
    """Return what a test keeps, for it counts before the protocol does: of all classes together."""
    kept = facts.get("testing.max_detections")
    return f"; of the detections in an image, of all classes together, the best {kept} are kept" if kept else ""


def _recipe_note(facts: Mapping[str, Any]) -> str:
    if "training.recipe.epochs" not in facts:
        return "The detectors' training recipes were not compared."
    recipe = {key.removeprefix("training.recipe."): value for key, value in facts.items()}
    return (
        f"The same recipe for every variant: {recipe['model']}, image size {recipe['image_size']}, epochs "
        f"{recipe['epochs']}, starting weights {facts['training.start']}, {recipe['optimizer']}, learning rate "
        f"{recipe['lr0']}, batch {recipe['batch']}; the rest stands in table2.csv."
    )


def _split_note(facts: Mapping[str, Any]) -> str:
    split = json.loads(facts["split"])
    return (
        f"Split: {SPLITS.get(split['kind'], split['kind'])}"
        + (f", seed {split['seed']}" if split.get("seed") is not None else "")
        + (", a random part of it" if split.get("limits") else "")
        + f", {facts['train_images']} training and {facts['test_images']} test images, "
        f"digests {facts['digest_train'][:12]} and {facts['digest_test'][:12]}."
        + range_note(facts.get("infrared_range"))
    )


def range_note(counts: Sequence[float] | str | None) -> str:
    """Return the sentence on how infrared counts (JSON where read from a CSV) became levels; nothing for levels."""
    if counts is None:
        return ""
    low, high = json.loads(counts) if isinstance(counts, str) else counts
    return f" Infrared: counts {low:g} to {high:g} are levels 0 to 255, the same for all images."
