"""Stage: fuse every visible-infrared pair of the given folders with one method.

Writes one fused image per pair, and manifest.csv. An image has the name of its visible image, with the extension .png
or .jpg and without the --visible-suffix. A run that was killed resumes where it stopped: a journal in the output folder
records each written image, the settings, and the SHA-256 digests of the sources.

With `--worse FOLDER`, corrupted pairs that pipeline.corruptions wrote are fused instead of the original pairs. The
images of each corruption level go to a separate folder in the output. The colour mode is still chosen from the original
pairs.
"""

import argparse
import contextlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors import safe_open

from fusion.methods import METHODS, Fuser, find_method, packaged_weights
from fusion.own.method import own_bf16_on, own_entry, own_method, provenance
from pipeline.artefacts import naming, only_writer, sha256_file, versions, write_csv, write_text
from pipeline.colour import COLOURS, Colour, inspect_bands, join_chroma, split_pair
from pipeline.corruptions import corrupted_pairs
from pipeline.devices import DEVICES, PRECISIONS, claimed_device, resolved_precision, use
from pipeline.pairs import (
    EXTENSIONS,
    Pair,
    add_band_options,
    find_images,
    find_pairs,
    given_bands,
    read_grey,
    read_image,
    read_names,
    write_image,
)
from pipeline.planning.own import WATCH_HELP, parse_own
from pipeline.stage import InputError, Progress, check_memory, run, some_of, threads_available

REVISION = 1  # raise when the same pair, method and options would give a different image
JOURNAL = ".journal.jsonl"
UNIFORM = "uniform"  # key of a pair in the journal, only there, if its image is
TREATMENTS = ("equal", "authors")
MOST_AT_ONCE = 8  # pairs in parallel; with more threads, reading and writing wait for the GPU and only take memory


Finish = Callable[[np.ndarray], np.ndarray]


def clip(fused: np.ndarray) -> np.ndarray:
    """Return the fused luma clipped to 0..1: the treatment that is the same for all methods."""
    return np.clip(fused, 0, 1)


class Made(NamedTuple):
    """A fused image.

    image: uint8 (H, W) or RGB (H, W, 3).
    colour: the colour mode used.
    uniform: whether its luma has a single grey level although both sources have several; not checked for images that
        the user made.
    """

    image: np.ndarray
    colour: str
    uniform: bool = False


def fuse_pair(pair: Pair, fuser: Fuser, colour: Colour, finish: Finish = clip) -> Made:
    """Fuse one pair.

    `finish` maps the fused luma into 0..1, by default by clipping; the result is then rounded to 8 bits.
    """
    visible, infrared, chroma, mode = split_pair(pair, colour)
    try:
        fused = fuser(np.float32(visible) / 255, np.float32(infrared) / 255)
    except InputError as error:
        raise InputError(f"fusing {pair.name!r}: {error}") from error
    assert fused.shape == visible.shape, f"fused {fused.shape} from {visible.shape}"
    if not np.isfinite(fused).all():
        raise InputError(
            f"fusing {pair.visible} gave NaN or infinite values; expected finite values (check the weights)"
        )
    luma = np.rint(np.clip(finish(fused), 0, 1) * 255).astype(np.uint8)
    uniform = bool(np.ptp(luma) == 0 and np.ptp(visible) > 0 and np.ptp(infrared) > 0)
    return Made(join_chroma(luma, chroma, mode), mode, uniform)


def made_image(pair: Pair, images: dict[str, Path], colour: Colour) -> Made:
    """Return a pair's image from the user's own fused images; the colour mode of a colour image is `as made`.

    A colour image is unchanged. For a colour pair, a grey image gets the visible chroma in full range, because such
    images are meant for viewing.

    Raises:
        InputError: the pair has no image, or its image is unreadable or has another size.
    """
    if pair.name not in images:
        raise InputError(
            f"no fused image for {pair.name!r} among {len(images)}; expected one for each pair, by file stem"
        )
    path = images[pair.name]
    visible, _, chroma, mode = split_pair(pair, colour)
    made = read_image(path)
    if made.shape[:2] != visible.shape:
        (h, w), (hv, wv) = made.shape[:2], visible.shape
        raise InputError(f"{path} is {w}x{h}, expected {wv}x{hv} like {pair.visible}")
    if chroma is None:
        return Made(read_grey(path), mode)
    if made.ndim == 3 and bool((made != made[..., :1]).any()):
        return Made(made, "as made")
    _, _, chroma, mode = split_pair(pair, "ycbcr-full")
    return Made(join_chroma(read_grey(path), chroma, mode), mode)


