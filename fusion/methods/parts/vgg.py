"""Frozen VGG networks as feature extractors, for losses and inside CoCoNet; torchvision's published weights.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.
Layers are named conv1_1, relu1_1, ..., pool1, conv2_1, ... after that paper's tables.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import vgg16, vgg19

from fusion.weights import fill, read_state
from pipeline.stage import InputError

# torchvision's file names, which end with the first digits of the SHA-256.
FILES = {"VGG-16": "vgg16-397923af.pth", "VGG-19": "vgg19-dcbb9e9d.pth"}
PUBLISHED_AT = "https://download.pytorch.org/models/"
# torchvision's networks were trained with RGB in 0..1, minus the mean, divided by the standard deviation.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Features(nn.Module):
    """The convolutional part of a VGG up to the last of the requested layers; parameters have requires_grad False."""

    def __init__(self, features: nn.Sequential, layers: Sequence[str]) -> None:
        super().__init__()
        names = layer_names(features)
        if unknown := [layer for layer in layers if layer not in names]:
            raise ValueError(f"no layer {', '.join(unknown)}; expected layers among {', '.join(names)}")
        self.layers = tuple(layers)
        self.steps = nn.ModuleDict()
        for name, step in zip(names, features, strict=True):
            # torchvision's ReLUs work in place and would overwrite the output of the convolution before them.
            self.steps[name] = nn.ReLU() if isinstance(step, nn.ReLU) else step
            if set(layers) <= self.steps.keys():
                break
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the requested layers, in their order, for images (N, 3, H, W) from `normalised`."""
        outputs = {}
        for name, step in self.steps.items():
            images = outputs[name] = step(images)
        return [outputs[name] for name in self.layers]


def layer_names(features: nn.Sequential) -> list[str]:
    """Return the names of the modules of torchvision's `features`: conv1_1, relu1_1, conv1_2, relu1_2, pool1, ..."""
    names, block, place = [], 1, 0
    for step in features:
        if isinstance(step, nn.MaxPool2d):
            names.append(f"pool{block}")
            block, place = block + 1, 0
        else:
            place += isinstance(step, nn.Conv2d)
            names.append(f"{'conv' if isinstance(step, nn.Conv2d) else 'relu'}{block}_{place}")
    return names


def normalised(luma: Tensor) -> Tensor:
    """Return luma (N, 1, H, W) in 0..1 as the three channels, (N, 3, H, W), that torchvision's weights expect."""
    mean, deviation = (luma.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (luma - mean) / deviation


def gram(maps: Tensor) -> Tensor:
    """Return the Gram matrix of each image's maps, (N, C, H, W) to (N, C, C), divided by C H W."""
    flat = maps.flatten(2)
    return flat @ flat.mT / maps[0].numel()


def vgg16_features(path: Path | None, layers: Sequence[str]) -> Features:
    """Return VGG-16 up to `layers` with the weights of torchvision's state dict file; frozen, in evaluation mode.

    Raises:
        InputError: `path` is None, or not such a file.
    """
    return _features("VGG-16", path, layers)


def vgg19_features(path: Path | None, layers: Sequence[str]) -> Features:
    """Return VGG-19 up to `layers`, as `vgg16_features` does for VGG-16."""
    return _features("VGG-19", path, layers)


def _features(name: str, path: Path | None, layers: Sequence[str]) -> Features:
    if path is None:
        raise InputError(
            f"no file of pretrained {name} weights was given; expected torchvision's {FILES[name]}, "
            f"published at {PUBLISHED_AT}"
        )
    with torch.device("meta"):  # skips the random initialisation, which the file would overwrite
        features = {"VGG-16": vgg16, "VGG-19": vgg19}[name](weights=None).features
    features.to_empty(device="cpu")
    # The classifier, three quarters of the file, is not used.
    state = {key: value for key, value in read_state(path).items() if not key.startswith("classifier.")}
    fill(features, {key.removeprefix("features."): value for key, value in state.items()}, path)
    return Features(features, layers).eval()
