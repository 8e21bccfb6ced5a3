"""A detector that was trained elsewhere, used as it is, with its classes mapped to those of the dataset.

Three kinds of file are read: weights of this project (`weights.pt`, trained on any dataset), ONNX files as written by
`ultralytics export`, and ultralytics' own files. The last are pickles, which can run any code as they load; they are
read only with --trust-weights. Nothing is downloaded.

An ONNX file must have its class names in the metadata `names`, one input, RGB in 0..1 of shape (1 or any, 3, side,
side) with a fixed or any side, and one output. With K classes the output is one of

    (B, 4 + K, N)   centre x and y, width, height in pixels, and one score per class: the plain export
    (B, M, 6)       xmin, ymin, xmax, ymax in pixels, score, class: exported with `nms=True`, or a head without NMS
    (B, M, 4 + K)   centre x and y, width, height as fractions, and one score per class: RT-DETR

NMS is non-maximum suppression.
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

IMAGE_SIZE = 640  # of files that do not state their image size
GREY = 114 / 255  # padding around an image, as in ultralytics' letterbox


@dataclass(frozen=True)
class LoadedDetector:
    """A detector as it was loaded, with its own classes and its own output layout.

    Attributes:
        detect: maps images (B, 3, H, W), RGB in 0..1, to detections in one of the three layouts.
        names: its classes in the order of their numbers.
        image_size: the long side that it was trained or exported for, in pixels.
        fixed: whether it accepts only that size.
        single_image: whether it accepts only batches of one image.
        stride: image sides must be multiples of it.
        end_to_end: whether its detections need no NMS, whatever their layout.
        fractions: whether its boxes are fractions of the image, as from an exported RT-DETR.
        module: the network if torch runs it, else None.
    """

    detect: Callable[[torch.Tensor], torch.Tensor]
    names: tuple[str, ...]
    image_size: int
    fixed: bool = False
    single_image: bool = False
    stride: int = 32
    end_to_end: bool = False
    fractions: bool = False
    module: torch.nn.Module | None = None


class AsIs(torch.nn.Module):
    """A loaded detector with the classes of the dataset; returns (B, 4 + K, N), as `detection.detector.raw_detections`.

    The score of a class is the largest score of the detector's classes that are mapped to it, or 0 if there is none.

    Attributes:
        suppressed: whether its detections need no NMS.
        shared: whether its detections, although suppressed, may contain an object twice, because two of its classes
            are mapped to one class of the dataset.

    Raises:
        InputError: the detector's output has none of the three layouts.
    """

    def __init__(self, detector: LoadedDetector, columns: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.detector, self.columns, self.inner = detector, columns, detector.module
        grey = torch.full((1, 3, detector.stride, detector.stride), GREY)
        with torch.inference_mode():
            self.suppressed = self._raw(grey)[1] or detector.end_to_end
        per_class = detector.end_to_end or detector.fractions  # each box has one score per class
        self.shared = self.suppressed and not per_class and any(len(group) > 1 for group in columns)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the detections and None, the form that a model in evaluation mode returns."""
        raw, _ = self._raw(pixels)
        scores = [raw[:, [4 + c for c in g]].amax(dim=1) if g else torch.zeros_like(raw[:, 0]) for g in self.columns]
        return torch.cat([raw[:, :4], torch.stack(scores, dim=1)], dim=1), None

    def _raw(self, pixels: torch.Tensor) -> tuple[torch.Tensor, bool]:
        detector, (height, width) = self.detector, pixels.shape[2:]
        step = detector.image_size if detector.fixed else detector.stride
        full = [-(-side // step) * step for side in (height, width)]
        # Padded on the right and below, so that the coordinates of the boxes do not change.
        pixels = torch.nn.functional.pad(pixels, (0, full[1] - width, 0, full[0] - height), value=GREY)
        groups = pixels.split(1) if detector.single_image else [pixels]
        found = torch.cat([detector.detect(group) for group in groups])
        return in_plain_layout(found.float().to(pixels.device), detector, full)


def in_plain_layout(found: torch.Tensor, detector: LoadedDetector, sides: Sequence[int]) -> tuple[torch.Tensor, bool]:
    """Return detections as (B, 4 + K, N), and whether NMS has been applied to them already.

    Args:
        found: detections in one of the three layouts.
        detector: the detector that made them.
        sides: height and width of its input, in pixels.

    Raises:
        InputError: the layout is another one.
    """
    classes = len(detector.names)
    if found.ndim == 3 and detector.fractions and found.shape[2] == 4 + classes:
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
        f"the detector's output has the shape {tuple(found.shape)} for {classes} classes; expected (B, {4 + classes}, "
        f"N), (B, M, 6) of boxes, scores and classes, or RT-DETR's (B, M, {4 + classes})"
    )


def load_as_is(
    path: Path, assignments: Sequence[str], classes: Sequence[str], trust: bool, threads: int
) -> tuple[AsIs, dict[str, Any]]:
    """Return a detector with the classes of the dataset, and a description of it.

    Args:
        path: the weights.
        assignments: THEIRS=OURS for each class of the detector that has a counterpart in the dataset.
        classes: classes of the dataset.
        trust: whether a pickle may be loaded.
        threads: CPU threads of an ONNX session.

    Returns:
        The detector, and a dictionary with `image_size`, `fixed`, `detector` (a description) and `as_is`: `file`,
        `classes` (the dataset's class by the detector's), `dropped` (classes of the detector without a counterpart),
        `unknown` (classes of the dataset without one).

    Raises:
        InputError: the file is missing, of an unknown kind, or a pickle without trust; an assignment names a class that
            does not exist.
    """
    detector = _load(path, trust, threads)
    mapping = map_classes(assignments, detector.names, classes, path)
    columns = [[detector.names.index(name) for name, ours in mapping.items() if ours == one] for one in classes]
    known = set(mapping.values())
    model = AsIs(detector, columns).eval()
    own_nms = model.suppressed and not (detector.end_to_end or detector.fractions)
    if own_nms:
        logging.warning(
            "warning: %s applies NMS itself, and its score threshold is unknown; if the threshold is not near 0, "
            "its AP is lower than that of the plain export", path,
        )  # fmt: skip
    nms = ", its own NMS" if own_nms else ""
    return model, {
        "image_size": detector.image_size,
        "fixed": detector.fixed,
        "detector": f"{path.name} as it is (sha256 {sha256_file(path)[:12]}{nms})",
        "as_is": {
            "file": path.name,
            "classes": mapping,
            "dropped": [name for name in detector.names if name not in mapping],
            "unknown": [name for name in classes if name not in known],
        },
    }


def map_classes(assignments: Sequence[str], theirs: Sequence[str], ours: Sequence[str], path: Path) -> dict[str, str]:
    """Return the dataset's class for each class of the detector that has a counterpart, from THEIRS=OURS assignments.

    Raises:
        InputError: an assignment has another form, assigns a class twice, or names a class that the detector or the
            dataset does not have; or there is no assignment.
    """
    mapping: dict[str, str] = {}
    for assignment in assignments:
        name, equals, own = assignment.partition("=")
        if not equals or name in mapping:
            raise InputError(f"--classes {assignment}: expected THEIRS=OURS, each class of theirs once")
        for one, known, whose in ((name, theirs, str(path)), (own, ours, "the dataset")):
            if one not in known:
                raise InputError(
                    f"--classes {assignment}: {whose} has no class {one!r}; expected one of {some_of(list(known))}"
                )
        mapping[name] = own
    if not mapping:
        raise InputError(
            f"--as-is without --classes: expected THEIRS=OURS for each class with a counterpart; {path} has the "
            f"classes {some_of(list(theirs))}, the dataset {', '.join(ours)}"
        )
    return mapping


def _load(path: Path, trust: bool, threads: int) -> LoadedDetector:
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected the weights of a detector (nothing is downloaded)")
    if path.suffix.lower() == ".onnx":
        return _load_onnx(path, threads)
    try:
        model, facts = load_weights(path)
    except InputError as error:
        if "plain tensors" not in str(error):
            raise
        if not trust:
            raise InputError(
                f"{path} is not a file of plain tensors. A file of ultralytics is a pickle, which can run any code as "
                "it loads: if you trust its origin, add --trust-weights (in the configuration detection: "
                "trust_weights), or export it as ONNX"
            ) from None
        return _load_pickle(path)
    if facts.get("inside"):
        raise InputError(f"{path} is a detector of both bands ({facts['inside']}); expected a detector of one image")
    return _from_module(model, tuple(facts["classes"]), int(facts["image_size"]))


def _load_pickle(path: Path) -> LoadedDetector:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # loading runs the pickle's own code and imports, which may raise anything
        raise InputError(
            f"{path} cannot be loaded ({type(error).__name__}: {error}); expected a detector of the installed "
            "version of ultralytics, or an ONNX file exported where it does load"
        ) from None
    model = (stored.get("ema") or stored.get("model")) if isinstance(stored, Mapping) else stored
    if not isinstance(model, DetectionModel):
        raise InputError(f"{path} contains {type(model).__name__}; expected a detector of ultralytics")
    arguments = stored.get("train_args") if isinstance(stored, Mapping) else None
    size = arguments.get("imgsz") if isinstance(arguments, Mapping) else None
    names = model.names
    listed = tuple(str(names[n]) for n in range(len(names))) if isinstance(names, Mapping) else tuple(map(str, names))
    return _from_module(model.float().eval(), listed, size if isinstance(size, int) else IMAGE_SIZE)


def _from_module(model: Any, names: tuple[str, ...], image_size: int) -> LoadedDetector:
    # `fractions` stays False for RT-DETR too: raw_detections converts its boxes to pixels.
    return LoadedDetector(
        lambda pixels: raw_detections(model, pixels),
        names,
        image_size,
        stride=max(32, int(max(model.stride))),
        end_to_end=is_transformer(model),
        module=model,
    )


def _load_onnx(path: Path, threads: int) -> LoadedDetector:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path} needs onnxruntime, which is not installed: `uv sync --extra onnx`") from None
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level, quiet.intra_op_num_threads = 4, threads
    try:
        session = onnxruntime.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public base class
        raise InputError(
            f"{path} is not an ONNX file that onnxruntime can load: {str(error).splitlines()[0]}"
        ) from None
    stated = session.get_modelmeta().custom_metadata_map
    names = _stated_names(stated.get("names", ""), path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    sides = shape[2:] if len(shape) == 4 and shape[1] == 3 else []
    fixed = all(isinstance(side, int) for side in sides)
    square = sides and (not any(isinstance(side, int) for side in sides) or (fixed and sides[0] == sides[1]))
    number = {"tensor(float)": "float32", "tensor(float16)": "float16"}.get(inputs[0].type if inputs else "")
    single_image = bool(shape) and isinstance(shape[0], int)
    if not square or (single_image and shape[0] != 1) or len(outputs) != 1 or not number:
        raise InputError(
            f"{path} has the inputs {[(i.type, i.shape) for i in inputs]} and {len(outputs)} outputs; expected one "
            "input of floats, (1, 3, side, side) or of any size, and one output, as ultralytics exports a detector"
        )
    size = sides[0] if fixed else _stated_size(stated.get("imgsz", ""))

    def detect(pixels: torch.Tensor) -> torch.Tensor:
        found = session.run(None, {inputs[0].name: pixels.cpu().numpy().astype(number)})[0]
        return torch.from_numpy(found)

    fractions = "RTDETR" in stated.get("head", stated.get("description", "")).upper().replace("-", "")
    stride = _stated_stride(stated.get("stride", ""))
    return LoadedDetector(detect, names, size, fixed, single_image, stride, fractions=fractions)


def _stated_names(text: str, path: Path) -> tuple[str, ...]:
    """Return the class names in the metadata of an ONNX file, which are the text of a dict, `{0: 'person', 1: ...}`."""
    names = _literal(text)
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    numbered = {str(key): str(name) for key, name in names.items()} if isinstance(names, dict) else {}
    if not numbered or set(numbered) != {str(number) for number in range(len(numbered))}:
        raise InputError(
            f"{path} has no metadata `names` with classes numbered from 0; expected a detector as exported by "
            "ultralytics"
        )
    return tuple(numbered[str(number)] for number in range(len(numbered)))


def _stated_size(text: str) -> int:
    sizes = _literal(text)
    return max(sizes) if isinstance(sizes, list) and sizes and all(isinstance(s, int) for s in sizes) else IMAGE_SIZE


def _stated_stride(text: str) -> int:
    stride = _literal(text)
    return max(32, stride) if isinstance(stride, int) and stride < 1024 else 32


def _literal(text: str) -> Any:
    """Return the value of a Python literal without executing code; None if the text is not a literal."""
    try:
        return ast.literal_eval(text) if len(text) < 100_000 else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
