"""MI, VIF, Qabf and SSIM of whole batches in torch, for a GPU: the values of `definitions`, to 1e-5 and better.

Imported by its own name, so that `fusion.metrics` needs no torch. Everything is float64: the images of a batch are many
and small work for a GPU, while single precision would cost digits where variances cancel.
"""

import math

import torch
import torch.nn.functional as F

from fusion.metrics.comparison import VIF_SMALLEST, VIF_WINDOWS, half_gaussian
from fusion.metrics.conventions import Convention, find_convention
from fusion.metrics.kernels import EPS, NOISE
from pipeline.stage import InputError


@torch.no_grad()
def score_batch(
    visible: torch.Tensor, infrared: torch.Tensor, fused: torch.Tensor, convention: str = "reference"
) -> dict[str, torch.Tensor]:
    """Return MI, VIF, Qabf and SSIM, float64 (N,) each, of a batch of luma images, uint8 (N, H, W), on their device.

    Raises:
        InputError: the tensors are not uint8 or differ in shape, the images are smaller than 41x41, or the convention
            is unknown.
    """
    chosen = find_convention(convention)
    images = (visible, infrared, fused)
    if any(image.dtype != torch.uint8 or image.ndim != 3 or image.shape != fused.shape for image in images):
        found = ", ".join(f"{image.dtype} {tuple(image.shape)}" for image in images)
        raise InputError(f"batches are {found}; wanted three of torch.uint8 (N, H, W)")
    if min(fused.shape[1:]) < VIF_SMALLEST:
        raise InputError(f"a batch holds images of {fused.shape[2]}x{fused.shape[1]}; wanted at least 41x41")
    if chosen.stretch:
        images = tuple(map(_stretched, images))
    levels = images
    a, b, f = (image.double()[:, None] for image in images)  # (N, 1, H, W)

    def over_sources(of_visible: torch.Tensor, of_infrared: torch.Tensor) -> torch.Tensor:
        total = of_visible + of_infrared
        return total if chosen.sources == "sum" else total / 2

    unit = math.log(2) if chosen.mi_unit == "bits" else 1.0
    return {
        "MI": over_sources(*(_mutual_information(source, levels[2]) for source in levels[:2])) / unit,
        "VIF": over_sources(_vif(a, f), _vif(b, f)),
        "Qabf": _qabf(a, b, f),
        "SSIM": over_sources(_ssim(a, f, chosen), _ssim(b, f, chosen)),
    }


def _stretched(image: torch.Tensor) -> torch.Tensor:
    low, high = (limit(image.flatten(1).double(), 1)[:, None, None] for limit in (torch.amin, torch.amax))
    stretched = ((image - low) * (255 / (high - low).clamp(min=1))).round().to(torch.uint8)
    return torch.where(low == high, image, stretched)


