"""SOAP is Adam in the eigenbasis of the gradient's second moments, and follows that basis."""

import numpy as np
import pytest
import torch

from fusion.training import soap
from fusion.training.soap import SOAP


def step(optimiser, parameter, gradient):
    parameter.grad = gradient.clone()
    optimiser.step()


def test_in_a_basis_that_stays_it_is_adam_on_the_turned_weights(rng, monkeypatch):
    monkeypatch.setattr(soap, "_correct_basis", lambda *_: None)
    gradients = [torch.from_numpy(rng.normal(size=(6, 2, 1, 3)).astype(np.float32)) for _ in range(12)]
    parameter = torch.nn.Parameter(torch.zeros(6, 2, 1, 3))
    optimiser = SOAP([parameter], lr=0.01)
    left, _, right = np.linalg.svd(gradients[0].numpy().reshape(6, 6))
    left, right = torch.from_numpy(left), torch.from_numpy(right)
    turned = torch.nn.Parameter(torch.zeros(6, 6))
    adam = torch.optim.Adam([turned], lr=0.01, betas=soap.BETAS)
    step(optimiser, parameter, gradients[0])
    assert not parameter.any()  # the first gradient only gives the basis
    for gradient in gradients[1:]:
        step(optimiser, parameter, gradient)
        step(adam, turned, left.T @ gradient.reshape(6, 6) @ right.T)
        found = parameter.detach().reshape(6, 6)
        torch.testing.assert_close(found, left @ turned.detach() @ right, atol=1e-5, rtol=0)


def test_scalars_are_given_adam_s_steps(rng):
    ours, theirs = (torch.nn.Parameter(torch.tensor([0.5])) for _ in range(2))
    optimiser, adam = SOAP([ours], lr=0.01), torch.optim.Adam([theirs], lr=0.01, betas=soap.BETAS)
    for value in rng.normal(size=8).astype(np.float32):
        step(optimiser, ours, torch.tensor([value]))
        step(adam, theirs, torch.tensor([value]))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(8, 2, 3, 3), (2, 8, 3, 3)])
def test_the_basis_follows_the_moments_of_gradients_of_either_layout(shape, rng):
    """What was learned at first no longer holds: the basis turns to what is seen since."""
    parameter = torch.nn.Parameter(torch.zeros(shape))
    optimiser = SOAP([parameter], lr=1e-3)

    def mixing(size):
        directions = np.linalg.qr(rng.normal(size=(size, size)))[0]
        return torch.from_numpy((directions * 3.0 ** -np.arange(size)) @ directions.T).float()

    def off_diagonal(before_left, before_right):
        state, shares = optimiser.state[parameter], []
        for moments, basis in (("moments_l", before_left), ("moments_r", before_right)):
            turned = basis.T @ state[moments] @ basis
            shares.append((turned - turned.diag().diag()).norm() / turned.norm())
        return shares

    left, right = mixing(8), mixing(18)
    first = None
    for _ in range(400):
        gradient = left @ torch.from_numpy(rng.normal(size=(8, 18)).astype(np.float32)) @ right
        whole = gradient.reshape(8, 2, 3, 3)
        step(optimiser, parameter, whole if shape[0] == 8 else whole.transpose(0, 1))
        state = optimiser.state[parameter]
        first = first or (state["basis_l"].clone(), state["basis_r"].clone())
    for now, then in zip(off_diagonal(state["basis_l"], state["basis_r"]), off_diagonal(*first), strict=True):
        assert now < 0.5 * then
    for basis in (state["basis_l"], state["basis_r"]):
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)), atol=1e-5, rtol=0)


def test_a_direction_of_small_gradient_is_learned_as_fast_as_one_of_large(rng):
    """An ill-conditioned fit, as that of 9x9 filters to smooth pictures is: Adam is left behind."""
    steepness = np.geomspace(1, 1e-3, 16)
    directions = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    inputs = torch.from_numpy((rng.normal(size=(400, 16)) * steepness) @ directions.T).float()
    wanted = inputs @ torch.from_numpy(rng.normal(size=(16, 4))).float()
    left = {}
    for make in (SOAP, torch.optim.Adam):
        weight = torch.nn.Parameter(torch.zeros(4, 16))
        optimiser = make([weight], lr=0.02)
        for _ in range(300):
            loss = (inputs @ weight.T - wanted).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        left[make] = loss.item()
    assert left[SOAP] < 0.1 * left[torch.optim.Adam], left


def test_a_closure_is_refused_and_a_parameter_without_gradient_stays():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimiser = SOAP([parameter], lr=1.0)
    optimiser.step()
    assert (parameter == 1).all()
    with pytest.raises(ValueError, match="no closure"):
        optimiser.step(lambda: 0.0)
