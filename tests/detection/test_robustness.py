"""Detectors on worse images: which images they are shown, what each variant loses, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import detections

from detection import losses, robustness
from detection.accumulation import number_scenes, scene_boxes
from detection.average_precision import score
from detection.comparison import match_all, names_in_order
from detection.images import read_input
from detection.intervals import bootstrap, describe
from detection.late import pool
from detection.losses import UNCORRUPTED, describe_losses
from detection.robustness import corrupted_data
from detection.test import predict
from detection.variant import read_data
from fusion import fuse
from pipeline import corruptions
from pipeline.artefacts import read_json, sha256_json, write_json
from pipeline.pairs import read_image, write_image
from pipeline.stage import InputError


class Blocks(torch.nn.Module):
    """A detector that knows the tiny set: one box around what is brighter than 200."""

    def forward(self, pixels):
        found = []
        for image in pixels:
            ys, xs = torch.where(image.max(0).values > 200 / 255)
            x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
            box = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            found.append(torch.tensor([*box, 0.5, 0, 0, 0, 0, 0])[:, None])
        return torch.stack(found), None


def worsen(tiny, output, kind, *levels):
    where = ["--visible", tiny / "m3fd/Vis", "--infrared", tiny / "m3fd/Ir", "--names", tiny / "split/test.txt"]
    corruptions.main([str(word) for word in ("--kind", kind, "--levels", *levels, *where, "--output", output)])
    return output


def test_a_bands_detector_is_shown_every_level_and_boxes_stay_those_of_the_images_as_they_are(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(robustness, "read_trained", lambda *_: (Blocks(), 96, {"seed": 3}, {}))
    worse = worsen(tiny, tmp_path / "worse", "infrared_shift", 4, 8)
    (tmp_path / "weights.pt").write_text("weights")
    words = ["--data", tiny / "infrared/data.yaml", "--weights", tmp_path / "weights.pt", "--worse", worse]
    where = ["--output", tmp_path / "out", "--device", "cpu", "--threads", "1"]
    robustness.main([str(word) for word in (*words, *where)])
    tested = read_json(tmp_path / "out/tested.json")
    assert (tested["kind"], tested["levels"], list(tested["weights"])) == ("infrared_shift", ["4", "8"], ["3"])
    clean = predict(Blocks(), read_data(tiny / "infrared/data.yaml", "test"), "cpu", 96, 4, 0.001, 0.7, 100)
    assert len(clean) == 4
    for pixels in (4, 8):
        found = read_json(tmp_path / f"out/{pixels}/seed3/predictions.json")
        assert tested["predictions"][str(pixels)] == {"3": sha256_json(found)}
        for before, after in zip(clean, found, strict=True):
            x, y, width, height = before["bbox"]
            left, right = min(x + pixels, 96), min(x + width + pixels, 96)
            assert after["bbox"] == [left, y, right - left, height]


def test_a_fused_variant_is_shown_what_its_method_makes_of_the_worse_pairs(tiny, tmp_path):
    worse = worsen(tiny, tmp_path / "worse", "visible_missing", "black")
    where = ["--visible", tiny / "m3fd/Vis", "--infrared", tiny / "m3fd/Ir", "--worse", worse]
    how = ["--method", "average", "--device", "cpu", "--output", tmp_path / "fused"]
    fuse.main([str(word) for word in (*where, *how)])
    data, facts = read_data(tiny / "visible/data.yaml", "test"), corruptions.read_description(worse)
    fused = replace(data, variant="average")
    shown = corrupted_data(fused, worse, facts, "black", tmp_path / "fused")
    name = facts["names"][0]
    image, infrared = read_image(shown.images[name]), read_image(tiny / f"m3fd/Ir/{name}.png")
    # Colour as decided by the pairs as they are: the luma of black is 16 in studio range, its chroma neutral.
    luma = np.rint((16 + infrared.astype(float)) / 2)
    assert np.abs(image - np.clip((luma - 16) * 255 / 219, 0, 255)[..., None]).max() <= 2
    with pytest.raises(InputError, match="average without --fused; expected --fused for fused variants"):
        corrupted_data(fused, worse, facts, "black")
    with pytest.raises(InputError, match="visible with --fused"):
        corrupted_data(data, worse, facts, "black", tmp_path / "fused")
    write_image(tmp_path / f"fused/black/{name}.png", image[::-1])
    with pytest.raises(
        InputError,
        match="contains other images than its manifest lists, or images of another kind than visible_missing",
    ):
        corrupted_data(fused, worse, facts, "black", tmp_path / "fused")


@pytest.mark.parametrize("kind", ["infrared_missing", "visible_missing"])
def test_a_detector_that_fuses_itself_is_shown_one_band_worse_and_the_other_as_it_is(tiny, tmp_path, kind):
    worse = worsen(tiny, tmp_path / "worse", kind, "black")
    visible, infrared = (read_data(tiny / f"{band}/data.yaml", "test") for band in ("visible", "infrared"))
    inside = {"variant": "stacked", "inside": "stacked", "infrared": infrared.images}
    data = replace(visible, **inside, infrared_sha256=infrared.sha256)
    shown = corrupted_data(data, worse, corruptions.read_description(worse), "black")
    image = data.truth["images"][0]
    wanted = read_input(data, image)
    wanted[..., 3 if kind.startswith("infrared") else slice(0, 3)] = 0
    assert np.array_equal(read_input(shown, image), wanted)
    other = visible if kind.startswith("infrared") else infrared
    with pytest.raises(InputError, match=f"which {other.variant} does not see; expected"):
        corrupted_data(other, worse, corruptions.read_description(worse), "black")


@pytest.fixture
def made_up(tmp_path, rng):
    """Two seeds of four variants as they are and with infrared worse: of those that see it fnet loses least."""
    truth, _ = detections(rng, images=40)
    write_json(tmp_path / "truth.json", truth)
    facts = {"image_size": 64, "confidence": 0.001, "nms_iou": 0.7, "max_detections": 100}
    qualities = {"visible": (0.6,), "infrared": (0.8, 0.1, 0.05), "fnet": (0.9, 0.85, 0.8), "late": (0.7,)}
    paths = {}
    for variant, by_level in qualities.items():
        for seed in (0, 1):
            for level, quality in zip(("clean", "4", "16"), by_level, strict=False):
                file = tmp_path / f"{variant}/{level}/seed{seed}/predictions.json"
                write_json(file, found_in(truth, quality, np.random.default_rng([seed, len(variant)])))
                ap = {"provenance": {**facts, "weights": f"{variant} {seed}"}}
                write_json(file.with_name("ap.json"), ap)
                paths[variant, level, seed] = file
        if len(by_level) > 1:
            write_json(
                tmp_path / variant / "tested.json",
                {
                    **{"variant": variant, "kind": "infrared_shift", "band": "infrared", "levels": ["4", "16"]},
                    "predictions": {
                        level: {str(s): sha256_json(read_json(paths[variant, level, s])) for s in (0, 1)}
                        for level in ("4", "16")
                    },
                    "weights": {str(seed): f"{variant} {seed}" for seed in (0, 1)},
                    "provenance": facts,
                },
            )
    return tmp_path, truth, paths


def found_in(truth, quality, rng):
    """Return detections that find each box with a probability, and as many false ones."""
    found = []
    for a in truth["annotations"]:
        box = np.array(a["bbox"]) if rng.random() < quality else rng.uniform(10, 60, 4)
        box = [float(v) for v in np.abs(box + rng.normal(0, 1, 4))]
        found.append({**{k: a[k] for k in ("image_id", "category_id")}, "bbox": box, "score": float(rng.random())})
    return found


def measure(made_up, *options, tested=("infrared", "fnet")):
    folder, _, paths = made_up
    words = [f"{variant}/{seed}={file}" for (variant, level, seed), file in paths.items() if level == "clean"]
    given = ["--truth", folder / "truth.json", "--predictions", *words, "--samples", 200, *options]
    folders = [folder / variant for variant in tested]
    losses.main([str(word) for word in (*given, "--tested", *folders, "--output", folder / "losses.json")])
    return read_json(folder / "losses.json")


def test_losses_are_those_of_pycocotools_and_the_intervals_those_of_table_two(made_up):
    _, truth, paths = made_up
    found = measure(made_up)["variants"]

    def average(variant, level):
        seeds = [np.nanmean(score(truth, read_json(paths[variant, level, s])).average_precision()) for s in (0, 1)]
        return np.mean(seeds)

    for variant in ("infrared", "fnet"):
        clean, worse = average(variant, "clean"), [average(variant, level) for level in ("4", "16")]
        one = found[variant]
        assert one["AP"]["value"] == pytest.approx(clean, abs=1e-9)
        assert [one["levels"][level]["value"] for level in ("4", "16")] == pytest.approx(worse, abs=1e-9)
        assert one["loss"]["value"] == pytest.approx(clean - np.mean(worse), abs=1e-9)
        assert one["kept"]["value"] == pytest.approx(np.mean(worse) / clean, abs=1e-9)
    files = {"fnet": {seed: paths["fnet", "clean", seed] for seed in (0, 1)}}
    matches, _ = match_all(truth, files)
    scene, scenes = number_scenes(names_in_order(truth))
    boxes = scene_boxes(matches["fnet"][0], scene, scenes)
    names = [category["name"] for category in truth["categories"]]
    table = describe(names, boxes, *bootstrap(matches, scene, 200))["fnet"]["Average"]
    assert [found["fnet"]["AP"][key] for key in ("low", "high")] == pytest.approx([table["low"], table["high"]])


def test_the_least_loss_is_of_those_that_see_the_band_and_is_told_apart_by_its_interval(made_up):
    found = measure(made_up)
    assert not found["variants"]["visible"]["sees"] and "loss" not in found["variants"]["visible"]
    assert found["least"] == "fnet" and set(found["compared"]) == {"infrared", "late"}
    assert found["compared"]["infrared"]["more"] and found["compared"]["infrared"]["low"] > 0
    difference = found["variants"]["infrared"]["loss"]["value"] - found["variants"]["fnet"]["loss"]["value"]
    assert found["compared"]["infrared"]["difference"] == pytest.approx(difference)


def test_late_pools_the_worse_boxes_of_one_band_and_those_of_the_other_as_they_are(made_up):
    folder, _, paths = made_up
    measure(made_up)
    wanted = pool(read_json(paths["visible", "clean", 1]), read_json(paths["infrared", "16", 1]))
    assert read_json(folder / "late/16/seed1/predictions.json") == wanted


def test_detectors_that_are_alike_are_not_told_apart_and_one_alone_is_not_compared():
    rng = np.random.default_rng(0)
    clean, worse = rng.normal(0.6, 0.05, 500), rng.normal(0.5, 0.05, 500)
    measured = {("a", UNCORRUPTED): 0.6, ("a", "1"): 0.5, ("b", UNCORRUPTED): 0.6, ("b", "1"): 0.499}
    drawn = {
        ("a", UNCORRUPTED): clean,
        ("a", "1"): worse,
        ("b", UNCORRUPTED): clean,
        ("b", "1"): rng.permutation(worse),
    }
    found = describe_losses(measured, drawn, ["1"], 30)
    assert found["least"] == "a" and not found["compared"]["b"]["more"]
    alone = describe_losses({**measured, ("c", UNCORRUPTED): 0.1}, {**drawn, ("c", UNCORRUPTED): clean}, ["1"], 30)
    assert not alone["variants"]["c"]["sees"]
    one = {key: value for key, value in measured.items() if key[0] == "a"}
    assert describe_losses(one, drawn, ["1"], 30)["least"] is None


def test_of_a_detector_that_finds_nothing_no_share_is_kept():
    nothing = np.zeros(100)
    measured = dict.fromkeys([("a", UNCORRUPTED), ("a", "1")], 0.0)
    found = describe_losses(measured, dict.fromkeys(measured, nothing), ["1"], 30)["variants"]["a"]
    assert found["loss"]["value"] == 0 and np.isnan(found["kept"]["value"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "infrared_blur"}, "disagree: kind is 'infrared_blur', expected 'infrared_shift'"),
        ({"weights": {"0": "fnet 0"}}, "describes 'fnet' with the seeds 0; --predictions names the seeds 0, 1"),
        ({"weights": {"0": "fnet 0", "1": "x"}}, "disagree: weights is 'x', expected 'fnet 1'; test the detectors"),
        (
            {"predictions": {"4": {}, "16": {}}},
            "predictions of fnet at level 4 are not those that its tested.json describes",
        ),
        ({"variant": "infrared", "weights": {"0": "infrared 0", "1": "infrared 1"}}, "expected each variant once"),
    ],
)
def test_tests_that_do_not_belong_together_are_refused(made_up, change, message):
    file = made_up[0] / "fnet/tested.json"
    write_json(file, read_json(file) | change)
    with pytest.raises(InputError, match=message):
        measure(made_up)
