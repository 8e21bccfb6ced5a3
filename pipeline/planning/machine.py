"""What this machine gives to jobs, and what they ask a cluster for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from shutil import which
from typing import Any, Literal

from pipeline.devices import MOST_PER_GPU
from pipeline.stage import InputError, threads_available


@dataclass(frozen=True)
class Machine:
    """Where jobs compute.

    on_gpu: whether jobs compute on a GPU; `auto` asks this machine, so `cuda` is wanted where it only submits jobs.
    gpu_request: `gpu` or `gres`, with `:MODEL` for a model, as the configuration says.
    threads: CPU threads of a job, as the configuration says.
    given_cores: Snakemake's --cores, None on a cluster.
    here: cores of them that this machine has.
    on_cluster: whether jobs share no cores with each other.
    per_gpu: trainings that share a GPU, as the configuration says; 1 without a GPU.
    """

    on_gpu: bool
    gpu_request: str
    threads: int
    given_cores: int | None
    here: int
    on_cluster: bool
    per_gpu: int | Literal["auto"] = 1

    @property
    def side_by_side(self) -> int:
        """How many detectors train at a time.

        Without a GPU a detector hardly gains from a second core: several train side by side, one core each, few enough
        for a laptop's memory.
        """
        return 1 if self.on_gpu else min(self.here, 4)

    @property
    def most_per_gpu(self) -> int:
        """How many trainings are sent to a GPU; with `auto`, those that do not pay wait for their turn."""
        return min(MOST_PER_GPU, self.threads) if self.per_gpu == "auto" else self.per_gpu

    @property
    def gpu_places(self) -> int:
        """What a whole GPU counts among jobs on this machine, in trainings."""
        return 1 if self.on_cluster else self.most_per_gpu

    @property
    def detector_slots(self) -> int:
        """The threads that a detector's job reserves: its share of a GPU's `threads`, else of --cores."""
        if self.on_gpu:
            return max(1, self.threads // self.most_per_gpu)
        return 1 if self.on_cluster else max(1, -(-self.given_cores // self.side_by_side))

    @property
    def threads_alone(self) -> int:
        """The threads that the job reserves in which one training is timed."""
        return self.threads if self.on_gpu else self.detector_slots

    @property
    def detector_threads(self) -> int:
        """The CPU threads that a detector's job uses, or those on a GPU together."""
        if self.on_gpu:
            return self.threads
        return 1 if self.on_cluster else max(1, self.here // self.side_by_side)

    def gpu(
        self, needed: Callable[[Any], bool] = lambda wildcards: True, shared: bool = False
    ) -> dict[str, Callable[[Any], int | str | None]]:
        """Return the resources by which a job asks for a GPU, where jobs compute on one; `needed` says which jobs do.

        Locally they are counters, of places on GPUs where trainings share one; `shared` asks for one place. SLURM is
        asked by --gpus or by --gres, never by both: for what is shared by --gres, as a group of jobs that ask for the
        same text asks for it once, where numbers are added.
        """
        kind, _, model = self.gpu_request.partition(":")
        if kind == "gpu" and not (shared and self.on_cluster and self.most_per_gpu > 1):
            asked = {"gpu": 1 if shared else self.gpu_places, **({"gpu_model": model} if model else {})}
        else:
            asked = {"gres": f"gpu:{model}:1" if model else "gpu:1"}

        def where_needed(value: int | str) -> Callable[[Any], Any]:
            return lambda wildcards: value if needed(wildcards) else None

        return {name: where_needed(value) for name, value in asked.items()} if self.on_gpu else {}


def memory(mb: int) -> Callable[[Any, int], int]:
    """Return the resource `mem_mb` of a rule: `mb` megabytes at the first attempt, so many more at each further one.

    A cluster kills a job that takes more than it asked for; asking for the same again would end the same.
    """
    return lambda wildcards, attempt: mb * attempt


def find_machine(config: Mapping[str, Any], given_cores: int | None, remote: bool, submits: bool = False) -> Machine:
    """Return where jobs compute.

    Args:
        config: the configuration.
        given_cores: Snakemake's --cores, None on a cluster.
        remote: whether this is a job on a cluster, which reads the Snakefile again.
        submits: whether this machine sends jobs to a cluster; then what to ask it for must be said.

    Raises:
        InputError: it sends jobs, and the configuration does not say whether they want a GPU, or how it is asked for.
    """
    device = config["device"]
    on_gpu = device == "cuda" or (device == "auto" and which("nvidia-smi") is not None)
    if submits and device != "cpu" and not (on_gpu and config["gpu_request"]):
        what = "gpu_request is not given" if on_gpu else "device: auto finds no GPU on this machine"
        raise InputError(
            f"config: {what}, and this run sends its jobs to a cluster (--config replaces all that a profile says "
            "under config); wanted device=cuda or device=cpu there, and with cuda gpu_request=gpu, gres or another"
        )
    return Machine(
        on_gpu=on_gpu,
        gpu_request=config["gpu_request"] or "gpu",
        threads=config["threads"],
        given_cores=given_cores,
        here=min(given_cores or 1, threads_available()),
        on_cluster=given_cores is None or remote,
        per_gpu=config["detection"]["per_gpu"] if on_gpu else 1,
    )
