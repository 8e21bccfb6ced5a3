"""Read and write PyTorch files of tensors and plain values without executing code; count multiply-adds."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.artefacts import replacing
from pipeline.stage import InputError


def read_tensors(path: Path, device: str = "cpu") -> Any:
    """Read a PyTorch file of tensors and plain values, and verify its checksums, which torch itself does not.

    Raises:
        InputError: a checksum is wrong.
        Exception: torch cannot load the file, or does not allow its content.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise InputError(f"{path} is damaged: the checksum of its member {damaged} is wrong")
    return torch.load(path, map_location=device, weights_only=True)


def write_tensors(path: Path, value: Any) -> None:
    """Write tensors and plain values as a PyTorch file, atomically; equal values give equal bytes."""
    # Torch gets an open file: given a path, it would store the temporary name, which contains the process id.
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # for example a full disk, which torch's message does not name
                raise error.__context__ from None
            raise


def count_multiply_adds(compute: Callable[[], Any]) -> int:
    """Return the number of multiply-adds in a call of `compute`, without gradients.

    Counts convolutions, transposed convolutions, matrix products and attention, but not element-wise operations. One
    multiply-add is two FLOPs.
    """
    from torch.utils.flop_counter import FlopCounterMode  # here, because it imports many modules

    fused_kernels = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused operator is unknown to the counter
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            compute()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_kernels)
    return counter.get_total_flops() // 2
