"""The fact sheets' golden numbers: weights by a rule, two images by formulas, and what comes out where."""

import re

import numpy as np
import torch


def fill_by_rule(module: torch.nn.Module, gain: float, fixed: str = "$^", factor: float = 1.0) -> None:
    """Set every parameter by the sheets' rule, from its place among the names; `fixed` names those that stay."""
    for place, (name, parameter) in enumerate(sorted(module.named_parameters())):
        if re.search(fixed, name):
            continue
        wave = np.sin(0.37 * np.arange(parameter.numel()) + place)
        if parameter.ndim > 1:
            values = wave * np.sqrt(gain * parameter.shape[0] / parameter.numel())
        else:
            values = 0.1 * wave + name.endswith("weight")
        with torch.no_grad():
            parameter.copy_(factor * torch.from_numpy(np.float32(values)).view(parameter.shape))


def golden_pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sheets' visible and infrared test images, (1, 1, height, width) each."""
    y, x = np.mgrid[:height, :width].astype(float)
    infrared, visible = 0.5 + 0.5 * np.sin(0.11 * y + 0.23 * x), 0.5 + 0.5 * np.cos(0.19 * y - 0.07 * x)
    return tuple(torch.from_numpy(np.float32(image))[None, None] for image in (visible, infrared))


def check_golden(found: torch.Tensor, pixels: dict[tuple[int, int], float], mean: float, std: float, tolerance: float):
    """Compare a map, (1, 1, H, W), with the sheet's values at pixels (y, x), its mean and standard deviation."""
    image = found[0, 0].double().numpy()
    values = [image[place] for place in pixels] + [image.mean(), image.std()]
    assert np.allclose(values, [*pixels.values(), mean, std], rtol=0, atol=tolerance), values
