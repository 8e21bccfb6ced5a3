"""The metrics against independent packages, the plain reference, worked cases and the field's published values."""

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import metrics_reference as plain
import numpy as np
import pandas as pd
import pytest
from skimage.metrics import structural_similarity
from sklearn.metrics import mutual_info_score

from fusion.metrics import (
    CONVENTIONS,
    METRICS,
    ag,
    cc,
    en,
    luma,
    mi,
    mse,
    nabf,
    prepare,
    psnr,
    qabf,
    scd,
    score,
    sd,
    sf,
    ssim,
    vif,
)
from pipeline.pairs import find_images, read_image
from pipeline.stage import InputError

PAPER = {"MI": mi, "VIF": vif, "Qabf": qabf, "SSIM": ssim}
CLOSE = {"rel": 1e-6, "abs": 1e-12}


def smooth_scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blobs, a sharp box, a flat box and sensor noise, so that every branch of the definitions is met."""
    y, x = np.mgrid[:height, :width]
    image = sum(
        rng.uniform(-80, 80) * np.exp(-((y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2) / s**2)
        for s in rng.uniform(4, 30, 12)
    )
    image = image + 110 + rng.normal(0, 3, (height, width))
    image[height // 4 : height // 2, width // 3 : width // 2] += 90
    image[-height // 3 :, : width // 3] = 40
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.fixture
def trio(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    visible, infrared = smooth_scene(rng, 91, 150), smooth_scene(rng, 91, 150)
    fused = np.rint(0.6 * visible + 0.4 * infrared).astype(np.uint8)
    fused[10:40, 100:140] = 77
    return visible, infrared, fused


def as_floats(images: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return [image.astype(np.float64) for image in images]


# --- The reference convention --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("shape", [(41, 41), (45, 300), (210, 52), (129, 145)])
def test_paper_metrics_equal_the_plain_reference_at_any_size(name, shape, rng):
    trio = smooth_scene(rng, *shape), smooth_scene(rng, *shape), smooth_scene(rng, *shape)
    assert PAPER[name](*trio) == pytest.approx(plain.PAPER[name](*as_floats(trio)), **CLOSE)


def test_metrics_of_the_fused_image_equal_the_plain_reference(trio):
    for name, function in {"EN": plain.en, "SD": plain.sd, "SF": plain.sf, "AG": plain.ag}.items():
        assert METRICS[name].function(*trio) == pytest.approx(function(trio[2].astype(np.float64)), rel=1e-12)
    assert scd(*trio) == pytest.approx(plain.scd(*as_floats(trio)), rel=1e-12)


def test_published_fused_images_have_the_published_scores(shared):
    """96 images of three data sets: the reference evaluator's own numbers, to 1e-6."""
    table = pd.read_csv(shared / "data/reference_metrics.csv", dtype={"name": str})
    folders = {"TNO": ("vi", "ir"), "RoadScene": ("vi", "ir"), "MRI_CT": ("CT", "MRI")}
    for dataset, rows in table.groupby("dataset"):
        visible, infrared = (find_images(shared / "data/fusion_test" / dataset / kind) for kind in folders[dataset])
        fused = find_images(shared / "data/reference_fused/FNet" / dataset)
        assert len(rows) == len(fused)
        for row in rows.to_dict("records"):
            sources = prepare(read_image(visible[row["name"]]), read_image(infrared[row["name"]]))
            scores = score(sources, read_image(fused[row["name"]]))
            for metric in ("MI", "VIF", "Qabf", "SSIM", "EN", "SD", "SF", "AG", "SCD"):
                assert scores[metric] == pytest.approx(row[metric], rel=1e-6), (dataset, row["name"], metric)


HOSTILE = {
    "black": lambda rng: np.zeros((60, 70), np.uint8),
    "white": lambda rng: np.full((60, 70), 255, np.uint8),
    "constant": lambda rng: np.full((60, 70), 101, np.uint8),
    "checkerboard": lambda rng: (np.indices((60, 70)).sum(0) % 2 * 255).astype(np.uint8),
    "halves": lambda rng: np.repeat([[0, 255]], 35, axis=1).repeat(60, axis=0).astype(np.uint8),
    "one bright pixel": lambda rng: np.pad(np.full((1, 1), 255, np.uint8), ((30, 29), (40, 29))),
    "stripes": lambda rng: np.tile(np.array([[0, 255, 255]], np.uint8), (60, 24))[:, :70],
    "noise": lambda rng: rng.integers(0, 256, (60, 70), dtype=np.uint8),
    "two levels of noise": lambda rng: rng.integers(0, 2, (60, 70), dtype=np.uint8) * 255,
    "scene": lambda rng: smooth_scene(rng, 60, 70),
}


