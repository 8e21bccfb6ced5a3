"""Layout of Table II and of the fusion metrics: columns, digits, ranks and footnotes."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.inside import against_inside_notes, headline_column, inside_notes
from reports.means import ALPHA, tied_methods
from reports.render import Block, Layout, format_value, rank_marks

YOLOV5U = (
    "YOLOv5u is the anchor-free version of YOLOv5 in the ultralytics package; its scores are not directly comparable "
    "with those of a paper that used the original YOLOv5."
)
OTHER_DETECTOR = "The paper's detector is YOLOv5; its scores are not comparable with these."
SPLITS = {"own": "the dataset's own", "random": "random", "list": "two given lists"}
TIED_MEANS = (
    f"not shown to differ from the best of its column (two-sided paired sign-flip test over whole scenes, p at least "
    f"{ALPHA} after Holm's correction for the number of methods). Exploratory."
)
METRIC_DIGITS = {"NCIE": 4}  # NCIE's values are close together; the other metrics have 2 digits, as in the paper
SMOKE = 1000  # images shown in training, repetitions included; with fewer, no detector learns
MARKS = (
    "Bold: best of the column; underlined: second best; values that are equal as printed share a mark. n/a: undefined."
)


def detection_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table II with the texts that are printed next to a row's name and average.

    `Average_seeds` and `Average_interval` contain both bounds as one text, empty if undefined; `ours_less_paper` is the
    difference as a text; `variant` ends with the row's remark.
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
    """Return the layout of Table II's `detection_cells`, with the paper's Average if the table contains it.

    `bounds` adds columns for the spread of several seeds, the intervals, the verdict against fusing in the detector,
    and the difference from the paper.
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
        # Only the headline's statement is printed; the CSV contains both.
        shown = headline_column(table, "against_inside")
        columns |= {shown: "Against fusing in the detector"} if bounds and shown in table else {}
    digits = {name: 3 for name in columns if name != "variant" and not name.startswith("against")}
    return Layout(columns, digits, dict.fromkeys(ranked, True))


def fusion_layout(table: pd.DataFrame, higher_is_better: Mapping[str, bool]) -> Layout:
    """Return the layout of the fusion metrics; a metric of unknown direction is printed but not ranked."""
    metrics = fusion_metrics(table)
    counts = [name for name in table.columns if name.endswith("_undefined")]
    ranked = {name: higher_is_better[name] for name in metrics if name in higher_is_better}
    headings = {name: name.replace("_", " ") for name in (*metrics, *counts)}
    columns = {"method": "Method"} | headings | {name: headings[name] + arrow(ranked[name]) for name in ranked}
    return Layout(columns, {name: METRIC_DIGITS.get(name, 2) for name in metrics}, ranked)


def arrow(higher_is_better: bool) -> str:
    """Return the arrow after a metric's name in a heading: up if a higher value is better, else down."""
    return " ↑" if higher_is_better else " ↓"


def fusion_metrics(table: pd.DataFrame) -> list[str]:
    """Return the metrics of fusion.csv: the columns between `method` and `images`."""
    return list(table.columns[1 : table.columns.get_loc("images")])


def fusion_ties(table: pd.DataFrame, higher_is_better: Mapping[str, bool]) -> set[tuple[str, str]]:
    """Return the method and the metric of each value that is not shown to differ from the best of its column."""
    metrics = [name for name in fusion_metrics(table) if name in higher_is_better]
    return {(method, name) for name in metrics for method in tied_methods(table, name, higher_is_better[name])}


def fusion_blocks(table: pd.DataFrame, facts: Mapping[str, Any], higher_is_better: Mapping[str, bool]) -> list[Block]:
    """Return the printed tables of the fusion metrics: the means with their marks, and the intervals."""
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
    """Return whether a higher value is better, for each fusion metric and for the user's own metrics in `facts`."""
    # Imported here, because Table II needs no compiled metrics.
    from fusion.metrics import EXTRA, METRICS
    from fusion.own.metric import directions

    known = {name: metric.higher_is_better for name, metric in (METRICS | EXTRA).items()}
    return known | directions(facts.get("own_metrics", ""))


def smoke_note(facts: Mapping[str, Any]) -> str:
    """Return a warning if the detectors saw too few images to learn from; else an empty text."""
    shown = float(facts.get("training.recipe.epochs", "nan")) * int(facts["train_images"])
    if not shown < SMOKE:
        return ""
    return (
        f"Trial run of the workflow: each detector was shown {shown:,.0f} images in training (repetitions included), "
        f"far too few to learn from, and was tested on {facts['test_images']}. These numbers mean nothing."
    )


