"""LRRNet: the authors' network and weights, and its training."""

import numpy as np
import pytest
import torch
from golden import check_golden, golden_pair
from method_checks import check_scores, check_sizes_and_batches, fused_scores, losses_of, random_pairs
from torchvision.models import vgg16

from fusion.cost import count_parameters
from fusion.methods.lrrnet import FILE, METHOD, Tiled, network
from fusion.weights import write_state
from pipeline.stage import InputError


def test_parameters_are_those_of_the_fact_sheet():
    made = network(None)
    assert count_parameters(made) == 49_204 and len(made.state_dict()) == 52


def test_any_size_and_batch():
    check_sizes_and_batches(network(None).eval(), sizes=((37, 51), (1, 5)))


def test_tiles_give_the_plain_networks_image():
    torch.manual_seed(0)
    made = network(None).eval()
    for size in ((40, 61), (17, 1)):
        pair = random_pairs(2, *size)
        with torch.inference_mode():
            assert torch.allclose(Tiled(made, tile=16)(*pair), made(*pair), atol=1e-5)


def test_the_authors_file_gives_the_fact_sheets_numbers_and_comes_back_from_ours(shared, tmp_path):
    made = network(shared / "data/checkpoints/LRRNet" / FILE).eval()
    with torch.inference_mode():
        low, sparse = made.components(*golden_pair(48, 64))
    places = [(0, 0), (5, 9), (24, 32), (47, 63)]
    for found, values in (
        (low + sparse, [0.204149, 0.217543, 0.046359, 0.150165, 0.140516, 0.056694]),
        (low, [0.144323, 0.155009, 0.002520, 0.107812, 0.085283, 0.048794]),
    ):
        check_golden(found, dict(zip(places, values[:4], strict=True)), *values[4:], tolerance=1e-4)
    write_state(tmp_path / "ours.safetensors", made.state_dict())
    again = network(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


@pytest.mark.by_hand
def test_tno_scores_are_those_of_the_fact_sheet(shared):
    weights = shared / "data/checkpoints/LRRNet" / FILE
    rows = fused_scores(shared, "lrrnet", weights, ["01", "02", "03", "04", "05"])
    check_scores({key: np.mean([row[key] for row in rows]) for key in rows[0]}, [1.691, 0.544, 0.441, 0.965])


def test_sources_are_stretched_before_and_the_image_after(tmp_path):
    torch.manual_seed(0)
    write_state(tmp_path / "w.safetensors", network(None).state_dict())
    fuse = METHOD.load(tmp_path / "w.safetensors", "cpu", "fp32")
    visible, infrared = np.random.default_rng(0).random((2, 12, 9), np.float32)
    assert np.allclose(fuse(visible, infrared), fuse(0.2 + 0.5 * visible, 0.1 * infrared), atol=1e-4)
    assert np.isfinite(fuse(0 * visible, infrared)).all()
    assert np.rint(METHOD.authors_output(np.array([0.05, 0.1, 0.15])) * 255).tolist() == [0, 127, 254]


def test_training_lowers_the_loss_with_random_filters(tmp_path):
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg16(weights=None).features.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    totals = losses_of(METHOD.training(tmp_path / "vgg16.pth"), 0, steps=8, side=24)
    assert totals[-1] < totals[0]


def test_training_without_the_perceptual_weights_is_refused():
    with pytest.raises(InputError, match="vgg16-397923af"):
        METHOD.training(None)
