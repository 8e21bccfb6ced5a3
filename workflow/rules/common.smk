"""Parsing of the configuration and lists of targets; nothing is computed here."""

import ast
import hashlib
import json
import os
import sys
from pathlib import Path
from shlex import join, quote
from shutil import which

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from detection.datasets import find_dataset
from fusion.methods import METHODS, packaged_weights
from fusion.own.method import Own, own_method, source_files
from pipeline.stage import InputError, threads_available
from reports.plan import cost_line, describe

MOST_VALUES = 100_000  # of a configuration, far above any; YAML's aliases can make billions of a few lines


def check_size(value):
    """Raise WorkflowError for a configuration so large that checking it, or saying what is wrong, would not end."""
    waiting, count = [value], 0
    while waiting:
        one = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise WorkflowError(
                f"the configuration holds more than {MOST_VALUES:,} values; wanted no aliases that multiply"
            )
        if isinstance(one, (list, dict)):
            waiting += one.values() if isinstance(one, dict) else one


check_size(config)
validate(config, schema="../schemas/config.schema.yaml")

# Jobs call `python -m`: the one that runs this workflow, also where its environment was not activated.
shell.prefix(
    f"set -euo pipefail; export PATH={quote(str(Path(sys.executable).parent))}:$PATH; "
)

ROOT = Path(workflow.basedir).parent
RESULTS = config["pathvars"]["results"]
DATASET = config["dataset"]
SYNTHETIC = DATASET["name"] == "synthetic"


include: "own.smk"
include: "methods.smk"


VARIANTS = ["visible", "infrared", *METHOD_NAMES]
SEEDS = config["detection"]["seeds"]
# Table II has a row more than there are trained variants: both bands' boxes pooled.
ROWS = [*VARIANTS, *(["late"] if config["detection"]["late"] else [])]
TEST_SETS = {
    name: settings
    for name, settings in config["test_sets"]["sets"].items()
    if name in (config["test_sets"]["only"] or [name])
}
ABLATIONS = config["ablations"]
# What Table I compares: the two trivial methods are always among them.
TABLE1_ENTRIES = list(dict.fromkeys(["average", "maximum", *METHOD_NAMES]))

# Settings of trainings that do not decide their results; numbers and plain words by the schema.
INDIFFERENT = ("checkpoint_every", "checkpoint_epochs", "cache", "workers")

# Whether jobs compute on a GPU; `auto` asks this machine, so say `cuda` where it only submits jobs to others.
ON_GPU = config["device"] == "cuda" or (
    config["device"] == "auto" and which("nvidia-smi") is not None
)
# Without a GPU a detector hardly gains from a second core: several train side by side, one core each, few enough for
# a laptop's memory.
GIVEN_CORES = workflow.resource_settings.cores
CORES = min(GIVEN_CORES or 1, threads_available())
SIDE_BY_SIDE = 1 if ON_GPU else min(CORES, 4)
# On a cluster the jobs do not share this machine's cores, and each is parsed again where it runs.
ON_CLUSTER = GIVEN_CORES is None or workflow.remote_exec

if unknown := set(config["test_sets"]["only"] or []) - set(TEST_SETS):
    raise WorkflowError(
        f"config: test_sets.only names {sorted(unknown)}; wanted names of {sorted(config['test_sets']['sets'])}"
    )
for tables, section in (
    ({"table1", "table1_equal", "table3"}, "test_sets.sets"),
    ({"table3"}, "ablations"),
):
    if tables & set(config["tables"]) and not (
        ABLATIONS if section == "ablations" else TEST_SETS
    ):
        raise WorkflowError(
            f"config: {section} is empty; {sorted(tables & set(config['tables']))} want some"
        )
if clash := [name for name in ABLATIONS if name in METHODS]:
    raise WorkflowError(
        f"config: ablations names {clash}; wanted names that no method has"
    )


try:
    FOUND = find_dataset(
        DATASET["name"],
        *(DATASET[key] for key in ("classes", "visible", "infrared", "labels")),
    )
except InputError as error:
    raise WorkflowError(f"config: dataset: {error}")


wildcard_constraints:
    method="|".join(METHOD_NAMES),
    entry="|".join([*TABLE1_ENTRIES, *ABLATIONS]),
    dataset="|".join(TEST_SETS),
    treatment="authors|equal",
    band="visible|infrared",
    ablation="|".join(ABLATIONS),
    variant="|".join(VARIANTS),
    seed=r"\d+",


def options(settings):
    """Return `--key value` words for a mapping; a list gives several values, true a bare flag, null and false none."""
    words = []
    for key, value in sorted(settings.items()):
        if value is None or value is False or value == []:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return words


def deciding(settings):
    """Return the settings that decide a training's result, for params; the others may change without a new run."""
    return {key: value for key, value in settings.items() if key not in INDIFFERENT}


def indifferent(settings):
    """Return the rest of the settings as words; resources carry them, as those make nothing run again."""
    return " ".join(
        options({key: value for key, value in settings.items() if key in INDIFFERENT})
    )


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


def split_lists():
    """Return the files that name the training and the test images, where the split is made of such files."""
    names = [DATASET["train_list"], DATASET["test_list"]]
    if DATASET["split"] == "own" and not SYNTHETIC:
        names = [
            str(path)
            for path in Path(dataset_root()).glob("t*.txt")
            if path.stem in ("train", "test")
        ]
    return sorted(filter(None, names))


def start_weights():
    """Return the weights file that detectors start from, as a list."""
    return list(filter(None, [config["detection"]["weights"]]))


