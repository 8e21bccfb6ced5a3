"""GIFNet: the authors' network and weights, its windows, and what of it takes part."""

import numpy as np
import pytest
import torch
from method_checks import check_authors_file, check_authors_images, check_sizes_and_batches, random_pairs

from fusion.cost import count_multiply_adds, count_parameters
from fusion.methods import gifnet
from fusion.methods.gifnet import network


def test_parameters_are_those_of_the_fact_sheet_and_some_take_no_part():
    made = network(None)
    assert count_parameters(made) == 822_780
    made(*random_pairs(1, 12, 12)).sum().backward()
    idle = sum(parameter.numel() for parameter in made.parameters() if parameter.grad is None)
    # The first branch's own queries share their layer with its keys.
    borrowed = made.blocks[0].ivif.QK.weight.grad
    assert not borrowed[:98].any() and borrowed[98:].all()
    assert 822_780 - idle - 98 * (98 + 1) == 652_676


def test_multiply_adds_are_the_fact_sheets_less_what_is_never_asked():
    # Of a pixel: a branch is its values, queries, keys, their neighbourhoods, what joins them, and the perceptron.
    branch, queries = 98 * (98 + 2 * 98 + 25 + 98 + 2 * 196), 98 * 98
    pixels, windows = 320 * 320, (320 // 8) ** 2
    shifted = (320 // 8 + 1) ** 2
    convolutions = (734_476 - branch - queries) * pixels
    products = 2 * 64 * 64 * 98 * (2 * windows + shifted)
    biases, norms = 2 * 64 * 64 * (2 * 256 + 256 * 2), 3 * 2 * 98
    assert count_multiply_adds(network(None), 320, 320) == convolutions + products + biases + norms


def test_any_size_and_batch():
    check_sizes_and_batches(network(None).eval(), sizes=((21, 30), (1, 5)))


@pytest.mark.parametrize("size", [(16, 24), (12, 8), (8, 20)])
@pytest.mark.parametrize("shift", [0, 4])
def test_windows_are_those_of_the_mirrored_maps_and_go_back(size, shift):
    maps = torch.rand(2, 98, *size)
    windows = gifnet.window_partition(maps, shift)
    padding = [(shift, -(side + shift) % 8) for side in size]
    whole = np.pad(maps.numpy(), [(0, 0), (0, 0), *padding], mode="reflect")
    across = whole.shape[3] // 8
    assert windows.shape == (2, whole.shape[2] // 8 * across, 2, 64, 49)
    for place in range(windows.shape[1]):
        y, x = 8 * (place // across), 8 * (place % across)
        expected = whole[:, :, y : y + 8, x : x + 8].reshape(2, 2, 49, 64).swapaxes(2, 3)
        assert np.array_equal(windows[:, place], expected)
    assert torch.equal(gifnet.window_reverse(windows, *size, shift), maps)


def test_the_norm_is_of_a_whole_image_and_can_be_undone():
    norm, x = gifnet.RescaleLayerNorm(), 3 + 2 * torch.rand(2, 98, 6, 7)
    with torch.no_grad():
        for meta in (norm.meta1, norm.meta2):
            meta.weight.fill_(1)
            meta.bias.zero_()
        normal, scale, offset = norm(x)
    for image, found in zip(x.numpy(), normal.numpy(), strict=True):
        assert np.allclose(found, (image - image.mean()) / np.sqrt(image.var() + 1e-5), atol=1e-5)
    assert torch.allclose(normal * scale + offset, x, atol=1e-5)


def test_the_authors_file_loads_and_comes_back_from_ours(shared, tmp_path):
    check_authors_file(shared, "gifnet", "GIFNet/Final.model", tmp_path)
    # What is computed here is in the file, too.
    published = network(shared / "data/checkpoints/GIFNet").blocks[0].relative_positions
    assert torch.allclose(published, gifnet.log_relative_positions(), atol=1e-6)


@pytest.mark.by_hand
def test_the_authors_images_come_out(shared):
    check_authors_images(shared, "gifnet", "GIFNet", ["01", "02", "03", "04", "05"])
