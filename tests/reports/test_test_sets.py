"""Tables I and III: their marks, tests, the paper's numbers, and results that must not be combined."""

import math
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from pipeline.artefacts import read_csv, read_json, sha256_file, write_csv, write_json, write_text
from pipeline.stage import InputError
from reports import paper
from reports.test_sets import main, metric_row
from reports.test_sets_layout import CAPTIONS, COSTS, METRICS, read_blocks, row_marks

COLUMNS = ("visible", "infrared", "average", "maximum", "fnet")


class Files:
    """Made-up scores of two data sets, eight images each, as the stages write them."""

    def __init__(self, folder, columns=COLUMNS):
        self.folder, self.columns, self.datasets = folder, columns, ("TNO", "mine")
        rng = np.random.default_rng(5)
        for dataset in self.datasets:
            level = rng.random(8)
            for number, column in enumerate(columns):
                # Far apart against the noise, in the columns' order; maximum and average alike.
                step = 0.0 if column == "maximum" else (number + 1) / 10
                values = {metric: level + step + 0.001 * rng.standard_normal(8) for metric in METRICS}
                self.write(dataset, column, values)
        self.costs = []
        for column in (name for name in columns if name not in ("visible", "infrared")):
            self.costs.append(folder / f"cost/{column}.json")
            counts = {"parameters": 419_916, "multiply_adds": 42_998_169_600} if column == "fnet" else {}
            cost = {"parameters": 0, "multiply_adds": math.nan, "median_s": 0.01, "peak_memory_bytes": 5} | counts
            write_json(self.costs[-1], cost | {"size": [320, 320], "device": "cpu", "threads": 2})

    def scores(self, dataset, column):
        return self.folder / f"sets/{dataset}/{column}.csv"

    def manifest(self, dataset, column):
        return self.folder / f"sets/{dataset}/{column}/manifest.csv"

    def write(self, dataset, column, values, **changed):
        facts = {"convention": "reference", "definition": "MI in nats", "sources_sha256": f"of {dataset}"}
        if column not in ("visible", "infrared"):
            manifest = {"method": column, "weights": "none", "colour": "grey", "format": "png"}
            write_csv(self.manifest(dataset, column), pd.DataFrame({"name": ["a"]}), manifest | changed)
            facts["manifest_sha256"] = sha256_file(self.manifest(dataset, column))
        names = [f"image {number}" for number in range(len(next(iter(values.values()))))]
        write_csv(self.scores(dataset, column), pd.DataFrame({"name": names, **values}), facts | changed)

    def run(self, table="table1", **changed):
        cells = [(dataset, column) for dataset in self.datasets for column in self.columns]
        words = {
            "table": [table],
            "datasets": self.datasets,
            "columns": self.columns,
            "scores": [self.scores(*cell) for cell in cells],
            "manifests": [self.manifest(*cell) for cell in cells if cell[1] not in ("visible", "infrared")],
            "costs": self.costs,
            "output": [self.folder / "tables"],
        } | changed
        main([word for key, values in words.items() for word in (f"--{key}", *map(str, values))])
        return read_csv(self.folder / f"tables/{table}.csv")


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_rows_are_the_papers_and_columns_the_methods(files):
    table, facts = files.run()
    assert list(table.columns[:7]) == ["dataset", "quantity", *COLUMNS]
    expected = [*COSTS, *METRICS, *METRICS]
    assert table["quantity"].tolist() == expected
    assert table["dataset"].tolist()[3:] == ["TNO"] * 4 + ["mine"] * 4
    fnet = table.set_index(["dataset", "quantity"])["fnet"]
    mean = read_csv(files.scores("TNO", "fnet"))[0]["VIF"].mean()
    assert fnet["TNO", "VIF"] == pytest.approx(mean, abs=1e-12)
    assert fnet.iloc[:3].tolist() == pytest.approx([419.916, 42.9981696, 0.01])
    assert table["visible"].iloc[:3].isna().all() and table["average"].iloc[0] == 0
    assert facts["convention"] == "reference"


def test_the_best_is_tested_against_every_other_method_but_not_against_sources(files):
    table, _ = files.run()
    rows = table[table["dataset"].notna()]
    assert (rows["best"] == "fnet").all() and rows["tied"].isna().all()
    assert rows["average_p"].between(0, 0.05).all() and rows["fnet_p"].isna().all()
    assert rows["visible_p"].isna().all()
    assert (rows["fnet_low"] < rows["fnet"]).all() and (rows["fnet"] < rows["fnet_high"]).all()


