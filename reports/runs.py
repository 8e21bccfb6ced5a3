"""Read the detectors' scores, and refuse scores that must not be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from detection.inside import INSIDE
from pipeline.artefacts import read_json, sha256_json, sha256_lines
from pipeline.stage import InputError
from reports.collect import BANDS, Split, require_equal, required

# Keys that may differ between two runs of one recipe: in the provenance of ap.json, and in that of the training. All
# other keys must agree, so that a new key is compared until it is listed here.
# Versions need to agree only as far as `release` says; devices and threads are listed below the table. The images of
# the bands are compared by `_check_bands`; the infrared range is a property of the dataset.
IMAGE_KEYS = ("data.images", "data.infrared_images", "data.infrared_range")
IGNORED_TEST_KEYS = frozenset({"weights", "training", "trained_on", "predictions", *IMAGE_KEYS, "device", "threads"})
IGNORED_TRAINING_KEYS = frozenset(
    {
        *("variant", "seed", "recipe.seed", *IMAGE_KEYS, "data.order", "inside"),
        *("digest", "weights_sha256", "device", "threads"),
        *("speed.hours", "speed.images_per_s", "speed.waited_share", "speed.per_gpu"),
    }
)


@dataclass(frozen=True)
class Run:
    """The scores of one variant's detector, trained with one seed: `scores` is the content of ap.json."""

    file: Path
    variant: str
    seed: int
    scores: dict[str, Any]

    @property
    def brought(self) -> dict[str, Any] | None:
        """The recorded facts about a file of external detections (detection.external); None for our own detectors."""
        return self.scores.get("brought")


def brought_files(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Return the recorded facts about the files of each variant whose detections are external."""
    files: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.brought:
            files.setdefault(run.variant, []).append(run.brought)
    return files


def read_runs(files: Sequence[Path], variants: Sequence[str]) -> list[Run]:
    """Read the ap.json files of all variants and seeds, ordered by `variants` and seed.

    Raises:
        InputError: a file lacks a key, repeats the variant and seed of another file, or contains a variant that is
            not in `variants`; or a variant or a seed is missing.
    """
    runs: dict[tuple[str, int], Run] = {}
    for file in map(Path, files):
        scores = read_json(file)
        for key in ("variant", "seed", "classes", "average", "detector", "protocol", "provenance"):
            required(scores, key, file)
        variant, seed = scores["variant"], scores["seed"]
        if (variant, seed) in runs:
            other = runs[variant, seed].file
            raise InputError(f"{file} and {other} both contain variant {variant!r} with seed {seed}; expected one file")
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
    """Check that scores may be compared, and return the facts that all runs share.

    Args:
        runs: from `read_runs`.
        split: the split that all runs must have been tested on.
        trainings: the detectors' provenance.json, found by the digest that ap.json states; without them neither the
            recipe nor the training images are compared.
        manifests: from `read_manifests`; the test images must be those that it describes.

    Returns:
        `detector`, `protocol`, `training.<key>`, `testing.<key>`, with every full version that occurs; `machines`, a
        text, if the runs come from several machines.

    Raises:
        InputError: two runs differ in recipe, protocol or releases; a run is of another split or of other images, or
            its training is missing; or a detector that fuses inside itself saw other images of a band than the
            detector of that band.
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
                        f"{file}: its detector has digest {str(digest)[:12]}; expected a provenance.json with this "
                        "digest in --training"
                    )
                training_file, training = by_digest[digest]
                _check_data(training_file, training, trained, split.train, digests)
                bands[training_file] = ("train", training.get("variant", run.variant), training["data"])
                order = training["data"].get("order")
                first_file, first_order = orders.setdefault(run.seed, (training_file, order))
                require_equal(first_file, {"data.order": first_order}, training_file, {"data.order": order})
                facts |= {
                    f"training.{key}": value for key, value in _compared_facts(training, IGNORED_TRAINING_KEYS).items()
                }
                _add_values(seen, {f"trained on.{key}": training.get(key) for key in ("device", "threads")})
        facts |= {
            f"testing.{key}": value for key, value in _compared_facts(scores["provenance"], IGNORED_TEST_KEYS).items()
        }
        _add_values(seen, {key: value for key, value in facts.items() if ".versions." in key})
        facts = {key: release(key, value) for key, value in facts.items()}
        shared = shared or facts
        require_equal(first.file, shared, file, facts)
    for run in runs:
        if run.brought:  # its training is unknown, but it must be scored like the others
            require_equal(first.file, _scoring(first), run.file, _scoring(run))
    _check_bands(bands)
    versions = {key: ", ".join(values) for key, values in seen.items() if ".versions." in key}
    machines = machine_words(seen)
    return shared | versions | ({"machines": machines} if machines else {})


def release(key: str, value: Any) -> Any:
    """Return the part of a fact that must agree between runs: major and minor number of a version, else the value.

    A patch number and a build (2.7.1, +cu126) contain fixes; they are not expected to change a result beyond its last
    digits, but could, so the tables list them. Patch releases of ultralytics add features and must agree.
    """
    if ".versions." not in key or key.endswith(".ultralytics"):
        return value
    return ".".join(str(value).partition("+")[0].split(".")[:2])


