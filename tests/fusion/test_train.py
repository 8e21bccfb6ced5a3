"""Training reproduces, survives a kill, and stops where it must."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from method_checks import random_pairs
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models.vgg import cfgs, make_layers

from fusion import fuse, train
from fusion.methods import METHODS, Entry, Method, Phase, Training, find_method, murf
from fusion.train import TRAINABLE, main
from fusion.training import batches
from fusion.weights import write_state
from pipeline.artefacts import read_csv, sha256_file
from pipeline.devices import claimed_device
from pipeline.pairs import write_image
from pipeline.stage import InputError

OTHERS = ["--batch", "2", "--crop", "16", "--checkpoint-every", "1", "--log-every", "2", "--device", "cpu"]
OTHERS += ["--threads", "1", "--ema", "0.5"]
SMALL = ["--stage1-iterations", "3", "--stage2-iterations", "5", *OTHERS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(7)
    for name in "abcde":
        image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        write_image(root / "vi" / f"{name}.png", image)
        write_image(root / "ir" / f"{name}.png", 255 - image[..., 0])
    return root


def arguments(folders, output, *more, small=SMALL):
    where = ["--visible", folders / "vi", "--infrared", folders / "ir", "--output", output]
    return [str(word) for word in (*where, *small, *more)]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """Return what gives the file of random weights that a method's losses look through, None where they need none."""
    root = tmp_path_factory.mktemp("frozen")

    def file(name):
        if METHODS[name].frozen is None:
            return None
        if METHODS[name].frozen == "teacher_weights":
            write_state(root / "auifnet.safetensors", find_method("auifnet").network(None).state_dict())
            return root / "auifnet.safetensors"
        layers = "E" if name == "coconet" else "D"  # VGG-19's or VGG-16's
        path = root / f"{layers}.pth"
        if not path.exists():
            state = make_layers(cfgs[layers]).state_dict()
            torch.save({f"features.{key}": value for key, value in state.items()}, path)
        return path

    return file


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    main(arguments(folders, output))
    return output


RESULTS = ("weights.safetensors", "weights_raw.safetensors", "ifnet.safetensors", "losses.csv", "provenance.json")


def test_the_stage_writes_its_contract(undisturbed):
    assert sorted(path.name for path in undisturbed.iterdir()) == sorted([*RESULTS, "checkpoints"])
    losses, _ = read_csv(undisturbed / "losses.csv")
    assert losses[["stage", "iteration"]].values.tolist() == [[1, 2], [1, 3], [2, 2], [2, 4], [2, 5]]
    assert np.isfinite(losses["total"]).all() and losses["intensity"].isna().tolist() == [True, True] + [False] * 3
    provenance = json.loads((undisturbed / "provenance.json").read_text())
    assert provenance["settings"]["iterations"] == [3, 5] and provenance["data"]["pairs"] == 5
    raw, ema = (load_file(undisturbed / name) for name in ("weights_raw.safetensors", "weights.safetensors"))
    assert any(not torch.equal(raw[key], ema[key]) for key in raw)


def test_a_killed_run_ends_where_it_would_have_ended(folders, undisturbed, tmp_path, caplog):
    command = [sys.executable, "-m", "fusion.train", *arguments(folders, tmp_path, "--resume")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stderr=subprocess.PIPE)
    while not list((tmp_path / "checkpoints").glob("*/stage2-0000003.pt")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "weights.safetensors").exists()
    with caplog.at_level("INFO"):
        main(arguments(folders, tmp_path, "--resume"))
    assert "resuming at stage 2" in caplog.text
    for name in RESULTS:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_a_run_that_gets_sigterm_saves_at_once_and_ends_where_it_would_have_ended(
    folders, undisturbed, tmp_path, monkeypatch, caplog
):
    drawn, real = [], batches.draw_batch

    def terminated(*args):  # drawn one ahead, in a thread
        drawn.append(args[-2:])
        if len(drawn) in (2, 6):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(batches, "draw_batch", terminated)
    for _ in range(2):
        with pytest.raises(SystemExit) as error:
            main(arguments(folders, tmp_path, "--resume", "--checkpoint-every", "1000"))
        assert error.value.code == 143 and "stopped by SIGTERM at stage" in caplog.text
        assert not (tmp_path / "weights.safetensors").exists()
    main(arguments(folders, tmp_path, "--resume"))
    for name in RESULTS:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name


