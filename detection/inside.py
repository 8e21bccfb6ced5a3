"""Fusion inside the detector: one network whose input is both bands, instead of one fused image.

stacked     early fusion: visible and infrared form one image of four channels, red, green, blue and the infrared luma;
            only the first convolution is wider
twostream   mid fusion: two backbones, one for the visible image and one for the infrared luma, joined at the levels
            that the neck reads; neck and head are the same as for all other variants

At each level, `twostream` concatenates the features of the two backbones, and a 1x1 convolution with a norm and no
activation reduces them to the number of channels of one backbone. The sum of both bands, and each single band, are
special cases of this convolution, so it is not assumed that the same channel of both backbones has the same meaning.
This is the halfway fusion of Liu, Zhang, Wang and Metaxas, Multispectral Deep Neural Networks for Pedestrian Detection,
BMVC 2016 (arXiv 1611.02644), which was the best of their four, at the three levels of a YOLO. Published two-stream
YOLOs differ in the connections between the backbones, such as the transformers of Fang, Han and Wang, Cross-Modality
Fusion Transformer for Multispectral Object Detection (arXiv 2111.00273); this one has no such connections.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NoReturn

from pipeline.stage import InputError

STACKED, TWOSTREAM = INSIDE = ("stacked", "twostream")
CHANNELS = 4  # of the input images of such a detector

Row = list[Any]  # from, number, module, arguments, as in ultralytics' YAML files


def two_streams(architecture: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return an architecture with two backbones, made from an architecture in ultralytics' form.

    The first layer splits four channels into a tuple of three and one. The package's form has no plain split, so the
    layer is a convolution (CBLinear) as a placeholder, which `detection.detector.build_model` replaces. The additional
    key `stream_layers` is the number of layers of each backbone.

    Args:
        architecture: with the lists `backbone` and `head`.
        model: its name, for a message.

    Raises:
        InputError: the first argument of a layer that the neck reads is not its number of channels.
    """
    backbone, head = architecture["backbone"], architecture["head"]
    layers = len(backbone)
    sources = [_absolute(row[0], layers + number) for number, row in enumerate(head)]
    levels = sorted({source for listed in sources for source in _listed(listed) if source < layers})
    visible, infrared = 2, layers + 3  # offsets of the layer numbers of the two backbones
    rows: list[Row] = [
        [-1, 1, "CBLinear", [[3, CHANNELS - 3]]],
        *([0, 1, "Index", [3, 0]], *_shifted(backbone, visible)),
        *([0, 1, "Index", [CHANNELS - 3, 1]], *_shifted(backbone, infrared)),
    ]
    joined = {}
    for level in levels:
        arguments = backbone[level][3]
        if not (arguments and isinstance(arguments[0], int)):
            refuse_layer(model, f"{backbone[level][2]} with the arguments {arguments}")
        rows.append([[level + visible, level + infrared], 1, "Concat", [1]])
        joined[level] = len(rows)
        rows.append([-1, 1, "Conv", [arguments[0], 1, 1, None, 1, 1, False]])
    offset = len(rows) - layers  # of the layer numbers of the head

    def new_source(source: int) -> int:
        return joined[source] if source < layers else source + offset

    head = [
        [[*map(new_source, source)] if isinstance(source, list) else new_source(source), *deepcopy(row[1:])]
        for source, row in zip(sources, head, strict=True)
    ]
    return {**architecture, "backbone": rows, "head": head, "stream_layers": layers}


def stream_names(name: str, architecture: Mapping[str, Any]) -> list[str]:
    """Return the names in the two-stream network of a tensor of the one-stream network: two if it is in the backbone.

    Args:
        name: of the tensor in the one-stream network.
        architecture: from `two_streams`.
    """
    layers = architecture["stream_layers"]
    prefix, number, rest = name.split(".", 2)
    offset = len(architecture["backbone"]) - layers
    offsets = (2, layers + 3) if int(number) < layers else (offset,)
    return [f"{prefix}.{int(number) + by}.{rest}" for by in offsets]


def refuse_layer(model: str, layer: str) -> NoReturn:
    """Raise InputError for a detector that cannot be given two backbones because of `layer`."""
    raise InputError(
        f"twostream cannot be made of {model}: a level that its neck reads is the layer {layer}; expected layers "
        "whose first argument is their number of channels, as in yolov5, yolov8 and yolo11, or no twostream (in the "
        "configuration detection: twostream: false)"
    )


def _absolute(source: int | list[int], row: int) -> int | list[int]:
    """Return the source layers of the layer numbered `row`; negative numbers, relative to it, are resolved."""
    if isinstance(source, list):
        return [one if one >= 0 else row + one for one in source]
    return source if source >= 0 else row + source


def _listed(source: int | list[int]) -> Sequence[int]:
    return source if isinstance(source, list) else [source]


def _shifted(rows: Sequence[Row], by: int) -> list[Row]:
    """Return layers moved `by` places back in the list: absolute source numbers are raised by `by`."""

    def move(source: int) -> int:
        return source + by if source >= 0 else source

    return [[[*map(move, row[0])] if isinstance(row[0], list) else move(row[0]), *deepcopy(row[1:])] for row in rows]
