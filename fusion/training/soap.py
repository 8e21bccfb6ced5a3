"""SOAP, an optimiser that reaches a lower loss of FNet than Adam does in the same number of iterations.

Because images are smooth, the gradient of a bank of 9x9 filters is large in a few directions, of low spatial frequency,
and small in all others. A learning rate that is stable in the few directions hardly moves the others. SOAP takes Adam's
steps in the eigenbasis of the gradient's own second moments, where every direction has its own rate.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321, Algorithm 3.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.95, 0.95)  # decay of the gradient's first and second moments
BASIS_BETA = 0.95  # decay of the matrices of second moments whose eigenvectors are the basis
BASIS_EVERY = 10  # iterations between updates of the basis
EPSILON = 1e-8


class SOAP(torch.optim.Optimizer):
    """Adam in a slowly changing eigenbasis, for the weights of convolutions; scalars take plain Adam steps.

    Weights (out, in, height, width) are laid out as a matrix with one row per channel, of the outputs or the inputs,
    whichever are more: for FNet, one row per filter of its 64. The first iteration only computes the basis and changes
    only scalars. The state consists only of tensors, so that a resumed training continues from the same bits.
    """

    def __init__(self, parameters: Iterable[Any], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take one step along the parameters' gradients; `closure` is not supported."""
        if closure is not None:
            raise ValueError("SOAP takes no closure; expected gradients computed before the step")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], _matrix(parameter.grad)
                if not state:
                    state["step"] = torch.zeros(())  # load_state_dict leaves a tensor of this name on the CPU
                    state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
                    if min(gradient.shape) > 1:
                        for side, moments in zip("lr", _moments(gradient), strict=True):
                            state[f"moments_{side}"] = moments
                            # Sorted by falling eigenvalue, as `_correct_basis` sorts them.
                            state[f"basis_{side}"] = torch.linalg.eigh(moments.double())[1].flip(1).float()
                        continue
                change = _change(state, gradient)
                parameter.sub_(_like(change, parameter), alpha=group["lr"])


def _change(state: dict[str, Tensor], gradient: Tensor) -> Tensor:
    """Update the moments with the gradient, and return the step at a learning rate of 1, to be subtracted."""
    has_basis = "basis_l" in state

    def rotate(matrix: Tensor) -> Tensor:
        return state["basis_l"].T @ matrix @ state["basis_r"] if has_basis else matrix

    state["step"] += 1
    step, (first, second) = state["step"].item(), BETAS
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(rotate(gradient).square(), 1 - second)
    scale = (state["square"] / (1 - second**step)).sqrt_().add_(EPSILON)
    change = rotate(state["mean"]) / (1 - first**step) / scale
    if not has_basis:
        return change
    change = state["basis_l"] @ change @ state["basis_r"].T
    for side, moments in zip("lr", _moments(gradient), strict=True):
        state[f"moments_{side}"].lerp_(moments, 1 - BASIS_BETA)
    if step % BASIS_EVERY == 1:
        _correct_basis(state, "l", 0)
        _correct_basis(state, "r", 1)
    return change


def _correct_basis(state: dict[str, Tensor], side: str, dimension: int) -> None:
    """Rotate a basis towards the eigenvectors by one step of orthogonal power iteration (Algorithm 4)."""
    moments, basis = state[f"moments_{side}"], state[f"basis_{side}"]
    order = ((moments @ basis) * basis).sum(dim=0).argsort(descending=True, stable=True)
    state["square"] = state["square"].index_select(dimension, order)
    state[f"basis_{side}"] = torch.linalg.qr(moments @ basis[:, order])[0]


def _moments(gradient: Tensor) -> tuple[Tensor, Tensor]:
    return gradient @ gradient.T, gradient.T @ gradient


def _matrix(weight: Tensor) -> Tensor:
    """Lay weights out as a matrix, (larger number of channels, all other dimensions); scalars as (1, count)."""
    if weight.ndim < 2:
        return weight.reshape(1, -1)
    if weight.shape[0] < weight.shape[1]:
        weight = weight.transpose(0, 1)
    return weight.reshape(len(weight), -1)


def _like(matrix: Tensor, weight: Tensor) -> Tensor:
    """Reshape a matrix of `_matrix` to the shape of `weight`."""
    if weight.ndim < 2 or weight.shape[0] >= weight.shape[1]:
        return matrix.reshape(weight.shape)
    return matrix.reshape(weight.transpose(0, 1).shape).transpose(0, 1)
