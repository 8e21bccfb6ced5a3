"""Reads what the other stages wrote into tidy frames, and refuses to put together numbers that do not belong together.

Every row of a table must come from the same split, the same recipe and the same seeds; what has to agree is compared
here, key by key, before anything is averaged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artefacts import read_csv, read_json, sha256_json, sha256_lines
from pipeline.pairs import read_names
from pipeline.stage import InputError
from reports.paper import CLASSES as PAPER_CLASSES

BANDS = ("visible", "infrared")
LATE = "late"  # both bands' boxes pooled (detection.late): not fused images, trained by two detectors

# What rightly differs between two runs of one recipe, in ap.json's provenance and in the training's, and between the
# metrics of two methods. Everything else must agree: a new key is compared until somebody decides here that it need
# not be.
PER_TEST = frozenset({"weights", "training", "trained_on", "predictions", "data.images", "device", "threads"})
PER_METHOD = frozenset({"method", "fused_sha256", "manifest_sha256"})
PER_TRAINING = frozenset(
    {
        *("variant", "seed", "recipe.seed", "data.images", "data.order"),
        *("digest", "weights_sha256", "device", "threads"),
        *("speed.hours", "speed.images_per_s", "speed.waited_share"),
    }
)


@dataclass(frozen=True)
class Split:
    """The prepared split that all variants share: `dataset` is dataset.json, names are file stems."""

    file: Path
    dataset: dict[str, Any]
    train: list[str]
    test: list[str]

    @property
    def classes(self) -> list[str]:
        """The classes in printing order: the paper's for M3FD's six, else the data set's own."""
        own = list(self.dataset["classes"])
        return list(PAPER_CLASSES) if set(own) == set(PAPER_CLASSES) else own


def read_split(folder: Path) -> Split:
    """Read a prepared split's lists and dataset.json.

    Raises:
        InputError: a file is missing or broken, or a list is not the one whose digest dataset.json records.
    """
    file = Path(folder) / "dataset.json"
    dataset = read_json(file)
    for key in ("dataset", "classes", "split", "boxes"):
        _wanted(dataset, key, file)
    lists = {part: read_names(file.with_name(f"{part}.txt")) for part in ("train", "test")}
    for part, names in lists.items():
        digest = _wanted(dataset["split"], f"digest_{part}", file)
        if digest != sha256_lines(names):
            raise InputError(
                f"{file.with_name(f'{part}.txt')} has digest {sha256_lines(names)[:12]}, "
                f"expected {digest[:12]} as in {file}"
            )
    return Split(file, dataset, lists["train"], lists["test"])


