"""The tables: their contract, and the results that must not be combined in one table."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_run import condition_of

from fusion.metrics.statistics import bootstrap_mean, paired_test
from pipeline.artefacts import read_csv, read_json, write_csv, write_json, write_text
from pipeline.stage import InputError
from reports import collect, paper, tables
from reports.tables_layout import smoke_note

PAPER_ORDER = ["People", "Car", "Truck", "Bus", "Lamp", "Motorcycle"]


def write(run) -> pd.DataFrame:
    tables.main(run.tables_arguments())
    return read_csv(run.tables / "table2.csv")[0]


# The contract of table2.csv


def test_rows_are_the_variants_in_order_and_columns_the_papers_classes(example):
    table = write(example())
    assert table["variant"].tolist() == ["visible", "infrared", "average", "fnet"]
    assert list(table.columns[:8]) == ["variant", *PAPER_ORDER, "Average"]


def test_values_are_the_fractions_of_ap_json_unrounded(example):
    run = example()
    run.write_ap("fnet", 0, Car=0.123456789)
    assert write(run).set_index("variant").at["fnet", "Car"] == 0.123456789


def test_several_seeds_give_their_mean_and_spread(example):
    run = example(seeds=(0, 1, 4))
    averages = [read_json(run.ap("fnet", seed))["average"]["AP"] for seed in run.seeds]
    row = write(run).set_index("variant").loc["fnet"]
    assert row["Average"] == pytest.approx(sum(averages) / 3, abs=1e-12)
    assert (row["Average_low"], row["Average_high"]) == (min(averages), max(averages))
    assert row["seeds"] == 3


def test_one_seed_has_no_spread(example):
    table = write(example())
    assert table[["Average_low", "Average_high"]].isna().all(axis=None)


def test_paper_columns_are_on_m3fd_only(example, tmp_path):
    run = example()
    table = write(run).set_index("variant")
    assert table.at["fnet", "Average_paper"] == 0.620
    assert table.at["infrared", "Truck_paper"] == 0.609
    assert math.isnan(table.at["average", "Average_paper"])
    shutil.rmtree(run.folder)
    assert not any(name.endswith("_paper") for name in write(example(dataset="synthetic")).columns)


def test_other_classes_keep_the_data_sets_order():
    split = collect.Split(Path("dataset.json"), {"classes": ["person", "bicycle", "car"]}, [], [])
    assert split.classes == ["person", "bicycle", "car"]


def test_paper_numbers_are_those_of_the_papers_table(shared):
    table = pd.read_csv(shared / "paper/table2.csv").set_index("variant")
    ours = pd.DataFrame.from_dict(paper.TABLE2, orient="index", columns=[*paper.CLASSES, "Average"])
    pd.testing.assert_frame_equal(ours, table, check_names=False)


def test_facts_say_what_the_rows_share(example):
    run = example(seeds=(0, 1))
    write(run)
    facts = read_csv(run.tables / "table2.csv")[1]
    dataset = read_json(run.split / "dataset.json")
    assert facts["detector"].startswith("YOLOv5u")
    assert facts["digest_test"] == dataset["split"]["digest_test"]
    assert facts["training.recipe.epochs"] == "40"
    assert facts["training.start"] == "random"
    assert facts["testing.versions.ultralytics"] == "8.4.190"
    assert facts["seeds"] == "0 1"
    assert "recipe.seed" not in " ".join(facts)


def test_a_run_too_small_to_learn_from_says_that_its_numbers_mean_nothing(example):
    run = example()
    write(run)
    facts = read_csv(run.tables / "table2.csv")[1]
    note = smoke_note(facts)
    assert "was shown 320 images" in note and "tested on 6" in note and note.endswith("These numbers mean nothing.")
    assert note in (run.tables / "table2.md").read_text()
    assert smoke_note(facts | {"training.recipe.epochs": "125"}) == ""
    del facts["training.recipe.epochs"]  # recipes were not compared
    assert smoke_note(facts) == ""


def test_undefined_is_nan_in_csv_and_printed_as_such(example):
    run = example()
    for variant in run.variants:
        run.write_ap(variant, 0, Lamp=None)
    table = write(run)
    assert table["Lamp"].isna().all()
    row = next(line for line in (run.tables / "table2.md").read_text().splitlines() if line.startswith("| fnet"))
    assert row.split(" | ")[5] == "n/a"
    assert "n/a" in (run.tables / "table2.tex").read_text()


def test_same_input_gives_the_same_bytes(example):
    run = example()
    write(run)
    before = {path.name: path.read_bytes() for path in run.tables.iterdir()}
    write(run)
    assert before == {path.name: path.read_bytes() for path in run.tables.iterdir()}
    assert set(before) == {f"{name}.{kind}" for name in ("table2", "fusion") for kind in ("csv", "md", "tex")} | {
        "table2_detail.csv"
    }


# Intervals and verdicts


def test_tie_is_called_a_tie_and_fused_rows_are_compared_with_both_bands(example):
    run = example()  # AP rises from visible to fnet
    significance = run.write_significance([("visible", "fnet"), ("fnet", "infrared")])
    tables.main([*run.tables_arguments(), *significance])
    table = read_csv(run.tables / "table2.csv")[0].set_index("variant")
    assert table["against_best"].tolist() == ["worse", "worse", "tie", "best"]
    assert table["against_bands"].fillna("").tolist() == ["", "", "not shown", "ahead"]
    assert (table["Average_interval_low"] == 0.4).all() and (table["Car_interval_high"] == 0.6).all()
    text = (run.tables / "table2.md").read_text()
    assert "hold for these trained detectors. The p values are corrected by the largest of 6 differences." in text
    assert "| tie |" in text
    assert "Intervals: bootstrap of 15 whole sequences, 1000 draws, 95 %, for these trained detectors (variance" in text


def test_the_table_by_condition_has_intervals_differences_and_what_it_rests_on(example):
    run = example(variants=("visible", "infrared", "fnet"))
    significance = run.write_significance()
    run.change(run.folder / "significance.json", "conditions", value={
        "day": condition_of(run.variants), "night": condition_of(run.variants, "3 scenes hold boxes") | {"images": 1},
    })  # fmt: skip
    run.change(run.split / "dataset.json", "conditions", value={"source": "the data set"})
    tables.main([*run.tables_arguments(), *significance])
    table, facts = read_csv(run.tables / "table2_conditions.csv")
    assert table["condition"].tolist() == ["day"] * 3 + ["night"] * 3
    assert table["variant"].tolist() == [*run.variants] * 2
    fnet = table.iloc[2]
    assert fnet[["AP", "AP_low", "AP_high"]].tolist() == pytest.approx([0.34, 0.2, 0.6])
    assert fnet[["less_visible", "less_visible_low", "less_visible_high"]].tolist() == pytest.approx([0.04, -0.1, 0.2])
    assert (
        fnet["less_infrared"] == pytest.approx(0.02)
        and table["less_visible"].isna().tolist() == [True, False, False] * 2
    )
    assert facts["conditions"] == "the data set" and facts["digest_test"]
    text = (run.tables / "table2_conditions.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2] == "| day | visible | 0.300 | 0.200 to 0.600 |  |  | -0.020 | -0.100 to 0.200 |"
    assert lines[4].startswith("|  | fnet | 0.340 |") and lines[5].startswith("| night | visible |")
    assert "day: 4 images, 17 boxes in 3 scenes." in text
    assert "night: 1 images, 17 boxes in 3 scenes; 3 scenes hold boxes." in text
    assert (
        "Source of the conditions: the data set." in text
        and "Test images without a condition: 1." in text
        and "bootstrap over the sequences of each condition (1000 resamples)" in text
    )
    assert "\\addlinespace\nnight" in (run.tables / "table2_conditions.tex").read_text()


def test_without_a_known_condition_the_table_is_empty_and_says_so(example):
    run = example()
    significance = run.write_significance()
    run.change(run.folder / "significance.json", "conditions", value={})
    tables.main([*run.tables_arguments(), *significance])
    assert read_csv(run.tables / "table2_conditions.csv")[0].empty
    assert "No test image has a known condition." in (run.tables / "table2_conditions.tex").read_text()


def test_significance_of_another_number_of_detections_is_refused(example):
    run = example()
    significance = run.write_significance()
    for variant in run.variants:
        run.change(run.ap(variant), "provenance", "most_detections", value=100)
    run.change(run.folder / "significance.json", "provenance", "most_detections", value=300)
    with pytest.raises(InputError, match="most_detections is 300, expected 100"):
        tables.main([*run.tables_arguments(), *significance])


def test_a_test_keeps_its_detections_of_all_classes_together_and_the_note_says_so(example):
    run = example()
    for variant in run.variants:
        run.change(run.ap(variant), "provenance", "max_detections", value=100)
    write(run)
    assert (
        "before that, only the 100 highest-scoring detections of each image, over all classes, are kept."
        in (run.tables / "table2.md").read_text()
    )


def test_why_nothing_was_tested_stands_below_the_table(example):
    run = example()
    tables.main([*run.tables_arguments(), *run.write_significance(untested="3 scenes hold boxes")])
    text = (run.tables / "table2.md").read_text()
    assert "No difference was tested: 3 scenes hold boxes." in text and "| not tested |" in text
    assert "A tie is" not in text


def test_significance_of_other_predictions_is_refused(example):
    run = example()
    significance = run.write_significance()
    run.change(run.ap("fnet"), "provenance", "predictions", value="other")
    with pytest.raises(InputError, match="the predictions of 'fnet' with seed 0 have digest"):
        tables.main([*run.tables_arguments(), *significance])


def test_trainings_of_one_seed_in_another_order_are_refused(example):
    run = example()
    for variant in run.variants:
        run.change(run.training(variant), "data", "order", value="a")
    tables.main(run.tables_arguments())
    run.change(run.training("fnet"), "data", "order", value="b")
    with pytest.raises(InputError, match=r"data\.order is 'b', expected 'a'"):
        tables.main(run.tables_arguments())


def test_late_is_marked_as_not_in_the_paper_in_its_own_row(example):
    run = example()
    run.add_late()
    tables.main(run.tables_arguments())
    table = read_csv(run.tables / "table2.csv")[0].set_index("variant")
    assert table.index[-1] == "late"
    assert table["remark"].dropna().to_dict() == {"late": "not in the paper"}
    for kind, start in (("md", "| late "), ("tex", "late ")):
        rows = [line for line in (run.tables / f"table2.{kind}").read_text().splitlines() if line.startswith(start)]
        assert len(rows) == 1 and rows[0].startswith(f"{start}(not in the paper)")


def test_bounds_are_one_text_beside_the_average(example):
    run = example(seeds=(0, 1))
    tables.main(run.tables_arguments())
    text = (run.tables / "table2.md").read_text()
    assert "range over seeds" in text.splitlines()[2] and re.search(r"\| 0\.\d{3}\u20130\.\d{3} \|", text)
    run = example()
    tables.main([*run.tables_arguments(), *run.write_significance()])
    text = (run.tables / "table2.md").read_text()
    assert "| 95 % interval |" in text and "| 0.400\u20130.600 |" in text and "seed |" not in text.splitlines()[2]


def test_leakage_stands_below_the_table(example):
    run = example()
    facts = {"share": 0.5, "images": 6, "threshold": 0.95, "descriptor": "correlation", "sequence": 0.25, "place": 1}
    facts["neighbours"] = {"1": 0.125, "3": 0.2, "10": None}
    write_json(run.split / "leakage.json", facts)
    write(run)
    text = (run.tables / "table2.md").read_text()
    for said in (
        "of the 6 test images, 25.0% have a training image of the same sequence, 100.0% one of the same place, and "
        "50.0% a near duplicate in the training set. Share of test images with a training image whose file name "
        "differs only in its last number: 12.5% (by at most 1), 20.0% (by at most 3). Near duplicates have a "
        "similarity of at least 0.95 (correlation).",
    ):
        assert said in text


def test_difference_is_ours_minus_the_papers(example):
    row = write(example()).set_index("variant").loc["fnet"]
    assert row["Average_difference"] == pytest.approx(row["Average"] - 0.620)


# Results that must not be combined in one table


def without(arguments, option):
    """Return arguments without an option and its values."""
    start = arguments.index(option)
    end = next(index for index in range(start + 1, len(arguments)) if arguments[index].startswith("--"))
    return arguments[:start] + arguments[end:]


def test_each_table_can_be_had_alone(example):
    run = example()
    arguments = run.tables_arguments()
    tables.main(arguments)
    both = {path.name: path.read_bytes() for path in run.tables.iterdir()}
    for missing, start in (("--metrics", "table2"), ("--ap", "fusion")):
        shutil.rmtree(run.tables)
        tables.main(without(arguments, missing))
        alone = {path.name: path.read_bytes() for path in run.tables.iterdir()}
        assert alone and alone == {name: content for name, content in both.items() if name.startswith(start)}
    with pytest.raises(InputError, match="neither --ap nor --metrics"):
        tables.main(without(without(arguments, "--metrics"), "--ap"))


def refused(run, *parts: str) -> None:
    with pytest.raises(InputError) as error:
        tables.main(run.tables_arguments())
    for part in parts:
        assert part in str(error.value)
    assert not run.tables.exists()


def test_method_without_manifest_is_refused(example):
    run = example()
    arguments = run.tables_arguments()
    arguments.remove(str(run.folder / "fused/fnet/manifest.csv"))
    with pytest.raises(InputError, match="--fused-manifests: found average; expected a file for method 'fnet'"):
        tables.main(arguments)


def test_method_without_metrics_is_refused(example):
    run = example()
    arguments = run.tables_arguments()
    arguments.remove(str(run.folder / "metrics/fnet.csv"))
    with pytest.raises(InputError, match="--metrics: found average; expected a file for method 'fnet'"):
        tables.main(arguments)


def test_missing_ap_file_of_a_variant_is_refused(example):
    run = example()
    arguments = run.tables_arguments()
    arguments.remove(str(run.ap("infrared")))
    with pytest.raises(InputError, match="--ap: no file of variant 'infrared'"):
        tables.main(arguments)


def test_missing_seed_is_refused(example):
    run = example(seeds=(0, 1))
    arguments = run.tables_arguments()
    arguments.remove(str(run.ap("average", 1)))
    with pytest.raises(InputError, match="variant 'average' has no file with seed 1, but variant 'visible' has one"):
        tables.main(arguments)


def test_variant_that_is_not_asked_for_is_refused(example):
    run = example()
    arguments = run.tables_arguments()
    arguments.remove("visible")
    with pytest.raises(InputError, match=r"ap.json: found variant 'visible'; expected one of --variants"):
        tables.main(arguments)


def test_same_variant_and_seed_twice_is_refused(example):
    run = example()
    arguments = run.tables_arguments()
    arguments.insert(arguments.index("--ap") + 1, str(run.ap("fnet")))
    with pytest.raises(InputError, match="both contain variant 'fnet' with seed 0"):
        tables.main(arguments)


def test_other_recipe_is_refused(example):
    run = example()
    run.change(run.training("fnet"), "recipe", "epochs", value=41)
    refused(run, str(run.ap("fnet")), str(run.ap("visible")), "training.recipe.epochs is 41, expected 40")


def test_recipe_key_that_only_one_variant_has_is_refused(example):
    run = example()
    run.change(run.training("infrared"), "recipe", "mixup", value=0.5)
    refused(run, "training.recipe.mixup is 0.5, expected None")


def test_other_protocol_is_refused(example):
    run = example()
    run.change(run.ap("fnet"), "protocol", value="another")
    refused(run, str(run.ap("fnet")), str(run.ap("visible")), "protocol is 'another'")


def test_other_version_is_refused(example):
    run = example()
    run.change(run.ap("fnet"), "provenance", "versions", "ultralytics", value="8.4.0")
    refused(run, str(run.ap("fnet")), "testing.versions.ultralytics is '8.4.0'")


def test_detector_trained_on_another_variant_is_refused(example):
    run = example()
    run.change(run.ap("fnet"), "provenance", "trained_on", value="visible")
    refused(run, str(run.ap("fnet")), "trained on 'visible'")


def test_detector_without_its_training_is_refused(example):
    run = example()
    run.change(run.ap("fnet"), "provenance", "training", value="0123456789abcdef")
    refused(run, str(run.ap("fnet")), "digest 0123456789ab; expected a provenance.json")


def test_other_test_labels_are_refused(example):
    run = example()
    run.change(run.ap("visible"), "provenance", "data", "labels", value="other")
    refused(run, str(run.ap("visible")), "truth_test.json", "data.labels is 'other'")


def test_other_training_labels_are_refused(example):
    run = example()
    run.change(run.training("visible"), "data", "labels", value="other")
    refused(run, str(run.training("visible")), "truth_train.json", "data.labels is 'other'")


def test_other_number_of_test_boxes_is_refused(example):
    run = example()
    run.change(run.ap("fnet"), "classes", "Car", "boxes", value=5)
    refused(run, str(run.ap("fnet")), "dataset.json", "boxes is")


def test_fused_images_that_were_made_anew_after_scoring_are_refused(example):
    run = example()
    manifest = run.folder / "fused/fnet/manifest.csv"
    frame, facts = read_csv(manifest)
    frame.loc[frame["name"] == run.test[0], "sha256"] = "0" * 64
    write_csv(manifest, frame, facts)
    refused(run, str(run.ap("fnet")), "fused images with digest", "as in the variant's manifest")


def test_manifest_that_lacks_an_image_of_the_split_is_refused(example):
    run = example()
    manifest = run.folder / "fused/average/manifest.csv"
    frame, facts = read_csv(manifest)
    write_csv(manifest, frame[frame["name"] != run.test[2]], facts)
    refused(run, str(manifest), "lacks 1 of the 14 images", repr(run.test[2]))


def test_list_that_is_not_the_one_of_dataset_json_is_refused(example):
    run = example()
    write_text(run.split / "test.txt", "".join(f"{name}\n" for name in run.test[1:]))
    refused(run, str(run.split / "test.txt"), str(run.split / "dataset.json"), "digest")


def test_method_scored_on_other_images_is_refused(example):
    run = example()
    metrics = run.folder / "metrics/fnet.csv"
    frame, facts = read_csv(metrics)
    write_csv(metrics, frame.iloc[1:], facts)
    refused(run, str(metrics), "average.csv", "scores 5 images", repr(run.test[0]))


def test_method_scored_in_another_convention_is_refused(example):
    run = example()
    metrics = run.folder / "metrics/fnet.csv"
    write_csv(metrics, read_csv(metrics)[0], {"convention": "bits"})
    refused(run, str(metrics), "average.csv", "convention is 'bits', expected 'reference'")


def test_metrics_of_other_fused_images_than_the_manifests_are_refused(example):
    run = example()
    metrics = run.folder / "metrics/fnet.csv"
    frame, facts = read_csv(metrics)
    write_csv(metrics, frame, facts | {"fused_sha256": "0" * 64})
    refused(run, str(metrics), "the scored images have digest 000000000000", "as in the manifest of 'fnet'")


def test_method_scored_by_other_metrics_is_refused(example):
    run = example()
    metrics = run.folder / "metrics/fnet.csv"
    frame, facts = read_csv(metrics)
    write_csv(metrics, frame.drop(columns="VIF"), facts)
    refused(run, str(metrics), "expected name, MI, VIF, Qabf, SSIM")


def test_file_without_a_key_is_named(example):
    run = example()
    scores = read_json(run.ap("infrared"))
    del scores["average"]
    write_json(run.ap("infrared"), scores)
    refused(run, str(run.ap("infrared")), "'average'")


def test_variant_named_twice_is_refused(example):
    with pytest.raises(InputError, match="expected each variant once"):
        tables.main([*example().tables_arguments(), "fnet"])


# The fusion metrics


def test_fusion_table_holds_means_over_the_images(example):
    run = example()
    write(run)
    table, facts = read_csv(run.tables / "fusion.csv")
    metrics = ["MI", "VIF", "Qabf", "SSIM"]
    beside = [f"{name}_{kind}" for name in metrics for kind in ("low", "high", "p")]
    assert list(table.columns) == ["method", *metrics, "images", *beside]
    images = read_csv(run.folder / "metrics/fnet.csv")[0]
    assert table.set_index("method").at["fnet", "VIF"] == pytest.approx(images["VIF"].mean(), abs=1e-12)
    assert facts["convention"] == "reference"
    assert facts["images"] == "6"


def write_metrics(run, method, values):
    write_csv(run.folder / f"metrics/{method}.csv", pd.DataFrame({"name": run.test, **values}), {"convention": "x"})


def test_fusion_metrics_are_drawn_and_tested_by_the_whole_scenes_of_the_split(example, rng):
    run = example()
    run.change(run.split / "dataset.json", "split", "unit", value="place")
    places = [number // 2 for number in range(len(run.test))]
    rows = [f"{name},s{name},p{place}\n" for name, place in zip(run.test, places, strict=True)]
    write_text(run.split / "scenes.csv", "".join(["name,sequence,place\n", *rows]))
    values = {method: {name: rng.random(6) for name in ("MI", "MSE", "mine")} for method in run.methods}
    for method in run.methods:
        write_metrics(run, method, values[method])
    before = tables.fusion_table(
        pd.concat([pd.DataFrame({"method": m, "name": run.test, **values[m]}) for m in run.methods])
    )
    tables.main([*run.tables_arguments(), "--scenes", str(run.split / "scenes.csv")])
    table, facts = read_csv(run.tables / "fusion.csv")
    pd.testing.assert_frame_equal(table[before.columns], before)  # means as ever
    assert facts["intervals"].startswith("bootstrap of 3 whole places (6 images), 10000 resamples, seed 0, 95 %")
    rows = table.set_index("method")
    for method in run.methods:
        expected = bootstrap_mean(values[method]["MI"], scene=np.array(places))
        assert tuple(rows.loc[method, ["MI_low", "MI_high"]]) == pytest.approx(expected)
    p = paired_test(values["average"]["MI"], values["fnet"]["MI"], scene=np.array(places))
    for metric, best in (("MI", table["MI"].idxmax()), ("MSE", table["MSE"].idxmin())):
        assert math.isnan(table[f"{metric}_p"][best])
        assert not math.isnan(table[f"{metric}_p"][1 - best])
    assert table["MI_p"][1 - table["MI"].idxmax()] == pytest.approx(p)
    assert table["mine_p"].isna().all()  # which is the better direction of it is unknown
    text = (run.tables / "fusion.md").read_text()
    assert "| Method | MI ↑ | MSE ↓ | mine |" in text and text.count("Intervals: bootstrap of 3 whole places") == 1
    assert re.search(r"<u>\d\.\d\d\\\*</u>", text) and "not significantly different from the best of its column" in text


def test_a_metric_named_like_a_bound_is_refused(example):
    run = example()
    for method in run.methods:
        write_metrics(run, method, {"MI": np.arange(6.0), "MI_low": np.arange(6.0)})
    with pytest.raises(InputError, match="found metric 'MI_low', the name of a column"):
        tables.main(run.tables_arguments())
    assert not run.tables.exists()


def test_undefined_metric_values_are_left_out_and_counted():
    metrics = pd.DataFrame({"method": ["a", "a", "b", "b"], "name": ["1", "2"] * 2, "MI": [1.0, math.nan, 2.0, 4.0]})
    table = tables.fusion_table(metrics).set_index("method")
    assert table["MI"].tolist() == [1.0, 3.0]
    assert table["MI_undefined"].tolist() == [1, 0]
    assert table["images"].tolist() == [2, 2]


def test_single_seed_tables_say_that_small_differences_may_be_noise(example):
    run = example()
    write(run)
    for kind in ("md", "tex"):
        text = (run.tables / f"table2.{kind}").read_text(encoding="utf-8")
        assert "may be due to the random seed" in text
        assert "anchor-free version of YOLOv5" in text
