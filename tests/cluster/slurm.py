"""A real SLURM of one node on loopback, and the workflow sent through it.

    python tests/cluster/slurm.py [--install] [--only NAME ...]

starts munged, slurmctld and slurmd (as root, from Debian's slurm-wlm and munge, which --install fetches), runs the
checks of CHECKS, prints a table, and stops what it started. No accounts are kept (so status comes from squeue), GPUs
are declared and not there: the cluster schedules by them, and the jobs compute on the CPU.

The configuration goes to the default place, because Snakemake's plugin clears SLURM's environment variables: a
configuration of somebody else there is left alone, and nothing runs.
"""

import argparse
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("/etc/slurm")
MARK = "# Written by tests/cluster/slurm.py; without worth once that has ended."
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
FAKE_GPUS = ("/dev/null", "/dev/zero")
SMALLEST = {
    "device": "auto",
    "threads": 1,
    "synthetic": {"train": 8, "test": 8, "size": [96, 64]},
    "fusion": {"methods": ["fnet"], "precision": "fp32"},
    "fnet": {"training": {"stage1_iterations": 2, "stage2_iterations": 3, "batch": 2, "crop": 32, "precision": "fp32"}},
    "detection": {"image_size": 64, "training": {"epochs": 1, "precision": "fp32"}},
}
# Four jobs that need nothing of one another: two compute on a GPU, two do not.
APART = {
    **SMALLEST,
    "fusion": {
        "methods": ["mine", "other"],
        "own": {"mine": {"callable": "mine:fuse"}, "other": {"callable": "mine:fuse"}},
        "precision": "fp32",
    },
    "fnet": {},
    "cost": {"size": [32, 32], "repeats": 1},
}
COSTS = ("mine", "other", "average")
WEIGHTS = ("results/fusion/fnet/weights.safetensors", "results/detection/visible/seed0/weights.pt")


class NotStartedError(RuntimeError):
    """The daemons do not come up here; no job was sent."""


def why_not() -> str | None:
    """Return why the cluster cannot be started here, or None."""
    if os.geteuid() != 0:
        return "starting SLURM's daemons takes root"
    if lacking := [name for name in DAEMONS if not shutil.which(name, path=_PATH)]:
        return f"{', '.join(lacking)} not installed: apt-get install slurm-wlm munge, or --install"
    if (FOLDER / "slurm.conf").exists() and MARK not in (FOLDER / "slurm.conf").read_text():
        return f"{FOLDER}/slurm.conf is somebody else's"
    if "slurmctld" in _run("ps", "-eo", "comm").split():
        return "a slurmctld is at work here already"
    try:
        import snakemake_executor_plugin_slurm  # noqa: F401
    except ImportError:
        return "the extra `slurm` is not installed"
    return None


