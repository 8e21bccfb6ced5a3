"""Corrupt one band of the test images at fixed levels, for robustness tests on images unlike the training images.

    infrared_shift          shifted to the right by 2, 4, 8, 16 pixels, which misregisters the bands
    infrared_noise          Gaussian noise, standard deviation .08, .12, .18, .26, .38 of the range
    infrared_blur           Gaussian blur, standard deviation 1, 2, 3, 4, 6 pixels
    infrared_contrast       difference from the image's mean times .4, .3, .2, .1, .05
    infrared_dead_columns   .01, .02, .05, .1, .2 of the columns at level 0
    visible_darkness        levels times .4, .3, .2, .1, .05
    visible_glare           a light in the upper half whose veil adds .4, .6, .8, 1, 1.5 of the range at its centre
    visible_fog             mixed with a cloud, 1.5, 2, 2.5, 3, 3.5 parts of it to one part of a full-range image
    visible_noise           as infrared_noise, independent in each channel
    visible_jpeg            JPEG of quality 25, 18, 15, 10, 7
    visible_missing         the whole image black, or grey at its mean
    infrared_missing        the whole image black, or grey at its mean

The levels are named 1 to 5, except for the shift (the number of pixels) and a missing band (`black` and `grey`).
Lengths are in pixels of the original image. Values are rounded to nearest and clipped to 0..255. Random numbers depend
only on the kind of corruption and the name of the image: on every machine, all levels of an image have the same noise,
columns, light and cloud.

Names and severities follow ImageNet-C: D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to
common corruptions and perturbations, ICLR 2019 (gaussian_noise, gaussian_blur, contrast, fog, jpeg_compression). C.
Michaelis et al., Benchmarking robustness in object detection, arXiv 1907.07484, applied them to detectors; H. R.
Medeiros et al., WiSE-OD, arXiv 2507.18925, to the infrared images of LLVIP and FLIR, as LLVIP-C and FLIR-C.
Differences:

- only one band is corrupted; lengths are in pixels of the original image, not of an image resized to 224 pixels; values
  are rounded, not truncated;
- at every severity, each octave of the fog has half the weight of the previous octave, and the fog has a larger share
  than at the severity below (ImageNet-C: 1.5, 2, 2.5, 2.5, 3, with rougher clouds);
- darkness is the contrast of ImageNet-C with black instead of the mean as reference;
- shift, dead columns, glare and a missing band are not part of ImageNet-C. The veil of the glare decreases as
  1 / (1 + (distance / radius)^2), the inverse square law of veiling glare far from its source.

The command writes LEVEL/NAME.png for every level and test image, and worse.json.
"""

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.artefacts import read_json, sha256_lines, versions, write_json
from pipeline.images import encode_image
from pipeline.pairs import Pair, add_band_options, find_pairs, given_bands, read_image, read_names, write_image
from pipeline.stage import InputError, Progress, run

REVISION = 1  # increase when the same image, kind and level would give another image

SEVERITIES = ("1", "2", "3", "4", "5")
DESCRIPTION = "worse.json"
GLARE_RADIUS = 0.15  # distance at which the veil has half its strength, as a fraction of the long side
OCTAVES = 7  # octaves of the cloud: from 2 cells per side to 128

Function = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


