"""Trainings that share a GPU end as they would alone; how many share it is stated, or tried."""

import argparse
import contextlib
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pandas as pd
import pytest
import torch

from detection import gpu_sharing, test, train
from detection.gpu_sharing import CONTEXT, Trial, add_sharing_options, leaves_room, shared_device, worthwhile
from detection.recipe import Recipe
from detection.trial import run_trials
from detection.variant import read_data
from pipeline.artefacts import read_json, sha256_file
from pipeline.stage import InputError

MODEL = str(Path(__file__).with_name("small.yaml"))
SMALL = ["--model", MODEL, "--image-size", "64", "--epochs", "2", "--batch", "4", "--nominal-batch", "4"]
SMALL += ["--close-mosaic", "1", "--lr0", "0.005", "--threads", "1"]
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


def outcome(folder):
    losses = pd.read_csv(folder / "results.csv", comment="#").drop(columns=["seconds", "waited", "images_per_s"])
    facts = {key: value for key, value in read_json(folder / "provenance.json").items() if key != "speed"}
    return sha256_file(folder / "weights.pt"), losses.to_dict(), facts


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_trainings_side_by_side_end_bit_for_bit_as_each_does_alone(tiny, tmp_path, device):
    data = ["--data", str(tiny / "visible" / "data.yaml"), "--device", device]
    runs = {seed: [*data, *SMALL, "--seed", str(seed), "--output"] for seed in (0, 1)}
    command = [sys.executable, "-m", "detection.train"]
    together = [
        subprocess.Popen([*command, *options, str(tmp_path / f"together{seed}"), "--per-gpu", "2"])
        for seed, options in runs.items()
    ]
    assert [process.wait() for process in together] == [0, 0]
    for seed, options in runs.items():
        train.main([*options, str(tmp_path / f"alone{seed}")])
        assert outcome(tmp_path / f"together{seed}") == outcome(tmp_path / f"alone{seed}")
    assert outcome(tmp_path / "alone0")[0] != outcome(tmp_path / "alone1")[0]


def trials(*rates, memory=4 * 10**9, free=10**11):
    return [Trial(number, rate, memory, free) for number, rate in enumerate(rates, 1)]


def test_as_many_pay_as_each_adds_a_twentieth_to_the_rate_of_all():
    assert worthwhile(trials(100)) == 1
    assert worthwhile(trials(100, 150, 180, 188)) == 3  # 4 % more is too little
    assert worthwhile(trials(100, 104, 200)) == 1  # what comes after a stop is not believed
    assert worthwhile(trials(100, 105, 110.25)) == 3
    assert worthwhile(trials(100, 60)) == 1


def test_one_more_has_room_where_a_tenth_of_what_it_takes_stays_free():
    needed = round(1.1 * (4 * 10**9 + CONTEXT))
    assert leaves_room(Trial(1, 1.0, 4 * 10**9, needed + 1)) and not leaves_room(Trial(1, 1.0, 4 * 10**9, needed - 1))


def options(*words):
    parser = argparse.ArgumentParser()
    add_sharing_options(parser)
    return argparse.Namespace(device="cuda", threads=8, **vars(parser.parse_args(words)))


@pytest.fixture
def claims(monkeypatch):
    """Stand for a machine with one GPU; a list of how it was claimed: by how many it is shared."""
    made = []

    @contextlib.contextmanager
    def claimed(choice, threads, per_gpu=1):
        made.append(per_gpu)
        yield "cuda:0" if choice == "cuda" else "cpu"

    monkeypatch.setattr(gpu_sharing, "claimed_device", claimed)
    monkeypatch.setattr(gpu_sharing, "threads_available", lambda wanted: wanted)
    return made


def test_a_trial_is_made_alone_on_the_gpu_once_for_all_trainings_of_its_kind(tmp_path, claims):
    asked = []

    def trial(device, most):
        asked.append((device, most))
        return trials(100, 150, 152)

    auto = options("--per-gpu", "auto", "--tried", str(tmp_path / "per_gpu.json"))
    for _ in range(2):
        with shared_device(auto, {"batch": 16}, trial) as found:
            assert found == ("cuda:0", 2)
    assert (asked, claims) == ([("cuda:0", 8)], [1, 2, 2])
    kept = read_json(tmp_path / "per_gpu.json")
    (kept,) = kept["tried"]
    assert (kept["per_gpu"], kept["of"], len(kept["trials"])) == (2, {"batch": 16}, 3)
    with shared_device(auto) as found:  # a test, which tries nothing
        assert found == ("cuda:0", 2)
    with shared_device(auto, {"batch": 32}, trial):  # another recipe
        assert len(asked) == 2


