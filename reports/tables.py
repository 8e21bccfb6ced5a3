"""Write Table II (average precision of the detector of each variant), Table II by condition, and the fusion metrics.

Each table is written as CSV (full precision, with `# key: value` facts at the top), Markdown and LaTeX. The facts that
all rows must share are compared first: the split and its digests, the detector's recipe, the seeds, the metrics'
convention. A missing variant, seed or image is an error, not a gap.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from detection.comparison import method_of_draws, scenes_of, unit_of_split
from detection.leakage import exposure_words
from pipeline.artefacts import read_json, sha256_json, write_csv
from pipeline.stage import InputError, run
from reports import paper
from reports.collect import NO_IMAGES, Split, fused_variants, group_of, read_manifests, read_metrics, read_split
from reports.conditions import condition_block, condition_facts, condition_table
from reports.inside import against_inside, group_starts, inside_facts, network_columns, read_cost, ways_run
from reports.means import RESAMPLES, add_comparisons
from reports.render import Block, rank_marks, write_texts
from reports.runs import Run, brought_files, check_runs, read_runs, read_significance, scores_table
from reports.tables_layout import (
    detection_cells,
    detection_layout,
    detection_notes,
    fusion_blocks,
    metric_directions,
)
from reports.truths import read_truths, truth_block, truth_facts, truth_table
from reports.verdict import against_bands, against_best, statement


def detection_table(scores: pd.DataFrame, classes: Sequence[str], paper: Mapping[str, Mapping] | None) -> pd.DataFrame:
    """Return Table II: one row per variant; columns `variant`, the classes, `Average`, `AP50`, `AP75` and more.

    Values are means over the seeds, fractions in 0..1; `AP50` and `AP75` are averages over the classes at one IoU.
    `Average_low` and `Average_high` are the smallest and largest average over the seeds, NaN for one seed: a spread,
    not a confidence interval. `paper`, if given, maps each variant to the paper's values by column, empty if the paper
    has no such row.
    """
    rows = []
    for variant, runs in scores.groupby("variant", sort=False):
        columns = runs.pivot(index="seed", columns="class", values="AP")
        average = columns["Average"]
        # skipna=False: a mean over some of the seeds would look like a mean over all.
        row = {"variant": variant, **{name: columns[name].mean(skipna=False) for name in (*classes, "Average")}}
        at_one = runs[runs["class"] == "Average"]
        row |= {name: at_one[name].mean(skipna=False) for name in ("AP50", "AP75")}
        several = len(average) > 1
        row["Average_low"] = average.min(skipna=False) if several else float("nan")
        row["Average_high"] = average.max(skipna=False) if several else float("nan")
        row["seeds"] = len(average)
        row["Average_deviation"] = average.std(skipna=False)  # between seeds, NaN for one
        if paper is not None:
            for name in ("Average", *classes):
                row[f"{name}_paper"] = paper[variant].get(name, float("nan"))
            row["Average_difference"] = row["Average"] - row["Average_paper"]
        rows.append(row)
    return pd.DataFrame(rows)


def add_significance(table: pd.DataFrame, classes: Sequence[str], significance: Mapping[str, Any]) -> pd.DataFrame:
    """Return Table II with intervals and verdicts.

    `<column>_interval_low` and `_high` bound the 95 % interval of each class and of `Average`. `against_best` is
    `best`, `tie` (not significantly different from the best average), `worse` or `not tested`; it holds for the methods
    if there are enough seeds. `against_bands` is the verdict for these trained detectors, and `against_bands_methods`,
    with enough seeds, for the methods: `ahead` of both bands, `behind` at least one band, `not shown` or `not tested`;
    empty for a band. `against_inside` and `against_inside_methods` compare with `stacked`, `twostream` and `late`, if
    any of them was run.
    """
    table = table.copy()
    for name in (*classes, "Average"):
        for bound in ("low", "high"):
            values = [significance["variants"][variant][name][bound] for variant in table["variant"]]
            table[f"{name}_interval_{bound}"] = pd.array(values, dtype=float)
    compared = against_best(table, significance)
    table["against_best"] = [compared.get(name, "") for name in table["variant"]]
    table["against_bands"] = [against_bands(significance, name, "trained") for name in table["variant"]]
    kinds = {"trained": "", **({"methods": "_methods"} if statement(significance) == "methods" else {})}
    if "methods" in kinds:
        table["against_bands_methods"] = [against_bands(significance, name, "methods") for name in table["variant"]]
    for kind, ending in kinds.items() if significance["against_inside"] else ():
        table[f"against_inside{ending}"] = [against_inside(significance, name, kind) for name in table["variant"]]
    return table


def detail_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return every number of every ap.json: one row per variant, seed, condition (including `all`) and class.

    Columns AP, AP50, AP75, AP_small, AP_medium, AP_large, AR100, boxes; NaN where undefined.
    """
    return pd.DataFrame(
        [
            {"variant": run.variant, "seed": run.seed, "condition": condition, "class": name, **values}
            for run in runs
            for condition, part in {"all": run.scores, **run.scores.get("conditions", {})}.items()
            for name, values in {**part["classes"], "Average": part["average"]}.items()
        ]
    )