def shift(image: np.ndarray, pixels: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return an image shifted to the right by `pixels`; the left column fills the gap."""
    return image[:, np.maximum(np.arange(image.shape[1]) - pixels, 0)]


def grey_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image with Gaussian noise, the same in all channels; `deviation` is a fraction of the range."""
    noise = rng.standard_normal(image.shape[:2])
    return _rounded(image + 255 * deviation * (noise if image.ndim == 2 else noise[..., None]))


def colour_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image with Gaussian noise, independent in each channel; `deviation` is a fraction of the range."""
    return _rounded(image + 255 * deviation * rng.standard_normal(image.shape))


def blur(image: np.ndarray, deviation: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return an image after a Gaussian blur, with `deviation` in pixels and mirrored borders."""
    return cv2.GaussianBlur(image, (0, 0), deviation, borderType=cv2.BORDER_REFLECT_101) if deviation else image.copy()


def contrast(image: np.ndarray, factor: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return an image with the difference of each level from the mean multiplied by `factor`."""
    mean = image.mean()
    return _rounded((image - mean) * factor + mean)


def dead_columns(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image with a share of its columns at level 0, at least one column if the share is above 0."""
    corrupted, width = image.copy(), image.shape[1]
    corrupted[:, rng.permutation(width)[: max(round(share * width), 1) if share else 0]] = 0
    return corrupted


def darkness(image: np.ndarray, factor: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return an image with its levels multiplied by `factor`."""
    return _rounded(image * factor)


def glare(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image with a veil of light added, with `strength` times the range at the position of the light."""
    height, width = image.shape[:2]
    y, x = rng.random(2) * (height / 2, width)
    radius = GLARE_RADIUS * max(height, width)
    squared = ((np.arange(height) - y) ** 2)[:, None] + (np.arange(width) - x) ** 2
    veil = 255 * strength / (1 + squared / radius**2)
    return _rounded(image + (veil if image.ndim == 2 else veil[..., None]))


def fog(image: np.ndarray, parts: float, rng: np.random.Generator) -> np.ndarray:
    """Return an image mixed with a cloud: (image + parts * cloud) * m / (m + parts), in 0..1, m the highest level."""
    cloud = plasma(*image.shape[:2], rng)
    levels, most = image / 255, max(int(image.max()), 1) / 255
    mixed = (levels + parts * (cloud if image.ndim == 2 else cloud[..., None])) * most / (most + parts)
    return _rounded(255 * mixed)


def plasma(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a cloud in 0..1, (height, width): octaves of random levels, each with half the weight of the last one."""
    cloud = np.zeros((height, width))
    for octave in range(1, OCTAVES + 1):
        cells = 2**octave
        grid = rng.random((cells + 1, cells + 1))
        (y, below), (x, right) = (_between(side, cells) for side in (height, width))
        rows = grid[y] * (1 - below[:, None]) + grid[y + 1] * below[:, None]
        cloud += (rows[:, x] * (1 - right) + rows[:, x + 1] * right) / cells
    low, high = cloud.min(), cloud.max()
    return (cloud - low) / (high - low) if high > low else cloud


def jpeg(image: np.ndarray, quality: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return an image after JPEG compression with `quality`, with chroma at half the resolution."""
    data = np.frombuffer(encode_image(image, ".jpg", quality), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return decoded if decoded.ndim == 2 else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def missing(image: np.ndarray, instead: str, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return a constant image of the same shape: level 0 for `black`, the image's mean for `grey`."""
    return np.full_like(image, round(float(image.mean())) if instead == "grey" else 0)


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        band: the corrupted band.
        function: corrupts an image, given a value.
        values: the value of each level, mildest first.
        about: description for tables.
    """

    band: str
    function: Function
    values: Mapping[str, Any]
    about: str


def _severities(*values: float) -> dict[str, float]:
    return dict(zip(SEVERITIES, values, strict=True))


_NOISE = _severities(0.08, 0.12, 0.18, 0.26, 0.38)
_FACTORS = _severities(0.4, 0.3, 0.2, 0.1, 0.05)
_MISSING = {word: word for word in ("black", "grey")}

CORRUPTIONS: dict[str, Corruption] = {
    "infrared_shift": Corruption(
        "infrared",
        shift,
        {str(n): n for n in (2, 4, 8, 16)},
        "infrared image shifted to the right by the given number of pixels",
    ),
    "infrared_noise": Corruption("infrared", grey_noise, _NOISE, "Gaussian noise in the infrared image"),
    "infrared_blur": Corruption("infrared", blur, _severities(1, 2, 3, 4, 6), "blurred infrared image"),
    "infrared_contrast": Corruption("infrared", contrast, _FACTORS, "infrared image with low contrast"),
    "infrared_dead_columns": Corruption(
        "infrared", dead_columns, _severities(0.01, 0.02, 0.05, 0.1, 0.2), "dead columns in the infrared image"
    ),
    "visible_darkness": Corruption("visible", darkness, _FACTORS, "darkened visible image"),
    "visible_glare": Corruption("visible", glare, _severities(0.4, 0.6, 0.8, 1, 1.5), "glare in the visible image"),
    "visible_fog": Corruption("visible", fog, _severities(1.5, 2, 2.5, 3, 3.5), "fog in the visible image"),
    "visible_noise": Corruption("visible", colour_noise, _NOISE, "Gaussian noise in the visible image"),
    "visible_jpeg": Corruption(
        "visible", jpeg, _severities(25, 18, 15, 10, 7), "visible image with strong JPEG compression"
    ),
    "visible_missing": Corruption("visible", missing, _MISSING, "visible image missing"),
    "infrared_missing": Corruption("infrared", missing, _MISSING, "infrared image missing"),
}


def corrupt(image: np.ndarray, kind: str, level: str, name: str) -> np.ndarray:
    """Return the corrupted image, uint8 of the same shape.

    Args:
        image: uint8 (H, W) or RGB (H, W, 3).
        kind: a key of CORRUPTIONS.
        level: a level of the kind.
        name: name of the image, which together with the kind determines the random numbers.
    """
    corruption = CORRUPTIONS[kind]
    state = hashlib.sha256(f"{kind} {name}".encode()).digest()
    return corruption.function(image, corruption.values[level], np.random.default_rng(list(state)))


def chosen_levels(kind: str, levels: Sequence[object] | None = None) -> list[str]:
    """Return the chosen levels of a kind in the order of the kind, by default all.

    Raises:
        InputError: the kind or a level does not exist.
    """
    if kind not in CORRUPTIONS:
        raise InputError(f"the kind {kind!r} is unknown; expected one of {', '.join(CORRUPTIONS)}")
    known, asked = list(CORRUPTIONS[kind].values), [str(level) for level in levels or ()]
    if unknown := [level for level in asked if level not in known]:
        raise InputError(f"{kind} has no level {', '.join(unknown)}; expected levels among {', '.join(known)}")
    return [level for level in known if level in asked] if asked else known


def corrupted_pairs(folder: Path, pairs: Sequence[Pair]) -> tuple[dict[str, Any], dict[str, list[Pair]]]:
    """Return the content of worse.json in a folder, and the corrupted pairs by level.

    The corrupted pairs are those of `pairs` that worse.json names, with the files of the corrupted band replaced.

    Raises:
        InputError: worse.json is missing or malformed, or names an image that is not in `pairs`.
    """
    facts = read_description(folder)
    known = {pair.name: pair for pair in pairs}
    if lacking := [name for name in facts["names"] if name not in known]:
        raise InputError(
            f"{folder / DESCRIPTION} names {lacking[0]!r}, which is in no pair; expected the pairs that were corrupted"
        )

    def corrupted(pair: Pair, level: str) -> Pair:
        file = folder / level / f"{pair.name}.png"
        return replace(pair, infrared=file, infrared_range=None) if of_infrared else replace(pair, visible=file)

    of_infrared = facts["band"] == "infrared"
    return facts, {level: [corrupted(known[name], level) for name in facts["names"]] for level in facts["levels"]}


def read_description(folder: Path) -> dict[str, Any]:
    """Read worse.json in a folder; raise InputError if it is missing or lacks a key."""
    facts = read_json(folder / DESCRIPTION)
    for key in ("kind", "band", "levels", "names", "images"):
        if not isinstance(facts, dict) or key not in facts:
            raise InputError(
                f"{folder / DESCRIPTION} lacks the key {key}; expected a file that pipeline.corruptions wrote"
            )
    return facts


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _between(side: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell that contains each of `side` pixels, and the position of the pixel in it, in 0..1."""
    place = np.arange(side) * (cells / max(side, 1))
    cell = np.minimum(place.astype(int), cells - 1)
    return cell, place - cell


def main(argv: Sequence[str] | None = None) -> None:
    """Corrupt the images of one band and write them."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.corruptions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kind", choices=CORRUPTIONS, required=True, help="kind of corruption; its name begins with the band"
    )
    parser.add_argument("--levels", nargs="+", metavar="LEVEL", help="levels of the kind (default: all)")
    parser.add_argument("--visible", type=Path, required=True, nargs="+", help="folders of visible images")
    parser.add_argument("--infrared", type=Path, required=True, nargs="+", help="folders of infrared images")
    add_band_options(parser)
    parser.add_argument("--names", type=Path, help="list of stems, one per line, such as test.txt (default: all pairs)")
    parser.add_argument("--output", type=Path, required=True, help="folder for LEVEL/NAME.png and worse.json")
    options = parser.parse_args(argv)
    levels = chosen_levels(options.kind, options.levels)
    bands = given_bands(options)
    names = read_names(options.names, bands.suffixes) if options.names else None
    pairs = find_pairs(options.visible, options.infrared, names, bands)
    band = CORRUPTIONS[options.kind].band
    digests: dict[str, list[str]] = {level: [] for level in levels}
    progress = Progress(options.kind, len(pairs), "images")
    for pair in pairs:
        image = read_image(getattr(pair, band), pair.infrared_range if band == "infrared" else None)
        for level in levels:
            data = write_image(
                options.output / level / f"{pair.name}.png", corrupt(image, options.kind, level, pair.name)
            )
            digests[level].append(f"{pair.name} {hashlib.sha256(data).hexdigest()}")
        progress.step()
    write_json(
        options.output / DESCRIPTION,
        {
            "kind": options.kind,
            "band": band,
            "levels": levels,
            "names": [pair.name for pair in pairs],
            "images": {level: sha256_lines(lines) for level, lines in digests.items()},
            "revision": REVISION,
            "versions": versions("numpy", "opencv-python-headless"),
        },
    )


if __name__ == "__main__":
    run(main)
