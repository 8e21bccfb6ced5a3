"""Stage: show FNet's sparse codes of one pair: features of one source only, features of both, and every iteration.

Writes to --output
    features.png         sparse codes, as in the paper's Fig. 8: unique to visible, unique to infrared, common
    reconstructions.png  the image that each code adds to the fused luma, as in Fig. 9; the three sum to the fused luma
    iterations.png       threshold, momentum and sparsity of every iteration (Eqs. 20 and 21)
    insides.json         the same numbers, and the digests of weights and sources

The plain network is run in float32. A code's energy is its mean magnitude over the 64 filters. Its silent share is the
share of values whose magnitude, before thresholding, is at most the threshold. The threshold is smooth, so silenced
values are small but not exactly 0 (with the ablation's LCSC blocks they are exactly 0).
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from fusion.fnet.network import FNet
from fusion.methods.fnet import read_network
from pipeline.artefacts import replacing, sha256_file, versions, write_json
from pipeline.colour import COLOURS, split_pair
from pipeline.devices import DEVICES, claimed_device
from pipeline.pairs import Bands, Pair, add_band_options, find_pairs, given_bands, read_names, refuse_same_files
from pipeline.stage import InputError, run

STRONGEST = 4  # number of filters of each code that are shown


@dataclass(frozen=True)
class Code:
    """One of FNet's three sparse codes.

    features: (64, H, W), the code of the last iteration.
    reconstruction: (H, W), the image that its synthesis adds to the fused luma (0..1), of either sign.
    thresholds, momenta: theta^k and rho^k; LCSC blocks have no momentum.
    silent: share of values at or below the threshold, for each k.
    energy: mean magnitude after thresholding, for each k.
    """

    features: np.ndarray
    reconstruction: np.ndarray
    thresholds: list[float]
    momenta: list[float]
    silent: list[float]
    energy: list[float]


def sparse_codes(network: FNet, visible: np.ndarray, infrared: np.ndarray, device: str = "cpu") -> dict[str, Code]:
    """Return FNet's codes of one pair by name: `visible`, `infrared` (the unique ones, u_2 and u_1) and `common` (c).

    Args:
        network: the plain network.
        visible: visible luma, float32 (H, W) in 0..1.
        infrared: infrared luma, float32 (H, W) in 0..1.
        device: the device to compute on.
    """
    network = network.to(device).eval()
    i, v = (torch.from_numpy(image)[None, None].to(device) for image in (infrared, visible))
    with torch.inference_mode():
        u1, trace1 = _encode(network.code_infrared, i)
        u2, trace2 = _encode(network.code_visible, v)
        residual = torch.cat([i - network.synthesis_infrared(u1), v - network.synthesis_visible(u2)], dim=1)
        c, trace3 = _encode(network.code_common, residual)
        parts = {
            "visible": (u2, network.fuse_visible(u2), trace2),
            "infrared": (u1, network.fuse_infrared(u1), trace1),
            "common": (c, network.fuse_common(c), trace3),
        }
    return {
        name: Code(code[0].cpu().numpy(), part[0, 0].cpu().numpy(), **trace)
        for name, (code, part, trace) in parts.items()
    }


def _encode(block: Any, image: Tensor) -> tuple[Tensor, dict[str, list[float]]]:
    """Return a block's code of `image`, and its thresholds, momenta, silent shares and energies by iteration."""
    thresholds = [size.item() for size in (block.thresholds() if hasattr(block, "thresholds") else block.sizes)]
    silent, energy = [], []
    for (before, code), theta in zip(block.steps(image), thresholds, strict=True):
        silent.append((before.abs() <= theta).float().mean().item())
        energy.append(code.abs().mean().item())
    momenta = [momentum.item() for momentum in block.momenta()] if hasattr(block, "momenta") else []
    return code, {"thresholds": thresholds, "momenta": momenta, "silent": silent, "energy": energy}


