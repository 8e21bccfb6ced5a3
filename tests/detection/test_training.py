import contextlib
import math
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from detection import images, loop, test, train
from detection.detector import build_model, load_weights, save_weights, start_from
from detection.recipe import AUGMENTATION, Recipe, epoch_batches
from detection.variant import read_data
from pipeline.artefacts import read_json
from pipeline.stage import InputError

# isort: split
from ultralytics.utils.torch_utils import ModelEMA

# Ten images in batches of four, stepped after eight: gradients are pending at the end of every epoch.
SMALL = ["--image-size", "64", "--epochs", "3", "--batch", "4", "--nominal-batch", "8", "--warmup-epochs", "1"]
SMALL += ["--close-mosaic", "1", "--lr0", "0.005", "--device", "cpu", "--threads", "1", "--mixup", "0.2"]
SMALL += ["--model", str(Path(__file__).with_name("small.yaml"))]


def arguments(tiny, output, *options, variant="visible"):
    return ["--data", str(tiny / variant / "data.yaml"), "--output", str(output), *SMALL, *options]


def run(tiny, output, *options, variant="visible"):
    train.main(arguments(tiny, output, *options, variant=variant))
    return output


def weights_of(folder):
    return torch.load(folder / "weights.pt", weights_only=True)["weights"]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def outcome(folder):
    """What a training leaves but how fast it was."""
    losses = pd.read_csv(folder / "results.csv", comment="#").drop(columns=["seconds", "waited", "images_per_s"])
    facts = {key: value for key, value in read_json(folder / "provenance.json").items() if key != "speed"}
    return (folder / "weights.pt").read_bytes(), losses.to_dict(), facts


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    return run(tiny, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed_adamw(tiny, tmp_path_factory):
    return run(tiny, tmp_path_factory.mktemp("adamw"), "--optimizer", "AdamW")


def test_training_leaves_weights_losses_and_provenance(undisturbed, tiny):
    assert sorted(path.name for path in undisturbed.iterdir()) == ["provenance.json", "results.csv", "weights.pt"]
    losses = pd.read_csv(undisturbed / "results.csv", comment="#")
    assert losses["epoch"].tolist() == [1, 2, 3]
    assert np.isfinite(losses.to_numpy()).all()
    provenance = read_json(undisturbed / "provenance.json")
    assert provenance["detector"].startswith("small.yaml (sha256 ")
    assert provenance["recipe"]["optimizer"] == "SGD"
    data = read_data(tiny / "visible" / "data.yaml", "train")
    assert provenance["data"] | data.digests() == provenance["data"]
    assert (provenance["images"], provenance["boxes"]) == (10, 10)


def test_same_recipe_and_data_give_the_same_weights_however_images_are_read(tiny, tmp_path, undisturbed):
    again = run(tiny, tmp_path, "--workers", "2", "--cache", "ram", "--save-every", "0")
    assert outcome(again) == outcome(undisturbed)


def test_another_seed_or_another_band_gives_other_weights(tiny, tmp_path):
    first = run(tiny, tmp_path / "first", "--epochs", "1")
    assert not equal(weights_of(run(tiny, tmp_path / "seed", "--epochs", "1", "--seed", "1")), weights_of(first))
    infrared = run(tiny, tmp_path / "infrared", "--epochs", "1", variant="infrared")
    assert not equal(weights_of(infrared), weights_of(first))
    ours, theirs = (read_json(folder / "provenance.json") for folder in (first, infrared))
    assert ours["recipe"] == theirs["recipe"]
    assert [key for key in ours["data"] if ours["data"][key] != theirs["data"][key]] == ["images"]


@pytest.mark.parametrize(
    ("optimizer", "save_every", "going_on"),
    [
        ("SGD", 0, "resuming after epoch 2 of 3 and 1 of 3 batches"),
        ("AdamW", 0, "resuming after epoch 2 of 3 and 1 of 3 batches"),
        ("SGD", 2, "resuming after epoch 2 of 3\n"),  # written after batches 2, 4 and 6
        ("AdamW", 5, "resuming after epoch 1 of 3 and 2 of 3 batches"),
        ("SGD", 60, ""),
    ],
)
def test_interrupted_training_ends_where_an_undisturbed_one_ends(
    tiny, tmp_path, monkeypatch, caplog, optimizer, save_every, going_on, undisturbed, undisturbed_adamw
):
    options = ("--optimizer", optimizer, "--save-every", str(save_every))
    batches, real = [], loop.loss_of

    def failing(*args):
        batches.append(1)
        if len(batches) == 8:  # in the third epoch of three batches each
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "loss_of", failing)
        patch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(len(batches))))  # a batch a second
        run(tiny, tmp_path / "killed", *options)
    assert not (tmp_path / "killed" / "weights.pt").exists()
    assert len(list((tmp_path / "killed").rglob("batch-*.pt"))) == min(7 // max(save_every, 1), loop.KEPT_CHECKPOINTS)
    caplog.set_level("INFO")
    resumed = run(tiny, tmp_path / "killed", *options, "--resume")
    assert going_on in caplog.text and bool(going_on) == ("resuming" in caplog.text)
    assert outcome(resumed) == outcome(undisturbed_adamw if optimizer == "AdamW" else undisturbed)


@pytest.mark.parametrize(("workers", "options"), [("0", ["--optimizer", "AdamW"]), ("2", ["--save-every", "0"])])
def test_training_that_gets_sigterm_at_any_batch_saves_and_ends_where_an_undisturbed_one_ends(
    tiny, tmp_path, monkeypatch, caplog, workers, options, undisturbed, undisturbed_adamw
):
    expected = undisturbed_adamw if "AdamW" in options else undisturbed
    options = [*options, "--workers", workers, "--resume"]
    batches, real = [], loop.loss_of

    def terminated(*args):
        batches.append(1)
        if len(batches) in (2, 3, 5):  # within warm-up, at an epoch's end, within the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
            for child in multiprocessing.active_children():  # a cluster sends it to every process of a job
                os.kill(child.pid, signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, "loss_of", terminated)
    for batch in (2, 3, 5):
        with pytest.raises(SystemExit) as error:
            run(tiny, tmp_path / "stopped", *options)
        assert (error.value.code, len(batches)) == (143, batch)
    resumed = run(tiny, tmp_path / "stopped", *options)
    assert len(batches) == 9 and "stopped by SIGTERM at epoch 2, batch 2 of 3" in caplog.text
    assert outcome(resumed) == outcome(expected)


def test_training_killed_outright_and_without_a_network_ends_alike(tiny, tmp_path, undisturbed):
    program = textwrap.dedent(
        """
        import socket, sys, time

        def no_network(*args, **kwargs):
            print("network", args, flush=True)
            raise OSError("no network here")

        socket.socket.connect = socket.getaddrinfo = socket.create_connection = no_network
        from detection import loop, train
        real = loop._write_checkpoint

        def slow(path, state):
            real(path, state)
            print(path.stem, flush=True)
            if path.stem == "batch-00000004":
                time.sleep(60)

        loop._write_checkpoint = slow
        train.main(sys.argv[1:])
        """
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTEST_CURRENT_TEST", None)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments(tiny, tmp_path / "killed", "--save-every", "0")],
        stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    # And no word of a network between them.
    assert [process.stdout.readline() for _ in range(4)] == [f"batch-{number:08}\n" for number in range(1, 5)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(home.rglob("*")) == []
    resumed = run(tiny, tmp_path / "killed", "--resume")
    assert equal(weights_of(resumed), weights_of(undisturbed))


def test_cut_off_checkpoint_is_passed_over_for_the_one_before(tiny, tmp_path, monkeypatch, caplog, undisturbed):
    real = loop._write_checkpoint

    def killed(path, state):
        real(path, state)
        if path.stem == "batch-00000005":
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_write_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path, "--save-every", "0")
    monkeypatch.setattr(loop, "_write_checkpoint", real)
    caplog.set_level("INFO")
    run(tiny, tmp_path, "--resume")
    assert (
        "batch-00000005.pt cannot be read" in caplog.text
        and "resuming after epoch 1 of 3 and 1 of 3 batches" in caplog.text
    )
    assert equal(weights_of(tmp_path), weights_of(undisturbed))


def test_progress_of_another_recipe_is_not_gone_on_with(tiny, tmp_path, monkeypatch, caplog, undisturbed):
    def stop(path, state):
        path.parent.mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_write_checkpoint", stop)
        run(tiny, tmp_path, "--lr0", "0.001")
    caplog.set_level("INFO")
    run(tiny, tmp_path, "--resume")
    assert "are of another recipe or other data; starting from scratch" in caplog.text
    assert equal(weights_of(tmp_path), weights_of(undisturbed))


def test_finished_training_is_not_repeated_on_resume(tiny, tmp_path, caplog, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "weights.pt").stat().st_mtime_ns
    caplog.set_level("INFO")
    run(tiny, tmp_path, "--resume")
    assert "is already finished" in caplog.text
    assert (tmp_path / "weights.pt").stat().st_mtime_ns == before


def raising(error):
    def fails(*_, **__):
        raise error

    return fails


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (loop, "build_model"),
        (loop, "loss_of"),
        (torch.Tensor, "backward"),
        (torch.nn.utils, "clip_grad_norm_"),
        (torch.optim.SGD, "step"),
        (ModelEMA, "update"),
    ],
)
def test_memory_that_does_not_suffice_anywhere_in_a_step_is_an_error_that_says_what_to_set(
    tiny, tmp_path, monkeypatch, owner, name
):
    monkeypatch.setattr(owner, name, raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")))
    with pytest.raises(InputError, match=r"--batch 4 of --image-size 64 with .* does not fit .* smaller --batch"):
        run(tiny, tmp_path)
    assert not (tmp_path / "weights.pt").exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. "),
        RuntimeError("DataLoader worker (pid(s) 4711) exited unexpectedly"),
        OSError(12, "Cannot allocate memory"),
        MemoryError(),
    ],
)
def test_every_way_of_saying_that_memory_does_not_suffice_is_understood(tiny, tmp_path, monkeypatch, error):
    monkeypatch.setattr(loop, "loss_of", raising(error))
    with pytest.raises(InputError, match=r"does not fit .* \(2 --workers, --cache none: .* fewer --workers"):
        run(tiny, tmp_path, "--workers", "2")


