"""The losses are those of the paper, checked against independent implementations."""

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from fusion.fnet.losses import stage1_loss, stage2_loss
from fusion.training.similarity import gradient, ssim


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(2, 1, 21, 18, generator=generator, dtype=torch.float64) for _ in range(4)]


def test_gradient_is_the_sum_of_absolute_sobel_derivatives(images):
    image = images[0]
    kernel = np.outer([1, 2, 1], [-1, 0, 1])
    wanted = sum(np.abs(signal.correlate2d(image[1, 0].numpy(), k, "same")) for k in (kernel, kernel.T))
    assert np.allclose(gradient(image)[1, 0].numpy(), wanted)


def test_stage_one_is_zero_for_perfect_estimates_and_uses_replicated_borders(images):
    visible, infrared, other, another = images
    assert stage1_loss(visible, infrared, visible, infrared)["total"].item() == 0
    terms = stage1_loss(other, another, visible, infrared)
    wanted = []
    for estimate, image in ((other, visible), (another, infrared)):
        difference = (estimate - image).numpy()
        slopes = [[ndimage.sobel(d, axis=axis, mode="nearest") / 8 for axis in (0, 1)] for d in difference[:, 0]]
        wanted.append(np.abs(difference).mean() + np.abs(slopes).mean())
    assert terms["visible"].item() == pytest.approx(wanted[0])
    assert terms["infrared"].item() == pytest.approx(wanted[1])
    assert terms["total"].item() == pytest.approx(sum(wanted))


def test_ssim_agrees_with_a_direct_gaussian_window(images):
    a, b = images[0][:1], images[1][:1]
    x = np.arange(-5, 6)
    window = np.exp(-(x**2) / 4.5)
    window = np.outer(window, window) / window.sum() ** 2

    def smooth(image):
        return signal.convolve2d(image, window, "same")

    p, q = a[0, 0].numpy(), b[0, 0].numpy()
    mp, mq = smooth(p), smooth(q)
    vp, vq, c = smooth(p * p) - mp**2, smooth(q * q) - mq**2, smooth(p * q) - mp * mq
    wanted = (2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
    assert ssim(a, b).item() == pytest.approx(wanted.mean())
    assert ssim(a, a).item() == pytest.approx(1)


def test_stage_two_weights_its_terms_20_20_15(images):
    fused, visible, infrared, _ = images
    terms = stage2_loss(fused, visible, infrared)
    assert terms["intensity"].item() == pytest.approx(20 * (fused - visible.maximum(infrared)).abs().mean().item())
    strongest = gradient(visible).maximum(gradient(infrared))
    assert terms["gradient"].item() == pytest.approx(20 * (gradient(fused) - strongest).abs().mean().item())
    share = gradient(infrared).mean() / (gradient(infrared).mean() + gradient(visible).mean())
    wanted = 15 * (1 - share * ssim(infrared, fused) - (1 - share) * ssim(visible, fused))
    assert terms["ssim"].item() == pytest.approx(wanted.item())
    assert terms["total"].item() == pytest.approx(sum(terms[key].item() for key in ("intensity", "gradient", "ssim")))


@pytest.mark.parametrize("term", ["intensity", "gradient", "ssim"])
def test_a_term_left_out_is_absent_and_the_others_stay(images, term):
    fused, visible, infrared, _ = images
    whole, part = stage2_loss(fused, visible, infrared), stage2_loss(fused, visible, infrared, [term])
    assert term not in part
    assert part["total"].item() == pytest.approx((whole["total"] - whole[term]).item())


def test_flat_images_give_finite_losses():
    flat = torch.full((1, 1, 16, 16), 0.5)
    assert torch.isfinite(stage2_loss(flat.requires_grad_(), flat.detach(), flat.detach())["total"])


def test_a_loss_first_looked_at_in_inference_mode_has_gradients_afterwards():
    images = torch.rand(3, 1, 1, 23, 19)  # of a size that no other test has
    with torch.inference_mode():
        expected = stage2_loss(*images)["total"].item()
    fused = images[0].clone().requires_grad_()
    loss = stage2_loss(fused, *images[1:])["total"]
    loss.backward()
    assert loss.item() == pytest.approx(expected) and fused.grad.any()
