"""A detector that was trained elsewhere, used as it is, with its classes named as the data set's.

Read are weights of this project (`weights.pt` of any of its data sets), ONNX files as `ultralytics export` writes them,
and, on trust, ultralytics' own files, which are pickles and can run any code as they load. Nothing is downloaded.

Of an ONNX file the metadata `names` says what its classes are; without it the file is refused. One input is wanted, RGB
in 0..1, (1 or any, 3, side, side) or of any side, and one output, K being the number of its classes:

    (B, 4 + K, N)   centre x and y, width, height in pixels and a score a class: the plain export
    (B, M, 6)       xmin, ymin, xmax, ymax in pixels, score, class: with `nms=True`, or of heads without suppression
    (B, M, 4 + K)   centre x and y, width, height as fractions and a score a class: RT-DETR
"""

import ast
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detection.detector import DetectionModel, is_transformer, load_weights, raw_detections
from pipeline.artefacts import sha256_file
from pipeline.stage import InputError, some_of

IMAGE_SIZE = 640  # of files that do not state theirs
GREY = 114 / 255  # around an image, as in letterboxes


@dataclass(frozen=True)
class Foreign:
    """A detector as it was loaded.

    Attributes:
        detect: what it finds in pixels (B, 3, H, W), RGB in 0..1, in one of the three layouts.
        names: its classes in the order of their numbers.
        image_size: the long side that it was trained or exported for.
        fixed: whether it takes that size only.
        one: whether it takes one image at a time.
        stride: what sides are multiples of.
        finished: whether its detections need no suppression, whatever their layout.
        fractions: whether its boxes are fractions of the image, as an exported RT-DETR gives them.
        module: the network, where torch runs it.
    """

    detect: Callable[[torch.Tensor], torch.Tensor]
    names: tuple[str, ...]
    image_size: int
    fixed: bool = False
    one: bool = False
    stride: int = 32
    finished: bool = False
    fractions: bool = False
    module: torch.nn.Module | None = None


