"""Score fused images against their sources: one CSV per fused folder, one row per image, and the mean row.

Images are matched by file stem. A fused folder must contain one image for each pair and no other image; with `--names`,
one for each name of the list. If a fused folder has a `manifest.csv`, its digests are checked against the files.
Finished rows are kept in a file next to the output until the end, so that an evaluation that was killed resumes from
them.
"""

import argparse
import contextlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from fusion.metrics import CONVENTIONS, EXTRA, METRICS, REVISION, find_convention, luma, prepare, score
from fusion.metrics.conventions import convention_facts
from fusion.own.metric import OwnMetric, read_own_metric
from pipeline import artefacts
from pipeline.colour import inspect_bands
from pipeline.pairs import Bands, Pair, add_band_options, find_images, find_pairs, given_bands, read_image, read_names
from pipeline.planning.own import WATCH_HELP
from pipeline.stage import InputError, Progress, check_memory, run, some_of, threads_available

PACKAGES = ("numpy", "numba", "opencv-python-headless")  # packages that METRICS are computed with
EXTRA_PACKAGES = (*PACKAGES, "scipy")  # packages that METRICS and EXTRA are computed with


@dataclass(frozen=True)
class FusedFolder:
    """One method's fused images by name, the digests in its manifest, and the CSV file to write."""

    folder: Path
    images: dict[str, Path]
    output: Path
    manifest: dict[str, str] | None  # by file name; None: the folder has no manifest
    facts: dict[str, str] = field(default_factory=dict)  # the facts in the manifest's head


@dataclass(frozen=True)
class Row:
    """One image's scores and the digests of the files that they were computed from."""

    name: str
    digests: tuple[str, str, str]  # visible, infrared, fused
    scores: dict[str, float]


def open_folder(folder: Path, output: Path, pairs: Sequence[Pair], exact: bool, suffix: str = "") -> FusedFolder:
    """List a fused folder and check that it contains an image for every pair and, if `exact`, no other image.

    `suffix` is removed from the end of the fused files' stems.

    Raises:
        InputError: an image is missing or surplus, or the manifest does not list one of them.
    """
    images, names = find_images(folder, suffix), [pair.name for pair in pairs]
    missing = [name for name in names if name not in images]
    if missing:
        raise InputError(f"{folder} lacks {some_of(missing)}; expected a fused image for each of {len(names)} pairs")
    surplus = sorted(images.keys() - set(names))
    if exact and surplus:
        raise InputError(
            f"{folder} has images without a pair: {some_of(surplus)}; expected one image for each pair and no other"
        )
    manifest, facts = None, {}
    path = folder / "manifest.csv"
    if path.exists():
        frame, facts = artefacts.read_csv(path)
        if not {"file", "sha256"} <= set(frame.columns):
            raise InputError(f"{path} has the columns {', '.join(map(str, frame.columns))}; expected file and sha256")
        manifest = dict(zip(frame["file"].astype(str), frame["sha256"].astype(str), strict=True))
        for name in names:
            if images[name].name not in manifest:
                raise InputError(f"{path} does not list {images[name].name}; expected every image of {folder}")
    return FusedFolder(folder, {name: images[name] for name in names}, output, manifest, facts)


def score_pair(
    pair: Pair,
    folders: Sequence[FusedFolder],
    convention: str,
    own: Sequence[OwnMetric],
    finished: Sequence[Mapping[str, Row]],
    extra: Sequence[str] = (),
) -> list[Row]:
    """Return a pair's row for each folder: the finished row if all three files are unchanged, else a new one.

    Raises:
        InputError: a file is unreadable, differs in size from the visible image, or its digest differs from the
            manifest's.
    """
    of_sources = artefacts.sha256_file(pair.visible), artefacts.sha256_file(pair.infrared)
    sources, rows = None, []
    for folder, known in zip(folders, finished, strict=True):
        path = folder.images[pair.name]
        digests = (*of_sources, artefacts.sha256_file(path))
        if folder.manifest is not None and folder.manifest[path.name] != digests[2]:
            raise InputError(
                f"{path} has SHA-256 {digests[2][:12]}..., expected {folder.manifest[path.name][:12]}... as in "
                f"{folder.folder / 'manifest.csv'}: it was changed after fusion"
            )
        if pair.name in known and known[pair.name].digests == digests:
            rows.append(known[pair.name])
            continue
        if sources is None:
            visible, infrared = _read(pair.visible), _read(pair.infrared, pair.infrared_range)
            _check_same_size(pair.infrared, infrared, pair.visible, visible)
            sources = prepare(visible, infrared, convention)
        # With a range of counts, the infrared image itself may be scored as a fused image.
        is_source = pair.infrared_range is not None and path.samefile(pair.infrared)
        fused = _read(path, pair.infrared_range if is_source else None)
        _check_same_size(path, fused, pair.visible, sources.visible)
        scores = score(sources, fused, [*METRICS, *extra])
        scores |= {metric.name: metric.of(sources.visible, sources.infrared, fused, pair.name) for metric in own}
        rows.append(Row(pair.name, digests, scores))
    return rows