# Three of the colours of Okabe and Ito (2008), which colour-blind readers can distinguish.
COLOURS_OF_CODES = {"visible": "#0072B2", "infrared": "#D55E00", "common": "#009E73"}
TITLES = {"visible": "unique to visible", "infrared": "unique to infrared", "common": "common to both"}


def features_sheet(codes: dict[str, Code], sources: dict[str, np.ndarray]) -> Figure:
    """Return the paper's Fig. 8: for each code its source, its energy over all filters and its strongest filters.

    Each panel has its own scale, up to the value in its title: energies from 0, filters symmetric around 0 (grey).
    """
    figure, panels = _panels(len(codes), 2 + STRONGEST, next(iter(sources.values())).shape)
    for row, (name, code) in zip(panels, codes.items(), strict=True):
        if name in sources:
            _show(row[0], sources[name], f"{name}, luma", "gray", 0, 1)
        else:
            row[0].set_axis_off()
        energy = np.abs(code.features).mean(axis=0)
        top = np.percentile(energy, 99.5) or 1.0
        _show(row[1], energy, f"{TITLES[name]}: mean, to {top:.2g}", "magma", 0, top)
        strongest = np.abs(code.features).mean(axis=(1, 2)).argsort(kind="stable")[::-1][:STRONGEST]
        for axes, number in zip(row[2:], strongest, strict=True):
            limit = np.percentile(np.abs(code.features[number]), 99.5) or 1.0
            _show(axes, code.features[number], f"filter {number}, to ±{limit:.2g}", "gray", -limit, limit)
    return figure


def reconstructions_sheet(codes: dict[str, Code], sources: dict[str, np.ndarray]) -> Figure:
    """Return the paper's Fig. 9: the image that each code adds to the luma, and their sum.

    White is 0. Each panel has its own scale, up to the value in its title: on a shared scale the common part would
    hardly be visible.
    """
    figure, panels = _panels(2, 3, next(iter(sources.values())).shape)
    fused = sum(code.reconstruction for code in codes.values())
    for axes, (name, source) in zip(panels[0], sources.items(), strict=False):
        _show(axes, source, f"{name}, luma", "gray", 0, 1)
    _show(panels[0][2], np.clip(fused, 0, 1), "fused: sum of those below", "gray", 0, 1)
    for axes, (name, code) in zip(panels[1], codes.items(), strict=True):
        limit = np.percentile(np.abs(code.reconstruction), 99.5) or 1.0
        image = _show(axes, code.reconstruction / limit, f"{TITLES[name]}, to ±{limit:.2g}", "RdBu_r", -1, 1)
    bar = figure.colorbar(image, ax=list(panels[1]), orientation="horizontal", aspect=60, ticks=[-1, 0, 1])
    bar.ax.set_xticklabels(["-limit", "0", "+limit"], fontsize=8)
    bar.set_label("added to the luma (0..1), in units of each panel's limit", fontsize=8)
    return figure


