"""Write Table II (the detector's average precision for each variant) and the table of fusion metrics.

Each is written as CSV (full precision, with `# key: value` facts on top), Markdown and LaTeX. Everything that the rows
must share is compared first: the split and its digests, the detector's recipe, the seeds, the metrics' convention. A
missing variant, seed or image is an error, never a gap.
"""

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artefacts import read_json, sha256_json, write_csv, write_text
from pipeline.stage import InputError, run
from reports import collect, paper
from reports.collect import BANDS, LATE, Split
from reports.render import Layout, format_value, to_latex, to_markdown

YOLOV5U = (
    "YOLOv5u is the anchor-free re-issue of YOLOv5 in the ultralytics package: its rows are not comparable one to one "
    "with a paper that used the original YOLOv5."
)
OTHER = "The paper's detector is YOLOv5: its rows are not comparable with these."
SPLITS = {"own": "the data set's own", "random": "random", "list": "two given lists"}
MARKS = "Bold: best of a column; underlined: second best; values that print alike share a mark. n/a: undefined."


def detection_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return Table II with what is printed beside a row's name and average.

    `Average_seeds` and `Average_interval` are the bounds as one text, empty where there are none; `variant` ends with
    the row's remark.
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
    if "remark" in table:
        named = zip(table["variant"], table["remark"], strict=True)
        cells["variant"] = [f"{variant} ({remark})" if remark else variant for variant, remark in named]
    return cells


def detection_layout(table: pd.DataFrame, classes: Sequence[str], bounds: bool = True) -> Layout:
    """Return how `detection_cells` of Table II are printed: the paper's columns where it has rows.

    `bounds` gives columns to the seeds' spread, where there are several, and to the intervals.
    """
    ranked = [*classes, "Average"]
    columns = {"variant": "Variant", **{name: name for name in ranked}}
    if bounds and table["Average_low"].notna().any():
        columns["Average_seeds"] = "lowest to highest seed"
    if bounds and "Average_interval_low" in table:
        columns["Average_interval"] = "95 % interval"
    if "Average_paper" in table:
        columns |= {"Average_paper": "Average (paper)", "Average_difference": "ours - paper"}
    if "Average_interval_low" in table:
        columns |= {"against_best": "Against the best", "against_band": "Against the better band"}
    digits = {name: 3 for name in columns if name not in ("variant", "against_best", "against_band")}
    return Layout(columns, digits, dict.fromkeys(ranked, True))


def fusion_layout(table: pd.DataFrame, higher_is_better: Mapping[str, bool]) -> Layout:
    """Return how the fusion metrics are printed; a metric of unknown direction is printed but not ranked."""
    counts = [name for name in table.columns if name.endswith("_undefined")]
    columns = {name: name.replace("_", " ") for name in table.columns if name != "images"} | {"method": "Method"}
    digits = {name: 2 for name in columns if name != "method" and name not in counts}
    return Layout(columns, digits, {name: higher_is_better[name] for name in digits if name in higher_is_better})


def metric_directions(facts: Mapping[str, Any]) -> dict[str, bool]:
    """Return for each fusion metric, and those of the user's own in `facts`, whether a higher value is the better."""
    from fusion.own.metric import directions

    from fusion.metrics import METRICS  # late: Table II needs no compiled metrics

    known = {name: metric.higher_is_better for name, metric in METRICS.items()}
    return known | directions(facts.get("own_metrics", ""))


