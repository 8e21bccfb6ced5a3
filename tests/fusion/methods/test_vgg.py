"""The VGG extractors: torchvision's layers by the paper's names, filled from its file, frozen."""

import pytest
import torch
from torchvision.models import vgg16, vgg19

from fusion.methods.parts.vgg import gram, normalised, vgg16_features, vgg19_features
from pipeline.stage import InputError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """VGG-16 convolutions with random filters and a stand-in for the classifier, as torchvision's file holds them."""
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg16(weights=None).features.state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**state, "classifier.0.bias": torch.zeros(4096)}, path)
    return path


def test_layers_are_those_of_torchvision_in_the_order_asked_for(file):
    with torch.device("meta"):
        oracle = vgg16(weights=None).features
    oracle.to_empty(device="cpu")
    state = torch.load(file, weights_only=True)
    oracle.load_state_dict({key.removeprefix("features."): value for key, value in state.items() if "features" in key})
    images = normalised(torch.rand(1, 1, 33, 40))
    # Before the ReLU that follows in place, so a copy.
    expected = {index: oracle[: index + 1](images).clone() for index in (2, 3, 9, 29)}
    found = vgg16_features(file, ["relu5_3", "relu2_2", "relu1_2"])(images)
    assert all(torch.equal(a, b) for a, b in zip(found, [expected[29], oracle[:9](images), expected[3]], strict=True))
    before, after = vgg16_features(file, ["conv1_2", "relu1_2"])(images)
    assert before.min() < 0 and torch.equal(after, before.relu())


def test_nothing_is_trained_and_nothing_deeper_is_kept(file):
    network = vgg16_features(file, ["relu1_2"])
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    assert list(network.steps) == ["conv1_1", "relu1_1", "conv1_2", "relu1_2"]


def test_luma_becomes_what_torchvision_normalises_to():
    from torchvision.models import VGG16_Weights
    from torchvision.transforms.functional import normalize

    luma = torch.rand(2, 1, 5, 6)
    transform = VGG16_Weights.IMAGENET1K_V1.transforms()
    expected = normalize(luma.expand(-1, 3, -1, -1), transform.mean, transform.std)
    assert torch.allclose(normalised(luma), expected, atol=1e-6)


def test_without_a_file_the_error_says_where_it_is_published():
    with pytest.raises(InputError, match=r"VGG-19.*vgg19-dcbb9e9d\.pth.*download\.pytorch\.org"):
        vgg19_features(None, ["relu1_1"])


def test_a_file_of_another_network_is_refused(file, tmp_path):
    with pytest.raises(InputError, match="missing"):
        vgg19_features(file, ["relu1_1"])
    torch.save({f"features.{key}": value for key, value in vgg19().features.state_dict().items()}, tmp_path / "v.pth")
    with pytest.raises(InputError, match="unexpected"):
        vgg16_features(tmp_path / "v.pth", ["relu1_1"])


def test_an_unknown_layer_is_a_programming_error(file):
    with pytest.raises(ValueError, match="no layer relu3_4"):
        vgg16_features(file, ["relu3_4"])


def test_the_gram_matrix_of_one_image_by_hand():
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # two maps of two pixels: products 5, 13, 34, divided by 4
    assert gram(maps).tolist() == [[[1.25, 3.25], [3.25, 8.5]]]