class Noisy(torch.nn.Module):
    """A network with all that a resumed training could get wrong: dropout, batch statistics."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.Dropout(0.3),
            torch.nn.Conv2d(4, 1, 3, padding=1),
        )

    def forward(self, visible, infrared):
        return self.layers(torch.cat([visible, infrared], dim=1))


def noisy_training(frozen):
    network, beside = Noisy(), torch.nn.Conv2d(1, 1, 3, padding=1)

    def first(visible, infrared):
        return {"total": (beside(network(visible, infrared)) - visible).square().mean()}

    def second(visible, infrared):
        return {"total": (network(visible, infrared) - infrared).square().mean()}

    phases = [
        Phase("both", [*network.parameters(), *beside.parameters()], first, lr=1e-2, clip=0.01, iterations=4),
        Phase("alone", list(network.parameters()), second, lr=1e-2, schedule=lambda share: 1 - share, iterations=6),
    ]
    return Training(network, phases, {"beside": beside}, crop=16, batch=2)


@pytest.fixture
def noisy(monkeypatch):
    """Make `noisy` a method that can be trained; return its entry in the table."""
    entry = Entry("noisy", reference="")
    monkeypatch.setitem(METHODS, "noisy", entry)
    monkeypatch.setitem(sys.modules, "noisy", SimpleNamespace(METHOD=Method(load=None, training=noisy_training)))
    monkeypatch.setattr(train, "TRAINABLE", ["noisy"])
    return entry


def test_a_raised_training_revision_is_another_training_of_that_method(noisy, folders, tmp_path, monkeypatch):
    digests = set()
    for revision in (1, 2):
        monkeypatch.setitem(METHODS, "noisy", replace(noisy, training_revision=revision))
        options = arguments(folders, tmp_path / str(revision), "--method", "noisy", "--iterations", "1", small=OTHERS)
        main(options)
        facts = json.loads((tmp_path / str(revision) / "provenance.json").read_text())
        assert facts["settings"]["method_revision"] == revision
        digests.add(facts["digest"])
    assert len(digests) == 2


def test_any_method_trains_through_its_phases_and_resumes_bit_for_bit(noisy, folders, tmp_path, monkeypatch):
    where = ["--visible", str(folders / "vi"), "--infrared", str(folders / "ir"), "--method", "noisy", "--resume"]
    where += ["--device", "cpu", "--threads", "1", "--checkpoint-every", "1", "--output"]
    main([*where, str(tmp_path / "whole")])
    seen, real = [], batches.draw_batch

    def killed(*args):
        seen.append(args)
        if len(seen) % 4 == 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(batches, "draw_batch", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            main([*where, str(tmp_path / "pieces")])
    monkeypatch.setattr(batches, "draw_batch", real)
    main([*where, str(tmp_path / "pieces")])
    for name in ("weights", "weights_raw", "beside"):
        whole, pieces = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "pieces"))
        assert all(torch.equal(whole[key], pieces[key]) for key in whole), name
    losses, _ = read_csv(tmp_path / "whole/losses.csv")
    assert losses[["stage", "iteration"]].values.tolist() == [[1, 4], [2, 6]]
    # Without --ema the last weights are the ones that are used, with the batch statistics of the last iteration.
    raw, used = (load_file(tmp_path / "whole" / name) for name in ("weights_raw.safetensors", "weights.safetensors"))
    assert all(torch.equal(raw[key], used[key]) for key in raw)
    assert raw["layers.1.num_batches_tracked"] == 10


def test_every_phase_is_as_long_as_asked_for_or_as_its_authors_take(folders, tmp_path):
    training = noisy_training(None)
    assert train.phase_iterations("noisy", training, [None, None]) == (4, 6)
    assert train.phase_iterations("noisy", training, [None, 0]) == (4, 0)
    with pytest.raises(InputError, match="expected one, or one for each phase: both, alone"):
        train.phase_iterations("noisy", training, [1, 2, 3])
    unknown = replace(training, phases=[replace(phase, iterations=None) for phase in training.phases])
    with pytest.raises(InputError, match="its paper does not state the number of iterations"):
        train.phase_iterations("noisy", unknown, [None, None])


@pytest.mark.parametrize("method", [name for name in train.TRAINABLE if not METHODS[name].frozen])
def test_a_method_trained_by_its_own_loss_fuses_with_what_comes_out(method, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(murf, "SIDE", 64)  # its authors' 1240 takes seconds
    for band in ("vi", "ir"):
        for name in "ab":
            write_image(tmp_path / band / f"{name}.png", rng.integers(0, 256, (32, 40), dtype=np.uint8))
    where = ["--visible", str(tmp_path / "vi"), "--infrared", str(tmp_path / "ir")]
    fast = ["--batch", "2", "--crop", "32", "--device", "cpu", "--threads", "1"]
    steps = ["--stage1-iterations", "1", "--stage2-iterations", "1"] if method == "fnet" else ["--iterations", "1"]
    main([*where, "--method", method, *steps, *fast, "--output", str(tmp_path / "trained")])
    fuser = find_method(method).load(tmp_path / "trained/weights.safetensors", "cpu", "fp32")
    fused = fuser(np.full((20, 24), 0.5, np.float32), np.full((20, 24), 0.25, np.float32))
    assert fused.shape == (20, 24) and np.isfinite(fused).all()


def test_images_of_weights_trained_by_this_project_say_for_how_long(folders, undisturbed, tmp_path):
    words = ["--visible", folders / "vi", "--infrared", folders / "ir", "--device", "cpu", "--output", tmp_path]
    fuse.main([str(word) for word in ("--method", "fnet", "--weights", undisturbed / "weights.safetensors", *words)])
    stages = "stage I: 3 of 20000 iterations, stage II: 5 of 20000 iterations"
    trained = f"{stages}; batch 2 instead of 16; crop 16 instead of 128"
    assert read_csv(tmp_path / "manifest.csv")[1]["trained"] == trained
    main(arguments(folders, tmp_path / "faster", "--lr", "0.001"))
    with safe_open(tmp_path / "faster/weights.safetensors", "numpy") as file:
        assert file.metadata() == {"trained": f"{trained}; learning rate 0.001 instead of 0.0001"}
    fuse.main([str(word) for word in ("--method", "fnet", *words)])
    assert "trained" not in read_csv(tmp_path / "manifest.csv")[1]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(folders, undisturbed, tmp_path):
    older, newer = sorted((undisturbed / "checkpoints").glob("*/*"))
    checkpoints = tmp_path / "checkpoints" / older.parent.name
    checkpoints.mkdir(parents=True)
    (checkpoints / older.name).write_bytes(older.read_bytes())
    (checkpoints / newer.name).write_bytes(newer.read_bytes()[:1000])
    main(arguments(folders, tmp_path, "--resume"))
    for name in RESULTS:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_checkpoints_of_other_settings_are_neither_resumed_nor_lost(folders, undisturbed, tmp_path):
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    before = sorted((tmp_path / "checkpoints").glob("*/*"))
    main(arguments(folders, tmp_path, "--resume", "--seed", "1"))
    other, same = load_file(tmp_path / "weights.safetensors"), load_file(undisturbed / "weights.safetensors")
    assert not torch.equal(other["fuse_common.weight"], same["fuse_common.weight"])
    assert all(path.exists() for path in before)


def test_without_stage_one_is_the_ablation_without_ifnet(folders, tmp_path):
    main(arguments(folders, tmp_path, "--stage1-iterations", "0", "--block", "lcsc", "--without", "ssim", "gradient"))
    losses, _ = read_csv(tmp_path / "losses.csv")
    assert set(losses["stage"]) == {2}
    assert list(losses.columns) == ["stage", "iteration", "total", "intensity"]
    assert "code_common.sizes.0" in load_file(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("block", ["lzsc", "lcsc"])
def test_on_a_cpu_every_block_is_trained_in_float32_and_the_provenance_says_so(folders, tmp_path, block):
    options = ["--stage1-iterations", "0", "--stage2-iterations", "1", "--block", block]
    for precision in ("fp32", "bf16"):
        main(arguments(folders, tmp_path / precision, *options, "--precision", precision))
    asked, exact = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("bf16", "fp32"))
    assert asked == exact
    assert json.loads((tmp_path / "bf16/provenance.json").read_text())["settings"]["precision"] == "fp32"


def test_training_lowers_the_loss(folders, tmp_path):
    options = ["--stage1-iterations", "0", "--stage2-iterations", "40", "--lr", "3e-4", "--log-every", "10"]
    main(arguments(folders, tmp_path, *options))
    losses, _ = read_csv(tmp_path / "losses.csv")
    assert losses["total"].iloc[-1] < 0.7 * losses["total"].iloc[0]


def test_soap_lowers_the_loss_at_a_rate_that_falls_to_none_and_resumes_bit_for_bit(folders, tmp_path):
    options = ["--stage1-iterations", "1", "--stage2-iterations", "24", "--lr", "3e-4", "--optimiser", "soap"]
    options += ["--log-every", "8", "--checkpoint-every", "8"]
    main(arguments(folders, tmp_path / "whole", *options))
    totals = read_csv(tmp_path / "whole/losses.csv")[0]["total"]
    assert totals.iloc[-1] < 0.7 * totals.iloc[1]
    early, late = sorted((tmp_path / "whole/checkpoints").glob("*/*.pt"))
    groups = torch.load(late, weights_only=True)["optimiser"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([3e-4 * 9 / 24, 9e-4 * 9 / 24])
    assert [len(group["params"]) for group in groups] == [62, 12]

    kept = tmp_path / "pieces/checkpoints" / early.parent.name
    kept.mkdir(parents=True)
    shutil.copy(early, kept)
    main(arguments(folders, tmp_path / "pieces", *options, "--resume"))
    for name in RESULTS:
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_training_starts_from_given_weights_and_says_so(folders, undisturbed, tmp_path):
    given = undisturbed / "weights_raw.safetensors"
    options = ["--start", given, "--stage1-iterations", "0", "--stage2-iterations", "1", "--lr", "1e-12"]
    main(arguments(folders, tmp_path, *options))
    start, end = load_file(given), load_file(tmp_path / "weights_raw.safetensors")
    assert all(torch.allclose(start[key], end[key], atol=1e-9) for key in start)
    facts = json.loads((tmp_path / "provenance.json").read_text())
    digest = sha256_file(given)
    assert facts["settings"]["start"] == digest
    assert facts["length"].startswith("stage I: not run, stage II: 1 of 20000 iterations; ")
    assert facts["length"].endswith(f"; started from existing weights (sha256 {digest[:12]})")


def test_a_loss_that_is_not_finite_stops_with_iteration_and_batch(folders, tmp_path):
    with pytest.raises(InputError, match=r"NaN or infinite at stage 1, iteration \d+, pairs \['[a-e]', '[a-e]'\]"):
        main(arguments(folders, tmp_path, "--lr", "1e30"))
    assert list((tmp_path / "checkpoints").glob("*/*.pt"))
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_method_trains_on_its_smallest_crop_also_where_the_visible_one_is_black(name, frozen):
    training = find_method(name).training(frozen(name))
    training.network.train()
    _, infrared = random_pairs(2, training.smallest_crop, training.smallest_crop)
    for phase in training.phases:
        total = phase.loss(torch.zeros_like(infrared), infrared)["total"]
        for parameter in phase.parameters:
            parameter.grad = None
        total.backward()
        assert total.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in phase.parameters)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("name", TRAINABLE)
def test_a_method_s_losses_on_a_gpu_are_those_on_the_cpu(name, frozen):
    totals = {}
    for choice in ("cpu", "cuda"):
        with claimed_device(choice) as device:
            torch.manual_seed(0)
            training = find_method(name).training(frozen(name))
            for network in (training.network, *training.auxiliary.values()):
                network.to(device).eval()
            pair = random_pairs(2, training.smallest_crop, training.smallest_crop).to(device)
            totals[choice] = []
            for phase in training.phases:
                total = phase.loss(*pair)["total"]
                total.backward()
                assert all(parameter.grad.isfinite().all() for parameter in phase.parameters)
                totals[choice].append(total.item())
    assert totals["cuda"] == pytest.approx(totals["cpu"], rel=1e-3)


def test_bad_options_say_what_was_wanted(folders, tmp_path, frozen):
    for more, message in (
        (["--crop", "21"], "smaller than the crop"),
        (["--batch", "6"], "found 5 pairs"),
        (["--without", "ssim", "gradient", "intensity"], "no loss"),
        (["--method", "nosuch"], "nosuch cannot be trained"),
        (["--method", "average"], "average cannot be trained; expected"),
        (
            ["--method", "mmdrfuse"],
            "mmdrfuse cannot be trained here, because that needs VGG-19's features, .*; expected",
        ),
        (["--iterations", "3"], "--iterations is for methods other than fnet"),
        (["--stage1-iterations", "0", "--stage2-iterations", "0"], "untrained weights; expected at least one"),
        (["--lr", "nan"], "expected a rate above 0"),
        (["--lr", "inf"], "expected a rate above 0"),
        (["--method", "u2fusion"], "VGG"),
        (["--method", "itfuse", "--perceptual-weights", "vgg16.pth"], "its losses use no such network"),
        (["--method", "itfuse", "--without", "ssim", "--optimiser", "soap"], "with --without, --optimiser: only FNet"),
        (["--method", "itfuse", "--stage2-iterations", "0"], "with --stage2-iterations: only FNet"),
        (["--tones", "1.5"], "--tones 1.5: expected a share"),
        (["--batch", "0"], "--batch 0 is too small"),
        (["--log-every", "0"], "--log-every 0 is too small"),
        (["--seed", "-1"], "--seed -1 is too small"),
        (["--crop", "10"], "--crop 10 does not suit fnet; expected at least 11"),
        (["--method", "crossfuse", "--crop", "31"], "--crop 31 does not suit crossfuse; expected at least 32"),
        (
            ["--method", "emma", "--crop", "40", "--teacher-weights", frozen("emma")],
            "--crop 40 does not suit emma; expected at least 32, a multiple of 16",
        ),
        (["--ema", "1"], "--ema 1"),
    ):
        with pytest.raises(InputError, match=message):
            main(arguments(folders, tmp_path, *more, small=OTHERS if "--method" in more else SMALL))
