"""Methods of the user's own: a folder of fused images, a Python callable, a model file, an external command.

`pipeline.planning.own` describes how they are named. A callable, a module, a TorchScript file and a command are the
user's code and run only because the user names them. Visible, infrared and the fused result are luma, float32 (H, W) in
0..1; modules and models receive (1, 1, H, W). `fusion.own.binding` decides which input receives which band.
"""

import functools
import inspect
import logging
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion.methods import Entry, Fuser, Method, Precision
from fusion.own.binding import bind, bind_function, fused_of, names_both_bands, one_channel
from fusion.own.functions import files_digest, import_function, reason
from pipeline.pairs import find_images, read_grey, write_image
from pipeline.planning.own import PLACEHOLDERS, OwnMethod, command_words, source_files
from pipeline.stage import InputError

if TYPE_CHECKING:
    from torch import nn

COMMAND_LIMIT_S = 3600  # for one pair


def provenance(own: OwnMethod) -> dict[str, Any]:
    """Return the text, the number of files and their digest (`none` without files) that identify an own method."""
    files = source_files(own)
    if own.kind == "folder":
        files += find_images(Path(own.target)).values()
    return {"own": f"{own.kind}={own.target}", "own_files": len(files), "own_sha256": files_digest(files) or "none"}


def own_entry(own: OwnMethod, weights: Path | None = None) -> Entry:
    """Return an own method's entry for planning; it needs weights only if `weights`, those of a module, are given."""
    return Entry(
        __name__,
        reference=f"the user's own {own.kind}",
        needs_weights=weights is not None,
        trainable=False,
        on_device=own.kind == "callable" or (own.kind == "model" and not own.is_onnx),
        packages=("onnxruntime",) if own.is_onnx else (),
    )


def own_method(own: OwnMethod) -> Method:
    """Return the `Method` that runs an own method other than a folder."""
    return Method(lambda path, device, precision: load_own(own, path, device, precision)[0])


def load_own(own: OwnMethod, weights: Path | None, device: str, precision: Precision) -> tuple[Fuser, str]:
    """Return the fuser of an own method other than a folder, and a description of the inputs that receive the bands.

    Raises:
        InputError: the method cannot be loaded, or its inputs cannot be identified.
    """
    fuser, bound = _LOADERS[own.kind](own, weights, device, precision)
    logging.info("%s %s receives %s", own.kind, own.target, bound)
    return checked(fuser, own), bound


def own_bf16_on(own: OwnMethod) -> tuple[str, ...]:
    """Return the kinds of device on which an own method can compute in bfloat16: all for a torch module, else none."""
    torch_file = own.kind == "model" and not own.is_onnx
    return ("cpu", "cuda") if torch_file or (own.kind == "callable" and _is_module(_resolve(own))) else ()


