"""AUIFNet as a method: weights of ours or the authors' folder of three files, luma / 255 in, no stretch."""

from pathlib import Path
from typing import TYPE_CHECKING

from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.running import as_fuser

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.networks.auifnet import AUIFNet

FILES = {
    "TCSVT_Encoder_Base.model": "c4fe51b85637e3befc89b27e3cbb7a765aea37871eb4da4f58b471680ce7eb72",
    "TCSVT_Encoder_Detail.model": "92e1ad6a4b7e5a2acc442a3a57c3b0e48a2af262f487942e42d81334de204726",
    "TCSVT_Decoder.model": "7966d490bb4003821c8f20ce1197c22d020ab986850571c5dfa02b0defad8ad3",
}
EPOCHS, FIRST_EPOCHS = 80, 41  # and after how many of them the rates fall to a tenth


def network(weights: Path | None) -> "AUIFNet":
    """Return the network, filled from `weights` (a file of ours, or the authors' folder) or with random ones."""
    from fusion.networks.auifnet import AUIFNet
    from fusion.weights import fill, read_state

    made = AUIFNet()
    if weights is not None:
        state = {}
        for path in [weights / name for name in FILES] if weights.is_dir() else [weights]:
            state |= read_state(path)
        fill(made, state, weights)
    return made


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function, each of its steps as one small convolution."""
    from fusion.networks.auifnet import collapse

    return as_fuser(collapse(network(weights)), device, precision)


def training(frozen: Path | None) -> Training:
    """Return the authors' one phase: both encoders and the decoder rebuild single images; nothing fused is seen."""
    import torch

    from fusion.training.similarity import dissimilarity

    trained = network(None)

    def loss(visible: "Tensor", infrared: "Tensor") -> dict[str, "Tensor"]:
        images = torch.cat([visible, infrared])
        rebuilt = trained.decode(*trained.encode(images))
        structure, values = 5 * dissimilarity(images, rebuilt, side=3), (images - rebuilt).square().mean()
        return {"total": values + structure, "mse": values, "ssim": structure}

    choices = [
        "random crops of 128x128 with flips and turns instead of random resized ones",
        "960 iterations as published, of our pairs instead of FLIR's 360 images; both bands in every batch",
    ]
    base, detail = list(trained.conv1.parameters()), list(trained.conv2.parameters())
    phase = Phase(
        "rebuilding",
        list(trained.parameters()),
        loss,
        lr=1e-2,
        schedule=lambda share: 1.0 if share < FIRST_EPOCHS / EPOCHS else 0.1,
        iterations=960,
        parts=[(base, 1.0), (detail, 0.1), (list(trained.decoder.parameters()), 1.0)],
    )
    return Training(trained, [phase], crop=128, batch=16, choices=choices)


METHOD = Method(
    load,
    needs_weights=True,
    reference="Zhao et al., IEEE TCSVT 32(3), 2021",
    network=network,
    published=Published("github.com/Zhaozixiang1228/IVIF-AUIF-Net", FILES),
    training=training,
)
