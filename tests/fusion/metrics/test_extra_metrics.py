"""The metrics that are scored by name only, against plain transcriptions of their definitions and worked cases."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.signal import convolve2d
from sklearn.metrics import mutual_info_score

from fusion.metrics import EXTRA, fmi_gradient, fmi_pixel, ncie, prepare, qcb, qcv, qp, score, viff
from pipeline.stage import InputError

ROOT = Path(__file__).resolve().parents[3]


def scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth shading, a sharp box, a flat box and sensor noise."""
    y, x = np.mgrid[:height, :width]
    image = 110 + 40 * np.sin(y / rng.uniform(4, 9)) * np.cos(x / rng.uniform(4, 9)) + rng.normal(0, 3, (height, width))
    image[height // 4 : height // 2, width // 3 : width // 2] += 80
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    image[top : top + height // 3, left : left + width // 3] = 40
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.fixture(params=[(50, 61), (48, 64), (45, 52)], ids=str)
def trio(request, rng) -> list[np.ndarray]:
    visible, infrared = scene(rng, *request.param), scene(rng, *request.param)
    fused = np.rint(0.6 * visible + 0.4 * infrared).astype(np.uint8)
    fused[10:20, 30:45] = 77
    return [visible, infrared, fused]


# --- Plain transcriptions ------------------------------------------------------------------------------------------


def frequency(shape: tuple[int, int], degrees: float) -> np.ndarray:
    """Cycles a degree of each frequency, by a loop, 0 in the corner."""
    signed = [[k if k < n - k else k - n for k in range(n)] for n in shape]
    return np.array([[math.sqrt(v * v + u * u) / degrees for u in signed[1]] for v in signed[0]])


def filtered(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.real(np.fft.ifft2(np.fft.fft2(image) * weights))


def window(side: int, sigma: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return np.exp(-(x**2 + y**2) / (2 * sigma**2))


def plain_qcb(visible, infrared, fused):
    r = frequency(fused.shape, 15)
    maps = []
    for image in (visible, infrared, fused):
        image = filtered(image, np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2)))
        narrow = convolve2d(image, window(31, 2) / (2 * math.pi * 2**2), mode="same")
        wide = convolve2d(image, window(31, 4) / (2 * math.pi * 4**2), mode="same")
        c = abs(narrow / wide - 1)
        maps.append(c**3 / (c**2 + 0.0001))
    a, b, f = maps
    kept = [np.where(source < f, source / f, f / source) for source in (a, b)]
    return np.mean((a**2 * kept[0] + b**2 * kept[1]) / (a**2 + b**2))


def plain_qcv(visible, infrared, fused):
    height, width = fused.shape
    r = frequency(fused.shape, 4)
    csf = 2.6 * (0.0192 + 0.144 * r) * np.exp(-((0.144 * r) ** 1.1))
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    top = bottom = 0.0
    for source in (visible, infrared):
        continued = np.pad(source, 1, mode="edge")
        g = np.hypot(convolve2d(continued, sobel, mode="valid"), convolve2d(continued, sobel.T, mode="valid"))
        d = filtered(source - fused, csf)
        for y in range(0, height, 16):
            for x in range(0, width, 16):
                part = np.s_[y : y + 16, x : x + 16]
                saliency = (g[part] ** 5).sum()
                top += saliency * (d[part] ** 2).sum() / 256
                bottom += saliency
    return top / bottom


def plain_viff(visible, infrared, fused):
    total, images, noise = 0.0, [visible, infrared, fused], 0.005 * 255 * 255
    for scale, weight in zip((1, 2, 3, 4), (1, 0, 0.15, 1), strict=True):
        side = 2 ** (5 - scale) + 1
        kernel = window(side, side / 5) / window(side, side / 5).sum()

        def smooth(image: np.ndarray, kernel: np.ndarray = kernel) -> np.ndarray:
            return convolve2d(image, kernel, mode="valid")

        if scale > 1:
            images = [smooth(image)[::2, ::2] for image in images]
        f = images[2] - 100
        var_f = smooth(f * f) - smooth(f) ** 2
        carried = []
        for source in images[:2]:
            x = source - 100
            var = smooth(x * x) - smooth(x) ** 2
            cov = smooth(x * f) - smooth(x) * smooth(f)
            g = np.where((var < 1e-10) | (var_f < 1e-10) | (cov < 0), 0, cov / (np.maximum(var, 0) + 1e-10))
            var = np.where(var < 1e-10, 0, var)
            sv = np.maximum(var_f - g * cov, 1e-10)
            carried.append((g, np.log10(1 + g * g * var / (sv + noise)), np.log10(1 + var / noise)))
        top = bottom = 0.0
        for (ga, va, ua), (gb, vb, ub) in zip(*[zip(*map(np.ravel, one), strict=True) for one in carried], strict=True):
            top += (va if ga < gb else vb) + 1e-7
            bottom += (ua if ga < gb else ub) + 1e-7
        total += weight / 2.15 * top / bottom
    return total


def plain_fmi_of_windows(x: np.ndarray, y: np.ndarray) -> float:
    """2 I / (H + H) of two windows by the whole joint distribution of 9x9 places."""
    if np.ptp(x) == 0 and np.ptp(y) == 0:
        return 1.0
    p, q = (
        np.full(9, 1 / 9) if np.ptp(w) == 0 else (w - w.min()) / (w - w.min()).sum() for w in (x.T.ravel(), y.T.ravel())
    )
    entropies = [-np.sum(s[s > 0] * np.log2(s[s > 0])) for s in (p, q)]
    if sum(entropies) == 0:
        return 1.0
    r = np.corrcoef(p, q)[0, 1] if np.ptp(x) and np.ptp(y) else 0.0
    place = np.arange(1, 10)
    sd = [math.sqrt(max(np.sum(place**2 * s) - np.sum(place * s) ** 2, 0)) for s in (p, q)]
    cumulative = np.cumsum(p)[:, None], np.cumsum(q)[None, :]
    product = cumulative[0] * cumulative[1]
    bound = np.minimum(*cumulative) if r > 0 else np.maximum(cumulative[0] + cumulative[1] - 1, 0)
    gap = np.sum(bound - product)
    t = 0.0 if abs(gap) < 1e-12 else min(r * sd[0] * sd[1] / gap, 1.0)
    joint = np.diff(np.diff(np.pad(t * bound + (1 - t) * product, ((1, 0), (1, 0))), axis=0), axis=1)
    joint = joint[joint > 1e-15]
    return 2 * (sum(entropies) + np.sum(joint * np.log2(joint))) / sum(entropies)


def plain_fmi(visible, infrared, fused):
    values = [
        plain_fmi_of_windows(source[y : y + 3, x : x + 3], fused[y : y + 3, x : x + 3])
        for source in (visible, infrared)
        for y in range(fused.shape[0] - 2)
        for x in range(fused.shape[1] - 2)
    ]
    return np.mean(values)


def gradients(images):
    return [np.sqrt(np.gradient(image, axis=0) ** 2 + np.gradient(image, axis=1) ** 2) for image in images]


def plain_ncie(*images):
    matrix = np.eye(3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        matrix[i, j] = matrix[j, i] = mutual_info_score(images[i].ravel(), images[j].ravel()) / math.log(256)
    values = np.linalg.eigvals(matrix) / 3
    return 1 + sum(value * math.log(value) / math.log(256) for value in values)


def plain_phase(image):
    """Congruency and moments with whole filters, their inverse transforms and the covariance's eigenvalues."""
    height, width = image.shape
    v, u = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    radius, theta = np.sqrt(u**2 + v**2), np.arctan2(-v, u)
    radius[0, 0] = 1
    low = 1 / (1 + (radius / 0.45) ** 30)
    energies, amplitudes, covariance = 0, 0, np.zeros((height, width, 2, 2))
    for orientation in range(6):
        angle = orientation * math.pi / 6
        off = np.arctan2(np.sin(theta - angle), np.cos(theta - angle))
        filters = []
        for scale in range(4):
            one = np.exp(-(np.log(radius * 3 * 2.1**scale) ** 2) / (2 * math.log(0.55) ** 2)) * low
            one = one * np.exp(-(off**2) / (2 * (math.pi / 6 / 1.2) ** 2))
            one[0, 0] = 0
            filters.append(one)
        responses = np.array([np.fft.ifft2(np.fft.fft2(image) * one) for one in filters])
        spatial = np.array([np.real(np.fft.ifft2(one)) * math.sqrt(height * width) for one in filters])
        power = -np.median(abs(responses[0]) ** 2) / math.log(0.5) / np.sum(filters[0] ** 2)
        cross = sum(np.sum(spatial[i] * spatial[j]) for i in range(4) for j in range(i + 1, 4))
        tau = math.sqrt((2 * power * np.sum(spatial**2) + 4 * power * cross) / 2)
        threshold = (tau * math.sqrt(math.pi / 2) + 2 * math.sqrt((2 - math.pi / 2) * tau**2)) / 1.7
        mean = responses.sum(axis=0)
        mean = mean / (abs(mean) + 1e-4)
        cosine = responses.real * mean.real + responses.imag * mean.imag
        sine = responses.real * mean.imag - responses.imag * mean.real
        amplitude = abs(responses).sum(axis=0)
        breadth = amplitude / (abs(responses).max(axis=0) + 1e-4) / 4
        energy = np.maximum((cosine - abs(sine)).sum(axis=0) - threshold, 0) / (1 + np.exp(10 * (0.5 - breadth)))
        energies, amplitudes = energies + energy, amplitudes + amplitude
        along = np.array([math.cos(angle), math.sin(angle)])
        covariance += ((energy / (amplitude + 1e-4)) ** 2)[..., None, None] * np.outer(along, along) / 3
    low, high = np.moveaxis(np.linalg.eigvalsh(covariance), -1, 0)
    return energies / (amplitudes + 1e-4), high + 5e-5, low - 5e-5


def plain_qp(visible, infrared, fused):
    a, b, f = map(plain_phase, (visible, infrared, fused))
    ahead = a[0] > b[0]
    largest = [np.where(ahead, x, y) for x, y in zip(a, b, strict=True)]
    masks = [one[0] > 0.1 for one in (a, b, largest)]
    kernel = window(11, 1.5) / window(11, 1.5).sum()

    def smooth(image: np.ndarray) -> np.ndarray:
        return convolve2d(image, kernel, mode="same")

    result = 1.0
    for k in range(3):
        y, correlations = f[k], []
        for source, mask in zip((a, b, largest), masks, strict=True):
            x = source[k] * mask
            cov = smooth(x * y) - smooth(x) * smooth(y)
            variances = (smooth(x * x) - smooth(x) ** 2) * (smooth(y * y) - smooth(y) ** 2)
            correlations.append(np.where(mask, (cov + 1e-4) / (np.sqrt(np.maximum(variances, 0)) + 1e-4), 0))
        result *= np.max(correlations, axis=0).sum() / masks[2].sum()
    return result


PLAIN = {
    "QCB": plain_qcb,
    "QCV": plain_qcv,
    "VIFF": plain_viff,
    "FMI_pixel": plain_fmi,
    "FMI_gradient": lambda *images: plain_fmi(*gradients(images)),
    "NCIE": plain_ncie,
    "QP": plain_qp,
}


@pytest.mark.parametrize("name", EXTRA)
def test_each_equals_a_plain_transcription_of_its_definition(name, trio):
    expected = PLAIN[name](*(image.astype(np.float64) for image in trio))
    assert math.isfinite(expected)
    assert EXTRA[name].function(*trio) == pytest.approx(expected, rel=1e-6)


# --- Worked cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"), [("QCB", 1), ("QCV", 0), ("VIFF", 1), ("FMI_pixel", 1), ("FMI_gradient", 1)]
)
def test_identical_images_have_the_best_value(name, expected, trio):
    assert EXTRA[name].function(trio[0], trio[0], trio[0]) == pytest.approx(expected, abs=1e-9)


def test_identical_images_of_all_levels_are_wholly_dependent():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert ncie(ramp, ramp, ramp) == pytest.approx(1)
    assert ncie(ramp // 128, ramp // 128, ramp // 128) == pytest.approx(1 - entropy_of_equals(1 / 8))


def entropy_of_equals(correlation: float) -> float:
    """Of the eigenvalues 1 + 2 c, 1 - c, 1 - c, to the base 256."""
    shares = np.array([1 + 2 * correlation, 1 - correlation, 1 - correlation]) / 3
    return float(-np.sum(shares * np.log(shares)) / math.log(256))


def test_independent_images_have_the_least_ncie():
    rows, columns = np.indices((16, 16)).astype(np.uint8)
    both = rows[::-1] ^ columns  # independent of either
    assert ncie(rows, columns, both) == pytest.approx(1 - math.log(3) / math.log(256))


def test_identical_images_do_not_reach_one_by_phase_congruency(trio):
    assert 0.5 < qp(trio[0], trio[0], trio[0]) < 1


def test_qp_is_the_same_at_any_contrast(trio):
    half = [image // 2 * 2 for image in trio]
    assert qp(*[image // 2 for image in half]) == pytest.approx(qp(*half), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in EXTRA if name != "VIFF"])
def test_sources_may_change_places(name, trio):
    visible, infrared, fused = trio
    function = EXTRA[name].function
    assert function(infrared, visible, fused) == pytest.approx(function(visible, infrared, fused), rel=1e-9)


def test_fmi_of_a_worked_window():
    """Shares 0, 1/2 and 1/2 at two places, against the same turned round: they run against each other."""
    first, second = np.zeros((2, 3, 3), np.uint8)
    first[0, 0] = first[1, 0] = 10  # places 1 and 2
    second[1, 2] = second[2, 2] = 10  # places 8 and 9
    # Correlation -2/7, sd 1/2 each; of the bound the gap is -1/4: t = 2/7. The joint shares are 5/28 twice and 9/28
    # twice.
    joint = -2 * (5 / 28 * math.log2(5 / 28) + 9 / 28 * math.log2(9 / 28))
    assert fmi_pixel(first, first, second) == pytest.approx(2 - joint)


@pytest.mark.parametrize("level", [1, 100, 255])
def test_constant_images(level, trio):
    flat = np.full_like(trio[0], level)
    assert {name for name in EXTRA if math.isnan(EXTRA[name].function(flat, flat, flat))} == {"QCB", "QCV", "QP"}
    assert viff(flat, flat, flat) == pytest.approx(1)
    assert fmi_pixel(flat, flat, flat) == fmi_gradient(flat, flat, flat) == 1
    assert ncie(flat, flat, flat) == pytest.approx(1 - math.log(3) / math.log(256))
    assert math.isnan(qp(*trio[:2], flat))
    assert viff(*trio[:2], flat) < 1e-3
    assert 0 <= qcb(*trio[:2], flat) < qcb(*trio)
    assert qcv(*trio[:2], flat) > qcv(*trio)
    for metric in EXTRA.values():  # one of the sources flat: defined
        assert math.isfinite(metric.function(trio[0], flat, trio[2]))


def test_directions():
    assert [name for name, metric in EXTRA.items() if not metric.higher_is_better] == ["QCV"]


# --- Interface -----------------------------------------------------------------------------------------------------


def test_score_gives_what_the_functions_give(trio):
    for convention in ("reference", "stretch"):
        scores = score(prepare(trio[0], trio[1], convention), trio[2], EXTRA)
        assert scores == {name: m.function(*trio, convention=convention) for name, m in EXTRA.items()}


@pytest.mark.parametrize(("name", "smallest"), [("VIFF", 41), ("FMI_pixel", 3), ("FMI_gradient", 3)])
def test_an_image_smaller_than_the_window_is_refused(name, smallest, rng):
    just_fits, too_small = (rng.integers(0, 256, (60, n), dtype=np.uint8) for n in (smallest, smallest - 1))
    assert math.isfinite(EXTRA[name].function(just_fits, just_fits, just_fits))
    with pytest.raises(InputError, match=f"at least {smallest}x{smallest}; this one is {smallest - 1}x60"):
        EXTRA[name].function(too_small, too_small, too_small)


def test_the_configuration_knows_their_names():
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text("utf-8"))
    assert schema["properties"]["metrics"]["properties"]["extra"]["items"]["enum"] == list(EXTRA)