def install() -> None:
    """Install Debian's packages, where this machine can."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "slurm-wlm", "munge"]):
        subprocess.run(["apt-get", *command], env=environment, check=True, stdout=subprocess.DEVNULL)


_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextmanager
def cluster(gpus: int) -> Iterator[None]:
    """Run a cluster of one node with so many declared GPUs; stop it, and take its configuration away."""
    state = Path(tempfile.mkdtemp(prefix="slurm-"))
    state.chmod(0o755)
    host = os.uname().nodename.split(".")[0]
    lines = [
        *(MARK, "ClusterName=loopback", f"SlurmctldHost={host}(127.0.0.1)", "SlurmUser=root", "SlurmdUser=root"),
        *(f"StateSaveLocation={state}", f"SlurmdSpoolDir={state}/spool", "AuthType=auth/munge", "MailProg=/bin/true"),
        *(f"SlurmctldPidFile={state}/slurmctld.pid", f"SlurmdPidFile={state}/slurmd.pid"),
        *("ProctrackType=proctrack/pgid", "TaskPlugin=task/none", "GresTypes=gpu"),
        *("SelectType=select/cons_tres", "SelectTypeParameters=CR_Core_Memory"),
        *("ReturnToService=2", "MinJobAge=7200", "KillWait=30", "SlurmdParameters=config_overrides"),
        # More than there is: what is checked is the order of jobs, and one core computes for them all in turn.
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=200000 Gres=gpu:{gpus} State=UNKNOWN",
        f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP",
        f"PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP",
    ]
    (FOLDER / "slurm.conf").write_text("\n".join(lines) + "\n")
    files = ",".join(FAKE_GPUS[:gpus])
    (FOLDER / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in files.split(",")))
    (FOLDER / "cgroup.conf").write_text("CgroupAutomount=no\n")
    processes, up = [], False

    def start(*command: str, user: str | None = None) -> None:
        log = (state / f"{Path(command[0]).name}.log").open("w")
        # Sessions of their own: a signal to this script's group is not theirs.
        processes.append(
            subprocess.Popen(
                [shutil.which(command[0], path=_PATH), *command[1:]],
                stdout=log,
                stderr=log,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                start_new_session=True,
            )
        )

    try:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:  # none at work yet
            munge = pwd.getpwnam("munge")
            for place in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
                Path(place).mkdir(exist_ok=True)
                os.chown(place, munge.pw_uid, munge.pw_gid)
                Path(place).chmod(0o755)
            start("munged", "-F", user="munge")
            _wait(lambda: not subprocess.run(["munge", "-n"], capture_output=True).returncode, 20, "munged")
        start("slurmctld", "-D", "-i")
        start("slurmd", "-D")
        _wait(lambda: "idle" in _run("sinfo", "-h", "-o", "%T"), 60, "an idle node")
        up = True
        yield
    except TimeoutError as error:
        logs = "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in state.glob("*.log"))
        raise (RuntimeError if up else NotStartedError)(f"{error}\n{logs}") from None
    finally:
        _run("scancel", "-u", "root")
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
            (FOLDER / name).unlink(missing_ok=True)
        shutil.rmtree(state, ignore_errors=True)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _wait(ready: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until `ready`; TimeoutError says what for."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.5)


def start_workflow(folder: Path, overlay: dict, *options: str, local: bool = False) -> subprocess.Popen:
    """Start Snakemake in `folder` with the profile for SLURM, or on this machine."""
    (folder / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    # A machine with this program computes on GPUs, as the workflow sees it; torch finds none, and takes the CPU.
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/nvidia-smi").write_text("#!/bin/sh\n")
    (folder / "bin/nvidia-smi").chmod(0o755)
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "workflow/Snakefile"]
    command += ["--directory", folder, "--configfile", folder / "overlay.yaml"]
    if local:
        command += ["--cores", "1"]
    else:
        command += ["--profile", ROOT / "workflow/profiles/slurm", "--slurm-status-command", "squeue"]
        command += ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10", "--local-cores", "1"]
    if "--config" not in options:
        command += ["--config", "device=auto", "gpu_request=gpu"]  # instead of what the profile says
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SNAKEMAKE_"))},
        **{"PATH": f"{folder / 'bin'}:{_PATH}", "OMP_NUM_THREADS": "1"},
    }
    log = (folder / f"snakemake-{'local' if local else 'slurm'}.log").open("w")
    return subprocess.Popen(
        [*map(str, command), *options], cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def finish(process: subprocess.Popen, folder: Path, seconds: float) -> None:
    """Wait for a workflow's end, which is to be a good one."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        status = f"none in {seconds:.0f} s"
    text = "\n".join(log.read_text()[-3000:] for log in folder.glob("snakemake-*.log"))
    assert status == 0, f"status {status}\n{text}\n{_run('squeue')}"


def jobs() -> list[dict[str, str]]:
    """Return every job that the cluster remembers, as scontrol shows it, with its rule; of a group, the first rule."""
    found = []
    for line in _run("scontrol", "show", "job", "-o").splitlines():
        job = dict(re.findall(r"(\w+)=(\S*)", line))
        if "Comment" in job:
            rule = re.match(r"rule_(.*?)(?:_wildcards.*)?$", job["Comment"])[1]
            job["rule"] = "train_detector" if rule.endswith("_test_detector_train_detector") else rule
            found.append(job)
    return found


def gpus_of(job: dict[str, str]) -> int:
    """Return how many GPUs a job asked for."""
    request = " ".join(job.get(key, "") for key in ("TresPerJob", "TresPerNode", "TRES", "ReqTRES"))
    found = re.search(r"gpu[:=](?:\w+[:=])?(\d+)", request)
    return int(found[1]) if found else 0


