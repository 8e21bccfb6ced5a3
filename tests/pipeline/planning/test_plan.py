"""Which methods run, what they read and make, and how it is told."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.corruptions import CORRUPTIONS
from pipeline.planning.external import content_digest
from pipeline.planning.imports import closure
from pipeline.planning.machine import find_machine, memory
from pipeline.planning.words import (
    cost_line,
    dataset_options,
    neutral_options,
    options,
    result_options,
    test_set_options,
)
from pipeline.stage import InputError

test_set_options.__test__ = False  # no test, by its name

ROOT = Path(__file__).resolve().parents[3]
DOORS = {
    **{"images": {"folder": "made"}, "function": {"callable": "ownfusion:fuse"}, "model": {"model": "mine.onnx"}},
    **{"words": {"command": ["prog", "{visible}", "{infrared}", "{output}"]}},
    **{"text": {"command": "prog {visible} {infrared} {output}"}},
}
BARE = {"methods": ["itfuse", "coconet", "average"], "weights": {"coconet": "missing.pt"}}


def test_a_method_without_weights_is_refused_left_out_or_trained(plan, touch):
    with pytest.raises(InputError, match=r"itfuse: none named in fusion.weights; coconet: missing.pt does not exist"):
        plan({"fusion": BARE})
    left_out = plan({"fusion": BARE | {"missing_weights": "leave_out"}})
    assert left_out.methods.names == ["average"] and list(left_out.methods.left_out) == ["itfuse", "coconet"]
    assert "\n  left out, because they have no weights: itfuse, coconet" in left_out.text()
    trained = BARE | {"missing_weights": "train", "training": {"itfuse": {"iterations": [7], "batch": 4}}}
    with pytest.raises(InputError, match=r"training coconet requires fusion.training.coconet.perceptual_weights"):
        plan({"fusion": trained})
    trained["training"]["coconet"] = {"perceptual_weights": "vgg.pth", "checkpoint_every": 9}
    methods = plan({"fusion": trained}).methods
    assert methods.names == ["itfuse", "coconet", "average"] and methods.trained == ["itfuse", "coconet"]
    assert methods.weights("itfuse") == ["<results>/fusion/itfuse/weights.safetensors"]
    assert methods.frozen_weights("coconet") == ["vgg.pth"] and methods.frozen_weights("itfuse") == []
    assert methods.weights("average") == []


def test_a_network_that_cannot_be_trained_here_says_what_its_training_takes(plan):
    with pytest.raises(
        InputError, match=r"the method sage has no weights .* cannot be trained here, which requires .* SAM"
    ):
        plan({"fusion": {"methods": ["sage"], "missing_weights": "train"}})


def test_methods_newer_than_the_paper_are_rows_of_table_1_and_of_table_2_where_named(plan, touch):
    newer = ["sage", "gifnet", "mmdrfuse", "sfdfusion"]
    touch(*(f"data/checkpoints/{folder}/weights" for folder in ("SAGE", "GIFNet", "MMDRFuse", "SFDFusion")))
    assert [name for name in plan("table1").methods.names if name in newer] == newer
    assert not {*newer} & {*plan("paper").methods.names}
    methods = plan("paper", {"fusion": {"methods": newer}}).methods
    assert methods.names == newer and methods.weights("sage") == ["data/checkpoints/SAGE"]


def test_weights_are_the_users_ours_or_trained(plan, touch):
    touch("itfuse.pth")
    given = {"fusion": {"methods": ["itfuse", "fnet"], "weights": {"itfuse": "itfuse.pth"}}}
    methods = plan(given).methods
    assert methods.weights("itfuse") == ["itfuse.pth"] and methods.trained == []
    assert methods.weights("fnet") == ["<results>/fusion/fnet/weights.safetensors"]
    packaged = plan(given, {"fnet": {"weights": "packaged"}})
    assert packaged.methods.weights("fnet")[0].endswith("fusion/weights/fnet.safetensors")
    assert packaged.fnet_losses() == [] and plan(given).fnet_losses() == ["<results>/fusion/fnet/losses.csv"]
    with pytest.raises(InputError, match="ships no weights for itfuse"):
        plan(given, {"fusion": {"weights": {"itfuse": "packaged"}}})


def test_fnets_training_starts_from_the_packaged_weights_a_file_or_random_ones(plan, tmp_path):
    packaged = plan().methods
    assert packaged.start_weights()[0].endswith("fusion/weights/fnet.safetensors") and packaged.start_digest()
    (tmp_path / "mine.pth").write_bytes(b"1")
    mine = plan({"fnet": {"start": "mine.pth"}}).methods
    before = mine.start_digest()
    (tmp_path / "mine.pth").write_bytes(b"2")
    assert mine.start_weights() == ["mine.pth"] and mine.start_digest() != before
    for experiment in ("paper", "msrs", "ablation", "table1"):
        methods = plan(experiment).methods
        assert methods.start_weights() == [] and methods.start_digest() == ""


def test_an_ablation_is_fnet_with_weights_of_its_own(plan):
    methods = plan("ablation").methods
    assert methods.run_as("lcsc") == "fnet" and methods.run_as("average") == "average"
    assert methods.weights("lcsc") == ["<results>/ablations/lcsc/weights.safetensors"]
    assert methods.revision("lcsc") == methods.revision("fnet") and methods.on_device("lcsc")


def test_fnet_sees_training_pairs_only_where_it_shares_the_data_set_with_boxes(plan):
    shared = plan("msrs").sources
    assert shared.fnet_names() == ["--names", "results/msrs/data/split/train.txt"]
    assert shared.fnet_pairs()[0] == "<results>/data/split/train.txt"
    apart = plan("paper").sources
    assert apart.fnet_names() == [] and "data/MSRS/test/ir" in apart.fnet_pairs()


def test_what_the_detector_sees_lies_in_the_data_set_or_among_the_fused_images(plan):
    sources = plan("paper").sources
    assert sources.variant_folders("visible") == ["data/M3FD/Vis"] == sources.variant_files("visible")
    assert sources.variant_manifest("visible") == []
    assert sources.variant_folders("fnet") == ["results/paper/fused/fnet"]
    assert sources.variant_manifest("fnet") == ["--manifest", "results/paper/fused/fnet/manifest.csv"]
    assert plan().sources.variant_files("visible") == [f"<results>/data/pairs/{part}.txt" for part in ("train", "test")]


def test_the_lists_that_split_a_data_set_are_watched(plan, touch):
    assert plan().sources.split_lists() == []
    assert plan({"dataset": {"train_list": "b.txt", "test_list": "a.txt"}}).sources.split_lists() == ["a.txt", "b.txt"]
    touch("data/train.txt", "data/test.txt", "data/to-do.txt")
    own = {"dataset": {"name": "m3fd", "root": "data", "split": "own"}}
    assert plan(own).sources.split_lists() == ["data/test.txt", "data/train.txt"]


def test_detectors_are_scored_by_every_label_set_where_there_are_several(plan, tmp_path):
    one = plan("msrs")
    assert not one.sources.several_truths() and one.truths("tables/truths.json") == []
    assert "boxes:" not in one.text()
    for kind in ("labels", "labels_infrared"):
        for part in ("train", "test"):
            (tmp_path / "data/MSRS" / part / kind).mkdir(parents=True)
    several = plan("msrs", {"dataset": {"truth": "union"}})
    assert several.truths("tables/truths.json") == ["<results>/tables/truths.json"]
    assert "  boxes: union; detectors are also scored with fused, infrared" in several.text().splitlines()
    assert len([folder for folder in several.sources.pairs("labels") if "labels_infrared" in folder]) == 2
    with pytest.raises(InputError, match=r"config: dataset: --truth visible: .* expected fused or infrared or union"):
        plan("msrs", {"dataset": {"truth": "visible"}})


def test_label_sets_of_folders_are_handed_on_by_name(plan, configure, tmp_path):
    sets = {"visible": ["a", "b"], "infrared": ["c"]}
    folders = {"name": "folders", "root": "data", "classes": ["car"], "labels": sets, "truth": "infrared"}
    words = dataset_options(configure({"dataset": folders}), "labels", "truth", "classes")
    assert words == [
        *("--classes", "car", "--dataset", "folders", "--truth", "infrared"),
        *("--label-set", "visible", "a", "b", "--label-set", "infrared", "c"),
    ]
    sources = plan({"dataset": folders}).sources
    assert sources.several_truths() and sources.folders("labels") == ["data/a", "data/b", "data/c"]
    before = sources.labels_digest()
    (tmp_path / "data/c").mkdir(parents=True)
    (tmp_path / "data/c/1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert plan({"dataset": folders}).sources.labels_digest() != before
    assert not plan({"dataset": folders | {"labels": {"visible": ["a"]}, "truth": None}}).sources.several_truths()


def test_tables_of_test_sets_are_of_every_column_and_set(plan, touch):
    touch("data/checkpoints/FNet/FNet.pth")
    targets = plan("table1", {"test_sets": {"only": ["NIR", "TNO"]}}).targets
    classical = ["average", "maximum", "laplacian", "dwt", "guided"]
    assert targets.columns("table1") == ["visible", "infrared", *classical, "fnet"]
    scores = targets.scores("table1_equal")
    assert len(scores) == 2 * 8 and "<results>/test_sets/sources/NIR/visible.csv" in scores
    assert "<results>/test_sets/equal/TNO/fnet.csv" in scores
    assert len(targets.manifests("table1")) == 2 * 6 and len(targets.costs("table1")) == 6
    ablations = plan("ablation").targets
    assert ablations.columns("table3")[0] == "lcsc" and ablations.costs("table3") == []
    assert ablations.tables_and_page() == ["<results>/tables/table3.csv"]


def test_a_test_set_is_read_as_its_authors_published_it_or_as_all_others(configure):
    config = configure("table1")
    roadscene = config["test_sets"]["sets"]["RoadScene"]
    wanted = "--colour grey --format jpg --precision fp32 --quality 95 --treatment authors"
    assert " ".join(test_set_options(config, roadscene, "authors")) == wanted
    assert " ".join(test_set_options(config, roadscene, "equal")) == "--colour auto --format png --precision fp32"


def test_the_rows_of_table_two_have_the_pooled_boxes_last(plan):
    targets = plan({"detection": {"seeds": [3, 5]}, "fusion": {"methods": ["average"]}}).targets
    assert targets.rows == ["visible", "infrared", "average", "late"]
    assert targets.runs()[-2:] == ["late/3", "late/5"] and len(targets.of_rows("ap.json")) == 8
    assert targets.of_first_seed(["visible"], "ap.json") == ["<results>/detection/visible/seed3/ap.json"]
    assert "late" not in plan({"detection": {"late": False}}).targets.rows


def test_brought_results_are_rows_of_a_run_each_file_and_watched_by_their_content(plan, tmp_path):
    (tmp_path / "one.json").write_text("[]")
    (tmp_path / "two.json").write_text("[] ")
    brought = {"mine": "one.json", "theirs": ["one.json", "two.json"]}
    targets = plan({"detection": {"results": brought, "seeds": [3, 4]}, "fusion": {"methods": ["average"]}}).targets
    assert targets.rows == ["visible", "infrared", "average", "late", "mine", "theirs"]
    assert targets.runs()[-5:] == ["late/3", "late/4", "mine/0", "theirs/0", "theirs/1"]
    assert targets.of_rows("ap.json")[-2:] == [f"<results>/detection/theirs/run{n}/ap.json" for n in (0, 1)]
    assert targets.of_first_seed(targets.rows, "x")[-3:] == [
        f"<results>/detection/{run}/x" for run in ("late/seed3", "mine/run0", "theirs/run0")
    ]
    assert not any("mine" in file for file in targets.of_variants("weights.pt"))
    assert content_digest("one.json") != content_digest("two.json")


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("average", "one.json", "results.average is also the name of another row"),
        ("mine", "none.json", "results.mine: none.json is not a file"),
        ("mine", ["one.json", "one.json"], "results.mine names the same results twice"),
    ],
)
def test_brought_results_that_cannot_be_a_row_are_refused_before_anything_runs(plan, touch, name, file, message):
    touch("one.json")
    with pytest.raises(InputError, match=message):
        plan({"detection": {"results": {name: file}}})


def test_detectors_that_are_not_retrained_are_tested_on_every_variant_for_a_table_of_their_own(plan, touch):
    touch("d.onnx")
    settings = {"coco": {"weights": "d.onnx", "classes": {"person": "People"}}}
    overlay = {"detection": {"as_is": settings, "trust_weights": True}, "fusion": {"methods": ["average"]}}
    targets = plan(overlay).targets
    assert targets.as_is_runs() == ["coco/visible", "coco/infrared", "coco/average"]
    assert "<results>/tables/table2_as_is.csv" in targets.tables_and_page()
    assert plan(overlay).sources.start_options() == plan().sources.start_options() == []  # trains nothing again
    trusted = {"detection": {"weights": "start.pt", "trust_weights": True}}
    assert plan(trusted).sources.start_options() == ["--trust-weights", "--weights", "start.pt"]
    assert "table2_as_is" not in " ".join(plan({"tables": ["fusion"]}, overlay).targets.tables_and_page())
    settings["coco"]["weights"] = "none.onnx"
    with pytest.raises(InputError, match=r"as_is.coco: none.onnx is not a file; expected the detector's weights"):
        plan(overlay)


def test_detectors_that_fuse_themselves_stand_after_the_methods_and_are_given_both_bands(plan):
    both = {"detection": {"stacked": True, "twostream": True}, "fusion": {"methods": ["average"]}}
    targets = plan(both).targets
    assert targets.variants == ["visible", "infrared", "average", "stacked", "twostream"]
    assert targets.rows == [*targets.variants, "late"] and targets.with_images == targets.variants[:3]
    assert plan().targets.inside == [] and plan("paper", {"fusion": {"methods": ["average"]}}).targets.inside == [
        "stacked",
        "twostream",
    ]
    sources = plan("paper", {"fusion": {"methods": ["average"]}}).sources
    assert sources.variant_folders("stacked") == ["data/M3FD/Vis"] and sources.variant_manifest("stacked") == []
    assert sources.variant_infrared("twostream") == ["--infrared", "data/M3FD/Ir"]
    assert sources.variant_infrared("infrared") == [] and sources.variant_infrared("average") == []
    assert sources.variant_files("twostream") == ["data/M3FD/Vis", "data/M3FD/Ir"]
    with pytest.raises(InputError, match=r"twostream is true and detection\.model is rtdetr-l, which cannot"):
        plan({"detection": {"model": "rtdetr-l", "twostream": True}})
    plan({"detection": {"model": "rtdetr-l", "stacked": True}})
    with pytest.raises(
        InputError, match=r"augment_on_device is true and so is detection.stacked or detection.twostream"
    ):
        plan({"detection": {"stacked": True, "training": {"augment_on_device": True}}})


def test_more_detections_of_a_class_than_a_test_keeps_in_an_image_are_refused(plan):
    with pytest.raises(InputError, match="most_detections is 300 and max_detections 100; expected max_detections"):
        plan({"detection": {"testing": {"most_detections": 300, "max_detections": 100}}})
    for testing in ({"most_detections": 300}, {"max_detections": 50}, {"most_detections": 300, "max_detections": 300}):
        plan({"detection": {"testing": testing}})


def test_the_scenes_of_test_sets_are_named_by_the_configuration(plan, touch):
    touch("data/checkpoints/FNet/FNet.pth")
    assert plan("table1").sources.test_set_scenes() == {}
    some = {
        "test_sets": {"only": ["NIR", "TNO"], "sets": {name: {"scenes": f"{name}.csv"} for name in ("TNO", "MRI_CT")}}
    }
    assert plan("table1", some).sources.test_set_scenes() == {"TNO": "TNO.csv"}


def test_options_are_words_in_a_fixed_order(configure):
    settings = {"size": [3, 4], "on": True, "off": False, "none": None, "empty": [], "a_b": 0, "workers": 2}
    assert options(settings) == ["--a-b", "0", "--on", "--size", "3", "4", "--workers", "2"]
    assert "--workers" not in result_options(settings) and neutral_options(settings) == "--workers 2"
    assert dataset_options(configure(), "train_list", "split") == ["--dataset", "synthetic", "--split", "own"]


@pytest.mark.parametrize(
    ("device", "cores", "remote", "wanted"),
    [
        ("cuda", 8, False, (8, 8, 1)),
        ("cpu", 8, False, (4, 1, 2)),
        ("cpu", 1, False, (1, 1, 1)),
        ("cpu", None, False, (1, 1, 1)),
        ("cpu", 8, True, (1, 1, 2)),
    ],
)
def test_a_detector_gets_its_share_of_the_cores(configure, monkeypatch, device, cores, remote, wanted):
    monkeypatch.setattr("pipeline.planning.machine.threads_available", lambda: 2)
    machine = find_machine(configure({"device": device}), cores, remote)
    assert (machine.detector_slots, machine.detector_threads, machine.trainings_at_once) == wanted


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("gpu", {"gpu": 1}),
        ("gpu:a100", {"gpu": 1, "gpu_model": "a100"}),
        ("gres", {"gres": "gpu:1"}),
        ("gres:a100", {"gres": "gpu:a100:1"}),
    ],
)
def test_a_gpu_is_asked_for_in_one_way_by_the_jobs_that_need_one(configure, asked, wanted):
    machine = find_machine(configure({"device": "cuda", "gpu_request": asked}), 8, False)
    assert {name: value("needs") for name, value in machine.gpu(lambda job: job == "needs").items()} == wanted
    assert {value("does not") for value in machine.gpu(lambda job: job == "needs").values()} == {None}
    assert find_machine(configure({"device": "cpu"}), 8, False).gpu() == {}


def found(resources):
    return {name: value({}) for name, value in resources.items()}


@pytest.mark.parametrize(("per_gpu", "most"), [(1, 1), (3, 3), ("auto", 8)])
def test_trainings_that_share_a_gpu_take_a_place_each_and_a_share_of_its_threads(configure, per_gpu, most):
    config = configure({"device": "cuda", "detection": {"per_gpu": per_gpu}})
    here = find_machine(config, 8, False)
    assert (here.most_per_gpu, here.gpu_places, here.detector_slots) == (most, most, 8 // most)
    assert (here.detector_threads, here.threads_alone) == (8, 8)
    assert (found(here.gpu()), found(here.gpu(shared=True))) == ({"gpu": most}, {"gpu": 1})
    # A cluster gives one GPU to the group of them, which asks for the same text as each.
    there = find_machine(config, None, False)
    assert found(there.gpu()) == {"gpu": 1}
    assert found(there.gpu(shared=True)) == ({"gpu": 1} if most == 1 else {"gres": "gpu:1"})


def test_a_gpu_of_a_named_model_can_be_shared(configure):
    config = configure({"device": "cuda", "gpu_request": "gpu:a100", "detection": {"per_gpu": 2}})
    assert found(find_machine(config, None, False).gpu(shared=True)) == {"gres": "gpu:a100:1"}
    assert find_machine(configure(config, {"device": "cpu"}), 8, False).most_per_gpu == 1


def test_a_job_that_lacked_memory_asks_for_more_at_its_next_attempt():
    assert [memory(12000)(None, attempt) for attempt in (1, 2, 3)] == [12000, 24000, 36000]


def test_the_plan_is_told_in_a_few_lines(plan, tmp_path, touch):
    touch("results/detection/visible/seed0/weights.pt")
    (tmp_path / "results/detection/cost.json").write_text('{"hours_in_all": 1.25}')
    assert plan().text().splitlines() == [
        "Plan: 6 variants x 1 seed of yolov5n at 192 pixels on synthetic",
        "  visible, infrared, fnet, average, maximum, laplacian",
        "  fused: 0 of 4 exist, 4 to do",
        "  detectors trained: 1 of 6 exist, 5 to do",
        "  detectors tested: 0 of 6 exist, 6 to do",
        "  FNet's weights: trained by this run (start: packaged)",
        "  estimated cost of training all detectors: about 1.2 hours, one after the other "
        "(results/detection/cost.json)",
    ]
    assert plan({"tables": ["fusion"]}).text().splitlines() == [
        "Plan: fusion metrics of 4 methods on synthetic; no detector is trained",
        "  fnet, average, maximum, laplacian",
        "  fused: 0 of 4 exist, 4 to do",
        "  FNet's weights: trained by this run (start: packaged)",
    ]
    assert plan("table1", {"tables": ["table1"]}).text().startswith("Plan: table1; no detector is trained")


def test_an_estimate_that_is_not_there_or_broken_is_none(tmp_path):
    unknown = cost_line(tmp_path / "cost.json")
    assert unknown.startswith("cost: not measured yet")
    for content in ("", "{}", '{"hours_in_all": null}', "[1]"):
        (tmp_path / "cost.json").write_text(content)
        assert cost_line(tmp_path / "cost.json") == unknown
    (tmp_path / "cost.json").write_text('{"hours_in_all": 24.04}')
    assert "about 24.0 hours" in cost_line(tmp_path / "cost.json")


def test_each_door_is_handed_on_checked_and_told(plan, tmp_path, touch):
    touch("made/1.png", "mine.onnx", "notes.txt")
    (tmp_path / "ownfusion.py").write_text("")
    doors = DOORS | {"function": DOORS["function"] | {"watch": ["notes.txt"]}}
    made = plan({"fusion": {"methods": [*doors, "average"], "own": doors}})
    own = made.own
    assert own.options("images") == ["--own", "folder=made"] and own.files("images") == ["made"]
    assert own.options("words") == ["--own", "command=prog '{visible}' '{infrared}' '{output}'"]
    assert own.options("text") == ["--own", "command=prog {visible} {infrared} {output}"]
    assert own.files("function") == ["notes.txt", "ownfusion.py"] and own.watch("function") == ["--watch", "notes.txt"]
    assert own.files("average") == own.options("average") == own.watch("average") == own.watch("model") == []
    told = next(line for line in made.text().splitlines() if line.startswith("  own methods"))
    assert "images (folder=made)" in told and "words (command=prog '{visible}'" in told
    checks = made.own_checks()
    assert len(checks) == 5 and all("--visible" not in check for check in checks)
    assert all("--size 320 240" in check for check in checks[1:])
    touch("results/data/split/train.txt", "results/data/split/test.txt")
    touch("results/data/pairs/Vis/1.png", "results/data/pairs/Ir/1.png")
    folder, *others = made.own_checks()
    assert all("--visible results/data/pairs/Vis --infrared" in check for check in (folder, *others))
    assert "--names" in folder and all("--first" in check and "--names" not in check for check in others)
    on_device = {name for name in doors if made.methods.on_device(name)}
    assert on_device == {"function"}


def test_an_own_method_is_tried_on_the_first_pair_of_the_data_on_disk(plan, tmp_path, touch):
    (tmp_path / "ownfusion.py").write_text("")
    mine = {"fusion": {"methods": ["mine"], "own": {"mine": {"callable": "ownfusion:fuse"}}}}
    touch("data/M3FD/Vis/1.png", "data/M3FD/Ir/1.png", "data/fusion_test/TNO/vi/1.png", "data/fusion_test/TNO/ir/1.png")
    dataset = {"dataset": {"name": "m3fd", "root": "data/M3FD"}}
    (check,) = plan(mine, dataset).own_checks()
    assert "--visible data/M3FD/Vis --infrared data/M3FD/Ir --first" in check
    sets = {"tables": ["table1"], "test_sets": {"sets": {"TNO": {"visible": "vi", "infrared": "ir"}}}}
    (check,) = plan(mine, dataset, sets).own_checks()
    assert "--visible data/fusion_test/TNO/vi --infrared data/fusion_test/TNO/ir --first" in check
    (check,) = plan(mine, {"synthetic": {"size": [640, 480]}}).own_checks()
    assert "--size 640 480" in check


def test_a_training_of_no_iterations_is_refused_before_anything_runs(plan):
    nothing = {"stage1_iterations": 0, "stage2_iterations": 0}
    with pytest.raises(InputError, match=r"fnet\.training has no iterations in either stage"):
        plan({"fnet": {"training": nothing}})
    assert plan({"fnet": {"training": nothing, "weights": "packaged"}})
    with pytest.raises(InputError, match=r"ablations\.no_training has no iterations"):
        plan("ablation", {"ablations": {"no_training": nothing}})


def test_a_folder_may_be_another_for_each_test_set(plan):
    own = plan({"fusion": {"methods": ["mine"], "own": {"mine": {"folder": "made/{dataset}"}}}}).own
    assert own.files("mine", "TNO") == ["made/TNO"] and own.options("mine") == ["--own", "folder=made/synthetic"]


def test_own_metrics_are_handed_on_with_what_they_watch(plan, tmp_path, touch):
    (tmp_path / "mymetric.py").write_text("import helper_of_metric")
    touch("helper_of_metric.py", "table.csv")
    metric = {"callable": "mymetric:kept", "better": "higher", "watch": ["table.csv"]}
    own = plan({"metrics": {"own": {"kept": metric, "less": metric | {"better": "lower"}}}}).own
    assert own.metric_files() == ["helper_of_metric.py", "mymetric.py", "table.csv"]
    assert own.metric_options() == [
        *("--own-metric", "kept:higher=mymetric:kept", "less:lower=mymetric:kept", "--watch", "table.csv")
    ]
    assert plan().own.metric_options() == plan().own.metric_files() == []


def test_extra_metrics_are_handed_on_by_name(plan):
    own = plan({"metrics": {"extra": ["QCV", "NCIE"]}}).own
    assert own.metric_options() == own.extra_options() == ["--extra", "QCV", "NCIE"]
    assert plan().own.extra_options() == []


@pytest.mark.parametrize("overlays", [[], ["msrs"], [{"device": "auto"}], [{"device": "cuda"}]])
def test_a_run_on_a_cluster_that_does_not_say_what_to_ask_for_is_refused(configure, overlays):
    with pytest.raises(
        InputError, match=r"config: (device: auto|gpu_request) .* expected device=cuda or device=cpu there"
    ):
        find_machine(configure(*overlays), 8, False, submits=True)


def test_a_run_on_a_cluster_asks_for_what_it_says(configure):
    said = {"device": "cuda", "gpu_request": "gres:a100"}
    asked = find_machine(configure("msrs", said), 8, False, submits=True).gpu()
    assert {name: value({}) for name, value in asked.items()} == {"gres": "gpu:a100:1"}
    assert find_machine(configure({"device": "cpu"}), 8, False, submits=True).gpu() == {}


def test_every_overlay_makes_a_plan(plan, configure):
    for name in ("paper", "msrs", "table1", "ablation"):
        assert plan(name).text().startswith("Plan: ")
    assert plan("msrs", "msrs-cpu").targets.seeds == [0, 1]
    assert yaml.safe_dump(configure("paper"))


def test_planning_loads_no_network_and_no_compiler():
    imports = "detection.datasets, fusion.methods, fusion.own.method, pipeline.planning.plan"
    code = f"import sys, {imports}; print({{'torch', 'numba', 'pycocotools', 'ultralytics'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout == "set()\n"


def test_planning_imports_no_higher_floor_not_even_late():
    modules = [f"pipeline.planning.{path.stem}" for path in (ROOT / "pipeline/planning").glob("*.py")]
    assert {name.partition(".")[0] for name in closure(modules, [ROOT], lambda name: True)} == {"pipeline"}


def test_labels_that_are_written_over_in_place_change_what_the_split_depends_on(plan, touch, tmp_path):
    assert plan().sources.labels_digest() == plan({"synthetic": {"seed": 1}}).sources.labels_digest()
    touch("set/visible/a.png", "set/infrared/a.png", "set/labels/a.txt", "set/classes.txt")
    mine = {"dataset": {"name": "folders", "root": "set", "classes": ["car"]}}
    before = plan(mine).sources.labels_digest()
    stamps = (tmp_path / "set/labels").stat()
    (tmp_path / "set/labels/a.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert (tmp_path / "set/labels").stat().st_mtime == stamps.st_mtime  # what a rule's input shows
    after = plan(mine).sources.labels_digest()
    (tmp_path / "set/classes.txt").write_text("bus")
    assert len({before, after, plan(mine).sources.labels_digest()}) == 3


def test_labels_in_a_json_file_are_watched_by_their_content(plan, touch, tmp_path):
    touch("set/visible/a.png", "set/infrared/a.png", "set/meta/train.json")
    dataset = {"name": "folders", "root": "set", "classes": ["car"], "labels": ["meta/train.json"]}
    sources = plan({"dataset": dataset}).sources
    assert sources.pairs("labels") == ["set/meta/train.json"]
    before = sources.labels_digest()
    (tmp_path / "set/meta/train.json").write_text("{}")
    assert sources.labels_digest() != before


def test_a_class_left_out_that_is_none_is_refused_before_anything_runs(plan, touch):
    touch("set/visible/a.png", "set/infrared/a.png", "set/labels/a.txt")
    dataset = {"name": "folders", "root": "set", "classes": ["car"], "leave_out": ["dog"]}
    with pytest.raises(
        InputError, match="config: dataset: --leave-out dog: expected some, but not all, of --classes car"
    ):
        plan({"dataset": dataset})


def test_worse_pairs_are_tested_by_every_variant_that_sees_the_band_and_can_be_made_anew(plan, tmp_path, touch):
    touch("data/mine/1.png")
    asked = {"robustness": [{"kind": "infrared_shift", "levels": [16, 4]}, {"kind": "visible_missing"}]}
    own = {"fusion": {"methods": ["average", "mine"], "own": {"mine": {"folder": "data/mine"}}}}
    targets = plan(asked, own, {"detection": {"stacked": True}}).targets
    assert targets.corruptions == {"infrared_shift": ["4", "16"], "visible_missing": ["black", "grey"]}
    assert targets.seeing("infrared_shift") == ["infrared", "average", "stacked"]
    assert targets.seeing("visible_missing") == ["visible", "average", "stacked"]
    assert targets.corrupted_rows == ["visible", "infrared", "average", "stacked", "late"]
    assert targets.tables_and_page()[-1] == "<results>/tables/robustness.csv"
    assert "trained detectors are tested on corrupted images: infrared_shift, visible_missing" in plan(asked).text()
    assert plan().targets.losses() == plan().targets.robustness_table() == []


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            {"robustness": [{"kind": "infrared_shift", "levels": [5]}]},
            "robustness: infrared_shift has no level 5; expected",
        ),
        ({"robustness": [{"kind": "visible_fog"}] * 2}, "robustness names visible_fog twice"),
        ({"robustness": [{"kind": "visible_fog"}], "tables": ["fusion"]}, "robustness tests the detectors of table2"),
    ],
)
def test_worse_pairs_that_cannot_be_made_are_refused_before_anything_runs(plan, overlay, message):
    with pytest.raises(InputError, match=f"config: {message}"):
        plan(overlay)


def test_the_robustness_overlay_and_the_schema_name_every_kind_and_level(plan):
    worse = plan("robustness").targets.corruptions
    assert worse == {kind: list(corruption.values) for kind, corruption in CORRUPTIONS.items()}
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())["properties"]["robustness"]
    properties = schema["items"]["properties"]
    assert properties["kind"]["enum"] == list(CORRUPTIONS)
    levels = {str(level) for level in properties["levels"]["items"]["enum"]}
    assert levels == {level for corruption in CORRUPTIONS.values() for level in corruption.values}
    assert list(plan("robustness-small").targets.corruptions.values()) == [
        ["4", "16"],
        ["3", "5"],
        ["3", "5"],
        ["black", "grey"],
    ]