@pytest.mark.parametrize("fused", HOSTILE)
@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_images_score_as_in_the_plain_reference(source, fused, rng):
    visible, infrared, image = HOSTILE[source](rng), HOSTILE["scene"](rng), HOSTILE[fused](rng)
    for trio in ((visible, infrared, image), (visible, visible, image), (visible, image, image)):
        for name, function in PAPER.items():
            expected = plain.PAPER[name](*as_floats(trio))
            assert function(*trio) == pytest.approx(expected, **CLOSE, nan_ok=True), name


# --- Independent packages ------------------------------------------------------------------------------------------


def test_mutual_information_is_in_nats_and_summed_over_sources(trio):
    visible, infrared, fused = (image.ravel() for image in trio)
    expected = mutual_info_score(visible, fused) + mutual_info_score(infrared, fused)
    assert mi(*trio) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("convention", "data_range"), [("reference", 2), ("range-255", 255)])
def test_ssim_is_that_of_scikit_image(trio, convention, data_range):
    visible, infrared, fused = as_floats(trio)
    expected = sum(structural_similarity(source, fused, data_range=data_range) for source in (visible, infrared))
    assert ssim(*trio, convention=convention) == pytest.approx(expected, rel=1e-9)


def test_gaussian_ssim_is_that_of_scikit_image(trio):
    visible, infrared, fused = as_floats(trio)
    expected = sum(
        structural_similarity(
            source, fused, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for source in (visible, infrared)
    )
    assert ssim(*trio, convention="gaussian") == pytest.approx(expected, rel=1e-9)


def test_correlation_is_that_of_numpy(trio):
    visible, infrared, fused = (image.ravel() for image in trio)
    expected = (np.corrcoef(visible, fused)[0, 1] + np.corrcoef(infrared, fused)[0, 1]) / 2
    assert cc(*trio) == pytest.approx(expected, rel=1e-12)


def test_squared_error_and_its_peak_ratio_are_of_both_sources(trio):
    visible, infrared, fused = as_floats(trio)
    expected = (np.mean((visible - fused) ** 2) + np.mean((infrared - fused) ** 2)) / 2
    assert mse(*trio) == pytest.approx(expected, rel=1e-12)
    assert psnr(*trio) == pytest.approx(10 * np.log10(255**2 / expected), rel=1e-12)


def test_artefacts_are_counted_where_the_fused_edge_is_strongest(trio):
    visible, infrared, fused = as_floats(trio)
    (ga, aa), (gb, ab), (gf, af) = plain.edges(visible), plain.edges(infrared), plain.edges(fused)
    lost = (1 - plain.edge_quality(ga, aa, gf, af)) * ga + (1 - plain.edge_quality(gb, ab, gf, af)) * gb
    expected = lost[(gf > ga) & (gf > gb)].sum() / (ga + gb).sum()
    assert nabf(*trio) == pytest.approx(expected, rel=1e-6)


# --- Worked cases --------------------------------------------------------------------------------------------------


def test_mutual_information_of_an_image_with_itself_is_its_entropy():
    image = np.array([[0, 0, 7, 255]], np.uint8)  # entropy 1.5 bits
    assert mi(image, image, image) == pytest.approx(2 * 1.5 * math.log(2))
    assert mi(image, image, image, convention="bits") == pytest.approx(3)
    assert en(image, image, image) == pytest.approx(1.5)


def test_a_constant_fused_image_tells_nothing(trio):
    visible, infrared, _ = trio
    constant = np.full_like(visible, 128)
    assert mi(visible, infrared, constant) == 0
    assert vif(visible, infrared, constant) == 0
    assert en(visible, infrared, constant) == 0
    assert sd(visible, infrared, constant) == 0


@pytest.mark.parametrize("level", range(0, 256, 15))
def test_a_flat_image_of_any_level_has_no_variance(level):
    flat = np.full((130, 150), level, np.uint8)
    assert vif(flat, flat, flat) == 2
    assert ssim(flat, flat, flat) == 2
    assert ag(flat, flat, flat) == sf(flat, flat, flat) == sd(flat, flat, flat) == 0


def test_identical_images_are_wholly_faithful(trio):
    visible = trio[0]
    assert vif(visible, visible, visible) == pytest.approx(2, rel=1e-9)
    assert ssim(visible, visible, visible) == pytest.approx(2, rel=1e-12)
    assert cc(visible, visible, visible) == pytest.approx(1)
    assert psnr(visible, visible, visible) == math.inf
    assert nabf(visible, visible, visible) == 0


def test_gradients_of_a_ramp_are_its_slope():
    ramp = np.tile(np.arange(0, 50, 5, dtype=np.uint8), (6, 1))
    assert ag(ramp, ramp, ramp) == pytest.approx(5 / math.sqrt(2))
    assert sf(ramp, ramp, ramp) == pytest.approx(5)


def test_black_sources_have_no_edges_to_keep_and_all_their_information_is_kept():
    black = np.zeros((50, 50), np.uint8)
    assert math.isnan(qabf(black, black, black))
    assert math.isnan(nabf(black, black, black))
    assert math.isnan(cc(black, black, black))
    assert math.isnan(scd(black, black, black))
    assert vif(black, black, black) == 2


def test_scd_is_two_where_the_fused_image_is_the_sum_of_its_sources(rng):
    visible, infrared = (rng.integers(0, 128, (20, 30), dtype=np.uint8) for _ in range(2))
    assert scd(visible, infrared, visible + infrared) == pytest.approx(2)


def test_luma_is_rounded_after_weighing_in_float32():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]]], np.uint8)
    assert luma(colours).tolist() == [[76, 150, 29, 18]]
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(luma(np.repeat(grey[..., None], 3, axis=2)), grey)