def span(job: dict[str, str]) -> tuple[datetime, datetime]:
    """Return when a job started and ended."""
    return datetime.fromisoformat(job["StartTime"]), datetime.fromisoformat(job["EndTime"])


def checked_requests(found: list[dict[str, str]]) -> str:
    """Check what jobs asked the cluster for against the rules; return a summary."""
    on_gpu = {"train_fnet", "train_detector", "test_detector", "explain_fnet", "estimate_cost"}
    memory = {"train_fnet": 8000, "train_detector": 12000, "audit_dataset": 2000}
    limits = {"train_fnet": "12:00:00", "train_detector": ("1-00:00:00", "1-01:00:00")}  # alone, and tested as well
    for job in found:
        rule, wildcards = job["rule"], job["Comment"]
        of_network = rule in ("fuse_pairs", "measure_cost") and wildcards.endswith(("fnet", "mine", "other"))
        network = rule in on_gpu or of_network
        assert gpus_of(job) == int(network), (wildcards, job)
        assert job["MinMemoryNode"] == f"{memory.get(rule, job['MinMemoryNode'][:-1])}M", (wildcards, job)
        assert job["TimeLimit"] in limits.get(rule, job["TimeLimit"]), (wildcards, job)
        assert job["NumCPUs"] == ("2" if rule == "test_differences" else "1") and job["Partition"] == "main", (
            wildcards,
            job,
        )
    asked = [gpus_of(job) for job in found]
    return f"{len(found)} jobs through sbatch, {sum(asked)} with a GPU, {asked.count(0)} without"


def smallest_jobs(folder: Path) -> str:
    """Four jobs go through sbatch and ask for what their rules say; two of them wait for each other's GPU."""
    (folder / "mine.py").write_text("def fuse(visible, infrared):\n    return visible\n")
    targets = ["results/data/pairs/train.txt", *(f"results/cost/{name}.json" for name in COSTS)]
    with cluster(gpus=1):
        finish(start_workflow(folder, APART, "--", *targets), folder, 600)
        found = jobs()
    assert len(found) == 4 and {job["JobState"] for job in found} == {"COMPLETED"}, found
    (_, end), (start, _) = sorted(span(job) for job in found if gpus_of(job))
    assert end <= start, found
    return checked_requests(found)


def smallest_run(folder: Path) -> str:
    """The embedded default at its smallest ends with its tables; every job asks for what its rule says."""
    with cluster(gpus=1):
        finish(start_workflow(folder, SMALLEST), folder, 3000)
        found = jobs()
    assert all((folder / f"results/{name}").stat().st_size for name in ("tables/table2.csv", "report.html"))
    assert {job["JobState"] for job in found} == {"COMPLETED"}, found
    rules = {job["rule"] for job in found}
    assert {"generate_pairs", "train_fnet", "fuse_pairs", "train_detector"} <= rules, rules
    assert not {"describe_variant", "test_detector"} & rules, rules
    return checked_requests(found)


def _two_trainings(folder: Path, gpus: int, request: str) -> str:
    """Run two trainings on so many declared GPUs; they queue on one and overlap on two."""
    targets = [f"results/detection/{band}/seed0/weights.pt" for band in ("visible", "infrared")]
    overlay = {**SMALLEST, "detection": {"image_size": 64, "training": {"epochs": 20, "precision": "fp32"}}}
    finish(start_workflow(folder, overlay, "--until", "describe_variant", "--", *targets, local=True), folder, 600)
    with cluster(gpus):
        options = ["--config", "device=auto", f"gpu_request={request}", "--", *targets]
        finish(start_workflow(folder, overlay, *options), folder, 600)
        found = [job for job in jobs() if job["rule"] == "train_detector"]
    assert [gpus_of(job) for job in found] == [1, 1] and all(job["JobState"] == "COMPLETED" for job in found)
    (_start, end), (other_start, other_end) = sorted(map(span, found))
    overlap = (min(end, other_end) - other_start).total_seconds()
    assert overlap > 1 if gpus == 2 else overlap <= 0, found
    return f"--{'gpus' if request == 'gpu' else 'gres'}: " + (
        f"side by side for {overlap:.0f} s" if gpus == 2 else f"the second waited {-overlap:.0f} s after the first"
    )


