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
SPLITS = {"own": "the dataset's own", "random": "random", "list": "given lists of names"}
TIED_MEANS = (
    f"not significantly different from the best of its column (two-sided paired sign-flip test with scenes as units, "
    f"p at least {ALPHA} after Holm's correction for the number of methods). Exploratory."
)
METRIC_DIGITS = {"NCIE": 4}  # NCIE's values are close together; the other metrics have 2 digits, as in the paper
SMOKE = 1000  # images shown in training, repetitions included; with fewer, no detector learns
MARKS = "Bold: best of the column; underlined: second best; ties after rounding are marked alike. n/a: undefined."


def detection_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table II with the texts that are printed next to a row's name and average.

    `Average_seeds` and `Average_interval` contain both bounds as one text, empty if undefined; `ours_less_paper` is the
    difference as a text; `variant` includes the row's remark.
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

    `bounds` adds columns for the spread of several seeds, the intervals, the verdict against fusion in the detector,
    and the difference from the paper.
    """
    ranked = [*classes, "Average", "AP50", "AP75"]
    columns = {"variant": "Variant", **{name: name for name in classes}, "Average": "mAP"}
    if bounds and table["Average_low"].notna().any():
        columns["Average_seeds"] = "range over seeds"
    if bounds and "Average_interval_low" in table:
        columns["Average_interval"] = "95 % interval"
    columns |= {"AP50": "AP50", "AP75": "AP75"}
    if "Average_paper" in table:
        columns["Average_paper"] = "mAP (paper)"
        if bounds:
            columns["Average_difference"] = "ours - paper"
    if "Average_interval_low" in table:
        columns |= {"against_best": "vs. best row", "against_bands": "vs. both bands"}
        if "against_bands_methods" in table:
            columns |= {
                "against_bands": "vs. both bands (trained detectors)",
                "against_bands_methods": "vs. both bands (methods)",
            }
        # Only the verdict that the headline uses is printed; the CSV contains both.
        shown = headline_column(table, "against_inside")
        columns |= {shown: "vs. fusion in/after detector"} if bounds and shown in table else {}
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
    """Return the method and the metric of each value that does not differ significantly from the best of its column."""
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


def trained_notes(fused: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a footnote on the methods whose weights `fusion.train` wrote, from the facts of each method's manifest.

    The manifest has no such fact if the weights come from the authors or an older version, or ship with this project.
    """
    trained = {name: facts["trained"] for name, facts in fused.items() if "trained" in facts}
    if not trained:
        return []
    lengths = ". ".join(f"{name}, {length}" for name, length in trained.items())
    return [
        "The weights of the following methods were trained with this project's code ('40 of 20000 iterations' means 40 "
        f"here and 20000 in the authors' training). {lengths}."
    ]


def parameter_remarks(costs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the remarks on methods' numbers of parameters, from the cost of each method; most methods have none."""
    return {name: cost["parameters_note"] for name, cost in costs.items() if cost.get("parameters_note")}


def parameter_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return a footnote with the remarks of `parameter_remarks` in a table's facts."""
    remarks = ". ".join(f"{name}: {remark}" for name, remark in facts.get("parameter_remarks", {}).items())
    return [f"Remarks on the numbers of parameters. {remarks}."] if remarks else []


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
        "mAP: mean of the AP of the classes (column Average of the CSV file).",
        _split_note(facts),
        _boxes_note(facts),
    ]
    if len(seeds) == 1:
        notes.append(
            f"One seed ({seeds[0]}): the spread between seeds was not measured, and small differences may be due to "
            "the random seed. Intervals and tests, if any, hold for these trained detectors (variance between "
            "trainings not included)."
        )
    else:
        notes.append(
            f"Means over {len(seeds)} seeds ({', '.join(seeds)}). A range over seeds goes from the lowest to the "
            "highest mAP of a seed; it is not a confidence interval."
        )
    if "significance" in facts:
        notes += significance_notes(facts)
    if "machines" in facts:
        notes.append(
            f"The detectors were trained in different environments: {facts['machines']}. Recipe, data, code revision, "
            "numeric precision and the major and minor versions of all packages are the same; whether the remaining "
            "differences affect the results was not measured."
        )
    if "leakage" in facts:
        notes.append(facts["leakage"])
    notes += inside_notes(facts)
    for name, files in facts.get("brought", {}).items():
        notes.append(
            f"{name}: external detections, {files}. The training of that detector is unknown, so the row shows the "
            "quality of these detections, not the effect of the input images. The row is not used to estimate the "
            "variance between trainings, conclusions about it hold only for this trained detector, and it does not "
            "affect the verdicts of the other rows, but it may be the best row in the column 'vs. best row'."
        )
    if "paper" in facts:
        notes.append(f"Paper: {facts['paper']}.")
    return [*notes, MARKS]


