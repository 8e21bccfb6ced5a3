"""The workflow: clean, planned as the configuration says, and strict about it."""

import itertools
import re
import shlex
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from running import BIN, ROOT, dry_run, plan
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

from detection.datasets import DATASETS
from fusion.methods import METHODS


def keys(mapping, prefix=""):
    for key, value in mapping.items():
        yield from keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_the_workflow_is_linted_and_formatted():
    for command in (["snakemake", "--lint"], ["snakefmt", "--check", "workflow"]):
        result = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_default_plan_trains_every_variant_once(tmp_path):
    stats = plan(dry_run(tmp_path))
    assert stats == {
        **{
            "generate_pairs": 1,
            "save_config": 1,
            "audit_dataset": 1,
            "prepare_split": 1,
            "train_fnet": 1,
            "fuse_pairs": 4,
        },
        **{
            "score_fusion": 4,
            "describe_variant": 6,
            "estimate_cost": 1,
            "train_detector": 6,
            "test_detector": 6,
            "pool_boxes": 1,
            "test_differences": 1,
            "sort_errors": 1,
            "list_objects": 1,
        },
        **{"measure_cost": 4, "explain_fnet": 1, "build_table2": 1, "build_fusion_table": 1},
        **{"build_error_table": 1, "build_cost_table": 1, "build_report": 1, "all": 1, "total": 47},
    }


def test_the_order_in_which_the_rules_are_included_does_not_matter(tmp_path):
    wanted = plan(dry_run(tmp_path))
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    text = (ROOT / "workflow/Snakefile").read_text()
    includes = re.findall(r"^include: .*\n", text, re.MULTILINE)
    assert len(includes) == 8
    for first, last in zip(includes[:4], includes[:3:-1], strict=True):
        text = text.replace(first, "FIRST").replace(last, first).replace("FIRST", last)
    (tmp_path / "workflow/Snakefile").write_text(text)
    assert plan(dry_run(tmp_path, "--snakefile", str(tmp_path / "workflow/Snakefile"))) == wanted


def test_the_plan_is_told_once_and_not_where_quiet_is_asked_for(tmp_path):
    text = dry_run(tmp_path)
    assert text.count("Plan: ") == 1 and "Plan: 6 variants x 1 seed of yolov5n at 192 pixels on synthetic\n" in text
    assert "Plan: " not in dry_run(tmp_path, "--quiet", "all")


def test_fusion_metrics_alone_train_no_detector(tmp_path):
    assert plan(dry_run(tmp_path, overlays=[{"tables": ["fusion"]}])) == {
        **{"generate_pairs": 1, "save_config": 1, "audit_dataset": 1, "prepare_split": 1, "train_fnet": 1},
        **{"fuse_pairs": 4, "score_fusion": 4, "build_fusion_table": 1, "all": 1, "total": 15},
    }


def lay_out(folder, name, files):
    for file in files:
        (folder / "data" / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name / file).touch()


def test_the_papers_plan_is_right_with_the_data_laid_out_as_the_readme_says(tmp_path):
    lay_out(tmp_path, "M3FD", ["Vis/00000.png", "Ir/00000.png", "Annotation/00000.xml"])
    lay_out(tmp_path, "MSRS", [f"{part}/{kind}/1.png" for part in ("train", "test") for kind in ("vi", "ir")])
    weights = yaml.safe_load((ROOT / "config/paper.yaml").read_text())["fusion"]["weights"]
    for path in weights.values():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    text = dry_run(tmp_path, overlays=[ROOT / "config/paper.yaml"])
    stats = plan(text)
    # Visible, infrared and thirteen methods, three seeds each.
    jobs = [stats[rule] for rule in ("train_fnet", "fuse_pairs", "train_detector", "test_detector")]
    assert jobs == [1, 13, 51, 51] and "left out" not in text
    assert "generate_pairs" not in stats
    for wanted in ("--dataset m3fd", "--split random-3800-400"):
        assert wanted in re.search(r"python -m detection.prepare .*", text)[0]
    (training,) = re.findall(r"python -m fusion.train .*", text)
    assert "--visible data/MSRS/train/vi data/MSRS/test/vi --infrared data/MSRS/train/ir data/MSRS/test/ir" in training
    for wanted in ("--stage1-iterations 20000", "--stage2-iterations 20000", "--batch 16", "--crop 128", "--lr 0.0001"):
        assert f"{wanted} " in training
    assert "--names" not in training
    commands = re.findall(r"python -m detection.train .*", text)
    (recipe,) = {re.search(r"--model .*(?= --seed)", command)[0] for command in commands}
    for wanted in ("--optimizer SGD", "--lr0 0.01", "--epochs 100", "--batch 16", "--model yolov5s --image-size 640"):
        assert wanted in recipe