def one_gpu_queues(folder: Path) -> str:
    """Two trainings on one declared GPU run one after the other."""
    return _two_trainings(folder, 1, "gres")


def two_gpus_overlap(folder: Path) -> str:
    """On two they overlap, in spite of the local profile's gpu=1."""
    return _two_trainings(folder, 2, "gpu")


def trainings_share_a_gpu(folder: Path) -> str:
    """The trainings of two seeds are one job that asks for one GPU, overlap in it, and end as without a cluster."""
    overlay = {
        **SMALLEST,
        "detection": {"image_size": 64, "per_gpu": 2, "seeds": [0, 1], "training": {"epochs": 20, "precision": "fp32"}},
    }
    weights = [f"results/detection/visible/seed{seed}/weights.pt" for seed in (0, 1)]
    alone, shared = folder / "alone", folder / "shared"
    for place, until in ((alone, []), (shared, ["--until", "describe_variant"])):
        place.mkdir()
        finish(start_workflow(place, overlay, *until, "--", *weights, local=True), place, 600)
    with cluster(gpus=1):
        finish(start_workflow(shared, overlay, "--", *weights), shared, 600)
        found = jobs()
    assert len(found) == 1, [job["rule"] for job in found]
    (job,) = found
    assert (gpus_of(job), job["NumCPUs"], job["MinMemoryNode"], job["JobState"]) == (1, "2", "24000M", "COMPLETED"), job
    ends, seconds = zip(*(_times(shared / f"results/detection/visible/seed{seed}") for seed in (0, 1)), strict=True)
    overlap = min(ends) - max(end - taken for end, taken in zip(ends, seconds, strict=True))
    assert overlap > 0, (ends, seconds)
    assert [_digest(shared / name) for name in weights] == [_digest(alone / name) for name in weights]
    return f"one job, two processes side by side for {overlap:.0f} of {max(seconds):.0f} s, weights identical"


def _times(folder: Path) -> tuple[float, float]:
    """Return when a training ended, and how many seconds it took."""
    hours = json.loads((folder / "provenance.json").read_text())["speed"]["hours"]
    return (folder / "weights.pt").stat().st_mtime, 3600 * hours


def _running(rule: str, but: dict[str, str] | None = None) -> dict[str, str] | None:
    """Return a running job of the rule, other than the attempt `but`."""
    alive = [job for job in jobs() if job["rule"] == rule and job["JobState"] == "RUNNING"]
    attempts = ("JobId", "Restarts")
    return next((job for job in alive if not but or any(job[key] != but[key] for key in attempts)), None)


def _log(folder: Path, rule: str) -> Path:
    name = {"train_fnet": "train_fnet.log", "train_detector": "train_detector-visible-seed0.log"}[rule]
    return folder / "results/logs" / name