def test_a_method_that_this_project_trained_is_named_with_the_length_of_its_training(files):
    values = {metric: np.ones(8) for metric in METRICS}
    for dataset in files.datasets:
        files.write(dataset, "fnet", values, trained="stage I: 3 of 20000 iterations")
    files.run()
    text = (files.folder / "tables/table1.md").read_text()
    assert (
        "The weights of the following methods were trained with this project's code ('40 of 20000 iterations' means 40 "
        "here and 20000 in the authors' training). fnet, stage I: 3 of 20000 iterations."
    ) in text


def test_a_network_of_few_parameters_is_not_printed_as_one_without(files):
    cost = read_json(files.costs[-1])
    write_json(files.costs[-1], cost | {"parameters": 113})
    files.run()
    text = (files.folder / "tables/table1.md").read_text()
    assert " 0.113 |" in text and "Remarks on the numbers of parameters" not in text


def test_the_table_says_what_the_parameters_of_a_method_include(files):
    cost = read_json(files.costs[-1])
    write_json(files.costs[-1], cost | {"parameters": 9, "parameters_note": "9 including two that are never used"})
    files.run()
    note = f"Remarks on the numbers of parameters. {files.costs[-1].stem}: 9 including two that are never used."
    assert note in (files.folder / "tables/table1.md").read_text()
    assert note in read_blocks(files.folder / "tables/table1.csv")[0].notes


def test_a_table_without_ties_goes_into_the_page(files):
    files.run()
    (means, *_) = read_blocks(files.folder / "tables/table1.csv")
    assert not means.frame.astype(str).apply(lambda column: column.str.contains("*", regex=False)).any(axis=None)


def test_methods_that_the_images_cannot_tell_apart_are_marked_as_tied(files):
    rng = np.random.default_rng(1)
    for column in ("average", "fnet"):
        files.write("mine", column, {metric: 0.5 + 0.1 * rng.standard_normal(8) for metric in METRICS})
    files.write("mine", "maximum", {metric: rng.random(8) / 10 for metric in METRICS})
    table, _ = files.run()
    row = table[(table["dataset"] == "mine") & (table["quantity"] == "MI")].iloc[0]
    assert {row["best"], row["tied"]} == {"average", "fnet"}
    text = (files.folder / "tables/table1.md").read_text()
    tied = f"{row[row['tied']]:.2f}\\*"
    assert re.search(rf"\| (<u>)?{re.escape(tied)}", text), text
    assert "not significantly different from the best" in text


def test_two_equal_methods_are_tied_and_share_the_mark():
    values = {"average": np.array([1.0, 2.0, 3.0]), "fnet": np.array([1.0, 2.0, 3.0]), "maximum": np.array([0.0, 1, 2])}
    row = metric_row(values, {})
    assert row["fnet_p"] == 1 and row["tied"].startswith("fnet")
    table = pd.DataFrame([{"dataset": "TNO", "quantity": "MI", "average": 2.0, "fnet": 2.001, "maximum": 1.0}])
    marks = row_marks(table, ["average", "fnet", "maximum"]).loc[0]
    assert marks.tolist() == ["", "", "best", "best", "second"]


def test_scenes_are_drawn_whole_in_intervals_and_tests(rng):
    values = {name: np.repeat(rng.random(10), 4) for name in ("average", "fnet")}
    scene = np.repeat(np.arange(10), 4).astype(str)
    one = metric_row({name: row[::4] for name, row in values.items()}, {}, scene[::4])
    assert metric_row(values, {}, scene) == pytest.approx(one | {"images": 40}, nan_ok=True)
    assert metric_row(values, {})["fnet_low"] > one["fnet_low"]


def test_scenes_are_read_for_the_data_sets_that_are_named(files):
    write_text(
        files.folder / "scenes.csv", "name,sequence,place\n" + "".join(f"image {n},{n},{n // 2}\n" for n in range(8))
    )
    _, facts = files.run(scenes=[f"mine={files.folder}/scenes.csv"], unit=["place"])
    assert facts["scenes"] == "mine: 4 places"
    assert (
        "For these datasets, intervals and tests resample scenes: mine: 4 places."
        in (files.folder / "tables/table1.md").read_text()
    )
    with pytest.raises(InputError, match="--scenes other=x: expected DATASET=FILE with one of TNO, mine"):
        files.run(scenes=["other=x"])


