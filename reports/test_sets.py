"""Write Table I (methods on test sets without boxes, and what they cost) or Table III (FNet without its parts).

A column is a method, an ablation, or a source itself in place of a fused image. Scores come from
`DATASET/COLUMN.csv` of `fusion.evaluate`, manifests from `DATASET/COLUMN/manifest.csv`, costs from `COLUMN.json` of
`fusion.cost`. Written are NAME.csv (full precision: a row for each data set and metric, a column for each method, then
intervals, tests and the paper's numbers), NAME.md, NAME.tex and NAME.html. Columns whose images, sources, convention
or treatment differ within a data set are refused.
"""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from fusion.metrics.statistics import bootstrap_mean, holm, paired_test
from pipeline.artefacts import read_csv, read_json, sha256_file, sha256_json, write_csv, write_text
from pipeline.stage import InputError, run
from reports import paper
from reports.collect import BANDS
from reports.render import Layout, format_value, rank_marks, to_latex, to_markdown

METRICS = ("MI", "VIF", "Qabf", "SSIM")  # higher is better in all four
COSTS = {"Params (K)": ("parameters", 1e-3), "MACs (G)": ("multiply_adds", 1e-9), "Runtime (s)": ("median_s", 1)}
DIGITS = {"Params (K)": 0, "MACs (G)": 2, "Runtime (s)": 3}  # of the others: 2, as the paper prints
ALPHA = 0.05
CAPTIONS = {
    "table1": "Fusion metrics and cost, each data set treated as FNet's authors did",
    "table1_equal": "Fusion metrics and cost, all data sets treated alike and without loss",
    "table3": "Fusion metrics of FNet trained whole and without each of its parts",
}


@dataclass(frozen=True)
class Block:
    """One printed part of a table: its cells as text, how they are set, their marks, what stands above and below."""

    name: str
    cells: pd.DataFrame
    layout: Layout
    marks: pd.DataFrame
    caption: str
    notes: list[str]


def read_scores(
    files: Sequence[Path], datasets: Sequence[str], columns: Sequence[str]
) -> tuple[dict[tuple[str, str], pd.DataFrame], dict[tuple[str, str], dict[str, str]]]:
    """Read the metrics of every data set and column: one row an image each, and the files' facts.

    Raises:
        InputError: one is missing or given twice, or two of a data set are not of the same images and convention.
    """
    scores, all_facts, read = {}, {}, {}
    for file in map(Path, files):
        key = (file.resolve().parent.name, file.stem)
        if key in read:
            raise InputError(f"{file} and {read[key]} both hold {key[1]} on {key[0]}; wanted one")
        read[key] = file
        frame, facts = read_csv(file)
        if missing := [name for name in ("name", *METRICS) if name not in frame]:
            raise InputError(f"{file} lacks the columns {', '.join(missing)}; wanted a file of fusion.evaluate")
        scores[key], all_facts[key] = frame, facts
    _require(read, datasets, columns, "--scores")
    first_facts = all_facts[datasets[0], columns[0]]
    for dataset in datasets:
        first = scores[dataset, columns[0]]
        for column in columns:
            file, facts = read[dataset, column], all_facts[dataset, column]
            if scores[dataset, column]["name"].tolist() != first["name"].tolist():
                raise InputError(f"{file} is of other images than {read[dataset, columns[0]]}; wanted the same")
            for fact, shared in (("sources_sha256", all_facts[dataset, columns[0]]), ("convention", first_facts)):
                if facts.get(fact) != shared.get(fact):
                    other = read[dataset, columns[0]] if shared is not first_facts else read[datasets[0], columns[0]]
                    raise InputError(f"{file} has {fact} {facts.get(fact)}, expected {shared.get(fact)} as in {other}")
    return scores, all_facts


