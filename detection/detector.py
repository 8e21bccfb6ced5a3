"""The detector, built by the package ultralytics; YOLOv5 by default.

Import this module before ultralytics: it sets the environment of that package.

The architecture, its loss, its augmentations and its moving average are the package's. Recipe, reading of images,
training loop, scoring and files are this project's (detection.recipe, images, loop and test), for three reasons: the
package's trainer halves the batch when memory runs out, it rounds the state that it resumes from to half precision, and
it computes AP with an integral of its own, which changed between versions.

YOLOv5 is always called YOLOv5u here: the package puts its anchor-free head on YOLOv5's backbone and neck, so the
numbers are not directly comparable with papers that used the original repository. YOLOv8, YOLO11, RT-DETR, and the
user's own architectures in the package's YAML form are trained by the same loop with their own losses.

The package runs offline: nothing is installed, downloaded or reported, and its settings are in a temporary folder that
is deleted when the process ends.
"""

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml

_settings_folder = tempfile.mkdtemp(prefix="detector-settings-")
atexit.register(shutil.rmtree, _settings_folder, ignore_errors=True)
os.environ.update(
    YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_VERBOSE="false", YOLO_CONFIG_DIR=_settings_folder,
    ULTRALYTICS_SAFE_LOAD="true",  # otherwise text in an architecture's YAML is evaluated as Python
)  # fmt: skip

import ultralytics  # noqa: E402
from ultralytics.nn import tasks  # noqa: E402
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel  # noqa: E402
from ultralytics.utils import SETTINGS  # noqa: E402

from detection.inside import CHANNELS, TWOSTREAM, refuse_layer, stream_names, two_streams  # noqa: E402
from detection.static_loss import StaticDetectionLoss  # noqa: E402
from pipeline.artefacts import sha256_json  # noqa: E402
from pipeline.stage import NO_MEMORY, InputError  # noqa: E402
from pipeline.tensors import count_multiply_adds, read_tensors, write_tensors  # noqa: E402

SETTINGS.update(dict.fromkeys((key for key, value in SETTINGS.items() if value is True), False))

# The name of an architecture in tables, and its file in the package.
FAMILIES = {
    "yolov5": ("YOLOv5u", "v5/yolov5.yaml"),
    "yolov8": ("YOLOv8", "v8/yolov8.yaml"),
    "yolo11": ("YOLO11", "11/yolo11.yaml"),
}
MODELS = {
    **{f"{family}{scale}": entry for family, entry in FAMILIES.items() for scale in "nsmlx"},
    **{f"rtdetr-{scale}": ("RT-DETR", f"rt-detr/rtdetr-{scale}.yaml") for scale in "lx"},
}
HEADS = ("Detect", "RTDETRDecoder")
STRIDE = 32  # pixels; the sides of images are multiples of it
WEIGHTS_FORMAT = 1


def describe(model: str, architecture: Mapping[str, Any] | None = None) -> str:
    """Return the name of the detector in tables; `architecture` is the result of `own_architecture`."""
    if architecture is not None:
        return f"{Path(model).name} (sha256 {sha256_json(architecture)[:12]}, ultralytics {ultralytics.__version__})"
    name = MODELS[model][0]
    head = ", anchor-free head" if name == "YOLOv5u" else ""
    return f"{name} ({model}{head}, ultralytics {ultralytics.__version__})"


def own_architecture(model: str) -> dict[str, Any] | None:
    """Return the architecture in the user's YAML file `model`, or None if `model` is a name in MODELS.

    Raises:
        InputError: the name is unknown; the file is missing, or is not an architecture of a detector that can be
            trained here.
    """
    if model in MODELS:
        return None
    path = Path(model)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"--model {model!r} is unknown; expected one of {', '.join(MODELS)}, or your own .yaml file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--model {path} does not exist; expected an architecture in ultralytics' YAML form") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if isinstance(content, dict) and content.get("scales") and not content.get("scale"):
        scales = list(content["scales"])
        scale = tasks.guess_model_scale(path) or (scales[0] if len(scales) == 1 else "")
        if scale not in scales:
            raise InputError(f"{path} has the scales {scales}; expected a key `scale` that names one of them")
        content["scale"] = scale
    _check_architecture(content, path)
    return content