def fuse_pairs(
    pairs: Sequence[Pair],
    make: Callable[[Pair], Made],
    output: Path,
    settings: dict[str, Any],
    extension: str = ".png",
    quality: int = 95,
    pool: ThreadPoolExecutor | None = None,
) -> pd.DataFrame:
    """Fuse pairs into `output`, skipping images that an earlier run with the same settings wrote from the same files.

    `make` returns a pair's fused image. With a `pool`, its threads call `make` for several pairs at once. A warning
    names the pairs whose fused image is `uniform`, also those of the earlier run.

    Returns:
        One row per pair: name, file, width, height, colour, sha256 of the fused file and of its two sources.

    Raises:
        InputError: a pair is unreadable, or `output` contains an image that no earlier run wrote.
    """
    output.mkdir(parents=True, exist_ok=True)
    for source in {path.parent for pair in pairs for path in (pair.visible, pair.infrared)}:
        if output.resolve() == source.resolve():
            raise InputError(f"--output {output} is a folder of source images; expected a different folder")
    done = _open_journal(output, settings, {f"{pair.name}{extension}" for pair in pairs})

    def fused(pair: Pair) -> tuple[dict[str, Any], bool]:
        """Return a pair's row, and whether its image is new."""
        sources = {"visible_sha256": sha256_file(pair.visible), "infrared_sha256": sha256_file(pair.infrared)}
        row = done.get(pair.name)
        path = output / f"{pair.name}{extension}"
        if row is not None and sources.items() <= row.items() and path.is_file() and sha256_file(path) == row["sha256"]:
            return row, False
        made = make(pair)
        write_image(path, made.image, quality)
        height, width = made.image.shape[:2]
        row = {"name": pair.name, "file": path.name, "width": width, "height": height, "colour": made.colour}
        row |= {"sha256": sha256_file(path), **sources}
        return row | ({UNIFORM: True} if made.uniform else {}), True

    progress = Progress(f"fuse {settings['method']}", len(pairs), "pairs")
    rows = []
    with naming(output / JOURNAL), (output / JOURNAL).open("a", encoding="utf-8") as journal:
        for row, new in (pool.map if pool else map)(fused, pairs):
            if new:
                journal.write(json.dumps(row) + "\n")
                journal.flush()
            rows.append(row)
            progress.step()
    if uniform := [row["name"] for row in rows if UNIFORM in row]:
        logging.warning(
            "warning: %d images fused by %s in %s have a single grey level, although their sources have several: %s",
            len(uniform),
            settings["method"],
            output,
            some_of(uniform),
        )
    return pd.DataFrame([{key: value for key, value in row.items() if key != UNIFORM} for row in rows])


@contextlib.contextmanager
def thread_pool(count: int, device: str) -> Iterator[ThreadPoolExecutor | None]:
    """Yield a pool of `count` threads to fuse pairs with, None for one thread; an error cancels the queued pairs."""
    if count == 1:
        yield None
        return
    check_memory(count)
    # The current GPU is set per thread.
    pool = ThreadPoolExecutor(count, initializer=partial(use, device))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def one_at_a_time(fuser: Fuser) -> Fuser:
    """Return a fuser that several threads may call: a lock lets one call run at a time."""
    lock = threading.Lock()

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        with lock:
            return fuser(visible, infrared)

    return fuse