def significance_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes on the intervals and on the columns of comparisons."""
    intervals = (
        f"Intervals: {facts['significance']}, for these trained detectors (variance between trainings not included)."
    )
    about, _, correction = facts["marks"].partition("; corrected by ")
    held = "the methods (variance between trainings included)" if about == "methods" else about
    if "untested" in facts:
        return [intervals, f"No difference was tested: {facts['untested']}."]
    return [
        intervals,
        "vs. both bands (the main question, fixed in advance): ahead = higher AP than both bands (both one-sided p "
        "values below 0.025, Holm's correction over the variants); behind = lower AP than at least one band (one-sided "
        "p below 0.025, Holm's correction over variants and bands); not shown = neither.",
        *against_inside_notes(facts),
        "vs. best row: exploratory. tie = not significantly different from the highest mAP; worse = significantly "
        f"lower. These comparisons hold for {held}. The p values are corrected by {correction}.",
    ]


def fusion_notes(table: pd.DataFrame, facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the fusion metrics."""
    notes = [
        f"Convention of the metrics: '{facts.get('convention')}'"
        + (f" ({facts['definition']})." if "definition" in facts else "."),
        f"Means over {facts['images']} pairs. {_split_note(facts)}",
    ]
    if "own_metrics" in facts:
        notes.append(f"The user's own metrics: {facts['own_metrics']}.")
    notes += trained_notes(facts.get("fused", {}))
    if any(name.endswith("_undefined") for name in table.columns):
        notes.append("Undefined values are left out of the means and counted in the columns 'undefined'.")
    return [*notes, MARKS]


def _boxes_note(facts: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in facts["boxes"].items())
    drawn = f", label set {facts['truth']!r}" if facts.get("truth", "labels") != "labels" else ""
    return f"Boxes of the test set{drawn}: {counts}."


def _kept_words(facts: Mapping[str, Any]) -> str:
    """Return a text on the number of detections that a test keeps per image, a limit that precedes the protocol's."""
    kept = facts.get("testing.max_detections")
    words = f"; before that, only the {kept} highest-scoring detections of each image, over all classes, are kept"
    return words if kept else ""


def _recipe_note(facts: Mapping[str, Any]) -> str:
    if "training.recipe.epochs" not in facts:
        return "Whether all detectors had the same training recipe was not checked."
    recipe = {key.removeprefix("training.recipe."): value for key, value in facts.items()}
    return (
        f"Every trained variant has the same recipe: {recipe['model']}, image size {recipe['image_size']}, epochs "
        f"{recipe['epochs']}, starting weights {facts['training.start']}, {recipe['optimizer']}, learning rate "
        f"{recipe['lr0']}, batch {recipe['batch']}; table2.csv lists the other settings."
    )


def _split_note(facts: Mapping[str, Any]) -> str:
    split = json.loads(facts["split"])
    return (
        f"Split: {SPLITS.get(split['kind'], split['kind'])}"
        + (f", seed {split['seed']}" if split.get("seed") is not None else "")
        + (", only a random subset of the split" if split.get("limits") else "")
        + f", {facts['train_images']} training and {facts['test_images']} test images, "
        f"SHA-256 of the lists: {facts['digest_train'][:12]} and {facts['digest_test'][:12]}."
        + range_note(facts.get("infrared_range"))
    )


def range_note(counts: Sequence[float] | str | None) -> str:
    """Return a sentence on the mapping of raw infrared values to 8 bits; `counts` is JSON if read from a CSV."""
    if counts is None:
        return ""
    low, high = json.loads(counts) if isinstance(counts, str) else counts
    return f" Infrared: raw values {low:g} to {high:g} are mapped linearly to 0 to 255 in all images."
