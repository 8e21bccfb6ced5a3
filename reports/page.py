"""Write the report: one HTML page that needs no network, and nothing beside it unless its pictures outgrow it.

The page states whether fusing helped the detector, shows the tables as `reports.tables` wrote them, a viewer over test
scenes with truth and detections, objects that fusing found and lost, charts, and where every number comes from and
what was not measured. What was not handed over is left out and listed as not measured.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.stats import permutation_test, spearmanr

from pipeline.artefacts import read_csv, read_json, write_text
from pipeline.stage import InputError, run
from reports import charts, collect, test_sets
from reports.collect import BANDS, LATE, Split
from reports.render import Layout, format_value, printed, rank_marks
from reports.scenes import Images, choose_scenes, gallery, read_pictures, scaled, viewer_scenes
from reports.tables import (
    detection_cells,
    detection_layout,
    detection_notes,
    fusion_layout,
    fusion_notes,
    metric_directions,
)

TITLE = "Does fusion help the detector?"

TIES = "≈: Average is not shown to differ from the best one's at 95 % (paired bootstrap; {})."

SEEDS_BELOW = "Below an average: the lowest to the highest seed."

# Below this mean average precision a detector finds next to nothing, and differences say nothing about its images.
LEARNED = 0.05


def verdict(table: pd.DataFrame, dataset: str, significance: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Return the answer in one sentence and, in another, how far it can be trusted.

    The best fused variant is compared with the better single band, by Average at the printed precision.
    `significance` is what detection.significance wrote, if it ran.
    """
    average = table.set_index("variant")["Average"].round(3).dropna()
    bands = average[[name for name in average.index if name in BANDS]]
    fused = average[[name for name in average.index if name not in (*BANDS, LATE)]]
    if bands.empty or fused.empty:
        return "This run cannot say: it has no score for a single band, or none for a fused variant.", ""
    if average.max() < LEARNED:
        return f"This run cannot say: no detector has learned, the best reached {average.max():.3f}.", ""
    band, method = bands.idxmax(), fused.idxmax()
    gain = round(float(fused[method] - bands[band]), 3)
    compared = comparison(significance, method, band) if significance else None
    chance = ", which chance can explain" if gain and compared is not None and not compared["different"] else ""
    said = "Fusion scored higher" if gain > 0 else "Fusion scored lower" if gain < 0 else "Fusion made no difference"
    answer = (
        f"{said} on {dataset}: the best fused variant, {method}, reached a mean average precision of "
        f"{fused[method]:.3f}; the better single band, {band}, {bands[band]:.3f} ({gain:+.3f}{chance})."
    )
    above = int((fused > bands[band]).sum())
    trust = f"{above} of {len(fused)} fused variants scored above {band}. "
    if LATE in average:
        trust += f"Pooling the boxes of both bands' detectors, without fusing any image, reached {average[LATE]:.3f}. "
    rows = table.set_index("variant")
    seeds = int(rows["seeds"].min())
    if compared is not None:
        low, high = compared["low"], compared["high"]
        told = "can be told from chance" if compared["different"] else "cannot be told from chance"
        trust += (
            f"The difference between {method} and {band} {told}: its 95 % interval by itself is {low:+.3f} to "
            f"{high:+.3f}, p {printed_p(compared['p_holm'])} after correction for all comparisons "
            f"({significance['method']}, {significance['samples']} draws). A best of several flatters its winner."
        )
    elif seeds > 1:
        apart = rows.at[method, "Average_low"] > rows.at[band, "Average_high"]
        apart |= rows.at[method, "Average_high"] < rows.at[band, "Average_low"]
        trust += (
            f"Over {seeds} seeds the two ranges {'do not overlap' if apart else 'overlap'}; no interval over test "
            "images was computed, and a best of several flatters its winner."
        )
    if seeds == 1:
        trust += (
            "One seed: not known to be more than noise."
            if compared is None
            else " One seed: what training again would change is not in it."
        )
    return answer, trust


def comparison(significance: Mapping[str, Any], first: str, second: str) -> dict[str, Any] | None:
    """Return the comparison of two variants' averages, `first` less `second`; None where there is none."""
    for entry in significance["comparisons"]:
        if (entry["first"], entry["second"]) == (first, second):
            return dict(entry)
        if (entry["first"], entry["second"]) == (second, first):
            turned = {"difference": -entry["difference"], "low": -entry["high"], "high": -entry["low"]}
            return {**entry, "first": first, "second": second, **turned}
    return None


