"""AUIFNet: the authors' network and weights, and its training."""

import numpy as np
import pytest
import torch
from golden import check_golden, golden_pair
from method_checks import check_scores, check_sizes_and_batches, fused_scores, losses_of, random_pairs, settled

from fusion.cost import count_parameters
from fusion.methods.auifnet import METHOD, collapse, network
from fusion.weights import write_state
from pipeline.stage import InputError


def test_parameters_are_those_of_the_fact_sheet():
    assert count_parameters(network(None)) == 11_631


def test_any_size_and_batch():
    torch.manual_seed(0)
    made = network(None)
    with torch.no_grad():
        for step in (*made.conv1, *made.conv2):
            step.kernel.mul_(0.1)  # untrained ones blow rounding errors up
    check_sizes_and_batches(settled(made), sizes=((37, 51), (16, 9), (1, 5)), symmetric=True)


def test_the_authors_folder_gives_the_fact_sheets_numbers_and_comes_back_from_ours(shared, tmp_path):
    made = network(shared / "data/checkpoints/AUIFNet").eval()
    visible, infrared = golden_pair(48, 64)
    with torch.inference_mode():
        fused, (base, detail) = made(visible, infrared), made.encode(infrared)
    places = [(0, 0), (5, 9), (24, 32), (47, 63)]
    for found, values in (
        (fused, [0.945514, 0.969736, 0.060110, 0.700939, 0.514450, 0.350705]),
        (base, [0.514040, 0.851352, -0.151960, 0.984075, 0.335395, 0.824530]),
        (detail, [-0.344772, -0.341877, -0.346635, -0.338137, -0.337873, 0.007342]),
    ):
        check_golden(found, dict(zip(places, values[:4], strict=True)), *values[4:], tolerance=1e-4)
    write_state(tmp_path / "ours.safetensors", made.state_dict())
    again = network(tmp_path / "ours.safetensors").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())


@pytest.mark.parametrize("size", [(31, 40), (3, 3), (4, 7), (2, 5)])
def test_collapsed_steps_give_the_plain_networks_image_up_to_its_borders(shared, size):
    folder, pair = shared / "data/checkpoints/AUIFNet", random_pairs(2, *size)
    with torch.inference_mode():
        plain = network(folder).eval()(*pair)
        assert torch.allclose(collapse(network(folder)).eval()(*pair), plain, atol=1e-4)


def test_one_of_the_three_files_lists_what_is_missing(shared):
    with pytest.raises(InputError, match=r"missing conv1\.0\.eta"):
        network(shared / "data/checkpoints/AUIFNet/TCSVT_Decoder.model")


@pytest.mark.by_hand
def test_tno_scores_are_those_of_the_fact_sheet(shared):
    rows = fused_scores(shared, "auifnet", shared / "data/checkpoints/AUIFNet", ["01", "02", "03", "04", "05"])
    check_scores({key: np.mean([row[key] for row in rows]) for key in rows[0]}, [1.373, 0.636, 0.507, 1.036])


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    totals = losses_of(METHOD.training(None), 0, steps=8, side=24)
    assert totals[-1] < totals[0]
