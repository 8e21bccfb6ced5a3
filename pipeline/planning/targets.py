"""What jobs make: lists of files in the tables' order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.planning.sources import BANDS

TEST_SET_TABLES = ("table1", "table1_equal", "table3")


@dataclass(frozen=True)
class Targets:
    """What a run compares, and the files that this makes.

    tables: those that are asked for.
    methods: the fusion methods that get a row.
    seeds: of the detector's trainings.
    late: whether Table II has a row more than there are trained variants: both bands' boxes pooled.
    test_sets: names of the sets without boxes.
    ablations: names of FNet's ablations.
    """

    tables: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    late: bool
    test_sets: Sequence[str]
    ablations: Sequence[str]

    @property
    def variants(self) -> list[str]:
        """What the detector is trained on."""
        return [*BANDS, *self.methods]

    @property
    def rows(self) -> list[str]:
        """The rows of Table II."""
        return [*self.variants, *(["late"] if self.late else [])]

    @property
    def entries(self) -> list[str]:
        """What Table I compares: the two trivial methods are always among them."""
        return list(dict.fromkeys(["average", "maximum", *self.methods]))

    def tables_and_page(self) -> list[str]:
        """Return the files of `tables`, and with the detector's table the report page and the trainings' cost."""
        # No training depends on the cost: another estimate trains nothing again.
        beside = ["<results>/report.html", "<results>/detection/cost.json"] if "table2" in self.tables else []
        return [f"<results>/tables/{name}.csv" for name in self.tables] + beside

    def test_set_tables(self) -> list[str]:
        """Return the tables of test sets among those that are asked for."""
        return [name for name in self.tables if name in TEST_SET_TABLES]

    def of_methods(self, pattern: str) -> list[str]:
        """Return a file for every method; `pattern` holds `{method}`."""
        return [f"<results>/{pattern.replace('{method}', method)}" for method in self.methods]

    def of_variants(self, file: str) -> list[str]:
        """Return a file of the detector for every variant and seed."""
        return _runs(self.variants, self.seeds, file)

    def of_rows(self, file: str) -> list[str]:
        """Return a file of the detector for every row of Table II and seed."""
        return _runs(self.rows, self.seeds, file)

    def of_first_seed(self, names: Sequence[str], file: str) -> list[str]:
        """Return a file of the detector for every variant or row, of the first seed."""
        return _runs(names, self.seeds[:1], file)

    def runs(self) -> list[str]:
        """Return `ROW/SEED` for every row of Table II and seed, as `of_rows` orders them."""
        return [f"{row}/{seed}" for row in self.rows for seed in self.seeds]

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
        """Return the costs that Table I prints; Table III prints none."""
        return [] if table == "table3" else [f"<results>/cost/{entry}.json" for entry in self.entries]

    def _stems(self, table: str) -> list[str]:
        # A source itself does not depend on the treatment.
        treatment = "equal" if table == "table1_equal" else "authors"
        return [
            f"<results>/test_sets/{'sources' if column in BANDS else treatment}/{test_set}/{column}"
            for test_set in self.test_sets
            for column in self.columns(table)
        ]


def _runs(names: Sequence[str], seeds: Sequence[int], file: str) -> list[str]:
    return [f"<results>/detection/{name}/seed{seed}/{file}" for name in names for seed in seeds]


def choose_targets(config: Mapping, methods: Sequence[str], test_sets: Sequence[str]) -> Targets:
    """Return what the configuration asks for, with these methods and test sets."""
    detection = config["detection"]
    return Targets(
        config["tables"], methods, detection["seeds"], detection["late"], test_sets, list(config["ablations"])
    )
