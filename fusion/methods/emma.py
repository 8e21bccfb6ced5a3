"""EMMA as a method: weights of ours or the authors' EMMA.pth, luma / 255 in.

The authors stretch every fused image to the whole range (`authors_output`). They cut images whose sides are no
multiples of 32 into overlapping crops; here the network continues them by mirroring, which leaves no seams.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser, stretched
from pipeline.stage import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.emma import UFuser

SENSING_EPOCHS, EPOCHS = 40, 120
EPOCH_PATCHES = 6498  # of the authors: 1,083 pairs of MSRS, six patches each
ANGLES = (10.0, 130.0, 250.0)
LARGEST_SHIFT = 127
EQUIVARIANCE = 0.1


def network(weights: Path | None) -> "UFuser":
    """Return the network, filled from `weights` or, for None, with random ones."""
    from fusion.networks.emma import UFuser
    from fusion.weights import fill, read_state

    made = UFuser()
    if weights is not None:
        fill(made, read_state(weights), weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function."""
    return as_fuser(network(weights), device, precision)


def moved(images: "Tensor") -> "Iterator[Tensor]":
    """Yield images (N, 1, H, W) as they are, rolled three times, turned three times, and flipped three times.

    The rolls are drawn from torch's generator: distinct rows and columns within 127 pixels, less in smaller images.
    """
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    yield images
    shifts = []
    for side in images.shape[2:]:
        most = min(LARGEST_SHIFT, side - 1)
        choices = torch.cat([torch.arange(-most, 0), torch.arange(1, most + 1)])
        shifts.append(choices[torch.randperm(len(choices))[:3]].tolist())
    for offset in zip(*shifts, strict=True):
        yield images.roll(offset, dims=(2, 3))
    for angle in ANGLES:
        yield rotate(images, angle, InterpolationMode.BILINEAR)
    for sides in ((2,), (3,), (2, 3)):
        yield images.flip(sides)


def training(frozen: Path | None) -> Training:
    """Return the authors' stages: two networks guess the bands from AUIFNet's images, then U-Fuser learns by them.

    Raises:
        InputError: no weights of AUIFNet are given.
    """
    import torch
    from torch.nn import functional as F

    from fusion.methods import auifnet
    from fusion.networks.emma import Sensing
    from fusion.training.similarity import sobel

    if frozen is None:
        raise InputError(
            "emma starts from images that AUIFNet fused, and found no weights of it; wanted its authors' folder or "
            "a file of ours as --teacher-weights"
        )
    teacher = auifnet.network(frozen).eval().requires_grad_(False)
    trained, to_infrared, to_visible = network(None), Sensing(), Sensing()

    def sensed(guess: "Sensing", which: int) -> "Phase":
        def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
            teacher.to(visible.device)
            guess.train()
            fused = teacher(visible, infrared)
            error = (guess(fused) - (visible, infrared)[which]).square().mean()
            return {"total": error, "mse": error}

        title = f"0, {('visible', 'infrared')[which]}"
        schedule = _halving(10, SENSING_EPOCHS)
        iterations = SENSING_EPOCHS * EPOCH_PATCHES // 64
        return Phase(title, list(guess.parameters()), loss, schedule=schedule, iterations=iterations)

    def distance(a: "Tensor", b: "Tensor") -> "Tensor":
        difference = F.pad(a - b, (1, 1, 1, 1), mode="replicate")
        slopes = torch.cat(sobel(difference), dim=1)[..., 1:-1, 1:-1] / 8
        # Two derivatives a pixel, averaged together.
        return (a - b).abs().mean() + slopes.abs().mean()

    def equivariant(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        for guess in (to_visible, to_infrared):
            guess.eval().requires_grad_(False)
        fused = trained(visible, infrared)
        targets = torch.cat(list(moved(fused)))
        again = trained(to_visible(targets), to_infrared(targets))
        terms = {
            "visible": distance(to_visible(fused), visible),
            "infrared": distance(to_infrared(fused), infrared),
            "equivariance": EQUIVARIANCE * distance(targets, again),
        }
        return {"total": sum(terms.values()), **terms}

    fusing = Phase(
        "1",
        list(trained.parameters()),
        equivariant,
        schedule=_halving(20, EPOCHS),
        iterations=EPOCHS * EPOCH_PATCHES // 4,
    )
    choices = [
        "stage 0 learns from images that AUIFNet fused, the authors' from DIDFuse's and AUIFNet's",
        "four pairs in an iteration of every stage, the authors' 64 in stage 0",
        "random 128x128 crops with flips and turns instead of a fixed grid without flat patches",
    ]
    beside = {"to_infrared": to_infrared, "to_visible": to_visible}
    phases = [sensed(to_infrared, 1), sensed(to_visible, 0), fusing]
    return Training(trained, phases, beside, crop=128, smallest_crop=32, crop_step=16, batch=4, choices=choices)


def _halving(every: int, epochs: int) -> Callable[[float], float]:
    return lambda share: 0.5 ** (int(share * epochs) // every)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Zhao et al., CVPR 2024",
    network=network,
    published=Published("github.com/Zhaozixiang1228/MMIF-EMMA", {"EMMA.pth": ""}),
    authors_output=stretched,
    training=training,
    frozen="teacher_weights",
    parameters_note="of U-Fuser; two networks of 39,397,761 each take part in its training alone",
)