def test_sources_are_not_ranked_and_costs_are_ranked_among_networks_with_less_as_better():
    rows = [
        {"dataset": "", "quantity": "Params (K)", "visible": math.nan, "average": 0, "fnet": 420, "other": 90},
        {"dataset": "", "quantity": "MACs (G)", "visible": math.nan, "average": math.nan, "fnet": 43, "other": 50},
        {"dataset": "TNO", "quantity": "MI", "visible": 9.0, "average": 1.0, "fnet": 2.0, "other": math.nan},
    ]
    marks = row_marks(pd.DataFrame(rows), ["visible", "average", "fnet", "other"])
    assert marks.loc[0].tolist()[2:] == ["", "", "second", "best"]
    assert marks.loc[1].tolist()[2:] == ["", "", "best", "second"]
    assert marks.loc[2].tolist()[2:] == ["", "second", "best", ""]


def test_extra_metrics_are_rows_and_the_lowest_qcv_is_the_best(files):
    for dataset in files.datasets:
        for column in COLUMNS:
            frame, facts = read_csv(files.scores(dataset, column))
            write_csv(files.scores(dataset, column), frame.assign(QCV=10 * frame["MI"], NCIE=0.8), facts)
    table, _ = files.run(extra=["QCV", "NCIE"])
    assert table["quantity"].tolist() == [*COSTS, *[*METRICS, "QCV", "NCIE"] * 2]
    rows = table[table["dataset"] == "mine"].set_index("quantity")
    assert rows.at["MI", "best"] == "fnet" and rows.at["QCV", "best"] == "maximum"
    marks = row_marks(table, COLUMNS)
    assert (marks.loc[table["quantity"] == "QCV", "maximum"] == "best").all()
    text = (files.folder / "tables/table1.md").read_text()
    assert "0.8000 to 0.8000" in text
    assert "| MI ↑ |" in text and "| QCV ↓ |" in text and r"QCV $\downarrow$" in (
        files.folder / "tables/table1.tex"
    ).read_text()  # fmt: skip
    with pytest.raises(InputError, match="lacks the columns QP"):
        files.run(extra=["QP"])


def test_an_undefined_value_takes_no_part_and_is_counted(files):
    values = {metric: np.array([1.0, 2.0, math.nan, 4.0] + [3.0] * 4) for metric in METRICS}
    files.write("mine", "fnet", values)
    table, _ = files.run()
    row = table[(table["dataset"] == "mine") & (table["quantity"] == "SSIM")].iloc[0]
    assert row["fnet"] == pytest.approx(19 / 7) and row["fnet_undefined"] == 1 and row["average_undefined"] == 0
    files.write("mine", "fnet", {metric: np.full(8, math.nan) for metric in METRICS})
    table, _ = files.run()
    row = table[(table["dataset"] == "mine") & (table["quantity"] == "SSIM")].iloc[0]
    assert math.isnan(row["fnet"]) and math.isnan(row["fnet_low"]) and row["best"] == "average"
    assert "n/a" in (files.folder / "tables/table1.tex").read_text()


def test_the_papers_numbers_stand_beside_its_own_data_sets_and_methods_alone(files):
    table, _ = files.run()
    rows = table.fillna({"dataset": ""}).set_index(["dataset", "quantity"])
    assert rows.at[("TNO", "MI"), "fnet_paper"] == 2.57
    assert rows.at[("TNO", "MI"), "fnet_difference"] == pytest.approx(rows.at[("TNO", "MI"), "fnet"] - 2.57)
    assert math.isnan(rows.at[("mine", "MI"), "fnet_paper"])
    assert rows["fnet_paper"].tolist()[:3] == [420, 0.33, 0.051]
    assert rows.at[("", "Params (K)"), "fnet_difference"] == pytest.approx(-0.084)
    assert math.isnan(rows.at[("", "MACs (G)"), "fnet_difference"])
    assert not any(name.startswith("average_paper") for name in table)
    text = (files.folder / "tables/table1.md").read_text()
    assert "0 of 4 metrics equal the paper's as printed; different: TNO MI, TNO VIF, TNO Qabf, TNO SSIM." in text
    assert "0.33 GFLOPs" in text and "43.0 G multiply-adds" in text


