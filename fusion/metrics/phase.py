"""Phase congruency: features are places where the frequencies of an image are in phase, at any amplitude.

Source: P. Kovesi, Phase congruency detects corners and edges, 2003, with the constants of his program: log-Gabor
filters at 4 scales, whose wavelength begins at 3 pixels and grows by a factor of 2.1, and at 6 orientations.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import fft

from pipeline.compiled import announce, compiled

announce(__name__, "the kernel of phase congruency", 2)

SCALES, ORIENTATIONS = 4, 6
SHORTEST, FACTOR = 3.0, 2.1  # wavelength of the first scale in pixels, and its growth from each scale to the next
BANDWIDTH = 0.55  # -log of this is the standard deviation of a filter's log frequency
ANGLE = math.pi / ORIENTATIONS / 1.2  # standard deviation of a filter's angle
HIGHEST, ORDER = 0.45, 15  # cut-off of the Butterworth low-pass filter in cycles per pixel, and its order
NOISE = 2.0  # energy up to this many standard deviations above the mean of noise counts as noise
CUT, GAIN = 0.5, 10.0  # of the sigmoid weight, which suppresses features of few frequencies
EPS = 1e-4  # avoids division by 0


class Features(NamedTuple):
    """The phase congruency of each pixel, and the largest and the smallest moment of its covariance over orientations.

    Arrays (H, W); the largest moment is the strength of edges, the smallest that of corners.
    """

    congruency: np.ndarray
    edges: np.ndarray
    corners: np.ndarray


def phase_congruency(image: np.ndarray) -> Features:
    """Return the phase congruency of an image (H, W) of grey levels with periodic borders."""
    radial, angle = _filters(image.shape)
    spectrum = fft.fft2(image.astype(np.float64))
    energies, amplitudes, xx, yy, xy = np.zeros((5, *image.shape))
    for orientation in range(ORIENTATIONS):
        turn = orientation * math.pi / ORIENTATIONS
        distance = angle - turn
        distance[distance < -math.pi] += 2 * math.pi
        filters = radial * np.exp(-(distance**2) / (2 * ANGLE**2))
        energy, amplitude = _energy(spectrum, filters)
        energies += energy
        amplitudes += amplitude
        squared = (energy / (amplitude + EPS)) ** 2 * (2 / ORIENTATIONS)
        xx += squared * math.cos(turn) ** 2
        yy += squared * math.sin(turn) ** 2
        xy += squared * math.sin(turn) * math.cos(turn)
    spread = np.sqrt(4 * xy**2 + (xx - yy) ** 2) + EPS
    return Features(energies / (amplitudes + EPS), (xx + yy + spread) / 2, (xx + yy - spread) / 2)


def _filters(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the radial factor of the filters (SCALES, H, W), and the angle (H, W) of each frequency."""
    down, across = fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])[None, :]
    radius = np.hypot(down, across)
    radius[0, 0] = 1  # avoids log(0); the filters are set to 0 there
    passed = 1 / (1 + (radius / HIGHEST) ** (2 * ORDER))
    wavelengths = SHORTEST * FACTOR ** np.arange(SCALES)
    logs = np.log(radius * wavelengths[:, None, None])
    radial = passed * np.exp(-(logs**2) / (2 * math.log(BANDWIDTH) ** 2))
    radial[:, 0, 0] = 0
    return radial, np.arctan2(-down, across)


def _energy(spectrum: np.ndarray, filters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted, noise-reduced energy (H, W) of one orientation's responses, and the sum of amplitudes."""
    # The real and the imaginary part are the responses to the even and the odd filter.
    responses = np.stack([fft.ifft2(spectrum * one) for one in filters])
    return _weighted(responses, _noise(responses[0], filters))


@compiled
def _weighted(responses: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = responses.shape[1:]
    energy, amplitude = np.empty((height, width)), np.empty((height, width))
    for y in range(height):
        for x in range(width):
            total = largest = even = odd = 0.0
            for scale in range(SCALES):
                response = responses[scale, y, x]
                magnitude = math.sqrt(response.real**2 + response.imag**2)
                total += magnitude
                largest = max(largest, magnitude)
                even += response.real
                odd += response.imag
            length = math.sqrt(even * even + odd * odd) + EPS
            even, odd = even / length, odd / length
            in_phase = -noise
            for scale in range(SCALES):  # amplitude times (cos - |sin|) of the deviation from the mean phase
                response = responses[scale, y, x]
                in_phase += response.real * even + response.imag * odd
                in_phase -= abs(response.real * odd - response.imag * even)
            share = total / (largest + EPS) / SCALES
            energy[y, x] = in_phase / (1 + math.exp((CUT - share) * GAIN)) if in_phase > 0 else 0.0
            amplitude[y, x] = total
    return energy, amplitude


def _noise(response: np.ndarray, filters: np.ndarray) -> float:
    """Return the noise threshold of the energy, estimated from the median power of the smallest scale's response."""
    power = np.median(response.real**2 + response.imag**2) / math.log(2) / np.sum(filters[0] ** 2)
    # By Parseval's theorem, this is the sum over pixels of the squared sum of the even filters.
    total = filters.sum(axis=0)
    mirrored = np.roll(total[::-1, ::-1], 1, axis=(0, 1))
    expected = 2 * power * np.sum(((total + mirrored) / 2) ** 2)
    tau = math.sqrt(expected / 2)
    # 1.7 is Kovesi's empirical correction: the threshold was derived for another measure of congruency, and is too high
    # for this one.
    return (tau * math.sqrt(math.pi / 2) + NOISE * tau * math.sqrt(2 - math.pi / 2)) / 1.7
