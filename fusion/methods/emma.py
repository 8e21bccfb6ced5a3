"""EMMA: U-Fuser, and the networks that guess what each band would show (Zhao et al., CVPR 2024).

Modules and parameters are named as the keys of the authors' checkpoint. Weights are ours or the authors' EMMA.pth;
luma / 255 goes in. The authors stretch every fused image to the whole range. They cut images whose sides are no
multiples of 32 into overlapping crops; here the network continues them by mirroring, which leaves no seams.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from fusion.fnet.losses import distance
from fusion.methods import auifnet
from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.borders import continued
from fusion.methods.parts.filling import filled
from fusion.methods.parts.finishing import stretched
from fusion.methods.parts.restormer import BaseBlock, striped_base
from fusion.methods.parts.running import as_fuser
from fusion.methods.parts.schedules import halving
from pipeline.stage import InputError

WIDTHS = (8, 16, 32, 32)  # maps at full, half, quarter and eighth size
SENSING_WIDTHS = (64, 128, 256, 512, 1024)
MULTIPLE = 2 ** (len(WIDTHS) - 1)  # of which U-Fuser's sides must be
SENSING_EPOCHS, EPOCHS = 40, 120
EPOCH_PATCHES = 6498  # of the authors: 1,083 pairs of MSRS, six patches each
ANGLES = (10.0, 130.0, 250.0)
LARGEST_SHIFT = 127
EQUIVARIANCE = 0.1


def convolution(inputs: int, outputs: int, bias: bool = False, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with mirrored borders."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="reflect", bias=bias)


class Residual(nn.Module):
    """Two convolutions added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            convolution(channels, channels, True), nn.ReLU(), convolution(channels, channels, True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return x + self.conv(x)


class Block(nn.Module):
    """A convolution, then global and local features of its maps side by side, and a convolution of both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.embed = convolution(inputs, outputs)
        self.GlobalFeature = BaseBlock(outputs, borders="reflect")
        self.LocalFeature = nn.Module()
        self.LocalFeature.Extraction = nn.Sequential(Residual(outputs), Residual(outputs))
        self.FFN = convolution(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        x = self.embed(x)
        return self.FFN(torch.cat([self.GlobalFeature(x), self.LocalFeature.Extraction(x)], dim=1))


def upsampling(inputs: int, outputs: int) -> nn.Sequential:
    """Return a transposed convolution that doubles the sides."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.ReLU())


class UFuser(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 1,517,657 parameters.

    Any size works: sides that are no multiples of 8 are continued by mirroring, and cropped.
    """

    def __init__(self) -> None:
        super().__init__()
        widths, before = WIDTHS, (1, *WIDTHS)
        for level, width in enumerate(widths, start=1):
            for band in "VI":
                self.add_module(f"{band}_en_{level}", Block(before[level - 1], width))
                if level < len(widths):
                    self.add_module(f"{band}_down{level}", convolution(width, width, stride=2))
            self.add_module(f"f_{level}", Block(2 * width, width))
            deepest = level == len(widths)
            self.add_module(f"de_{level}", Block(width if deepest else 2 * width, width))
            if level > 1:
                self.add_module(f"up{level}", upsampling(width, widths[level - 2]))
        self.last = nn.Sequential(convolution(widths[0], 1, bias=True), nn.Sigmoid())

    def _levels(self, image: Tensor, band: str) -> list[Tensor]:
        levels = []
        for level in range(1, len(WIDTHS) + 1):
            levels.append(self.get_submodule(f"{band}_en_{level}")(image))
            if level < len(WIDTHS):
                image = self.get_submodule(f"{band}_down{level}")(levels[-1])
        return levels

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Encode both bands, fuse at every size, decode from the smallest."""
        size = visible.shape[2:]
        visible, infrared = (continued(image, MULTIPLE, least=2) for image in (visible, infrared))
        pairs = zip(self._levels(infrared, "I"), self._levels(visible, "V"), strict=True)
        fused = [self.get_submodule(f"f_{k}")(torch.cat(pair, dim=1)) for k, pair in enumerate(pairs, start=1)]
        maps = self.get_submodule(f"de_{len(WIDTHS)}")(fused.pop())
        for level in range(len(WIDTHS), 1, -1):
            raised = self.get_submodule(f"up{level}")(maps)
            maps = self.get_submodule(f"de_{level - 1}")(torch.cat([raised, fused.pop()], dim=1))
        return self.last(maps)[..., : size[0], : size[1]]


class Sensing(nn.Module):
    """Guesses one band from the fused image: a U-Net, (N, 1, H, W) to the same in 0..1; 39,397,761 parameters.

    Sides must be multiples of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        before = (1, *SENSING_WIDTHS)
        for level, width in enumerate(SENSING_WIDTHS, start=1):
            self.add_module(f"down{level}", _twice(before[level - 1], width))
            if level > 1:
                self.add_module(f"up_sample{level}", upsampling(width, before[level - 1]))
                self.add_module(f"up{level - 1}", _twice(width, before[level - 1]))
        self.last = nn.Sequential(nn.Conv2d(SENSING_WIDTHS[0], 1, 3, padding=1), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        """Return the band."""
        levels = []
        for level in range(1, len(SENSING_WIDTHS) + 1):
            levels.append(self.get_submodule(f"down{level}").conv(F.max_pool2d(image, 2) if level > 1 else image))
            image = levels[-1]
        maps = levels.pop()
        for level in range(len(SENSING_WIDTHS), 1, -1):
            raised = self.get_submodule(f"up_sample{level}")(maps)
            maps = self.get_submodule(f"up{level - 1}").conv(torch.cat([raised, levels.pop()], dim=1))
        return self.last(maps)


def _twice(inputs: int, outputs: int) -> nn.Module:
    block, layers = nn.Module(), []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    block.conv = nn.Sequential(*layers)
    return block


def network(weights: Path | None) -> UFuser:
    """Return the network, filled from `weights` or, for None, with random ones."""
    return filled(UFuser(), weights)


def in_stripes(network: UFuser) -> UFuser:
    """Return the network, whose weights are final from now on, its attention in stripes; changes the network."""
    for block in [module for module in network.modules() if isinstance(module, Block)]:
        block.GlobalFeature = striped_base(block.GlobalFeature)
    return network


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function, on a processor in stripes."""
    made = network(weights)
    # A GPU has work enough only in whole images.
    return as_fuser(in_stripes(made) if device == "cpu" else made, device, precision, channels_last=True)


def moved(images: Tensor) -> Iterator[Tensor]:
    """Yield images (N, 1, H, W) as they are, rolled three times, turned three times, and flipped three times.

    The rolls are drawn from torch's generator: distinct rows and columns within 127 pixels, less in smaller images.
    """
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
    if frozen is None:
        raise InputError(
            "emma starts from images that AUIFNet fused, and found no weights of it; wanted its authors' folder or "
            "a file of ours as --teacher-weights"
        )
    teacher = auifnet.network(frozen).eval().requires_grad_(False)
    trained, to_infrared, to_visible = network(None), Sensing(), Sensing()

    def sensed(guess: Sensing, which: int) -> Phase:
        def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
            teacher.to(visible.device)
            guess.train()
            fused = teacher(visible, infrared)
            error = (guess(fused) - (visible, infrared)[which]).square().mean()
            return {"total": error, "mse": error}

        title = f"0, {('visible', 'infrared')[which]}"
        schedule = halving(10, SENSING_EPOCHS)
        iterations = SENSING_EPOCHS * EPOCH_PATCHES // 64
        return Phase(title, list(guess.parameters()), loss, schedule=schedule, iterations=iterations)

    def equivariant(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
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
        schedule=halving(20, EPOCHS),
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


METHOD = Method(
    load,
    network=network,
    published=Published("github.com/Zhaozixiang1228/MMIF-EMMA", {"EMMA.pth": ""}),
    authors_output=stretched,
    training=training,
    parameters_note="of U-Fuser; two networks of 39,397,761 each take part in its training alone",
)
