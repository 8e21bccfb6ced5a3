"""Write Table I (methods on test sets without boxes, and their cost) or Table III (ablations of FNet).

A column is a method, an ablation, or a source image scored in place of a fused image. Scores come from
`DATASET/COLUMN.csv` of `fusion.evaluate`, manifests from `DATASET/COLUMN/manifest.csv`, costs from `COLUMN.json` of
`fusion.cost`. Writes NAME.csv (full precision: one row per dataset and metric, one column per method, followed by
intervals, tests and the paper's numbers), NAME.md, NAME.tex and NAME.html. Columns of one dataset must agree in images,
sources, convention and treatment.
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from detection.comparison import scenes_of
from fusion.metrics import EXTRA
from pipeline.artefacts import read_csv, read_json, sha256_file, sha256_json, write_csv, write_text
from pipeline.stage import InputError, run
from reports import paper
from reports.collect import BANDS, fused_variants
from reports.means import compare_means
from reports.render import to_html, write_texts
from reports.tables_layout import metric_directions, parameter_remarks
from reports.test_sets_layout import CAPTIONS, COSTS, METRICS, printed_blocks


def read_scores(
    files: Sequence[Path], datasets: Sequence[str], columns: Sequence[str], metrics: Sequence[str] = METRICS
) -> tuple[dict[tuple[str, str], pd.DataFrame], dict[tuple[str, str], dict[str, str]]]:
    """Read the metrics of every dataset and column, one row per image, and the files' facts.

    Raises:
        InputError: a file is missing or given twice, or two files of a dataset differ in images or convention.
    """
    scores, all_facts, read = {}, {}, {}
    for file in map(Path, files):
        key = (file.resolve().parent.name, file.stem)
        if key in read:
            raise InputError(f"{file} and {read[key]} both contain {key[1]} on {key[0]}; expected one file")
        read[key] = file
        frame, facts = read_csv(file)
        if missing := [name for name in ("name", *metrics) if name not in frame]:
            raise InputError(f"{file} lacks the columns {', '.join(missing)}; expected a file of fusion.evaluate")
        scores[key], all_facts[key] = frame, facts
    _require(read, datasets, columns, "--scores")
    first_facts = all_facts[datasets[0], columns[0]]
    for dataset in datasets:
        first = scores[dataset, columns[0]]
        for column in columns:
            file, facts = read[dataset, column], all_facts[dataset, column]
            if scores[dataset, column]["name"].tolist() != first["name"].tolist():
                raise InputError(f"{file} scores other images than {read[dataset, columns[0]]}; expected the same")
            for fact, shared in (("sources_sha256", all_facts[dataset, columns[0]]), ("convention", first_facts)):
                if facts.get(fact) != shared.get(fact):
                    other = read[dataset, columns[0]] if shared is not first_facts else read[datasets[0], columns[0]]
                    raise InputError(f"{file} has {fact} {facts.get(fact)}; expected {shared.get(fact)} as in {other}")
    return scores, all_facts


def read_manifests(
    files: Sequence[Path],
    datasets: Sequence[str],
    columns: Sequence[str],
    score_facts: Mapping[tuple[str, str], Mapping[str, str]],
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Read the manifests of the scored images; return the facts of each column and the treatment of each dataset.

    Raises:
        InputError: a manifest is missing, is not the one that was scored, has another treatment than the others of its
            dataset, or other weights than the others of its column.
    """
    read = {}
    for file in map(Path, files):
        folder = file.resolve().parent
        read[folder.parent.name, folder.name] = file
    fused = fused_variants(columns)
    _require(read, datasets, fused, "--manifests")
    shared: dict[str, dict[str, str]] = {}
    treatments: dict[str, str] = {}
    for dataset in datasets:
        for column in fused:
            file = read[dataset, column]
            facts = read_csv(file)[1]
            if score_facts[dataset, column].get("manifest_sha256") != sha256_file(file):
                raise InputError(f"{file} is not the manifest that was scored; expected scores of these fused images")
            treatment = f"{facts.get('colour')}, {facts.get('format')}"
            if "infrared_range" in facts:
                treatment += f", raw infrared values {facts['infrared_range']} mapped linearly to 0 to 255"
            if treatments.setdefault(dataset, treatment) != treatment:
                raise InputError(
                    f"{file} was made with {treatment}; expected {treatments[dataset]} as for the others of {dataset}"
                )
            own = {key: facts[key] for key in ("method", "revision", "weights", "trained", "precision") if key in facts}
            if shared.setdefault(column, own) != own:
                raise InputError(f"{file} has {own}; expected {shared[column]} as on the other datasets")
    return shared, treatments


