"""Read the files of the earlier stages, and refuse to combine numbers that are not comparable.

Every row of a table must come from the same split, the same recipe and the same seeds. The facts that must agree are
compared here, key by key, before anything is averaged.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from detection.inside import INSIDE
from pipeline.artefacts import read_csv, read_json, sha256_lines
from pipeline.pairs import read_names
from pipeline.stage import InputError
from reports.paper import CLASSES as PAPER_CLASSES

BANDS = ("visible", "infrared")
LATE = "late"  # merged detections of both bands' detectors (detection.late): no fused images, no training
NO_IMAGES = (*INSIDE, LATE)  # rows without images of their own: their boxes are shown on the visible images


# Facts that may differ between the metrics of two methods. All others must agree, so that a new one is compared until
# it is listed here.
IGNORED_METRIC_FACTS = frozenset({"method", "fused_sha256", "manifest_sha256"})


def fused_variants(variants: Iterable[str], brought: Collection[str] = ()) -> list[str]:
    """Return the variants that are fused images: no bands, no fusion in or after a detector, no external rows."""
    return [variant for variant in variants if variant not in (*BANDS, *NO_IMAGES, *brought)]


def brought_rows(table: pd.DataFrame) -> list[str]:
    """Return the variants of Table II whose detections are external."""
    return table.loc[table["brought"].astype(bool), "variant"].tolist() if "brought" in table else []


def group_of(variant: str, brought: Collection[str] = ()) -> str:
    """Return the group of Table II's rows that a variant belongs to; `brought` are the external rows."""
    if variant in brought:
        return "external results"
    if variant in BANDS:
        return "single band"
    return "inside the detector" if variant in INSIDE else "after the detector" if variant == LATE else "fused images"


@dataclass(frozen=True)
class Split:
    """The prepared split that all variants share: `dataset` is the content of dataset.json, names are file stems."""

    file: Path
    dataset: dict[str, Any]
    train: list[str]
    test: list[str]

    @property
    def classes(self) -> list[str]:
        """The classes in printing order: the paper's order for M3FD's six classes, else the dataset's own order."""
        own = list(self.dataset["classes"])
        return list(PAPER_CLASSES) if set(own) == set(PAPER_CLASSES) else own


def read_split(folder: Path) -> Split:
    """Read a prepared split's lists and dataset.json.

    Raises:
        InputError: a file is missing or damaged, or the digest of a list is not the one in dataset.json.
    """
    file = Path(folder) / "dataset.json"
    dataset = read_json(file)
    for key in ("dataset", "classes", "split", "boxes"):
        required(dataset, key, file)
    lists = {part: read_names(file.with_name(f"{part}.txt")) for part in ("train", "test")}
    for part, names in lists.items():
        digest = required(dataset["split"], f"digest_{part}", file)
        if digest != sha256_lines(names):
            raise InputError(
                f"{file.with_name(f'{part}.txt')} has digest {sha256_lines(names)[:12]}; "
                f"expected {digest[:12]} as in {file}"
            )
    return Split(file, dataset, lists["train"], lists["test"])


