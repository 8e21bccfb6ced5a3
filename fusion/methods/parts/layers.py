"""Layers and filters that several networks use; their parameters are named as in the authors' checkpoints."""

from torch import Tensor, nn
from torch.nn import functional as F


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution, zero-padded."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., width) to the same shape."""
        return self.fc2(F.gelu(self.fc1(tokens)))


def laplacian(maps: Tensor) -> Tensor:
    """Return the sum of each value's four neighbours minus four times the value, zero-padded, (N, C, H, W)."""
    kernel = maps.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(maps, kernel, padding=1, groups=maps.shape[1])


def correlate_maps(maps: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Correlate each map of (N, C, H, W) with the same kernel, (k, k), zero-padded; sides shrink by k - 1 - 2 padding.

    All maps become images of a batch with one channel, so one kernel serves them all.
    """
    result = F.conv2d(maps.reshape(-1, 1, *maps.shape[2:]), kernel[None, None], padding=padding)
    return result.view(*maps.shape[:2], *result.shape[2:])