def tied_with_best(table: pd.DataFrame, significance: Mapping[str, Any] | None) -> set[str]:
    """Return the variants whose average is not shown to differ from the best one's, the best itself left out."""
    average = table.set_index("variant")["Average"].dropna()
    if not significance or average.empty:
        return set()
    best = average.idxmax()
    compared = {name: comparison(significance, best, name) for name in average.index if name != best}
    return {name for name, entry in compared.items() if entry is not None and not entry["different"]}


def printed_p(p: float) -> str:
    """Return a p value as it is printed, with two decimals."""
    return "< 0.01" if p < 0.01 else f"{p:.2f}"


def compared_rows(table: pd.DataFrame) -> tuple[str, str] | None:
    """Return the best fused variant and the better single band, by printed Average; None where one has no score."""
    average = table.set_index("variant")["Average"].round(3).dropna()
    bands = average[[name for name in average.index if name in BANDS]]
    fused = average[[name for name in average.index if name not in (*BANDS, LATE)]]
    return None if bands.empty or fused.empty else (str(fused.idxmax()), str(bands.idxmax()))


def changes(values: pd.DataFrame, columns: Sequence[str], pair: tuple[str, str] | None) -> list[tuple[str, float]]:
    """Return how the printed values of two rows of `values` differ in each column, largest gain first.

    Columns that are undefined for either are left out.
    """
    if pair is None:
        return []
    rows = values.set_index("variant")[list(columns)].round(3)
    difference = (rows.loc[pair[0]] - rows.loc[pair[1]]).dropna().sort_values(ascending=False, kind="stable")
    return [(str(name), round(float(value), 3)) for name, value in difference.items()]


