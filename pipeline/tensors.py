"""PyTorch files of tensors and plain values, read without running what is in them; what a network computes, counted."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.artefacts import replacing
from pipeline.stage import InputError


def read_tensors(path: Path, device: str = "cpu") -> Any:
    """Read a PyTorch file of tensors and plain values; its checksums are compared, which torch itself does not do.

    Raises:
        InputError: a checksum differs.
        Exception: of whatever kind a broken or forbidden file makes torch raise.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path} is damaged: the checksum of {damaged} in it is wrong")
    return torch.load(path, map_location=device, weights_only=True)


def write_tensors(path: Path, value: Any) -> None:
    """Write tensors and plain values as a PyTorch file, atomically; the same values give the same bytes."""
    # Through a file of ours: by name, torch would put that name, which has our process's number, into the file.
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # the disk is full, say, and torch does not say so
                raise error.__context__ from None
            raise


def count_multiply_adds(compute: Callable[[], Any]) -> int:
    """Return the multiply-adds of what `compute` computes, without gradients.

    Convolutions, transposed convolutions, matrix products and attention; element-wise work is not counted. One
    multiply-add is two FLOPs.
    """
    from torch.utils.flop_counter import FlopCounterMode  # late: it loads much

    fused_kernels = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it is one operator, which the counter passes over
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            compute()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_kernels)
    return counter.get_total_flops() // 2