def iterations_sheet(codes: dict[str, Code]) -> Figure:
    """Return a figure of threshold, momentum and silent share over the iterations, one line per code."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    labels = {"thresholds": r"threshold $\theta$", "momenta": r"momentum $\rho$", "silent": "sparsity"}
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        for (name, colour), marker in zip(COLOURS_OF_CODES.items(), "os^", strict=True):
            values = getattr(codes[name], key)
            axes.plot(range(len(values)), values, color=colour, marker=marker, label=TITLES[name])
        axes.set(xlabel="iteration k", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    if min(theta for code in codes.values() for theta in code.thresholds) > 0:  # LCSC's may be 0 or below
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].yaxis.set_minor_locator(NullLocator())
    if not codes["common"].momenta:
        panels[1].text(0.5, 0.5, "LCSC blocks have no momentum", ha="center", transform=panels[1].transAxes)
    panels[2].set_ylim(0, 1)
    panels[0].legend(frameon=False)
    return figure


def _panels(rows: int, columns: int, shape: tuple[int, int]) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels, each 2.6 inches wide, for images of `shape`."""
    height = 2.6 * min(2.0, shape[0] / shape[1])
    figure = Figure(figsize=(2.6 * columns, (height + 0.35) * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axes: Any, image: np.ndarray, title: str, colours: str, low: float, high: float) -> Any:
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.set_axis_off()
    return axes.imshow(image, cmap=colours, vmin=low, vmax=high)


def main(argv: Sequence[str] | None = None) -> None:
    """Explain one pair."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.explain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="FNet's weights: ours, or the authors' FNet.pth")
    parser.add_argument(
        "--visible", type=Path, required=True, nargs="+", help="the visible image, or folders of them with --names"
    )
    parser.add_argument("--infrared", type=Path, required=True, nargs="+", help="the infrared image, or folders")
    add_band_options(parser)
    parser.add_argument("--names", type=Path, help="list of stems, one per line; its first pair is shown")
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures and insides.json")
    parser.add_argument("--colour", choices=COLOURS, default="auto", help="as in fusion.fuse (default: auto)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a free GPU if there is one")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: all that this process may use)")
    options = parser.parse_args(argv)

    bands = given_bands(options)
    pair = _chosen_pair(options.visible, options.infrared, options.names, bands)
    visible, infrared, _, colour = split_pair(pair, options.colour)
    sources = {"visible": np.float32(visible) / 255, "infrared": np.float32(infrared) / 255}
    network = read_network(options.weights)
    with claimed_device(options.device, options.threads) as device:
        codes = sparse_codes(network, sources["visible"], sources["infrared"], device)
    if not all(np.isfinite(code.reconstruction).all() for code in codes.values()):
        raise InputError(
            f"{options.weights} gives NaN or infinite values for {pair.visible}; expected finite values (check the "
            "weights)"
        )
    sheets = {
        "features": features_sheet(codes, sources),
        "reconstructions": reconstructions_sheet(codes, sources),
        "iterations": iterations_sheet(codes),
    }
    for name, figure in sheets.items():
        with replacing(options.output / f"{name}.png") as part:
            figure.savefig(part, dpi=120, metadata={"Software": None}, pil_kwargs={"optimize": True})
    facts = {
        name: {
            "thresholds": code.thresholds,
            "momenta": code.momenta,
            "silent_share": code.silent,
            "mean_magnitude": code.energy,
            "mean_added_luma": float(code.reconstruction.mean()),
            "mean_magnitude_added_luma": float(np.abs(code.reconstruction).mean()),
        }
        for name, code in codes.items()
    }
    provenance = {
        "weights": sha256_file(options.weights),
        "visible": sha256_file(pair.visible),
        "infrared": sha256_file(pair.infrared),
        "name": pair.name,
        "size": list(visible.shape[::-1]),
        "colour": colour,
        **bands.facts(),
        "block": type(network.code_common).__name__,
        "device": device.split(":")[0],
        "threads": torch.get_num_threads(),
        "versions": versions("numpy", "opencv-python-headless", "torch", "matplotlib"),
    }
    write_json(options.output / "insides.json", {"codes": facts, "provenance": provenance})
    for name, code in codes.items():
        logging.info("%-18s %.0f%% of the code silent", TITLES[name], 100 * code.silent[-1])
    logging.info("wrote the codes of %s to %s", type(network).__name__, options.output)


def _chosen_pair(visible: Sequence[Path], infrared: Sequence[Path], names: Path | None, bands: Bands) -> Pair:
    """Return the pair of two image files or, with a list of names, the pair of its first name in the folders."""
    if names is not None:
        return find_pairs(visible, infrared, read_names(names, bands.suffixes)[:1], bands)[0]
    for option, paths in (("visible", visible), ("infrared", infrared)):
        if len(paths) != 1 or paths[0].is_dir():
            raise InputError(f"--{option} {' '.join(map(str, paths))}: expected one image, or folders with --names")
    pair = Pair(visible[0].stem.removesuffix(bands.visible_suffix), visible[0], infrared[0], bands.infrared_range)
    if pair.visible.exists() and pair.infrared.exists():
        refuse_same_files([pair])
    return pair


if __name__ == "__main__":
    run(main)