@pytest.mark.parametrize(
    ("overlay", "sections"),
    [("paper", ("fnet", "detection")), ("msrs", ("fnet", "detection")), ("ablation", ("fnet",))],
)
def test_no_training_option_of_the_default_reaches_the_papers_experiments(overlay, sections):
    default, papers = (yaml.safe_load((ROOT / file).read_text()) for file in ("config.yaml", f"config/{overlay}.yaml"))
    for section in sections:
        assert default[section]["training"].keys() <= papers[section]["training"].keys()


def test_a_hostile_folder_name_stays_one_quoted_word(tmp_path):
    root = tmp_path / "a b'c\"d $(touch owned); é"
    for kind in ("Vis", "Ir", "Annotation"):
        (root / kind).mkdir(parents=True)
    text = dry_run(tmp_path, overlays=[{"dataset": {"name": "m3fd", "root": str(root)}}])
    (command,) = re.findall(r"python -m detection.prepare .*", text)
    words = shlex.split(command)
    assert words[words.index("--root") + 1] == str(root)
    assert not list(tmp_path.rglob("owned"))


def test_without_the_data_the_plan_says_which_folders_are_missing(tmp_path):
    text = dry_run(tmp_path, overlays=[ROOT / "config/paper.yaml"], check=False)
    assert "data/M3FD/Vis" in text and "Missing" in text


def test_fnet_sees_training_pairs_only_where_it_shares_the_detection_data(tmp_path):
    kinds = ("vi", "ir", "labels")
    lay_out(tmp_path, "MSRS", [f"{part}/{kind}/1.png" for part in ("train", "test") for kind in kinds])
    text = dry_run(tmp_path, overlays=[ROOT / "config/msrs.yaml"])
    (training,) = re.findall(r"python -m fusion.train .*", text)
    assert "--names results/msrs/data/split/train.txt" in training


def test_detectors_are_scored_by_every_label_set_that_the_data_set_has(tmp_path):
    kinds = ("vi", "ir", "labels")
    lay_out(tmp_path, "MSRS", [f"{part}/{kind}/1.png" for part in ("train", "test") for kind in kinds])
    text = dry_run(tmp_path, overlays=[ROOT / "config/msrs.yaml"])
    assert "score_by_truths" not in plan(text) and "--truths " not in text and "--truth-table" not in text
    lay_out(tmp_path, "MSRS", [f"{part}/labels_infrared/1.txt" for part in ("train", "test")])
    overlay = {"dataset": {"truth": "infrared"}}
    text = dry_run(tmp_path, overlays=[ROOT / "config/msrs.yaml", overlay])
    assert plan(text)["score_by_truths"] == 1
    assert "--truth infrared" in re.search(r"python -m detection.prepare .*", text)[0]
    assert "late/2=" in re.search(r"python -m detection.truths .*", text)[0]
    assert "--truths results/msrs/tables/truths.json" in re.search(r"python -m reports.tables .*--training.*", text)[0]
    assert "--truth-table results/msrs/tables/table2_truth.csv" in text


def test_label_sets_of_another_form_are_refused(tmp_path):
    for labels in ({"union": ["a"]}, {"A": ["a"]}, {"a": []}, {}, {"a": ["-b"]}):
        text = dry_run(tmp_path, overlays=[{"dataset": {"labels": labels}}], check=False)
        assert "labels" in text and "Job stats" not in text


