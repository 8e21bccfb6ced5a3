"""Draw the figures of the paper that compare methods, with our own methods and weights.

    fig1.png   the three threshold functions: hard, soft, and FNet's smooth one between them
    fig6.png   a RoadScene pair: sources, every method, FNet, with a magnified crop
    fig7.png   an MRI-SPECT pair with the same panels
    fig10.png  a TNO and a RoadScene pair, fused by FNet and by each of its ablations

and figures.json, which records the files that each figure was drawn from. A method or an ablation without weights has
an empty, labelled panel. Figs. 8 and 9, FNet's insides, are drawn by fusion.explain. The paper does not name its pairs;
by default the first pair of each set is drawn, --pairs selects another. The crop is placed where both sources have the
strongest edges, independently of any result.
"""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fusion.fuse import fuse_pair, weights_digest
from fusion.methods import METHODS, find_method
from pipeline.artefacts import replacing, sha256_file, versions, write_json
from pipeline.colour import Colour, split_pair
from pipeline.devices import DEVICES, claimed_device
from pipeline.pairs import Pair, find_pairs, read_image
from pipeline.stage import InputError, run
from reports.paper import TABLE1_METHODS, TABLE3_METHODS

FIGURES = ("1", "6", "7", "10")
# Visible and infrared folder of each test set, and its treatment of colour (as in config/table1.yaml, but in colour).
SETS: dict[str, tuple[str, str, Colour]] = {
    "RoadScene": ("vi", "ir", "auto"),
    "MRI_SPECT": ("SPECT", "MRI", "ycbcr-studio"),
    "TNO": ("vi", "ir", "grey"),
}
ABLATIONS = {
    "lcsc": "LCSC in place of LZSC",
    "without_ifnet": "without IFNet",
    "without_intensity": "without the intensity loss",
    "without_gradient": "without the gradient loss",
    "without_ssim": "without the SSIM loss",
    "full": "FNet",
}
CROP = 0.2  # side of the magnified crop, as a share of the image's shorter side
MAGNIFIED = 0.45  # side of the magnified crop in the panel, as a share of the image's shorter side
WIDTH = 2.4  # width of a panel, inches

# A panel: its title, and its image, uint8 (H, W) or RGB (H, W, 3), or a text that says why there is no image.
Panel = tuple[str, np.ndarray | str]


def hard_threshold(x: np.ndarray, theta: float) -> np.ndarray:
    """Return x where its magnitude is above theta, else 0 (Eq. 4)."""
    return np.where(np.abs(x) > theta, x, 0.0)