def detection_facts(split: Split, shared: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return what Table II says about itself: data, split, detector, recipe, seeds, versions."""
    return {
        "dataset": split.dataset["dataset"],
        **_split_facts(split),
        "boxes": split.dataset["boxes"]["test"],
        **shared,
        "seeds": " ".join(map(str, seeds)),
        "spread": (
            "Average_low and Average_high are the smallest and largest over the seeds"
            if len(seeds) > 1
            else "not measured: one seed"
        ),
    }


def detection_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of Table II."""
    seeds = facts["seeds"].split()
    notes = [
        f"Detector: {facts['detector']}. {YOLOV5U if facts['detector'].startswith('YOLOv5u') else OTHER}",
        _recipe_note(facts),
        f"Protocol: {facts['protocol']}.",
        _split_note(facts),
        "Boxes of the test set: " + ", ".join(f"{name} {count}" for name, count in facts["boxes"].items()) + ".",
    ]
    if len(seeds) == 1:
        notes.append(
            f"One seed ({seeds[0]}): differences smaller than the spread between seeds, which was not measured, are "
            "not known to be real; intervals, where there are any, are over test images alone."
        )
    else:
        notes.append(
            f"Means over {len(seeds)} seeds ({', '.join(seeds)}); lowest and highest seed are a spread, not a "
            "confidence interval."
        )
    if "significance" in facts:
        notes.append(f"Intervals and ties: {facts['significance']}. Tie: not shown to differ from the best average.")
    if "leakage" in facts:
        notes.append(facts["leakage"])
    if "late" in facts:
        notes.append(facts["late"])
    if "paper" in facts:
        notes.append(f"Paper: {facts['paper']}.")
    return [*notes, MARKS]


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


def write_tables(stem: Path, table: pd.DataFrame, facts: Mapping, layout: Layout, caption: str, notes: list) -> None:
    """Write one table as `stem`.csv, .md and .tex."""
    write_csv(stem.with_suffix(".csv"), table, facts)
    if "variant" in table:
        table = detection_cells(table)
    write_text(stem.with_suffix(".md"), to_markdown(table, layout, caption, notes))
    write_text(stem.with_suffix(".tex"), to_latex(table, layout, caption, notes, f"tab:{stem.name}"))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables of one run."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", type=Path, required=True, help="folder of the prepared split (dataset.json, ...)")
    parser.add_argument(
        "--ap", type=Path, nargs="*", default=[], help="ap.json of every variant and seed, for Table II; default none"
    )
    parser.add_argument(
        "--training", type=Path, nargs="*", default=[], help="provenance.json of every detector, to compare recipes"
    )
    parser.add_argument(
        "--metrics",
        type=Path,
        nargs="*",
        default=[],
        help="metrics CSV of every method, METHOD.csv, for the fusion metrics; default none",
    )
    parser.add_argument(
        "--fused-manifests", type=Path, nargs="*", default=[], help="manifest of every method, METHOD/manifest.csv"
    )
    parser.add_argument("--variants", nargs="+", required=True, help="rows in order: visible, infrared, then methods")
    parser.add_argument(
        "--config-snapshot", type=Path, help="the run's whole configuration (JSON); its digest is printed"
    )
    parser.add_argument("--significance", type=Path, help="significance.json: intervals and paired comparisons")
    parser.add_argument("--output", type=Path, required=True, help="folder for table2*.* and fusion.*")
    options = parser.parse_args(argv)

    if len(set(options.variants)) < len(options.variants):
        raise InputError(f"--variants {' '.join(options.variants)}: wanted each variant once")
    if not options.ap and not options.metrics:
        raise InputError("neither --ap nor --metrics is given; wanted what Table II or the fusion metrics are made of")
    split = collect.read_split(options.split)
    methods = [variant for variant in options.variants if variant not in (*BANDS, LATE)]
    config = {}
    if options.config_snapshot:
        config = {"config": sha256_json(read_json(options.config_snapshot))}
    manifests = collect.read_manifests(options.fused_manifests, methods, split)
    # Both are made before either is written.
    tables = [_detection_table(options, split, manifests, config)] if options.ap else []
    if options.metrics:
        metrics, facts = collect.read_metrics(options.metrics, methods, manifests)
        tables.append(_fusion_table(metrics, facts, split, manifests, config))
    for stem, *table in tables:
        write_tables(options.output / stem, *table)
        if stem == "table2":
            detail = collect.detail_table(options.ap, options.variants)
            write_csv(options.output / "table2_detail.csv", detail, table[1])
    logging.info("tables: %s in %s", ", ".join(stem for stem, *_ in tables), options.output)


