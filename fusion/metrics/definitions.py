"""The metrics: the meaning, formula, range, unit, direction and source of each.

Every public function takes the visible, the infrared and the fused image as arrays, (H, W) or RGB (H, W, 3) of whole
grey levels 0..255, of equal size; colour is converted to luma (`luma`). A and B are the two sources, F is the fused
image. The result is a float, NaN if the metric is undefined (for example a correlation with a constant image). All
functions raise InputError for an array that is not an 8-bit image, for unequal sizes, an unknown convention, or an
image smaller than the metric's window.

To score one image by several metrics, or several images of one pair, `prepare` and `score` are faster, because they
compute shared quantities once.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from fusion.metrics import extra, kernels
from fusion.metrics.comparison import (
    VIF_PADDED,
    VIF_WINDOWS,
    Comparison,
    Sources,
    check_fits,
    compare,
    compared,
)
from fusion.metrics.conventions import Convention
from pipeline.stage import InputError

_LEVELS = np.arange(256)


# --- The paper's four metrics --------------------------------------------------------------------------------------


def mi(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Mutual information between the grey levels of the fused image and of the sources.

    I(F;A) + I(F;B), where I(X;Y) = sum p(x,y) log(p(x,y) / (p(x) p(y))) over the joint counts of whole grey levels.
    Range 0 to twice log(256); in nats (CDDFuse, VIFB) or, in another convention, bits (Linfeng Tang's toolbox); higher
    is better. The plain maximum of the sources scores above most published methods.

    Source: G. Qu, D. Zhang and P. Yan, Information measure for performance of image fusion, 2002.
    """
    return _mi(compared(visible, infrared, fused, convention))


def _mi(comparison: Comparison) -> float:
    first, second = map(_mutual_information, comparison.joints)
    unit = math.log(2) if comparison.sources.convention.mi_unit == "bits" else 1.0
    return _over_sources(first, second, comparison.sources.convention) / unit


def _mutual_information(joint: np.ndarray) -> float:
    occurring = joint > 0
    counts = joint[occurring]
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))[occurring]
    total = joint.sum()
    return float(np.sum(counts * np.log(counts * total / independent)) / total)