def _open_journal(output: Path, settings: dict[str, Any], expected: set[str]) -> dict[str, dict[str, Any]]:
    """Return the rows that an earlier run with the same settings left in `output`, and rewrite the journal.

    The first record names every file of the run before any is written, so that the next run recognises the files of a
    killed run. Images of an earlier run that are not `expected` are deleted.
    """
    path = output / JOURNAL
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []:
        # A kill may cut a line off; its pair is fused again.
        with contextlib.suppress(ValueError, TypeError):
            records.append(dict(json.loads(line)))
    head = records[0] if records else {}
    ours = set(head.get("files", []))
    for found in sorted(output.iterdir()):
        half_written = re.fullmatch(r"\.\d+-(.+)", found.name)
        if half_written and half_written[1] in ours:
            found.unlink()
        elif found.suffix.lower() in EXTENSIONS and not found.name.startswith("."):
            if found.name not in ours:
                raise InputError(f"{found} was not written by this stage; expected a folder without other images")
            if found.name not in expected:
                found.unlink()
    rows = (
        [record for record in records[1:] if record.get("file") in expected] if head.get("settings") == settings else []
    )
    lines = [{"settings": settings, "files": sorted(expected)}, *rows]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return {row["name"]: row for row in rows}


def weights_digest(weights: Path | None) -> str:
    """Return the SHA-256 of a weights file, the names and SHA-256 of a folder's files, or `none` without weights."""
    if weights is None:
        return "none"
    if weights.is_dir():
        files = sorted(path for path in weights.rglob("*") if path.is_file())
        return " ".join(f"{path.relative_to(weights).as_posix()}:{sha256_file(path)}" for path in files)
    if not weights.is_file():
        raise InputError(f"--weights {weights} does not exist; expected a weights file or folder")
    return sha256_file(weights)


def training_facts(weights: Path | None) -> dict[str, str]:
    """Return how long `fusion.train` trained a weights file, as `trained`; empty for files from elsewhere."""
    if weights is None or weights.suffix != ".safetensors":
        return {}
    with safe_open(weights, "numpy") as file:
        return {key: text for key, text in (file.metadata() or {}).items() if key == "trained"}


