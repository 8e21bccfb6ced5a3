"""What jobs make: lists of files in the tables' order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.planning.configuration import chosen_corruptions
from pipeline.planning.external import read_as_is, read_brought
from pipeline.planning.sources import BANDS, INSIDE

TEST_SET_TABLES = ("table1", "table1_equal", "table3")


@dataclass(frozen=True)
class Targets:
    """What a run compares, and the files that this makes.

    tables: those that are asked for.
    methods: the fusion methods that get a row.
    seeds: of the detector's trainings.
    inside: the ways of fusing inside the detector that get a row: `stacked`, `twostream`.
    late: whether Table II has a row more than there are trained variants: both bands' boxes pooled.
    test_sets: names of the sets without boxes.
    ablations: names of FNet's ablations.
    brought: the files of each row of Table II whose detections were made elsewhere.
    as_is: the settings of each detector that was trained elsewhere and is tested on every variant.
    worse: the levels of each kind by which one band of the test pairs is made worse.
    made: the methods whose images the user has made, which cannot be made anew of worse pairs.
    """

    tables: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    inside: Sequence[str]
    late: bool
    test_sets: Sequence[str]
    ablations: Sequence[str]
    brought: Mapping[str, Sequence[str]] = field(default_factory=dict)
    as_is: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    worse: Mapping[str, Sequence[str]] = field(default_factory=dict)
    made: Sequence[str] = ()

    @property
    def variants(self) -> list[str]:
        """What the detector is trained on."""
        return [*self.with_images, *self.inside]

    @property
    def with_images(self) -> list[str]:
        """The variants that have images of their own."""
        return [*BANDS, *self.methods]

    @property
    def rows(self) -> list[str]:
        """The rows of Table II."""
        return [*self.variants, *(["late"] if self.late else []), *self.brought]

    @property
    def entries(self) -> list[str]:
        """What Table I compares: the two trivial methods are always among them."""
        return list(dict.fromkeys(["average", "maximum", *self.methods]))

    def tables_and_page(self) -> list[str]:
        """Return the files of `tables`, and with the detector's table the report page and the trainings' cost."""
        # No training depends on the cost: another estimate trains nothing again.
        beside = ["<results>/report.html", "<results>/detection/cost.json"] if "table2" in self.tables else []
        beside += self.as_is_table() + self.robustness_table()
        return [f"<results>/tables/{name}.csv" for name in self.tables] + beside

    def test_set_tables(self) -> list[str]:
        """Return the tables of test sets among those that are asked for."""
        return [name for name in self.tables if name in TEST_SET_TABLES]

    def of_methods(self, pattern: str) -> list[str]:
        """Return a file for every method; `pattern` holds `{method}`."""
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
        """Return the table of the detectors that are used as they are, as a list; none where there is no such one."""
        return ["<results>/tables/table2_as_is.csv"] if self.as_is else []

    def as_is_runs(self) -> list[str]:
        """Return `DETECTOR/VARIANT` for every detector that is used as it is and variant."""
        return [f"{name}/{variant}" for name in self.as_is for variant in self.with_images]

    @property
    def tested_worse(self) -> list[str]:
        """The variants whose detectors are tested on worse images: all but those of images that the user has made."""
        return [variant for variant in self.variants if variant not in self.made]

    @property
    def rows_worse(self) -> list[str]:
        """The rows of Table II that are compared on worse images: those tested, and both bands' boxes pooled."""
        return [*self.tested_worse, *(["late"] if self.late else [])]

    def seeing(self, kind: str) -> list[str]:
        """Return the variants that see the band that a kind makes worse: all that are tested but the other band."""
        other = "visible" if kind.startswith("infrared") else "infrared"
        return [variant for variant in self.tested_worse if variant != other]

    def of_worse(self, file: str) -> list[str]:
        """Return a file of the detector for every row of `rows_worse` and seed."""
        return [f"<results>/detection/{name}/seed{seed}/{file}" for name in self.rows_worse for seed in self.seeds]

    def losses(self) -> list[str]:
        """Return what each variant loses, a file for every kind by which a band is made worse."""
        return [f"<results>/robustness/{kind}/losses.json" for kind in self.worse]

    def robustness_table(self) -> list[str]:
        """Return the table of these, as a list; none where nothing is made worse."""
        return ["<results>/tables/robustness.csv"] if self.worse else []

    def _folders(self, row: str) -> list[str]:
        """Return the folders of a row's detectors below `detection`: one a seed, of a brought row one a file."""
        return [f"{row}/{'run' if row in self.brought else 'seed'}{number}" for number in self._numbers(row)]

    def _numbers(self, row: str) -> Sequence[int]:
        return range(len(self.brought[row])) if row in self.brought else self.seeds

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


def choose_targets(
    config: Mapping, methods: Sequence[str], test_sets: Sequence[str], made: Sequence[str] = ()
) -> Targets:
    """Return what the configuration asks for, with these methods, `made` by the user among them, and test sets.

    Raises:
        InputError: as `read_brought` and `read_as_is` of pipeline.planning.external, and as `chosen_corruptions`.
    """
    detection = config["detection"]
    inside = [name for name in INSIDE if detection[name]]
    targets = Targets(
        config["tables"], methods, detection["seeds"], inside, detection["late"], test_sets, list(config["ablations"])
    )
    doors = {"brought": read_brought(config, targets.rows), "as_is": read_as_is(config)}
    return replace(targets, **doors, worse=chosen_corruptions(config), made=made)
