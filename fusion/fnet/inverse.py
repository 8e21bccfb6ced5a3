"""IFNet: the inverse fusion network, which stage I of training uses (Section III-C, Eq. 24).

Paper        here
x_1, x_2     codes of infrared and visible, both computed from the fused image
D_x1, D_x2   synthesis_infrared, synthesis_visible

The authors' public code computes both outputs with one synthesis convolution and does not use a second one; here each
source has its own, as in Eq. 24. The number of parameters, 207,368, is the same.
"""

from torch import Tensor, nn

from fusion.fnet.lzsc import FEATURES, convolution
from fusion.fnet.network import BLOCKS, Block


class IFNet(nn.Module):
    """Splits a fused luma (N, 1, H, W) into estimates of visible luma and infrared, (N, 1, H, W) each."""

    def __init__(self, block: Block = "lzsc") -> None:
        super().__init__()
        self.code_infrared = BLOCKS[block](1)
        self.code_visible = BLOCKS[block](1)
        self.synthesis_infrared = convolution(FEATURES, 1)
        self.synthesis_visible = convolution(FEATURES, 1)

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimates of visible luma and infrared."""
        infrared = self.synthesis_infrared(self.code_infrared(fused))
        visible = self.synthesis_visible(self.code_visible(fused))
        return visible, infrared