def draw_thresholds() -> Figure:
    """Return Fig. 1: hard, soft and smooth threshold at theta = 1."""
    import torch

    from fusion.fnet.lcsc import soft_threshold
    from fusion.fnet.lzsc import threshold

    x = np.linspace(-3, 3, 6001)
    tensor, theta = torch.from_numpy(x), torch.tensor(1.0, dtype=torch.float64)
    curves = {
        r"(a) hard, $H_\theta$": hard_threshold(x, 1.0),
        r"(b) soft, $S_\theta$": soft_threshold(tensor, theta).numpy(),
        r"(c) smooth, $T_{0.1,100,\theta}$": threshold(tensor, theta).numpy(),
    }
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (title, y) in zip(figure.subplots(1, 3, sharey=True), curves.items(), strict=True):
        axes.axhline(0, color="#999", linewidth=0.8)
        axes.axvline(0, color="#999", linewidth=0.8)
        axes.plot(x, x, color="#999", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.plot(x, y, color="#0072B2", linewidth=2)
        axes.set(title=title, xlabel="x", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def busiest_square(visible: np.ndarray, infrared: np.ndarray, side: int) -> tuple[int, int]:
    """Return the upper left corner (x, y) of the square of `side` pixels with the strongest edges in both images.

    The square maximises the sum of the pixelwise minimum of both images' edges. Edges are Sobel magnitudes of uint8
    (H, W) images; the first of equal squares is returned.
    """
    edges = [
        np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        for image in (visible, infrared)
    ]
    total = cv2.integral(np.minimum(*edges))
    squares = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    y, x = np.unravel_index(squares.argmax(), squares.shape)
    return int(x), int(y)


def draw_panels(rows: Sequence[Sequence[Panel]], crops: Sequence[tuple[int, int, int]], columns: int) -> Figure:
    """Return a figure of panels with magnified crops; each of `rows` has a crop (x, y, side) and wraps at `columns`."""
    lines = [
        (row[start : start + columns], crop)
        for row, crop in zip(rows, crops, strict=True)
        for start in range(0, len(row), columns)
    ]
    shapes = [next(image.shape for _, image in row if not isinstance(image, str)) for row in rows]
    heights = [
        WIDTH * shape[0] / shape[1] + 0.3
        for row, shape in zip(rows, shapes, strict=True)
        for _ in range(-(-len(row) // columns))
    ]
    figure = Figure(figsize=(WIDTH * columns, sum(heights)), layout="constrained")
    grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
    for axes_row, (panels, crop) in zip(grid, lines, strict=True):
        shape = next((image.shape for _, image in panels if not isinstance(image, str)), shapes[0])
        for axes in axes_row[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, image) in zip(axes_row, panels, strict=False):
            axes.set_title(title, fontsize=9, parse_math=False)
            axes.set(xticks=[], yticks=[])
            if isinstance(image, str):
                axes.set(xlim=(0, shape[1]), ylim=(shape[0], 0), aspect="equal", facecolor="#f0f0ee")
                axes.text(0.5, 0.5, image, transform=axes.transAxes, ha="center", va="center", fontsize=8, color="#444")
                axes.spines[:].set(linestyle=(0, (4, 3)), color="#999")
            else:
                axes.spines[:].set_visible(False)
                _show_with_crop(axes, image, crop)
    return figure


def _show_with_crop(axes: Axes, image: np.ndarray, crop: tuple[int, int, int]) -> None:
    """Show an image with the outline of its crop, and the magnified crop in the corner farthest from it."""
    height, width = image.shape[:2]
    x, y, side = crop
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="#D55E00", linewidth=1.2))
    shown = MAGNIFIED * min(height, width)
    left = 0 if x + side / 2 > width / 2 else width - shown
    top = 0 if y + side / 2 > height / 2 else height - shown
    inset = axes.inset_axes((left, top, shown, shown), transform=axes.transData)
    inset.imshow(image[y : y + side, x : x + side], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set(color="#D55E00", linewidth=1.2)


def find_pair(root: Path, dataset: str, name: str | None) -> Pair:
    """Return the pair `name` of a test set, or its first pair."""
    visible, infrared, _ = SETS[dataset]
    return find_pairs(root / dataset / visible, root / dataset / infrared, [name] if name else None)[0]


def source_panels(pair: Pair, dataset: str) -> tuple[list[Panel], tuple[int, int, int]]:
    """Return the panels of a pair's sources, and its crop (x, y, side)."""
    visible, infrared, _ = SETS[dataset]
    names = {"vi": "visible", "ir": "infrared"}
    luma, grey, _, _ = split_pair(pair, SETS[dataset][2])
    side = max(8, round(CROP * min(luma.shape)))
    panels: list[Panel] = [
        (names.get(visible, visible), read_image(pair.visible)),
        (names.get(infrared, infrared), read_image(pair.infrared)),
    ]
    return panels, (*busiest_square(luma, grey, side), side)


def method_order(paper: Sequence[str] = TABLE1_METHODS) -> list[str]:
    """Return the methods: ours that the paper does not name, then the paper's in its order, FNet last.

    A method of the paper that is not implemented here is listed under the paper's name.
    """
    ours = {name.casefold(): name for name in METHODS}
    named = [ours.get(name.casefold(), name) for name in paper]
    return [*(name for name in METHODS if name not in named), *named]


def fused_panel(method: str, pair: Pair, dataset: str, weights: Path | None, device: str) -> np.ndarray | str:
    """Return a pair fused by a method, or a text that says why it cannot be fused."""
    if method not in METHODS:
        return "not\nimplemented"
    if METHODS[method].needs_weights and weights is None:
        return "no weights"
    return fuse_pair(pair, find_method(method).load(weights, device, "fp32"), SETS[dataset][2])[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figures."""
    options = _parse(argv)
    weights = _by_name(options.weights, "--weights", [name for name in METHODS if METHODS[name].needs_weights])
    ablations = _by_name(options.ablations, "--ablations", list(ABLATIONS))
    names = _by_name(options.pairs, "--pairs", list(SETS))
    sets_of_figure = {"6": ["RoadScene"], "7": ["MRI_SPECT"], "10": ["TNO", "RoadScene"]}
    pairs = {
        dataset: find_pair(options.data, dataset, names.get(dataset))
        for figure in options.figures
        for dataset in sets_of_figure.get(figure, [])
    }
    drawn: dict[str, Any] = {}
    if "1" in options.figures:
        drawn["fig1"] = {}
        _save(options.output, "fig1", draw_thresholds())
    with claimed_device(options.device, options.threads) as device:
        for figure in [figure for figure in ("6", "7") if figure in options.figures]:
            (dataset,) = sets_of_figure[figure]
            spelling = {name.casefold(): name for name in TABLE1_METHODS}
            # The paper's methods have a panel even without weights; other methods do not.
            order = [
                name
                for name in method_order()
                if name.casefold() in spelling or name in weights or not METHODS[name].needs_weights
            ]

            def fused(method: str, dataset: str = dataset) -> np.ndarray | str:
                path = Path(weights[method]) if method in weights else None
                return fused_panel(method, pairs[dataset], dataset, path, device)

            rows, crops = _rows([dataset], pairs, {name: spelling.get(name.casefold(), name) for name in order}, fused)
            _save(options.output, f"fig{figure}", draw_panels(rows, crops, options.columns))
            drawn[f"fig{figure}"] = _facts([dataset], pairs, rows, crops, weights)
        if "10" in options.figures:
            rows, crops = [], []
            for dataset in sets_of_figure["10"]:

                def ablated(name: str, dataset: str = dataset) -> np.ndarray | str:
                    path = Path(ablations[name]) if name in ablations else None
                    return fused_panel("fnet", pairs[dataset], dataset, path, device)

                more = _rows([dataset], pairs, {name: ABLATIONS[name] for name in TABLE3_METHODS}, ablated)
                rows += more[0]
                crops += more[1]
            _save(options.output, "fig10", draw_panels(rows, crops, 2 + len(ABLATIONS)))
            drawn["fig10"] = _facts(sets_of_figure["10"], pairs, rows, crops, ablations)
    facts = {"figures": drawn, "versions": versions("torch", "matplotlib", "opencv-python-headless")}
    write_json(options.output / "figures.json", facts)
    logging.info("figures %s in %s", ", ".join(options.figures), options.output)


def _rows(
    datasets: Sequence[str],
    pairs: Mapping[str, Pair],
    titles: Mapping[str, str],
    fuse: Callable[[str], np.ndarray | str],
) -> tuple[list[list[Panel]], list[tuple[int, int, int]]]:
    """Return a row of panels for each dataset, sources first, and the rows' crops."""
    rows, crops = [], []
    for dataset in datasets:
        panels, crop = source_panels(pairs[dataset], dataset)
        for name, title in titles.items():
            panels.append((title, fuse(name)))
            logging.info("%s: %s", dataset, title)
        rows.append(panels)
        crops.append(crop)
    return rows, crops


def _facts(
    datasets: Sequence[str],
    pairs: Mapping[str, Pair],
    rows: Sequence[Sequence[Panel]],
    crops: Sequence[tuple[int, int, int]],
    weights: Mapping[str, str],
) -> dict[str, Any]:
    """Return the facts of a figure: its pairs, its weights and its empty panels."""
    return {
        "pairs": [
            {
                "dataset": dataset,
                "name": pairs[dataset].name,
                "visible": sha256_file(pairs[dataset].visible),
                "infrared": sha256_file(pairs[dataset].infrared),
                "crop": list(crop),
            }
            for dataset, crop in zip(datasets, crops, strict=True)
        ],
        "weights": {name: weights_digest(Path(path)) for name, path in weights.items()},
        "gaps": {title: why.replace("\n", " ") for row in rows for title, why in row if isinstance(why, str)},
    }


def _save(output: Path, name: str, figure: Figure) -> None:
    with replacing(output / f"{name}.png") as part:
        figure.savefig(part, dpi=160, metadata={"Software": None})


def _by_name(words: Sequence[str], option: str, names: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE arguments as a mapping.

    Raises:
        InputError: an argument has another form, or its name is not in `names`.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and value):
            raise InputError(f"{option} {word!r}: expected NAME=VALUE")
        if name not in names:
            raise InputError(f"{option} {word!r}: found name {name!r}; expected one of {', '.join(names)}")
        found[name] = value
    return found


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reports.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = {"nargs": "+", "default": []}
    parser.add_argument(
        "--figures", nargs="+", choices=FIGURES, default=list(FIGURES), help="figures to draw; default all"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/fusion_test"), help="folder of the test sets (default: %(default)s)"
    )
    parser.add_argument("--weights", **words, metavar="METHOD=PATH", help="weights of a method, file or folder")
    parser.add_argument(
        "--ablations", **words, metavar="NAME=PATH", help=f"weights of an ablation: {', '.join(ABLATIONS)}"
    )
    parser.add_argument(
        "--pairs", **words, metavar="SET=NAME", help=f"pair of a test set ({', '.join(SETS)}); default the first"
    )
    parser.add_argument("--columns", type=int, default=6, help="panels per row (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a free GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default all that this process may use")
    options = parser.parse_args(argv)
    if options.columns < 2:
        raise InputError(f"--columns {options.columns}: expected at least 2")
    return options


if __name__ == "__main__":
    run(main)
