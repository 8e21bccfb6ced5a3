"""Find aligned visible-infrared pairs by file stem in one or more folders; the options that describe them.

The images themselves are read by `pipeline.images`.
"""

import argparse
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.images import EXTENSIONS, MOST_PIXELS, Range, encode_image, read_grey, read_image, write_image
from pipeline.stage import InputError, some_of

__all__ = [
    "EXTENSIONS",
    "MOST_PIXELS",
    "Bands",
    "Pair",
    "add_band_options",
    "check_folders",
    "check_pair_size",
    "encode_image",
    "find_bands",
    "find_images",
    "find_pairs",
    "given_bands",
    "name_of",
    "read_grey",
    "read_image",
    "read_names",
    "refuse_same_files",
    "suggested_suffixes",
    "write_image",
]

_KEYS = "--visible-suffix and --infrared-suffix, in the configuration visible_suffix and infrared_suffix"


@dataclass(frozen=True)
class Bands:
    """How the files of the two bands are distinguished and read.

    A suffix is the end of the stems of one band's files, and not part of a pair's name. If infrared files have 16-bit
    samples, `infrared_range` is the pair of raw values that are mapped to 0 and 255; None if they have 8-bit levels.
    """

    visible_suffix: str = ""
    infrared_suffix: str = ""
    infrared_range: Range | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes that are given, visible first."""
        return tuple(filter(None, (self.visible_suffix, self.infrared_suffix)))

    def facts(self) -> dict[str, Any]:
        """Return the infrared range for a manifest; empty if there is none."""
        return {} if self.infrared_range is None else {"infrared_range": list(self.infrared_range)}


@dataclass(frozen=True)
class Pair:
    """One pair: its name (the file stem without the band's suffix), the files of both images, the infrared range."""

    name: str
    visible: Path
    infrared: Path
    infrared_range: Range | None = None


def add_band_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `Bands`."""
    add = parser.add_argument
    for band, example in (("visible", "_RGB"), ("infrared", "_PreviewData")):
        add(
            f"--{band}-suffix",
            default="",
            metavar="TEXT",
            help=f"optional suffix of the {band} file names (before the extension) that is not part of the pair's "
            f"name, such as {example}",
        )
    add(
        "--infrared-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="raw values of 16-bit infrared images that are mapped to 0 and 255, for all images alike; not needed for "
        "8-bit images",
    )


def given_bands(options: argparse.Namespace) -> Bands:
    """Return the bands in the options of `add_band_options`; raise InputError for an invalid range."""
    counts = options.infrared_range
    if counts is not None and not (all(map(math.isfinite, counts)) and counts[0] < counts[1]):
        raise InputError(f"--infrared-range {counts[0]:g} {counts[1]:g}: expected two raw values, the lower first")
    return Bands(options.visible_suffix, options.infrared_suffix, None if counts is None else tuple(counts))


def find_images(folders: Path | Sequence[Path], suffix: str = "", other: str = "") -> dict[str, Path]:
    """Return the images in one or more folders by name, sorted by name; hidden files are ignored.

    A name is a file's stem without `suffix`. Files without the suffix are ignored. If `other`, the suffix of the other
    band, is longer and ends with `suffix`, files with it are ignored as well.

    Raises:
        InputError: a folder is missing, there are no images, or two images have the same name.
    """
    folders = _listed(folders)
    images: dict[str, Path] = {}
    others = len(other) > len(suffix) and other.endswith(suffix)
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; expected a folder of images")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
                continue
            if not path.stem.endswith(suffix) or path.stem == suffix or (others and path.stem.endswith(other)):
                continue
            if "\n" in path.name:
                raise InputError(f"{str(path)!r} has a line break in its name; expected a name without one")
            name = path.stem.removesuffix(suffix)
            if name in images:
                raise InputError(f"{path} and {images[name]} have the same stem; expected one image per name")
            images[name] = path
    if not images:
        where = ", ".join(map(str, folders))
        ends = ", ".join(EXTENSIONS)
        raise InputError(
            f"{where} has no images{f' with the suffix {suffix}' if suffix else ''}; expected files ending in {ends}"
        )
    return dict(sorted(images.items()))


def find_pairs(
    visible: Path | Sequence[Path],
    infrared: Path | Sequence[Path],
    names: Iterable[str] | None = None,
    bands: Bands = Bands(),
) -> list[Pair]:
    """Return the pairs in the visible and infrared folders, matched by name and sorted by name.

    With `names`, return only these pairs. Without, warn about infrared images without a visible one and ignore them.

    Raises:
        InputError: both images of a pair are the same file, a visible image has no infrared one, or a name in `names`
            has no visible image.
    """
    check_folders(visible, infrared, bands)
    visible_images, infrared_images = find_bands(visible, infrared, bands)
    if names is not None:
        wanted = sorted(set(names))
        missing = [name for name in wanted if name not in visible_images]
        if missing:
            raise InputError(f"no visible image for {some_of(missing)} in {_where(visible)}")
        visible_images = {name: visible_images[name] for name in wanted}
    missing = [name for name in visible_images if name not in infrared_images]
    if missing:
        raise InputError(
            f"no infrared image in {_where(infrared)} for visible {some_of(missing)}"
            + suggested_suffixes(visible_images, infrared_images)
        )
    unpaired = sorted(infrared_images.keys() - visible_images.keys()) if names is None else []
    if unpaired:
        logging.warning("warning: ignored infrared images without a visible image: %s", some_of(unpaired))
    pairs = [Pair(name, path, infrared_images[name], bands.infrared_range) for name, path in visible_images.items()]
    refuse_same_files(pairs)
    return pairs


def find_bands(
    visible: Path | Sequence[Path], infrared: Path | Sequence[Path], bands: Bands
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the images of both bands by name, as `find_images` does; the names of the bands may differ."""
    suffixes = bands.visible_suffix, bands.infrared_suffix
    return find_images(visible, *suffixes), find_images(infrared, *suffixes[::-1])


def check_folders(visible: Path | Sequence[Path], infrared: Path | Sequence[Path], bands: Bands) -> None:
    """Raise InputError if both bands have a folder in common and the same suffix; folders need not exist yet."""
    if bands.visible_suffix != bands.infrared_suffix:
        return
    of_infrared = {Path(folder).resolve() for folder in _listed(infrared)}
    for folder in map(Path, _listed(visible)):
        if folder.resolve() in of_infrared:
            images = find_images(folder) if folder.is_dir() else {}
            raise InputError(
                f"{folder} is given for both bands, so that each image would be paired with itself; expected two "
                "folders, or suffixes that distinguish the bands"
                + (suggested_suffixes(images, images) or f" ({_KEYS})")
            )


def refuse_same_files(pairs: Sequence[Pair]) -> None:
    """Raise InputError if both images of a pair are the same file, also through links."""
    same = [pair for pair in pairs if pair.visible.samefile(pair.infrared)]
    if same:
        raise InputError(
            f"{same[0].visible} and {same[0].infrared} are the same file, as in {len(same)} of {len(pairs)} pairs; "
            "expected a visible and an infrared image for each pair"
        )


def suggested_suffixes(visible: Iterable[str], infrared: Iterable[str]) -> str:
    """Return the end of a message that suggests suffixes with which at least half of the visible stems match.

    Return an empty text if there are no such suffixes.
    """
    stems = set(visible), set(infrared)
    for ending in (r"[_\-. ][^_\-. ]*$", r"[^0-9]*$"):
        of_visible, of_infrared = (_names_by_suffix(band, ending) for band in stems)
        for ours, names in of_visible.items():
            for theirs, others in of_infrared.items():
                if ours != theirs and 2 * len(names & others) >= len(stems[0]) and re.search("[A-Za-z]", ours + theirs):
                    either = " or the other way round" if stems[0] == stems[1] else ""
                    return f": try --visible-suffix={ours} --infrared-suffix={theirs}{either} ({_KEYS})"
    return ""


def read_names(path: Path, suffixes: Sequence[str] = ()) -> list[str]:
    """Read a list of names, one per line; empty lines and spaces around a name are ignored.

    A line may also be the path of an image: its folders, its extension and one of `suffixes` are removed, and this is
    logged.

    Raises:
        InputError: the file is missing, is empty, or contains a name twice.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a list of names: {error}") from None
    names = [name_of(line, suffixes) for line in lines]
    changed = [(line, name) for line, name in zip(lines, names, strict=True) if line != name]
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise InputError(
            f"{path} has {len(names)} names, {len(set(names))} of them different; expected each name once, one per line"
            + (f": {twice!r} is repeated" if twice else "")
        )
    if changed:
        logging.info("%s: %d lines are read as names, such as %r as %r", path, len(changed), *changed[0])
    return names


def name_of(line: str, suffixes: Sequence[str]) -> str:
    """Return the pair's name of a file: without folders, the extension of an image and the longest suffix."""
    file = Path(line.replace("\\", "/")).name
    stem = Path(file).stem if Path(file).suffix.lower() in EXTENSIONS else file
    longest = max((suffix for suffix in suffixes if stem.endswith(suffix)), key=len, default="")
    return stem.removesuffix(longest) or stem


def check_pair_size(pair: Pair, visible: np.ndarray, infrared: np.ndarray) -> None:
    """Raise InputError if the two arrays of a pair differ in height or width."""
    if visible.shape[:2] != infrared.shape[:2]:
        (h, w), (hi, wi) = visible.shape[:2], infrared.shape[:2]
        raise InputError(f"{pair.infrared} is {wi}x{hi}, expected {w}x{h} like {pair.visible}")


def _names_by_suffix(stems: Iterable[str], ending: str) -> dict[str, set[str]]:
    """Return the names that remain of the stems, by suffix: for no suffix, and each that the pattern `ending` finds."""
    names: dict[str, set[str]] = {"": set(stems)}
    for stem in sorted(stems):
        suffix = re.search(ending, stem)
        if suffix and suffix.start():
            names.setdefault(suffix[0], set()).add(stem[: suffix.start()])
    return names


def _listed(folders: Path | Sequence[Path]) -> list[Path]:
    return [folders] if isinstance(folders, (str, Path)) else list(folders)


def _where(folders: Path | Sequence[Path]) -> str:
    return ", ".join(map(str, _listed(folders)))
