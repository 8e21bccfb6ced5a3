"""MMDRFuse: the authors' student and its weights."""

import numpy as np
import torch
from method_checks import check_authors_file, check_authors_images, check_sizes_and_batches, random_pairs
from scipy.ndimage import correlate

from fusion.cost import count_multiply_adds, count_parameters
from fusion.methods.mmdrfuse import METHOD, network


def test_parameters_and_multiply_adds_are_those_of_the_fact_sheet():
    assert count_parameters(network(None)) == 113
    assert count_multiply_adds(network(None), 320, 320) == 11_059_200


def test_any_size_and_batch():
    check_sizes_and_batches(network(None).eval(), sizes=((37, 51), (1, 5)))


def test_the_image_is_that_of_two_mirrored_correlations():
    made, (visible, infrared) = network(None).double(), random_pairs(1, 12, 17).double()
    first, second = made.conv1[1], made.conv2[1]

    def layer(maps, convolution):
        kernels, biases = convolution.weight.detach().numpy(), convolution.bias.detach().numpy()
        found = [
            sum(correlate(one, k, mode="mirror") for one, k in zip(maps, kernel, strict=True)) for kernel in kernels
        ]
        return np.stack(found) + biases[:, None, None]

    hidden = np.maximum(layer([infrared[0, 0].numpy(), visible[0, 0].numpy()], first), 0)
    with torch.no_grad():
        assert np.allclose(made(visible, infrared)[0].numpy(), np.tanh(layer(hidden, second)), atol=1e-12)


def test_the_authors_stretch_to_the_whole_range_leaves_a_constant_image_black():
    assert METHOD.authors_output(np.array([0.25, 0.5, 0.75])).tolist() == [0, 0.5, 1]
    assert METHOD.authors_output(np.full(3, 0.5)).tolist() == [0, 0, 0]


def test_the_authors_file_loads_and_comes_back_from_ours(shared, tmp_path):
    # The folder holds the teacher, too.
    check_authors_file(shared, "mmdrfuse", "MMDRFuse/student.model", tmp_path)


def test_the_authors_images_come_out(shared):
    check_authors_images(shared, "mmdrfuse", "MMDRFuse", ["01", "02", "03", "04", "05"])
