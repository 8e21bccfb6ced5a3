"""Reads the detectors' scores, and refuses those that do not belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from detection.inside import INSIDE
from pipeline.artefacts import read_json, sha256_json, sha256_lines
from pipeline.stage import InputError
from reports.collect import BANDS, Split, require_equal, required

# What rightly differs between two runs of one recipe, in ap.json's provenance and in the training's. Everything else
# must agree: a new key is compared until somebody decides here that it need not be.
# Versions need not agree to the last number, see `release`; devices and threads are named below the table. The bands'
# images are compared by `_check_bands`; the infrared range is the data set's own.
SEEN = ("data.images", "data.infrared_images", "data.infrared_range")
PER_TEST = frozenset({"weights", "training", "trained_on", "predictions", *SEEN, "device", "threads"})
PER_TRAINING = frozenset(
    {
        *("variant", "seed", "recipe.seed", *SEEN, "data.order", "inside"),
        *("digest", "weights_sha256", "device", "threads"),
        *("speed.hours", "speed.images_per_s", "speed.waited_share", "speed.per_gpu"),
    }
)


@dataclass(frozen=True)
class Run:
    """The scores of one variant's detector, trained with one seed: `scores` is all of ap.json."""

    file: Path
    variant: str
    seed: int
    scores: dict[str, Any]

    @property
    def brought(self) -> dict[str, Any] | None:
        """What detection.brought says of the file that the detections were brought in; None for a detector of ours."""
        return self.scores.get("brought")