def _check_architecture(content: Any, path: Path) -> None:
    """Raise InputError unless `content` is an architecture of known layers that ends with one of HEADS."""
    layers = [*content.get("backbone", []), *content.get("head", [])] if isinstance(content, dict) else []
    if not layers or not all(isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) for row in layers):
        raise InputError(
            f"{path} is not an architecture; expected lists `backbone` and `head` of [from, number, module, args]"
        )
    for *_, name, _ in layers:
        home, _, own = name.rpartition(".")
        layer = getattr({"nn": torch.nn, "": tasks}.get(home), own, None)
        # The layer TorchVision is refused because it downloads weights.
        if not (isinstance(layer, type) and issubclass(layer, torch.nn.Module)) or own == "TorchVision":
            raise InputError(f"{path} has the layer {name!r}; expected layers of ultralytics or torch.nn")
    if layers[-1][2] not in HEADS or content.get("end2end"):
        found = "a head with `end2end`" if content.get("end2end") else f"the head {layers[-1][2]!r}"
        raise InputError(f"{path} has {found}, whose loss is not supported; expected {' or '.join(HEADS)}")


class _Split(torch.nn.Module):
    """The first layer of a two-stream detector: splits an image into visible channels and infrared luma."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return image.split((3, CHANNELS - 3), dim=1)


def build_model(
    model: str, classes: Sequence[str], architecture: Mapping[str, Any] | None = None, inside: str | None = None
) -> DetectionModel | RTDETRDetectionModel:
    """Return a detector with random weights, drawn from torch's current generator.

    Args:
        model: a name in MODELS, or the path of a YAML file.
        classes: names in the order of their numbers.
        architecture: content of the YAML file, if it has been read already.
        inside: how the detector fuses both bands, one of `detection.inside.INSIDE`; its input then has four channels.

    Raises:
        InputError: the name is unknown; the architecture cannot be built, or cannot be given two streams.
    """
    architecture = own_architecture(model) if architecture is None else architecture
    if architecture is not None:
        _check_architecture(architecture, Path(model))
        content = dict(architecture)
    else:
        # Read by path, because the package looks for a name in the working folder first.
        path = Path(ultralytics.__file__).parent / "cfg" / "models" / MODELS[model][1]
        content = {**yaml.safe_load(path.read_text(encoding="utf-8")), "scale": model[-1]}
    kind = RTDETRDetectionModel if content["head"][-1][2] == "RTDETRDecoder" else DetectionModel
    if inside == TWOSTREAM:
        content = two_streams(content, Path(model).name)
    channels = CHANNELS if inside else 3
    try:
        built = kind({**content, "nc": len(classes), "yaml_file": Path(model).name}, ch=channels, verbose=False)
    except Exception as error:  # the package does not check architectures, so any exception may be raised
        if architecture is None or lacks_memory(error):
            raise
        raise InputError(f"{model} cannot be built: {type(error).__name__}: {error}") from error
    if max(built.stride) > STRIDE:
        raise InputError(f"{model} has a stride of {max(built.stride):.0f} pixels; expected at most {STRIDE}")
    if inside == TWOSTREAM:
        _finish_streams(built, Path(model).name)
    built.names, built.nc = dict(enumerate(classes)), len(classes)
    return built


def _finish_streams(built: DetectionModel, model: str) -> None:
    """Replace the placeholder of `two_streams` by a plain split.

    Raises:
        InputError: a level has another number of channels than the backbones return for it.
    """
    split, placeholder = _Split(), built.model[0]
    # The attributes that the package reads from a layer.
    split.i, split.f, split.type, split.np = placeholder.i, placeholder.f, "split", 0
    built.model[0] = split
    backbone = len(built.yaml["backbone"])
    for join in built.model[2 * built.yaml["stream_layers"] + 4 : backbone : 2]:
        if join.conv.in_channels != 2 * join.conv.out_channels:
            source = built.model[built.model[join.i - 1].f[0]]
            refuse_layer(model, f"{type(source).__name__} with {join.conv.in_channels // 2} channels")


def network_cost(model: DetectionModel, channels: int, height: int, width: int) -> dict[str, Any]:
    """Return the size of a detector in evaluation mode, and its cost for one image of this size.

    `parameters` is the number of trainable values; `multiply_adds` counts convolutions, matrix products and attention
    (one multiply-add is two FLOPs); `image` is height and width.
    """
    image = torch.zeros(1, channels, height, width, device=next(model.parameters()).device)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "multiply_adds": count_multiply_adds(lambda: model(image)),
        "image": [height, width],
    }


def save_weights(path: Path, model: DetectionModel, facts: Mapping[str, Any]) -> None:
    """Write the weights as plain float32 tensors with `facts` (model, classes, ...); loading them runs no code."""
    state = {name: tensor.detach().to("cpu").contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(path, {"format": WEIGHTS_FORMAT, "facts": dict(facts), "weights": state})


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values with torch.save. If writing fails, the previous file at `path` is kept.

    Raises:
        InputError: the file cannot be written, for example because the disk is full.
    """
    try:
        write_tensors(path, content)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be written ({str(error).splitlines()[0]}); expected space on the disk. The last saved "
            "state is kept: the same command with --resume continues from it"
        ) from None


