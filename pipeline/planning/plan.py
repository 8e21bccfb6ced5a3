"""The plan of a run, which is made once from the configuration and used by the rules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.planning.configuration import (
    check_inside,
    check_tables,
    check_testing,
    check_trainings,
    chosen_test_sets,
)
from pipeline.planning.machine import Machine, find_machine
from pipeline.planning.methods import Entry, Methods, choose_methods
from pipeline.planning.own import OwnMethod
from pipeline.planning.own_methods import OwnMethods, read_own_methods
from pipeline.planning.sources import Sources, find_sources
from pipeline.planning.targets import Targets, choose_targets
from pipeline.planning.words import cost_line, describe


@dataclass(frozen=True)
class Plan:
    """The parts of a run: methods, sources, targets and machine."""

    config: Mapping[str, Any]
    methods: Methods
    own: OwnMethods
    sources: Sources
    targets: Targets
    machine: Machine

    def fnet_losses(self) -> list[str]:
        """Return the loss curves of FNet as a list; empty if this run does not train FNet."""
        trained = "fnet" in self.methods.names and not self.config["fnet"]["weights"]
        return ["<results>/fusion/fnet/losses.csv"] if trained else []

    def truths(self, *files: str) -> list[str]:
        """Return `files` below the results if detectors are scored with several label sets; else an empty list."""
        return [f"<results>/{file}" for file in files] if self.sources.several_truths() else []

    def own_checks(self) -> list[str]:
        """Return the commands that check the own methods of this run."""
        return self.own.checks(self.config, self.methods.names, self.sources.checked_pairs(), self.sources.tried_pair())

    def text(self) -> str:
        """Return a summary: what this run compares, which results exist, and the estimated cost."""
        config, methods, targets = self.config, self.methods, self.targets
        results = Path(self.sources.results)
        remarks = self.own.remarks(methods.names)
        if methods.left_out:
            remarks.append(f"left out, because they have no weights: {', '.join(methods.left_out)}")
        if "fnet" in methods.names:
            start = config["fnet"]["start"]
            trained = "trained by this run" + (f" (start: {start})" if start else "")
            remarks.append(f"FNet's weights: {methods.weights_given.get('fnet', trained)}")
        if methods.trained:
            remarks.append(f"also trained by this run: {', '.join(methods.trained)}")
        if tables := targets.test_set_tables():
            remarks.append(f"tables on the test sets {', '.join(targets.test_sets)}: {', '.join(tables)}")
        if self.sources.several_truths() and "table2" in config["tables"]:
            truth = self.sources.layout.truth(config["dataset"]["truth"])
            others = [name for name in self.sources.layout.set_names() if name != truth]
            remarks.append(f"boxes: {truth}; detectors are also scored with {', '.join(others)}")
        if targets.external:
            remarks.append(f"external detections: {', '.join(targets.external)}")
        if targets.corruptions:
            remarks.append(f"trained detectors are tested on corrupted images: {', '.join(targets.corruptions)}")
        if targets.as_is:
            remarks.append(f"external detectors, tested in a table of their own: {', '.join(targets.as_is)}")
        dataset = config["dataset"]["name"]
        where = dataset if dataset == "synthetic" else f"{dataset} in {self.sources.root}"

        def in_results(files: list[str]) -> list[Path]:
            return [results / Path(file).relative_to("<results>") for file in files]

        fused = {"fused": in_results(targets.of_methods("fused/{method}/manifest.csv"))}
        if "table2" in config["tables"]:
            detector, seeds = config["detection"], len(targets.seeds)
            return describe(
                f"{len(targets.variants)} variants x {seeds} seed{'s' if seeds > 1 else ''} of {detector['model']} at "
                f"{detector['image_size']} pixels on {where}",
                targets.variants,
                {
                    **fused,
                    "detectors trained": in_results(targets.of_variants("weights.pt")),
                    "detectors tested": in_results(targets.of_variants("ap.json")),
                },
                [*remarks, cost_line(results / "detection/cost.json")],
            )
        scored = "fusion" in config["tables"]
        what = f"fusion metrics of {len(methods.names)} methods on {where}" if scored else ", ".join(config["tables"])
        return describe(f"{what}; no detector is trained", methods.names, fused if scored else {}, remarks)


def make_plan(
    config: Mapping[str, Any],
    table: Mapping[str, Entry],
    own_entry: Callable[[OwnMethod, str | None], Entry],
    packaged_weights: Callable[[str], Path | None],
    find_dataset: Callable[..., Any],
    given_cores: int | None,
    remote: bool = False,
    submits: bool = False,
) -> Plan:
    """Return the plan of a run.

    Args:
        config: the configuration, checked by its schema.
        table: the project's fusion methods by name.
        own_entry: makes the entry of a user's method, as in the table, from the method and its weights.
        packaged_weights: returns the weights of a method that this project ships, None if there are none.
        find_dataset: finds a dataset by name, classes and folders.
        given_cores: Snakemake's --cores, None on a cluster.
        remote: whether this process is a job on a cluster, which parses the Snakefile again.
        submits: whether this machine submits jobs to a cluster.

    Raises:
        InputError: the configuration is inconsistent, or names something that does not exist.
    """
    own = read_own_methods(config)
    methods = choose_methods(config, table, own.methods, own_entry, packaged_weights)
    check_tables(config)
    check_testing(config)
    check_inside(config)
    check_trainings(config)
    test_sets = chosen_test_sets(config)
    return Plan(
        config,
        methods,
        own,
        find_sources(config, test_sets, find_dataset),
        choose_targets(config, methods.names, list(test_sets), own.premade(methods.names)),
        find_machine(config, given_cores, remote, submits),
    )