def test_other_errors_keep_their_traceback(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "loss_of", raising(RuntimeError("sizes of tensors must match")))
    with pytest.raises(RuntimeError, match="sizes of tensors"):
        run(tiny, tmp_path)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_memory_that_runs_out_while_reading_is_an_error_that_names_the_workers(tiny, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(images, "read_bgr", raising(MemoryError()))
    with pytest.raises(InputError, match=rf"does not fit this machine's memory \({workers} --workers"):
        run(tiny, tmp_path, "--workers", workers)


@pytest.mark.slow  # torch waits for its other processes
def test_reading_process_that_is_killed_is_an_error_that_names_the_workers(tiny, tmp_path, monkeypatch):
    def killed(*_):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out

    monkeypatch.setattr(images, "read_bgr", killed)
    with pytest.raises(InputError, match=r"1 --workers.*fewer --workers"):
        run(tiny, tmp_path, "--workers", "1")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_image_that_breaks_in_the_middle_is_named_and_the_training_goes_on_once_it_is_mended(
    tiny, tmp_path, monkeypatch, workers, undisturbed
):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    broken = data.images[list(data.images)[3]]
    content, real = broken.read_bytes(), loop._write_checkpoint

    def then_break(path, state):
        real(path, state)
        broken.write_bytes(content[: len(content) // 2])

    try:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_write_checkpoint", then_break)
            with pytest.raises(InputError) as error:
                run(tiny, tmp_path, "--workers", workers, "--save-every", "0")
    finally:
        broken.write_bytes(content)
    assert str(broken) in str(error.value) and len(str(error.value).splitlines()) == 1
    (kept,) = (tmp_path / "checkpoints").iterdir()
    assert list(kept.glob("batch-*.pt"))
    if workers == "0":
        assert outcome(run(tiny, tmp_path, "--resume")) == outcome(undisturbed)


def test_full_disk_leaves_the_last_good_progress(tiny, tmp_path, monkeypatch, undisturbed):
    real = loop._write_checkpoint

    def write(path, state):
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        if path.stem == "batch-00000002":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limit[1]))  # really refused, in the middle of the file
        try:
            real(path, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_write_checkpoint", write)
        with pytest.raises(InputError, match=r"batch-00000002\.pt cannot be written .* state is kept.*--resume"):
            run(tiny, tmp_path, "--save-every", "0")
    (kept,) = (tmp_path / "checkpoints").iterdir()
    assert [path.name for path in kept.iterdir()] == ["batch-00000001.pt"]  # and nothing half-written
    assert outcome(run(tiny, tmp_path, "--resume")) == outcome(undisturbed)


def test_loss_that_is_no_number_is_an_error(tiny, tmp_path, monkeypatch):
    real = loop.loss_of

    def broken(*args):
        loss, parts = real(*args)
        return loss, {name: part * float("nan") for name, part in parts.items()}

    monkeypatch.setattr(loop, "loss_of", broken)
    with pytest.raises(InputError, match=r"the loss became NaN or infinite in epoch 1.*lower --lr0 than 0.005"):
        run(tiny, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "yolov9q"], "--model 'yolov9q' is unknown; expected one of yolov5n, yolov5s"),
        (["--image-size", "100"], "--image-size 100: expected a multiple of 32"),
        (["--image-size", "32"], "--image-size 32: expected at least 64"),
        (["--epochs", "0"], "--epochs 0: expected at least 1"),
        (["--mosaic", "2"], "--mosaic 2.0: expected 0 to 1"),
        (["--save-every", "-1"], "--save-every -1.0: expected at least 0"),
        (["--save-every", "nan"], "--save-every nan: expected at least 0"),
        (["--weights", "none.pt"], r"none\.pt does not exist.*nothing is downloaded"),
    ],
)
def test_bad_option_is_refused(tiny, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tiny, tmp_path, *options)


