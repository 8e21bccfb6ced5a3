"""The interface of a fusion method: the entry that planning reads, and the functions that run and train it."""

from __future__ import annotations  # torch takes seconds to import, and planning does not need it

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]

# Takes visible luma and infrared, float32 (H, W) in 0..1; returns the fused luma, float32 (H, W), which the caller
# clips to 0..1.
Fuser = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Phase:
    """One stage of a method's training: the parameters to optimise, the loss, and the optimiser's settings.

    title: name of the stage in the log, such as `I`.
    parameters: all parameters that the stage optimises.
    loss: takes visible and infrared, (N, 1, H, W) in 0..1 on the parameters' device; returns scalar terms by name,
        `total` first.
    lr: learning rate.
    schedule: takes the fraction of the phase's iterations that is done, 0..1; returns the factor of `lr`. None keeps
        the rate constant.
    clip: maximum norm of the gradient, applied to each parameter group separately; None does not clip.
    betas: Adam's decay rates of the gradient's first and second moments.
    iterations: number of iterations in the paper or its code; None if neither states it.
    parameter_groups: groups of parameters, each with a factor of `lr`; together they are `parameters`. Empty for one
        group of all parameters.
    """

    title: str
    parameters: Sequence[nn.Parameter]
    loss: Callable[[Tensor, Tensor], dict[str, Tensor]]
    lr: float = 1e-4
    schedule: Callable[[float], float] | None = None
    clip: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    iterations: int | None = None
    parameter_groups: Sequence[tuple[Sequence[nn.Parameter], float]] = ()

    def groups(self) -> Sequence[tuple[Sequence[nn.Parameter], float]]:
        """Return the parameter groups, or all parameters as one group."""
        return self.parameter_groups or [(self.parameters, 1.0)]


@dataclass(frozen=True)
class Training:
    """How a method is trained on pairs, without labels, with its own published losses.

    network: the network to train; `load` takes its state dict.
    phases: run in this order; each starts with a new optimiser.
    auxiliary: further networks that the losses use and the phases may train, by name; saved in the checkpoints,
        separately from the weights.
    crop: default side of the random square crops, in pixels.
    smallest_crop, crop_step: the smallest side of a crop that the network and the losses accept, and the number of
        which it must be a multiple.
    batch: default number of pairs per iteration.
    ema: default decay of the moving average of the weights, which is the result; 0 returns the last weights.
    choices: our decisions where the paper leaves something open, one sentence each; written to the provenance.
    capturable: whether an iteration can be captured as a CUDA graph and replayed, because its computations do not
        depend on values.
    """

    network: nn.Module
    phases: Sequence[Phase]
    auxiliary: Mapping[str, nn.Module] = field(default_factory=dict)
    crop: int = 128
    smallest_crop: int = 11
    crop_step: int = 1
    batch: int = 16
    ema: float = 0.0
    choices: Sequence[str] = ()
    capturable: bool = False


@dataclass(frozen=True)
class Published:
    """Where a method's authors publish their weights, and which files these are.

    repository: such as `github.com/owner/name`.
    files: SHA-256 of each file by its path in the published folder; an empty string if it is unknown.
    licence: licence stated in the repository, or `none stated`.
    """

    repository: str
    files: Mapping[str, str] = field(default_factory=dict)
    licence: str = "none stated"


@dataclass(frozen=True)
class Entry:
    """The properties of a method that planning a run needs, known before its module is imported.

    module: the module that defines METHOD; for a user's own method, the module that makes it.
    reference: the publication.
    needs_weights: whether it needs a weights file; such a method is a network and computes on the device.
    trainable: whether it can be trained here, which means that its `Method.training` is not None.
    training_takes: for a network that cannot be trained here, the inputs that its training requires; completes the
        error message that refuses the training.
    frozen: the option that names the weights of the frozen network that its losses need; None if they need none.
    on_device: whether it computes on the device without needing weights, as a user's own network may.
    packages: packages that it uses in addition to numpy, OpenCV and torch; results record their versions.
    revision: incremented by hand when the same weights give another image, so that the images are fused again.
    training_revision: incremented by hand when its network, losses or recipe train other weights, so that it is
        trained again.
    """

    module: str
    reference: str
    needs_weights: bool = True
    trainable: bool = True
    training_takes: str = ""
    frozen: Literal["perceptual_weights", "teacher_weights"] | None = None
    on_device: bool = False
    packages: Sequence[str] = ()
    revision: int = 1
    training_revision: int = 1

    @property
    def in_torch(self) -> bool:
        """Whether torch computes it, on the device and in the precision that the user chooses."""
        return self.needs_weights or self.on_device


@dataclass(frozen=True)
class Method:
    """A way to fuse a pair.

    load: takes a weights path (or None), a device and a precision, and returns the function that fuses a pair; methods
        without weights ignore all three.
    network: takes a weights path, or None for random weights, and returns the network as its paper describes it, so
        that `fusion.cost` can count its parameters and multiply-adds. The network is called with visible luma and
        infrared, (1, 1, H, W) each. Parameters that are never trained have requires_grad False. Its state dict, saved
        as safetensors, is a weights file that `load` takes. None if the method is not a network.
    training: takes the weights of the frozen network that the losses need (a VGG, or another method), or None, and
        returns the training that `fusion.train` runs; raises InputError if it needs these weights and gets None.
    published: where the authors publish their weights.
    authors_output: the authors' post-processing of the fused luma before rounding to 8 bits; None if they only clip.
    bf16_on: device types on which the option bf16 has an effect; on others the method computes in float32.
    parameters_note: which parameters the count includes, if that is not obvious.
    """

    load: Callable[[Path | None, str, Precision], Fuser]
    network: Callable[[Path | None], nn.Module] | None = None
    training: Callable[[Path | None], Training] | None = None
    published: Published | None = None
    authors_output: Callable[[np.ndarray], np.ndarray] | None = None
    bf16_on: Collection[str] = ("cpu", "cuda")
    parameters_note: str = ""
