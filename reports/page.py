"""Write the report: one HTML page that needs no network and nothing beside it.

The page states whether fusing helped the detector, shows the tables as `reports.tables` wrote them, charts, some test
scenes with truth and detections, and where every number comes from and what was not measured.
"""

import argparse
import base64
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import jinja2
import pandas as pd
from markupsafe import Markup

from fusion.artefacts import read_csv, read_json, write_text
from fusion.pairs import find_images, read_image
from fusion.stage import InputError, run
from reports import charts, collect
from reports.collect import BANDS, Split
from reports.render import Layout, format_value, printed, rank_marks
from reports.tables import detection_layout, detection_notes, fusion_layout, fusion_notes, metric_directions

TITLE = "Does fusion help the detector?"

# Below this mean average precision a detector finds next to nothing, and differences say nothing about its images.
LEARNED = 0.05


def verdict(table: pd.DataFrame, dataset: str) -> tuple[str, str]:
    """Return the answer in one sentence and, in another, how far it can be trusted.

    The best fused variant is compared with the better single band, by Average at the printed precision.
    """
    average = table.set_index("variant")["Average"].round(3).dropna()
    bands = average[[name for name in average.index if name in BANDS]]
    fused = average[[name for name in average.index if name not in BANDS]]
    if bands.empty or fused.empty:
        return "This run cannot say: it has no score for a single band, or none for a fused variant.", ""
    if average.max() < LEARNED:
        return f"This run cannot say: no detector has learned, the best reached {average.max():.3f}.", ""
    band, method = bands.idxmax(), fused.idxmax()
    gain = round(float(fused[method] - bands[band]), 3)
    said = "Fusion scored higher" if gain > 0 else "Fusion scored lower" if gain < 0 else "Fusion made no difference"
    answer = (
        f"{said} on {dataset}: the best fused variant, {method}, reached a mean average precision of "
        f"{fused[method]:.3f}; the better single band, {band}, {bands[band]:.3f} ({gain:+.3f})."
    )
    above = int((fused > bands[band]).sum())
    trust = f"{above} of {len(fused)} fused variants scored above {band}. "
    rows = table.set_index("variant")
    seeds = int(rows["seeds"].min())
    if seeds == 1:
        trust += "One seed: not known to be more than noise."
    else:
        apart = rows.at[method, "Average_low"] > rows.at[band, "Average_high"]
        apart |= rows.at[method, "Average_high"] < rows.at[band, "Average_low"]
        trust += (
            f"Over {seeds} seeds the two ranges {'do not overlap' if apart else 'overlap'}; no interval over test "
            "images was computed, and a best of several flatters its winner."
        )
    return answer, trust


def choose_scenes(names: Sequence[str], count: int) -> list[str]:
    """Return `count` names spread over the sorted list: of each equal stretch, the one with the smallest digest.

    The digest is of the name alone, so the choice knows nothing of any result, and unlike a fixed stride it does not
    fall into step with a data set whose conditions repeat.
    """
    names = sorted(names)
    if not names or count < 1:
        return []
    count = min(count, len(names))
    bounds = [round(index * len(names) / count) for index in range(count + 1)]
    stretches = [names[start:end] for start, end in pairwise(bounds)]
    return [min(stretch, key=lambda name: hashlib.sha256(name.encode()).hexdigest()) for stretch in stretches]


def image_data(path: Path, width: int) -> tuple[str, int, int]:
    """Return an image as a WebP data URI, at most `width` pixels wide, and its original width and height."""
    image = read_image(path)
    original_height, original_width = image.shape[:2]
    if original_width > width:
        size = (width, max(1, round(original_height * width / original_width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 78])
    assert ok, f"OpenCV cannot encode {path} as WebP"
    return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}", original_width, original_height