def test_unknown_optimizer_is_no_choice(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tiny, tmp_path, "--optimizer", "auto")
    assert "invalid choice: 'auto'" in capsys.readouterr().err


def test_training_can_start_from_weights_of_ours(tiny, tmp_path, undisturbed, caplog):
    caplog.set_level("INFO")
    run(tiny, tmp_path, "--epochs", "1", "--weights", str(undisturbed / "weights.pt"))
    total = len(weights_of(undisturbed))
    assert f"{total} of {total} tensors start from" in caplog.text
    assert read_json(tmp_path / "provenance.json")["start"] == "weights.pt"


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_pickled_weights_are_refused_unless_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Bomb()}, "bomb.pt")
    model = build_model("yolov5n", ["a"])
    for load in (lambda path: start_from(model, path, trust=False), load_weights):
        with pytest.raises(InputError, match=r"bomb\.pt is not a file of plain tensors.*--trust-weights"):
            load(tmp_path / "bomb.pt")
    assert not (tmp_path / "exploded").exists()
    torch.save({"model": None, "ema": build_model("yolov5n", ["a", "b"]).half()}, "theirs.pt")
    taken = start_from(model, tmp_path / "theirs.pt", trust=True)
    assert len(model.state_dict()) - 12 < taken < len(model.state_dict())  # all but the layers that know the classes