def test_luma_is_that_of_the_reference_s_order_on_every_processor():
    """Among every third level of each channel, 26 colours get another level in the order R, G, B."""
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(86 * 86, 86, 3)
    digest = "56f7d0b221ad84b3e9328d32a8e78fdd183e5d73127b2b4d6dbfce22c1980923"
    assert hashlib.sha256(luma(colours).tobytes()).hexdigest() == digest
    if cv2.checkHardwareSupport(12):  # CV_CPU_FMA3: with it OpenCV adds as here, but for what is left over of a row
        rows = colours.reshape(-1, 3)[: 9938 * 64].reshape(9938, 64, 3)
        converted = cv2.cvtColor(rows[..., ::-1].astype(np.float32), cv2.COLOR_BGR2GRAY)
        assert np.array_equal(luma(rows), np.rint(converted))


@pytest.mark.slow
def test_luma_of_the_colour_test_sets_is_the_reference_evaluators(shared):
    for folder in ("MRI_PET/PET", "MRI_SPECT/SPECT", "NIR/VIS"):
        for file in sorted((shared / "data/fusion_test" / folder).iterdir()):
            converted = cv2.cvtColor(cv2.imread(str(file)).astype(np.float32), cv2.COLOR_BGR2GRAY)
            different = np.count_nonzero(luma(read_image(file)) != np.rint(converted))
            assert different == 0 or not cv2.checkHardwareSupport(12), file.name


# --- Interface -----------------------------------------------------------------------------------------------------


def test_score_gives_what_the_functions_give(trio):
    for convention in CONVENTIONS:
        scores = score(prepare(trio[0], trio[1], convention), trio[2])
        assert list(scores) == list(METRICS)
        for name, metric in METRICS.items():
            assert scores[name] == metric.function(*trio, convention=convention), (name, convention)


def test_sources_serve_many_fused_images(trio):
    visible, infrared, fused = trio
    sources = prepare(visible, infrared)
    first = score(sources, fused)
    score(sources, visible)
    assert score(sources, fused) == first


def test_colour_and_float_arrays_of_whole_levels_score_as_their_luma(trio):
    visible, infrared, fused = trio
    in_colour = [np.repeat(image[..., None], 3, axis=2) for image in trio]
    for name, metric in METRICS.items():
        assert metric.function(*as_floats(trio)) == metric.function(*trio), name
        assert metric.function(*in_colour) == metric.function(visible, infrared, fused), name


