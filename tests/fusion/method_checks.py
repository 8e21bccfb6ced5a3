"""What the tests of every published method check, with the method's own numbers."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fusion.fuse import clip, fuse_pair
from fusion.methods import Training, find_method
from fusion.metrics import prepare, score
from fusion.weights import read_state, write_state
from pipeline.colour import split_pair
from pipeline.pairs import find_pairs, read_grey


def random_pairs(count: int, height: int, width: int) -> torch.Tensor:
    """Return smooth visible and infrared images with some noise, (2, count, 1, height, width) in 0..1."""
    rng = np.random.default_rng(5)
    images = rng.random((2 * count, height, width), np.float32)
    smooth = [cv2.GaussianBlur(image, (0, 0), 3) for image in images]
    smooth = [(image - image.min()) / np.ptp(image) for image in smooth]
    return torch.from_numpy(0.9 * np.stack(smooth) + 0.1 * images).view(2, count, 1, height, width)


def settled(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network in evaluation mode, with batch statistics as after some training."""
    with torch.no_grad():
        network.train()(*random_pairs(4, 48, 48))
    return network.eval()


def check_sizes_and_batches(
    network: torch.nn.Module, sizes: Sequence[tuple[int, int]] = ((37, 51), (16, 9)), symmetric: bool = False
) -> None:
    """Odd sizes keep their size; a batch gives what its images give one by one; the sources differ in role, or not."""
    for height, width in sizes:
        visible, infrared = random_pairs(3, height, width)
        with torch.inference_mode():
            fused = network(visible, infrared)
            singles = [network(visible[n : n + 1], infrared[n : n + 1]) for n in range(3)]
            swapped = network(infrared, visible)
        assert fused.shape == visible.shape and fused.isfinite().all()
        assert torch.allclose(fused, torch.cat(singles), atol=2e-5)
        assert torch.allclose(fused, swapped, atol=1e-4) == symmetric


def check_cpu_version(
    network: torch.nn.Module, convert: Callable[[torch.nn.Module], torch.nn.Module], size: tuple[int, int]
) -> None:
    """Check that a network converted for the CPU, channels-last, fuses a pair as the plain one, except for rounding."""
    visible, infrared = random_pairs(1, *size)
    with torch.inference_mode():
        expected = network(visible, infrared)
        fused = convert(copy.deepcopy(network)).to(memory_format=torch.channels_last)(visible, infrared)
    assert torch.allclose(fused, expected, rtol=0, atol=1e-5 * float(expected.max() - expected.min()))


def fused_scores(shared: Path, name: str, weights: Path, images: Sequence[str]) -> list[dict[str, float]]:
    """Score TNO images fused by a method with its authors' weights and output, as `fusion.fuse` writes them."""
    method, folder = find_method(name), shared / "data/fusion_test/TNO"
    fuser, finish = method.load(weights, "cpu", "fp32"), method.authors_output or clip
    rows = []
    for pair in find_pairs(folder / "vi", folder / "ir", images):
        visible, infrared, _, _ = split_pair(pair, "grey")
        fused = finish(fuser(np.float32(visible) / 255, np.float32(infrared) / 255))
        fused = np.rint(np.clip(fused, 0, 1) * 255).astype(np.uint8)
        rows.append(score(prepare(visible, infrared), fused, ["MI", "VIF", "Qabf", "SSIM"]))
    return rows


def check_authors_images(shared: Path, name: str, published: str, images: Sequence[str]) -> None:
    """TNO images fused by a method with its authors' folder, as they finish them, are theirs within 1 grey level."""
    weights, pairs = shared / "data/checkpoints" / published, shared / "data/fusion_test/TNO"
    method = find_method(name)
    fuser, finish = method.load(weights, "cpu", "fp32"), method.authors_output or clip
    for pair in find_pairs(pairs / "vi", pairs / "ir", images):
        found = fuse_pair(pair, fuser, "grey", finish)[0].astype(int)
        theirs = read_grey(shared / "data/reference_fused" / published / f"TNO/{pair.name}.png")
        height, width = theirs.shape
        assert {found.shape[0] - height, found.shape[1] - width} <= {0, 1}  # some crop to even sides
        assert np.abs(found[:height, :width] - theirs).max() <= 1, pair.name


def check_authors_file(shared: Path, name: str, file: str, folder: Path) -> None:
    """The authors' file, or the folder that it is in, fills all of the network, and comes back from ours."""
    network, path = find_method(name).network, shared / "data/checkpoints" / file
    made = network(path).state_dict()
    write_state(folder / "ours.safetensors", made)
    for again in (path.parent, folder / "ours.safetensors"):
        state = network(again).state_dict()
        assert state.keys() == made.keys() and all(torch.equal(value, made[key]) for key, value in state.items())
    assert sum(value.numel() for value in made.values()) == sum(value.numel() for value in read_state(path).values())


def check_scores(found: Mapping[str, float], wanted: Sequence[float]) -> None:
    """MI, VIF, Qabf and SSIM are the fact sheet's to the hundredth that it prints."""
    assert list(found.values()) == pytest.approx(list(wanted), abs=0.01)


def losses_of(training: Training, phase: int, steps: int, side: int, batch: int = 2) -> list[float]:
    """Return the total loss before each of some steps on one batch."""
    torch.manual_seed(0)
    visible, infrared = random_pairs(batch, side, side)
    chosen, totals = training.phases[phase], []
    optimiser = torch.optim.Adam(chosen.parameters, lr=chosen.lr)
    training.network.train()
    for _ in range(steps):
        terms = chosen.loss(visible, infrared)
        parts = sum(value.item() for key, value in terms.items() if key != "total")
        assert terms["total"].item() == pytest.approx(parts, rel=1e-4)
        optimiser.zero_grad()
        terms["total"].backward()
        # The loop takes the norm of all gradients: what a phase names must have one.
        assert all(parameter.grad is not None for parameter in chosen.parameters)
        optimiser.step()
        totals.append(terms["total"].item())
    return totals