def fusion_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the fusion metrics: one row per method with the means over its images, then `images`.

    Undefined values are left out of a mean; if there are any, `<metric>_undefined` counts them.
    """
    names = [name for name in metrics.columns if name not in ("method", "name")]
    groups = metrics.groupby("method", sort=False)
    table = groups[names].mean()
    table["images"] = groups.size()
    undefined = metrics[names].isna().groupby(metrics["method"], sort=False).sum()
    for name in names:
        if undefined[name].any():
            table[f"{name}_undefined"] = undefined[name]
    return table.reset_index()


def detection_facts(split: Split, shared: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the facts of Table II: data, split, detector, recipe, seeds, versions."""
    return {
        "dataset": split.dataset["dataset"],
        **_split_facts(split),
        "boxes": split.dataset["boxes"]["test"],
        **({"truth": split.dataset["truth"]} if "truth" in split.dataset else {}),
        **shared,
        "seeds": " ".join(map(str, seeds)),
        "spread": (
            "Average_low and Average_high are the smallest and largest over the seeds"
            if len(seeds) > 1
            else "not measured: one seed"
        ),
    }


def significance_facts(significance: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of Table II about its intervals and comparisons."""
    facts = {
        "significance": f"{significance['method']}, {significance['samples']} draws, 95 %",
        "marks": (
            f"{'methods' if statement(significance) == 'methods' else 'these trained detectors'}; corrected by "
            f"{significance['correction']}"
        ),
    }
    if significance["inside"]:
        facts["ways"] = ways_run(significance)
    return facts | ({"untested": significance["untested"]} if significance["untested"] else {})


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
        "--training",
        type=Path,
        nargs="*",
        default=[],
        help="provenance.json of every detector; its recipe must be the same",
    )
    parser.add_argument(
        "--metrics",
        type=Path,
        nargs="*",
        default=[],
        help="metrics CSV of every method, METHOD.csv, for the table of fusion metrics; default none",
    )
    parser.add_argument(
        "--fused-manifests", type=Path, nargs="*", default=[], help="manifest of every method, METHOD/manifest.csv"
    )
    parser.add_argument(
        "--scenes",
        type=Path,
        help="scenes.csv of the split, for intervals and tests of the fusion metrics; dataset.json in the same folder "
        "states the sampling unit (sequence, place or image); default: each image is its own scene",
    )
    parser.add_argument("--variants", nargs="+", required=True, help="rows in order: visible, infrared, then methods")
    parser.add_argument(
        "--config-snapshot", type=Path, help="the run's full configuration (JSON); its digest is recorded"
    )
    parser.add_argument(
        "--significance",
        type=Path,
        help="significance.json: intervals and paired comparisons, for Table II and the table by condition",
    )
    parser.add_argument("--cost", type=Path, help="cost.json of detection.cost: size and cost of the networks")
    parser.add_argument("--truths", type=Path, help="truths.json: the scores with every label set")
    parser.add_argument("--output", type=Path, required=True, help="folder for table2*.* and fusion.*")
    options = parser.parse_args(argv)

    if len(set(options.variants)) < len(options.variants):
        raise InputError(f"--variants {' '.join(options.variants)}: expected each variant once")
    if not options.ap and not options.metrics:
        raise InputError(
            "found neither --ap nor --metrics; expected --ap for Table II, --metrics for the fusion metrics"
        )
    split = read_split(options.split)
    # All tables are computed before any is written, so that an error leaves no partial output.
    runs = read_runs(options.ap, options.variants) if options.ap else []
    methods = fused_variants(options.variants, brought_files(runs))
    config = {"config": sha256_json(read_json(options.config_snapshot))} if options.config_snapshot else {}
    manifests = read_manifests(options.fused_manifests, methods, split)
    significance = read_significance(options.significance, split, runs) if runs and options.significance else None
    tables = [_detection_table(options, runs, split, manifests, config, significance)] if runs else []
    if options.truths and runs:
        tables += _truth_tables(options, runs, split, config)
    if significance:
        tables.append(_condition_table(significance, split, tables[0][1]))
    if options.metrics:
        metrics, facts = read_metrics(options.metrics, methods, manifests)
        tables.append(_fusion_table(metrics, facts, split, manifests, config, options.scenes))
    for table, facts, blocks in tables:
        write_csv(options.output / f"{blocks[0].name}.csv", table, facts)
        write_texts(options.output / blocks[0].name, blocks)
    if runs:
        write_csv(options.output / "table2_detail.csv", detail_table(runs), tables[0][1])
    logging.info("tables: %s in %s", ", ".join(blocks[0].name for *_, blocks in tables), options.output)


def _detection_table(
    options: argparse.Namespace,
    runs: Sequence[Run],
    split: Split,
    manifests: Mapping[str, Any],
    config: Mapping[str, str],
    significance: Mapping[str, Any] | None,
) -> tuple[pd.DataFrame, dict[str, Any], list[Block]]:
    """Return Table II, its facts, and its printed form."""
    if not options.training:
        logging.warning("warning: no --training: the training recipes of the detectors are not compared")
    shared = check_runs(runs, split, options.training, manifests)
    # The paper's numbers are comparable only on the paper's dataset.
    on_m3fd = str(split.dataset["dataset"]).casefold() == "m3fd"
    brought = brought_files(runs)
    # An external row has no counterpart in the paper, whatever its name.
    papers = {name: paper.paper_row("" if name in brought else name) for name in options.variants} if on_m3fd else None
    table = detection_table(scores_table(runs), split.classes, papers)
    facts = detection_facts(split, shared, sorted({run.seed for run in runs if not run.brought})) | config
    if significance:
        table = add_significance(table, split.classes, significance)
        facts |= significance_facts(significance)
    leakage = split.file.with_name("leakage.json")
    if leakage.is_file():
        facts["leakage"] = _leakage_note(read_json(leakage))
    cost = read_cost(options.cost, shared) if options.cost else None
    table = pd.concat([table, network_columns(cost, options.variants)], axis=1)
    facts |= inside_facts(cost, options.variants, brought)
    table["group"] = [group_of(variant, brought) for variant in table["variant"]]
    if brought:
        facts["brought"] = {name: ", ".join(_file_words(file) for file in files) for name, files in brought.items()}
        table["brought"] = [variant in brought for variant in table["variant"]]
    remarks = dict.fromkeys(NO_IMAGES, "not in the paper") | dict.fromkeys(brought, "external, recipe unknown")
    if not {*options.variants}.isdisjoint(remarks):
        table["remark"] = [remarks.get(variant, "") for variant in table["variant"]]
    if on_m3fd:
        facts["paper"] = paper.SOURCE
    caption = (
        "Average precision, mAP@[0.5:0.95], of detectors trained and tested on the visible, infrared and fused images "
        f"of {facts['dataset']}"
    )
    cells, layout = detection_cells(table), detection_layout(table, split.classes)
    marks, starts = rank_marks(cells, layout), group_starts(options.variants, brought)
    return table, facts, [Block("table2", cells, layout, marks, caption, detection_notes(facts), starts)]


def _file_words(brought: Mapping[str, Any]) -> str:
    """Return the description of a file of external detections that tables print."""
    empty = brought["images_without_detection"]
    without = f", no detection in {empty} images" if empty else ""
    return f"{brought['file']} (sha256 {brought['sha256'][:12]}{without})"


def _condition_table(
    significance: Mapping[str, Any], split: Split, facts: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any], list[Block]]:
    """Return the table by condition, its facts, and its printed form; `facts` are Table II's."""
    table = condition_table(significance)
    facts = condition_facts(facts, significance, split.dataset.get("conditions", {}).get("source", ""))
    return table, facts, [condition_block(table, facts)]


def _truth_tables(
    options: argparse.Namespace, runs: Sequence[Run], split: Split, config: Mapping[str, str]
) -> list[tuple[pd.DataFrame, dict[str, Any], list[Block]]]:
    """Return Table II by label set with its facts and printed form, as a list; empty if there is only one set."""
    truths = read_truths(options.truths, split, runs)
    if not truths["several"]:
        logging.info("tables: only one label set, %s; no table by label set", truths["truth"])
        return []
    facts = {"dataset": split.dataset["dataset"], **_split_facts(split), **truth_facts(truths)} | config
    table = truth_table(truths, options.variants)
    return [(table, facts, [truth_block(table, facts)])]


def _fusion_table(
    metrics: pd.DataFrame,
    metric_facts: Mapping[str, Any],
    split: Split,
    manifests: Mapping[str, Any],
    config: Mapping[str, str],
    scenes: Path | None,
) -> tuple[pd.DataFrame, dict[str, Any], list[Block]]:
    """Return the table of fusion metrics, its facts, and its printed form."""
    directions = metric_directions(metric_facts)
    names = list(dict.fromkeys(metrics["name"]))
    unit = unit_of_split(scenes) if scenes else "image"
    found = names if unit == "image" else scenes_of(scenes, unit, names)
    table = add_comparisons(fusion_table(metrics), metrics, directions, dict(zip(names, found, strict=True)))
    facts = {
        "dataset": split.dataset["dataset"],
        "images": int(table["images"].iloc[0]),
        **metric_facts,
        **_split_facts(split),
        "fused": {method: facts for method, (_, facts) in manifests.items()},
        "intervals": f"{method_of_draws(unit, len(set(found)), len(names), scenes is not None)}, {RESAMPLES}, 95 %",
        "tests": "paired sign-flip test of each method against the best, with scenes as units, "
        f"{RESAMPLES}, Holm's correction within each column",
    } | config
    return table, facts, fusion_blocks(table, facts, directions)


def _leakage_note(leakage: Mapping[str, Any]) -> str:
    return (
        f"Leakage: {exposure_words(leakage)}. Near duplicates have a similarity of at least {leakage['threshold']} "
        f"({leakage['descriptor']})."
    )


def _split_facts(split: Split) -> dict[str, Any]:
    kind = {key: value for key, value in split.dataset["split"].items() if not key.startswith("digest_")}
    return {
        "split": json.dumps(kind, ensure_ascii=False),
        "train_images": len(split.train),
        "test_images": len(split.test),
        "digest_train": split.dataset["split"]["digest_train"],
        "digest_test": split.dataset["split"]["digest_test"],
        **({"infrared_range": split.dataset["infrared_range"]} if "infrared_range" in split.dataset else {}),
    }


if __name__ == "__main__":
    run(main)