def read_costs(files: Sequence[Path], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the cost of each column; an empty `files` gives no costs.

    Raises:
        InputError: a method has no cost, or two methods were measured on pairs of different sizes.
    """
    costs = {Path(file).stem: read_json(Path(file)) for file in files}
    if not costs:
        return {}
    methods = fused_variants(columns)
    if missing := [column for column in methods if column not in costs]:
        raise InputError(f"--costs lacks {', '.join(missing)}; expected one COLUMN.json for each method")
    for column in methods:
        if costs[column]["size"] != costs[methods[0]]["size"]:
            raise InputError(
                f"--costs: {column} was measured at size {costs[column]['size']}; expected {costs[methods[0]]['size']} "
                f"as for {methods[0]}"
            )
    return {column: costs[column] for column in methods}


def read_scene_words(words: Sequence[str], names: Mapping[str, Sequence[str]], unit: str) -> dict[str, list[str]]:
    """Return the scene of each image, for the datasets in the arguments DATASET=FILE; `names` are their images.

    Raises:
        InputError: an argument has another form or names no dataset of the table; or `scenes_of` raises it.
    """
    scenes = {}
    for word in words:
        dataset, equals, file = word.partition("=")
        if not equals or dataset not in names:
            raise InputError(f"--scenes {word}: expected DATASET=FILE with one of {', '.join(names)}")
        scenes[dataset] = scenes_of(Path(file), unit, names[dataset])
    return scenes


def metric_row(
    values: Mapping[str, np.ndarray],
    paper_values: Mapping[str, float],
    scene: Sequence[str] | None = None,
    higher_is_better: bool = True,
) -> dict[str, Any]:
    """Return the table row of one metric on one dataset, from the metric's values (N,) by column.

    The row contains, for each column, the mean over the images on which it is defined, its interval, the paper's value
    and the difference (ours minus the paper's); for each fused column except the best, the adjusted p value against the
    best; `best`; and `tied`, the columns that do not differ significantly from the best. With `scene` (N,), the scene
    of each image, intervals and tests resample scenes.
    """
    found = compare_means(values, [name for name in values if name not in BANDS], scene, higher_is_better)
    row: dict[str, Any] = {**found.means, "images": len(next(iter(values.values())))}
    row |= {"best": found.best, "tied": " ".join(found.tied)}
    for name, own in values.items():
        row[f"{name}_low"], row[f"{name}_high"] = found.bounds[name]
        row[f"{name}_p"] = found.p_values.get(name, math.nan)
        row[f"{name}_undefined"] = int(np.isnan(own).sum())
        row |= _paper_values(name, found.means[name], paper_values.get(name))
    return row


def score_table(
    scores: Mapping[tuple[str, str], pd.DataFrame],
    costs: Mapping[str, Mapping[str, Any]],
    datasets: Sequence[str],
    columns: Sequence[str],
    paper_columns: Mapping[str, Mapping[tuple[str, str], float]],
    scenes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return the table: one row per cost, and per dataset and metric; full precision, NaN if undefined.

    Columns are `dataset` (empty for costs), `quantity`, then `columns`, then the other columns of `metric_row`.
    `scenes` contains each image's scene for the datasets for which it is known.
    """
    rows, directions = [], metric_directions({})
    for quantity, (key, scale) in COSTS.items() if costs else ():
        row: dict[str, Any] = {"dataset": "", "quantity": quantity, "best": "", "tied": ""}
        for column in columns:
            value = costs.get(column, {}).get(key)
            row[column] = math.nan if value is None else value * scale
            theirs = paper_columns.get(column, {}).get(("", quantity))
            # The paper counts operations differently and measured on another machine.
            row |= _paper_values(column, row[column], theirs, comparable=key == "parameters")
        rows.append(row)
    for dataset in datasets:
        for metric in metrics:
            values = {column: scores[dataset, column][metric].to_numpy(np.float64) for column in columns}
            of_paper = {
                name: numbers[dataset, metric]
                for name, numbers in paper_columns.items()
                if (dataset, metric) in numbers
            }
            row = metric_row(values, of_paper, scenes.get(dataset), directions[metric])
            rows.append({"dataset": dataset, "quantity": metric, **row})
    frame = pd.DataFrame(rows)
    if not frame[[name for name in frame if name.endswith("_undefined")]].any(axis=None):
        frame = frame.drop(columns=[name for name in frame if name.endswith("_undefined")])
    first = ["dataset", "quantity", *columns, "images", "best", "tied"]
    kinds = ("paper", "difference", "low", "high", "p", "undefined")
    rest = [f"{column}_{kind}" for kind in kinds for column in columns if f"{column}_{kind}" in frame]
    return frame[[*first, *rest]]


def main(argv: Sequence[str] | None = None) -> None:
    """Write one table."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.test_sets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", choices=list(CAPTIONS), required=True, help="table to write, also the name of its files"
    )
    parser.add_argument("--datasets", nargs="+", required=True, help="datasets in order")
    parser.add_argument(
        "--columns", nargs="+", required=True, help="methods or ablations in order, including visible and infrared"
    )
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="DATASET/COLUMN.csv of each")
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="DATASET/COLUMN/manifest.csv of each")
    parser.add_argument(
        "--scenes",
        nargs="+",
        default=[],
        metavar="DATASET=FILE",
        help="CSV of each image's scene (columns name, sequence, place); default: each image is its own scene",
    )
    parser.add_argument(
        "--unit", choices=("sequence", "place"), default="sequence", help="the scenes' column (default: %(default)s)"
    )
    parser.add_argument(
        "--extra",
        nargs="+",
        choices=list(EXTRA),
        default=[],
        help="metrics of fusion.evaluate in addition to the paper's four",
    )
    parser.add_argument("--costs", type=Path, nargs="*", default=[], help="COLUMN.json of each method")
    parser.add_argument(
        "--config-snapshot", type=Path, help="the run's full configuration (JSON); its digest is recorded"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the table")
    options = parser.parse_args(argv)

    for name in ("datasets", "columns"):
        values = getattr(options, name)
        if len(set(values)) < len(values):
            raise InputError(f"--{name} {' '.join(values)}: expected each once")
    metrics = [*METRICS, *dict.fromkeys(options.extra)]
    scores, score_facts = read_scores(options.scores, options.datasets, options.columns, metrics)
    names = {dataset: scores[dataset, options.columns[0]]["name"].tolist() for dataset in options.datasets}
    scenes = read_scene_words(options.scenes, names, options.unit)
    shared, treatments = read_manifests(options.manifests, options.datasets, options.columns, score_facts)
    costs = read_costs(options.costs, options.columns)
    papers = {column: paper.paper_column(options.table.removesuffix("_equal"), column) for column in options.columns}
    table = score_table(scores, costs, options.datasets, options.columns, papers, scenes, metrics)
    first = score_facts[options.datasets[0], options.columns[0]]
    facts = {
        **{key: first[key] for key in ("convention", "definition", "metrics_revision") if key in first},
        "treatments": treatments,
        "sources": {name: score_facts[name, options.columns[0]].get("sources_sha256") for name in options.datasets},
        "fused": shared,
        "intervals": "95 %, percentile bootstrap over images, 10000 resamples, seed 0",
        "tests": "paired sign-flip test of each method against the best, 10000 sign flips, seed 0, Holm's correction "
        "within each row",
        "paper": paper.TABLE3_SOURCE if options.table == "table3" else paper.TABLE1_SOURCE,
    }
    if scenes:
        facts["scenes"] = "; ".join(f"{name}: {len(set(scene))} {options.unit}s" for name, scene in scenes.items())
    if costs:
        slowest = max(costs.values(), key=lambda cost: cost["multiply_adds"] or 0)
        facts["cost"] = {key: slowest[key] for key in ("size", "device", "threads")}
        facts["peak_memory_bytes"] = {column: cost["peak_memory_bytes"] for column, cost in costs.items()}
        facts["parameter_remarks"] = parameter_remarks(costs)
    if options.config_snapshot:
        facts["config"] = sha256_json(read_json(options.config_snapshot))
    stem = options.output / options.table
    blocks = printed_blocks(options.table, table, options.columns, facts)
    write_csv(stem.with_suffix(".csv"), table, facts)
    write_texts(stem, blocks)
    context = {"title": CAPTIONS[options.table], "blocks": blocks, "facts": facts}
    write_text(stem.with_suffix(".html"), to_html("test_sets.html", context))
    logging.info("%s: %d datasets, %d columns in %s", options.table, len(options.datasets), len(options.columns), stem)


def _require(
    read: Mapping[tuple[str, str], Path], datasets: Sequence[str], columns: Sequence[str], option: str
) -> None:
    missing = [f"{dataset}/{column}" for dataset in datasets for column in columns if (dataset, column) not in read]
    if missing:
        raise InputError(f"{option} lacks {', '.join(missing[:5])} ({len(missing)} in all); expected a file for each")


def _paper_values(name: str, ours: float, theirs: float | None, comparable: bool = True) -> dict[str, float]:
    """Return the paper's value, if there is one, and the difference, NaN unless `comparable`."""
    if theirs is None:
        return {}
    return {f"{name}_paper": theirs, f"{name}_difference": ours - theirs if comparable else math.nan}


if __name__ == "__main__":
    run(main)