def _busy(folder: Path, rule: str, words: str, but: dict[str, str] | None = None) -> Callable[[], object]:
    """Return a question: is a job of the rule running, other than the attempt `but`, and has its log these words?"""
    log = _log(folder, rule)
    return lambda: _running(rule, but) and log.is_file() and re.search(words, log.read_text())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def interrupted_trainings(folder: Path, shortened: int = 1) -> str:
    """Requeued, out of time, cancelled, and their job step killed: trainings go on and end bit for bit alike."""
    settings = longer(shortened)
    undisturbed = folder / "undisturbed"
    disturbed = folder / "disturbed"
    for place in (undisturbed, disturbed):
        place.mkdir()
        finish(
            start_workflow(place, settings, "--until", "prepare_split", "describe_variant", "--", *WEIGHTS, local=True),
            place,
            1200,
        )
    finish(start_workflow(undisturbed, settings, "--", *WEIGHTS, local=True), undisturbed, 1200)
    said = []
    with cluster(gpus=2):
        process = start_workflow(disturbed, settings, "--", *WEIGHTS)
        trained = {"train_fnet": r"I: \d+/", "train_detector": r"seed 0: \d+/"}
        resumed = {"train_fnet": "resuming at stage", "train_detector": "resuming after"}
        for rule, words in trained.items():
            _wait(_busy(disturbed, rule, words), 600, f"{rule} at work")
        # FNet: preempted, as partitions with PreemptMode=REQUEUE do it; SLURM starts the same job again.
        first = _running("train_fnet")
        subprocess.run(["scontrol", "requeue", first["JobId"]], check=True)
        # The detector: its step's daemon is killed, as when a node breaks.
        killed = _running("train_detector")
        _kill_step(killed, disturbed)
        _log(disturbed, "train_detector").unlink()  # the next attempt writes its own
        subprocess.run(["scontrol", "reconfigure"], check=True)  # else the node is asked after its jobs minutes later
        said.append("train_fnet requeued, train_detector's step killed with -9")
        _wait(_busy(disturbed, "train_fnet", resumed["train_fnet"]), 600, "train_fnet going on")
        # FNet again: out of time. The detector: cancelled by an operator.
        again = _running("train_fnet")
        subprocess.run(["scontrol", "update", f"JobId={again['JobId']}", "TimeLimit=1"], check=True)
        _wait(_busy(disturbed, "train_detector", r"seed 0: \d+/", killed), 600, "train_detector at work again")
        subprocess.run(["scancel", _running("train_detector")["JobId"]], check=True)
        said.append("train_fnet out of time, train_detector cancelled")
        finish(process, disturbed, 1200)
        found = [job for job in jobs() if job["rule"] in trained]
    states = sorted(f"{job['rule']} {job['JobState']}" for job in found)
    for rule, words in resumed.items():
        assert re.search(words, _log(disturbed, rule).read_text()), (rule, states)
    for name in WEIGHTS:
        assert _digest(disturbed / name) == _digest(undisturbed / name), (name, states)
    return f"{'; '.join(said)}; {', '.join(states)}; both weights identical to the undisturbed run's"


def longer(shortened: int) -> dict:
    """Return settings of trainings long enough to be met by each interruption, on an idle machine if not shortened."""
    fnet = {"stage1_iterations": 400 // shortened, "stage2_iterations": 1600 // shortened, "checkpoint_every": 100000}
    detector = {"epochs": max(100 // shortened, 25), "precision": "fp32", "save_every": 1}
    return {
        **SMALLEST,
        "fnet": {"training": {**SMALLEST["fnet"]["training"], **fnet}},
        "detection": {"image_size": 64, "training": detector},
    }


def _kill_step(job: dict[str, str], folder: Path) -> None:
    """Kill the daemons of a job's steps, and the training in `folder` that they look after; nobody else's."""
    listed = [line.split(maxsplit=1) for line in _run("ps", "-eo", "pid,args").splitlines()]
    for number, words in listed:
        if re.search(rf"slurmstepd: \[{job['JobId']}\.", words):
            os.kill(int(number), signal.SIGKILL)
    for number, words in listed:
        with suppress(OSError):  # it may have ended with its daemon
            if "-m detection.train" in words and Path(f"/proc/{number}/cwd").readlink() == folder.resolve():
                os.kill(int(number), signal.SIGKILL)


CHECKS = {
    check.__name__: check
    for check in (
        *(smallest_jobs, smallest_run, one_gpu_queues, two_gpus_overlap),
        *(trainings_share_a_gpu, interrupted_trainings),
    )
}


def main() -> None:
    """Run the checks and print a table of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install Debian's packages first")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="some of the checks")
    words = "divides the length of the trainings that are interrupted: more than 1 on a slow or busy machine"
    parser.add_argument("--shortened", type=int, default=1, metavar="N", help=words)
    options = parser.parse_args()
    if options.install:
        install()
    if reason := why_not():
        sys.exit(f"error: {reason}")
    failed = False
    print("| check | held | what was seen | s |\n| --- | --- | --- | --- |", flush=True)
    for name in options.only:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
            try:
                more = [options.shortened] if name == "interrupted_trainings" else []
                held, seen = "yes", CHECKS[name](Path(folder), *more)
            except (AssertionError, RuntimeError, TimeoutError) as error:
                held, seen, failed = "no", str(error)[-4000:], True
        print(f"| {CHECKS[name].__doc__} | {held} | {seen} | {time.monotonic() - start:.0f} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