def vif(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Visual information fidelity in the pixel domain: how much of the sources' visual information the image keeps.

    v(A,F) + v(B,F), where v = sum log10(1 + g^2 var / (sv + 2)) / sum log10(1 + var / 2) over all pixels of four
    scales; var and var_F are local variances of source and fused image, cov is their covariance, g = cov / var,
    sv = var_F - g cov, and 2 is the variance of visual noise. The window at scale s is a Gaussian of side
    N = 2^(5-s) + 1 and sigma N/5, only where it fits into the image; each further scale is the image filtered by its
    own window and reduced to every second pixel. g = 0 where a variance is below 1e-10 or g is negative. A flat source,
    0/0, counts as 1.
    No unit, 0 to 2 and beyond (v exceeds 1 if the fused image has more contrast than the source); higher is better.
    Needs 41x41 pixels. Implementations that pad with zeros or take images in 0..1 give other numbers.

    Source: H. R. Sheikh and A. C. Bovik, Image information and visual quality, 2006; their pixel-domain version.
    """
    return _vif(compared(visible, infrared, fused, convention))


def _vif(comparison: Comparison) -> float:
    fused = comparison.fused
    kept, total = np.zeros(2), np.zeros(2)  # of the visible and the infrared image, over the scales
    scales = zip(VIF_WINDOWS, VIF_PADDED, comparison.sources.scales, strict=True)
    for scale, (window, padded, (visible, infrared)) in enumerate(scales):
        if scale > 0:
            fused = kernels.smooth_and_halve(fused, window)
        of_visible = (visible.image, visible.mean, visible.variance)
        of_infrared = (infrared.image, infrared.mean, infrared.variance)
        kept += kernels.vif_fused(fused, *of_visible, *of_infrared, *padded)
        total += (visible.information, infrared.information)
    shares = [float(part / whole) if whole > 0 else 1.0 for part, whole in zip(kept, total, strict=True)]
    return _over_sources(*shares, comparison.sources.convention)


def qabf(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Edge preservation: how much of the sources' edges, by strength and direction, the fused image keeps.

    sum(QAF gA + QBF gB) / sum(gA + gB), where Q = Qg Qa, Qg = 0.9994 / (1 + exp(-15 (G - 0.5))),
    Qa = 0.9879 / (1 + exp(-22 (D - 0.8))); g = sqrt(sx^2 + sy^2) and angle = atan(sy / sx), pi/2 where sx = 0, from
    the Sobel windows with zeros around the image; G is the smaller strength divided by the larger, or the strength
    itself where the two are equal; D = 1 - abs(difference of angles) / (pi/2).
    No unit, 0 to 0.987; higher is better; the constants keep Qabf(x, x, x) below 1. NaN if both sources are black.
    Implementations agree on the constants and differ in their treatment of borders and ties.

    Source: C. S. Xydeas and V. Petrovic, Objective image fusion performance measure, 2000.
    """
    return _qabf(compared(visible, infrared, fused, convention))


def _qabf(comparison: Comparison) -> float:
    kept, _, total = comparison.edge_sums
    return kept / total if total > 0 else math.nan


def ssim(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Structural similarity of the fused image and the sources in local mean, contrast and structure.

    s(F,A) + s(F,B), where s is the mean, over the windows that fit into the image, of
    (2 mx my + C1) (2 cov + C2) / ((mx^2 + my^2 + C1) (varx + vary + C2)), C1 = (0.01 L)^2, C2 = (0.03 L)^2.
    Reference convention: 7x7 uniform window, sample (co)variances (N/(N-1)), and L = 2 although levels reach 255, as
    scikit-image 0.19 assumed for float images. Other conventions use L = 255, or the source's 11x11 Gaussian window of
    sigma 1.5 with population (co)variances.
    No unit, -2 to 2; higher is better. Needs 7x7 pixels (11x11).

    Source: Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli, Image quality assessment: from error visibility to
    structural similarity, 2004.
    """
    return _ssim(compared(visible, infrared, fused, convention))


def _ssim(comparison: Comparison) -> float:
    sources, fused = comparison.sources, comparison.fused
    convention = sources.convention
    uniform = convention.ssim_window == "uniform 7x7"
    check_fits(fused, 7 if uniform else 11, "SSIM")
    similarity = kernels.ssim_uniform if uniform else _ssim_gaussian
    c1, c2 = (0.01 * convention.ssim_range) ** 2, (0.03 * convention.ssim_range) ** 2
    return _over_sources(
        similarity(sources.visible, fused, c1, c2), similarity(sources.infrared, fused, c1, c2), convention
    )


def _ssim_gaussian(reference: np.ndarray, distorted: np.ndarray, c1: float, c2: float) -> float:
    window = cv2.getGaussianKernel(11, 1.5)
    x, y = reference.astype(np.float64), distorted.astype(np.float64)
    mx, my, xx, yy, xy = (
        cv2.sepFilter2D(image, cv2.CV_64F, window, window)[5:-5, 5:-5] for image in (x, y, x * x, y * y, x * y)
    )
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return float(np.mean(top / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))))


# --- Metrics of only the fused image -------------------------------------------------------------------------------


def en(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Entropy of the fused image's grey levels: -sum p log2(p) over 256 levels.

    Bits, 0 to 8; higher is better; noise raises it. The sources do not matter.

    Source: J. W. Roberts, J. van Aardt and F. Ahmed, Assessment of image fusion procedures using entropy, image
    quality, and multispectral classification, 2008.
    """
    return _en(compared(visible, infrared, fused, convention))


def _en(comparison: Comparison) -> float:
    share = comparison.histogram[comparison.histogram > 0] / comparison.fused.size
    return float(max(0.0, -np.sum(share * np.log2(share))))


def sd(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Population standard deviation of the fused image: sqrt(mean((F - mean F)^2)).

    Grey levels, 0 to 127.5; higher is better. The sources do not matter.

    Source: Y.-J. Rao, In-fibre Bragg grating sensors, 1997, the reference usual in the literature; the definition is
    the textbook one.
    """
    return _sd(compared(visible, infrared, fused, convention))


def _sd(comparison: Comparison) -> float:
    sums = _sums(comparison.joints[0])
    return math.sqrt(sums.n * sums.yy - sums.y**2) / sums.n


def sf(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Spatial frequency: sqrt(mean of squared horizontal differences + mean of squared vertical differences) of F.

    Grey levels, 0 to 361; higher is better; noise raises it. Needs 2x2 pixels. Each mean is over the existing
    differences; the source divides by the number of all pixels.

    Source: A. M. Eskicioglu and P. S. Fisher, Image quality measures and their performance, 1995.
    """
    return _sf(compared(visible, infrared, fused, convention))


def _sf(comparison: Comparison) -> float:
    check_fits(comparison.fused, 2, "SF")
    height, width = comparison.fused.shape
    horizontal, vertical = kernels.squared_differences(comparison.fused)
    return math.sqrt(horizontal / (height * (width - 1)) + vertical / ((height - 1) * width))


def ag(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Average gradient: mean of sqrt((gx^2 + gy^2) / 2) of F, with central differences, one-sided at the borders.

    Grey levels per pixel, 0 to 255; higher is better; noise raises it. Needs 2x2 pixels. MATLAB toolboxes that use
    forward differences give larger values.

    Source: G. Cui, H. Feng, Z. Xu, Q. Li and Y. Chen, Detail preserved fusion of visible and infrared images using
    regional saliency extraction and multi-scale image decomposition, 2015.
    """
    return _ag(compared(visible, infrared, fused, convention))


def _ag(comparison: Comparison) -> float:
    check_fits(comparison.fused, 2, "AG")
    # With a linearly extrapolated margin, the central difference at the border equals the one-sided difference.
    margin = np.pad(comparison.fused.astype(np.float64), 1, mode="reflect", reflect_type="odd")
    return kernels.gradient_sum(margin) / comparison.fused.size


# --- Correlations and errors ---------------------------------------------------------------------------------------


def scd(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Sum of the correlations of differences: r(F - B, A) + r(F - A, B).

    No unit, -2 to 2; higher is better. NaN if a difference or a source is constant.

    Source: V. Aslantas and E. Bendes, A new image quality metric for image fusion: the sum of the correlations of
    differences, 2015.
    """
    return _scd(compared(visible, infrared, fused, convention))


def _scd(comparison: Comparison) -> float:
    product = _sums(comparison.sources.joint).xy
    visible, infrared = map(_sums, comparison.joints)
    with_visible = _sums_with_difference(visible, infrared, product)
    with_infrared = _sums_with_difference(infrared, visible, product)
    return _correlation(with_visible) + _correlation(with_infrared)


def cc(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Correlation coefficient: the mean of Pearson's r of the fused image with each source.

    No unit, -1 to 1; higher is better. NaN if an image is constant.

    Source: J. Ma, Y. Ma and C. Li, Infrared and visible image fusion methods and applications: a survey, 2019.
    """
    return _cc(compared(visible, infrared, fused, convention))


def _cc(comparison: Comparison) -> float:
    first, second = (_correlation(_sums(joint)) for joint in comparison.joints)
    return (first + second) / 2


def mse(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Mean squared error, averaged over both sources: (mean((A - F)^2) + mean((B - F)^2)) / 2.

    Squared grey levels of 0..255, 0 to 65025; lower is better. Toolboxes that first divide images by 255 give values
    smaller by 255^2; VIFB's `mse` is another quantity.

    Source: J. Ma, Y. Ma and C. Li, Infrared and visible image fusion methods and applications: a survey, 2019.
    """
    return _mse(compared(visible, infrared, fused, convention))


def _mse(comparison: Comparison) -> float:
    first, second = ((s.xx - 2 * s.xy + s.yy) / s.n for s in map(_sums, comparison.joints))
    return (first + second) / 2


def psnr(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Peak signal-to-noise ratio: 10 log10(255^2 / MSE), with the mean squared error of both sources.

    Decibels, 0 upwards, infinite for identical images; higher is better. CDDFuse uses the fused image's own maximum as
    the peak.

    Source: J. Ma, Y. Ma and C. Li, Infrared and visible image fusion methods and applications: a survey, 2019.
    """
    return _psnr(compared(visible, infrared, fused, convention))


def _psnr(comparison: Comparison) -> float:
    error = _mse(comparison)
    return 10 * math.log10(255**2 / error) if error > 0 else math.inf


def nabf(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Fusion artefacts: the share of edge strength that the fused image adds to its sources.

    sum M ((1 - QAF) gA + (1 - QBF) gB) / sum(gA + gB), where M = 1 in pixels whose edge in the fused image is stronger
    than in both sources, else 0; Q and g are defined as in Qabf.
    No unit, 0 to 1; lower is better. NaN if both sources are black.

    Source: B. K. Shreyamsha Kumar, Multifocus and multispectral image fusion based on pixel significance using
    discrete cosine harmonic wavelet transform, 2013, after V. Petrovic and C. Xydeas, 2005; here with Qabf's constants.
    """
    return _nabf(compared(visible, infrared, fused, convention))


def _nabf(comparison: Comparison) -> float:
    _, added, total = comparison.edge_sums
    return added / total if total > 0 else math.nan


# --- All metrics ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A metric of the table: its function on arrays, its function on a `Comparison`, direction, unit and reference."""

    function: Callable[..., float]
    of: Callable[[Comparison], float]
    higher_is_better: bool
    unit: str
    reference: str


METRICS = {
    "MI": Metric(mi, _mi, True, "nats", "Qu et al. 2002"),
    "VIF": Metric(vif, _vif, True, "", "Sheikh and Bovik 2006"),
    "Qabf": Metric(qabf, _qabf, True, "", "Xydeas and Petrovic 2000"),
    "SSIM": Metric(ssim, _ssim, True, "", "Wang et al. 2004"),
    "EN": Metric(en, _en, True, "bits", "Roberts et al. 2008"),
    "SD": Metric(sd, _sd, True, "grey levels", "Rao 1997"),
    "SF": Metric(sf, _sf, True, "grey levels", "Eskicioglu and Fisher 1995"),
    "AG": Metric(ag, _ag, True, "grey levels", "Cui et al. 2015"),
    "SCD": Metric(scd, _scd, True, "", "Aslantas and Bendes 2015"),
    "CC": Metric(cc, _cc, True, "", "Ma et al. 2019"),
    "MSE": Metric(mse, _mse, False, "squared grey levels", "Ma et al. 2019"),
    "PSNR": Metric(psnr, _psnr, True, "dB", "Ma et al. 2019"),
    "Nabf": Metric(nabf, _nabf, False, "", "Shreyamsha Kumar 2013"),
}

# Metrics of `extra`, which are scored only on request.
EXTRA = {
    "QCB": Metric(extra.qcb, extra.qcb_of, True, "", "Chen and Blum 2009"),
    "QCV": Metric(extra.qcv, extra.qcv_of, False, "squared grey levels", "Chen and Varshney 2007"),
    "VIFF": Metric(extra.viff, extra.viff_of, True, "", "Han et al. 2013"),
    "FMI_pixel": Metric(extra.fmi_pixel, extra.fmi_pixel_of, True, "", "Haghighat and Razian 2014"),
    "FMI_gradient": Metric(extra.fmi_gradient, extra.fmi_gradient_of, True, "", "Haghighat and Razian 2014"),
    "NCIE": Metric(extra.ncie, extra.ncie_of, True, "", "Wang et al. 2008"),
    "QP": Metric(extra.qp, extra.qp_of, True, "", "Zhao et al. 2007"),
}

# Raise when a value of METRICS or EXTRA may change: unfinished evaluations of an earlier revision are then not resumed.
REVISION = 2


def score(sources: Sources, fused: np.ndarray, names: Iterable[str] = tuple(METRICS)) -> dict[str, float]:
    """Return the named metrics of a fused image and its sources from `prepare`.

    A metric is NaN if it is undefined or the image is smaller than its window.

    Raises:
        InputError: the fused array is not an 8-bit image, or has another size than the sources.
    """
    comparison = compare(sources, fused)
    return {name: _value_or_nan((METRICS | EXTRA)[name], comparison) for name in names}


def _value_or_nan(metric: Metric, comparison: Comparison) -> float:
    try:
        return metric.of(comparison)
    except InputError:  # the image is smaller than the window; all other errors were raised before
        return math.nan


def _over_sources(first: float, second: float, convention: Convention) -> float:
    return first + second if convention.sources == "sum" else (first + second) / 2


@dataclass(frozen=True)
class _Sums:
    """The number of pixels and the sums of two images' levels, squares and products, exact whole numbers."""

    n: int
    x: int
    y: int
    xx: int
    yy: int
    xy: int


def _sums(joint: np.ndarray) -> _Sums:
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    values = (rows.sum(), rows @ _LEVELS, columns @ _LEVELS, rows @ _LEVELS**2, columns @ _LEVELS**2)
    return _Sums(*map(int, values), xy=int(_LEVELS @ (joint @ _LEVELS)))


def _sums_with_difference(source: _Sums, other: _Sums, product: int) -> _Sums:
    """Return the sums of A and F - B from the sums of A and F and of B and F; `product` is the sum of A B."""
    squares = source.yy - 2 * other.xy + other.xx
    return _Sums(source.n, source.x, source.y - other.x, source.xx, squares, source.xy - product)


def _correlation(sums: _Sums) -> float:
    """Return Pearson's r, NaN if either variance is 0."""
    n = sums.n
    variances = (n * sums.xx - sums.x**2) * (n * sums.yy - sums.y**2)
    return (n * sums.xy - sums.x * sums.y) / math.sqrt(variances) if variances > 0 else math.nan