def _mutual_information(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    count, pixels = first.shape[0], first[0].numel()
    offset = torch.arange(count, device=first.device)[:, None, None] * 65536
    bins = (offset + first.long() * 256 + second.long()).flatten()
    joint = torch.bincount(bins, minlength=count * 65536).view(count, 256, 256).double()
    independent = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    ratio = torch.where(joint > 0, joint * pixels / independent, 1.0)
    return (joint * ratio.log()).sum((1, 2)) / pixels


def _smooth(images: torch.Tensor, half: tuple[float, ...]) -> torch.Tensor:
    """Filter (N, C, H, W) with a separable window, where it fits; `half` runs from its centre outwards."""
    window = torch.tensor([*half[:0:-1], *half], dtype=images.dtype, device=images.device)
    count, channels, height, width = images.shape
    images = images.reshape(count * channels, 1, height, width)
    images = F.conv2d(F.conv2d(images, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return images.view(count, channels, *images.shape[2:])


def _moments(x: torch.Tensor, y: torch.Tensor, half: tuple[float, ...]) -> tuple[torch.Tensor, ...]:
    """Local means of x and y, their variances and their covariance.

    Taken about the whole image's mean, so that less is lost where squares cancel.
    """
    x_mean, y_mean = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
    x, y = x - x_mean, y - y_mean
    mx, my, xx, yy, xy = _smooth(torch.cat([x, y, x * x, y * y, x * y], 1), half).split(1, 1)
    return mx + x_mean, my + y_mean, xx - mx * mx, yy - my * my, xy - mx * my


def _vif(source: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
    kept = there = 0.0
    for scale, half in enumerate(VIF_WINDOWS):
        if scale > 0:
            source, fused = _smooth(torch.cat([source, fused], 1), half)[:, :, ::2, ::2].split(1, 1)
        _, _, variance, fused_variance, covariance = _moments(source, fused, half)
        variance, fused_variance = variance.clamp(min=0), fused_variance.clamp(min=0)
        g = covariance / (variance + EPS)
        g = torch.where((g > 0) & (variance >= EPS) & (fused_variance >= EPS), g, 0.0)
        variance = torch.where(variance >= EPS, variance, 0.0)
        sv = (fused_variance - g * covariance).clamp(min=EPS)
        kept = kept + torch.log10(1 + g * g * variance / (sv + NOISE)).sum((1, 2, 3))
        there = there + torch.log10(1 + variance / NOISE).sum((1, 2, 3))
    return torch.where(there > 0, kept / there, 1.0)


def _edges(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = F.pad(image, (1, 1, 1, 1))
    across = rows[..., :-2] - rows[..., 2:]
    down = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    sx = across[:, :, :-2] + 2 * across[:, :, 1:-1] + across[:, :, 2:]
    sy = down[:, :, 2:] - down[:, :, :-2]
    angle = torch.where(sx == 0, math.pi / 2, torch.atan(sy / torch.where(sx == 0, 1.0, sx)))
    return sx * sx + sy * sy, angle


def _qabf(visible: torch.Tensor, infrared: torch.Tensor, fused: torch.Tensor) -> torch.Tensor:
    fused_strength, fused_angle = _edges(fused)
    kept = total = 0.0
    for strength, angle in (_edges(visible), _edges(infrared)):
        low, high = torch.minimum(strength, fused_strength), torch.maximum(strength, fused_strength)
        relative = torch.where(low == high, strength, low / high.clamp(min=1)).sqrt()
        alignment = 1 - (angle - fused_angle).abs() / (math.pi / 2)
        quality = 0.9994 * torch.sigmoid(15 * (relative - 0.5)) * 0.9879 * torch.sigmoid(22 * (alignment - 0.8))
        kept = kept + (quality * strength.sqrt()).sum((1, 2, 3))
        total = total + strength.sqrt().sum((1, 2, 3))
    return kept / total  # 0/0 is NaN, as it should be


def _ssim(source: torch.Tensor, fused: torch.Tensor, convention: Convention) -> torch.Tensor:
    uniform = convention.ssim_window == "uniform 7x7"
    c1, c2 = (0.01 * convention.ssim_range) ** 2, (0.03 * convention.ssim_range) ** 2
    if uniform:  # sums over the window are whole numbers; means and (co)variances are made of them without rounding
        sums = _smooth(torch.cat([source, fused, source**2, fused**2, source * fused], 1), (1.0,) * 4)
        mx, my, xx, yy, xy = sums.round().split(1, 1)
        variances, covariance = (49 * (xx + yy) - mx * mx - my * my) / 2352, (49 * xy - mx * my) / 2352
        mx, my = mx / 49, my / 49
    else:
        mx, my, variance, fused_variance, covariance = _moments(source, fused, half_gaussian(11, 1.5))
        variances = variance + fused_variance
    top = (2 * mx * my + c1) * (2 * covariance + c2)
    return (top / ((mx * mx + my * my + c1) * (variances + c2))).mean((1, 2, 3))