def read_manifests(
    files: Sequence[Path],
    datasets: Sequence[str],
    columns: Sequence[str],
    score_facts: Mapping[tuple[str, str], Mapping[str, str]],
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Read the manifests behind the scores; return what each column shares, and each data set's treatment.

    Raises:
        InputError: one is missing, is not the one that was scored, or differs from its row or column in treatment or
            weights.
    """
    read = {}
    for file in map(Path, files):
        folder = file.resolve().parent
        read[folder.parent.name, folder.name] = file
    fused = [column for column in columns if column not in BANDS]
    _require(read, datasets, fused, "--manifests")
    shared: dict[str, dict[str, str]] = {}
    treatments: dict[str, str] = {}
    for dataset in datasets:
        for column in fused:
            file = read[dataset, column]
            facts = read_csv(file)[1]
            if score_facts[dataset, column].get("manifest_sha256") != sha256_file(file):
                raise InputError(f"{file} is not the manifest that was scored; wanted scores of these fused images")
            treatment = f"{facts.get('colour')}, {facts.get('format')}"
            if treatments.setdefault(dataset, treatment) != treatment:
                raise InputError(f"{file} was made as {treatment}, the others of {dataset} as {treatments[dataset]}")
            own = {key: facts[key] for key in ("method", "revision", "weights", "precision") if key in facts}
            if shared.setdefault(column, own) != own:
                raise InputError(f"{file} has {own}, expected {shared[column]} as on the other data sets")
    return shared, treatments


def read_costs(files: Sequence[Path], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read what the columns cost; none at all may be given.

    Raises:
        InputError: a method lacks its cost, or two were not measured alike.
    """
    costs = {Path(file).stem: read_json(Path(file)) for file in files}
    if not costs:
        return {}
    wanted = [column for column in columns if column not in BANDS]
    if missing := [column for column in wanted if column not in costs]:
        raise InputError(f"--costs lacks {', '.join(missing)}; wanted one COLUMN.json for each method")
    for column in wanted:
        if costs[column]["size"] != costs[wanted[0]]["size"]:
            raise InputError(
                f"the cost of {column} is of size {costs[column]['size']}, expected {costs[wanted[0]]['size']} as of "
                f"{wanted[0]}"
            )
    return {column: costs[column] for column in wanted}


def metric_row(values: Mapping[str, np.ndarray], paper_values: Mapping[str, float]) -> dict[str, Any]:
    """Return the means (N,) of one metric over one data set's images, and what stands beside them.

    For each column its mean over the images where it is defined, the interval, the paper's value and the difference
    (ours less the paper's); for each fused column but the best the adjusted p value against the best; `best` and
    `tied`, the columns that are not shown to differ from it.
    """
    means = {name: float(np.nanmean(v)) if (~np.isnan(v)).any() else math.nan for name, v in values.items()}
    row: dict[str, Any] = {**means, "images": len(next(iter(values.values())))}
    ranked = {name: mean for name, mean in means.items() if name not in BANDS and not math.isnan(mean)}
    best = max(ranked, key=ranked.__getitem__, default="")
    others = [name for name in ranked if name != best]
    p_values = dict(zip(others, holm([paired_test(values[best], values[name]) for name in others]), strict=True))
    row |= {"best": best, "tied": " ".join(name for name, p in p_values.items() if not p < ALPHA)}
    for name, own in values.items():
        row[f"{name}_low"], row[f"{name}_high"] = bootstrap_mean(own)
        row[f"{name}_p"] = p_values.get(name, math.nan)
        row[f"{name}_undefined"] = int(np.isnan(own).sum())
        row |= _beside(name, means[name], paper_values.get(name))
    return row


def build(
    scores: Mapping[tuple[str, str], pd.DataFrame],
    costs: Mapping[str, Mapping[str, Any]],
    datasets: Sequence[str],
    columns: Sequence[str],
    paper_columns: Mapping[str, Mapping[tuple[str, str], float]],
) -> pd.DataFrame:
    """Return the table: a row for each cost and for each data set and metric, full precision, undefined as NaN.

    Columns are `dataset` (empty for costs), `quantity`, then `columns`, then what `metric_row` puts beside them.
    """
    rows = []
    for quantity, (key, scale) in COSTS.items() if costs else ():
        row: dict[str, Any] = {"dataset": "", "quantity": quantity, "best": "", "tied": ""}
        for column in columns:
            value = costs.get(column, {}).get(key)
            row[column] = math.nan if value is None else value * scale
            theirs = paper_columns.get(column, {}).get(("", quantity))
            # The paper counted otherwise, on another machine.
            row |= _beside(column, row[column], theirs, comparable=key == "parameters")
        rows.append(row)
    for dataset in datasets:
        for metric in METRICS:
            values = {column: scores[dataset, column][metric].to_numpy(np.float64) for column in columns}
            beside = {
                name: numbers[dataset, metric]
                for name, numbers in paper_columns.items()
                if (dataset, metric) in numbers
            }
            rows.append({"dataset": dataset, "quantity": metric, **metric_row(values, beside)})
    frame = pd.DataFrame(rows)
    if not frame[[name for name in frame if name.endswith("_undefined")]].any(axis=None):
        frame = frame.drop(columns=[name for name in frame if name.endswith("_undefined")])
    first = ["dataset", "quantity", *columns, "images", "best", "tied"]
    kinds = ("paper", "difference", "low", "high", "p", "undefined")
    rest = [f"{column}_{kind}" for kind in kinds for column in columns if f"{column}_{kind}" in frame]
    return frame[[*first, *rest]]


def row_marks(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return `best`, `second` or nothing for each printed cell of a row.

    Sources themselves take no part; costs are compared between networks alone, for what computes nothing costs nothing.
    """
    marks = pd.DataFrame("", index=range(len(table)), columns=["dataset", "quantity", *columns])
    fused = [column for column in columns if column not in BANDS]
    networks = fused
    if (table["quantity"] == "MACs (G)").any():
        counted = table.loc[table["quantity"] == "MACs (G)", fused].notna().any()
        networks = [column for column in fused if counted[column]]
    for index, quantity in enumerate(table["quantity"]):
        ranked = networks if quantity in COSTS else fused
        layout = Layout({"x": ""}, {"x": DIGITS.get(quantity, 2)}, {"x": quantity not in COSTS})
        column = pd.DataFrame({"x": table.loc[index, ranked].to_numpy(np.float64)})
        marks.loc[index, ranked] = rank_marks(column, layout)["x"].to_numpy()
    return marks


def print_blocks(name: str, table: pd.DataFrame, columns: Sequence[str], facts: Mapping[str, Any]) -> list[Block]:
    """Return what is printed: the means, the paper's numbers beside ours where it has some, the intervals."""
    with_paper = [column for column in columns if f"{column}_paper" in table]
    means = _labels(table)
    for column in columns:
        means[column] = [
            _number(row[column], row["quantity"]) + ("*" if column in row["tied"].split() else "")
            for _, row in table.iterrows()
        ]
    caption = CAPTIONS[name]
    blocks = [_block(name, means, {c: _heading(c) for c in columns}, row_marks(table, columns), caption, [])]
    if with_paper:
        beside, headings = _labels(table), {}
        for column in with_paper:
            headings |= {column: _heading(column), f"{column}_paper": "paper", f"{column}_difference": "difference"}
            theirs = table[f"{column}_paper"]
            beside[column] = [_number(v, q) for v, q in zip(table[column], table["quantity"], strict=True)]
            beside[f"{column}_paper"] = [
                "" if math.isnan(v) else _number(v, q) for v, q in zip(theirs, table["quantity"], strict=True)
            ]
            beside[f"{column}_difference"] = [
                _difference(v, q) for v, q in zip(table[f"{column}_difference"], table["quantity"], strict=True)
            ]
        notes = [
            f"Paper: {paper.TABLE3_SOURCE if name == 'table3' else paper.TABLE1_SOURCE}. Difference: ours less its."
        ]
        notes += [_agreement(table, column) for column in with_paper]
        if "fnet" in with_paper and (table["quantity"] == "MACs (G)").any():
            notes.append(paper.GFLOPS_NOTE + " Runtimes are those of other machines.")
        blocks.append(
            _block(f"{name}-paper", beside, headings, None, f"{caption}: the paper's numbers beside ours", notes)
        )
    scored = table[~table["quantity"].isin(COSTS)].reset_index(drop=True)
    intervals = _labels(scored)
    for column in columns:
        intervals[column] = [
            f"{format_value(low, 2)} to {format_value(high, 2)}" if not math.isnan(low) else format_value(low, 2)
            for low, high in zip(scored[f"{column}_low"], scored[f"{column}_high"], strict=True)
        ]
    notes = ["95 % intervals of the means above: percentile bootstrap over a data set's images, 10,000 resamples."]
    headings = {column: _heading(column) for column in columns}
    blocks.append(
        _block(f"{name}-intervals", intervals, headings, None, f"{caption}: 95 % intervals of the means", notes)
    )
    blocks[0].notes.extend(table_notes(table, columns, facts))
    return blocks


def table_notes(table: pd.DataFrame, columns: Sequence[str], facts: Mapping[str, Any]) -> list[str]:
    """Return the footnotes of the means."""
    scored = table[~table["quantity"].isin(COSTS)]
    fused = [column for column in columns if column not in BANDS]
    notes = [
        f"Convention: {facts['convention']} ({facts['definition']}). Means over the images; their number stands in "
        "parentheses.",
        "Treatment: " + "; ".join(f"{name} {how}" for name, how in facts["treatments"].items()) + ".",
        "Bold: best of a row; underlined: second best; values that print alike share a mark. n/a: undefined.",
        f"*: not shown to differ from the best: paired sign-flip test over the images, two-sided, p at least {ALPHA} "
        "after Holm's correction for the number of methods in the row.",
    ]
    if any(band in columns for band in BANDS):
        beaten = scored[scored[[b for b in BANDS if b in columns]].max(axis=1) > scored[fused].max(axis=1)]
        where = ", ".join(f"{metric} {n}" for metric, n in beaten["quantity"].value_counts(sort=False).items())
        notes.append(
            "visible and infrared are the sources themselves in place of a fused image; they are not ranked. One of "
            f"them scores above every method in {len(beaten)} of {len(scored)} rows"
            + (f" ({where})." if where else ".")
        )
    if "cost" in facts:
        cost = facts["cost"]
        notes.append(
            f"Cost of one pair of {cost['size'][0]}x{cost['size'][1]}: parameters that training changes; multiply-adds "
            f"of convolutions, matrix products and attention, traced; median runtime on {cost['device']}, "
            f"{cost['threads']} CPU threads. Methods that are no networks have no multiply-adds to count and are not "
            "ranked."
        )
    if any(name.endswith("_undefined") for name in table):
        notes.append("Undefined values take no part in a mean; the CSV counts them.")
    return notes


def to_html(name: str, blocks: Sequence[Block], facts: Mapping[str, Any]) -> str:
    """Return the table as a page of its own that needs no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("table.html").render(title=CAPTIONS[name], blocks=blocks, facts=facts)


def main(argv: Sequence[str] | None = None) -> None:
    """Write one table."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.test_sets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", choices=list(CAPTIONS), required=True, help="which table, and its files' name")
    parser.add_argument("--datasets", nargs="+", required=True, help="data sets in order")
    parser.add_argument(
        "--columns", nargs="+", required=True, help="methods or ablations in order; visible and infrared among them"
    )
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="DATASET/COLUMN.csv of each")
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="DATASET/COLUMN/manifest.csv of each")
    parser.add_argument("--costs", type=Path, nargs="*", default=[], help="COLUMN.json of each method")
    parser.add_argument(
        "--config-snapshot", type=Path, help="the run's whole configuration (JSON); its digest is printed"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the table")
    options = parser.parse_args(argv)

    for name in ("datasets", "columns"):
        values = getattr(options, name)
        if len(set(values)) < len(values):
            raise InputError(f"--{name} {' '.join(values)}: wanted each once")
    scores, score_facts = read_scores(options.scores, options.datasets, options.columns)
    shared, treatments = read_manifests(options.manifests, options.datasets, options.columns, score_facts)
    costs = read_costs(options.costs, options.columns)
    papers = {column: paper.paper_column(options.table.removesuffix("_equal"), column) for column in options.columns}
    table = build(scores, costs, options.datasets, options.columns, papers)
    first = score_facts[options.datasets[0], options.columns[0]]
    facts = {
        **{key: first[key] for key in ("convention", "definition", "metrics_revision") if key in first},
        "treatments": treatments,
        "sources": {name: score_facts[name, options.columns[0]].get("sources_sha256") for name in options.datasets},
        "fused": shared,
        "intervals": "95 %, percentile bootstrap over images, 10000 resamples, seed 0",
        "tests": "paired sign-flip test against the best method, 10000 samples, seed 0, adjusted by Holm in each row",
        "paper": paper.TABLE3_SOURCE if options.table == "table3" else paper.TABLE1_SOURCE,
    }
    if costs:
        slowest = max(costs.values(), key=lambda cost: cost["multiply_adds"] or 0)
        facts["cost"] = {key: slowest[key] for key in ("size", "device", "threads")}
        facts["peak_memory_bytes"] = {column: cost["peak_memory_bytes"] for column, cost in costs.items()}
    if options.config_snapshot:
        facts["config"] = sha256_json(read_json(options.config_snapshot))
    blocks = print_blocks(options.table, table, options.columns, {"definition": "", **facts})
    stem = options.output / options.table
    write_csv(stem.with_suffix(".csv"), table, facts)
    parts = [(block.cells, block.layout, block.caption, block.notes, block) for block in blocks]
    write_text(stem.with_suffix(".md"), "\n".join(to_markdown(*part, block.marks) for *part, block in parts))
    write_text(
        stem.with_suffix(".tex"),
        "\n".join(
            to_latex(*part, f"tab:{block.name}", block.marks, _group_starts(block.cells)) for *part, block in parts
        ),
    )
    write_text(stem.with_suffix(".html"), to_html(options.table, blocks, facts))
    logging.info("%s: %d data sets, %d columns in %s", options.table, len(options.datasets), len(options.columns), stem)


def _require(
    read: Mapping[tuple[str, str], Path], datasets: Sequence[str], columns: Sequence[str], option: str
) -> None:
    missing = [f"{dataset}/{column}" for dataset in datasets for column in columns if (dataset, column) not in read]
    if missing:
        raise InputError(f"{option} lacks {', '.join(missing[:5])} ({len(missing)} in all); wanted every one")


def _beside(name: str, ours: float, theirs: float | None, comparable: bool = True) -> dict[str, float]:
    """Return the paper's value, if any, and the difference, if both are of one kind."""
    if theirs is None:
        return {}
    return {f"{name}_paper": theirs, f"{name}_difference": ours - theirs if comparable else math.nan}


def _labels(table: pd.DataFrame) -> pd.DataFrame:
    """Return the first two printed columns: the data set with its number of images, once, and the quantity."""
    names = []
    for index, (dataset, images) in enumerate(zip(table["dataset"], table["images"], strict=True)):
        new = dataset and (index == 0 or table["dataset"].iloc[index - 1] != dataset)
        names.append(f"{dataset} ({images:.0f})" if new else "")
    return pd.DataFrame({"dataset": names, "quantity": table["quantity"].tolist()})


def _block(
    name: str,
    cells: pd.DataFrame,
    headings: Mapping[str, str],
    marks: pd.DataFrame | None,
    caption: str,
    notes: list[str],
) -> Block:
    layout = Layout({"dataset": "Data set", "quantity": "", **headings}, dict.fromkeys(headings, 2), {})
    if marks is None:
        marks = pd.DataFrame("", index=range(len(cells)), columns=list(layout.columns))
    return Block(name, cells, layout, marks, caption, notes)


def _group_starts(cells: pd.DataFrame) -> list[int]:
    return [index for index, name in enumerate(cells["dataset"]) if name and index]


def _heading(column: str) -> str:
    return column.replace("_", " ")


def _number(value: float, quantity: str) -> str:
    digits = DIGITS.get(quantity, 2)
    # A time is never nothing, only less than its last digit shows.
    if quantity == "Runtime (s)" and 0 < value < 0.5 * 10**-digits:
        return f"<{10**-digits}"
    return format_value(value, digits)


def _difference(value: float, quantity: str) -> str:
    """Return a difference with its sign, to one digit more than the paper prints; nothing where there is none."""
    if math.isnan(value):
        return ""
    text = f"{value:+.{0 if quantity in COSTS else 3}f}"
    return text if text.strip("+-0.") else text[1:]


def _agreement(table: pd.DataFrame, column: str) -> str:
    """Return how many of a column's metrics equal the paper's as printed, and which do not."""
    rows = table[~table["quantity"].isin(COSTS) & table[f"{column}_paper"].notna()]
    equal = [_number(row[column], "") == _number(row[f"{column}_paper"], "") for _, row in rows.iterrows()]
    others = [
        f"{row['dataset']} {row['quantity']}" for (_, row), same in zip(rows.iterrows(), equal, strict=True) if not same
    ]
    text = f"{_heading(column)}: {sum(equal)} of {len(equal)} metrics print as the paper's"
    return text + (f"; not {', '.join(others)}." if others else ".")


if __name__ == "__main__":
    run(main)