def detection_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of Table II."""
    seeds = facts["seeds"].split()
    notes = [
        *filter(None, [smoke_note(facts)]),
        f"Detector: {facts['detector']}. {YOLOV5U if facts['detector'].startswith('YOLOv5u') else OTHER_DETECTOR}",
        _recipe_note(facts),
        f"Protocol: {facts['protocol']}{_kept_words(facts)}.",
        _split_note(facts),
        _boxes_note(facts),
    ]
    if len(seeds) == 1:
        notes.append(
            f"One seed ({seeds[0]}): the spread between seeds was not measured, and differences smaller than it may be "
            "noise. Intervals and tests, if any, are about these trained detectors."
        )
    else:
        notes.append(
            f"Means over {len(seeds)} seeds ({', '.join(seeds)}); the range from the lowest to the highest seed is a "
            "spread, not a confidence interval."
        )
    if "significance" in facts:
        notes += significance_notes(facts)
    if "machines" in facts:
        notes.append(
            f"The detectors were trained in different environments: {facts['machines']}. Recipe, data, code revision, "
            "precision and the first two numbers of each version are the same; whether the other differences change a "
            "result beyond its last digits was not measured."
        )
    if "leakage" in facts:
        notes.append(facts["leakage"])
    notes += inside_notes(facts)
    for name, files in facts.get("brought", {}).items():
        notes.append(
            f"{name}: external detections, {files}. The training of that detector is unknown, so the row shows what it "
            "finds, not how well its images suit detection. The row is not used to estimate the variance between "
            "trainings, is compared only as a trained detector, and does not affect the verdicts of the other rows."
        )
    if "paper" in facts:
        notes.append(f"Paper: {facts['paper']}.")
    return [*notes, MARKS]


def significance_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes on the intervals and on the columns of comparisons."""
    intervals = f"Intervals: {facts['significance']}, for these trained detectors."
    if "untested" in facts:
        return [intervals, f"No difference was tested: {facts['untested']}."]
    return [
        intervals,
        "Against both bands (the question of the run, fixed before its results): ahead of both bands (the larger of "
        "two one-sided p values below 0.025, Holm's correction over the variants), behind at least one band (Holm's "
        "correction over variants and bands), or not shown.",
        *against_inside_notes(facts),
        "Against the best: exploratory. A tie is not shown to differ from the best average; a statement about "
        f"{facts['marks']}.",
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
        notes.append("Undefined values are left out of the means and counted in the columns 'undefined'.")
    return [*notes, MARKS]


def _boxes_note(facts: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in facts["boxes"].items())
    drawn = f", label set {facts['truth']}" if facts.get("truth", "labels") != "labels" else ""
    return f"Boxes of the test set{drawn}: {counts}."


def _kept_words(facts: Mapping[str, Any]) -> str:
    """Return a text on the number of detections that a test keeps per image, a limit that precedes the protocol's."""
    kept = facts.get("testing.max_detections")
    return f"; the {kept} highest-scoring detections of an image, over all classes, are kept" if kept else ""


def _recipe_note(facts: Mapping[str, Any]) -> str:
    if "training.recipe.epochs" not in facts:
        return "The training recipes of the detectors were not compared."
    recipe = {key.removeprefix("training.recipe."): value for key, value in facts.items()}
    return (
        f"Every variant has the same training recipe: {recipe['model']}, image size {recipe['image_size']}, epochs "
        f"{recipe['epochs']}, starting weights {facts['training.start']}, {recipe['optimizer']}, learning rate "
        f"{recipe['lr0']}, batch {recipe['batch']}; table2.csv lists the other settings."
    )


def _split_note(facts: Mapping[str, Any]) -> str:
    split = json.loads(facts["split"])
    return (
        f"Split: {SPLITS.get(split['kind'], split['kind'])}"
        + (f", seed {split['seed']}" if split.get("seed") is not None else "")
        + (", a random subset of it" if split.get("limits") else "")
        + f", {facts['train_images']} training and {facts['test_images']} test images, "
        f"digests {facts['digest_train'][:12]} and {facts['digest_test'][:12]}."
        + range_note(facts.get("infrared_range"))
    )


def range_note(counts: Sequence[float] | str | None) -> str:
    """Return a sentence on the mapping of infrared counts (JSON if read from a CSV) to levels; empty without counts."""
    if counts is None:
        return ""
    low, high = json.loads(counts) if isinstance(counts, str) else counts
    return f" Infrared: counts {low:g} to {high:g} are mapped to levels 0 to 255, the same for all images."
