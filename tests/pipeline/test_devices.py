"""Jobs on one machine take different GPUs, and a dead job's is free again."""

import signal
import subprocess
import sys

import pytest

from pipeline.devices import _left_in, claimed_device, claimed_one, memory_available, resolved_precision
from pipeline.stage import InputError

HOLD = """
import sys, time
from pipeline.devices import claimed_one
with claimed_one(sys.argv[2:], wait_s=0, sharing=int(sys.argv[1])) as index:
    print(index, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def hold(*identities, sharing=1):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(sharing), *identities], stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def test_each_process_gets_its_own_gpu_and_a_killed_one_frees_it():
    first, index = hold("GPU-a", "GPU-b")
    second, other = hold("GPU-a", "GPU-b")
    try:
        assert (index, other) == (0, 1)
        with pytest.raises(InputError, match="all 2 GPUs were in use"), claimed_one(["GPU-a", "GPU-b"], wait_s=0):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
        with claimed_one(["GPU-a", "GPU-b"], wait_s=0) as mine:
            assert mine == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def test_four_jobs_that_start_at_once_get_four_gpus():
    names = [f"GPU-{number}" for number in range(4)]
    # Slow to start, and so together: each is started before the first has answered.
    command = [sys.executable, "-c", HOLD, "1", *names]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in names]
    try:
        assert sorted(int(process.stdout.readline()) for process in processes) == [0, 1, 2, 3]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_as_many_as_say_so_share_a_gpu_and_each_has_a_first_before_one_has_a_second():
    names = ["GPU-a", "GPU-b"]
    held = [hold(*names, sharing=2) for _ in range(4)]
    try:
        assert sorted(index for _, index in held[:2]) == sorted(index for _, index in held[2:]) == [0, 1]
        for sharing in (1, 2):
            with pytest.raises(InputError, match="all 2 GPUs"), claimed_one(names, 0, sharing):
                pass
        first, index = held.pop()
        first.kill()
        first.wait()
        with claimed_one(names, 0, 2) as place:
            assert place == index
        with pytest.raises(InputError), claimed_one(names, 0):  # one half is not enough for one that wants it alone
            pass
    finally:
        for process, _ in held:
            process.kill()
            process.wait()
    with claimed_one(names[:1], 0), pytest.raises(InputError), claimed_one(names[:1], 0, 2):
        pass


def test_a_gpu_that_has_become_idle_is_taken_before_a_second_place_on_another():
    names = ["GPU-c", "GPU-d"]
    (a, _), (b, _), (_c, on) = held = [hold(*names, sharing=2) for _ in range(3)]
    try:
        for process in (a, b):
            process.kill()
            process.wait()
        with claimed_one(names, 0, 2) as index:
            assert index == 1 - on
    finally:
        for process, _ in held:
            process.kill()
            process.wait()


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with claimed_device("auto", 1) as device:
        assert device == "cpu"
    with pytest.raises(InputError, match="finds no GPU"), claimed_device("cuda", 1):
        pass


def test_bfloat16_is_resolved_by_what_runs_and_where(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True, raising=False)
    assert resolved_precision("auto", "cpu") == "bf16" and resolved_precision("fp32", "cpu") == "fp32"
    for asked in ("auto", "bf16", "fp32"):
        assert resolved_precision(asked, "cpu", ("cuda",)) == resolved_precision(asked, "cuda:1", ()) == "fp32"
    assert resolved_precision("bf16", "cuda:0", ("cuda",)) == "bf16"


def test_a_control_group_leaves_its_limit_less_what_is_used_and_cannot_be_dropped(tmp_path):
    inner = tmp_path / "slurm" / "job"
    inner.mkdir(parents=True)
    for folder, limit in ((inner, "max"), (inner.parent, "1000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("700\n")
        (folder / "memory.stat").write_text("anon 400\nactive_file 100\ninactive_file 200\n")
    assert list(_left_in(tmp_path, "/slurm/job", "memory.max", "memory.current", "")) == [600]


def test_some_memory_is_available():
    assert memory_available() > 1e6
