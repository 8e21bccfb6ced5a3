"""CrossFuse: its counts and the fact sheet's numbers (no published weights are at hand), its training."""

import pytest
import torch
from golden import check_golden, fill_by_rule, golden_pair
from method_checks import check_sizes_and_batches, losses_of, random_pairs

from fusion.cost import count_parameters
from fusion.methods.crossfuse import FILES, METHOD, CrossAttention, multiscale_similarity, network
from pipeline.stage import InputError


@pytest.fixture(scope="module")
def made():
    """The network with the fact sheet's weights by rule."""
    made = network(None).eval()
    for coder, factor in ((made.infrared, 1.0), (made.visible, 0.9)):
        fill_by_rule(coder, gain=2, factor=factor)
    fill_by_rule(made.fusion, gain=2, fixed=r"conv_gra|weight\.conv_")
    return made


def test_parameters_are_those_of_the_fact_sheet(made):
    assert count_parameters(made) == 23_153_509
    assert count_parameters(made.visible) == count_parameters(made.infrared) == 1_254_529
    assert len(made.visible.state_dict()) == 26 and len(made.fusion.state_dict()) == 134
    used = sum(parameter.numel() for parameter in made.fusion.used_parameters())
    assert sum(parameter.numel() for parameter in made.fusion.parameters()) - used == 1_745_920


def test_weights_by_rule_give_the_fact_sheets_numbers(made):
    visible, infrared = golden_pair(280, 168)
    with torch.inference_mode():
        fused, rebuilt = 255 * made(visible, infrared), made.infrared(infrared)
    places = [(0, 0), (5, 9), (140, 84), (279, 167)]
    for found, values, tolerance in (
        (fused, [155.8227, 162.3511, 128.6615, 69.5542, 122.6757, 40.6999], 0.1),
        (rebuilt, [0.030608, 0.064380, 0.009533, -0.004148, 0.017086, 0.059900], 1e-4),
    ):
        check_golden(found, dict(zip(places, values[:4], strict=True)), *values[4:], tolerance=tolerance)


def test_any_size_and_batch(made):
    check_sizes_and_batches(made, sizes=((37, 51), (5, 9)))


def test_tokens_are_two_by_two_patches_of_tiles_and_come_back_as_maps():
    maps = torch.rand(2, 128, 64, 96)
    tokens = CrossAttention._tokens(maps)
    assert tokens.shape == (2 * 6, 256, 512)
    # The second image's tile in the second row and third column, its token in row 3 and column 5.
    assert torch.equal(tokens[6 + 5, 3 * 16 + 5], maps[1, :, 32 + 6 : 32 + 8, 64 + 10 : 64 + 12].flatten())
    assert torch.equal(CrossAttention._maps(tokens, 2, 3), maps)


def test_the_authors_folder_loads_and_a_missing_file_is_named(made, tmp_path):
    for name, file in FILES.items():
        path = tmp_path / file
        with pytest.raises(InputError, match=path.name):
            network(tmp_path)
        path.parent.mkdir(exist_ok=True)
        torch.save(getattr(made, name).state_dict(), path)
    again = network(tmp_path).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())
    with pytest.raises(InputError, match=r"missing fusion\..*unexpected fea_encoder1\."):
        network(tmp_path / FILES["visible"])


def test_the_authors_similarity_of_equal_images_is_one_and_falls_with_noise():
    image = 255 * random_pairs(1, 64, 64)[0]
    assert multiscale_similarity(image, image).item() == pytest.approx(1, abs=1e-5)
    noisy = [multiscale_similarity(image + size * torch.randn_like(image), image) for size in (5, 50)]
    assert 1 > noisy[0] > noisy[1] > 0


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_training_lowers_the_loss_of_every_phase(phase):
    torch.manual_seed(0)
    totals = losses_of(METHOD.training(None), phase, steps=4, side=32)
    assert totals[-1] < totals[0]
