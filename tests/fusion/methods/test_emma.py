"""EMMA: the authors' networks by the fact sheet's numbers, and its training."""

import pytest
import torch
from golden import check_golden, fill_by_rule, golden_pair
from method_checks import check_cpu_version, check_sizes_and_batches, losses_of, random_pairs

from fusion.cost import count_parameters
from fusion.methods import auifnet
from fusion.methods.emma import METHOD, PseudoSensing, in_stripes, network, transformations
from fusion.methods.parts import striping
from fusion.methods.parts.borders import pad_to_multiple
from fusion.weights import write_state
from pipeline.stage import InputError


def filled():
    made = network(None).eval()
    fill_by_rule(made, 0.25)
    return made


def test_parameters_are_those_of_the_fact_sheet():
    made = network(None)
    assert count_parameters(made) == 1_517_657 and len(made.state_dict()) == 347
    assert (count_parameters(made.V_en_3), count_parameters(made.f_4)) == (151_432, 165_256)
    assert sum(parameter.numel() for parameter in PseudoSensing().parameters()) == 39_397_761


@pytest.mark.parametrize(
    ("swapped", "values"),
    [
        (False, [0.936045, 0.947491, 0.955614, 0.499528, 0.741574, 0.224990]),
        (True, [0.815858, 0.973891, 0.431462, 0.485209, 0.760017, 0.214958]),
    ],
)
def test_the_fact_sheets_numbers_come_out(swapped, values):
    visible, infrared = golden_pair(32, 40)
    with torch.inference_mode():
        fused = filled()(infrared, visible) if swapped else filled()(visible, infrared)
    places = [(0, 0), (5, 9), (16, 20), (31, 39)]
    check_golden(fused, dict(zip(places, values[:4], strict=True)), *values[4:], tolerance=1e-3)


def test_the_sensing_network_is_the_fact_sheets():
    made = PseudoSensing().eval()
    fill_by_rule(made, 6)
    with torch.inference_mode():
        found = made(golden_pair(32, 48)[1])
    pixels = {(0, 0): 0.520194, (5, 9): 0.520075, (16, 24): 0.523218, (31, 47): 0.519541}
    check_golden(found, pixels, 0.524414, 0.003588, tolerance=1e-3)


def test_any_size_and_batch():
    check_sizes_and_batches(filled(), sizes=((21, 33), (1, 5)))


@pytest.mark.parametrize("size", [(1, 5), (33, 20)])
def test_the_network_in_stripes_gives_the_plain_networks_values(size, monkeypatch):
    monkeypatch.setattr(striping, "PIXELS", 60)
    check_cpu_version(filled(), in_stripes, size)


def test_an_image_is_continued_by_mirroring():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert pad_to_multiple(image, 2, least=2)[0, 0].tolist() == [[0, 1, 2, 1], [3, 4, 5, 4], [0, 1, 2, 1], [3, 4, 5, 4]]
    assert pad_to_multiple(torch.ones(1, 1, 1, 1), 8, least=2).shape == (1, 1, 16, 16)
    assert pad_to_multiple(torch.ones(1, 1, 32, 40), 8).shape == (1, 1, 32, 40)


def test_an_image_moves_in_ten_ways():
    torch.manual_seed(0)
    images = random_pairs(2, 16, 16)[0]
    found = list(transformations(images))
    assert len(found) == 10 and all(one.shape == images.shape for one in found)
    assert torch.equal(found[0], images) and torch.equal(found[9], images.flip(2, 3))
    assert all(torch.equal(one.flatten().sort()[0], images.flatten().sort()[0]) for one in found[1:4])
    assert all(not torch.equal(one, images) for one in found[1:])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "auifnet.safetensors"
    torch.manual_seed(0)
    write_state(path, auifnet.network(None).state_dict())
    return path


@pytest.mark.parametrize("phase", [0, 2])
def test_training_lowers_the_loss(teacher, phase):
    torch.manual_seed(0)
    totals = losses_of(METHOD.training(teacher), phase, steps=4, side=16)
    assert totals[-1] < totals[0]


def test_training_without_auifnets_weights_is_refused():
    with pytest.raises(InputError, match="--teacher-weights"):
        METHOD.training(None)
