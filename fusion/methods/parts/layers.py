"""Layers and filters that several networks have; keys of the authors' checkpoints fit them."""

from torch import Tensor, nn
from torch.nn import functional as F


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with borders of zeros."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class Perceptron(nn.Module):
    """Two linear layers, GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., width) to the same."""
        return self.fc2(F.gelu(self.fc1(tokens)))


def laplacian(maps: Tensor) -> Tensor:
    """Return the sum of each value's four neighbours less four times itself, zeros around, (N, C, H, W)."""
    kernel = maps.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(maps, kernel, padding=1, groups=maps.shape[1])


def correlated(maps: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Correlate each map, (N, C, H, W), with one kernel, (k, k), zeros around: smaller by k - 1 - 2 padding."""
    found = F.conv2d(maps.reshape(-1, 1, *maps.shape[2:]), kernel[None, None], padding=padding)
    return found.view(*maps.shape[:2], *found.shape[2:])