def main(argv: Sequence[str] | None = None) -> None:
    """Fuse a folder of pairs."""
    parser = argparse.ArgumentParser(prog="python -m fusion.fuse", description=__doc__)
    parser.add_argument(
        "--method", required=True, help=f"one of: {', '.join(METHODS)}; with --own, any name for your method"
    )
    parser.add_argument(
        "--own",
        metavar="KIND=TARGET",
        help="your own method: folder=FOLDER of fused images, callable=package.module:name, model=FILE (ONNX or "
        "TorchScript), or command=PROGRAM with {visible}, {infrared} and {output}; see docs/own-method.md",
    )
    parser.add_argument(
        "--watch", type=Path, nargs="+", default=[], metavar="PATH", help=WATCH_HELP.format("method (--own)")
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="weights file, or a folder as the authors publish it (default: the weights included in this project, if "
        "it has some for this method)",
    )
    parser.add_argument(
        "--visible", type=Path, required=True, nargs="+", metavar="FOLDER", help="folders of visible images"
    )
    parser.add_argument(
        "--infrared", type=Path, required=True, nargs="+", metavar="FOLDER", help="folders of infrared images"
    )
    add_band_options(parser)
    parser.add_argument(
        "--names",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="text files with the names of the pairs to fuse, one per line (default: all pairs)",
    )
    parser.add_argument(
        "--worse",
        type=Path,
        metavar="FOLDER",
        help="folder written by pipeline.corruptions; fuse its corrupted pairs instead of the original pairs",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="folder for the fused images and manifest.csv"
    )
    parser.add_argument(
        "--colour",
        choices=COLOURS,
        default="auto",
        help="colour handling; grey: a grey image; ycbcr-studio, ycbcr-full: fuse the luma and keep the chroma of the "
        "visible image, in studio range (luma 16..235) or full range (0..255); auto: ycbcr-studio if at least half of "
        "the visible images are in colour, else grey (default: auto)",
    )
    parser.add_argument(
        "--treatment",
        choices=TREATMENTS,
        default="equal",
        help="post-processing of the fused luma; equal: clip it to 0..1, the same for all methods; authors: as in the "
        "code of the method's authors, such as a contrast stretch (default: equal)",
    )
    parser.add_argument(
        "--format", choices=["png", "jpg"], default="png", help="format of the images; png is lossless (default: png)"
    )
    parser.add_argument("--quality", type=int, default=95, metavar="N", help="JPEG quality, 1 to 100 (default: 95)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="number type of a network's convolutions; auto: bf16 if the hardware supports it, else fp32; "
        "FNet on a CPU always uses fp32 (default: fp32)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto: a free GPU if there is one, else the CPU (default: auto)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of CPU threads (default: all that this process may use)"
    )
    options = parser.parse_args(argv)

    own = parse_own(options.own, options.watch) if options.own else None
    if own is None and options.method not in METHODS:
        raise InputError(f"--method {options.method} is unknown; expected one of {', '.join(METHODS)}")
    if not 1 <= options.quality <= 100:
        raise InputError(f"--quality {options.quality}: expected 1 to 100")
    entry = METHODS[options.method] if own is None else own_entry(own, options.weights)
    method = find_method(options.method) if own is None else own_method(own)
    weights = options.weights or (packaged_weights(options.method) if own is None else None)
    if entry.needs_weights and weights is None:
        raise InputError(
            f"--method {options.method} needs --weights: this project ships no weights for it; `python -m "
            "fusion.weights` lists where they are published"
        )
    if options.worse and own is not None and own.kind == "folder":
        raise InputError(
            f"--worse with --own {options.own}: the folder has only finished images; expected a method that can fuse "
            "the corrupted pairs"
        )
    # Most authors clip as well; the two treatments are then the same.
    finish = (method.authors_output if options.treatment == "authors" else None) or clip
    bands = given_bands(options)
    names = [name for path in options.names for name in read_names(path, bands.suffixes)] if options.names else None
    pairs = find_pairs(options.visible, options.infrared, names, bands)
    colour, colours = inspect_bands(pairs, options.colour)
    folders = {options.output: pairs}
    corruption: dict[str, Any] = {}
    if options.worse:
        facts, by_level = corrupted_pairs(options.worse, pairs)
        folders = {options.output / level: chosen for level, chosen in by_level.items()}
        corruption = {"worse": facts["kind"]}
    # A method without torch needs no GPU and does not import torch.
    claim = claimed_device(options.device, options.threads) if entry.in_torch else contextlib.nullcontext("cpu")
    with only_writer(options.output), claim as device:
        bf16_on = find_method(options.method).bf16_on if own is None else own_bf16_on(own)
        precision = resolved_precision(options.precision, device, bf16_on) if entry.in_torch else "fp32"
        if own is not None and own.kind == "folder":
            make = partial(made_image, images=find_images(Path(own.target)), colour=colour)
        else:
            fuser = one_at_a_time(method.load(weights, device, precision))
            make = partial(fuse_pair, fuser=fuser, colour=colour, finish=finish)
        packages = [*(["torch"] if entry.in_torch else []), *entry.packages]
        settings = {
            "method": options.method,
            "revision": entry.revision,
            "stage_revision": REVISION,
            "reference": entry.reference,
            "weights": weights_digest(weights if entry.needs_weights else None),
            **training_facts(weights if entry.needs_weights else None),
            "colour": options.colour,
            "colours": colour,
            **bands.facts(),
            "treatment": "clipped" if finish is clip else "the authors' own",
            "format": options.format if options.format == "png" else f"jpg quality {options.quality}",
            "precision": precision,
            "device": device.split(":")[0],
            # Torch splits sums among CPU threads: coconet's and laph's values depend on their number, by up to 5e-7.
            **({"threads": threads_available(options.threads)} if entry.in_torch and device == "cpu" else {}),
            "versions": versions("numpy", "opencv-python-headless", *packages),
            **(provenance(own) if own else {}),
            **corruption,
        }
        # On the CPU the method itself uses all threads; with a GPU they read and write images.
        at_once = 1 if device == "cpu" else min(threads_available(options.threads), MOST_AT_ONCE)
        with thread_pool(at_once, device) as pool:
            for folder, chosen in folders.items():
                frame = fuse_pairs(chosen, make, folder, settings, f".{options.format}", options.quality, pool)
                write_csv(folder / "manifest.csv", frame, settings | {"colours": colours, "images": len(frame)})


if __name__ == "__main__":
    run(main)
