"""Costs: counted as by hand, whatever the layers are called; memory and time of the method as it runs."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fusion.cost import Case, count_multiply_adds, count_parameters, main, peak_memory
from fusion.fnet.network import FNet
from fusion.methods import METHODS, find_method
from fusion.weights import write_state
from pipeline.stage import InputError


class Takes(nn.Module):
    """A network of one part, on both images side by side as two channels."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, visible, infrared):
        return self.part(torch.cat([visible, infrared], dim=1))


class Attends(nn.Module):
    def forward(self, x):
        rows = x.flatten(1, 2)[:, None]  # (1, 1, 2 H, W): 2 H words of W numbers
        return F.scaled_dot_product_attention(rows, rows, rows)


class MultiplesRows(nn.Module):
    def forward(self, x):
        return x @ x.transpose(2, 3)


class HasHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        rows = x.flatten(1, 2)
        return self.attention(rows, rows, rows, need_weights=False)[0]


@pytest.mark.parametrize(
    ("part", "by_hand"),
    [
        # Width 6, height 4: outputs x weights that each takes.
        (nn.Conv2d(2, 5, 3, padding=1), 24 * 5 * 2 * 9),
        (nn.Conv2d(2, 5, 3, padding="same"), 24 * 5 * 2 * 9),
        (nn.Conv2d(2, 5, 3, stride=2, padding=1, bias=False), (3 * 2) * 5 * 2 * 9),
        (nn.Conv2d(2, 4, 3, padding=1, groups=2), 24 * 4 * 1 * 9),
        # Each input pixel is spread by every kernel weight.
        (nn.ConvTranspose2d(2, 5, 4, stride=2, padding=1), 24 * 2 * 5 * 16),
        (nn.Linear(6, 7), 8 * 6 * 7),
        (MultiplesRows(), 2 * 4 * 4 * 6),
        (Attends(), 2 * 8 * 8 * 6),
        (HasHeads(), 8 * 6 * 18 + 8 * 6 * 6 + 2 * 8 * 8 * 6),
        (nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)), 0),
    ],
    ids=str,
)
def test_multiply_adds_are_those_counted_by_hand(part, by_hand):
    assert count_multiply_adds(Takes(part), 6, 4) == by_hand


def test_frozen_parameters_and_buffers_are_not_counted():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3).requires_grad_(False))
    assert count_parameters(network) == 2 * 9 + 2 + 2 + 2


def test_fnet_costs_what_its_weights_and_pixels_say():
    assert count_parameters(FNet()) == 81 * 5184 + 12 == 419_916
    assert count_multiply_adds(FNet(), 320, 320) == 81 * 5184 * 320 * 320 == 42_998_169_600


def test_all_keys_are_reported_and_classical_methods_count_nothing(tmp_path, capsys):
    for method in ("average", "fnet"):
        file = tmp_path / f"{method}.json"
        main(["--method", method, "--size", "40", "24", "--json", str(file), "--device", "cpu", "--threads", "1"])
        cost = json.loads(file.read_text())
        assert {"method", "parameters", "multiply_adds", "peak_memory_bytes", "median_s", "device"} <= cost.keys()
        assert (cost["method"], cost["device"], cost["threads"], cost["size"]) == (method, "cpu", 1, [40, 24])
        assert cost["median_s"] > 0 and cost["peak_memory_bytes"] >= 0
        if not METHODS[method].needs_weights:
            assert (cost["parameters"], cost["multiply_adds"]) == (0, None) and "parameters_note" not in cost
        else:
            assert cost["parameters"] > 0 and cost["multiply_adds"] > 0
    assert "419,916" in capsys.readouterr().out


def test_the_weights_decide_which_network_is_counted(tmp_path):
    write_state(tmp_path / "lcsc.safetensors", FNet("lcsc").state_dict())
    network = find_method("fnet").network(tmp_path / "lcsc.safetensors")
    assert count_parameters(network) == 212_559


def test_peak_memory_grows_with_the_image():
    small, large = (peak_memory(Case("average", None, (side, side))) for side in (512, 4096))
    # Sum and mean of 64 MiB each; the sources are the caller's.
    assert small < 16 * 2**20 < 64 * 2**20 <= large < 200 * 2**20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "nosuch"], "nosuch"),
        (["--method", "average", "--size", "0", "3"], "--size 0 3"),
        (["--method", "average", "--repeats", "0"], "--repeats 0"),
        (["--method", "fnet", "--weights", "no/such.pth"], "no/such.pth"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        main(options)