def load_weights(path: Path) -> tuple[DetectionModel, dict[str, Any]]:
    """Return the model written by `save_weights`, in evaluation mode, and its facts.

    Raises:
        InputError: the file is missing, or was not written by `save_weights`.
    """
    stored = _read_tensors(path)
    if not isinstance(stored, dict) or stored.get("format") != WEIGHTS_FORMAT:
        raise InputError(f"{path} is not a weights file of a detector written by detection.train")
    facts = stored["facts"]
    model = build_model(facts["model"], facts["classes"], facts.get("architecture"), facts.get("inside"))
    model.load_state_dict(stored["weights"])
    return model.eval(), facts


def start_from(model: DetectionModel, path: Path, trust: bool) -> int:
    """Copy into `model` the tensors of the weights file `path` that fit by name and shape; return their number.

    Weights files of this project, and any file of plain tensors, are read as data. Files of ultralytics are pickles,
    which can run code as they load, and are read only with `trust`.

    A detector that fuses inside itself can start from the weights of a detector of one image. With four input channels,
    the first kernels for the infrared luma are the mean of the kernels of the three colours. With two streams, both
    backbones get the weights of the file; the first kernels of the infrared backbone are the sum of the kernels of the
    three colours, which is their response to a grey image. The layers that join the backbones keep random weights.

    Raises:
        InputError: the file is missing, or is a pickle and `trust` is False, or no tensor in it fits.
    """
    try:
        stored = _read_tensors(path)
    except InputError:
        if not trust or not path.is_file():
            raise
        stored = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(stored, dict) and "weights" in stored:
        source = stored["weights"]
    elif isinstance(stored, dict) and (stored.get("ema") or stored.get("model")) is not None:
        source = (stored.get("ema") or stored["model"]).float().state_dict()
    else:
        source = stored.state_dict() if isinstance(stored, torch.nn.Module) else stored
    own = model.state_dict()
    stored = source if isinstance(source, Mapping) else {}
    tensors = {name: one for name, one in stored.items() if isinstance(one, torch.Tensor)}
    if "stream_layers" in model.yaml and not own.keys() <= tensors.keys():
        streams = {name: one for name, one in tensors.items() if re.match(r"model\.\d+\.", name)}
        tensors = {new: one for name, one in streams.items() for new in stream_names(name, model.yaml)}
    adapted = {name: _for_channels(one.float(), own[name].shape) for name, one in tensors.items() if name in own}
    fitting = {name: one for name, one in adapted.items() if one.shape == own[name].shape}
    if not fitting:
        raise InputError(f"{path} has no tensor that fits the model; expected weights of the same architecture")
    model.load_state_dict(fitting, strict=False)
    return len(fitting)


