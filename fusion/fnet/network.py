"""FNet: the fusion network of Section III-C, Eqs. 22 and 23.

Paper             here
I_1, I_2          infrared, visible luma: the order of the authors' network (Fig. 8 of the paper shows the other one)
u_1, u_2, c       unique codes of infrared and visible, common code
D_u1, D_u2        synthesis_infrared, synthesis_visible (Eq. 22)
G_u1, G_c, G_u2   fuse_infrared, fuse_common, fuse_visible (Eq. 23)
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fusion.fnet.lcsc import LCSC
from fusion.fnet.lzsc import FEATURES, LZSC, convolution

Block = Literal["lzsc", "lcsc"]
BLOCKS: dict[str, type[nn.Module]] = {"lzsc": LZSC, "lcsc": LCSC}


class FNet(nn.Module):
    """Fuses visible luma and infrared, (N, 1, H, W) each in 0..1, into (N, 1, H, W), about 0..1 but not clipped.

    It has 419,916 parameters with LZSC blocks and 212,559 with LCSC blocks (the paper's ablation). Images may have any
    size.
    """

    def __init__(self, block: Block = "lzsc") -> None:
        super().__init__()
        code = BLOCKS[block]
        self.code_infrared = code(1)
        self.code_visible = code(1)
        self.code_common = code(2)
        self.synthesis_infrared = convolution(FEATURES, 1)
        self.synthesis_visible = convolution(FEATURES, 1)
        self.fuse_infrared = convolution(FEATURES, 1)
        self.fuse_common = convolution(FEATURES, 1)
        self.fuse_visible = convolution(FEATURES, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused luma."""
        u1 = self.code_infrared(infrared)
        u2 = self.code_visible(visible)
        # Eq. 22: both images minus their reconstructions from the unique codes.
        residual = torch.cat([infrared - self.synthesis_infrared(u1), visible - self.synthesis_visible(u2)], dim=1)
        c = self.code_common(residual)
        return self.fuse_common(c) + self.fuse_infrared(u1) + self.fuse_visible(u2)  # Eq. 23
