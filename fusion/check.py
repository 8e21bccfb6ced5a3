"""Stage: check a method of the user's own before anything expensive runs.

A folder must contain an image for every pair, of the pair's size. Any other method fuses the first pair; its output is
checked, the second of two calls is timed, and the input that receives each band is reported. Without --visible and
--infrared the pair is noise. Writes the findings as JSON.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fusion.cost import random_pair
from fusion.fuse import made_image
from fusion.own.method import load_own, provenance
from pipeline.artefacts import write_json
from pipeline.colour import COLOURS, split_pair
from pipeline.pairs import (
    Bands,
    Pair,
    add_band_options,
    check_folders,
    find_bands,
    find_images,
    find_pairs,
    given_bands,
    read_names,
)
from pipeline.planning.own import WATCH_HELP, OwnMethod, parse_own
from pipeline.stage import InputError, run


def check_folder(own: OwnMethod, pairs: Sequence[Pair], colour: str) -> None:
    """Raise InputError unless a folder has an image of the right size for every pair.

    Reads the sizes of all images and the pixels of the first.
    """
    images = find_images(Path(own.target))
    missing = [pair.name for pair in pairs if pair.name not in images]
    if missing:
        raise InputError(
            f"{own.target} lacks the fused images of {len(missing)} of {len(pairs)} pairs, {missing[0]!r} among them; "
            "expected one for each, by file stem"
        )
    for pair in pairs:
        with Image.open(images[pair.name]) as made, Image.open(pair.visible) as visible:
            if made.size != visible.size:
                found, expected = ("x".join(map(str, image.size)) for image in (made, visible))
                raise InputError(f"{images[pair.name]} is {found}, expected {expected} like {pair.visible}")
    if pairs:
        made_image(pairs[0], images, colour)


def first_pair(visible: Sequence[Path], infrared: Sequence[Path], bands: Bands) -> list[Pair]:
    """Return a list of the first pair of which both images exist, empty if there is none; other files are ignored."""
    check_folders(visible, infrared, bands)
    of_visible, of_infrared = find_bands(visible, infrared, bands)
    names = [name for name in of_visible if name in of_infrared][:1]
    return [Pair(name, of_visible[name], of_infrared[name], bands.infrared_range) for name in names]


def check_one_pair(
    own: OwnMethod, weights: Path | None, pair: tuple[np.ndarray, np.ndarray], name: str = "noise"
) -> dict[str, Any]:
    """Fuse one pair twice on the CPU; return the seconds of the second call and the input that each band is passed to.

    `name` is the pair's name in error messages.

    Raises:
        InputError: the method fails, or its output is not a fused image of the pair.
    """
    fuser, bound = load_own(own, weights, "cpu", "fp32")
    try:
        fused = fuser(*pair)
    except InputError as error:
        raise InputError(f"trying {name!r}: {error}") from error
    if not np.isfinite(fused).all():
        raise InputError(f"{own.kind} {own.target} returned NaN or infinite values; expected finite values")
    if np.ptp(fused) == 0 and np.ptp(pair[0]) > 0:
        raise InputError(
            f"{own.kind} {own.target} returned a constant image, {fused.flat[0]:.3g} everywhere; expected an image "
            "that varies"
        )
    start = time.perf_counter()
    fuser(*pair)
    return {"seconds_per_pair": time.perf_counter() - start, "bound": bound, "tried": name}


def main(argv: Sequence[str] | None = None) -> None:
    """Check one method and write the findings."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--own", required=True, metavar="KIND=TARGET", help="the method; see docs/own-method.md")
    parser.add_argument("--watch", type=Path, nargs="+", default=[], help=WATCH_HELP.format("method"))
    parser.add_argument("--weights", type=Path, help="weights file of a callable that is a torch.nn.Module")
    parser.add_argument("--visible", type=Path, nargs="+", help="folders of visible images")
    parser.add_argument("--infrared", type=Path, nargs="+", help="folders of infrared images")
    add_band_options(parser)
    parser.add_argument(
        "--names", type=Path, nargs="+", help="text files with the names of the pairs (default: all pairs)"
    )
    parser.add_argument("--first", action="store_true", help="use only the first pair; the others need not exist")
    parser.add_argument("--colour", choices=COLOURS, default="auto", help="colour handling, as in fusion.fuse")
    parser.add_argument(
        "--size", type=int, nargs=2, default=[320, 240], help="width and height of the noise images in pixels"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(argv)

    own, found = parse_own(options.own, options.watch), {}
    pairs = []
    if options.visible and options.infrared:
        bands = given_bands(options)
        if options.first:
            pairs = first_pair(options.visible, options.infrared, bands)
        else:
            lists = options.names or []
            names = [name for path in lists for name in read_names(path, bands.suffixes)] if lists else None
            pairs = find_pairs(options.visible, options.infrared, names, bands)
    if own.kind == "folder":
        check_folder(own, pairs, options.colour)
    elif pairs:
        visible, infrared, _, _ = split_pair(pairs[0], options.colour)
        arrays = np.float32(visible) / 255, np.float32(infrared) / 255
        found = check_one_pair(own, options.weights, arrays, pairs[0].name)
    else:
        found = check_one_pair(own, options.weights, random_pair(*options.size))
    write_json(options.output, {**provenance(own), "pairs": len(pairs), **found})
    timing = f", {found['seconds_per_pair']:.3f} s per pair on the CPU, tried on {found['tried']}" if found else ""
    logging.info("checked %s %s: no problem found%s", own.kind, own.target, timing)


if __name__ == "__main__":
    run(main)
