"""The page's tables: parts of the test set, and ties where there are any."""

from pathlib import Path

import numpy as np
import pytest

from reports import tables
from reports.collect import read_split, read_table
from reports.page_tables import detection_section, size_table
from reports.runs import Run, read_runs, read_significance


@pytest.mark.parametrize("tied", [True, False])
def test_ties_are_marked_and_explained_where_there_are_any(example, tied):
    run = example(variants=("visible", "fnet"))
    _, file = run.write_significance([] if tied else [("visible", "fnet")])
    tables.main(run.tables_arguments())
    table, facts = read_table(run.tables / "table2.csv")
    split, runs = read_split(run.split), read_runs([run.ap(name) for name in run.variants], run.variants)
    section = detection_section(table, facts, split, runs, {}, read_significance(Path(file), split, runs))
    assert any(cell["tied"] for row in section["rows"] for cell in row) == tied
    assert any("≈" in note for note in section["notes"]) == tied


def test_parts_are_means_over_the_seeds_and_nan_where_a_seed_has_none():
    def run(variant: str, large: float | None, small: float) -> Run:
        average = {"AP": 0.5, "AP_small": small, "AP_large": large}
        return Run(Path("ap.json"), variant, 0, {"average": average})

    runs = [run("visible", 0.2, 0.1), run("visible", 0.4, 0.3), run("fnet", None, 0.2), run("fnet", 0.5, 0.4)]
    table = size_table(runs, ["visible", "fnet"])
    assert list(table) == ["variant", "small", "large"]
    assert table["small"].tolist() == pytest.approx([0.2, 0.3])
    assert table["large"].iloc[0] == pytest.approx(0.3) and np.isnan(table["large"].iloc[1])