def evaluate(
    pairs: Sequence[Pair],
    folders: Sequence[FusedFolder],
    convention: str,
    workers: int,
    own: Sequence[OwnMetric] = (),
    bands: Bands = Bands(),  # noqa: B008  # frozen
    extra: Sequence[str] = (),
) -> list[list[Row]]:
    """Score every pair's fused images on `workers` threads and return the rows of each folder, in the pairs' order.

    Every table has the columns of METRICS; `extra` names the metrics of EXTRA that are scored in addition.
    Each finished row is appended to a file next to the output, from which the next call resumes.
    """
    names = [*METRICS, *extra, *(metric.name for metric in own)]
    described = [metric.describe() for metric in own]
    settings = artefacts.sha256_json(
        {
            "convention": convention_facts(convention),
            "revision": [*METRICS, *extra, REVISION],
            "own": described,
            "versions": artefacts.versions(*(EXTRA_PACKAGES if extra else PACKAGES)),
            **bands.facts(),
        }
    )
    partials = [_partial_path(folder.output) for folder in folders]
    finished = [_read_partial(path, settings, names) for path in partials]
    rows: dict[str, list[Row]] = {}
    progress = Progress("evaluate", len(pairs), "pairs")
    files = [_open_partial(path, settings, known.values()) for path, known in zip(partials, finished, strict=True)]
    try:
        jobs = ((pair, folders, convention, own, finished, extra) for pair in pairs)
        for pair_rows in _in_parallel(score_pair, jobs, workers):
            rows[pair_rows[0].name] = pair_rows
            for row, known, file in zip(pair_rows, finished, files, strict=True):
                if known.get(row.name) is not row:
                    with artefacts.naming(Path(file.name)):
                        file.write(json.dumps([row.name, row.digests, row.scores]) + "\n")
                        file.flush()
            progress.step()
    finally:
        for file in files:
            with contextlib.suppress(OSError):  # a full disk: the failed write has already been reported
                file.close()
    return [[rows[pair.name][index] for pair in pairs] for index in range(len(folders))]


def write_table(
    folder: FusedFolder,
    rows: Sequence[Row],
    convention: str,
    own: Sequence[OwnMetric] = (),
    bands: Bands = Bands(),  # noqa: B008  # frozen
    extra: Sequence[str] = (),
) -> None:
    """Write a folder's CSV: the facts of the computation as its head, then `name` and the metrics of each image."""
    columns = ["name", *METRICS, *extra, *(metric.name for metric in own)]
    frame = pd.DataFrame([{"name": row.name, **row.scores} for row in rows], columns=columns)
    facts = {
        **({"method": folder.facts["method"]} if "method" in folder.facts else {}),
        "convention": convention,
        "definition": find_convention(convention).describe(),
        **bands.facts(),
        "images": len(rows),
        "names_sha256": artefacts.sha256_lines(row.name for row in rows),
        "sources_sha256": artefacts.sha256_lines(f"{row.name} {row.digests[0]} {row.digests[1]}" for row in rows),
        "fused_sha256": artefacts.sha256_lines(f"{row.name} {row.digests[2]}" for row in rows),
        "manifest_sha256": "none" if folder.manifest is None else artefacts.sha256_file(folder.folder / "manifest.csv"),
        "metrics_revision": REVISION,
        **({"own_metrics": "; ".join(metric.describe() for metric in own)} if own else {}),
        "versions": artefacts.versions(*(EXTRA_PACKAGES if extra else PACKAGES)),
    }
    artefacts.write_csv(folder.output, frame, facts)
    _partial_path(folder.output).unlink(missing_ok=True)