def test_a_method_without_weights_is_refused_left_out_or_trained_as_the_configuration_says(tmp_path):
    wanted = {"methods": ["itfuse", "coconet", "average"], "weights": {"coconet": "missing.pt"}}
    text = dry_run(tmp_path, overlays=[{"fusion": wanted}], check=False)
    assert "itfuse: none named in fusion.weights; coconet: missing.pt does not exist" in text
    text = dry_run(tmp_path, overlays=[{"fusion": wanted | {"missing_weights": "leave_out"}}])
    assert "left out: itfuse has no weights" in text and "left out: coconet has no weights" in text
    assert "  left out, because they have no weights: itfuse, coconet\n" in text
    assert plan(text)["fuse_pairs"] == 1 and "train_method" not in plan(text)
    trained = wanted | {"missing_weights": "train", "training": {"itfuse": {"iterations": [7], "batch": 4}}}
    text = dry_run(tmp_path, overlays=[{"fusion": trained}], check=False)
    assert "training coconet requires fusion.training.coconet.perceptual_weights" in text
    (tmp_path / "vgg.pth").touch()
    trained["training"]["coconet"] = {"perceptual_weights": "vgg.pth", "checkpoint_every": 9}
    text = dry_run(tmp_path, overlays=[{"fusion": trained}])
    assert plan(text)["train_method"] == 2 and plan(text)["fuse_pairs"] == 3
    itfuse, coconet = sorted(re.findall(r"python -m fusion.train .*", text), key=lambda line: "coconet" in line)
    assert "--method itfuse" in itfuse and "--batch 4 --iterations 7" in itfuse
    assert "--perceptual-weights vgg.pth --checkpoint-every 9" in coconet
    assert "--weights results/fusion/itfuse/weights.safetensors" in text


PAPER_SETS = {
    **{"TNO": "vi ir", "RoadScene": "vi ir", "NIR": "VIS NIR"},
    **{"MRI_CT": "CT MRI", "MRI_PET": "PET MRI", "MRI_SPECT": "SPECT MRI"},
}


def lay_out_test_sets(folder):
    for name, kinds in PAPER_SETS.items():
        lay_out(folder, f"fusion_test/{name}", [f"{kind}/1.png" for kind in kinds.split()])


def test_table1_scores_every_method_on_six_sets_in_two_treatments_and_needs_no_boxes(tmp_path):
    lay_out_test_sets(tmp_path)
    lay_out(tmp_path, "checkpoints/FNet", ["FNet.pth"])
    text = dry_run(tmp_path, overlays=[ROOT / "config/table1.yaml"])
    assert plan(text) == {
        **{"fuse_test_set": 6 * 6 * 2, "score_test_set": 6 * 6 * 2, "score_source": 2 * 6, "measure_cost": 6},
        **{"build_test_set_table": 2, "save_config": 1, "all": 1, "total": 166},
    }
    fnet = [line for line in re.findall(r"python -m fusion.fuse .*", text) if "--method fnet" in line]
    assert sum("--weights data/checkpoints/FNet/FNet.pth" in line for line in fnet) == 12
    treatments = {}
    for line in fnet:
        name, how = re.search(r"--visible data/fusion_test/(\w+)/", line)[1], re.search(r"--colour .*? --vis", line)[0]
        how = how.removesuffix(" --vis").removeprefix("--colour ")
        assert how.endswith(" --treatment authors") == (not how.startswith("auto"))
        treatments.setdefault(name, []).append(how.removesuffix(" --treatment authors"))
    equal = "auto --format png --precision fp32"
    assert {name: sorted(how) for name, how in treatments.items()} == {
        **{name: sorted([equal, "grey --format png --precision fp32"]) for name in ("TNO", "NIR")},
        "RoadScene": [equal, "grey --format jpg --precision fp32 --quality 95"],
        **{name: [equal, "ycbcr-studio --format png --precision fp32"] for name in ("MRI_CT", "MRI_PET", "MRI_SPECT")},
    }


def test_statistics_get_scenes_conditions_and_the_number_of_detections(tmp_path):
    text = dry_run(tmp_path, overlays=[{"detection": {"testing": {"most_detections": 300}}}])
    (differences,) = re.findall(r"python -m detection.significance .*", text)
    split = "results/data/split"
    for wanted in (f"--scenes {split}/scenes.csv", f"--conditions {split}/conditions.json", "--most-detections 300"):
        assert wanted in differences
    tests = re.findall(r"python -m detection.test .*", text)
    assert tests and all("--most-detections 300" in test and "--max-detections" not in test for test in tests)
    fusion, table2 = sorted(re.findall(r"python -m reports.tables .*", text), key=lambda line: "--ap" in line)
    assert f"--scenes {split}/scenes.csv" in fusion and "--significance results/tables/significance.json" in table2