def checked(fuser: Fuser, own: OwnMethod) -> Fuser:
    """Return `fuser` with checks of its result: a floating-point image of the pair's size with values in -0.5..1.5.

    A NaN passes: `fusion.fuse` and `fusion.check` report it.
    """

    @functools.wraps(fuser)
    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        try:
            fused = fuser(visible.copy(), infrared.copy())
        except (InputError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            shape = "x".join(map(str, visible.shape[::-1]))
            raise InputError(f"{own.kind} {own.target} failed on a pair of {shape}: {reason(error)}") from error
        if fused is None:
            raise InputError(f"{own.kind} {own.target} returned None; expected the fused image (is `return` missing?)")
        if not isinstance(fused, np.ndarray) or not np.issubdtype(fused.dtype, np.floating):
            found = f"an array of {fused.dtype}" if isinstance(fused, np.ndarray) else type(fused).__name__
            raise InputError(f"{own.kind} {own.target} returned {found}; expected a floating-point numpy array")
        if fused.shape != visible.shape:
            raise InputError(
                f"{own.kind} {own.target} returned an image of shape {fused.shape}; expected {visible.shape}, the "
                "shape of the pair"
            )
        if fused.size and (fused.min() < -0.5 or fused.max() > 1.5):
            raise InputError(
                f"{own.kind} {own.target} returned values from {fused.min():.3g} to {fused.max():.3g}; expected 0 to 1"
            )
        return fused.astype(np.float32, copy=False)

    return fuse


def own_network(own: OwnMethod, weights: Path | None) -> "nn.Module | None":
    """Return the torch module of an own method, to count its parameters; None if the method is not a torch module."""
    if own.kind == "model" and not own.is_onnx:
        return _bound(_read_torchscript(own, "cpu"), own)[0]
    if own.kind != "callable":
        return None
    made = _resolve(own)
    return _bound(_filled(made, weights), own)[0] if _is_module(made) else None


def _resolve(own: OwnMethod) -> Any:
    """Import the callable; if it takes no arguments (a module class or a factory), return the object that it makes."""
    found = import_function(own.target)
    if _is_module(found) or (not inspect.isclass(found) and names_both_bands(found)):
        return found
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return found
    try:
        made = found()
    except (Exception, SystemExit) as error:
        raise InputError(f"callable {own.target} failed when called without arguments: {reason(error)}") from error
    if not callable(made):
        raise InputError(
            f"callable {own.target} takes no arguments and returns {type(made).__name__}; expected a function of "
            "visible and infrared, or one that returns a torch.nn.Module"
        )
    return made


def _is_module(value: Any) -> bool:
    return any(kind.__module__ == "torch.nn.modules.module" for kind in type(value).__mro__)


def _filled(module: "nn.Module", weights: Path | None) -> "nn.Module":
    if weights is not None:
        from fusion.weights import fill, read_state

        fill(module, read_state(weights), weights)
    return module


def _bound(module: "nn.Module", own: OwnMethod) -> tuple["nn.Module", str]:
    """Return a module that takes visible and infrared and returns `module`'s fused image, (1, 1, H, W).

    The second value describes the inputs that receive the bands.
    """
    import torch

    label = f"{own.kind} {own.target}"
    if isinstance(module, torch.jit.ScriptModule):
        inputs = module.forward.schema.arguments[1:]  # without self
        optional = [one.name for one in inputs if one.has_default_value()]
        by_name = [one.name for one in inputs if one.kwarg_only]
        binding = bind([one.name for one in inputs], label, optional, by_name)
    else:
        binding = bind_function(module.forward, label)

    class Bound(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, visible: torch.Tensor, infrared: torch.Tensor) -> torch.Tensor:
            fused = fused_of(binding.call(self.network, visible, infrared), label)
            if not isinstance(fused, torch.Tensor):
                raise InputError(f"{label} returned {type(fused).__name__}; expected a tensor")
            one_channel(fused.shape, label)
            return fused.reshape(1, 1, *fused.shape[-2:])

    return Bound(), str(binding)


def _load_callable(own: OwnMethod, weights: Path | None, device: str, precision: Precision) -> tuple[Fuser, str]:
    made = _resolve(own)
    if _is_module(made):
        from fusion.methods.parts.running import as_fuser

        network, bound = _bound(_filled(made, weights), own)
        return as_fuser(network, device, precision), bound
    if weights is not None:
        raise InputError(f"callable {own.target} is not a torch.nn.Module; expected one to load {weights} into")
    label = f"callable {own.target}"
    binding = bind_function(made, label)
    return lambda visible, infrared: fused_of(binding.call(made, visible, infrared), label), str(binding)


def _read_torchscript(own: OwnMethod, device: str) -> "nn.Module":
    import torch

    path = Path(own.target)
    if path.suffix == ".safetensors" or _is_saved_without_code(path):
        raise InputError(
            f"{path} is not a TorchScript file: it contains weights or an object of torch.save; expected a file that "
            "torch.jit.trace(...).save wrote, or callable=package.module:Network with these weights"
        )
    try:
        return torch.jit.load(own.target, map_location=device).eval()
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{own.target} is not a readable TorchScript file: {reason(error)}") from None


def _is_saved_without_code(path: Path) -> bool:
    """Return whether torch.save wrote a file: an archive without code and constants or, in the old format, a pickle."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return file.read(2) in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    with zipfile.ZipFile(path) as archive:
        files = {name.rpartition("/")[2] for name in archive.namelist()}
    return "data.pkl" in files and "constants.pkl" not in files


def _load_model(own: OwnMethod, weights: Path | None, device: str, precision: Precision) -> tuple[Fuser, str]:
    if not own.is_onnx:
        from fusion.methods.parts.running import as_fuser

        network, bound = _bound(_read_torchscript(own, device), own)
        return as_fuser(network, device, precision), bound
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f"{own.target} needs onnxruntime, which is not installed; `uv sync --extra onnx` installs it"
        ) from None
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 4  # otherwise onnxruntime also writes the errors that it raises to stderr
    try:
        session = onnxruntime.InferenceSession(own.target, session_options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no public base class
        raise InputError(f"{own.target} is not a readable ONNX file: {reason(error)}") from None
    inputs, outputs = session.get_inputs(), [tensor.name for tensor in session.get_outputs()]
    label = f"model {own.target}"
    binding = bind([tensor.name for tensor in inputs], label)
    for tensor in inputs:
        channels = tensor.shape[1] if len(tensor.shape) == 4 else 1
        if tensor.type != "tensor(float)" or (isinstance(channels, int) and channels != 1):
            described = f"{tensor.type} {'x'.join(map(str, tensor.shape))}"
            raise InputError(f"{label}: its input {tensor.name} is {described}; expected float32, (1, 1, H, W)")

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        bands = {binding.visible: visible[None, None], binding.infrared: infrared[None, None]}
        fused = fused_of(session.run(None, bands), label, outputs)
        one_channel(fused.shape, label)
        return fused.reshape(fused.shape[-2:])

    return fuse, str(binding)


def _load_command(own: OwnMethod, weights: Path | None, device: str, precision: Precision) -> tuple[Fuser, str]:
    words = command_words(own.target)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            files = {place: str(Path(folder) / f"{place.strip('{}')}.png") for place in PLACEHOLDERS}
            for place, image in zip(PLACEHOLDERS, (visible, infrared), strict=False):
                write_image(Path(files[place]), np.rint(image * 255).astype(np.uint8))
            # The program gets a list of words, without a shell, and temporary file names, never names from a dataset.
            filled = [
                functools.reduce(lambda text, place: text.replace(place, files[place]), PLACEHOLDERS, word)
                for word in words
            ]
            try:
                result = subprocess.run(
                    filled, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_LIMIT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise InputError(f"the command {own.target} did not run: {error}") from None
            if result.returncode:
                stderr = " ".join(result.stderr.decode(errors="replace").split())[-500:]
                raise InputError(f"the command {own.target} ended with status {result.returncode}: {stderr}")
            output = Path(files["{output}"])
            if not output.is_file():
                raise InputError(f"the command {own.target} wrote no {output.name}; expected an image at {{output}}")
            return np.float32(read_grey(output)) / 255

    return fuse, "visible and infrared as the files {visible} and {infrared}"


_LOADERS: dict[str, Callable[[OwnMethod, Path | None, str, Precision], tuple[Fuser, str]]] = {
    "callable": _load_callable,
    "model": _load_model,
    "command": _load_command,
}
