"""Write the report: an HTML page that works offline, and a folder of pictures if they are too large to embed.

The page states whether visible-infrared image fusion helped object detection. It shows the tables of `reports.tables`,
a viewer of test images with ground-truth boxes and detections, objects gained and lost by fusion, charts, the
provenance of every number, and a list of the quantities that were not measured. Optional results that are not passed
are left out and listed there.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
from markupsafe import Markup

from pipeline.artefacts import read_json, write_text
from pipeline.corruptions import CORRUPTIONS
from pipeline.stage import InputError, run
from reports.collect import LATE, NO_IMAGES, Split, brought_rows, fused_variants, read_split, read_table, required
from reports.conditions import condition_facts
from reports.errors import confusion_table, error_facts, error_sentences, error_table, read_errors
from reports.page_charts import (
    average_chart,
    error_charts,
    fusion_charts,
    loss_charts,
    precision_charts,
    robustness_chart,
)
from reports.page_tables import (
    as_is_section,
    conditions_section,
    cost_section,
    detection_section,
    errors_section,
    fusion_section,
    size_section,
    size_table,
    truth_section,
)
from reports.render import printed, to_html
from reports.robustness import losses_block, losses_sentence, read_losses, robustness_facts, robustness_notes
from reports.runs import Run, check_runs, check_source, read_runs, read_significance, scores_table
from reports.scenes import (
    ImageStore,
    Pictures,
    choose_images,
    corruption_strip,
    gallery,
    read_pictures,
    scaled,
    viewer_images,
)
from reports.tables_layout import smoke_note
from reports.test_sets_layout import read_blocks
from reports.verdict import changes, leaders, not_measured, verdict

QUESTION = "Does visible-infrared image fusion help object detection?"
SUBTITLE = "The experiment of Table II of the FNet paper (arXiv 2411.04519), on the dataset {dataset}"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report of one run."""
    options = _parse(argv)
    split = read_split(options.split)
    table, facts = read_table(options.tables / "table2.csv")
    if facts["digest_test"] != split.dataset["split"]["digest_test"]:
        raise InputError(
            f"{options.tables / 'table2.csv'} and {split.file} disagree: digest_test differs; make the tables again"
        )
    variants = table["variant"].tolist()
    without_images = [name for name in variants if name in (*NO_IMAGES, *brought_rows(table))]
    methods = fused_variants(variants, without_images)
    fusion, fusion_facts = read_table(options.tables / "fusion.csv") if methods else (pd.DataFrame(), {})
    fused_facts = fusion_facts.get("fused", {})
    runs = read_runs(options.ap, variants)
    check_runs(runs, split)
    significance = read_significance(options.significance, split, runs) if options.significance else None
    images = _paths_by_name(options.images, "--images", [name for name in variants if name not in without_images])
    images |= dict.fromkeys(without_images, images["visible"])  # they have boxes but no images
    predictions = _path_by_name(options.predictions, "--predictions", variants)
    costs = {name: read_json(path) for name, path in _path_by_name(options.costs, "--costs").items()}
    losses = _path_by_name(options.losses, "--losses")
    detector_losses = _path_by_name(options.detector_losses, "--detector-losses")
    helps = read_json(options.helps) if options.helps else {}
    config = read_json(options.config_snapshot) if options.config_snapshot else {}

    lead = leaders(table)
    answer, trust = verdict(table, facts["dataset"], significance)
    trust = " ".join(filter(None, [smoke_note(facts), trust]))
    sizes = size_table(runs, variants)
    gains = changes(table, split.classes, lead, significance)
    tables = [detection_section(table, facts, split, runs, fused_facts, significance)]
    if options.truth_table:
        by_truth, truth_facts = _read_truth_table(options, table)
        tables.append(truth_section(by_truth, truth_facts))
        trust = f"{trust} {truth_facts['hangs']}"
    conditions = bool(significance and significance["conditions"])
    if significance and conditions:
        source = split.dataset.get("conditions", {}).get("source", "")
        tables.append(conditions_section(significance, condition_facts(facts, significance, source)))
    if options.errors:
        found = read_errors(options.errors, split, runs)
        kinds, kind_facts = error_table(found, variants), error_facts(found, split)
        words, drawn = error_sentences(kinds, lead, kind_facts["people"]), error_charts(kinds, confusion_table(runs))
        tables.append(errors_section(kinds, kind_facts, words, drawn))
    if len(sizes.columns) > 1:
        tables.append(size_section(sizes))
    if options.as_is_table:
        by_detector, as_is_facts = read_table(options.as_is_table, text=("variant", "against_bands"))
        if as_is_facts["digest_test"] != facts["digest_test"]:
            raise InputError(f"{options.as_is_table} belongs to another split than Table II; make the tables again")
        tables.append(as_is_section(by_detector, as_is_facts))
    if methods:
        tables.append(fusion_section(fusion, fusion_facts))
    if options.cost_table:
        cost, cost_facts = read_table(options.cost_table)
        own = [name for name in variants if name not in brought_rows(table)]
        if cost["variant"].tolist() != own:
            raise InputError(
                f"{options.cost_table} has the rows {', '.join(cost['variant'])}; expected {', '.join(own)}"
            )
        tables.append(cost_section(cost, cost_facts))
    robustness = read_losses(options.robustness, split, runs)
    test_sets = [block for file in options.test_set_tables for block in read_blocks(file)]
    best = lead.fused or variants[-1]
    pictures = read_pictures(split, images, predictions, without_images)
    store, shown = _draw_pictures(options, split.test, pictures, helps, best, robustness)
    insides = _insides(options.insides, store) if options.insides else None
    present = {
        "significance": significance is not None,
        "conditions": conditions,
        "errors": bool(options.errors),
        "helps": bool(helps),
        "costs": bool(costs),
        "robustness": bool(robustness),
        "test_sets": bool(test_sets),
    }
    left_out = [name for name in config.get("fusion", {}).get("methods", []) if name not in variants]
    uncosted = [name for name in methods if name not in costs or costs[name]["median_s"] is None]
    context = {
        "question": QUESTION,
        "subtitle": SUBTITLE.format(dataset=facts["dataset"]),
        "answer": answer,
        "trust": trust,
        "lead": lead,
        "changes": gains,
        "facts": facts,
        "fused": fused_facts,
        "tables": tables,
        "test_sets": test_sets,
        "charts": [
            average_chart(table, scores_table(runs), significance),
            *fusion_charts(table, fusion, costs),
            *(
                precision_charts(_read_curves(options.curves, split, runs), split.classes, variants)
                if options.curves
                else []
            ),
            *loss_charts(losses, detector_losses),
        ],
        "late": LATE in variants,
        "without_images": without_images,
        "best": best,
        **shown,
        **_robustness(robustness, split, variants, shown["strips"]),
        "insides": insides,
        "score": options.score,
        "least_score": options.least_score,
        "warnings": split.dataset.get("warnings", []),
        "not_measured": not_measured(table, facts, present, left_out, uncosted),
        "runs": [
            {"variant": run.variant, "seed": run.seed, "provenance": _indented(run.scores["provenance"])}
            for run in runs
        ],
        "config": _indented(config) if config else None,
    }
    write_text(options.output, to_html("page.html", context))
    store.finish()
    pictures_in = f", pictures in {store.folder}" if store.folder else ""
    logging.info("report: %s, %.1f MB%s", options.output, options.output.stat().st_size / 1e6, pictures_in)