def brought_files(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Return what is known of the files of each variant whose detections were brought from elsewhere."""
    files: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.brought:
            files.setdefault(run.variant, []).append(run.brought)
    return files


def read_runs(files: Sequence[Path], variants: Sequence[str]) -> list[Run]:
    """Read the ap.json files of all variants and seeds, ordered by `variants` and seed.

    Raises:
        InputError: a file lacks a key, holds a variant and seed that another one holds, or a variant that is not
            wanted; or a variant or a seed is missing.
    """
    runs: dict[tuple[str, int], Run] = {}
    for file in map(Path, files):
        scores = read_json(file)
        for key in ("variant", "seed", "classes", "average", "detector", "protocol", "provenance"):
            required(scores, key, file)
        variant, seed = scores["variant"], scores["seed"]
        if (variant, seed) in runs:
            other = runs[variant, seed].file
            raise InputError(f"{file} and {other} both hold variant {variant!r} with seed {seed}; wanted one")
        runs[variant, seed] = Run(file, variant, seed, scores)
    _require_complete(list(runs.values()), variants)
    order = {variant: index for index, variant in enumerate(variants)}
    return sorted(runs.values(), key=lambda run: (order[run.variant], run.seed))


def check_runs(
    runs: Sequence[Run],
    split: Split,
    trainings: Sequence[Path] = (),
    manifests: Mapping[str, tuple[Mapping[str, str], Any]] | None = None,
) -> dict[str, Any]:
    """Check that scores belong together, and return what all share.

    Args:
        runs: from `read_runs`.
        split: what all must have been tested on.
        trainings: the detectors' provenance.json, found by the digest that ap.json states; without them neither the
            recipe nor the training images are compared.
        manifests: from `read_manifests`; the images tested on must be those that it describes.

    Returns:
        `detector`, `protocol`, `training.<key>`, `testing.<key>`, versions in full, all that there are; `machines` in
        words where the runs come from several.

    Raises:
        InputError: two runs disagree in recipe, protocol or releases, or one is of another split, of other images or
            has no training, or a detector that fuses inside itself saw other bands than those of the single bands.
    """
    by_digest = {}
    for file in map(Path, trainings):
        facts = read_json(file)
        by_digest[required(facts, "digest", file)] = (file, facts)
    tested, trained = _labels(split, "test"), _labels(split, "train") if trainings else None
    first = next((run for run in runs if not run.brought), runs[0])
    seen: dict[str, dict[str, None]] = {}
    shared: dict[str, Any] = {}
    orders: dict[int, tuple[Path, Any]] = {}
    bands: dict[Path, tuple[str, str, Mapping[str, Any]]] = {}
    for run in runs:
        file, scores = run.file, run.scores
        digests = manifests[run.variant][0] if manifests and run.variant in manifests else None
        _check_testing(run, split)
        _check_data(file, scores["provenance"], tested, split.test, digests)
        if run.brought:
            continue
        bands[file] = ("test", run.variant, scores["provenance"].get("data", {}))
        facts = {key: scores[key] for key in ("detector", "protocol")}
        if trained:
            detectors = scores["provenance"].get("training")
            for digest in detectors if isinstance(detectors, list) else [detectors]:
                if digest not in by_digest:
                    raise InputError(
                        f"{file}: --training has no provenance.json with digest {str(digest)[:12]}, its detector's"
                    )
                training_file, training = by_digest[digest]
                _check_data(training_file, training, trained, split.train, digests)
                bands[training_file] = ("train", training.get("variant", run.variant), training["data"])
                order = training["data"].get("order")
                first_file, first_order = orders.setdefault(run.seed, (training_file, order))
                require_equal(first_file, {"data.order": first_order}, training_file, {"data.order": order})
                facts |= {f"training.{key}": value for key, value in _without(training, PER_TRAINING).items()}
                _note(seen, {f"trained on.{key}": training.get(key) for key in ("device", "threads")})
        facts |= {f"testing.{key}": value for key, value in _without(scores["provenance"], PER_TEST).items()}
        _note(seen, {key: value for key, value in facts.items() if ".versions." in key})
        facts = {key: release(key, value) for key, value in facts.items()}
        shared = shared or facts
        require_equal(first.file, shared, file, facts)
    for run in runs:
        if run.brought:  # scored as the others; how it was trained is not known
            require_equal(first.file, _counting(first), run.file, _counting(run))
    _check_bands(bands)
    versions = {key: ", ".join(values) for key, values in seen.items() if ".versions." in key}
    machines = machine_words(seen)
    return shared | versions | ({"machines": machines} if machines else {})


def release(key: str, value: Any) -> Any:
    """Return what of a fact has to agree between runs: of a version major and minor number, of others all.

    A third number and a build (2.7.1, +cu126) mend mistakes; that they change a result beyond its last digits is not
    expected, nor excluded, so tables name them. Those of ultralytics bring new features and have to agree.
    """
    if ".versions." not in key or key.endswith(".ultralytics"):
        return value
    return ".".join(str(value).partition("+")[0].split(".")[:2])


def machine_words(seen: Mapping[str, Mapping[str, None]]) -> str:
    """Return in words what differs between the machines that runs come from; nothing where that is one machine.

    `seen` holds the values of each version (`training.versions.torch`) and of `trained on.device` and `.threads`.
    """
    several: dict[str, dict[str, None]] = {}
    for key, values in seen.items():
        if len(values) > 1:
            several.setdefault(key.rpartition(".")[2], {}).update(values)
    return "; ".join(f"{name} {', '.join(values)}" for name, values in several.items())


def _note(seen: dict[str, dict[str, None]], facts: Mapping[str, Any]) -> None:
    for key, value in facts.items():
        if value is not None:
            seen.setdefault(key, {})[str(value)] = None


def scores_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row for each run and class: `variant`, `seed`, `class` (`Average` among them), `AP`, `AP50`, `AP75`.

    All are fractions, NaN where undefined.
    """
    measures = ["AP", "AP50", "AP75"]
    rows = [
        (run.variant, run.seed, name, *(values[measure] for measure in measures))
        for run in runs
        for name, values in {**run.scores["classes"], "Average": run.scores["average"]}.items()
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "class", *measures]).astype(dict.fromkeys(measures, float))


def read_significance(file: Path, split: Split, runs: Sequence[Run]) -> dict[str, Any]:
    """Read significance.json, and check that it is of this split's labels and of what `runs` were scored by.

    Raises:
        InputError: it is of other labels, or of other predictions or numbers of detections than an ap.json states.
    """
    significance = read_json(file)
    for key in (
        "variants",
        "comparisons",
        "against_bands",
        "conditions",
        "provenance",
        "method",
        "samples",
        "correction",
    ):
        required(significance, key, file)
    stated = significance["provenance"]
    check_source(file, "detection.significance", stated["labels"], stated["predictions"], split, runs)
    for run in runs:
        require_equal(run.file, run.scores["provenance"], file, stated, ["most_detections"])
    return significance