def test_table3_sets_our_ablations_beside_the_papers(tmp_path):
    files = Files(tmp_path, ("lcsc", "full"))
    table, facts = files.run("table3", costs=[])
    assert table["quantity"].tolist() == [*METRICS, *METRICS]
    first = table.iloc[0]
    assert (first["lcsc_paper"], first["full_paper"]) == (2.35, 2.57)
    assert facts["paper"] == paper.TABLE3_SOURCE
    assert "GFLOPs" not in (tmp_path / "tables/table3.md").read_text()


def test_the_papers_tables_are_consistent_with_each_other():
    fnet, full = paper.paper_column("table1", "fnet"), paper.paper_column("table3", "full")
    assert len(full) == 24 and full.items() <= fnet.items()
    assert {len(row) for row in paper.TABLE1.values()} == {len(paper.TABLE1_METHODS)} == {13}
    assert {len(row) for row in paper.TABLE3.values()} == {len(paper.TABLE3_METHODS)} == {6}
    assert paper.paper_column("table1", "average") == {}


def test_a_source_that_beats_every_method_is_counted_in_the_notes(files):
    files.write("mine", "infrared", {metric: np.full(8, 9.0) for metric in METRICS})
    files.run()
    assert (
        "better than every method in 4 of 8 rows (MI 1, VIF 1, Qabf 1, SSIM 1)"
        in (files.folder / "tables/table1.html").read_text()
    )


def test_the_page_needs_no_other_file(files):
    files.run()
    page = (files.folder / "tables/table1.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and "src=" not in page
    assert 'class="best"' in page and "TNO (8)" in page


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_the_latex_compiles_in_two_columns(files):
    files.run()
    (files.folder / "paper.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}"
        "\\begin{document}\\input{tables/table1}\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    result = subprocess.run(command, cwd=files.folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Overfull \\hbox" not in result.stdout


def test_what_does_not_belong_together_is_refused_by_name(files):
    values = {metric: np.ones(8) for metric in METRICS}
    cases = [
        ({"sources_sha256": "others"}, "fnet.csv has sources_sha256 others"),
        ({"convention": "bits"}, "fnet.csv has convention bits; expected reference"),
        ({"colour": "auto"}, "manifest.csv was made with auto, png; expected grey, png as for the others of mine"),
        ({"weights": "w"}, "manifest.csv has .*'weights': 'w'.*; expected"),
    ]
    for changed, message in cases:
        files.write("mine", "fnet", values, **changed)
        with pytest.raises(InputError, match=message):
            files.run()
    files.write("mine", "fnet", {metric: np.ones(7) for metric in METRICS})
    with pytest.raises(InputError, match=r"fnet\.csv scores other images"):
        files.run()
    files.write("mine", "fnet", values)
    files.manifest("mine", "fnet").write_text(
        "# method: fnet\n# weights: none\n# colour: grey\n# format: png\nname\nb\n"
    )
    with pytest.raises(InputError, match="is not the manifest that was scored"):
        files.run()


def test_what_is_missing_is_named(files):
    with pytest.raises(InputError, match="--scores lacks TNO/visible"):
        files.run(scores=[files.scores("mine", "fnet")])
    with pytest.raises(InputError, match="--manifests lacks TNO/average"):
        files.run(manifests=[files.manifest("mine", "fnet")])
    with pytest.raises(InputError, match="--costs lacks average, maximum"):
        files.run(costs=files.costs[-1:])
    with pytest.raises(InputError, match="--columns fnet fnet"):
        files.run(columns=["fnet", "fnet"])
    write_csv(files.scores("TNO", "fnet"), pd.DataFrame({"name": ["a"], "MI": [1.0]}), {})
    with pytest.raises(InputError, match="lacks the columns VIF, Qabf, SSIM"):
        files.run()


def test_costs_of_different_sizes_are_refused(files):
    write_json(files.costs[-1], {"size": [64, 64], "parameters": 1, "multiply_adds": 1, "median_s": 1})
    with pytest.raises(InputError, match=r"fnet was measured at size \[64, 64\]; expected \[320, 320\]"):
        files.run()


def test_every_table_has_a_caption_of_its_own():
    assert len(set(CAPTIONS.values())) == len(CAPTIONS)
