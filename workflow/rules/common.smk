"""Parsing of the configuration and lists of targets; nothing is computed here."""

import ast
import hashlib
import json
import sys
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from detection.datasets import DATASETS
from fusion.methods import METHODS

validate(config, schema="../schemas/config.schema.yaml")

# Jobs call `python -m`: the one that runs this workflow, also where its environment was not activated.
shell.prefix(
    f"set -euo pipefail; export PATH={quote(str(Path(sys.executable).parent))}:$PATH; "
)

ROOT = Path(workflow.basedir).parent
RESULTS = config["pathvars"]["results"]
DATASET = config["dataset"]
SYNTHETIC = DATASET["name"] == "synthetic"
METHOD_NAMES = config["fusion"]["methods"]
VARIANTS = ["visible", "infrared", *METHOD_NAMES]
SEEDS = config["detection"]["seeds"]

if unknown := [name for name in METHOD_NAMES if name not in METHODS]:
    raise WorkflowError(
        f"config: fusion.methods names {unknown}; wanted names of {sorted(METHODS)}"
    )


wildcard_constraints:
    method="|".join(METHOD_NAMES),
    variant="|".join(VARIANTS),
    seed=r"\d+",


def options(settings):
    """Return `--key value` words for a mapping; a list gives several values, true a bare flag, null and false none."""
    words = []
    for key, value in settings.items():
        if value is None or value is False or value == []:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return words


def revision(file):
    """Return the number REVISION of a module, without importing it.

    It stands in the params of expensive rules, so that an edited comment trains nothing again and a changed loss does.
    """
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "REVISION":
            return ast.literal_eval(node.value)
    raise WorkflowError(f"{file} has no REVISION")


def digest(*places):
    """Return a digest of source files, given as files or folders: cheap rules run again when one changes."""
    paths = [
        path for place in places for path in (ROOT / place, *(ROOT / place).rglob("*"))
    ]
    files = sorted(
        path for path in paths if path.suffix in (".py", ".html", ".css", ".js")
    )
    assert files, places
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[
        :12
    ]


def dataset_root():
    """Return the data set's folder: the generated one, or the user's."""
    return f"{RESULTS}/data/pairs" if SYNTHETIC else DATASET["root"]


def folders(kind):
    """Return the data set's folders of `visible` images, `infrared` images or `labels`."""
    layout = DATASETS[DATASET["name"]].layout(Path(dataset_root()))
    return [path.as_posix() for path in getattr(layout, kind)]


def sources(*kinds):
    """Return what a job that reads the pairs depends on: the generator's last files, or the user's folders."""
    if SYNTHETIC:
        return ["<results>/data/pairs/train.txt", "<results>/data/pairs/test.txt"]
    return [folder for kind in kinds for folder in folders(kind)]


def fnet_folders(kind):
    """Return the folders of `visible` or `infrared` images that FNet trains on."""
    data = config["fnet"]["data"]
    return data[kind] if data else folders(kind)


def fnet_sources(wildcards):
    """Return what FNet's training depends on: its own data set, or the training pairs of the detection data set."""
    if config["fnet"]["data"]:
        return fnet_folders("visible") + fnet_folders("infrared")
    return ["<results>/data/split/train.txt", *sources("visible", "infrared")]


def fnet_names():
    """Return the option that keeps test pairs out of FNet's training where it shares the detection data set."""
    return (
        [] if config["fnet"]["data"] else ["--names", f"{RESULTS}/data/split/train.txt"]
    )


def method_weights(wildcards):
    """Return the weights file that a method needs, as a list: ours once trained, or the user's."""
    if not METHODS[wildcards.method].needs_weights:
        return []
    return [config["fnet"]["weights"] or "<results>/fusion/fnet/weights.safetensors"]


def variant_folders(variant):
    """Return the folders of the images that the detector sees as `variant`."""
    if variant in ("visible", "infrared"):
        return folders(variant)
    return [f"{RESULTS}/fused/{variant}"]


def variant_sources(wildcards):
    """Return what a variant's images depend on."""
    if wildcards.variant in ("visible", "infrared"):
        return sources(wildcards.variant)
    return [f"<results>/fused/{wildcards.variant}/manifest.csv"]


def variant_manifest(variant):
    """Return the option that names a fused variant's manifest."""
    fused = variant not in ("visible", "infrared")
    return ["--manifest", f"{RESULTS}/fused/{variant}/manifest.csv"] if fused else []


def per_variant(pattern):
    """Return the files of every variant and seed, in the tables' order."""
    return expand(
        f"<results>/detection/{{variant}}/seed{{seed}}/{pattern}",
        variant=VARIANTS,
        seed=SEEDS,
    )


def gallery_images():
    """Return VARIANT=FOLDER words: where the report finds every variant's images."""
    return [
        f"{variant}={folder}"
        for variant in VARIANTS
        for folder in variant_folders(variant)
    ]


def losses_of_training(wildcards):
    """Return the loss curves of what this run trains: FNet's, unless its weights are the user's."""
    trained = "fnet" in METHOD_NAMES and not config["fnet"]["weights"]
    return ["<results>/fusion/fnet/losses.csv"] if trained else []
