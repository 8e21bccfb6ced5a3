"""FNet as a method, with weights of ours or the authors' published checkpoint; it fuses one pair at a time.

Panda, Kundu, Bhattacharya, Routray, "l0-Regularized Sparse Coding-based Interpretable Network for Multi-Modal Image
Fusion", arXiv 2411.04519. The input is luma / 255 of both images, neither stretched nor resized; the output is clipped.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusion.fnet.fast import prepare, trainable
from fusion.fnet.gpu.graphs import captured_when_repeated
from fusion.fnet.inverse import IFNet
from fusion.fnet.losses import stage1_loss, stage2_loss
from fusion.fnet.network import FNet
from fusion.methods.method import Fuser, Method, Phase, Precision, Published, Training
from fusion.methods.parts.filling import renamed
from fusion.weights import fill, read_state

# Patterns of the authors' keys, and our keys.
_AUTHORS_KEYS = [
    (r"^net_u\.", "code_infrared."),
    (r"^net_v\.", "code_visible."),
    (r"^net_z\.", "code_common."),
    (r"^conv_u\.", "synthesis_infrared."),
    (r"^conv_v\.", "synthesis_visible."),
    (r"^decoder\.conv_1\.", "fuse_infrared."),
    (r"^decoder\.conv_2\.", "fuse_common."),
    (r"^decoder\.conv_3\.", "fuse_visible."),
    (r"\.([wb])_ro$", r".\1_rho"),
    (r"\.x([01])_block\.conv_in\.", r".encode.\1."),
    (r"\.x1_block\.basic_layer\.ch_", ".project.0."),
    (r"\.IM\.(\d)\.conv_in\.", lambda match: f".encode.{int(match[1]) + 2}."),
    (r"\.IM\.(\d)\.basic_layer1\.ch_", lambda match: f".project.{int(match[1]) + 1}."),
    (r"\.IM\.(\d)\.basic_layer2\.ch_", r".project_previous.\1."),
]


def from_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the authors' FNet.pth to ours; keys that are already ours stay."""
    return renamed(state, _AUTHORS_KEYS)


def read_network(weights: Path) -> FNet:
    """Return FNet with `weights` (ours or the authors') and the coding block that they were trained with."""
    state = from_authors(read_state(weights))
    network = FNet("lcsc" if "code_common.sizes.0" in state else "lzsc")
    fill(network, state, weights)
    return network


def network(weights: Path | None) -> FNet:
    """Return the network as in the paper, with `weights`, or with random weights for None."""
    return FNet() if weights is None else read_network(weights)


def load(weights: Path | None, device: str, precision: Precision) -> Fuser:
    """Return the network as a function; on a GPU, `bf16` computes the convolutions in bfloat16."""
    network = prepare(read_network(weights).to(device), precision)

    def fuse_pair(pair: Tensor) -> Tensor:
        return network(pair[0], pair[1])[0, 0]

    if device != "cpu":
        fuse_pair = captured_when_repeated(fuse_pair)

    def fuse(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        pair = torch.from_numpy(np.stack([visible, infrared])[:, None, None]).to(device)
        return fuse_pair(pair).cpu().numpy()

    return fuse


def training(
    frozen: Path | None, block: str = "lzsc", without: Collection[str] = (), precision: Precision = "fp32"
) -> Training:
    """Return the paper's two stages: FNet with IFNet (Eq. 25), then only FNet (Eq. 26); `frozen` is not used.

    block: the coding block.
    without: terms that are left out of Eq. 26; with `block`, this gives the ablations of Table III.
    """
    fnet, ifnet = FNet(block), IFNet(block)
    fuse, invert = trainable(fnet, precision), trainable(ifnet, precision)

    def stage1(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        return stage1_loss(*invert(fuse(visible, infrared)), visible, infrared)

    def stage2(visible: Tensor, infrared: Tensor) -> dict[str, Tensor]:
        return stage2_loss(fuse(visible, infrared), visible, infrared, without)

    phases = [
        Phase("I", [*fnet.parameters(), *ifnet.parameters()], stage1, iterations=20000),
        Phase("II", list(fnet.parameters()), stage2, iterations=20000),
    ]
    return Training(fnet, phases, {"ifnet": ifnet}, crop=128, batch=16, ema=0.999, capturable=True)


METHOD = Method(
    load,
    network=network,
    training=training,
    # The CPU implementation of FNet computes in float32 only, and its ablation must not differ in precision.
    bf16_on=("cuda",),
    published=Published(
        "github.com/gargi884/FNet-MMIF",
        {"FNet.pth": "46665448c3012d0466c0a7c7ee46d48da7f1e59c58a98368801a948da715afec"},
    ),
)