def mean_row(rows: Sequence[Row]) -> str:
    """Return the means as one line; if a metric is undefined for some images, the number of averaged images follows."""
    parts = []
    for name in rows[0].scores if rows else METRICS:
        values = np.array([row.scores[name] for row in rows])
        defined = values[~np.isnan(values)]
        mean = defined.mean() if defined.size else math.nan
        parts.append(f"{name} {mean:.4f}" + ("" if defined.size == values.size else f" (over {defined.size})"))
    return f"mean of {len(rows)} images: {', '.join(parts)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, score, write the tables and print the mean rows."""
    parser = argparse.ArgumentParser(prog="python -m fusion.evaluate", description=__doc__)
    add = parser.add_argument
    add(
        "--visible",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of visible images, or of CT, PET, ...",
    )
    add(
        "--infrared",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of infrared images, or of MRI, NIR",
    )
    add_band_options(parser)
    add(
        "--fused",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders of fused images, one per method; several in one call share the work on the sources",
    )
    add(
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="the CSV to write; with several --fused, the folder to write one <folder name>.csv each to",
    )
    add(
        "--fused-suffix",
        default="",
        metavar="TEXT",
        help="suffix of the fused files' names that is not part of the pair's name (default: none)",
    )
    add("--names", type=Path, metavar="FILE", help="list of names to score, one per line, for example a test split")
    add(
        "--convention",
        choices=list(CONVENTIONS),
        default="reference",
        help="choices that the definitions leave open: units, sum or mean over the sources, SSIM's window and range "
        "(default: reference)",
    )
    add(
        "--extra",
        nargs="+",
        choices=list(EXTRA),
        default=[],
        metavar="NAME",
        help=f"metrics in addition to the default ones: {', '.join(EXTRA)}",
    )
    add("--workers", type=int, metavar="N", help="images scored in parallel (default: the CPU cores of this process)")
    add(
        "--own-metric",
        nargs="+",
        default=[],
        metavar="NAME:higher=MODULE:FUNCTION",
        help="metrics of your own in addition; `higher` or `lower` says which is better; see fusion/own/metric.py",
    )
    add("--watch", type=Path, nargs="+", default=[], metavar="PATH", help=WATCH_HELP.format("metric (--own-metric)"))
    options = parser.parse_args(argv)

    own = [read_own_metric(text, options.watch) for text in options.own_metric]
    bands = given_bands(options)
    extra = list(dict.fromkeys(options.extra))
    names = None if options.names is None else read_names(options.names, bands.suffixes)
    pairs = find_pairs(options.visible, options.infrared, names, bands)
    inspect_bands(pairs, "auto")
    folders = [
        open_folder(folder, output, pairs, names is None, options.fused_suffix)
        for folder, output in zip(options.fused, _outputs(options.fused, options.output), strict=True)
    ]
    workers = threads_available(options.workers)
    logging.info("evaluate: %d pairs, %d fused folders, convention %s", len(pairs), len(folders), options.convention)
    scored = evaluate(pairs, folders, options.convention, workers, own, bands, extra)
    for folder, rows in zip(folders, scored, strict=True):
        _warn_undefined(folder, rows)
        write_table(folder, rows, options.convention, own, bands, extra)
        print(f"{folder.output.stem}: {mean_row(rows)}")


def _outputs(folders: Sequence[Path], output: Path) -> list[Path]:
    if len(folders) == 1:
        if output.is_dir():
            raise InputError(f"{output} is a folder; expected the name of a CSV file, as there is one fused folder")
        return [output]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise InputError(f"fused folders share a name: {', '.join(names)}; expected different names, one CSV each")
    return [output / f"{name}.csv" for name in names]


def _in_parallel(function, jobs: Iterable[tuple], workers: int) -> Iterator:
    """Yield the results of `function(*job)` as they finish; at most two jobs per worker are queued, to bound memory."""
    check_memory(workers)
    with ThreadPoolExecutor(workers) as pool:
        jobs = iter(jobs)
        pending = {pool.submit(function, *job) for job in islice(jobs, 2 * workers)}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                # Failed jobs come last, so that finished results are recorded before the error is raised.
                for future in sorted(done, key=lambda one: one.exception() is not None):
                    yield future.result()
                pending |= {pool.submit(function, *job) for job in islice(jobs, len(done))}
        finally:
            for future in pending:
                future.cancel()


def _partial_path(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _read_partial(path: Path, settings: str, names: Sequence[str]) -> dict[str, Row]:
    """Return the finished rows of a killed run by name, without cut-off lines; none if its settings differ."""
    try:
        first, *lines = path.read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    if first != settings:
        return {}
    rows = {}
    for line in lines:
        try:
            name, digests, scores = json.loads(line)
            row = Row(name, tuple(digests), {metric: float(scores[metric]) for metric in names})
        except (ValueError, TypeError, KeyError):
            continue
        rows[name] = row
    return rows


def _open_partial(path: Path, settings: str, rows: Iterable[Row]):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [settings, *(json.dumps([row.name, row.digests, row.scores]) for row in rows)]
    artefacts.write_text(path, "".join(f"{line}\n" for line in lines))
    return path.open("a", encoding="utf-8")


def _read(path: Path, counts: tuple[float, float] | None = None) -> np.ndarray:
    return luma(read_image(path, counts))


def _check_same_size(path: Path, image: np.ndarray, reference_path: Path, reference: np.ndarray) -> None:
    if image.shape != reference.shape:
        (h, w), (hr, wr) = image.shape, reference.shape
        raise InputError(f"{path} is {w}x{h}, expected {wr}x{hr} like {reference_path}")


def _warn_undefined(folder: FusedFolder, rows: Sequence[Row]) -> None:
    for metric in rows[0].scores if rows else METRICS:
        undefined = [row.name for row in rows if math.isnan(row.scores[metric])]
        if undefined:
            logging.warning("warning: %s of %s is undefined for %s", metric, folder.folder, some_of(undefined))


if __name__ == "__main__":
    run(main)