def gallery(
    split: Split,
    count: int,
    images: Mapping[str, Sequence[Path]],
    predictions: Mapping[str, Path],
    score: float,
    width: int,
) -> list[dict[str, Any]]:
    """Return scenes for the template: each with its panes, one a variant, and the boxes to draw on them.

    Scenes are drawn from the test images that hold a box: an empty one shows nothing about a detector.

    Raises:
        InputError: a scene's image is missing, or a predictions file is no list of COCO results of this split.
    """
    truth_file = split.file.with_name("truth_test.json")
    truth = read_json(truth_file)
    ids = {entry["file_name"]: entry["id"] for entry in truth["images"]}
    classes = {entry["id"]: entry["name"] for entry in truth["categories"]}
    missing = [name for name in split.test if name not in ids]
    if missing:
        raise InputError(f"{truth_file} has no image {missing[0]!r}, which test.txt names")
    with_boxes = {entry["image_id"] for entry in truth["annotations"]}
    scenes = choose_scenes([name for name in split.test if ids[name] in with_boxes], count)
    wanted = {ids[name] for name in scenes}
    found = {variant: _detections(file, wanted, classes, score) for variant, file in predictions.items()}
    files = {variant: find_images(folders) for variant, folders in images.items()}
    shown = []
    for name in scenes:
        boxes = [
            {"box": entry["bbox"], "label": classes[entry["category_id"]]}
            for entry in truth["annotations"]
            if entry["image_id"] == ids[name]
        ]
        panes = []
        for variant in images:
            if name not in files[variant]:
                raise InputError(f"{', '.join(map(str, images[variant]))} has no image {name!r} of variant {variant!r}")
            data, image_width, image_height = image_data(files[variant][name], width)
            text_size = round(0.034 * image_width, 1)
            detections = [item | _label(item, text_size, image_width) for item in found[variant].get(ids[name], [])]
            panes.append(
                {
                    "variant": variant,
                    "data": data,
                    "width": image_width,
                    "height": image_height,
                    "text_size": text_size,
                    "detections": detections,
                }
            )
        shown.append({"name": name, "truth": boxes, "panes": panes})
    return shown


def table_rows(table: pd.DataFrame, layout: Layout) -> list[list[dict[str, str]]]:
    """Return a table's cells for the template: printed text, mark, and the full value to sort by and to hover."""
    cells, marks = printed(table, layout), rank_marks(table, layout)
    return [
        [
            {
                "text": cells.at[row, name],
                "mark": marks.at[row, name],
                "full": _full(table.at[row, name]),
                "numeric": not isinstance(table.at[row, name], str),
            }
            for name in layout.columns
        ]
        for row in range(len(table))
    ]


