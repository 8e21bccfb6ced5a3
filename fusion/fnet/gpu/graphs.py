"""CUDA graphs: many small GPU operations recorded once and started as one."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # runs before the recording, in which libraries choose algorithms and compilers compile


def recorded(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function of tensors shaped like `example`, recorded on the current GPU and replayed at every call.

    What it reads and writes besides its argument (weights, their gradients) stays where it is in memory; gradients
    must be None before every run of it. The returned tensor is overwritten by the next call. Nothing in it may depend
    on values on the CPU.
    """
    static = example.clone()
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function(static)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(static)

    def replay(argument: Tensor) -> Tensor:
        static.copy_(argument, non_blocking=True)
        graph.replay()
        return result

    return replay


def recorded_when_repeated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function that is recorded as soon as two arguments in a row have one shape; see `recorded`.

    Folders hold images of one size, or of all sizes: recording costs as much as several calls.
    """
    shape, replay = None, None

    def call(argument: Tensor) -> Tensor:
        nonlocal shape, replay
        if argument.shape != shape:
            shape, replay = argument.shape, None
            return function(argument)
        replay = replay or recorded(function, argument)
        return replay(argument)

    return call