def test_without_a_trial_or_with_a_broken_one_a_test_has_the_gpu_alone(tmp_path, claims):
    file = tmp_path / "per_gpu.json"
    of_another_kind = ('{"per_gpu": 2}', *(f'{{"tried": [{{"per_gpu": {n}, "of": {{}}}}]}}' for n in ("99", '"2"')))
    for content in (None, "{", *of_another_kind):
        if content is not None:
            file.write_text(content)
        with shared_device(options("--per-gpu", "auto", "--tried", str(file))) as found:
            assert found == ("cuda:0", 1)


def test_the_cpu_is_not_tried_and_not_shared(tmp_path, claims):
    for words in (["auto", "--tried", str(tmp_path / "none.json")], ["3"]):
        args = options("--per-gpu", *words)
        args.device = "cpu"
        with shared_device(args, {}, None) as found:
            assert found == ("cpu", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["0"], ["9"], ["-1"], ["1.5"], ["all"], ["auto"]])
def test_numbers_that_are_none_are_refused(words):
    with pytest.raises(InputError, match=r"--per-gpu .*: expected"), shared_device(options(f"--per-gpu={words[0]}")):
        pass


def test_trainings_and_tests_take_the_options(tiny, tmp_path):
    data = ["--data", str(tiny / "visible" / "data.yaml"), "--output", str(tmp_path), "--device", "cpu"]
    with pytest.raises(InputError, match="--per-gpu 9: expected 1 to 8"):
        train.main([*data, *SMALL, "--per-gpu", "9"])
    assert test._parse([*data, "--weights", "w.pt", "--per-gpu", "auto", "--tried", "f.json"]).tried == Path("f.json")


@pytest.mark.slow
def test_processes_of_one_recipe_are_timed_at_once_until_one_more_does_not_pay(tiny):
    recipe = Recipe(model=MODEL, image_size=64, epochs=2, batch=4, nominal_batch=4, lr0=0.001)
    data = read_data(tiny / "visible" / "data.yaml", "train")
    found = run_trials(data, recipe, "cpu", 2, 1, lambda at_once: 0, seconds=0.5)
    assert [trial.at_once for trial in found] == [1, 2]
    assert all(trial.images_per_s > 0 and trial.memory > 1e8 and trial.free > 0 for trial in found)


def test_images_that_a_trial_leaves_out_are_counted_where_trainings_keep_them_on_the_device(tiny, monkeypatch):
    monkeypatch.setattr(
        "detection.trial._run_trial", lambda at_once, work: Trial(at_once, 100.0 * at_once, 1000, 10**12)
    )
    monkeypatch.setattr("detection.trial.STEPS", 2)
    data, recipe = read_data(tiny / "visible" / "data.yaml", "train"), Recipe(image_size=96, batch=3)
    kept = 4 * 3 * 96 * 64  # four of ten images are not among those of two steps
    found = run_trials(data, recipe, "cuda:0", 2, 8, lambda at_once: 0, augment_on_device=True)
    assert [(one.memory, one.free) for one in found] == [(1000 + kept, 10**12 - n * kept) for n in (1, 2)]
    assert run_trials(data, recipe, "cuda:0", 1, 8, lambda at_once: 0)[0].memory == 1000


def test_an_error_in_a_trial_of_one_is_that_of_the_training(tiny):
    recipe = Recipe(model="none.yaml", image_size=64, epochs=2)
    data = read_data(tiny / "visible" / "data.yaml", "train")
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        run_trials(data, recipe, "cpu", 2, 1, lambda at_once: 0, seconds=0.5)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), BrokenProcessPool("terminated")])
def test_memory_that_does_not_suffice_for_two_leaves_one(monkeypatch, error):
    def together(at_once, work):
        if at_once == 2:
            raise error
        return trials(100)[0]

    monkeypatch.setattr("detection.trial._run_trial", together)
    assert run_trials(None, None, "cuda:0", 8, 8, lambda at_once: 0) == trials(100)