def _detection_table(
    options: argparse.Namespace, split: Split, manifests: Mapping[str, Any], config: Mapping[str, str]
) -> tuple[Any, ...]:
    """Return the file stem of Table II and what `write_tables` takes."""
    if not options.training:
        logging.warning("warning: without --training the detectors' recipes are not compared")
    scores, shared = collect.read_scores(options.ap, options.variants, split, options.training, manifests)
    # The paper's numbers belong beside numbers on its own data only.
    on_m3fd = str(split.dataset["dataset"]).casefold() == "m3fd"
    table = collect.detection_table(
        scores, split.classes, {name: paper.paper_row(name) for name in options.variants} if on_m3fd else None
    )
    facts = detection_facts(split, shared, sorted(scores["seed"].unique().tolist())) | config
    if options.significance:
        significance = collect.read_significance(options.significance, split, options.ap)
        table = collect.add_significance(table, split.classes, significance)
        facts["significance"] = (
            f"{significance['method']}, {significance['samples']} draws, 95 %, {significance['correction']}"
        )
    leakage = split.file.with_name("leakage.json")
    if leakage.is_file():
        facts["leakage"] = _leakage_note(read_json(leakage))
    if LATE in options.variants:
        facts["late"] = (
            "late: the boxes of the visible and the infrared detector pooled, nothing trained; not in the paper."
        )
        table["remark"] = ["not in the paper" if variant == LATE else "" for variant in table["variant"]]
    if on_m3fd:
        facts["paper"] = paper.SOURCE
    caption = (
        f"Average precision, mAP@[0.5:0.95], of one detector trained and tested on each variant of {facts['dataset']}"
    )
    return "table2", table, facts, detection_layout(table, split.classes), caption, detection_notes(facts)


def _fusion_table(
    metrics: Any, metric_facts: Mapping[str, Any], split: Split, manifests: Mapping[str, Any], config: Mapping[str, str]
) -> tuple[Any, ...]:
    """Return the file stem of the fusion metrics and what `write_tables` takes."""
    table = collect.fusion_table(metrics)
    facts = {
        "dataset": split.dataset["dataset"],
        "images": int(table["images"].iloc[0]),
        **metric_facts,
        **_split_facts(split),
        "fused": {method: facts for method, (_, facts) in manifests.items()},
    } | config
    layout = fusion_layout(table, metric_directions(facts))
    return "fusion", table, facts, layout, f"Fusion metrics on {facts['dataset']}", fusion_notes(table, facts)


def _leakage_note(leakage: Mapping[str, Any]) -> str:
    return (
        f"Leakage: {leakage['near_duplicates']} of {leakage['images']} test images ({leakage['share']:.1%}) have a "
        f"near duplicate in training, likeness {leakage['threshold']} or more ({leakage['descriptor']})."
    )


def _recipe_note(facts: Mapping[str, Any]) -> str:
    if "training.recipe.epochs" not in facts:
        return "The detectors' training recipes were not compared."
    recipe = {key.removeprefix("training.recipe."): value for key, value in facts.items()}
    return (
        f"The same recipe for every variant: {recipe['model']}, image size {recipe['image_size']}, epochs "
        f"{recipe['epochs']}, starting weights {facts['training.start']}, {recipe['optimizer']}, learning rate "
        f"{recipe['lr0']}, batch {recipe['batch']}; the rest stands in table2.csv."
    )


def _split_facts(split: Split) -> dict[str, Any]:
    kind = {key: value for key, value in split.dataset["split"].items() if not key.startswith("digest_")}
    return {
        "split": json.dumps(kind, ensure_ascii=False),
        "train_images": len(split.train),
        "test_images": len(split.test),
        "digest_train": split.dataset["split"]["digest_train"],
        "digest_test": split.dataset["split"]["digest_test"],
    }


def _split_note(facts: Mapping[str, Any]) -> str:
    split = json.loads(facts["split"])
    return (
        f"Split: {SPLITS.get(split['kind'], split['kind'])}"
        + (f", seed {split['seed']}" if split.get("seed") is not None else "")
        + (", a random part of it" if split.get("limits") else "")
        + f", {facts['train_images']} training and {facts['test_images']} test images, "
        f"digests {facts['digest_train'][:12]} and {facts['digest_test'][:12]}."
    )


if __name__ == "__main__":
    run(main)