def machine_words(seen: Mapping[str, Mapping[str, None]]) -> str:
    """Return a text that lists the differences between the machines of the runs; empty for one machine.

    `seen` contains the values of each version (`training.versions.torch`) and of `trained on.device` and `.threads`.
    """
    several: dict[str, dict[str, None]] = {}
    for key, values in seen.items():
        if len(values) > 1:
            several.setdefault(key.rpartition(".")[2], {}).update(values)
    return "; ".join(f"{name} {', '.join(values)}" for name, values in several.items())


def _add_values(seen: dict[str, dict[str, None]], facts: Mapping[str, Any]) -> None:
    for key, value in facts.items():
        if value is not None:
            seen.setdefault(key, {})[str(value)] = None


def scores_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run and class: `variant`, `seed`, `class` (including `Average`), `AP`, `AP50`, `AP75`.

    Scores are fractions, NaN where undefined.
    """
    measures = ["AP", "AP50", "AP75"]
    rows = [
        (run.variant, run.seed, name, *(values[measure] for measure in measures))
        for run in runs
        for name, values in {**run.scores["classes"], "Average": run.scores["average"]}.items()
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "class", *measures]).astype(dict.fromkeys(measures, float))


def read_significance(file: Path, split: Split, runs: Sequence[Run]) -> dict[str, Any]:
    """Read significance.json, and check that it was computed from this split's labels and from the data of `runs`.

    Raises:
        InputError: it was computed from other labels, or from other predictions or another number of detections than
            an ap.json states.
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
    """Check by digests that a file of `stage` was computed from this split and these runs.

    `labels` is the digest of the test images' boxes, `predictions` are the digests by variant and seed.

    Raises:
        InputError: a digest differs.
    """
    truth, expected = _labels(split, "test")
    require_equal(truth, {"labels": expected}, file, {"labels": labels})
    for run in runs:
        digest, expected = (
            predictions.get(run.variant, {}).get(str(run.seed)),
            run.scores["provenance"].get("predictions"),
        )
        if digest != expected:
            raise InputError(
                f"{file}: the predictions of {run.variant!r} with seed {run.seed} have digest {str(digest)[:12]}; "
                f"expected {str(expected)[:12]} as in {run.file}; run {stage} again"
            )


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as a flat one with dotted keys."""
    flat = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _compared_facts(provenance: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in flatten(provenance).items() if key not in keys}


def _scoring(run: Run) -> dict[str, Any]:
    """Return how a run was scored: the protocol, and the number of detections kept per image."""
    return {"protocol": run.scores["protocol"], "max_detections": run.scores["provenance"].get("max_detections")}


def _labels(split: Split, part: str) -> tuple[Path, str]:
    """Return the file of the ground-truth boxes of `part` (`train` or `test`), and its digest."""
    truth = split.file.with_name(f"truth_{part}.json")
    return truth, sha256_json(read_json(truth))


def _check_testing(run: Run, split: Split) -> None:
    """Raise InputError unless a detector was scored on its own variant and on all images and boxes of the split."""
    scores, trained_on = run.scores, run.scores["provenance"].get("trained_on", run.variant)
    if trained_on != run.variant:
        raise InputError(
            f"{run.file}: variant {run.variant!r} was scored with a detector trained on {trained_on!r}; expected one "
            f"trained on {run.variant!r}"
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

    `labels` and `names` belong to the part of the split that it saw; `digests` come from the manifest, None if the
    variant has no fused images.
    """
    seen = flatten(provenance)
    require_equal(labels[0], {"data.labels": labels[1]}, file, seen, ["data.labels"])
    if digests is None:
        return
    expected = sha256_lines(f"{name} {digests[name]}" for name in sorted(names))
    if seen.get("data.images") != expected:
        raise InputError(
            f"{file}: the detector saw fused images with digest {str(seen.get('data.images'))[:12]}; expected "
            f"{expected[:12]} as in the variant's manifest; run the detector again"
        )


def _check_bands(seen: Mapping[Path, tuple[str, str, Mapping[str, Any]]]) -> None:
    """Raise InputError if a detector that fuses inside itself saw other images of a band than that band's detector.

    `seen` maps each file to the part of the split, the variant and the digests. A band without a row is not compared.
    """
    known = {(part, variant): (file, data) for file, (part, variant, data) in seen.items() if variant in BANDS}
    for file, (part, variant, data) in seen.items():
        for band, key in zip(BANDS, ("images", "infrared_images"), strict=True):
            if variant in INSIDE and (part, band) in known:
                first, own = known[part, band]
                require_equal(first, {f"data.{key}": own.get("images")}, file, {f"data.{key}": data.get(key)})


def _require_complete(runs: Sequence[Run], variants: Sequence[str]) -> None:
    """Raise InputError unless exactly `variants` were scored, all with the same seeds; external rows may have any."""
    seeds = {variant: {run.seed for run in runs if run.variant == variant} for variant in variants}
    brought = brought_files(runs)
    for run in runs:
        if run.variant not in seeds:
            raise InputError(
                f"{run.file}: found variant {run.variant!r}; expected one of --variants ({', '.join(variants)})"
            )
    everywhere = {run.seed for run in runs if not run.brought}
    for variant, its_seeds in seeds.items():
        if not its_seeds:
            raise InputError(f"--ap: no file of variant {variant!r}; expected one for each of {', '.join(variants)}")
        if its_seeds != everywhere and variant not in brought:
            lacking, other = min(everywhere - its_seeds), next(v for v in variants if everywhere - its_seeds & seeds[v])
            raise InputError(
                f"--ap: variant {variant!r} has no file with seed {lacking}, but variant {other!r} has one; "
                "expected the same seeds for every variant"
            )