def test_table1_of_some_sets_plans_those_alone(tmp_path):
    lay_out_test_sets(tmp_path)
    lay_out(tmp_path, "checkpoints/FNet", ["FNet.pth"])
    some = {"test_sets": {"only": ["NIR"]}, "tables": ["table1"]}
    text = dry_run(tmp_path, overlays=[ROOT / "config/table1.yaml", some])
    stats = plan(text)
    assert (stats["fuse_test_set"], stats["score_source"], stats["build_test_set_table"]) == (6, 2, 1)
    assert "--scenes" not in re.search(r"python -m reports.test_sets .*", text)[0]
    (tmp_path / "nir.csv").touch()
    some["test_sets"]["sets"] = {"NIR": {"scenes": "nir.csv"}}
    text = dry_run(tmp_path, overlays=[ROOT / "config/table1.yaml", some])
    assert "--scenes NIR=nir.csv " in re.search(r"python -m reports.test_sets .*", text)[0]


def test_table3_trains_each_ablation_with_its_own_override(tmp_path):
    lay_out_test_sets(tmp_path)
    lay_out(tmp_path, "MSRS", [f"{part}/{kind}/1.png" for part in ("train", "test") for kind in ("vi", "ir")])
    text = dry_run(tmp_path, overlays=[ROOT / "config/ablation.yaml"])
    assert plan(text) == {
        **{"train_ablation": 6, "fuse_test_set": 36, "score_test_set": 36, "build_test_set_table": 1},
        **{"save_config": 1, "all": 1, "total": 81},
    }
    commands = re.findall(r"python -m fusion.train .*", text)
    by_name = {re.search(r"train_ablation-(\w+)\.log", command)[1]: command for command in commands}
    changed = {
        "lcsc": "--block lcsc",
        "without_ifnet": "--stage1-iterations 0",
        **{f"without_{term}": f"--without {term}" for term in ("intensity", "gradient", "ssim")},
    }
    for name, command in by_name.items():
        assert {other for other, option in changed.items() if f"{option} " in command} == {name} - {"full"}
        paper = ("--stage2-iterations 20000", "--batch 16", "--crop 128", "--optimiser adam", "--lr 0.0001")
        assert all(f"{wanted} " in command for wanted in paper)
    assert len(by_name) == 6


def test_fnet_starts_from_the_weights_that_are_named_and_its_ablations_from_random_ones(tmp_path):
    lay_out_test_sets(tmp_path)
    lay_out(tmp_path, "MSRS", [f"{part}/{kind}/1.png" for part in ("train", "test") for kind in ("vi", "ir")])
    lay_out(tmp_path, "start", ["mine.pth"])
    overlay = {"tables": ["fusion", "table3"], "fnet": {"start": "data/start/mine.pth"}}
    text = dry_run(tmp_path, overlays=[ROOT / "config/ablation.yaml", overlay])
    commands = re.findall(r"python -m fusion.train .*", text)
    (started,) = [command for command in commands if "--start " in command]
    assert len(commands) == 7 and "train_fnet.log" in started and "--start data/start/mine.pth " in started


def test_what_is_wrong_in_the_configuration_is_one_line_and_nothing_is_planned(tmp_path):
    for overlay, message in [
        ({"fuson": {}}, "fuson"),
        ({"fusion": {"methods": ["fnet", "nosuch"]}}, "config: fusion.methods names ['nosuch']; expected names among"),
        ({"dataset": {"split": "own", "train_list": "x"}}, "--split own does not use --train-list x; remove it"),
    ]:
        text = dry_run(tmp_path, overlays=[overlay], check=False)
        assert message in text and "Job stats" not in text and "Traceback" not in text


def test_suffixes_range_and_home_folder_reach_every_stage_that_reads_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = {"visible_suffix": "_RGB", "infrared_suffix": "-T", "infrared_range": [7000, 9000.5]}
    folders = {"visible": ["all"], "infrared": ["all"], "classes": ["a"]}
    overlay = {
        "pathvars": {"results": "~/results"},
        "dataset": {
            "name": "folders",
            "root": "~/data/set",
            "split": "random",
            "train": 2,
            "test": 1,
            **folders,
            **keys,
        },
        "fusion": {"methods": ["fnet"]},
    }
    lay_out(tmp_path, "set", ["all/1_RGB.png", "labels/1.txt"])
    text = dry_run(tmp_path, overlays=[overlay])
    for stage in ("detection.audit", "detection.prepare", "fusion.train", "fusion.fuse", "fusion.evaluate"):
        (command,) = re.findall(rf"python -m {stage} .*", text)
        assert "--infrared-range 7000 9000.5 --visible-suffix=_RGB --infrared-suffix=-T" in command
        assert f"{tmp_path}/data" in command and f"{tmp_path}/results/" in command and "~" not in command


