"""EMMA: U-Fuser, and the pseudo-sensing networks of its training (Zhao et al., CVPR 2024).

Modules and parameters are named as the keys of the authors' checkpoint. The weights are a file of ours or the authors'
EMMA.pth; the input is luma / 255. The authors stretch every fused image to the whole range. They cut images whose sides
are not multiples of 32 into overlapping crops; here the network pads them by mirroring, which leaves no seams.
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
from fusion.methods.parts.borders import pad_to_multiple
from fusion.methods.parts.filling import filled
from fusion.methods.parts.postprocessing import stretched
from fusion.methods.parts.restormer import BaseFeatureExtraction, striped_base
from fusion.methods.parts.running import as_fuser
from fusion.methods.parts.schedules import halving
from pipeline.stage import InputError

WIDTHS = (8, 16, 32, 32)  # maps at full, half, quarter and eighth size
SENSING_WIDTHS = (64, 128, 256, 512, 1024)
MULTIPLE = 2 ** (len(WIDTHS) - 1)  # the sides of U-Fuser's input are multiples of this
SENSING_EPOCHS, EPOCHS = 40, 120
EPOCH_PATCHES = 6498  # in the authors' training: 1,083 pairs of MSRS, six patches each
ANGLES = (10.0, 130.0, 250.0)
LARGEST_SHIFT = 127
EQUIVARIANCE_WEIGHT = 0.1


def convolution(inputs: int, outputs: int, bias: bool = False, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with mirrored borders."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="reflect", bias=bias)


class ResidualBlock(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            convolution(channels, channels, True), nn.ReLU(), convolution(channels, channels, True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x + self.conv(x)


class RestormerCNNBlock(nn.Module):
    """A convolution, then global (Restormer) and local (CNN) features in parallel, and a convolution of both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.embed = convolution(inputs, outputs)
        self.GlobalFeature = BaseFeatureExtraction(outputs, borders="reflect")
        self.LocalFeature = nn.Module()
        self.LocalFeature.Extraction = nn.Sequential(ResidualBlock(outputs), ResidualBlock(outputs))
        self.FFN = convolution(2 * outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        x = self.embed(x)
        return self.FFN(torch.cat([self.GlobalFeature(x), self.LocalFeature.Extraction(x)], dim=1))


def upsampling(inputs: int, outputs: int) -> nn.Sequential:
    """Return a transposed convolution that doubles the sides."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False), nn.ReLU())


class UFuser(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W) in 0..1; 1,517,657 parameters.

    Any size works: images are padded by mirroring to multiples of 8, and the result is cropped.
    """

    def __init__(self) -> None:
        super().__init__()
        widths, before = WIDTHS, (1, *WIDTHS)
        for level, width in enumerate(widths, start=1):
            for band in "VI":
                self.add_module(f"{band}_en_{level}", RestormerCNNBlock(before[level - 1], width))
                if level < len(widths):
                    self.add_module(f"{band}_down{level}", convolution(width, width, stride=2))
            self.add_module(f"f_{level}", RestormerCNNBlock(2 * width, width))
            deepest = level == len(widths)
            self.add_module(f"de_{level}", RestormerCNNBlock(width if deepest else 2 * width, width))
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
        """Return the fused luma."""
        size = visible.shape[2:]
        visible, infrared = (pad_to_multiple(image, MULTIPLE, least=2) for image in (visible, infrared))
        pairs = zip(self._levels(infrared, "I"), self._levels(visible, "V"), strict=True)
        fused = [self.get_submodule(f"f_{k}")(torch.cat(pair, dim=1)) for k, pair in enumerate(pairs, start=1)]
        maps = self.get_submodule(f"de_{len(WIDTHS)}")(fused.pop())
        for level in range(len(WIDTHS), 1, -1):
            upsampled = self.get_submodule(f"up{level}")(maps)
            maps = self.get_submodule(f"de_{level - 1}")(torch.cat([upsampled, fused.pop()], dim=1))
        return self.last(maps)[..., : size[0], : size[1]]


class PseudoSensing(nn.Module):
    """A U-Net that predicts one band from the fused image, (N, 1, H, W) to (N, 1, H, W) in 0..1.

    39,397,761 parameters. Sides must be multiples of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        before = (1, *SENSING_WIDTHS)
        for level, width in enumerate(SENSING_WIDTHS, start=1):
            self.add_module(f"down{level}", _double_convolution(before[level - 1], width))
            if level > 1:
                self.add_module(f"up_sample{level}", upsampling(width, before[level - 1]))
                self.add_module(f"up{level - 1}", _double_convolution(width, before[level - 1]))
        self.last = nn.Sequential(nn.Conv2d(SENSING_WIDTHS[0], 1, 3, padding=1), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        """Return the predicted band."""
        levels = []
        for level in range(1, len(SENSING_WIDTHS) + 1):
            levels.append(self.get_submodule(f"down{level}").conv(F.max_pool2d(image, 2) if level > 1 else image))
            image = levels[-1]
        maps = levels.pop()
        for level in range(len(SENSING_WIDTHS), 1, -1):
            upsampled = self.get_submodule(f"up_sample{level}")(maps)
            maps = self.get_submodule(f"up{level - 1}").conv(torch.cat([upsampled, levels.pop()], dim=1))
        return self.last(maps)


def _double_convolution(inputs: int, outputs: int) -> nn.Module:
    block, layers = nn.Module(), []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    block.conv = nn.Sequential(*layers)
    return block


def network(weights: Path | None) -> UFuser:
    """Return the network with `weights`, or with random weights for None."""
    return filled(UFuser(), weights)


def in_stripes(network: UFuser) -> UFuser:
    """Change the network to compute its attention in stripes, and return it; its weights must not change afterwards."""
    for block in [module for module in network.modules() if isinstance(module, RestormerCNNBlock)]:
        block.GlobalFeature = striped_base(block.GlobalFeature)
    return network


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function; on a CPU it works in stripes."""
    model = network(weights)
    # On a GPU, stripes are too small to keep it busy.
    return as_fuser(in_stripes(model) if device == "cpu" else model, device, precision, channels_last=True)


def transformations(images: Tensor) -> Iterator[Tensor]:
    """Yield the images, (N, 1, H, W), unchanged, then three shifts, three rotations and three reflections of them.

    The shifts are cyclic and drawn from torch's generator: distinct numbers of rows and of columns, not 0, up to 127
    pixels in both directions, or up to the side minus 1 in smaller images.
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
    """Return the authors' stages: pseudo-sensing networks learn from AUIFNet's images, then U-Fuser is trained.

    `frozen` is the weights file of AUIFNet, or its authors' folder.

    Higher learning rates than the authors' 1e-4 can collapse the training: AUIFNet's images of MSRS are dark, so that a
    flat dark image has a low loss. In four of five short trainings at 2e-4 or 5e-4, U-Fuser was black after 60
    iterations of stage 1, where its sigmoid saturates. At 1e-4, its images are flat for about 100 iterations.

    Raises:
        InputError: `frozen` is None.
    """
    if frozen is None:
        raise InputError(
            "emma is trained on images fused by AUIFNet, but --teacher-weights is not given; expected the folder of "
            "AUIFNet's authors or a weights file of ours"
        )
    teacher = auifnet.network(frozen).eval().requires_grad_(False)
    trained, to_infrared, to_visible = network(None), PseudoSensing(), PseudoSensing()

    def sensing_phase(sensing: PseudoSensing, which: int) -> Phase:
        def loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
            teacher.to(visible.device)
            sensing.train()
            fused = teacher(visible, infrared)
            error = (sensing(fused) - (visible, infrared)[which]).square().mean()
            return {"total": error, "mse": error}

        title = f"0, {('visible', 'infrared')[which]}"
        schedule = halving(10, SENSING_EPOCHS)
        iterations = SENSING_EPOCHS * EPOCH_PATCHES // 64
        return Phase(title, list(sensing.parameters()), loss, schedule=schedule, iterations=iterations)

    def fusion_loss(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        for sensing in (to_visible, to_infrared):
            sensing.eval().requires_grad_(False)
        fused = trained(visible, infrared)
        targets = torch.cat(list(transformations(fused)))
        again = trained(to_visible(targets), to_infrared(targets))
        terms = {
            "visible": distance(to_visible(fused), visible),
            "infrared": distance(to_infrared(fused), infrared),
            "equivariance": EQUIVARIANCE_WEIGHT * distance(targets, again),
        }
        return {"total": sum(terms.values()), **terms}

    fusing = Phase(
        "1",
        list(trained.parameters()),
        fusion_loss,
        schedule=halving(20, EPOCHS),
        iterations=EPOCHS * EPOCH_PATCHES // 4,
    )
    choices = [
        "stage 0 uses images fused by AUIFNet; the authors also use DIDFuse",
        "batches of four pairs in every stage; the authors use batches of 64 in stage 0",
        "random 128x128 crops with flips and rotations instead of a fixed grid without flat patches",
    ]
    auxiliary = {"to_infrared": to_infrared, "to_visible": to_visible}
    phases = [sensing_phase(to_infrared, 1), sensing_phase(to_visible, 0), fusing]
    return Training(trained, phases, auxiliary, crop=128, smallest_crop=32, crop_step=16, batch=4, choices=choices)


METHOD = Method(
    load,
    network=network,
    published=Published("github.com/Zhaozixiang1228/MMIF-EMMA", {"EMMA.pth": ""}),
    authors_output=stretched,
    training=training,
    parameters_note="of U-Fuser, without the two networks of 39,397,761 each that are only used in training",
)
