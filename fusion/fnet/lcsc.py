"""LCSC: the l1-regularised convolutional sparse coding block that replaces LZSC in the paper's ablation.

Sreter and Giryes, "Learned convolutional sparse coding", ICASSP 2018, as used in CU-Net (Deng and Dragotti, IEEE
TPAMI 2021), with a soft threshold, one analysis convolution shared by all steps, and no momentum.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fusion.fnet.lzsc import FEATURES, STEPS, Projector, convolution


def soft_threshold(x: Tensor, size: Tensor) -> Tensor:
    """Apply sign(x) max(|x| - size, 0), element by element (Eq. 5)."""
    return x.sign() * torch.relu(x.abs() - size)


class LCSC(nn.Module):
    """Computes the sparse code of an image, (N, channels, H, W) to (N, 64, H, W).

    The five thresholds are unconstrained scalars, which start at 0.01 and may become negative, as in CU-Net.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode = convolution(channels, FEATURES)
        self.project = nn.ModuleList(Projector(channels) for _ in range(STEPS))
        self.sizes = nn.ParameterList(nn.Parameter(torch.tensor([0.01])) for _ in range(STEPS + 1))

    def steps(self, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each step's values before and after the threshold."""
        encoded = v = self.encode(image)
        code = soft_threshold(v, self.sizes[0])
        yield v, code
        for project, size in zip(self.project, list(self.sizes)[1:], strict=True):
            v = encoded + project(code)
            code = soft_threshold(v, size)
            yield v, code

    def forward(self, image: Tensor) -> Tensor:
        """Return the code after four steps of the iterative shrinkage algorithm."""
        for _, code in self.steps(image):  # noqa: B007
            pass
        return code