class AsIs(torch.nn.Module):
    """A foreign detector under the data set's class names; gives (B, 4 + K, N) as `detection.detector.raw_detections`.

    A class's score is the largest of those that are named as it, 0 for a class that none is named as.

    suppressed: whether its detections need no suppression.
    shared: whether one object may stand twice in suppressed detections, as two of its classes that are one of ours.

    Raises:
        InputError: the detector gives none of the three layouts.
    """

    def __init__(self, foreign: Foreign, columns: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.foreign, self.columns, self.inner = foreign, columns, foreign.module
        with torch.inference_mode():
            self.suppressed = self._raw(torch.full((1, 3, foreign.stride, foreign.stride), GREY))[1] or foreign.finished
        of_one = foreign.finished or foreign.fractions  # boxes with a score for each class
        self.shared = self.suppressed and not of_one and any(len(group) > 1 for group in columns)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return what is found, and nothing besides: the form of an evaluated model."""
        raw, _ = self._raw(pixels)
        scores = [raw[:, [4 + c for c in g]].amax(dim=1) if g else torch.zeros_like(raw[:, 0]) for g in self.columns]
        return torch.cat([raw[:, :4], torch.stack(scores, dim=1)], dim=1), None

    def _raw(self, pixels: torch.Tensor) -> tuple[torch.Tensor, bool]:
        foreign, (height, width) = self.foreign, pixels.shape[2:]
        step = foreign.image_size if foreign.fixed else foreign.stride
        full = [-(-side // step) * step for side in (height, width)]
        # On the right and below, where it moves no box.
        pixels = torch.nn.functional.pad(pixels, (0, full[1] - width, 0, full[0] - height), value=GREY)
        groups = pixels.split(1) if foreign.one else [pixels]
        found = torch.cat([foreign.detect(group) for group in groups])
        return in_plain_layout(found.float().to(pixels.device), foreign, full)


def in_plain_layout(found: torch.Tensor, foreign: Foreign, sides: Sequence[int]) -> tuple[torch.Tensor, bool]:
    """Return detections as (B, 4 + K, N), and whether they are suppressed already.

    Args:
        found: in one of the three layouts.
        foreign: the detector.
        sides: height and width of what it saw, pixels.

    Raises:
        InputError: the layout is another one.
    """
    classes = len(foreign.names)
    if found.ndim == 3 and foreign.fractions and found.shape[2] == 4 + classes:
        scale = found.new_tensor([sides[1], sides[0]] * 2 + [1] * classes)
        return (found * scale).transpose(1, 2), True
    if found.ndim == 3 and found.shape[1] == 4 + classes and found.shape[2] != 6:
        return found, False
    if found.ndim == 3 and found.shape[2] == 6:
        low, high, score, label = found[..., :2], found[..., 2:4], found[..., 4], found[..., 5].long()
        scores = found.new_zeros((*label.shape, classes))
        scores.scatter_(2, label.clamp(0, classes - 1)[..., None], score[..., None])
        return torch.cat([(low + high) / 2, high - low, scores], dim=2).transpose(1, 2), True
    raise InputError(
        f"the detector's output has the shape {tuple(found.shape)} for {classes} classes; wanted (B, {4 + classes}, "
        f"N), (B, M, 6) of boxes, scores and classes, or RT-DETR's (B, M, {4 + classes})"
    )


def load_as_is(
    path: Path, words: Sequence[str], classes: Sequence[str], trust: bool, threads: int
) -> tuple[AsIs, dict[str, Any]]:
    """Return a detector under the data set's class names, and what it says of itself.

    Args:
        path: the weights.
        words: THEIRS=OURS for each class that has a partner.
        classes: the data set's.
        trust: whether a pickle may be loaded.
        threads: of an ONNX file's session.

    Returns:
        The detector; `image_size`, `fixed`, `detector` in words, and `as_is`: `file`, `classes` (ours by theirs),
        `dropped` (theirs without a partner), `unknown` (ours without one).

    Raises:
        InputError: the file is missing, of another kind or without trust; a word names a class that there is not.
    """
    foreign = _load(path, trust, threads)
    partners = class_partners(words, foreign.names, classes, path)
    columns = [[foreign.names.index(name) for name, ours in partners.items() if ours == one] for one in classes]
    known = set(partners.values())
    model = AsIs(foreign, columns).eval()
    inside = model.suppressed and not (foreign.finished or foreign.fractions)
    if inside:
        logging.warning(
            "warning: %s suppresses detections by itself and does not say below which score; where that is not near 0, "
            "its AP is lower than that of the plain export", path,
        )  # fmt: skip
    suppression = ", its own suppression" if inside else ""
    return model, {
        "image_size": foreign.image_size,
        "fixed": foreign.fixed,
        "detector": f"{path.name} as it is (sha256 {sha256_file(path)[:12]}{suppression})",
        "as_is": {
            "file": path.name,
            "classes": partners,
            "dropped": [name for name in foreign.names if name not in partners],
            "unknown": [name for name in classes if name not in known],
        },
    }


def class_partners(words: Sequence[str], theirs: Sequence[str], ours: Sequence[str], path: Path) -> dict[str, str]:
    """Return the data set's class of each of the detector's that has one, from THEIRS=OURS words.

    Raises:
        InputError: a word is of another form, names a class twice, or one that the detector or the data set has not; or
            there is none.
    """
    partners: dict[str, str] = {}
    for word in words:
        name, equals, own = word.partition("=")
        if not equals or name in partners:
            raise InputError(f"--classes {word}: wanted THEIRS=OURS, each of theirs once")
        for one, known, whose in ((name, theirs, str(path)), (own, ours, "the data set")):
            if one not in known:
                raise InputError(
                    f"--classes {word}: {whose} has no class {one!r}; wanted one of {some_of(list(known))}"
                )
        partners[name] = own
    if not partners:
        raise InputError(
            f"--as-is without --classes: wanted THEIRS=OURS for each class that has a partner, {path} knowing "
            f"{some_of(list(theirs))} and the data set {', '.join(ours)}"
        )
    return partners


def _load(path: Path, trust: bool, threads: int) -> Foreign:
    if not path.is_file():
        raise InputError(f"{path} does not exist; wanted a detector's weights (nothing is downloaded)")
    if path.suffix.lower() == ".onnx":
        return _load_onnx(path, threads)
    try:
        model, facts = load_weights(path)
    except InputError as error:
        if "plain tensors" not in str(error):
            raise
        if not trust:
            raise InputError(
                f"{path} is no file of plain tensors. If it is ultralytics', it is a pickle, which can run any code as "
                "it loads: where you trust its origin say --trust-weights (in the configuration detection: "
                "trust_weights), or export it as ONNX"
            ) from None
        return _load_pickle(path)
    if facts.get("inside"):
        raise InputError(f"{path} is a detector of {facts['inside']}, two bands; wanted one of one image")
    return _of_module(model, tuple(facts["classes"]), int(facts["image_size"]))


def _load_pickle(path: Path) -> Foreign:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the pickle does, or wants to import
        raise InputError(
            f"{path} cannot be loaded ({type(error).__name__}: {error}); wanted a detector's file of the installed "
            "ultralytics, or an ONNX file that was exported where it loads"
        ) from None
    model = (stored.get("ema") or stored.get("model")) if isinstance(stored, Mapping) else stored
    if not isinstance(model, DetectionModel):
        raise InputError(f"{path} holds {type(model).__name__}; wanted a detector of ultralytics")
    arguments = stored.get("train_args") if isinstance(stored, Mapping) else None
    size = arguments.get("imgsz") if isinstance(arguments, Mapping) else None
    names = model.names
    listed = tuple(str(names[n]) for n in range(len(names))) if isinstance(names, Mapping) else tuple(map(str, names))
    return _of_module(model.float().eval(), listed, size if isinstance(size, int) else IMAGE_SIZE)


def _of_module(model: Any, names: tuple[str, ...], image_size: int) -> Foreign:
    # Its own fractions are turned into pixels by raw_detections.
    return Foreign(
        lambda pixels: raw_detections(model, pixels),
        names,
        image_size,
        stride=max(32, int(max(model.stride))),
        finished=is_transformer(model),
        module=model,
    )


def _load_onnx(path: Path, threads: int) -> Foreign:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path} needs onnxruntime, which is not installed; wanted `uv sync --extra onnx`") from None
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level, quiet.intra_op_num_threads = 4, threads
    try:
        session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no public base
        raise InputError(f"{path} is no ONNX file that onnxruntime loads: {str(error).splitlines()[0]}") from None
    stated = session.get_modelmeta().custom_metadata_map
    names = _stated_names(stated.get("names", ""), path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    sides = shape[2:] if len(shape) == 4 and shape[1] == 3 else []
    fixed = all(isinstance(side, int) for side in sides)
    square = sides and (not any(isinstance(side, int) for side in sides) or (fixed and sides[0] == sides[1]))
    number = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(inputs[0].type if inputs else "")
    one = bool(shape) and isinstance(shape[0], int)
    if not square or (one and shape[0] != 1) or len(outputs) != 1 or not number:
        raise InputError(
            f"{path} takes {[(i.type, i.shape) for i in inputs]} and gives {len(outputs)} outputs; wanted one input of "
            "floats, (1, 3, side, side) or of any size, and one output, as ultralytics exports a detector"
        )
    size = sides[0] if fixed else _stated_size(stated.get("imgsz", ""))

    def detect(pixels: torch.Tensor) -> torch.Tensor:
        found = session.run(None, {inputs[0].name: pixels.cpu().numpy().astype(number)})[0]
        return torch.from_numpy(found)

    fractions = "RTDETR" in stated.get("head", stated.get("description", "")).upper().replace("-", "")
    return Foreign(detect, names, size, fixed, one, _stated_stride(stated.get("stride", "")), fractions=fractions)


def _stated_names(text: str, path: Path) -> tuple[str, ...]:
    """Return the class names of an ONNX file's metadata, `{0: 'person', 1: ...}` as Python writes it."""
    names = _literal(text)
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    numbered = {str(key): str(name) for key, name in names.items()} if isinstance(names, dict) else {}
    if not numbered or set(numbered) != {str(number) for number in range(len(numbered))}:
        raise InputError(
            f"{path} has no metadata `names` with classes numbered from 0; wanted a detector as ultralytics exports it"
        )
    return tuple(numbered[str(number)] for number in range(len(numbered)))


def _stated_size(text: str) -> int:
    sizes = _literal(text)
    return max(sizes) if isinstance(sizes, list) and sizes and all(isinstance(s, int) for s in sizes) else IMAGE_SIZE


def _stated_stride(text: str) -> int:
    stride = _literal(text)
    return max(32, stride) if isinstance(stride, int) and stride < 1024 else 32


def _literal(text: str) -> Any:
    """Return a value that Python wrote as text, without running anything; None for any other text."""
    try:
        return ast.literal_eval(text) if len(text) < 100_000 else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
