"""CUDA graphs: many small GPU operations captured once and replayed as one."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3  # runs before the capture, in which libraries choose algorithms and compilers compile


def captured(function: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function, captured as a CUDA graph on the current GPU for arguments shaped like `example`.

    Every call replays the graph. All other tensors that the function reads or writes (weights, their gradients) must
    stay at their addresses, and nothing may depend on values on the CPU. The function must set gradients to None before
    it computes them. The next call overwrites the returned tensor.
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


def captured_when_repeated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function, which is captured when two successive arguments have the same shape; see `captured`.

    Capturing takes as long as several calls, and would not pay off for a folder of images of many sizes.
    """
    shape, replay = None, None

    def call(argument: Tensor) -> Tensor:
        nonlocal shape, replay
        if argument.shape != shape:
            shape, replay = argument.shape, None
            return function(argument)
        replay = replay or captured(function, argument)
        return replay(argument)

    return call
