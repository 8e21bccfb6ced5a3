"""The files that jobs make, as lists in the order of the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.planning.configuration import chosen_corruptions
from pipeline.planning.external import read_as_is_detectors, read_external_rows
from pipeline.planning.sources import BANDS, INSIDE

TEST_SET_TABLES = ("table1", "table1_equal", "table3")


@dataclass(frozen=True)
class Targets:
    """What a run compares, and the files that it makes.

    Attributes:
        tables: the requested tables.
        methods: the fusion methods that get a row.
        seeds: seeds of the detector's trainings.
        inside: the ways to fuse inside the detector that get a row: `stacked`, `twostream`.
        late: whether Table II has a row for late fusion, which pools both bands' boxes and trains nothing.
        test_sets: names of the test sets without boxes.
        ablations: names of FNet's ablations.
        external: the files of each external row of Table II, whose detections were made elsewhere.
        as_is: the settings of each detector that was trained elsewhere and is tested on every variant.
        corruptions: the levels of each kind of corruption of the test pairs.
        premade: the methods whose images are in a folder of the user, so that corrupted pairs cannot be fused by them.
    """

    tables: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    inside: Sequence[str]
    late: bool
    test_sets: Sequence[str]
    ablations: Sequence[str]
    external: Mapping[str, Sequence[str]] = field(default_factory=dict)
    as_is: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    corruptions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    premade: Sequence[str] = ()

    @property
    def variants(self) -> list[str]:
        """The variants that detectors are trained on."""
        return [*self.with_images, *self.inside]

    @property
    def with_images(self) -> list[str]:
        """The variants that have images of their own."""
        return [*BANDS, *self.methods]

    @property
    def rows(self) -> list[str]:
        """The rows of Table II."""
        return [*self.variants, *(["late"] if self.late else []), *self.external]

    @property
    def entries(self) -> list[str]:
        """The methods that Table I compares; average and maximum are always included."""
        return list(dict.fromkeys(["average", "maximum", *self.methods]))

    def tables_and_page(self) -> list[str]:
        """Return the files of `tables`; with Table II also the report page and the estimated cost of the trainings."""
        # The cost is a target of its own, not an input of the trainings: a new estimate must not repeat them.
        others = ["<results>/report.html", "<results>/detection/cost.json"] if "table2" in self.tables else []
        others += self.as_is_table() + self.robustness_table()
        return [f"<results>/tables/{name}.csv" for name in self.tables] + others

    def test_set_tables(self) -> list[str]:
        """Return the requested tables of test sets."""
        return [name for name in self.tables if name in TEST_SET_TABLES]

    def of_methods(self, pattern: str) -> list[str]:
        """Return a file for every method; `pattern` contains `{method}`."""
        return [f"<results>/{pattern.replace('{method}', method)}" for method in self.methods]

    def of_variants(self, file: str) -> list[str]:
        """Return a file of the detector for every variant and seed."""
        return [f"<results>/detection/{run}/{file}" for name in self.variants for run in self._folders(name)]

    def of_rows(self, file: str) -> list[str]:
        """Return a file of the detector for every row of Table II and seed."""
        return [f"<results>/detection/{run}/{file}" for name in self.rows for run in self._folders(name)]

    def of_first_seed(self, names: Sequence[str], file: str) -> list[str]:
        """Return a file of the detector for every variant or row, of the first seed."""
        return [f"<results>/detection/{self._folders(name)[0]}/{file}" for name in names]

    def runs(self) -> list[str]:
        """Return `ROW/SEED` for every row of Table II and seed, as `of_rows` orders them."""
        return [f"{row}/{number}" for row in self.rows for number in self._numbers(row)]

    def as_is_table(self) -> list[str]:
        """Return the table of the detectors that are used unchanged, as a list; empty if there are none."""
        return ["<results>/tables/table2_as_is.csv"] if self.as_is else []

    def as_is_runs(self) -> list[str]:
        """Return `DETECTOR/VARIANT` for every detector that is used unchanged and every variant."""
        return [f"{name}/{variant}" for name in self.as_is for variant in self.with_images]

    @property
    def corrupted_variants(self) -> list[str]:
        """The variants whose detectors are tested on corrupted images: all but premade methods."""
        return [variant for variant in self.variants if variant not in self.premade]

    @property
    def corrupted_rows(self) -> list[str]:
        """The rows of Table II that are compared on corrupted images: the tested variants and late fusion."""
        return [*self.corrupted_variants, *(["late"] if self.late else [])]

    def seeing(self, kind: str) -> list[str]:
        """Return the tested variants that see the band that a kind corrupts: all but the other band."""
        other = "visible" if kind.startswith("infrared") else "infrared"
        return [variant for variant in self.corrupted_variants if variant != other]

    def of_corrupted_rows(self, file: str) -> list[str]:
        """Return a file of the detector for every row of `corrupted_rows` and seed."""
        return [f"<results>/detection/{name}/seed{seed}/{file}" for name in self.corrupted_rows for seed in self.seeds]

    def losses(self) -> list[str]:
        """Return the files with the losses of AP of each variant, one file per kind of corruption."""
        return [f"<results>/robustness/{kind}/losses.json" for kind in self.corruptions]

    def robustness_table(self) -> list[str]:
        """Return the table of robustness, as a list; empty if nothing is corrupted."""
        return ["<results>/tables/robustness.csv"] if self.corruptions else []

    def _folders(self, row: str) -> list[str]:
        """Return the folders of a row's detectors below `detection`: one per seed, or one per file of external rows."""
        return [f"{row}/{'run' if row in self.external else 'seed'}{number}" for number in self._numbers(row)]

    def _numbers(self, row: str) -> Sequence[int]:
        return range(len(self.external[row])) if row in self.external else self.seeds

    def columns(self, table: str) -> list[str]:
        """Return the columns of a table of test sets."""
        return list(self.ablations) if table == "table3" else [*BANDS, *self.entries]

    def scores(self, table: str) -> list[str]:
        """Return the metrics of every column and test set of a table."""
        return [f"{stem}.csv" for stem in self._stems(table)]

    def manifests(self, table: str) -> list[str]:
        """Return the manifests of the fused images behind a table of test sets."""
        return [f"{stem}/manifest.csv" for stem in self._stems(table) if "/sources/" not in stem]

    def costs(self, table: str) -> list[str]:
        """Return the files of the costs in Table I; empty for Table III, which has no costs."""
        return [] if table == "table3" else [f"<results>/cost/{entry}.json" for entry in self.entries]

    def _stems(self, table: str) -> list[str]:
        # A source image scored as if fused does not depend on the treatment.
        treatment = "equal" if table == "table1_equal" else "authors"
        return [
            f"<results>/test_sets/{'sources' if column in BANDS else treatment}/{test_set}/{column}"
            for test_set in self.test_sets
            for column in self.columns(table)
        ]


def choose_targets(
    config: Mapping, methods: Sequence[str], test_sets: Sequence[str], premade: Sequence[str] = ()
) -> Targets:
    """Return the targets that the configuration requests.

    Args:
        config: the configuration.
        methods: the fusion methods that get a row.
        test_sets: names of the test sets.
        premade: the methods whose images are in a folder of the user.

    Raises:
        InputError: raised by `read_external_rows`, `read_as_is_detectors` or `chosen_corruptions`.
    """
    detection = config["detection"]
    inside = [name for name in INSIDE if detection[name]]
    targets = Targets(
        config["tables"], methods, detection["seeds"], inside, detection["late"], test_sets, list(config["ablations"])
    )
    return replace(
        targets,
        external=read_external_rows(config, targets.rows),
        as_is=read_as_is_detectors(config),
        corruptions=chosen_corruptions(config),
        premade=premade,
    )
