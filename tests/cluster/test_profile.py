"""What jobs ask a cluster for, read from plans: no cluster is needed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "workflow/profiles/slurm"
ON_GPU = {"train_fnet", "train_detector", "test_detector", "explain_fnet", "estimate_cost"}
NOT_SUBMITTED = {"all", "save_config", "describe_variant", "build_table2", "build_fusion_table", "build_report"}
NOT_SUBMITTED |= {"build_error_table", "build_cost_table"}


def requests(folder, *options):
    """Return the planned jobs as (rule, wildcards, threads, resources)."""
    (folder / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "workflow/Snakefile"]
    command += ["--directory", folder, "-n", *options]
    result = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    jobs = []
    for block in re.findall(r"^ *rule (\w+):\n((?: .*: .*\n)+)", result.stdout, re.MULTILINE):
        fields = dict(re.findall(r"^ +(\w+): (.*)$", block[1], re.MULTILINE))
        resources = dict(item.split("=", 1) for item in fields["resources"].split(", "))
        jobs.append((block[0], fields.get("wildcards", ""), int(fields.get("threads", 1)), resources))
    assert len(jobs) > 30
    return jobs


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        # The other ways of asking are in tests/pipeline/planning/test_plan.py.
        ("gpu", {"gpu": "1"}),
        ("gres:a100", {"gres": "gpu:a100:1"}),
    ],
)
def test_jobs_that_compute_on_a_gpu_ask_for_one_and_no_others_do(tmp_path, asked, wanted):
    for rule, wildcards, threads, resources in requests(
        tmp_path, "--cores", "8", "--config", "device=cuda", f"gpu_request={asked}"
    ):
        network = rule in ON_GPU or (rule in ("fuse_pairs", "measure_cost") and "=fnet" in wildcards)
        found = {key: value for key, value in resources.items() if key in ("gpu", "gpu_model", "gres")}
        assert found == (wanted if network else {}), (rule, wildcards)
        assert rule in NOT_SUBMITTED or ({"mem_mb", "runtime"} <= set(resources) and threads >= 1), rule


def test_without_gpus_no_job_asks_for_one(tmp_path):
    jobs = requests(tmp_path, "--cores", "8", "--config", "device=cpu")
    assert not any({"gpu", "gres"} & set(resources) for *_, resources in jobs)


def test_options_that_cancel_what_the_profile_says_of_gpus_are_refused_by_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "workflow/Snakefile", "-n"]
    command += ["--directory", tmp_path, "--set-resource-scopes", "gpu=local", "--config", "threads=2"]
    result = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1 and "expected device=cuda or device=cpu" in result.stdout + result.stderr


def test_the_profile_is_complete_and_leaves_the_local_limit_of_gpu_jobs_at_home(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed")
    profile = yaml.safe_load((PROFILE / "profile.yaml").read_text())
    assert profile["executor"] == "slurm" and profile["retries"] >= 1 and profile["latency-wait"] >= 30
    assert "gpu=local" in profile["set-resource-scopes"] and "resources" not in profile
    jobs = requests(tmp_path, "--profile", PROFILE)
    assert {resources.get("gpu") for rule, *_, resources in jobs if rule == "train_detector"} == {"1"}
    assert set(yaml.safe_load((PROFILE / "partitions.yaml").read_text())["partitions"]) == {"main", "gpu"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_trainings_of_a_variant_that_share_a_gpu_are_one_submitted_job(tmp_path, count):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed")
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    shared = {"detection": {"seeds": [0, 1, 2], "per_gpu": count}, "fusion": {"methods": ["average"]}}
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(shared))
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "workflow/Snakefile", "-n"]
    command += ["--directory", tmp_path, "--profile", PROFILE, "--configfile", tmp_path / "shared.yaml"]
    result = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    groups = re.split(r"Group job detector-visible", result.stdout)[1:]
    trained = sorted(len(re.findall(r"rule train_detector:", re.split(r"\n\[", group)[0])) for group in groups)
    assert trained == {1: [1, 1, 1], 2: [1, 2], 3: [3]}[count]


def test_a_detector_is_tested_in_the_job_that_trained_it():
    rules = re.split(r"^rule (\w+):$", (ROOT / "workflow/rules/detection.smk").read_text(), flags=re.MULTILINE)
    grouped = [name for name, text in zip(rules[1::2], rules[2::2], strict=True) if "\n    group:\n" in text]
    assert grouped == ["train_detector", "test_detector"]


def test_a_detector_s_training_and_test_carry_the_same_texts_so_that_a_group_can_hold_both_at_once():
    rules = dict(
        re.findall(r"^rule (\w+):\n(.*?)(?=^rule|\Z)", (ROOT / "workflow/rules/detection.smk").read_text(), re.M | re.S)
    )
    texts = [
        sorted(re.findall(r"^        (?:(?:per_gpu|indifferent)=|\*\*plan).*$", rules[name], re.MULTILINE))
        for name in ("train_detector", "test_detector")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 3
