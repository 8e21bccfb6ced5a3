"""Quantities that several metrics of a fused image share, computed at most once: histograms, local moments, edges.

`Sources` has the quantities of a pair's two sources, which are the same for every image fused from them; `Comparison`
adds those of one fused image. Each quantity is computed at its first use.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fusion.metrics import kernels
from fusion.metrics.conventions import Convention, find_convention
from fusion.metrics.images import luma, stretched
from fusion.metrics.perception import masked_contrast
from fusion.metrics.phase import Features, phase_congruency
from pipeline.stage import InputError


def half_gaussian(side: int, sigma: float) -> tuple[float, ...]:
    """Return the weights of a normalised Gaussian window of odd `side`, from its centre outwards."""
    half = np.exp(-(np.arange(side // 2 + 1) ** 2) / (2 * sigma**2))
    return tuple(float(weight) for weight in half / (half[0] + 2 * half[1:].sum()))


# VIF's windows at scales 1..4: side 17, 9, 5, 3, sigma a fifth of the side.
VIF_WINDOWS = tuple(half_gaussian(side, side / 5) for side in (17, 9, 5, 3))
# The same windows, zero-padded to the lengths that `kernels` is compiled for, and half of each window's side.
VIF_PADDED = [(window + (0.0,) * (len(VIF_WINDOWS[1]) - len(window)), len(window) - 1) for window in VIF_WINDOWS]
VIF_SMALLEST = 41  # side of the smallest image in which every window fits at its scale


@dataclass(frozen=True)
class SourceScale:
    """One source at one scale of VIF: the image, its local means and variances, and the sum of its information."""

    image: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    information: float


@dataclass(frozen=True)
class EdgeMap:
    """Squared edge strength and edge angle of each pixel of an image, and the sum of strengths."""

    strength: np.ndarray
    angle: np.ndarray
    total: float


@dataclass(frozen=True)
class Sources:
    """A pair's sources as uint8 luma of one shape, with the quantities that every fused image is compared with.

    Built by `prepare`. Concurrent threads should not share an instance, because they could compute a quantity twice.
    """

    visible: np.ndarray
    infrared: np.ndarray
    convention: Convention

    @cached_property
    def joint(self) -> np.ndarray:
        """Counts of (visible, infrared) grey levels, int64 (256, 256)."""
        return kernels.joint_histogram(self.visible, self.infrared)

    @cached_property
    def edges(self) -> tuple[EdgeMap, EdgeMap]:
        """Edges of visible and infrared."""
        return edge_map(self.visible), edge_map(self.infrared)

    @cached_property
    def scales(self) -> tuple[tuple[SourceScale, SourceScale], ...]:
        """Visible and infrared at VIF's four scales."""
        check_fits(self.visible, VIF_SMALLEST, "VIF")
        return tuple(zip(source_scales(self.visible), source_scales(self.infrared), strict=True))

    @cached_property
    def contrasts(self) -> tuple[np.ndarray, np.ndarray]:
        """Masked contrast of visible and infrared (Chen and Blum)."""
        return masked_contrast(self.visible), masked_contrast(self.infrared)

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """Phase congruency of visible and infrared."""
        return phase_congruency(self.visible), phase_congruency(self.infrared)


@dataclass(frozen=True)
class Comparison:
    """A fused image, uint8 luma, with its sources."""

    sources: Sources
    fused: np.ndarray = field(repr=False)

    @cached_property
    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts of (visible, fused) and of (infrared, fused) grey levels, int64 (256, 256)."""
        visible, infrared = self.sources.visible, self.sources.infrared
        return kernels.joint_histogram(visible, self.fused), kernels.joint_histogram(infrared, self.fused)

    @cached_property
    def histogram(self) -> np.ndarray:
        """Counts of the fused image's grey levels, int64 (256,)."""
        return self.joints[0].sum(axis=0)

    @cached_property
    def edge_sums(self) -> tuple[float, float, float]:
        """Sums of the edge strength that is preserved, that is added, and of the sources (Xydeas and Petrovic)."""
        visible, infrared = self.sources.edges
        kept, added = kernels.edge_preservation(
            np.pad(self.fused, 1), visible.strength, visible.angle, infrared.strength, infrared.angle
        )
        return kept, added, visible.total + infrared.total


def prepare(visible: np.ndarray, infrared: np.ndarray, convention: str = "reference") -> Sources:
    """Return a pair's sources, to score any number of fused images with `score(sources, fused)`.

    Raises:
        InputError: an array is not an 8-bit image, the two differ in size, or the convention is unknown.
    """
    chosen = find_convention(convention)
    visible, infrared = _luma_in(visible, chosen), _luma_in(infrared, chosen)
    _check_same_size(infrared, visible, "infrared")
    return Sources(visible, infrared, chosen)


def compare(sources: Sources, fused: np.ndarray) -> Comparison:
    """Return the comparison of a fused image with its sources; raises InputError as `prepare` does."""
    fused = _luma_in(fused, sources.convention)
    _check_same_size(fused, sources.visible, "fused")
    return Comparison(sources, fused)


def compared(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str) -> Comparison:
    """Return the comparison of a fused image with its sources in a convention; raises InputError as `prepare` does."""
    return compare(prepare(visible, infrared, convention), fused)


def check_fits(image: np.ndarray, smallest: int, metric: str) -> None:
    """Raise InputError if an image is too small for a metric's window."""
    height, width = image.shape
    if min(height, width) < smallest:
        raise InputError(f"{metric} needs images of at least {smallest}x{smallest}; this one is {width}x{height}")


def edge_map(image: np.ndarray) -> EdgeMap:
    """Return the Sobel edges of a uint8 image, zero-padded."""
    return EdgeMap(*kernels.edge_maps(np.pad(image, 1)))


def source_scales(image: np.ndarray) -> list[SourceScale]:
    """Return an image at VIF's four scales, with its local moments."""
    scales = []
    for window, padded in zip(VIF_WINDOWS, VIF_PADDED, strict=True):
        if scales:
            image = kernels.smooth_and_halve(image, window)
        scales.append(SourceScale(image, *kernels.vif_source(image, *padded)))
    return scales


def _luma_in(image: np.ndarray, convention: Convention) -> np.ndarray:
    image = luma(np.asarray(image))
    return stretched(image) if convention.stretch else image


def _check_same_size(image: np.ndarray, visible: np.ndarray, band: str) -> None:
    if image.shape != visible.shape:
        (h, w), (hv, wv) = image.shape, visible.shape
        raise InputError(f"the {band} image is {w}x{h}, expected {wv}x{hv} like the visible one")
