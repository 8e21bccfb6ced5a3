"""CoCoNet: its counts and parts (no published weights are at hand), its two ways of input, its training."""

import numpy as np
import pytest
import torch
from method_checks import check_sizes_and_batches, losses_of, random_pairs, settled
from scipy.stats import entropy as entropy_of_counts
from torchvision.models import vgg19

from fusion.cost import count_parameters
from fusion.methods.coconet import (
    METHOD,
    ChannelAttention,
    GreyVGG,
    adaptive_weights,
    entropy,
    from_authors,
    network,
    padded,
)
from fusion.methods.parts.vgg import vgg19_features
from fusion.weights import write_state
from pipeline.stage import InputError


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """Random filters in the layout of torchvision's VGG-19 file."""
    torch.manual_seed(0)
    state = {f"features.{key}": value for key, value in vgg19(weights=None).features.state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return path


def as_authors_write(state):
    """Rename our keys the other way round, by the fact sheet's table."""
    vgg = [(1, 0), (1, 3), (2, 6), (2, 8), (3, 11), (3, 13), (3, 15), (3, 17)]
    names = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4"]
    theirs = {}
    for key, value in state.items():
        if key.startswith("vgg19."):
            _, name, kind = key.split(".")
            block, step = vgg[names.index(name)]
            key = f"vgg19.slice{block}.{step}.{kind}"
        elif ".bn." in key:
            key = key.replace("conv", "bn").replace(".bn.", ".")
        elif ".conv." in key:
            key = key.replace(".conv.", ".")
        theirs[key] = value
    del theirs["as_tested"]
    return theirs


def test_parameters_are_those_of_the_fact_sheet():
    made = network(None)
    assert count_parameters(made) == 6_845_189
    assert sum(parameter.numel() for parameter in made.parameters()) == 9_169_605


def test_any_size_and_batch():
    made = settled(network(None))
    check_sizes_and_batches(made)
    made.as_tested.fill_(1)
    check_sizes_and_batches(made, [(33, 20)])


def test_the_vgg_is_torchvisions_on_grey_images_with_one_pooling_more(vgg):
    ours = GreyVGG()
    ours.copy_filters(vgg19_features(vgg, ["conv3_4"]))
    oracle = vgg19(weights=None).features.eval()
    oracle.load_state_dict(
        {key.removeprefix("features."): value for key, value in torch.load(vgg, weights_only=True).items()}
    )
    image = torch.rand(2, 1, 32, 48)
    grey = image * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    with torch.no_grad():
        f2, f3, f4 = ours(image)
        x = oracle[2:4](torch.nn.functional.max_pool2d(oracle[:2](grey), 2))
        assert torch.allclose(f2, x, atol=1e-5)
        x = oracle[4:9](x)
        assert torch.allclose(f3, x, atol=1e-5)
        assert torch.allclose(f4, oracle[9:18](x), atol=1e-5)
    assert [tuple(maps.shape[1:]) for maps in (f2, f3, f4)] == [(64, 16, 24), (128, 8, 12), (256, 4, 6)]


def test_channel_attention_mixes_the_least_alike_maps():
    attention = ChannelAttention(3).double()
    attention.gamma.data.fill_(0.7)
    x = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    q, k, v = (layer(x)[0].detach().numpy() for layer in (attention.conv_1, attention.conv_2, attention.conv_3))
    for c in range(3):
        energies = np.array([np.sum(q[c] * k[d]) for d in range(3)])
        weights = np.exp(-energies) / np.exp(-energies).sum()  # the row's maximum cancels
        wanted = v[c] + 0.7 * sum(weights[d] * v[d] for d in range(3))
        assert np.allclose(attention(x)[0, c].detach().numpy(), wanted)


def test_images_are_centred_in_sides_of_sixteen():
    image = torch.rand(1, 1, 21, 40)
    found = padded(image)
    assert found.shape[2:] == (32, 48) and torch.equal(found[..., 5:26, 4:44], image)
    assert padded(torch.rand(1, 1, 2, 3)).shape[2:] == (16, 16)


def test_the_authors_keys_load_and_take_their_test_input(tmp_path):
    made = settled(network(None))
    theirs = as_authors_write(made.state_dict())
    assert {"bn1_1.running_mean", "conv9_2.weight", "vgg19.slice3.17.bias", "conv4_2.weight"} <= theirs.keys()
    torch.save(theirs, tmp_path / "latest.pth")
    loaded = network(tmp_path / "latest.pth").eval()
    assert bool(loaded.as_tested) and torch.equal(loaded.conv4_2.bn.running_var, made.conv4_2.bn.running_var)
    pair = random_pairs(1, 32, 32)
    with torch.no_grad():
        # Their test script: 0..255 in, never set to evaluation, so that batch statistics of one image are taken.
        made.train()
        as_in_training = made._fuse(*(255 * image for image in pair), instance_statistics=False)
        assert torch.allclose(loaded.fused(*pair), as_in_training, atol=1e-4)
    write_state(tmp_path / "ours.safetensors", loaded.state_dict())
    assert bool(network(tmp_path / "ours.safetensors").as_tested)


def test_a_file_of_something_else_lists_what_is_missing_and_unexpected(tmp_path):
    state = as_authors_write(network(None).state_dict())
    state["stranger"] = state.pop("bn7_1.weight")
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=r"missing conv7_1\.bn\.weight \(1\).*unexpected stranger \(1\)"):
        network(tmp_path / "wrong.pth")
    assert from_authors(network(None).state_dict())["as_tested"] == 0


def test_entropy_is_that_of_the_grey_levels():
    levels = np.random.default_rng(0).integers(0, 256, (2, 1, 20, 20))
    found = entropy(torch.from_numpy(levels / 127.5 - 1))
    wanted = [entropy_of_counts(np.bincount(image.ravel(), minlength=256)) for image in levels]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_source_with_more_gradient_weighs_more():
    found = adaptive_weights(torch.tensor([[3.0, 1.0], [1.0, 1.0]]), 0.5)
    assert found[:, 0].tolist() == pytest.approx([np.e / (np.e + 1), 1 / (np.e + 1)])
    assert found[:, 1].tolist() == [0.5, 0.5]


def test_training_lowers_the_loss_and_leaves_the_vgg_alone(vgg):
    training = METHOD.training(vgg)
    before = training.network.vgg19.conv2_1.weight.clone()
    totals = losses_of(training, 0, steps=6, side=32)
    assert totals[-1] < 0.95 * totals[0]
    assert torch.equal(training.network.vgg19.conv2_1.weight, before)


def test_training_without_the_perceptual_weights_is_refused():
    with pytest.raises(InputError, match="vgg19-dcbb9e9d"):
        METHOD.training(None)