def _for_channels(kernels: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return colour kernels (N, 3, H, W) adapted to `shape`, if it differs only in having four channels or one.

    Tensors of other shapes are returned unchanged.
    """
    channels = shape[1] if len(shape) == 4 else 0
    if channels not in (CHANNELS, 1) or kernels.shape != (shape[0], 3, *shape[2:]):
        return kernels
    if channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    return torch.cat([kernels, kernels.mean(dim=1, keepdim=True)], dim=1)


def _read_tensors(path: Path) -> Any:
    try:
        return read_tensors(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected the weights of a detector (nothing is downloaded)") from None
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch raises several kinds of error, which do not name the file
        if NO_MEMORY.search(str(error)):
            raise
        raise InputError(
            f"{path} is not a file of plain tensors ({type(error).__name__}). A file of ultralytics is a pickle, which "
            "can run any code as it loads: if you trust its origin, detection.train reads it with --trust-weights (in "
            "the configuration detection: trust_weights), and the weights that it writes can be tested"
        ) from None


def loss_of(
    model: DetectionModel, batch: Mapping[str, Any], recipe: Any, device: str
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return the loss of a batch, weighted as by the package, and its main terms, means over the images or the boxes.

    The terms are box, cls, dfl; for RT-DETR they are giou, cls, l1 of its last layer. The network runs in
    `recipe.precision`; the loss is always computed in float32. On a GPU the loss of a YOLO is `detection.static_loss`,
    which never waits for the device; on a CPU it is the package's, which computes only the pairs that it needs.
    """
    model.args = recipe  # where the package's loss reads its weights
    static = torch.device(device).type == "cuda" and not is_transformer(model)
    if static and not isinstance(getattr(model, "criterion", None), StaticDetectionLoss):
        model.criterion = StaticDetectionLoss(model)
    pixels = batch["img"].to(device, non_blocking=True).float() / 255
    truth = ("padded",) if static else ("batch_idx", "cls", "bboxes")
    targets = {key: batch[key].to(device, non_blocking=True) for key in truth}
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        found = _predict_with_truth(model, pixels, targets) if is_transformer(model) else model(pixels)
    loss, items = model.loss({**targets, "img": pixels}, _float32(found))
    return loss.sum(), {name.removesuffix("_loss"): value for name, value in items.items()}


def is_transformer(model: torch.nn.Module) -> bool:
    """Return whether a detector is an RT-DETR, which detects each object once and needs no NMS."""
    return isinstance(model, RTDETRDetectionModel)


def _predict_with_truth(model: RTDETRDetectionModel, pixels: torch.Tensor, targets: Mapping[str, Any]) -> Any:
    """Return RT-DETR's predictions in training, which need the true boxes for the denoising part of the loss."""
    counts = torch.bincount(targets["batch_idx"].long(), minlength=len(pixels))
    truth = {key: targets[key].long().view(-1) for key in ("batch_idx", "cls")}
    return model.predict(pixels, batch={**truth, "bboxes": targets["bboxes"], "gt_groups": counts.tolist()})


def _float32(found: Any) -> Any:
    if isinstance(found, torch.Tensor):
        return found.float() if found.is_floating_point() else found
    if isinstance(found, dict):
        return {key: _float32(value) for key, value in found.items()}
    return type(found)(map(_float32, found)) if isinstance(found, (list, tuple)) else found


def raw_detections(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return the detections (B, 4 + K, N) of a model in evaluation mode for images (B, C, H, W), before NMS.

    The rows are centre x and y, width and height in pixels, and the score of each of K classes.
    """
    found, raw = model(pixels)
    if not is_transformer(model):
        return found
    boxes, logits = (x.squeeze(0) for x in raw[:2])  # (B, N, 4) as fractions of the image, (B, N, K)
    sides = boxes.new_tensor([pixels.shape[3], pixels.shape[2]] * 2)
    return torch.cat([boxes * sides, logits.sigmoid()], dim=2).transpose(1, 2)


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out: GPU memory, main memory or shared memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # Messages of CUDA's libraries, the system, OpenCV and torch's worker processes, whose errors have no own class.
    words = "out of memory|_ALLOC_FAILED|Cannot allocate memory|Insufficient memory|shared memory"
    words += "|unexpected EOF|Connection reset"  # a worker process was killed while it sent its images
    said = NO_MEMORY.search(str(error)) or re.search(words, str(error))
    return isinstance(error, (RuntimeError, OSError, EOFError, cv2.error)) and said is not None