def check_source(
    file: Path,
    stage: str,
    labels: str,
    predictions: Mapping[str, Mapping[str, str]],
    split: Split,
    runs: Sequence[Run],
) -> None:
    """Check that a file of `stage` is of this split and of these runs, by the digests that it states.

    `labels` is the digest of the test images' boxes, `predictions` those by variant and seed.

    Raises:
        InputError: a digest is another one.
    """
    truth, wanted = _labels(split, "test")
    require_equal(truth, {"labels": wanted}, file, {"labels": labels})
    for run in runs:
        digest = predictions.get(run.variant, {}).get(str(run.seed))
        if digest != run.scores["provenance"].get("predictions"):
            raise InputError(f"{file} is not of the predictions behind {run.file}; run {stage} again")


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


def _counting(run: Run) -> dict[str, Any]:
    """Return how a run's detections were counted: the protocol, and how many were kept of an image."""
    return {"protocol": run.scores["protocol"], "max_detections": run.scores["provenance"].get("max_detections")}


def _labels(split: Split, part: str) -> tuple[Path, str]:
    """Return the file of a split's true boxes, of `train` or `test`, and its digest."""
    truth = split.file.with_name(f"truth_{part}.json")
    return truth, sha256_json(read_json(truth))


def _check_testing(run: Run, split: Split) -> None:
    """Raise InputError unless a detector was scored on its own variant, and on all images and boxes of the split."""
    scores, trained_on = run.scores, run.scores["provenance"].get("trained_on", run.variant)
    if trained_on != run.variant:
        raise InputError(
            f"{run.file} scores {run.variant!r} with a detector trained on {trained_on!r}; wanted one trained on what "
            "it is tested on"
        )
    require_equal(
        split.file,
        {
            "classes": sorted(split.dataset["classes"]),
            "images": len(split.test),
            "boxes": dict(sorted(split.dataset["boxes"]["test"].items())),
        },
        run.file,
        {
            "classes": sorted(scores["classes"]),
            "images": scores.get("images"),
            "boxes": {name: values.get("boxes") for name, values in sorted(scores["classes"].items())},
        },
    )


def _check_data(
    file: Path,
    provenance: Mapping[str, Any],
    labels: tuple[Path, str],
    names: Sequence[str],
    digests: Mapping[str, str] | None,
) -> None:
    """Raise InputError unless a detector saw this split's boxes and the fused images that the manifest describes.

    `labels` and `names` are of the part of the split that it saw; `digests` the manifest's, None for no fused images.
    """
    seen = flatten(provenance)
    require_equal(labels[0], {"data.labels": labels[1]}, file, seen, ["data.labels"])
    if digests is None:
        return
    wanted = sha256_lines(f"{name} {digests[name]}" for name in sorted(names))
    if seen.get("data.images") != wanted:
        raise InputError(
            f"{file} saw other fused images than its variant's manifest describes (digest "
            f"{str(seen.get('data.images'))[:12]}, expected {wanted[:12]}); run the detector again"
        )


def _check_bands(seen: Mapping[Path, tuple[str, str, Mapping[str, Any]]]) -> None:
    """Raise InputError where a detector that fuses inside itself saw other images of a band than the band's own row.

    `seen` holds the part of the split, the variant and the digests of each file. A band without a row is not compared.
    """
    known = {(part, variant): (file, data) for file, (part, variant, data) in seen.items() if variant in BANDS}
    for file, (part, variant, data) in seen.items():
        for band, key in zip(BANDS, ("images", "infrared_images"), strict=True):
            if variant in INSIDE and (part, band) in known:
                first, own = known[part, band]
                require_equal(first, {f"data.{key}": own.get("images")}, file, {f"data.{key}": data.get(key)})


def _require_complete(runs: Sequence[Run], variants: Sequence[str]) -> None:
    """Raise InputError unless every variant, and no other, was scored with the same seeds, those brought with any."""
    seeds = {variant: {run.seed for run in runs if run.variant == variant} for variant in variants}
    brought = brought_files(runs)
    for run in runs:
        if run.variant not in seeds:
            raise InputError(f"{run.file} holds variant {run.variant!r}, which --variants does not name")
    everywhere = {run.seed for run in runs if not run.brought}
    for variant, its_seeds in seeds.items():
        if not its_seeds:
            raise InputError(f"--ap: no file holds variant {variant!r}; wanted one for each of {', '.join(variants)}")
        if its_seeds != everywhere and variant not in brought:
            lacking, other = min(everywhere - its_seeds), next(v for v in variants if everywhere - its_seeds & seeds[v])
            raise InputError(
                f"--ap: variant {variant!r} has no file with seed {lacking}, which variant {other!r} has; "
                "wanted the same seeds for all"
            )
