"""LZSC: the l0-regularised convolutional sparse coding block, an unrolled accelerated iteration (Section III-B).

The paper numbers a step by the code that it starts from: step k of Eq. 20 computes u^{k+1} from u^k and u^{k-1}. Here,
as in the authors' network, a step has the number of the code that it computes: step k = 0..4 computes u^k from u^{k-1}
and u^{k-2}, with theta and rho of Eq. 21 at this k. Codes before u^0 are 0, so that step 0 has only the term with W_e.

Eq. 20, written for u^k              here
theta^{k-1}                          thresholds()[k]
rho^{k-1}                            momenta()[k]
W_e^{k-1}(I)                         encode[k]
W_u^{k-1}(W_d^{k-1}(u^{k-1}))        project[k - 1], its up and down
W_u^{k-1}(W_d^{k-1}(u^{k-2}))        project_previous[k - 2]: other filters than for u^{k-1} (Eq. 19)
T_{0.1,100,theta}                    threshold(), Eq. 6
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 64  # channels of every code
KERNEL = 9  # side of every filter, in pixels
HALF = KERNEL // 2  # pixels from a filter's centre to its edge
STEPS = 4  # iteration modules after the initial estimate
ALPHA = 0.1  # fraction of theta that is subtracted from values above the threshold
GAMMA = 100.0  # steepness of the transition at theta


def convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return the type of convolution that these networks use: 9x9, same output size, no bias, Xavier-uniform."""
    layer = nn.Conv2d(channels_in, channels_out, KERNEL, padding=HALF, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


def threshold(x: Tensor, theta: Tensor) -> Tensor:
    """Apply the smooth hard threshold T element by element: sign(x) (|x| - alpha theta) / (1 + e^{-gamma(|x|-theta)}).

    It lies between hard thresholding (alpha = 0, gamma infinite) and soft thresholding (alpha = 1). The paper's Eq. 6
    lacks the sign, which the other two thresholds of its Section II and the authors' network have.
    """
    magnitude = x.abs()
    return x.sign() * (magnitude - ALPHA * theta) * torch.sigmoid(GAMMA * (magnitude - theta))


class Projector(nn.Module):
    """Computes u - W_u(W_d(u)), where W_d(u) is the reconstruction from a code u; (N, 64, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = convolution(FEATURES, channels)
        self.up = convolution(channels, FEATURES)

    def forward(self, u: Tensor) -> Tensor:
        """Return u - W_u(W_d(u))."""
        return u - self.up(self.down(u))


class LZSC(nn.Module):
    """Computes the sparse code of an image, (N, channels, H, W) to (N, 64, H, W); each step has its own weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode = nn.ModuleList(convolution(channels, FEATURES) for _ in range(STEPS + 1))
        self.project = nn.ModuleList(Projector(channels) for _ in range(STEPS))
        self.project_previous = nn.ModuleList(Projector(channels) for _ in range(STEPS - 1))
        self.w_theta = nn.Parameter(torch.tensor([-0.5]))
        self.b_theta = nn.Parameter(torch.tensor([-2.0]))
        self.w_rho = nn.Parameter(torch.tensor([0.5]))
        self.b_rho = nn.Parameter(torch.tensor([0.0]))

    def thresholds(self) -> list[Tensor]:
        """Return theta^0..theta^4 (Eq. 21), which are positive and, if w_theta < 0, decreasing."""
        return [F.softplus(self.w_theta * k + self.b_theta) for k in range(STEPS + 1)]

    def momenta(self) -> list[Tensor]:
        """Return rho^0..rho^4; rho^0 = 0, and if w_rho > 0, they increase and stay below 1.

        Eq. 21 requires w_rho < 0, which would make them negative; w_rho > 0 in the authors' network, before and after
        training.
        """
        base = F.softplus(self.b_rho)
        return [1 - base / F.softplus(self.w_rho * k + self.b_rho) for k in range(STEPS + 1)]

    def steps(self, image: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each step's values before the threshold, v, and after it, u^0..u^4 (Eq. 20; u^k = 0 for k < 0)."""
        theta, rho = self.thresholds(), self.momenta()
        v = self.encode[0](image)
        u_before, u = None, threshold(v, theta[0])
        yield v, u
        for k in range(1, STEPS + 1):
            v = (1 + rho[k]) * self.project[k - 1](u) + self.encode[k](image)
            if u_before is not None:
                v = v - rho[k] * self.project_previous[k - 2](u_before)
            u_before, u = u, threshold(v, theta[k])
            yield v, u

    def forward(self, image: Tensor) -> Tensor:
        """Return u^4."""
        for _, u in self.steps(image):  # noqa: B007
            pass
        return u