def not_measured(table: pd.DataFrame, facts: Mapping[str, Any]) -> list[str]:
    """Return, one sentence each, what a reader might take for measured and is not."""
    listed = []
    if int(table["seeds"].min()) == 1:
        listed.append("The spread between seeds: each detector was trained once.")
    listed.append("Confidence intervals over test images, and tests of the differences between variants.")
    listed.append("Average precision by condition (day, night, fog, ...): all test images are scored together.")
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
    parser = argparse.ArgumentParser(
        prog="python -m reports.page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs = {"nargs": "+", "default": [], "metavar": "NAME=PATH"}
    parser.add_argument("--tables", type=Path, required=True, help="folder that reports.tables wrote")
    parser.add_argument("--split", type=Path, required=True, help="folder of the prepared split")
    parser.add_argument("--images", **pairs, required=True, help="VARIANT=FOLDER; a variant may come several times")
    parser.add_argument("--ap", type=Path, nargs="+", required=True, help="ap.json of every variant and seed")
    parser.add_argument("--predictions", **pairs, required=True, help="VARIANT=predictions.json that the gallery draws")
    parser.add_argument("--losses", **pairs, help="METHOD=losses.csv of a method that was trained")
    parser.add_argument("--config-snapshot", type=Path, help="the run's whole configuration (JSON), to be shown")
    parser.add_argument("--scenes", type=int, default=6, help="test scenes in the gallery (default: %(default)s)")
    parser.add_argument(
        "--score", type=float, default=0.25, help="detections below this score are not drawn (default: %(default)s)"
    )
    parser.add_argument(
        "--image-width",
        type=int,
        default=480,
        help="pixels; wider gallery images are scaled down (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the page, such as results/report.html")
    options = parser.parse_args(argv)

    split = collect.read_split(options.split)
    table, facts = _read_table(options.tables / "table2.csv")
    variants = table["variant"].tolist()
    methods = [variant for variant in variants if variant not in BANDS]
    images = _paths_by_name(options.images, "--images", variants)
    predictions = _paths_by_name(options.predictions, "--predictions", variants)
    losses = {name: paths[0] for name, paths in _paths_by_name(options.losses, "--losses", None).items()}
    scores, _ = collect.read_scores(options.ap, variants, split)
    if facts["digest_test"] != split.dataset["split"]["digest_test"]:
        raise InputError(
            f"{options.tables / 'table2.csv'} and {split.file} disagree: digest_test; make the tables again"
        )

    tables = [
        _table_context(
            "table2", "Table II: the detector on each variant", table, detection_layout(table, split.classes)
        )
    ]
    tables[0]["notes"] = detection_notes(facts)
    fusion_facts: dict[str, Any] = {}
    if methods:
        fusion, fusion_facts = _read_table(options.tables / "fusion.csv")
        layout = fusion_layout(fusion, metric_directions())
        tables.append(_table_context("fusion", "Fusion metrics: the images of each method", fusion, layout))
        tables[1]["notes"] = fusion_notes(fusion, fusion_facts)

    answer, trust = verdict(table, facts["dataset"])
    curves = {name: read_csv(path)[0] for name, path in losses.items()}
    runs = [(file, read_json(file)) for file in options.ap]
    context = {
        "title": TITLE,
        "answer": answer,
        "trust": trust,
        "facts": facts,
        "fused": fusion_facts.get("fused", {}),
        "tables": tables,
        "bars": Markup(charts.average_bars(table, scores)),
        "losses": [
            (name, Markup(charts.loss_curves(frame, f"losses{index}")))
            for index, (name, frame) in enumerate(curves.items())
        ],
        "scenes": gallery(
            split,
            options.scenes,
            images,
            {variant: paths[0] for variant, paths in predictions.items()},
            options.score,
            options.image_width,
        ),
        "score": options.score,
        "colours": {name: charts.PALETTE[index % len(charts.PALETTE)] for index, name in enumerate(split.classes)},
        "warnings": split.dataset.get("warnings", []),
        "not_measured": not_measured(table, facts),
        "runs": [
            {
                "variant": scores["variant"],
                "seed": scores["seed"],
                "provenance": json.dumps(scores["provenance"], indent=2, ensure_ascii=False),
            }
            for _, scores in runs
        ],
        "config": json.dumps(read_json(options.config_snapshot), indent=2, ensure_ascii=False)
        if options.config_snapshot
        else None,
    }
    write_page(options.output, context)
    logging.info("report: %s, %.1f MB", options.output, options.output.stat().st_size / 1e6)


def _table_context(identifier: str, heading: str, table: pd.DataFrame, layout: Layout) -> dict[str, Any]:
    return {
        "id": identifier,
        "heading": heading,
        "columns": list(layout.columns.values()),
        "rows": table_rows(table, layout),
    }


def _read_table(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table of `reports.tables`; facts that are JSON objects come back as such, and text columns as text."""
    frame, facts = read_csv(path)
    frame[frame.columns[0]] = frame[frame.columns[0]].astype(str)
    parsed = {
        key: json.loads(value) if value.startswith("{") and key != "split" else value for key, value in facts.items()
    }
    return frame, parsed


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


def _detections(file: Path, wanted: set[int], classes: Mapping[int, str], score: float) -> dict[int, list[dict]]:
    """Return the detections of the wanted images with at least `score`, by image id, most certain last (on top)."""
    results = read_json(file)
    found: dict[int, list[dict]] = {}
    try:
        for entry in sorted(results, key=lambda entry: entry["score"]):
            if entry["image_id"] in wanted and entry["score"] >= score:
                label = classes[entry["category_id"]]
                box = [float(value) for value in entry["bbox"]]
                found.setdefault(entry["image_id"], []).append({"box": box, "label": label, "score": entry["score"]})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is no list of COCO results of this split ({type(error).__name__}: {error})") from None
    return found


def _label(item: Mapping[str, Any], size: float, image_width: int) -> dict[str, Any]:
    """Return a detection's text and where it stands: above its box, or below it at the image's upper edge."""
    text = f"{item['label']} {item['score']:.2f}"
    left, top, _, height = item["box"]
    left = max(0.0, min(left, image_width - 0.6 * size * len(text)))
    top = top - 0.3 * size if top > 1.2 * size else top + height + size
    return {"text": text, "text_x": round(left, 1), "text_y": round(top, 1)}


def _full(value: object) -> str:
    if isinstance(value, str):
        return value
    return format_value(value, 0) if math.isnan(float(value)) else repr(float(value))


if __name__ == "__main__":
    run(main)
