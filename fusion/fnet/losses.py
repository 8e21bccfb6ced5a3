"""The losses of FNet's two training stages (Section III-D), with the weights of the authors' code.

All functions take luma (N, 1, H, W) in 0..1 and average over batch and pixels.

Paper                        here
I_1, I_2                     infrared, visible
L(I'_1, I_1), L(I'_2, I_2)   distance(); stage1_loss(), terms `infrared` and `visible` (Eq. 25)
L_int, L_grad, L_ssim        stage2_loss(), terms `intensity`, `gradient`, `ssim`, each times its beta (Eq. 26)
beta_1, beta_2, beta_3       INTENSITY, GRADIENT, SSIM
w_1, w_2                     share and 1 - share in shared_similarity()
"""

from collections.abc import Collection

import torch
from torch import Tensor

from fusion.training.similarity import gradient, slopes, ssim

TERMS = ("intensity", "gradient", "ssim")
INTENSITY, GRADIENT, SSIM = 20.0, 20.0, 15.0


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the L1 distance of values plus the L1 distance of Sobel derivatives / 8, with replicated borders."""
    return (a - b).abs().mean() + slopes(a - b).abs().mean() / 8


def stage1_loss(
    visible_estimate: Tensor, infrared_estimate: Tensor, visible: Tensor, infrared: Tensor
) -> dict[str, Tensor]:
    """Return the terms of Eq. 25, each a `distance`, and their sum `total`."""
    terms = {"visible": distance(visible_estimate, visible), "infrared": distance(infrared_estimate, infrared)}
    return {"total": terms["visible"] + terms["infrared"], **terms}


def shared_similarity(
    fused: Tensor, visible: Tensor, infrared: Tensor, visible_gradient: Tensor, infrared_gradient: Tensor
) -> Tensor:
    """Return the mean structural similarity to both sources, weighted by their mean gradients over the whole batch."""
    visible_mean, infrared_mean = visible_gradient.mean(), infrared_gradient.mean()
    # The small constants give two flat images, whose gradients are 0, equal weights.
    share = ((infrared_mean + 1e-12) / (visible_mean + infrared_mean + 2e-12)).detach()
    return share * ssim(infrared, fused) + (1 - share) * ssim(visible, fused)


def stage2_loss(fused: Tensor, visible: Tensor, infrared: Tensor, without: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the weighted terms of Eq. 26 except those in `without` (ablations of Table III), and their sum `total`."""
    visible_gradient, infrared_gradient = gradient(visible), gradient(infrared)
    terms = {}
    if "intensity" not in without:
        terms["intensity"] = INTENSITY * (fused - torch.maximum(visible, infrared)).abs().mean()
    if "gradient" not in without:
        strongest = torch.maximum(visible_gradient, infrared_gradient)
        terms["gradient"] = GRADIENT * (gradient(fused) - strongest).abs().mean()
    if "ssim" not in without:
        similarity = shared_similarity(fused, visible, infrared, visible_gradient, infrared_gradient)
        terms["ssim"] = SSIM * (1 - similarity)
    if not terms:
        raise ValueError(f"stage II without {', '.join(sorted(without))} has no loss; expected at least one term")
    return {"total": sum(terms.values()), **terms}
