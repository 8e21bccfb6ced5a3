"""The resources of jobs: cores and GPUs of this machine, and requests to a cluster."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from shutil import which
from typing import Any, Literal

from pipeline.devices import MOST_PER_GPU
from pipeline.stage import InputError, threads_available


@dataclass(frozen=True)
class Machine:
    """The machine, or cluster, that jobs run on.

    Attributes:
        on_gpu: whether jobs compute on a GPU. `device: auto` tests this machine, so that a machine that only submits
            jobs needs `cuda`.
        gpu_request: `gpu` or `gres`, optionally with `:MODEL`, from the configuration.
        threads: CPU threads per job, from the configuration.
        given_cores: Snakemake's --cores, None on a cluster.
        here: the number of these cores that this machine has.
        on_cluster: whether each job has cores of its own.
        per_gpu: number of trainings that share a GPU, from the configuration; 1 without a GPU.
    """

    on_gpu: bool
    gpu_request: str
    threads: int
    given_cores: int | None
    here: int
    on_cluster: bool
    per_gpu: int | Literal["auto"] = 1

    @property
    def trainings_at_once(self) -> int:
        """The number of detectors that train at the same time.

        Without a GPU, a second core hardly speeds up a training. Several detectors are therefore trained concurrently
        with one core each, but not more than fit into the memory of a laptop.
        """
        return 1 if self.on_gpu else min(self.here, 4)

    @property
    def most_per_gpu(self) -> int:
        """The number of trainings that are started per GPU; with `auto`, surplus ones wait until the GPU has room."""
        return min(MOST_PER_GPU, self.threads) if self.per_gpu == "auto" else self.per_gpu

    @property
    def gpu_places(self) -> int:
        """The number of trainings that one GPU counts as in Snakemake's resources."""
        return 1 if self.on_cluster else self.most_per_gpu

    @property
    def detector_group(self) -> str:
        """The name of the group of a variant's trainings and tests, with a wildcard.

        Snakemake submits a group as one job. By default a group has one training; for the names with a number,
        workflow/profiles/slurm sets `group-components` to it, which a Snakefile cannot.
        """
        shared = self.on_cluster and self.most_per_gpu > 1
        return f"detector-{{variant}}-{self.most_per_gpu}" if shared else "detector-{variant}"

    @property
    def detector_slots(self) -> int:
        """The threads that a detector's job reserves: its share of the `threads` of a GPU, or of --cores."""
        if self.on_gpu:
            return max(1, self.threads // self.most_per_gpu)
        return 1 if self.on_cluster else max(1, -(-self.given_cores // self.trainings_at_once))

    @property
    def threads_alone(self) -> int:
        """The threads that a job reserves to time a single training."""
        return self.threads if self.on_gpu else self.detector_slots

    @property
    def detector_threads(self) -> int:
        """The CPU threads that a detector's job uses; on a GPU, the threads of all jobs that share it together."""
        if self.on_gpu:
            return self.threads
        return 1 if self.on_cluster else max(1, self.here // self.trainings_at_once)

    def gpu(
        self, needed: Callable[[Any], bool] = lambda wildcards: True, shared: bool = False
    ) -> dict[str, Callable[[Any], int | str | None]]:
        """Return the resources by which a job requests a GPU; empty if jobs compute on the CPU.

        On this machine, the resource is a counter of the places on GPUs; with `shared`, a job takes one place. On
        SLURM, a GPU is requested by --gpus or by --gres, never by both. Shared GPUs are requested by --gres, because
        Snakemake adds numbers over the jobs of a group, but passes equal texts once.

        Args:
            needed: returns whether a job needs a GPU, given its wildcards.
            shared: whether the job shares its GPU.
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
    """Return the resource `mem_mb` of a rule: `mb` megabytes times the number of the attempt.

    A cluster kills a job that uses more memory than requested, so that a retry with the same request would fail again.
    """
    return lambda wildcards, attempt: mb * attempt


def find_machine(config: Mapping[str, Any], given_cores: int | None, remote: bool, submits: bool = False) -> Machine:
    """Return the machine or cluster that jobs run on.

    Args:
        config: the configuration.
        given_cores: Snakemake's --cores, None on a cluster.
        remote: whether this process is a job on a cluster, which parses the Snakefile again.
        submits: whether this machine submits jobs to a cluster; the configuration must then state what to request.

    Raises:
        InputError: this machine submits jobs, and the configuration does not state whether they need a GPU, or how to
            request it.
    """
    device = config["device"]
    on_gpu = device == "cuda" or (device == "auto" and which("nvidia-smi") is not None)
    if submits and device != "cpu" and not (on_gpu and config["gpu_request"]):
        what = "gpu_request is not given" if on_gpu else "device: auto finds no GPU on this machine"
        raise InputError(
            f"config: {what}, and this run submits its jobs to a cluster (--config replaces the whole `config` of a "
            "profile); expected device=cuda or device=cpu there, and with cuda also gpu_request, such as gpu or gres"
        )
    return Machine(
        on_gpu=on_gpu,
        gpu_request=config["gpu_request"] or "gpu",
        threads=config["threads"],
        given_cores=given_cores,
        here=min(given_cores or 1, threads_available()),
        on_cluster=given_cores is None or remote or submits,
        per_gpu=config["detection"]["per_gpu"] if on_gpu else 1,
    )