def test_means_halve_the_sums(trio):
    for function in (mi, vif, ssim):
        assert function(*trio, convention="means") == pytest.approx(function(*trio) / 2, rel=1e-12)


def test_stretch_spans_all_levels_first(trio):
    narrow = [(image // 2 + 30).astype(np.uint8) for image in trio]
    wide = []
    for image in narrow:
        low, high = float(image.min()), float(image.max())
        wide.append(np.rint((image - low) * 255 / (high - low)).astype(np.uint8))
    for name, metric in METRICS.items():
        assert metric.function(*narrow, convention="stretch") == pytest.approx(metric.function(*wide)), name


def test_paper_metrics_come_first():
    assert list(METRICS)[:4] == ["MI", "VIF", "Qabf", "SSIM"]
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["MSE", "Nabf"]


@pytest.mark.parametrize(
    ("function", "smallest"), [(vif, 41), (ssim, 7), (sf, 2), (ag, 2)], ids=["vif", "ssim", "sf", "ag"]
)
def test_an_image_smaller_than_the_window_is_refused(function, smallest, rng):
    just_fits, too_small = (rng.integers(0, 256, (60, n), dtype=np.uint8) for n in (smallest, smallest - 1))
    assert math.isfinite(function(just_fits, just_fits, just_fits))
    with pytest.raises(InputError, match=f"at least {smallest}x{smallest}; this one is {smallest - 1}x60"):
        function(too_small, too_small, too_small)


def test_one_pixel_wide_images_have_the_metrics_without_windows(rng):
    visible, infrared, fused = rng.integers(0, 256, (3, 50, 1), dtype=np.uint8)
    scores = score(prepare(visible, infrared), fused)
    assert {name for name, value in scores.items() if math.isnan(value)} == {"VIF", "SSIM", "SF", "AG"}
    for name in ("MI", "Qabf"):
        assert scores[name] == pytest.approx(plain.PAPER[name](*as_floats((visible, infrared, fused))), **CLOSE)


def test_other_values_than_grey_levels_are_refused(trio):
    visible, infrared, fused = trio
    with pytest.raises(InputError, match=r"has the value 0\.5; expected whole grey levels 0\.\.255"):
        mi(visible, infrared, np.full(fused.shape, 0.5))
    with pytest.raises(InputError, match="has the value -1"):
        mi(visible, infrared, np.full(fused.shape, -1))
    with pytest.raises(InputError, match="has the value nan"):
        mi(visible, infrared, np.full(fused.shape, np.nan))
    with pytest.raises(InputError, match=r"has the shape \(91, 150, 4\); expected an image"):
        mi(visible, infrared, np.zeros((91, 150, 4), np.uint8))


def test_unequal_sizes_are_refused(trio):
    visible, infrared, fused = trio
    with pytest.raises(InputError, match="the infrared image is 149x91, expected 150x91"):
        ssim(visible, infrared[:, 1:], fused)
    with pytest.raises(InputError, match="the fused image is 150x90, expected 150x91"):
        ssim(visible, infrared, fused[1:])


def test_an_unknown_convention_is_refused(trio):
    with pytest.raises(InputError, match="unknown convention 'nat'; expected one of reference, bits"):
        mi(*trio, convention="nat")


def test_every_convention_describes_itself_differently():
    assert len({convention.describe() for convention in CONVENTIONS.values()}) == len(CONVENTIONS)


def test_importing_the_metrics_imports_no_torch_no_detector_no_workflow():
    code = (
        "import sys\n"
        "from fusion.metrics import METRICS, mi, vif, qabf, ssim\n"
        "print({'torch', 'ultralytics', 'snakemake'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_metrics_work_where_no_cache_can_be_written(tmp_path):
    """A read-only installation without a home folder must only compile again, not fail."""
    code = (
        "import numpy as np, numba.core.caching as caching\n"
        "caching = getattr(caching, 'CacheImpl', None) or caching._CacheImpl\n"  # its name before a change in numba
        "caching._locator_classes = []\n"  # what a read-only package and home leave
        "from fusion.metrics import mi\n"
        "image = np.arange(16, dtype=np.uint8).reshape(4, 4)\n"
        "print(mi(image, image, image))"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert float(done.stdout) == pytest.approx(2 * math.log(16))