@pytest.mark.parametrize("name", ["paper", "msrs"])
def test_an_experiments_overlay_leaves_nothing_to_the_embedded_default(name):
    own, default = (yaml.safe_load((ROOT / file).read_text()) for file in (f"config/{name}.yaml", "config.yaml"))
    del default["synthetic"]
    own["device"] = None  # of the machine, not of an experiment: a cluster's profile says it
    assert [key for key in keys(default) if not any(f"{k}.".startswith(f"{key}.") for k in keys(own))] == []


def test_the_schema_knows_the_methods_and_data_sets_of_the_code():
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())["properties"]
    assert set(schema["dataset"]["properties"]["name"]["enum"]) == set(DATASETS)
    assert set(schema["fusion"]["properties"]["methods"]["default"]) <= set(METHODS)


def deciding(folder, monkeypatch, overlay):
    """Return the module that each rule calls, and the revisions and digests in its params for some methods."""
    monkeypatch.setattr("pipeline.planning.digests.revision", lambda module: f"revision of {module}")
    monkeypatch.setattr("pipeline.planning.digests.digest", lambda *modules, **_: [f"code of {m}" for m in modules])
    for name, entry in METHODS.items():
        fields = {key: getattr(entry, key) for key in dir(entry) if not key.startswith("__")}
        fields |= {"revision": f"revision of {name}", "training_revision": f"training of {name}"}
        monkeypatch.setitem(METHODS, name, SimpleNamespace(**fields))
    files = {"configfiles": [ROOT / "config.yaml", folder / "overlay.yaml"]}
    files["configfiles"][1].write_text(yaml.safe_dump(overlay))
    calls, found = {}, {}
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        settings = {"config_settings": ConfigSettings(**files), "snakefile": ROOT / "workflow/Snakefile"}
        workflow = api.workflow(ResourceSettings(cores=2), workdir=folder, **settings)._workflow
        for rule, name in itertools.product(workflow.rules, ("fnet", "itfuse", "average", "full")):
            if called := re.search(r"python -m ([\w.]+)", rule.shellcmd or ""):
                calls[rule.name] = called[1]
            params = dict(rule.params.items())
            for decides in filter(None, (params.get("revision"), params.get("code"))):
                if callable(decides):
                    decides = decides(SimpleNamespace(method=name, entry=name, ablation=name))
                found.setdefault((rule.name, name), set()).update([decides] if isinstance(decides, str) else decides)
    return calls, found


def test_what_decides_a_result_is_in_the_params_of_the_rules_that_it_decides_and_of_no_others(tmp_path, monkeypatch):
    trained = {"methods": ["fnet", "itfuse", "average"], "missing_weights": "train"}
    calls, found = deciding(tmp_path, monkeypatch, {"fusion": trained, "ablations": {"full": {}}})
    assert len(calls) == 37

    def rules(what):
        return {f"{rule} {name}" for (rule, name), decides in found.items() if what in decides}

    raised_by_hand = {"fusion.synthetic", "fusion.train", "fusion.fuse", "detection.train", "pipeline.corruptions"}
    for rule, module in calls.items():
        wanted = f"{'revision' if module in raised_by_hand else 'code'} of {module}"
        numbers = {f"revision of {name}" for name in METHODS} | {f"training of {name}" for name in METHODS}
        named = {f"code of {entry.module}" for entry in METHODS.values()}
        assert found[rule, "itfuse"] - numbers - named == {wanted}, rule
    fused = {f"{rule} itfuse" for rule in ("fuse_pairs", "fuse_worse_pairs", "fuse_test_set", "measure_cost")}
    assert rules("revision of itfuse") == fused
    assert rules("training of itfuse") == {"train_method itfuse"}
    assert {rule.split()[0] for rule in rules("training of fnet")} == {"train_fnet", "train_method", "train_ablation"}
    assert "measure_cost full" in rules("revision of fnet") and "measure_cost itfuse" not in rules("revision of fnet")