def _robustness(
    kinds: Sequence[Mapping[str, Any]], split: Split, variants: Sequence[str], strips: Sequence[Any]
) -> dict[str, Any]:
    """Return the section on robustness for the template, kind by kind; `strips` are the pictures of each kind."""
    if not kinds:
        return {"robustness": [], "robustness_notes": []}
    facts = robustness_facts(kinds, split, variants)
    shown = [
        {
            "kind": losses["kind"],
            "about": CORRUPTIONS[losses["kind"]].about,
            "words": losses_sentence(losses),
            "strip": strip,
            "chart": robustness_chart(losses),
            "block": replace(block, frame=printed(block.frame, block.layout), notes=[]),
        }
        for losses, strip in zip(kinds, strips, strict=True)
        for block in [losses_block(losses, facts)]
    ]
    return {"robustness": shown, "robustness_notes": robustness_notes(facts)}


def _read_truth_table(options: argparse.Namespace, table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read Table II by label set; InputError if the averages of the chosen set are not those of Table II."""
    by_truth, facts = read_table(options.truth_table)
    # Columns that are all empty were read as numbers: a run without a fused variant has no verdict.
    verdicts = [name for name in by_truth.columns if name.startswith("verdict_")]
    by_truth[verdicts] = by_truth[verdicts].astype(object).fillna("")
    chosen = by_truth.set_index("variant")[f"AP_{facts['truth']}"]
    if not chosen.sub(table.set_index("variant")["Average"]).abs().lt(1e-9).all():
        raise InputError(
            f"{options.truth_table} and {options.tables / 'table2.csv'} disagree: AP_{facts['truth']} differs from "
            "Average; make the tables again"
        )
    return by_truth, facts


def _read_curves(file: Path, split: Split, runs: Sequence[Run]) -> pd.DataFrame:
    """Read the precision-recall curves; InputError if they are not of the labels and predictions of `runs`."""
    curves, facts = read_table(file, text=("class",))
    labels, predictions = (required(facts, key, file) for key in ("labels", "predictions"))
    check_source(file, "detection.errors", labels, predictions, split, runs)
    return curves


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reports.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs = {"nargs": "+", "default": [], "metavar": "NAME=PATH"}
    parser.add_argument("--tables", type=Path, required=True, help="output folder of reports.tables")
    parser.add_argument("--split", type=Path, required=True, help="folder of the prepared split")
    parser.add_argument("--images", **pairs, required=True, help="VARIANT=FOLDER; a variant may have several folders")
    parser.add_argument("--ap", type=Path, nargs="+", required=True, help="ap.json of every variant and seed")
    parser.add_argument("--predictions", **pairs, required=True, help="VARIANT=predictions.json, drawn in the viewer")
    parser.add_argument("--losses", **pairs, help="METHOD=losses.csv of a method's training")
    parser.add_argument("--detector-losses", **pairs, help="VARIANT=results.csv of a detector's training")
    parser.add_argument("--costs", **pairs, help="METHOD=cost.json of fusion.cost")
    parser.add_argument("--helps", type=Path, help="helps.json: objects gained (found) and lost by each fused variant")
    parser.add_argument("--significance", type=Path, help="significance.json: intervals and paired comparisons")
    parser.add_argument("--errors", type=Path, help="errors.json of detection.errors: the error types")
    parser.add_argument("--curves", type=Path, help="pr_curves.csv of detection.errors: precision-recall curves")
    parser.add_argument("--cost-table", type=Path, help="cost.csv of reports.costs")
    parser.add_argument("--truth-table", type=Path, help="table2_truth.csv, if there are several label sets")
    parser.add_argument("--as-is-table", type=Path, help="table2_as_is.csv: detectors that were not retrained")
    parser.add_argument(
        "--robustness",
        type=Path,
        nargs="*",
        default=[],
        help="losses.json of detection.losses for every kind of corruption",
    )
    parser.add_argument("--insides", type=Path, help="output folder of fusion.explain for one test pair")
    parser.add_argument(
        "--test-set-tables", type=Path, nargs="*", default=[], help="table1.csv and table3.csv of reports.test_sets"
    )
    parser.add_argument("--config-snapshot", type=Path, help="the run's full configuration (JSON), shown on the page")
    parser.add_argument(
        "--scenes", type=int, default=6, help="number of test images in the viewer (default: %(default)s)"
    )
    parser.add_argument(
        "--crops",
        type=int,
        default=3,
        help="number of gained and of lost objects shown per variant (default: %(default)s)",
    )
    parser.add_argument(
        "--score",
        type=float,
        default=0.25,
        help="detections below this score are initially hidden (default: %(default)s)",
    )
    parser.add_argument(
        "--least-score",
        type=float,
        default=0.05,
        help="detections below this score are left out (default: %(default)s)",
    )
    parser.add_argument(
        "--image-width",
        type=int,
        default=640,
        help="width in pixels to which wider images are scaled down (default: %(default)s)",
    )
    parser.add_argument(
        "--embed-mb",
        type=float,
        default=8,
        help="embed the pictures in the page up to this total size in MB, else write them to a folder next to it "
        "(default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the page, such as results/report.html")
    return parser.parse_args(argv)


def _draw_pictures(
    options: argparse.Namespace,
    names: Sequence[str],
    pictures: Pictures,
    helps: Mapping[str, Mapping[str, Any]],
    best: str,
    robustness: Sequence[Mapping[str, Any]],
) -> tuple[ImageStore, dict[str, Any]]:
    """Return the store of the page's pictures and, for the template, the viewer's images and the gallery.

    The pictures are embedded in the page if they are small enough, else written to a folder next to it. `names` are the
    test images. After the chosen images, the viewer shows the images of objects in the gallery that `best` gained or
    lost.
    For each kind of `robustness`, `strips` show the first chosen image at the kind's levels.
    """
    chosen = choose_images([name for name in names if pictures.boxes[name]], options.scenes)
    for store in (ImageStore(), ImageStore(options.output.with_name(f"{options.output.stem}_images"))):
        crops = gallery(pictures, helps, options.crops, store)
        shown_objects = [
            item["image"]
            for entry in crops
            if entry["variant"] == best
            for kind in ("found", "lost")
            for item in entry[kind]["objects"]
        ]
        extra = [name for name in dict.fromkeys(shown_objects) if name not in chosen]
        scenes = viewer_images(pictures, chosen + extra, options.least_score, options.image_width, store)
        strips = [
            corruption_strip(pictures, name, losses["kind"], losses["levels"], store)
            for losses in robustness
            for name in chosen[:1]
        ]
        if store.folder or store.total <= 1e6 * options.embed_mb:
            break
    viewer = {"variants": list(pictures.files), "classes": pictures.classes, "best": best, "scenes": scenes}
    shown = {"scenes": scenes, "extra": len(extra), "gallery": crops, "viewer": _script_json(viewer)}
    return store, {**shown, "strips": strips or [[] for _ in robustness]}


def _insides(folder: Path, images: ImageStore) -> dict[str, Any]:
    """Return FNet's insides for the template: the sheets, and the sparsity of each sparse code as a text."""
    facts = read_json(folder / "insides.json")
    silent = {name: code["silent_share"][-1] for name, code in facts["codes"].items()}
    sheets = {
        "reconstructions": "Contribution of each sparse code to the fused luma",
        "features": "Sparse codes: mean magnitude over the filters, and the strongest filters",
        "iterations": "Threshold, momentum and sparsity of each code, by step of the block",
    }
    pictures = {name: cv2.imread(str(folder / f"{name}.png")) for name in sheets}  # drawn with an alpha channel
    if missing := [name for name, picture in pictures.items() if picture is None]:
        raise InputError(f"{folder} lacks {missing[0]}.png; expected the output of fusion.explain")
    shown = []
    for name, title in sheets.items():
        picture = scaled(cv2.cvtColor(pictures[name], cv2.COLOR_BGR2RGB), 1400)
        shown.append((title, images.add(picture), *picture.shape[1::-1]))
    return {
        "name": facts["provenance"]["name"],
        "silent": ", ".join(f"{name} {100 * share:.0f} %" for name, share in silent.items()),
        "sheets": shown,
    }


def _script_json(value: Any) -> Markup:
    """Return JSON that is safe inside a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _path_by_name(pairs: Sequence[str], option: str, names: Sequence[str] | None = None) -> dict[str, Path]:
    """Return the first path of each name."""
    return {name: paths[0] for name, paths in _paths_by_name(pairs, option, names).items()}


def _paths_by_name(pairs: Sequence[str], option: str, names: Sequence[str] | None = None) -> dict[str, list[Path]]:
    """Return NAME=PATH arguments as paths by name, in the order of `names`, all of which are required."""
    found: dict[str, list[Path]] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise InputError(f"{option} {pair!r}: expected NAME=PATH")
        found.setdefault(name, []).append(Path(path))
    if names is None:
        return found
    for name in names:
        if name not in found:
            raise InputError(f"{option}: no path for variant {name!r}; expected {name}=PATH")
    for name in found:
        if name not in names:
            raise InputError(f"{option}: found {name!r}; expected a variant of the table ({', '.join(names)})")
    return {name: found[name] for name in names}


if __name__ == "__main__":
    run(main)
