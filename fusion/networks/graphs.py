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