def test_no_stage_runs_what_a_weights_file_wants_to_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Bomb()}, "bomb.pt")
    torch.save({"format": 1, "facts": {"model": Bomb()}, "weights": {}}, "like_ours.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "like_ours.pt", "plain.pt"):
        with pytest.raises(InputError, match=rf"{name} is not a file of plain tensors.*--trust-weights"):
            run(tiny, tmp_path / "out", "--weights", name)
        with pytest.raises(InputError, match=rf"{name} is not a file of plain tensors"):
            test.main(["--weights", name, "--data", str(tiny / "visible" / "data.yaml"), "--output", "out"])
    assert not (tmp_path / "exploded").exists() and not list((tmp_path / "out").rglob("*.pt"))
    torch.load("bomb.pt", weights_only=False)  # what the refusals were for
    assert (tmp_path / "exploded").exists()


def test_progress_of_an_older_form_is_passed_over(tmp_path, caplog):
    torch.save({"step": 3, "last_step": 2, "history": [], "sums": {}}, tmp_path / "batch-00000001.pt")
    assert loop._read_checkpoint(tmp_path, "cpu") is None
    assert "batch-00000001.pt cannot be read (KeyError); ignored" in caplog.text


def test_progress_that_wants_to_run_something_is_passed_over(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    torch.save({"step": 3, "model": Bomb()}, tmp_path / "batch-00000001.pt")
    assert loop._read_checkpoint(tmp_path, "cpu") is None
    assert "batch-00000001.pt cannot be read" in caplog.text and not (tmp_path / "exploded").exists()


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt has no tensor that fits"):
        start_from(build_model("yolov5n", ["a"]), tmp_path / "other.pt", trust=False)
    with pytest.raises(InputError, match=r"other\.pt is not a weights file of a detector written by detection\.train"):
        load_weights(tmp_path / "other.pt")


def test_weights_come_back_as_they_were_saved(tmp_path):
    model = build_model("yolov5n", ["a", "ü"])
    save_weights(tmp_path / "w.pt", model, {"model": "yolov5n", "classes": ["a", "ü"]})
    loaded, facts = load_weights(tmp_path / "w.pt")
    assert equal(loaded.state_dict(), model.state_dict())
    assert facts["classes"] == ["a", "ü"]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_recipe_means_what_the_trainer_of_ultralytics_means_by_it(tiny, tmp_path, monkeypatch, optimizer):
    """The package's own trainer, given our images, order and first weights, takes the same steps at the same rates."""
    from ultralytics.engine.trainer import BaseTrainer
    from ultralytics.models.yolo.detect import DetectionTrainer

    recipe = Recipe(
        image_size=128, epochs=4, batch=5, nominal_batch=10, optimizer=optimizer, lr0=0.002, warmup_epochs=1.5,
        ema_decay=0.6, ema_tau=2.0,
    )  # fmt: skip
    data = read_data(tiny / "visible" / "data.yaml", "train")
    augmentation = {name: getattr(recipe, name) for name in AUGMENTATION}
    shown = images.TrainingImages(data, augmentation, 128, recipe.seed, recipe.epochs - recipe.close_mosaic)

    class Loader:
        dataset, sampler, batch_size, drop_last, num_workers = shown, shown, recipe.batch, False, 0
        epoch = -1

        def __len__(self):
            return 2

        def __iter__(self):
            self.epoch += 1
            for batch in list(epoch_batches(recipe, 10, self.epoch))[:2]:
                yield shown.collate_fn([shown[key] for key in batch])

    class Theirs(DetectionTrainer):
        def get_dataset(self):
            return {"names": dict(enumerate(data.classes)), "nc": 6, "channels": 3, "train": "", "val": ""}

        def get_dataloader(self, *args, **kwargs):
            return Loader()

        def _build_train_pipeline(self):
            BaseTrainer._build_train_pipeline(self)

        def get_validator(self):
            return type("Nothing", (), {"metrics": type("Nothing", (), {"keys": []})})

        def validate(self):
            return {}, 0.0

        def save_model(self):
            return False

        def final_eval(self):
            pass

    def recorded(optimizer):
        """Record at each step of the optimiser its groups' settings."""
        steps = []

        def hook(optimizer, *_):
            momenta = [
                group["momentum"] if "momentum" in group else group["betas"][0] for group in optimizer.param_groups
            ]
            rates = [(group["weight_decay"], group["lr"]) for group in optimizer.param_groups]
            steps.append(sorted((*rate, momentum) for rate, momentum in zip(rates, momenta, strict=True)))

        optimizer.register_step_pre_hook(hook)
        return steps

    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def clipped(parameters, max_norm):
        norms.append((float(clip(parameters, max_norm)), max_norm))  # the norm is that of before

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)

    stated = ("epochs", "batch", "optimizer", "lr0", "lrf", "momentum", "box", "cls", "dfl", "weight_decay")
    stated += ("warmup_epochs", "warmup_momentum", "warmup_bias_lr")
    theirs = Theirs(
        overrides={name: getattr(recipe, name) for name in stated}
        | {"imgsz": 128, "nbs": 10, "amp": False, "device": "cpu", "plots": False, "val": False, "patience": 0}
        | {"save_dir": str(tmp_path / "theirs"), "close_mosaic": 0, "model": "yolov5n.yaml", "cos_lr": False}
    )
    torch.manual_seed(recipe.seed)
    theirs.model = build_model("yolov5n", data.classes)
    expected = []

    def on_start(trainer):
        expected.append(recorded(trainer.optimizer))
        trainer.ema.decay = lambda updates: 0.6 * (1 - math.exp(-updates / 2))

    theirs.add_callback("on_train_start", on_start)
    theirs.train()
    expected_norms = norms.copy()
    norms.clear()

    found, real = [], loop._optimizer

    def ours(model, recipe):
        optimizer = real(model, recipe)
        found.append(recorded(optimizer))
        return optimizer

    monkeypatch.setattr(loop, "_optimizer", ours)
    average, _ = loop.train(data, recipe, "cpu", checkpoints=tmp_path / "ours")
    (expected,), (found,) = expected, found
    assert len(found) == len(expected) > 4
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    # What rounding differs by grows from step to step: the first gradients must agree, what is reached be near.
    assert norms[0] == pytest.approx(expected_norms[0], rel=1e-4)
    assert [limit for _, limit in norms] == [limit for _, limit in expected_norms]
    start = torch.manual_seed(recipe.seed) and build_model("yolov5n", data.classes)
    trained = [name for name, parameter in start.named_parameters() if parameter.requires_grad]
    statistics = [name for name in start.state_dict() if name.endswith(("running_mean", "running_var"))]
    begun, reached, averaged = (model.state_dict() for model in (start, theirs.ema.ema, average))
    for names in (trained, statistics):
        moved, apart = (sum(float((reached[n] - other[n]).norm()) ** 2 for n in names) for other in (begun, averaged))
        assert apart < 0.12**2 * moved


def test_speed_and_the_wait_for_images_are_measured_over_a_stop_too(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(train, "sigterm_received", lambda: contextlib.nullcontext(iter([False] * 4 + [True]).__next__))
    real, slow = images.TrainingImages.__getitem__, 0.02

    def slowly(self, key):
        time.sleep(slow)
        return real(self, key)

    monkeypatch.setattr(images.TrainingImages, "__getitem__", slowly)
    with pytest.raises(SystemExit):  # after the second of three batches of the second epoch
        run(tiny, tmp_path)
    monkeypatch.setattr(train, "sigterm_received", lambda: contextlib.nullcontext(bool))
    caplog.set_level("INFO")
    run(tiny, tmp_path, "--resume")
    epochs = pd.read_csv(tmp_path / "results.csv", comment="#")
    assert (epochs["waited"] >= 10 * slow).all() and (epochs["waited"] < epochs["seconds"]).all()
    np.testing.assert_allclose(epochs["images_per_s"], 10 / epochs["seconds"])
    speed = read_json(tmp_path / "provenance.json")["speed"]
    assert speed["hours"] == pytest.approx(epochs["seconds"].sum() / 3600)
    assert speed["images_per_s"] == pytest.approx(30 / epochs["seconds"].sum())
    assert speed["waited_share"] == pytest.approx(epochs["waited"].sum() / epochs["seconds"].sum())
    assert re.search(r"epoch 2 took .* waiting for images; 3 epochs will take about 0.00 hours", caplog.text)
    assert re.search(r"cpu: .* images/s, .* of the time waiting for images", caplog.text)


def test_training_is_told_how_long_it_takes(tiny, tmp_path, caplog):
    caplog.set_level("INFO")
    run(tiny, tmp_path, "--epochs", "1")
    assert (
        "train visible, seed 0: 10/10 images" in caplog.text
        and "images/s" in caplog.text
        and "epoch 1/1" in caplog.text
    )
