"""The path for a GPU is the plain network, too: values and gradients, on the CPU and where there is one on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fusion.fnet.fast import prepare, trainable
from fusion.fnet.gpu.columns import apply_columns, column, products
from fusion.fnet.inverse import IFNet
from fusion.fnet.merged import connect, merge_network
from fusion.fnet.network import FNet
from pipeline.devices import claimed_device

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


def by_columns(network, *inputs, kind=None):
    kind = kind or inputs[0].dtype
    return connect(merge_network(network), lambda image, block: apply_columns(image, block, kind), inputs)


def gradients(network, function):
    network.zero_grad()
    function().square().sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize(
    ("block", "shape"),
    [("lzsc", (2, 1, 30, 22)), ("lzsc", (1, 1, 7, 5)), ("lzsc", (1, 1, 1, 3)), ("lcsc", (2, 1, 13, 22))],
)
def test_values_and_gradients_are_those_of_the_plain_network(block, shape):
    torch.manual_seed(0)
    fnet, pair = FNet(block).double(), torch.rand(2, *shape, dtype=torch.float64)
    assert torch.allclose(by_columns(fnet, *pair), fnet(*pair), atol=1e-11)
    expected, found = gradients(fnet, lambda: fnet(*pair)), gradients(fnet, lambda: by_columns(fnet, *pair))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm()


def test_products_of_bfloat16_give_nearly_the_same():
    torch.manual_seed(6)
    fnet, pair = FNet(), torch.rand(2, 2, 1, 20, 16)
    expected = torch.cat([one.flatten() for one in gradients(fnet, lambda: fnet(*pair))])
    found = gradients(fnet, lambda: by_columns(fnet, *pair, kind=torch.bfloat16))
    assert (torch.cat([one.flatten() for one in found]) - expected).norm() < 0.1 * expected.norm()


def test_without_gradients_no_step_s_codes_are_kept(monkeypatch):
    fnet, kept = FNet(), []
    save = torch.autograd.function.FunctionCtx.save_for_backward
    monkeypatch.setattr(
        torch.autograd.function.FunctionCtx,
        "save_for_backward",
        lambda ctx, *all_of: (kept.append(1), save(ctx, *all_of)),
    )
    pair = torch.rand(2, 1, 1, 9, 9)
    with torch.no_grad():
        by_columns(fnet, *pair)
    assert not kept
    by_columns(fnet, *pair)
    assert len(kept) == 3


def test_the_inverse_network_too():
    torch.manual_seed(1)
    ifnet, fused = IFNet().double(), torch.rand(2, 1, 13, 18, dtype=torch.float64)
    for one, other in zip(by_columns(ifnet, fused), ifnet(fused), strict=True):
        assert torch.allclose(one, other, atol=1e-11)


@pytest.mark.parametrize(("channels", "filters"), [(16, 64), (64, 24), (8, 8)])
def test_columns_backwards_and_products_are_the_gradients_of_columns(channels, filters):
    torch.manual_seed(2)
    maps = torch.rand(2, channels, 12, 7, dtype=torch.float64, requires_grad=True)
    taps = torch.rand(9, channels, filters, dtype=torch.float64, requires_grad=True)
    result = column(maps, taps)
    above = torch.rand_like(result)
    of_maps, of_taps = torch.autograd.grad(result, (maps, taps), above)
    assert torch.allclose(column(above, taps.transpose(1, 2), backwards=True), of_maps, atol=1e-11)
    assert torch.allclose(products(above, maps).permute(1, 2, 0), of_taps, atol=1e-11)
    assert torch.allclose(products(maps, above).flip(1).transpose(0, 1), of_taps, atol=1e-11)


def test_the_gpu_s_kernels_are_the_plain_operations_and_the_networks_the_plain_ones():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    program = Path(__file__).with_name("interpreted.py")
    run = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@on_gpu
@pytest.mark.parametrize(
    ("block", "precision", "most"), [("lzsc", "fp32", 2e-4), ("lzsc", "bf16", 0.1), ("lcsc", "fp32", 2e-4)]
)
def test_a_gpu_agrees_with_the_cpu(block, precision, most):
    torch.manual_seed(3)
    fnet, pair = FNet(block), torch.rand(2, 1, 1, 50, 41)
    with torch.inference_mode():
        expected = fnet(*pair)
    with claimed_device("cuda") as device:  # which also sees to it that fp32 is that
        found = prepare(fnet.to(device), precision)(*pair.to(device)).cpu()
    assert (found - expected).abs().mean() < most


@on_gpu
@pytest.mark.parametrize(
    ("block", "precision", "most"), [("lzsc", "fp32", 1e-3), ("lzsc", "bf16", 0.1), ("lcsc", "fp32", 1e-3)]
)
def test_a_gpu_s_gradients_are_those_of_the_cpu(block, precision, most):
    torch.manual_seed(5)
    fnet, pair = FNet(block), torch.rand(2, 2, 1, 33, 26)
    expected = gradients(fnet, lambda: fnet(*pair))
    with claimed_device("cuda") as device:
        fnet, pair = fnet.to(device), pair.to(device)
        found = gradients(fnet, lambda: trainable(fnet, precision)(*pair))
    found, expected = (torch.cat([one.cpu().flatten() for one in all_of]) for all_of in (found, expected))
    assert (found - expected).norm() <= most * expected.norm()
