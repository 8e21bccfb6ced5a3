"""FNet and its inverse by the GPU's kernels, which Triton's interpreter runs on the CPU; a program for a test.

Started apart, since Triton decides at its import whether it compiles or interprets (TRITON_INTERPRET=1).
"""

from itertools import product

import torch

from fusion.fnet.gpu import columns, kernels
from fusion.fnet.inverse import IFNet
from fusion.fnet.merged import connect, merge_network
from fusion.fnet.network import FNet


def gradients(network, outputs):
    network.zero_grad()
    sum((output * torch.cos(10 * output)).sum() for output in outputs).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def compare(network, *inputs):
    """Compare what the kernels and the plain network make of the same images."""
    expected = network(*inputs)
    blocks = merge_network(network)
    found = connect(blocks, lambda image, block: columns.apply_columns(image, block, torch.float32), inputs)
    if isinstance(expected, torch.Tensor):
        expected, found = (expected,), (found,)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4), (one - other).abs().max()
    wanted = gradients(network, expected)
    assert (gradients(network, found) - wanted).norm() < 1e-3 * wanted.norm()


def main():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 11, 7)
    for count, channels, backwards, kind in ((3, 32, False, torch.float32), (1, 16, True, torch.bfloat16)):
        maps = images[:, :count]
        spread = kernels.spread(maps, channels, backwards, kind)
        # The interpreter cuts bfloat16 off where a GPU rounds it.
        plain = columns.spread(maps, channels, backwards, kind)
        assert torch.allclose(spread, plain, rtol=0, atol=0 if kind == torch.float32 else 2**-8)
        gathered = kernels.gather(spread, count, backwards)
        assert torch.allclose(gathered, columns.gather(spread, count, backwards), atol=1e-6)
        tall = spread.contiguous(memory_format=torch.channels_last)
        assert torch.equal(kernels.stack(tall), columns.stack(tall))
    for channels, filters in ((16, 64), (64, 24), (40, 64)):
        maps = torch.randn(2, channels, 11, 19).contiguous(memory_format=torch.channels_last)
        taps = torch.randn(9, channels, filters)
        result = columns.column(maps, taps)
        assert torch.allclose(kernels.column(maps, taps, False), result, atol=1e-3)
        turned = taps.transpose(1, 2)
        back = columns.column(result, turned, True)
        assert torch.allclose(kernels.column(result, turned, True), back, rtol=1e-4, atol=1e-2)
        assert torch.allclose(kernels.products(result, maps), columns.products(result, maps), rtol=1e-4, atol=1e-2)
    codes = [torch.randn(2, 64, 5, 6) for _ in range(6)]
    rho, theta = torch.rand(2, 5)
    for k, soft in product(range(5), (False, True)):
        past = 1 if soft else 2
        before, later = codes[max(k - past, 0) : k], codes[k + 1 : 5][:past]
        arguments = codes[k], before, rho, theta - 0.5 if soft else theta, k, soft
        assert torch.allclose(kernels.step(*arguments), columns.step(*arguments), atol=1e-5)
        arguments = codes[5], later, *arguments
        steps = kernels.step_backward(*arguments), columns.step_backward(*arguments)
        for found, wanted in zip(*steps, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3), (found - wanted).abs().max()
    for soft in (False, True):
        assert kernels.step(codes[0] * torch.nan, [], rho, theta, 0, soft).isnan().all()
        assert not kernels.step(codes[0] * 0, [], rho, -theta if soft else theta, 0, soft).any()
    columns.kernels = columns.multiplying_kernels = lambda tensor: kernels
    compare(FNet(), *torch.rand(2, 1, 1, 10, 7))
    compare(IFNet(), torch.rand(2, 1, 5, 9))
    compare(IFNet("lcsc"), torch.rand(1, 1, 5, 6))


if __name__ == "__main__":
    main()
