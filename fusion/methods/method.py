"""What a fusion method is to the rest of the project: what planning reads of it, and what runs it."""

from __future__ import annotations  # torch takes seconds to import, and planning needs none of it

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]

# Visible luma and infrared, float32 (H, W) in 0..1, to the fused luma, float32 (H, W); the caller clips it to 0..1.
Fuser = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Phase:
    """One stage of a method's training: what is optimised, and the loss that does it.

    title: for logs and losses.csv, such as `I`.
    parameters: what is optimised.
    loss: visible and infrared, (N, 1, H, W) in 0..1 on the parameters' device, to scalar terms by name, `total` first.
    lr: the learning rate; `schedule` multiplies it, given the share of the phase's iterations that is done, 0..1.
    clip: the largest norm of the gradient, of each part apart.
    betas: Adam's, of the gradient's first and second moments.
    parts: parameters of networks that are optimised apart, each with a factor of the rate; together `parameters`.
    iterations: how many the paper, or its code, takes; None where neither says.
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
    parts: Sequence[tuple[Sequence[nn.Parameter], float]] = ()

    def groups(self) -> Sequence[tuple[Sequence[nn.Parameter], float]]:
        """Return the parts, or all parameters as the only one."""
        return self.parts or [(self.parameters, 1.0)]


@dataclass(frozen=True)
class Training:
    """How a method is trained from pairs alone, with its own published losses.

    network: the trained one, whose state dict is what `load` takes.
    phases: one after the other; each starts with a fresh optimiser.
    beside: networks that are trained or kept beside it (in checkpoints, not among the weights), by name.
    crop, batch: side of the random square crops in pixels and pairs in an iteration, where the user gives none.
    smallest_crop, crop_step: for the losses and the network to work, the least and what it must be a multiple of.
    ema: decay of the averaged weights that are used, where the user gives none; 0 uses the last ones.
    choices: what the paper leaves open and we chose, one sentence each; goes into the provenance.
    recordable: whether a GPU may record an iteration once and replay it: no value decides what is computed.
    """

    network: nn.Module
    phases: Sequence[Phase]
    beside: Mapping[str, nn.Module] = field(default_factory=dict)
    crop: int = 128
    smallest_crop: int = 11
    crop_step: int = 1
    batch: int = 16
    ema: float = 0.0
    choices: Sequence[str] = ()
    recordable: bool = False


@dataclass(frozen=True)
class Published:
    """Where a method's authors publish their weights, and what they look like.

    repository: its name, such as `github.com/owner/name`.
    files: SHA-256 of each file by its path in what the user hands over; the empty string where it is not known.
    licence: as stated there, `none stated` where nothing is.
    """

    repository: str
    files: Mapping[str, str] = field(default_factory=dict)
    licence: str = "none stated"


@dataclass(frozen=True)
class Entry:
    """What is known of a method before its module is imported: enough to plan a run.

    module: the module whose METHOD it is; for a user's own method the one that makes it.
    reference: where the method is published.
    needs_weights: whether it needs a weights file, so that it is a network and computes on the device.
    trainable: whether it can be trained here, so that its `Method.training` is not None.
    training_takes: what a network that cannot be trained here would be trained with, for the message that says so.
    frozen: the option that gives the frozen network's weights which its losses need, None where they need none.
    on_device: whether it computes on the device although it needs no weights, as a user's own network may.
    packages: those that compute it besides numpy, OpenCV and torch; their versions are written beside the results.
    revision: raised by hand when the same weights would give another image, so that its images are made again.
    training_revision: raised by hand when its network, losses or recipe would train other weights, so that it is
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
        """Whether torch computes it, on the device and in the precision that are asked for."""
        return self.needs_weights or self.on_device


@dataclass(frozen=True)
class Method:
    """A way to fuse a pair.

    load: makes the function that fuses, from a weights path (None where there is none), a device and a precision;
        methods without weights ignore all three.
    network: makes the network as its paper writes it, from a weights path or, for None, with random weights, so that
        its parameters and multiply-adds can be counted (`fusion.cost`); called with visible luma and infrared,
        (1, 1, H, W) each. Parameters that are never trained have requires_grad False. Its state dict as safetensors
        is a weights file that `load` takes. None where the method is no network.
    training: makes what `fusion.train` runs, from the weights of a frozen network that the losses need (a VGG's, or
        another method's), None where the user gives none; it says by an InputError where it cannot do without.
    published: where its authors publish weights.
    authors_output: what the authors do with the fused luma before they round it to 8 bits; None where they clip it.
    bf16_on: the kinds of device on which it computes in bfloat16 where that is asked for; on the others in float32.
    parameters_note: what the count of parameters includes, where that is not obvious.
    """

    load: Callable[[Path | None, str, Precision], Fuser]
    network: Callable[[Path | None], nn.Module] | None = None
    training: Callable[[Path | None], Training] | None = None
    published: Published | None = None
    authors_output: Callable[[np.ndarray], np.ndarray] | None = None
    bf16_on: Collection[str] = ("cpu", "cuda")
    parameters_note: str = ""