def own_architecture():
    """Return the file of the user's that describes the detector, as a list; none where it is one of the package's."""
    model = config["detection"]["model"]
    return [model] if model.endswith((".yaml", ".yml")) else []


def dataset_root():
    """Return the data set's folder: the generated one, or the user's."""
    return f"{RESULTS}/data/pairs" if SYNTHETIC else DATASET["root"]


def folders(kind):
    """Return the data set's folders of `visible` images, `infrared` images or `labels`."""
    layout = FOUND.layout(Path(dataset_root()))
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


def gpu_request(needed=lambda wildcards: True):
    """Return the resources by which a job asks for a GPU, where jobs compute on one; `needed` says which jobs do.

    Locally they are counters. SLURM is asked by --gpus or by --gres, never by both, as `gpu_request` says.
    """
    kind, _, model = config["gpu_request"].partition(":")
    if kind == "gpu":
        asked = {"gpu": 1, **({"gpu_model": model} if model else {})}
    else:
        asked = {"gres": f"gpu:{model}:1" if model else "gpu:1"}

    def only_where_needed(value):
        return lambda wildcards: value if needed(wildcards) else None

    return {name: only_where_needed(asked[name]) for name in asked} if ON_GPU else {}


def detector_slots():
    """Return the threads that a detector's job reserves: all of `threads` on a GPU, else its share of --cores."""
    if ON_GPU:
        return config["threads"]
    return 1 if ON_CLUSTER else max(1, -(-GIVEN_CORES // SIDE_BY_SIDE))


def detector_threads():
    """Return the CPU threads that a detector's job uses."""
    if ON_GPU:
        return config["threads"]
    return 1 if ON_CLUSTER else max(1, CORES // SIDE_BY_SIDE)


def per_variant(pattern):
    """Return the files of every variant and seed, in the tables' order."""
    return expand(
        f"<results>/detection/{{variant}}/seed{{seed}}/{pattern}",
        variant=VARIANTS,
        seed=SEEDS,
    )


def per_row(pattern):
    """Return the files of every row of Table II and seed, in the table's order."""
    return expand(
        f"<results>/detection/{{variant}}/seed{{seed}}/{pattern}",
        variant=ROWS,
        seed=SEEDS,
    )


def gallery_images():
    """Return VARIANT=FOLDER words: where the report finds every variant's images."""
    return [
        f"{variant}={folder}"
        for variant in VARIANTS
        for folder in variant_folders(variant)
    ]


def named(names, files):
    """Return NAME=FILE words."""
    return [f"{name}={file}" for name, file in zip(names, files, strict=True)]


def losses_of_training(wildcards):
    """Return the loss curves of what this run trains: FNet's, unless its weights are the user's."""
    trained = "fnet" in METHOD_NAMES and not config["fnet"]["weights"]
    return ["<results>/fusion/fnet/losses.csv"] if trained else []


def table_files():
    """Return the files of `tables`, and the report page with the detector's table."""
    page = ["<results>/report.html"] if "table2" in config["tables"] else []
    return [f"<results>/tables/{name}.csv" for name in config["tables"]] + page


def test_set_folder(dataset, kind):
    """Return a test set's folder of `visible` or `infrared` images."""
    return f"{config['test_sets']['root']}/{dataset}/{TEST_SETS[dataset][kind]}"


def test_set_sources(wildcards):
    """Return both folders of a test set, visible first."""
    return [
        test_set_folder(wildcards.dataset, kind) for kind in ("visible", "infrared")
    ]


def treatment_options(wildcards):
    """Return how a test set is read and written: as its authors published, or losslessly as the whole project does."""
    if wildcards.treatment == "equal":
        settings = {"colour": config["fusion"]["colour"], "format": "png"}
    else:
        settings = {
            key: TEST_SETS[wildcards.dataset][key] for key in ("colour", "format")
        }
        if settings["format"] == "jpg":
            settings["quality"] = TEST_SETS[wildcards.dataset]["quality"]
        settings["treatment"] = "authors"
    return options({**settings, "precision": config["fusion"]["precision"]})


def entry_method(entry):
    """Return the method behind a column of Table I or III: an ablation is FNet with weights of its own."""
    return "fnet" if entry in ABLATIONS else entry


def entry_weights(wildcards):
    """Return the weights file that a column needs, as a list."""
    if wildcards.entry in ABLATIONS:
        return [f"<results>/ablations/{wildcards.entry}/weights.safetensors"]
    return method_weights(wildcards.entry)


def table_columns(table):
    """Return the columns of a table of test sets, in its order."""
    if table == "table3":
        return list(ABLATIONS)
    return ["visible", "infrared", *TABLE1_ENTRIES]


def table_stems(wildcards):
    """Return where the images of every column and test set lie; a source itself does not depend on the treatment."""
    treatment = "equal" if wildcards.table == "table1_equal" else "authors"
    return [
        f"<results>/test_sets/{'sources' if column in ('visible', 'infrared') else treatment}/{dataset}/{column}"
        for dataset in TEST_SETS
        for column in table_columns(wildcards.table)
    ]


def table_scores(wildcards):
    """Return the metrics of every column and test set."""
    return [f"{stem}.csv" for stem in table_stems(wildcards)]


def table_manifests(wildcards):
    """Return the manifests of the fused images behind a table."""
    stems = table_stems(wildcards)
    return [f"{stem}/manifest.csv" for stem in stems if "/sources/" not in stem]


def table_costs(wildcards):
    """Return the costs that Table I prints."""
    entries = [] if wildcards.table == "table3" else TABLE1_ENTRIES
    return [f"<results>/cost/{entry}.json" for entry in entries]
