"""SAGE: the authors' deployed network and weights."""

import pytest
from method_checks import check_authors_file, check_authors_images, check_sizes_and_batches, settled

from fusion.cost import count_multiply_adds, count_parameters
from fusion.methods.sage import network


def test_parameters_and_multiply_adds_are_those_of_the_fact_sheet():
    assert count_parameters(network(None)) == 135_617
    assert count_multiply_adds(network(None), 320, 320) == 6_661_734_400


def test_any_size_and_batch():
    check_sizes_and_batches(settled(network(None)), sizes=((37, 51), (1, 5), (4, 4)))


def test_the_authors_file_loads_and_comes_back_from_ours(shared, tmp_path):
    check_authors_file(shared, "sage", "SAGE/checkpoints.pt", tmp_path)


def test_the_authors_image_comes_out(shared):
    check_authors_images(shared, "sage", "SAGE", ["05"])


@pytest.mark.by_hand
def test_all_of_the_authors_images_come_out(shared):
    check_authors_images(shared, "sage", "SAGE", ["01", "02", "03", "04"])
