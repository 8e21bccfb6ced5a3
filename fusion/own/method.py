"""Methods of the user's own: a folder of fused images, a Python callable, a model file, an external command.

They are named as `pipeline.planning.own` says. A callable, a module, a TorchScript file and a command are the user's
code: they run because the user names them. Visible and infrared are luma, float32 (H, W) in 0..1, and so is what comes
back; modules and models get (1, 1, H, W).
"""

import functools
import inspect
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion.methods import Entry, Fuser, Method, Precision
from fusion.own.functions import files_digest, import_function
from pipeline.pairs import find_images, read_grey, write_image
from pipeline.planning.own import PLACES, Own, command_words, source_files
from pipeline.stage import InputError

if TYPE_CHECKING:
    from torch import nn

COMMAND_LIMIT_S = 3600  # for one pair


def provenance(own: Own) -> dict[str, Any]:
    """Return what an own method is, and the digest of the files that decide what it computes, `none` for none."""
    files = source_files(own)
    if own.kind == "folder":
        files += find_images(Path(own.target)).values()
    return {"own": f"{own.kind}={own.target}", "own_files": len(files), "own_sha256": files_digest(files) or "none"}


def own_entry(own: Own, weights: Path | None = None) -> Entry:
    """Return what planning reads of an own method; `weights` are of a module, without any it needs none."""
    return Entry(
        __name__,
        reference=f"the user's own {own.kind}",
        needs_weights=weights is not None,
        trainable=False,
        on_device=own.kind == "callable" or (own.kind == "model" and not own.is_onnx),
        packages=("onnxruntime",) if own.is_onnx else (),
    )


def own_method(own: Own) -> Method:
    """Return an own method other than a folder as what runs."""

    def load(path: Path | None, device: str, precision: Precision) -> Fuser:
        return checked(_LOADERS[own.kind](own, path, device, precision), own)

    return Method(load)


def checked(fuser: Fuser, own: Own) -> Fuser:
    """Return `fuser` with what it returns checked: a finite floating-point image of the pair's size, in 0..1 or so."""

    @functools.wraps(fuser)
    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        try:
            fused = fuser(visible.copy(), infrared.copy())
        except InputError:
            raise
        except Exception as error:
            shape = "x".join(map(str, visible.shape[::-1]))
            raise InputError(
                f"{own.kind} {own.target} failed on a pair of {shape}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(fused, np.ndarray) or not np.issubdtype(fused.dtype, np.floating):
            found = f"an array of {fused.dtype}" if isinstance(fused, np.ndarray) else type(fused).__name__
            raise InputError(f"{own.kind} {own.target} gave {found}; wanted a floating-point numpy array")
        if fused.shape != visible.shape:
            raise InputError(
                f"{own.kind} {own.target} gave shape {fused.shape} for a pair of {visible.shape}; wanted the pair's"
            )
        if fused.size and (fused.min() < -0.5 or fused.max() > 1.5):
            raise InputError(
                f"{own.kind} {own.target} gave values {fused.min():.3g} to {fused.max():.3g}; wanted 0 to 1"
            )
        return fused.astype(np.float32, copy=False)

    return fuse


def own_network(own: Own, weights: Path | None) -> "nn.Module | None":
    """Return the torch module of an own method, in which parameters can be counted; None where it is none."""
    if own.kind == "model" and not own.is_onnx:
        return _read_torchscript(own, "cpu")
    if own.kind != "callable":
        return None
    made = _resolve(own)
    return _as_module(made, own, weights) if _is_module(made) else None


def _resolve(own: Own) -> Any:
    """Import the callable; where it takes no arguments (a class of modules, a factory) return what it makes."""
    found = import_function(own.target)
    if _is_module(found):
        return found
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return found
    return found()


def _is_module(value: Any) -> bool:
    return any(kind.__module__ == "torch.nn.modules.module" for kind in type(value).__mro__)


def _as_module(module: "nn.Module", own: Own, weights: Path | None) -> "nn.Module":
    if weights is not None:
        from fusion.weights import fill, read_state

        fill(module, read_state(weights), weights)
    return module


def _load_callable(own: Own, weights: Path | None, device: str, precision: Precision) -> Fuser:
    made = _resolve(own)
    if _is_module(made):
        from fusion.methods.parts.running import as_fuser

        return as_fuser(_as_module(made, own, weights), device, precision)
    if weights is not None:
        raise InputError(f"callable {own.target} is no torch.nn.Module; wanted one to fill with {weights}")
    return made


def _read_torchscript(own: Own, device: str) -> "nn.Module":
    import torch

    try:
        return torch.jit.load(own.target, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{own.target} is not a readable TorchScript file: {reason}") from None


def _load_model(own: Own, weights: Path | None, device: str, precision: Precision) -> Fuser:
    if not own.is_onnx:
        from fusion.methods.parts.running import as_fuser

        return as_fuser(_read_torchscript(own, device), device, precision)
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            f"{own.target} needs onnxruntime, which is not installed; wanted `uv sync --extra onnx`"
        ) from None
    try:
        session = onnxruntime.InferenceSession(own.target, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no public base
        raise InputError(f"{own.target} is not a readable ONNX file: {str(error).splitlines()[0]}") from None
    inputs = [tensor.name for tensor in session.get_inputs()]
    if len(inputs) != 2:
        raise InputError(f"{own.target} has {len(inputs)} inputs ({', '.join(inputs)}); wanted visible and infrared")

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        fused = session.run(None, dict(zip(inputs, (visible[None, None], infrared[None, None]), strict=True)))[0]
        return fused[0, 0]

    return fuse


def _load_command(own: Own, weights: Path | None, device: str, precision: Precision) -> Fuser:
    words = command_words(own.target)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            files = {place: str(Path(folder) / f"{place.strip('{}')}.png") for place in PLACES}
            for place, image in zip(PLACES, (visible, infrared), strict=False):
                write_image(Path(files[place]), np.rint(image * 255).astype(np.uint8))
            # Words, never a shell; the files' names are ours, so a data set's names never reach the program.
            filled = [functools.reduce(lambda text, place: text.replace(place, files[place]), PLACES, w) for w in words]
            try:
                result = subprocess.run(
                    filled, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_LIMIT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise InputError(f"the command {own.target} did not run: {error}") from None
            if result.returncode:
                said = result.stderr.decode(errors="replace").strip()[-500:]
                raise InputError(f"the command {own.target} ended with status {result.returncode}: {said}")
            output = Path(files["{output}"])
            if not output.is_file():
                raise InputError(f"the command {own.target} wrote no {output.name}; wanted an image at {{output}}")
            return np.float32(read_grey(output)) / 255

    return fuse


_LOADERS: dict[str, Callable[[Own, Path | None, str, Precision], Fuser]] = {
    "callable": _load_callable,
    "model": _load_model,
    "command": _load_command,
}