def read_manifests(
    files: Sequence[Path], methods: Sequence[str], split: Split
) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Read the manifests of the fused images: for each method (the manifest's folder) the digests by name, and facts.

    Raises:
        InputError: a method has no manifest, or a manifest lacks an image of the split.
    """
    manifests = {}
    for file in map(Path, files):
        frame, facts = read_csv(file)
        digests = dict(zip(required(frame, "name", file), required(frame, "sha256", file), strict=True))
        missing = [name for name in (*split.train, *split.test) if name not in digests]
        if missing:
            raise InputError(
                f"{file} lacks {len(missing)} of the {len(split.train) + len(split.test)} images of {split.file}, such "
                f"as {missing[0]!r}; expected all images of the split"
            )
        _add(manifests, file.resolve().parent.name, (digests, facts), file)
    _require_methods(manifests, methods, "--fused-manifests")
    return {method: manifests[method] for method in methods}


def read_metrics(
    files: Sequence[Path],
    methods: Sequence[str],
    manifests: Mapping[str, tuple[Mapping[str, str], Any]] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the metrics of all methods (the file's stem): one row per image, with a first column `method`.

    Returns:
        The rows, ordered as `methods`, and the facts that all files share.

    Raises:
        InputError: a method is missing; two files differ in images, metrics or convention; or, if `manifests` are
            given, a file scores other fused images than its method's manifest lists.
    """
    tables = {}
    for file in map(Path, files):
        frame, facts = read_csv(file)
        names = required(frame, "name", file)
        digests = manifests[file.stem][0] if manifests and file.stem in manifests else None
        if digests is not None:
            unknown = [name for name in names if name not in digests]
            if unknown:
                raise InputError(
                    f"{file}: found image {unknown[0]!r}; expected images in the manifest of {file.stem!r}"
                )
            expected = sha256_lines(f"{name} {digests[name]}" for name in names)
            found = facts.get("fused_sha256", expected)
            if found != expected:
                raise InputError(
                    f"{file}: the scored images have digest {found[:12]}; expected {expected[:12]} as in the manifest "
                    f"of {file.stem!r}; score them again"
                )
        _add(tables, file.stem, (file, frame, facts), file)
    _require_methods(tables, methods, "--metrics")
    if not methods:
        return pd.DataFrame(), {}
    first, frame, facts = tables[methods[0]]
    shared = {key: value for key, value in facts.items() if key not in IGNORED_METRIC_FACTS}
    for method in methods[1:]:
        file, other, its_facts = tables[method]
        if list(other.columns) != list(frame.columns):
            raise InputError(f"{file} has the columns {', '.join(other)}; expected {', '.join(frame)} as in {first}")
        differing = sorted(set(other["name"]) ^ set(frame["name"]))
        if differing or len(other) != len(frame):
            raise InputError(
                f"{file} scores {len(other)} images; expected the {len(frame)} images of {first}"
                + (f" ({differing[0]!r} is in only one of them)" if differing else "")
            )
        require_equal(
            first, shared, file, {key: value for key, value in its_facts.items() if key not in IGNORED_METRIC_FACTS}
        )
    rows = pd.concat([tables[method][1].assign(method=method) for method in methods], ignore_index=True)
    return rows[["method", *frame.columns]], shared


def read_table(file: Path, text: Collection[str] = ()) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table that this package wrote; facts that are JSON objects are parsed, and text columns are strings.

    The first column is text, and so are the columns in `text`, which pandas would read as numbers if all cells are
    empty.
    """
    frame, facts = read_csv(file)
    for name in frame.columns:
        if name in (frame.columns[0], *text) or not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str)
    parsed = {
        key: json.loads(value) if value.startswith("{") and key != "split" else value for key, value in facts.items()
    }
    return frame, parsed


def required(holder: Any, key: str, file: Path) -> Any:
    """Return `holder[key]`, or raise an InputError that names the file that lacks it."""
    if not hasattr(holder, "keys") or key not in holder:
        raise InputError(f"{file} has no {key!r}; expected a file written by this version")
    return holder[key]


def require_equal(
    first: Path, expected: Mapping[str, Any], file: Path, found: Mapping[str, Any], keys: Iterable[str] | None = None
) -> None:
    """Raise InputError that names both files and the first key of `keys` (default: all) whose values differ."""
    for key in keys or dict.fromkeys([*expected, *found]):
        if expected.get(key) != found.get(key):
            raise InputError(
                f"{file} and {first} disagree: {key} is {found.get(key)!r}, expected {expected.get(key)!r}"
            )


def _require_methods(found: Iterable[str], methods: Sequence[str], option: str) -> None:
    found = list(found)
    for method in methods:
        if method not in found:
            raise InputError(f"{option}: found {', '.join(found) or 'no file'}; expected a file for method {method!r}")
    for method in found:
        if method not in methods:
            raise InputError(
                f"{option}: found method {method!r}; expected a method in --variants ({', '.join(methods) or 'none'})"
            )


def _add(items: dict[str, Any], name: str, value: Any, file: Path) -> None:
    if name in items:
        raise InputError(f"{file} is a second file for method {name!r}; expected one")
    items[name] = value
