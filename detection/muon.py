"""Muon: convolutions' weights move by the orthogonal matrix nearest to their momentum; the rest by AdamW.

An update in which all directions are equally long learns more from a step than AdamW's, which follows the few strongest
ones. After K. Jordan's description, with his coefficients (2024).
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

# Of the polynomial a x + b x^3 + c x^5 that is applied to the singular values again and again: it lifts small ones fast
# and leaves large ones between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 3  # five are usual; for singular values under a thirtieth of the norm, which three leave small
BLOCK = 128  # rows of larger matrices that are made orthogonal together: the cost grows by the cube
# Of AdamW's rate: at 0.005, a step is a fourteenth of what torch's random weights begin with.
RATE = 8.0


def muon(groups: list[dict[str, Any]], rate: float, momentum: float) -> torch.optim.AdamW:
    """Return an AdamW in which weights (O, I, H, W), in groups of that name, move as described above.

    The root mean square of their steps is `RATE` times the rate, over the root of the fan-in I H W.
    """
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), fused=True)
    optimizer.register_step_pre_hook(_step_weights)
    return optimizer


@torch.no_grad()
def _step_weights(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Move the weights and take their gradients away, so that AdamW passes them over."""
    for group in optimizer.param_groups:
        if group["name"] != "weight":
            continue
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)  # in one product each
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.ndim == 4:
                alike[parameter.shape].append(parameter)
        for parameters in alike.values():
            _step_alike(parameters, group, optimizer.state)


def _step_alike(parameters: list[Tensor], group: dict[str, Any], state: dict[Tensor, dict[str, Tensor]]) -> None:
    for parameter in parameters:
        if parameter not in state:  # by AdamW's names, which it expects in a saved state
            state[parameter] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
    rate, momentum = group["lr"], group["betas"][0]
    momenta, gradients = [state[parameter]["exp_avg"] for parameter in parameters], [p.grad for p in parameters]
    torch._foreach_lerp_(momenta, gradients, 1 - momentum)
    ahead = torch._foreach_lerp(gradients, momenta, momentum)  # Nesterov's
    # Columns in the order of channels-last memory; it decides nothing.
    matrices = torch.stack([move.permute(0, 2, 3, 1).flatten(1) for move in ahead])
    out, into, height, width = parameters[0].shape
    columns = into * height * width
    rows = BLOCK if min(out, columns) > BLOCK and out % BLOCK == 0 else out
    moves = orthogonal(matrices.reshape(-1, rows, columns))
    moves = moves.reshape(-1, out, height, width, into).permute(0, 1, 4, 2, 3)
    torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
    torch._foreach_add_(parameters, list(moves), alpha=-rate * RATE * max(1, rows / columns) ** 0.5)
    for parameter in parameters:
        parameter.grad = None


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices (N, R, C) with their singular values brought near 1, by Newton-Schulz iterations.

    They are done on the smaller side's Gram matrix: polynomials of one matrix commute.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = matrices @ matrices.mT
    identity = torch.eye(gram.shape[1], device=gram.device)
    a, b, c = COEFFICIENTS
    product = None
    for iteration in range(ITERATIONS):
        factor = a * identity + torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        product = factor if product is None else factor @ product
        if iteration + 1 < ITERATIONS:
            gram = factor @ gram @ factor
    return product @ matrices
