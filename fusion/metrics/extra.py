"""Metrics of common toolboxes that are scored only on request: formula, range, direction and source of each.

Arguments, errors and NaN are as in `definitions`. The papers leave details open, most often the borders. Each docstring
states the choices made here, which mostly follow the source code of public MATLAB programs. None of these programs was
run, and the values are not claimed to equal theirs. For QCB, QCV and NCIE these programs first stretch each image to
0..255, as the convention `stretch` does. The sum or the mean over both sources is a part of each definition here; no
convention changes it.
"""

import math

import cv2
import numpy as np

from fusion.metrics.comparison import Comparison, check_fits, compared
from fusion.metrics.perception import (
    masked_contrast,
    sensitivity_filtered,
    sensitivity_of_mannos_and_sakrison,
    window_sums,
)
from fusion.metrics.phase import Features, phase_congruency
from fusion.metrics.windows import feature_information

# --- Metrics of human perception -----------------------------------------------------------------------------------


def qcb(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Contrast preservation: how much of the sources' perceived local contrast the fused image keeps.

    Mean over pixels of wA QAF + wB QBF, where Q is the smaller of two masked contrasts divided by the larger (0/0
    counts as 1) and wA = CA^2 / (CA^2 + CB^2) (0/0 counts as 1/2), wB = 1 - wA. An image's masked contrast is
    C = c^3 / (c^2 + 0.0001), c = abs((G2 * I) / (G4 * I) - 1), where G2 and G4 are Gaussians of sigma 2 and 4, and I
    is the image filtered by the contrast sensitivity exp(-(r / 15.3870)^2) - 0.7622 exp(-(r / 1.3456)^2), r in cycles
    per degree.
    No unit, 0 to 1; higher is better; 1 for three identical images. NaN if both sources are constant.

    The paper leaves open the viewing distance, the Gaussians' windows and the border, and offers several filters and
    constants. Chosen: the image spans 15 degrees in each direction, the windows are 31x31 and not normalised, zeros
    surround the image, and the filter and the constants are those above.

    Source: Y. Chen and R. S. Blum, A new automated quality assessment algorithm for image fusion, 2009.
    """
    return qcb_of(compared(visible, infrared, fused, convention))


def qcb_of(comparison: Comparison) -> float:
    """Return QCB of a comparison."""
    if np.count_nonzero(comparison.sources.joint) == 1:  # both are constant
        return math.nan
    first, second = comparison.sources.contrasts
    fused = masked_contrast(comparison.fused)
    a, b = first**2, second**2
    weight = np.divide(a, a + b, out=np.full_like(a, 0.5), where=a + b > 0)
    return float(
        np.mean(weight * _smaller_over_larger(first, fused) + (1 - weight) * _smaller_over_larger(second, fused))
    )


def _smaller_over_larger(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    larger = np.maximum(first, second)
    return np.divide(np.minimum(first, second), larger, out=np.ones_like(larger), where=larger > 0)


def qcv(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Perceived difference between the fused image and the sources, weighted by the sources' edges.

    sum(lA DA + lB DB) / sum(lA + lB) over adjacent windows of 16x16 pixels: l is the sum of a source's Sobel edge
    strengths to the power 5; D is the mean square of source - F filtered by the contrast sensitivity
    2.6 (0.0192 + 0.144 r) exp(-(0.144 r)^1.1), r in cycles per degree.
    Squared grey levels, 0 upwards; lower is better; 0 for three identical images. NaN if both sources are constant.

    The paper leaves open the power, the viewing distance and the borders, and offers three sensitivities. Chosen: power
    5, the image spans 4 degrees in each direction, the sensitivity of Mannos and Sakrison, replicated borders for the
    Sobel windows, and zero padding of the last windows of 16 at the right and the bottom. Public programs also
    zero-pad for the Sobel windows. The frame of the image is then an edge as strong as its brightness and gets nearly
    all the weight (86 to 100 % on six pairs of TNO), which cannot be intended; their values differ from these.

    Source: H. Chen and P. K. Varshney, A human perception inspired quality metric for image fusion based on regional
    information, 2007.
    """
    return qcv_of(compared(visible, infrared, fused, convention))


def qcv_of(comparison: Comparison) -> float:
    """Return QCV of a comparison."""
    sources, fused = comparison.sources, comparison.fused.astype(np.float64)
    weighted = total = 0.0
    for image in (sources.visible, sources.infrared):
        across, down = (
            cv2.Sobel(image, cv2.CV_64F, *order, borderType=cv2.BORDER_REPLICATE) for order in ((1, 0), (0, 1))
        )
        saliency = window_sums((across**2 + down**2) ** 2.5, 16)
        difference = sensitivity_filtered(image - fused, sensitivity_of_mannos_and_sakrison, degrees=4)
        weighted += np.sum(saliency * window_sums(difference**2, 16)) / 16**2
        total += np.sum(saliency)
    return float(weighted / total) if total > 0 else math.nan


def viff(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Visual information fidelity for fusion: how much of the more informative source the fused image keeps.

    sum over scales of p_s sum(V + e) / sum(U + e), p = (1, 0, 0.15, 1) / 2.15, e = 1e-7. V = log10(1 + g^2 var /
    (sv + n)) and U = log10(1 + var / n) are computed for the source that has the smaller g in the pixel, for infrared
    if both g are equal. Windows, scales, g and sv are as in VIF; the noise n is 0.005 x 255^2.
    No unit, 0 to 1 and beyond (added contrast raises it); higher is better; 1 for three identical images and for flat
    images. The value changes if the sources are exchanged, because many pixels have g = 0 for both. Needs 41x41 pixels.

    The paper states blocks, weights and noise. Windows, e and the choice for equal g are from its authors' program,
    which takes colour images in CIE Lab; here luma is used.

    Source: Y. Han, Y. Cai, Y. Cao and X. Xu, A new image fusion performance metric based on visual information
    fidelity, 2013.
    """
    return viff_of(compared(visible, infrared, fused, convention))


_VIFF_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)
_VIFF_NOISE = 0.005 * 255**2


def viff_of(comparison: Comparison) -> float:
    """Return VIFF of a comparison."""
    sources = comparison.sources
    check_fits(comparison.fused, 41, "VIFF")
    # Subtracting a constant reduces rounding errors: the variances of flat parts stay below 1e-10.
    images = [image.astype(np.float64) - 128 for image in (sources.visible, sources.infrared, comparison.fused)]
    total = 0.0
    for scale, weight in enumerate(_VIFF_WEIGHTS):
        side = 2 ** (4 - scale) + 1
        window = cv2.getGaussianKernel(side, side / 5)
        if scale > 0:
            images = [_smoothed(image, window)[::2, ::2] for image in images]
        if weight:
            total += weight * _fidelity(*images, window)
    return total


def _fidelity(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, window: np.ndarray) -> float:
    mean = _smoothed(fused, window)
    variance = np.maximum(_smoothed(fused**2, window) - mean**2, 0)
    gains, kept, available = [], [], []
    for source in (visible, infrared):
        source_mean = _smoothed(source, window)
        source_variance = np.maximum(_smoothed(source**2, window) - source_mean**2, 0)
        covariance = _smoothed(source * fused, window) - source_mean * mean
        gain = covariance / (source_variance + 1e-10)
        gain[(source_variance < 1e-10) | (variance < 1e-10) | (gain < 0)] = 0
        source_variance[source_variance < 1e-10] = 0
        rest = np.maximum(variance - gain * covariance, 1e-10)
        gains.append(gain)
        kept.append(np.log10(1 + gain**2 * source_variance / (rest + _VIFF_NOISE)))
        available.append(np.log10(1 + source_variance / _VIFF_NOISE))
    first = gains[0] < gains[1]
    return float(np.sum(np.where(first, *kept) + 1e-7) / np.sum(np.where(first, *available) + 1e-7))


def _smoothed(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    half = len(window) // 2
    return cv2.sepFilter2D(image, cv2.CV_64F, window, window)[half:-half, half:-half]


# --- Metrics of information ----------------------------------------------------------------------------------------


def fmi_pixel(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Feature mutual information of grey levels between small windows of the fused image and of the sources.

    Mean over all 3x3 windows inside the image of (J(A,F) + J(B,F)) / 2, J(X,Y) = 2 I(X;Y) / (H(X) + H(Y)). A window is
    interpreted as a distribution of the place 1..9, column by column: p_i = (x_i - min) / sum(x - min), or 1/9 each if
    it is constant. The joint distribution of X and Y has the cumulative distribution function t M + (1 - t) P Q, where
    P and Q are the cumulative distribution functions of X and Y, M is min(P, Q) if the correlation r is positive and
    max(P + Q - 1, 0) if it is negative, and t = r sd(X) sd(Y) / sum(M - P Q) with the standard deviations sd of the
    place. J is 1 if both windows are constant, 0 if one is, and 1 if neither has entropy.
    No unit, 0 to 1; higher is better; 1 for three identical images and for constant images. Needs 3x3 pixels.

    r is the correlation of the shares p and q, not of the places, so that t could exceed 1; it is limited to 1 here,
    because probabilities would become negative. The papers also do not define J for constant windows and for windows
    without entropy.

    Source: M. Haghighat and M. A. Razian, Fast-FMI: non-reference image fusion metric, 2014, after M. B. A. Haghighat,
    A. Aghagolzadeh and H. Seyedarabi, A non-reference image fusion metric based on mutual information of image
    features, 2011; the joint distribution is R. B. Nelsen's, 1987.
    """
    return fmi_pixel_of(compared(visible, infrared, fused, convention))


def fmi_pixel_of(comparison: Comparison) -> float:
    """Return FMI of grey levels of a comparison."""
    check_fits(comparison.fused, 3, "FMI")
    return feature_information(*(image.astype(np.float64) for image in _images(comparison)))


def fmi_gradient(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Feature mutual information of gradients between small windows of the fused image and of the sources.

    `fmi_pixel` of the gradient magnitudes sqrt(gx^2 + gy^2), with central differences, one-sided at the borders.
    No unit, 0 to 1; higher is better; 1 for three identical images and for constant images. Needs 3x3 pixels.

    The papers do not define the gradient. The authors' program reportedly uses only the horizontal derivative, which
    does not respond to horizontal edges, and gives other values.

    Source: as for `fmi_pixel`.
    """
    return fmi_gradient_of(compared(visible, infrared, fused, convention))


def fmi_gradient_of(comparison: Comparison) -> float:
    """Return FMI of gradients of a comparison."""
    check_fits(comparison.fused, 3, "FMI")
    return feature_information(*(np.hypot(*np.gradient(image.astype(np.float64))) for image in _images(comparison)))


def _images(comparison: Comparison) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return comparison.sources.visible, comparison.sources.infrared, comparison.fused


def ncie(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Nonlinear correlation information entropy: the mutual dependence of the two sources and the fused image.

    1 + sum (l / 3) log256(l / 3) over the eigenvalues l of the 3x3 matrix with 1 on the diagonal and the images'
    nonlinear correlations H(X) + H(Y) - H(X,Y) elsewhere, with logarithms to the base 256, over whole grey levels.
    No unit, 0.8019 (independent, or constant images) to 1; higher is better. The correlation of an image with itself
    depends on its entropy and is 1 only if all 256 levels are equally frequent: identical images score below 1.

    The measure is defined for ranked data in any number of groups. The 2008 chapter on fusion uses the grey levels as
    groups, and 256 also as the base of the outer logarithm. With base 3 there, the range would be 0 to 1.

    Source: Q. Wang, Y. Shen and J. Jin, Performance evaluation of image fusion techniques, 2008, after Q. Wang, Y. Shen
    and J. Q. Zhang, A nonlinear correlation measure for multivariable data set, 2005.
    """
    return ncie_of(compared(visible, infrared, fused, convention))


def ncie_of(comparison: Comparison) -> float:
    """Return NCIE of a comparison."""
    sources = _nonlinear_correlation(comparison.sources.joint)
    visible, infrared = map(_nonlinear_correlation, comparison.joints)
    matrix = np.array([[1, sources, visible], [sources, 1, infrared], [visible, infrared, 1]])
    return 1 - _entropy(np.maximum(np.linalg.eigvalsh(matrix), 0) / 3)


def _nonlinear_correlation(joint: np.ndarray) -> float:
    share = joint / joint.sum()
    return _entropy(share.sum(axis=0)) + _entropy(share.sum(axis=1)) - _entropy(share)


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-np.sum(share * np.log(share)) / math.log(256))


# --- Metrics of features -------------------------------------------------------------------------------------------


def qp(visible: np.ndarray, infrared: np.ndarray, fused: np.ndarray, convention: str = "reference") -> float:
    """Phase congruency: how well the fused image's edges and corners, at any contrast, correlate with the sources'.

    The product of three means, for phase congruency and for the largest and the smallest moment of its covariance. Each
    is the mean of max(r(A,F), r(B,F), r(M,F)) over the pixels where A's or B's congruency exceeds 0.1; M has in each
    pixel the values of the source with the larger congruency. r = (cov + 0.0001) / (sd sd + 0.0001) is local, in a
    Gaussian window of 11x11 and sigma 1.5 with zeros around the image. The values of a source (also of M), and r, are
    set to 0 where its congruency is at most 0.1.
    No unit, at most 1, above 0 in practice; higher is better. Below 1 for three identical images, because the windows
    of the fused image include its weak features. NaN if no source has a feature or the fused image is constant.
    Where the fused image is flat, the constants make r nearly 1: the score of a blurred image is too high.

    The paper leaves open the filters, the threshold, the window and its border, the constant in r, and the exponents
    of the three factors, which are 1 here. The filters are those of `phase`. The moments are Kovesi's corrected ones;
    public programs use an earlier version, in which the mixed moment has a quarter of the weight.

    Source: J. Zhao, R. Laganiere and Z. Liu, Performance assessment of combinative pixel-level image fusion based on an
    absolute feature measurement, 2007.
    """
    return qp_of(compared(visible, infrared, fused, convention))


def qp_of(comparison: Comparison) -> float:
    """Return QP of a comparison."""
    visible, infrared = comparison.sources.features
    fused = phase_congruency(comparison.fused)
    larger_in_visible = visible.congruency > infrared.congruency
    larger = Features(*(np.where(larger_in_visible, a, b) for a, b in zip(visible, infrared, strict=True)))
    masks = [source.congruency > 0.1 for source in (visible, infrared, larger)]
    count = np.count_nonzero(masks[2])
    if count == 0 or np.count_nonzero(comparison.histogram) == 1:
        return math.nan
    product = 1.0
    for *sources, image in zip(visible, infrared, larger, fused, strict=True):
        followed = [_local_correlation(a * mask, image) * mask for a, mask in zip(sources, masks, strict=True)]
        product *= np.sum(np.maximum.reduce(followed)) / count
    return float(product)


def _local_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    window = cv2.getGaussianKernel(11, 1.5)
    x, y, xx, yy, xy = (
        cv2.sepFilter2D(image, cv2.CV_64F, window, window, borderType=cv2.BORDER_CONSTANT)
        for image in (first, second, first * first, second * second, first * second)
    )
    spread = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
    return (xy - x * y + 1e-4) / (spread + 1e-4)