def parts_table(runs: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return Average by condition of the scene and by size of the object, and the images of each condition.

    One row a variant, columns `variant`, the conditions, `small`, `medium`, `large`; means over the seeds, NaN where a
    seed has none. Columns that no run knows are left out.
    """
    images: dict[str, int] = {}
    rows = []
    for variant in variants:
        mine = [entry for entry in runs if entry["variant"] == variant]
        values: dict[str, list[float]] = {}
        for entry in mine:
            parts = {name: part["average"]["AP"] for name, part in entry.get("conditions", {}).items()}
            images |= {name: part["images"] for name, part in entry.get("conditions", {}).items()}
            sizes = {name: entry["average"].get(f"AP_{name}") for name in ("small", "medium", "large")}
            for name, value in (parts | {key: size for key, size in sizes.items() if size is not None}).items():
                values.setdefault(name, []).append(math.nan if value is None else value)
        means = {name: float(np.mean(found)) for name, found in values.items() if len(found) == len(mine)}
        rows.append({"variant": variant, **means})
    return pd.DataFrame(rows), images


def table_rows(
    table: pd.DataFrame,
    layout: Layout,
    tip: Callable[[str, str], Sequence[str]] = lambda row, column: (),
    tied: Collection[str] = (),
    below: Mapping[str, Sequence[str]] | None = None,
) -> list[list[dict[str, Any]]]:
    """Return a table's cells for the template: printed text, mark, the full value to sort by, and what hovering says.

    `tip` adds lines to what hovering says, given the row's name and the column's. `tied` names the rows whose Average
    is marked as not shown to differ from the best. `below` holds a small second line for the cells of some columns.
    """
    cells, marks = printed(table, layout), rank_marks(table, layout)
    return [
        [
            {
                "text": cells.at[row, name],
                "mark": marks.at[row, name],
                "words": name not in layout.digits,
                "below": below[name][row] if below and name in below else "",
                "tied": name == "Average" and table.iat[row, 0] in tied,
                "full": _full(table.at[row, name]),
                "tip": "\n".join([_digits(table.at[row, name]), *tip(str(table.iat[row, 0]), name)]),
            }
            for name in layout.columns
        ]
        for row in range(len(table))
    ]


def detection_tip(
    scores: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
    fused: Mapping[str, Mapping[str, Any]],
    significance: Mapping[str, Any] | None = None,
) -> Callable[[str, str], list[str]]:
    """Return what hovering over Table II adds: over a row's name its provenance, over a number seeds and interval."""
    known = significance["variants"] if significance else {}
    values = dict(iter(scores.groupby(["variant", "class"], sort=False)))

    def tip(variant: str, column: str) -> list[str]:
        if column == "variant":
            lines = [f"{key}: {str(value)[:70]}" for key, value in list(fused.get(variant, {}).items())[:6]]
            for entry in runs:
                if entry["variant"] == variant:
                    facts = entry["provenance"]
                    digests = (f"{key} {str(facts[key])[:12]}" for key in ("weights", "training") if key in facts)
                    lines.append(f"detector, seed {entry['seed']}: {', '.join(digests)}")
            return lines
        if (variant, column) not in values:
            return []
        rows = values[variant, column]
        lines = [f"seed {seed}: {_digits(value)}" for seed, value in zip(rows["seed"], rows["AP"], strict=True)]
        bounds = known.get(variant, {}).get(column, {})
        if bounds.get("low") is not None:
            lines.append(f"95 % interval: {bounds['low']:.3f} to {bounds['high']:.3f}")
        return lines

    return tip


def rank_correlations(points: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return Spearman's rank correlation of each fusion metric with Average, over the methods that have both.

    Its p is two-sided: over all orders of the methods where those are at most 8, else over 9,999 drawn ones. NaN where
    fewer than three methods have both, or all values of one are alike.
    """
    listed = []
    for metric in metrics:
        both = points[[metric, "Average"]].dropna()
        rho = p = math.nan
        if len(both) >= 3 and both.nunique().min() > 1:
            average = both["Average"].to_numpy()
            rho = float(spearmanr(both[metric], average).statistic)
            p = float(
                permutation_test(
                    (both[metric].to_numpy(),),
                    lambda values: spearmanr(values, average).statistic,  # noqa: B023
                    permutation_type="pairings",
                    n_resamples=math.factorial(8) if len(both) <= 8 else 9999,
                    random_state=np.random.default_rng(0),
                ).pvalue
            )
        listed.append({"metric": metric, "methods": len(both), "rho": rho, "p": p})
    return listed


def correlation_sentence(correlations: Sequence[Mapping[str, Any]]) -> str:
    """Return, in words, whether the fusion metrics of this run predict the detector's score."""
    known = [entry for entry in correlations if not math.isnan(entry["rho"])]
    if not known:
        return "Too few methods to correlate the fusion metrics with the detector's score: three are needed."
    count = max(entry["methods"] for entry in known)
    said = ", ".join(f"{e['metric'].replace('_', ' ')} {e['rho']:+.2f} (p {printed_p(e['p'])})" for e in known)
    sure = [entry["metric"] for entry in known if entry["p"] * len(known) < 0.05]
    told = (
        f"After correction for their number, {', '.join(sure)} can be told from no correlation."
        if sure
        else "None can be told from no correlation"
        + (f": {count} methods are too few for it." if count < 6 else ", after correction for their number.")
    )
    return f"Spearman's rank correlation with mAP over {count} methods: {said}. {told}"


def precision_curves(split: Split, predictions: Mapping[str, Path]) -> dict[str, dict[str, np.ndarray]]:
    """Return, for each class with boxes and each variant, the 101 interpolated precisions at an overlap of 0.5."""
    from detection.average_precision import score  # late: nothing else here needs pycocotools

    truth = read_json(split.file.with_name("truth_test.json"))
    curves: dict[str, dict[str, np.ndarray]] = {name: {} for name in split.classes}
    for variant, file in predictions.items():
        scores = score(truth, read_json(file))
        for index, name in enumerate(scores.classes):
            if scores.boxes[index]:
                curves[name][variant] = scores.precision[0, :, index, 0, -1]
    return {name: by_variant for name, by_variant in curves.items() if by_variant}


def average_bounds(table: pd.DataFrame, significance: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """Return Average's 95 % interval by variant; without `significance` its lowest and highest seed, if several."""
    if significance:
        bounds = {name: values["Average"] for name, values in significance["variants"].items()}
        return {name: (b["low"], b["high"]) for name, b in bounds.items() if b["low"] is not None}
    rows = table.dropna(subset=["Average_low", "Average_high"])
    return {row["variant"]: (row["Average_low"], row["Average_high"]) for _, row in rows.iterrows()}


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
    if int(table["seeds"].min()) == 1:
        listed.append("The spread between seeds: each detector was trained once.")
    if not present["significance"]:
        listed.append("Confidence intervals over test images, and tests of the differences between variants.")
    if not present["conditions"]:
        listed.append("Average precision by condition (day, night, fog, ...): all test images are scored together.")
    if not present["helps"]:
        listed.append("Which objects fusing found and lost: no list of them was given.")
    if not present["costs"]:
        listed.append("What each method costs in time and memory: in this run no cost was measured.")
    elif uncosted:
        listed.append(f"What these cost in time and memory: {', '.join(uncosted)}.")
    if not present["test_sets"]:
        listed.append("The fusion metrics on the paper's six test sets (Tables I and III): see config/table1.yaml.")
    empty = [name for name, count in facts["boxes"].items() if not count]
    if empty:
        listed.append(f"Average precision of {', '.join(empty)}: the test set has no box of it.")
    if "Average_paper" not in table:
        listed.append(f"Agreement with the paper: its Table II is on M3FD, this run on {facts['dataset']}.")
    listed.append("Fusion weights trained with other seeds: every method fused the pairs once.")
    return listed


def write_page(output: Path, context: Mapping[str, Any]) -> None:
    """Render the template into one file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(output, environment.get_template("page.html").render(context))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report of one run."""
    options = _parse(argv)
    split = collect.read_split(options.split)
    table, facts = _read_table(options.tables / "table2.csv")
    variants = table["variant"].tolist()
    methods = [variant for variant in variants if variant not in (*BANDS, LATE)]
    images = _paths_by_name(options.images, "--images", [variant for variant in variants if variant != LATE])
    if LATE in variants:
        images[LATE] = images["visible"]  # it has boxes and no images
    predictions = _first(_paths_by_name(options.predictions, "--predictions", variants))
    scores, _ = collect.read_scores(options.ap, variants, split)
    if facts["digest_test"] != split.dataset["split"]["digest_test"]:
        raise InputError(
            f"{options.tables / 'table2.csv'} and {split.file} disagree: digest_test; make the tables again"
        )
    helps = read_json(options.helps) if options.helps else {}
    significance = read_json(options.significance) if options.significance else None
    costs = {name: read_json(path) for name, path in _first(_paths_by_name(options.costs, "--costs", None)).items()}
    runs = [read_json(file) for file in options.ap]

    fusion, fusion_facts = _read_table(options.tables / "fusion.csv") if methods else (pd.DataFrame(), {})
    fused_facts = fusion_facts.get("fused", {})
    # The bounds stand below the averages: with columns of their own the table would be wider than the page.
    narrow, cells = detection_layout(table, split.classes, bounds=False), detection_cells(table)
    tied = tied_with_best(table, significance)
    beside = cells["Average_interval" if "Average_interval" in cells else "Average_seeds"].tolist()
    below = {"Average": beside, "variant": table["remark"].tolist() if "remark" in table else [""] * len(table)}
    tables = [
        _table_context(
            "table2",
            "Table II: the detector on each variant",
            table_rows(table, narrow, detection_tip(scores, runs, fused_facts, significance), tied, below),
            narrow,
            detection_notes(facts)
            + (["Below an average: its 95 % interval." if "Average_interval" in cells else SEEDS_BELOW] * any(beside))
            + ([TIES.format(significance["correction"])] if tied else []),
        )
    ]
    if methods:
        layout = fusion_layout(fusion, metric_directions(fusion_facts))
        heading = "Fusion metrics: the images of each method"
        notes = fusion_notes(fusion, fusion_facts)
        tables.append(_table_context("fusion", heading, table_rows(fusion, layout), layout, notes))
    parts, condition_images = parts_table(runs, variants)
    if len(parts.columns) > 1:
        tables.insert(1, _parts_context(parts, condition_images))
    test_sets = [block for file in options.test_set_tables for block in test_set_blocks(file)]

    pictures = read_pictures(split, images, predictions)
    with_boxes = [name for name in split.test if pictures.boxes[name]]
    scene_names, best = choose_scenes(with_boxes, options.scenes), _best_fused(table)
    for kept in (Images(), Images(options.output.with_name(f"{options.output.stem}_images"))):
        crops = gallery(pictures, helps, options.crops, kept)
        told = [item["image"] for kind in ("found", "lost") for item in _gallery_of(crops, best)[kind]["objects"]]
        telling = [name for name in dict.fromkeys(told) if name not in scene_names]
        scenes = viewer_scenes(pictures, scene_names + telling, options.least_score, options.image_width, kept)
        if kept.folder or kept.total <= 1e6 * options.embed_mb:
            break
    answer, trust = verdict(table, facts["dataset"], significance)
    config = read_json(options.config_snapshot) if options.config_snapshot else None
    chosen = config.get("fusion", {}).get("methods", []) if config else []
    context = {
        "title": TITLE,
        "answer": answer,
        "trust": trust,
        "changes": [
            (title, found)
            for title, found in (
                ("By class", changes(table, split.classes, compared_rows(table))),
                ("By condition", changes(parts, list(condition_images), compared_rows(table))),
            )
            if found
        ],
        "facts": facts,
        "fused": fused_facts,
        "tables": tables,
        "test_sets": test_sets,
        "charts": _charts(options, split, table, scores, fusion, costs, predictions, significance),
        "scenes": scenes,
        "telling": len(telling),
        "late": LATE in variants,
        "best": best,
        "viewer": _script_json(
            {
                "variants": variants,
                "classes": pictures.classes,
                "best": best,
                "scenes": scenes,
            }
        ),
        "gallery": crops,
        "insides": _insides(options.insides, kept) if options.insides else None,
        "score": options.score,
        "least_score": options.least_score,
        "warnings": split.dataset.get("warnings", []),
        "not_measured": not_measured(
            table,
            facts,
            {
                "significance": significance is not None,
                "conditions": bool(condition_images),
                "helps": bool(helps),
                "costs": bool(costs),
                "test_sets": bool(test_sets),
            },
            [name for name in chosen if name not in variants],
            [name for name in methods if name not in costs or costs[name]["median_s"] is None],
        ),
        "runs": [
            {
                "variant": entry["variant"],
                "seed": entry["seed"],
                "provenance": json.dumps(entry["provenance"], indent=2, ensure_ascii=False),
            }
            for entry in runs
        ],
        "config": json.dumps(config, indent=2, ensure_ascii=False) if config else None,
    }
    write_page(options.output, context)
    kept.finish()
    beside = f", its pictures in {kept.folder}" if kept.folder else ""
    logging.info("report: %s, %.1f MB%s", options.output, options.output.stat().st_size / 1e6, beside)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reports.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs = {"nargs": "+", "default": [], "metavar": "NAME=PATH"}
    parser.add_argument("--tables", type=Path, required=True, help="folder that reports.tables wrote")
    parser.add_argument("--split", type=Path, required=True, help="folder of the prepared split")
    parser.add_argument("--images", **pairs, required=True, help="VARIANT=FOLDER; a variant may come several times")
    parser.add_argument("--ap", type=Path, nargs="+", required=True, help="ap.json of every variant and seed")
    parser.add_argument("--predictions", **pairs, required=True, help="VARIANT=predictions.json that the viewer draws")
    parser.add_argument("--losses", **pairs, help="METHOD=losses.csv of a method that was trained")
    parser.add_argument("--detector-losses", **pairs, help="VARIANT=results.csv of a detector's training")
    parser.add_argument("--costs", **pairs, help="METHOD=cost.json of fusion.cost")
    parser.add_argument("--helps", type=Path, help="helps.json: objects that each fused variant found and lost")
    parser.add_argument("--significance", type=Path, help="significance.json: intervals and paired comparisons")
    parser.add_argument("--insides", type=Path, help="folder that fusion.explain wrote of one test pair")
    parser.add_argument(
        "--test-set-tables", type=Path, nargs="*", default=[], help="table1.csv, table3.csv of reports.test_sets"
    )
    parser.add_argument("--config-snapshot", type=Path, help="the run's whole configuration (JSON), to be shown")
    parser.add_argument("--scenes", type=int, default=6, help="test scenes in the viewer (default: %(default)s)")
    parser.add_argument(
        "--crops",
        type=int,
        default=3,
        help="objects found and lost that are shown of each variant (default: %(default)s)",
    )
    parser.add_argument(
        "--score",
        type=float,
        default=0.25,
        help="detections below this score are hidden at first (default: %(default)s)",
    )
    parser.add_argument(
        "--least-score",
        type=float,
        default=0.05,
        help="detections below this score are left out (default: %(default)s)",
    )
    parser.add_argument(
        "--image-width", type=int, default=640, help="pixels; wider scenes are scaled down (default: %(default)s)"
    )
    parser.add_argument(
        "--embed-mb",
        type=float,
        default=8,
        help="pictures up to so many megabytes stand in the page, more in a folder beside it (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the page, such as results/report.html")
    return parser.parse_args(argv)


def _charts(
    options: argparse.Namespace,
    split: Split,
    table: pd.DataFrame,
    scores: pd.DataFrame,
    fusion: pd.DataFrame,
    costs: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, Path],
    significance: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Return the charts for the template: title, SVG, what to read in it, and whether it takes the page's width."""
    several = int(table["seeds"].min()) > 1
    drawn = [
        {
            "title": "Average precision of each variant",
            "svg": charts.average_intervals(table, scores, average_bounds(table, significance)),
            "text": "Squares: single bands; diamonds: fused; dotted line: the better band."
            + (" Circle: both bands' boxes pooled." if LATE in set(table["variant"]) else "")
            + (" Bars: 95 % intervals." if significance else " Bars: lowest to highest seed." if several else "")
            + (" Rings: single seeds." if several else ""),
            "wide": False,
        }
    ]
    if not fusion.empty:
        points = fusion.merge(table[["variant", "Average"]], left_on="method", right_on="variant")
        metrics = [name for name in fusion if name not in ("method", "images") and not name.endswith("_undefined")]
        correlations = rank_correlations(points, metrics)
        titles = {
            entry["metric"]: f"rank correlation {entry['rho']:+.2f}"
            if not math.isnan(entry["rho"])
            else "too few methods"
            for entry in correlations
            if entry["metric"] in test_sets.METRICS
        }
        if costs:
            seconds = {name: math.nan if cost["median_s"] is None else cost["median_s"] for name, cost in costs.items()}
            device = next(iter(costs.values()))
            width, height = device["size"]
            where = (
                f"{width}x{height} on {device['device']}, {device['threads']} thread{'s' * (device['threads'] != 1)}"
            )
            drawn.append(
                {
                    "title": "Cost against quality",
                    "svg": charts.cost_against_average(points.assign(median_s=points["method"].map(seconds)), where),
                    "text": "Up and to the left is better. Time from sources in memory to the fused image in memory.",
                    "wide": False,
                }
            )
        if titles:
            drawn.append(
                {
                    "title": "Do the fusion metrics predict detection?",
                    "svg": charts.metrics_against_average(points, titles),
                    "text": correlation_sentence(correlations),
                    "wide": True,
                }
            )
    curves = precision_curves(split, predictions)
    if curves:
        drawn.append(
            {
                "title": "Precision against recall of each class, overlap 0.5",
                "svg": charts.precision_recall(curves, list(predictions)),
                "text": "One seed's detectors. Grey: single bands, infrared dotted.",
                "wide": True,
            }
        )
    trained = _first(_paths_by_name(options.losses, "--losses", None))
    for index, (name, path) in enumerate(trained.items()):
        svg = charts.loss_curves(read_csv(path)[0], f"losses{index}")
        drawn.append({"title": f"Training of {name}", "svg": svg, "text": "", "wide": False})
    detectors = _first(_paths_by_name(options.detector_losses, "--detector-losses", None))
    if detectors:
        svg = charts.detector_losses({name: read_csv(path)[0] for name, path in detectors.items()})
        drawn.append({"title": "Training of the detectors", "svg": svg, "text": "One seed.", "wide": False})
    return [chart | {"svg": Markup(chart["svg"])} for chart in drawn]


def _insides(folder: Path, images: Images) -> dict[str, Any]:
    """Return FNet's insides for the template: its sheets, and in words how much of each code is silent."""
    facts = read_json(folder / "insides.json")
    silent = {name: code["silent_share"][-1] for name, code in facts["codes"].items()}
    sheets = {
        "reconstructions": "What each code adds to the fused luma",
        "features": "The codes: mean magnitude over the filters, and the strongest filters",
        "iterations": "Threshold, momentum and silent share of every iteration",
    }
    pictures = {name: cv2.imread(str(folder / f"{name}.png")) for name in sheets}  # drawn with an alpha channel
    if missing := [name for name, picture in pictures.items() if picture is None]:
        raise InputError(f"{folder} lacks {missing[0]}.png; wanted what fusion.explain wrote")
    shown = []
    for name, title in sheets.items():
        picture = scaled(cv2.cvtColor(pictures[name], cv2.COLOR_BGR2RGB), 1400)
        shown.append((title, images.add(picture), *picture.shape[1::-1]))
    return {
        "name": facts["provenance"]["name"],
        "silent": ", ".join(f"{name} {100 * share:.0f} %" for name, share in silent.items()),
        "sheets": shown,
    }


def _gallery_of(crops: Sequence[Mapping[str, Any]], variant: str) -> Mapping[str, Any]:
    """Return a variant's found and lost objects; none where it has no entry."""
    none = {"objects": []}
    return next((entry for entry in crops if entry["variant"] == variant), {"found": none, "lost": none})


def _best_fused(table: pd.DataFrame) -> str:
    """Return the fused variant with the highest Average, or the last variant where none has one."""
    fused = table[~table["variant"].isin((*BANDS, LATE))].dropna(subset=["Average"])
    return str(fused.loc[fused["Average"].idxmax(), "variant"] if len(fused) else table["variant"].iloc[-1])


def test_set_blocks(file: Path) -> list[test_sets.Block]:
    """Return the printed parts of a table of test sets, from its CSV."""
    frame, facts = _read_table(file, text=("best", "tied"))
    after = frame.columns.get_loc("images")
    return test_sets.print_blocks(file.stem, frame, list(frame.columns[2:after]), {"definition": "", **facts})


def _table_context(
    identifier: str, heading: str, rows: list[list[dict[str, Any]]], layout: Layout, notes: list[str]
) -> dict[str, Any]:
    return {
        "id": identifier,
        "heading": heading,
        "columns": list(layout.columns.values()),
        "numeric": [name in layout.digits or name.endswith("_undefined") for name in layout.columns],
        "rows": rows,
        "notes": notes,
    }


def _parts_context(parts: pd.DataFrame, condition_images: Mapping[str, int]) -> dict[str, Any]:
    columns = [name for name in parts.columns if name != "variant"]
    layout = Layout(
        {"variant": "Variant"} | {c: c for c in columns}, dict.fromkeys(columns, 3), dict.fromkeys(columns, True)
    )
    notes = [
        "Average as in Table II, means over the seeds. Sizes are COCO's, by the true box: small below 32x32 pixels, "
        "large from 96x96."
    ]
    if condition_images:
        listed = ", ".join(f"{name} {count}" for name, count in condition_images.items())
        notes.append(f"Test images of each condition: {listed}.")
    heading = (
        "By condition and size: the detector on parts of the test set"
        if condition_images
        else "By size: the detector on small and large objects"
    )
    return _table_context("parts", heading, table_rows(parts, layout), layout, notes)


def _script_json(value: Any) -> Markup:
    """Return JSON that may stand inside a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _read_table(path: Path, text: Collection[str] = ()) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table of ours; facts that are JSON objects come back as such, and text columns as text.

    The first column is text; so are those named by `text`, which pandas takes for numbers where all cells are empty.
    """
    frame, facts = read_csv(path)
    for name in frame.columns:
        if name in (frame.columns[0], *text) or not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str)
    parsed = {
        key: json.loads(value) if value.startswith("{") and key != "split" else value for key, value in facts.items()
    }
    return frame, parsed


def _first(paths: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """Return the first path of each name."""
    return {name: found[0] for name, found in paths.items()}


def _paths_by_name(pairs: Sequence[str], option: str, names: Sequence[str] | None) -> dict[str, list[Path]]:
    """Return NAME=PATH arguments as paths by name, in the order of `names`, each of which must be there."""
    found: dict[str, list[Path]] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise InputError(f"{option} {pair!r}: wanted NAME=PATH")
        found.setdefault(name, []).append(Path(path))
    if names is None:
        return found
    for name in names:
        if name not in found:
            raise InputError(f"{option}: nothing for variant {name!r}; wanted {name}=PATH")
    for name in found:
        if name not in names:
            raise InputError(f"{option}: {name!r} is no variant of the table ({', '.join(names)})")
    return {name: found[name] for name in names}


def _digits(value: object) -> str:
    return format_value(value, 6)


def _full(value: object) -> str:
    if isinstance(value, str):
        return value
    return format_value(value, 0) if math.isnan(float(value)) else repr(float(value))


if __name__ == "__main__":
    run(main)