def read_manifests(
    files: Sequence[Path], methods: Sequence[str], split: Split
) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Read the manifests of the fused images: for each method (the manifest's folder) digests by name, and facts.

    Raises:
        InputError: a method has no manifest, or a manifest lacks an image of the split.
    """
    manifests = {}
    for file in map(Path, files):
        frame, facts = read_csv(file)
        digests = dict(zip(_wanted(frame, "name", file), _wanted(frame, "sha256", file), strict=True))
        missing = [name for name in (*split.train, *split.test) if name not in digests]
        if missing:
            raise InputError(
                f"{file} lacks {len(missing)} of the {len(split.train) + len(split.test)} images of {split.file}, "
                f"{missing[0]!r} among them; wanted the whole split"
            )
        _add(manifests, file.resolve().parent.name, (digests, facts), file)
    _require_methods(manifests, methods, "--fused-manifests")
    return {method: manifests[method] for method in methods}


def read_scores(
    files: Sequence[Path],
    variants: Sequence[str],
    split: Split,
    trainings: Sequence[Path] = (),
    manifests: Mapping[str, tuple[Mapping[str, str], Any]] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the ap.json files of all variants and seeds, and check that they belong together.

    Args:
        files: ap.json of every variant and seed.
        variants: the variants wanted, in order.
        split: what all must have been tested on.
        trainings: the detectors' provenance.json, found by the digest that ap.json states; without them neither the
            recipe nor the training images are compared.
        manifests: from `read_manifests`; the images tested on must be those that it describes.

    Returns:
        One row for each variant, seed and class: columns `variant`, `seed`, `class` (`Average` among them), `AP`
        (a fraction, NaN where undefined), ordered as `variants`; and what all files agree on: `detector`, `protocol`,
        `training.<key>`, `testing.<key>`.

    Raises:
        InputError: a variant or a seed is missing, or two files disagree in split, recipe, protocol or versions.
    """
    by_digest = {}
    for file in map(Path, trainings):
        facts = read_json(file)
        by_digest[_wanted(facts, "digest", file)] = (file, facts)
    runs: dict[tuple[str, int], Path] = {}
    rows, first, shared = [], None, {}
    orders: dict[int, tuple[Path, Any]] = {}
    for file in map(Path, files):
        scores = read_json(file)
        for key in ("variant", "seed", "classes", "average", "detector", "protocol", "provenance"):
            _wanted(scores, key, file)
        variant, seed = run = (scores["variant"], scores["seed"])
        if run in runs:
            raise InputError(f"{file} and {runs[run]} both hold variant {variant!r} with seed {seed}; wanted one")
        runs[run] = file
        digests = manifests[variant][0] if manifests and variant in manifests else None
        _check_testing(file, scores, split, digests)
        facts = {key: scores[key] for key in ("detector", "protocol")}
        if trainings:
            detectors = scores["provenance"].get("training")
            for digest in detectors if isinstance(detectors, list) else [detectors]:
                if digest not in by_digest:
                    raise InputError(
                        f"{file}: --training has no provenance.json with digest {str(digest)[:12]}, its detector's"
                    )
                training_file, training = by_digest[digest]
                _check_training(training_file, training, split, digests)
                order = training["data"].get("order")
                first_file, wanted = orders.setdefault(seed, (training_file, order))
                _require_equal(first_file, {"data.order": wanted}, training_file, {"data.order": order})
                facts |= {f"training.{key}": value for key, value in _without(training, PER_TRAINING).items()}
        facts |= {f"testing.{key}": value for key, value in _without(scores["provenance"], PER_TEST).items()}
        if first is None:
            first, shared = file, facts
        _require_equal(first, shared, file, facts)
        rows += [(*run, name, values["AP"]) for name, values in scores["classes"].items()]
        rows.append((*run, "Average", scores["average"]["AP"]))
    _require_complete(runs, variants)
    frame = pd.DataFrame(rows, columns=["variant", "seed", "class", "AP"]).astype({"AP": float})
    order = {variant: index for index, variant in enumerate(variants)}
    frame = frame.sort_values(["variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c)
    return frame.reset_index(drop=True), shared


def read_metrics(
    files: Sequence[Path],
    methods: Sequence[str],
    manifests: Mapping[str, tuple[Mapping[str, str], Any]] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the metrics of all methods (the file's stem): one row an image, with a first column `method`.

    Returns:
        The rows, ordered as `methods`, and the facts that all files share.

    Raises:
        InputError: a method is missing; two files hold other images, other metrics or another convention; or a file
            scores other fused images than its method's manifest, where `manifests` are given.
    """
    tables = {}
    for file in map(Path, files):
        frame, facts = read_csv(file)
        names = _wanted(frame, "name", file)
        digests = manifests[file.stem][0] if manifests and file.stem in manifests else None
        if digests is not None:
            strangers = [name for name in names if name not in digests]
            if strangers:
                raise InputError(f"{file} scores {strangers[0]!r}, which is not in the manifest of {file.stem!r}")
            wanted = sha256_lines(f"{name} {digests[name]}" for name in names)
            if facts.get("fused_sha256", wanted) != wanted:
                raise InputError(
                    f"{file} scores other fused images than the manifest of {file.stem!r}; score them again"
                )
        _add(tables, file.stem, (file, frame, facts), file)
    _require_methods(tables, methods, "--metrics")
    if not methods:
        return pd.DataFrame(), {}
    first, frame, facts = tables[methods[0]]
    shared = {key: value for key, value in facts.items() if key not in PER_METHOD}
    for method in methods[1:]:
        file, other, its_facts = tables[method]
        if list(other.columns) != list(frame.columns):
            raise InputError(f"{file} has the columns {', '.join(other)}, expected {', '.join(frame)} like {first}")
        differing = sorted(set(other["name"]) ^ set(frame["name"]))
        if differing or len(other) != len(frame):
            raise InputError(
                f"{file} scores {len(other)} images, {first} {len(frame)}"
                + (f"; {differing[0]!r} is in one of them only" if differing else "")
            )
        _require_equal(first, shared, file, {key: value for key, value in its_facts.items() if key not in PER_METHOD})
    rows = pd.concat([tables[method][1].assign(method=method) for method in methods], ignore_index=True)
    return rows[["method", *frame.columns]], shared


def detection_table(scores: pd.DataFrame, classes: Sequence[str], paper: Mapping[str, Mapping] | None) -> pd.DataFrame:
    """Return Table II: one row a variant, columns `variant`, the classes, `Average`, then what says how sure it is.

    Values are means over the seeds, fractions in 0..1. `Average_low` and `Average_high` are the smallest and largest
    average over the seeds, NaN for one seed: a spread, not a confidence interval. `paper`, where given, holds a
    mapping of column to value for each variant, empty where the paper has no such row.
    """
    rows = []
    for variant, runs in scores.groupby("variant", sort=False):
        columns = runs.pivot(index="seed", columns="class", values="AP")
        average = columns["Average"]
        # skipna=False: a mean over some of the seeds would look like a mean over all.
        row = {"variant": variant, **{name: columns[name].mean(skipna=False) for name in (*classes, "Average")}}
        several = len(average) > 1
        row["Average_low"] = average.min(skipna=False) if several else float("nan")
        row["Average_high"] = average.max(skipna=False) if several else float("nan")
        row["seeds"] = len(average)
        row["Average_deviation"] = average.std(skipna=False)  # between seeds, NaN for one
        if paper is not None:
            for name in ("Average", *classes):
                row[f"{name}_paper"] = paper[variant].get(name, float("nan"))
            row["Average_difference"] = row["Average"] - row["Average_paper"]
        rows.append(row)
    return pd.DataFrame(rows)


def read_significance(file: Path, split: Split, files: Sequence[Path]) -> dict[str, Any]:
    """Read significance.json, and check that it is of this split's labels and of the predictions behind `files`.

    Raises:
        InputError: it is of other labels, or of other predictions than an ap.json states.
    """
    significance = read_json(file)
    for key in ("variants", "comparisons", "provenance", "method", "samples", "correction"):
        _wanted(significance, key, file)
    truth = split.file.with_name("truth_test.json")
    stated = significance["provenance"]
    _require_equal(truth, {"labels": sha256_json(read_json(truth))}, file, stated, ["labels"])
    for path in files:
        scores = read_json(path)
        digest = stated["predictions"].get(scores["variant"], {}).get(str(scores["seed"]))
        if digest != scores["provenance"].get("predictions"):
            raise InputError(f"{file} is not of the predictions behind {path}; run detection.significance again")
    return significance


def add_significance(table: pd.DataFrame, classes: Sequence[str], significance: Mapping[str, Any]) -> pd.DataFrame:
    """Return Table II with intervals and verdicts.

    `<column>_interval_low` and `_high` bound the 95 % interval of each class and of `Average`. `against_best` is
    `best`, `tie` (not shown to differ from the best average) or `worse`; `against_band` compares with the better
    single band: `better`, `worse`, `no difference shown`, or empty for that band itself.
    """
    table = table.copy()
    for name in (*classes, "Average"):
        for bound in ("low", "high"):
            values = [significance["variants"][variant][name][bound] for variant in table["variant"]]
            table[f"{name}_interval_{bound}"] = pd.array(values, dtype=float)
    average = table.set_index("variant")["Average"].dropna()
    bands = average[[name for name in average.index if name in BANDS]]
    best, band = (values.idxmax() if len(values) else None for values in (average, bands))
    different = {frozenset((c["first"], c["second"])): c["different"] for c in significance["comparisons"]}

    def verdict(variant: str, other: str | None, words: tuple[str, str, str]) -> str:
        if other is None or variant == other or variant not in average:
            return ""
        if not different[frozenset((variant, other))]:
            return words[1]
        return words[0] if average[variant] > average[other] else words[2]

    table["against_best"] = [
        "best" if variant == best else verdict(variant, best, ("best", "tie", "worse")) for variant in table["variant"]
    ]
    words = ("better", "no difference shown", "worse")
    table["against_band"] = [verdict(variant, band, words) for variant in table["variant"]]
    return table


def detail_table(files: Sequence[Path], variants: Sequence[str]) -> pd.DataFrame:
    """Return every number of every ap.json: one row a variant, seed, condition (`all` among them) and class.

    Columns AP, AP50, AP75, AP_small, AP_medium, AP_large, AR100, boxes; NaN where undefined.
    """
    rows = []
    for file in map(Path, files):
        scores = read_json(file)
        run = {"variant": scores["variant"], "seed": scores["seed"]}
        for condition, part in {"all": scores, **scores.get("conditions", {})}.items():
            for name, values in {**part["classes"], "Average": part["average"]}.items():
                rows.append({**run, "condition": condition, "class": name, **values})
    frame = pd.DataFrame(rows)
    order = {variant: index for index, variant in enumerate(variants)}
    frame = frame.sort_values(
        ["variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c, kind="stable"
    )
    return frame.reset_index(drop=True)


def fusion_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the fusion metrics: one row a method, the means over its images, then `images`.

    Undefined values take no part in a mean; where there are any, `<metric>_undefined` counts them.
    """
    names = [name for name in metrics.columns if name not in ("method", "name")]
    groups = metrics.groupby("method", sort=False)
    table = groups[names].mean()
    table["images"] = groups.size()
    undefined = metrics[names].isna().groupby(metrics["method"], sort=False).sum()
    for name in names:
        if undefined[name].any():
            table[f"{name}_undefined"] = undefined[name]
    return table.reset_index()


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    flat = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _without(provenance: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in flatten(provenance).items() if key not in keys}


def _check_testing(file: Path, scores: Mapping[str, Any], split: Split, digests: Mapping[str, str] | None) -> None:
    """Raise InputError unless a detector was scored on this split's test images and boxes, and on its own variant."""
    provenance = flatten(scores["provenance"])
    if provenance.get("trained_on", scores["variant"]) != scores["variant"]:
        raise InputError(
            f"{file} scores {scores['variant']!r} with a detector trained on {provenance['trained_on']!r}; wanted one "
            "trained on what it is tested on"
        )
    truth = split.file.with_name("truth_test.json")
    _require_equal(
        split.file,
        {
            "classes": sorted(split.dataset["classes"]),
            "images": len(split.test),
            "boxes": dict(sorted(split.dataset["boxes"]["test"].items())),
        },
        file,
        {
            "classes": sorted(scores["classes"]),
            "images": scores.get("images"),
            "boxes": {name: values.get("boxes") for name, values in sorted(scores["classes"].items())},
        },
    )
    _require_equal(truth, {"data.labels": sha256_json(read_json(truth))}, file, provenance, ["data.labels"])
    if digests is not None:
        _check_images(file, provenance, split.test, digests)


def _check_training(file: Path, training: Mapping[str, Any], split: Split, digests: Mapping[str, str] | None) -> None:
    """Raise InputError unless a detector was trained on this split's training images and boxes."""
    truth = split.file.with_name("truth_train.json")
    provenance = flatten(training)
    _require_equal(truth, {"data.labels": sha256_json(read_json(truth))}, file, provenance, ["data.labels"])
    if digests is not None:
        _check_images(file, provenance, split.train, digests)


def _check_images(file: Path, provenance: Mapping, names: Sequence[str], digests: Mapping[str, str]) -> None:
    """Raise InputError unless the fused images that a detector saw are those of the manifest."""
    wanted = sha256_lines(f"{name} {digests[name]}" for name in sorted(names))
    if provenance.get("data.images") != wanted:
        raise InputError(
            f"{file} saw other fused images than its variant's manifest describes (digest "
            f"{str(provenance.get('data.images'))[:12]}, expected {wanted[:12]}); run the detector again"
        )


def _require_equal(
    first: Path, expected: Mapping[str, Any], file: Path, found: Mapping[str, Any], keys: Iterable[str] | None = None
) -> None:
    """Raise InputError naming both files and the first key of `keys` (default: all) whose values differ."""
    for key in keys or dict.fromkeys([*expected, *found]):
        if expected.get(key) != found.get(key):
            raise InputError(
                f"{file} and {first} disagree: {key} is {found.get(key)!r}, expected {expected.get(key)!r}"
            )


def _require_complete(runs: Mapping[tuple[str, int], Path], variants: Sequence[str]) -> None:
    """Raise InputError unless every variant, and no other, was scored with the same seeds."""
    seeds = {variant: {seed for name, seed in runs if name == variant} for variant in variants}
    for (variant, _), file in runs.items():
        if variant not in seeds:
            raise InputError(f"{file} holds variant {variant!r}, which --variants does not name")
    everywhere = set().union(*seeds.values())
    for variant, its_seeds in seeds.items():
        if not its_seeds:
            raise InputError(f"--ap: no file holds variant {variant!r}; wanted one for each of {', '.join(variants)}")
        if its_seeds != everywhere:
            lacking, other = min(everywhere - its_seeds), next(v for v in variants if everywhere - its_seeds & seeds[v])
            raise InputError(
                f"--ap: variant {variant!r} has no file with seed {lacking}, which variant {other!r} has; "
                "wanted the same seeds for all"
            )


def _require_methods(found: Iterable[str], methods: Sequence[str], option: str) -> None:
    found = list(found)
    for method in methods:
        if method not in found:
            raise InputError(f"{option}: no file for method {method!r}; found {', '.join(found) or 'none'}")
    for method in found:
        if method not in methods:
            raise InputError(f"{option}: {method!r} is no method of --variants ({', '.join(methods) or 'none'})")


def _add(items: dict[str, Any], name: str, value: Any, file: Path) -> None:
    if name in items:
        raise InputError(f"{file} is a second file for method {name!r}; wanted one")
    items[name] = value


def _wanted(holder: Any, key: str, file: Path) -> Any:
    """Return `holder[key]`, or raise an InputError that names the file which lacks it."""
    if not hasattr(holder, "keys") or key not in holder:
        raise InputError(f"{file} has no {key!r}; was it written by this version?")
    return holder[key]
