"""The Muon optimiser for the weights of convolutions, with AdamW for all other parameters.

Muon updates a weight matrix by the orthogonal matrix nearest to its momentum. All singular values of the update are
about equal, whereas AdamW's updates are dominated by a few directions. The algorithm and its coefficients are those of
K. Jordan (2024).
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

# Coefficients of the polynomial a x + b x^3 + c x^5, which each iteration applies to the singular values. It increases
# small ones quickly and keeps large ones between 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 3  # usually five; three leave singular values below a thirtieth of the norm small
BLOCK = 128  # rows that are orthogonalized together in larger matrices, because the cost is cubic in them
# Factor on AdamW's learning rate. At a rate of 0.005, a step is a fourteenth of torch's initial random weights.
RATE = 8.0


def muon(groups: list[dict[str, Any]], rate: float, momentum: float) -> torch.optim.AdamW:
    """Return an AdamW optimiser that updates weights (O, I, H, W) in groups named `weight` by Muon.

    The root mean square of their updates is `RATE` times the learning rate, divided by the root of the fan-in I H W.
    """
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999), fused=True)
    optimizer.register_step_pre_hook(_step_weights)
    return optimizer


@torch.no_grad()
def _step_weights(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Update the weights by Muon and set their gradients to None, so that AdamW skips them."""
    for group in optimizer.param_groups:
        if group["name"] != "weight":
            continue
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.ndim == 4:
                by_shape[parameter.shape].append(parameter)
        for parameters in by_shape.values():
            _step_same_shape(parameters, group, optimizer.state)


def _step_same_shape(parameters: list[Tensor], group: dict[str, Any], state: dict[Tensor, dict[str, Tensor]]) -> None:
    """Update parameters of one shape in batched matrix products."""
    for parameter in parameters:
        if parameter not in state:  # named as AdamW expects them in a saved state
            state[parameter] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
    rate, momentum = group["lr"], group["betas"][0]
    momenta, gradients = [state[parameter]["exp_avg"] for parameter in parameters], [p.grad for p in parameters]
    torch._foreach_lerp_(momenta, gradients, 1 - momentum)
    ahead = torch._foreach_lerp(gradients, momenta, momentum)  # Nesterov momentum
    # The columns are in the order of channels-last memory; their order does not change the result.
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
    """Return matrices (N, R, C) with their singular values moved near 1 by Newton-Schulz iterations.

    The iterations run on the Gram matrix of the smaller side, which is possible because polynomials of one matrix
    commute.
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
