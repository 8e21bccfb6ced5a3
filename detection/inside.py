"""Fusing inside the detector: one network that is given both bands, instead of one image fused of them.

stacked     early fusion: visible and infrared are one image of four channels, red, green, blue and the infrared luma;
            only the first convolution is wider
twostream   mid fusion: two backbones, one of the visible image and one of the infrared luma, joined at the levels that
            the neck reads; neck and head are those of every other row

A level of `twostream` is the two backbones' features concatenated and brought back to their number of channels by a 1x1
convolution with a norm and no activation. A sum of both bands, and either band alone, are special cases of it, so that
nothing is decided beforehand about whether the same channel of two backbones means the same. This is the halfway
fusion of Liu, Zhang, Wang and Metaxas, Multispectral Deep Neural Networks for Pedestrian Detection, BMVC 2016
(arXiv 1611.02644), which did best of their four, at the three levels of a YOLO. Two-stream YOLOs of the field differ in
what is between the backbones, such as the transformers of Fang, Han and Wang, Cross-Modality Fusion Transformer for
Multispectral Object Detection (arXiv 2111.00273); this one has nothing there.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NoReturn

from pipeline.stage import InputError

STACKED, TWOSTREAM = INSIDE = ("stacked", "twostream")
CHANNELS = 4  # of the images that such a detector is shown

Row = list[Any]  # from, number, module, arguments, as in ultralytics' files


def two_streams(architecture: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return an architecture of ultralytics' form as one with two backbones.

    Its first layer splits four channels into a tuple of three and one. In the package's form that takes a convolution
    (CBLinear); whoever builds it puts a plain split in its place. `stream_layers` is the number of layers of each
    backbone.

    Args:
        architecture: with the lists `backbone` and `head`.
        model: its name, for a message.

    Raises:
        InputError: the channels of a level that the neck reads do not stand first among its layer's arguments.
    """
    backbone, head = architecture["backbone"], architecture["head"]
    layers = len(backbone)
    sources = [_absolute(row[0], layers + number) for number, row in enumerate(head)]
    levels = sorted({source for listed in sources for source in _listed(listed) if source < layers})
    visible, infrared = 2, layers + 3  # how far the two backbones' layers are moved
    rows: list[Row] = [
        [-1, 1, "CBLinear", [[3, CHANNELS - 3]]],
        *([0, 1, "Index", [3, 0]], *_moved(backbone, visible)),
        *([0, 1, "Index", [CHANNELS - 3, 1]], *_moved(backbone, infrared)),
    ]
    joined = {}
    for level in levels:
        arguments = backbone[level][3]
        if not (arguments and isinstance(arguments[0], int)):
            refuse(model, f"{backbone[level][2]} with the arguments {arguments}")
        rows.append([[level + visible, level + infrared], 1, "Concat", [1]])
        joined[level] = len(rows)
        rows.append([-1, 1, "Conv", [arguments[0], 1, 1, None, 1, 1, False]])
    after = len(rows) - layers  # how far the head's layers are moved

    def now(source: int) -> int:
        return joined[source] if source < layers else source + after

    head = [
        [[*map(now, source)] if isinstance(source, list) else now(source), *deepcopy(row[1:])]
        for source, row in zip(sources, head, strict=True)
    ]
    return {**architecture, "backbone": rows, "head": head, "stream_layers": layers}


def stream_names(name: str, architecture: Mapping[str, Any]) -> list[str]:
    """Return what a tensor of the one-stream network is called in `two_streams` of it: twice if it is a backbone's."""
    layers = architecture["stream_layers"]
    prefix, number, rest = name.split(".", 2)
    after = len(architecture["backbone"]) - layers
    moves = (2, layers + 3) if int(number) < layers else (after,)
    return [f"{prefix}.{int(number) + move}.{rest}" for move in moves]


def refuse(model: str, layer: str) -> NoReturn:
    """Raise the InputError of a detector that cannot be given two backbones for the sake of a layer."""
    raise InputError(
        f"twostream cannot be made of {model}: a level that its neck reads comes from the layer {layer}; wanted layers "
        "whose first argument is their number of channels, as in yolov5, yolov8 and yolo11, or no twostream (in the "
        "configuration detection: twostream: false)"
    )


def _absolute(source: int | list[int], row: int) -> int | list[int]:
    """Return where a layer of number `row` reads from, counted from the first layer."""
    if isinstance(source, list):
        return [one if one >= 0 else row + one for one in source]
    return source if source >= 0 else row + source


def _listed(source: int | list[int]) -> Sequence[int]:
    return source if isinstance(source, list) else [source]


def _moved(rows: Sequence[Row], by: int) -> list[Row]:
    """Return layers as they stand `by` further on."""

    def move(source: int) -> int:
        return source + by if source >= 0 else source

    return [[[*map(move, row[0])] if isinstance(row[0], list) else move(row[0]), *deepcopy(row[1:])] for row in rows]
