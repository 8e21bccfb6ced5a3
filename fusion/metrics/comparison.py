"""What the metrics of one fused image share, computed at most once: histograms, local moments, edges.

`Sources` holds the share of a pair's two sources, the same for every image fused from them; `Comparison` adds one
fused image. Each quantity is computed when it is first asked for.
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
    """Return a normalised Gaussian window of odd `side` from its centre outwards."""
    half = np.exp(-(np.arange(side // 2 + 1) ** 2) / (2 * sigma**2))
    return tuple(float(weight) for weight in half / (half[0] + 2 * half[1:].sum()))


# VIF's windows at scales 1..4: side 17, 9, 5, 3, sigma a fifth of it.
VIF_WINDOWS = tuple(half_gaussian(side, side / 5) for side in (17, 9, 5, 3))
# The same, filled up with zeros to the lengths that `kernels` is compiled for, and each window's half side.
VIF_FILLED = [(window + (0.0,) * (len(VIF_WINDOWS[1]) - len(window)), len(window) - 1) for window in VIF_WINDOWS]
VIF_SMALLEST = 41  # the side of the smallest image in which every window fits once at its scale


@dataclass(frozen=True)
class SourceScale:
    """One source at one scale of VIF: the image, its local means and variances, the sum of its information."""

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
    """A pair's sources as uint8 luma of one shape, and what every image fused from them is compared with.

    Built by `prepare`. Not to be shared by threads that run at the same time: they would compute the same twice.
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
    """A fused image, uint8 luma, beside its sources."""

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
        """Edge strength that was kept, that was added, and that the sources have (Xydeas and Petrovic)."""
        visible, infrared = self.sources.edges
        kept, added = kernels.edge_preservation(
            np.pad(self.fused, 1), visible.strength, visible.angle, infrared.strength, infrared.angle
        )
        return kept, added, visible.total + infrared.total


def prepare(visible: np.ndarray, infrared: np.ndarray, convention: str = "reference") -> Sources:
    """Return a pair's sources, ready to compare any number of fused images with: `score(sources, fused)`.

    Raises:
        InputError: an array is no 8-bit image, the two differ in size, or the convention is unknown.
    """
    chosen = find_convention(convention)
    visible, infrared = _as_seen(visible, chosen), _as_seen(infrared, chosen)
    _check_same_size(infrared, visible, "infrared")
    return Sources(visible, infrared, chosen)


def compare(sources: Sources, fused: np.ndarray) -> Comparison:
    """Return a fused image beside its sources; InputError as for `prepare`."""
    fused = _as_seen(fused, sources.convention)
    _check_same_size(fused, sources.visible, "fused")
    return Comparison(sources, fused)


def compared(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str) -> Comparison:
    """Return a fused image beside its sources, seen by a convention; InputError as for `prepare`."""
    return compare(prepare(visible, infrared, convention), fused)


def check_fits(image: np.ndarray, smallest: int, metric: str) -> None:
    """Raise InputError where an image is too small for a metric's window."""
    height, width = image.shape
    if min(height, width) < smallest:
        raise InputError(f"{metric} needs images of at least {smallest}x{smallest}; this one is {width}x{height}")


def edge_map(image: np.ndarray) -> EdgeMap:
    """Return the Sobel edges of a uint8 image, with zeros around it."""
    return EdgeMap(*kernels.edge_maps(np.pad(image, 1)))


def source_scales(image: np.ndarray) -> list[SourceScale]:
    """Return an image at VIF's four scales, with its local moments there."""
    scales = []
    for window, filled in zip(VIF_WINDOWS, VIF_FILLED, strict=True):
        if scales:
            image = kernels.smooth_and_halve(image, window)
        scales.append(SourceScale(image, *kernels.vif_source(image, *filled)))
    return scales


def _as_seen(image: np.ndarray, convention: Convention) -> np.ndarray:
    image = luma(np.asarray(image))
    return stretched(image) if convention.stretch else image


def _check_same_size(image: np.ndarray, visible: np.ndarray, what: str) -> None:
    if image.shape != visible.shape:
        (h, w), (hv, wv) = image.shape, visible.shape
        raise InputError(f"the {what} image is {w}x{h}, expected {wv}x{hv} like the visible one")
