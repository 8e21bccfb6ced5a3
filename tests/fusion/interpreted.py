"""FNet and its inverse by the GPU's kernels, which Triton's interpreter runs on the CPU; a program for a test.

Started apart, since Triton decides at its import whether it compiles or interprets (TRITON_INTERPRET=1).
"""

import torch

from fusion.networks import wide, wide_kernels
from fusion.networks.fast import connect, merge_network
from fusion.networks.fnet import FNet
from fusion.networks.ifnet import IFNet


def gradients(network, outputs):
    network.zero_grad()
    sum((output * torch.cos(10 * output)).sum() for output in outputs).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def compare(network, *inputs):
    """Compare what the kernels and the plain network make of the same images."""
    expected = network(*inputs)
    blocks = merge_network(network)
    found = connect(blocks, lambda image, block: wide.read_wide(image, block, torch.float32), inputs)
    if isinstance(expected, torch.Tensor):
        expected, found = (expected,), (found,)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4), (one - other).abs().max()
    wanted = gradients(network, expected)
    assert (gradients(network, found) - wanted).norm() < 1e-3 * wanted.norm()


def main():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 11, 7, requires_grad=True)
    for count, channels, backwards, kind in ((3, 32, False, torch.float32), (1, 16, True, torch.bfloat16)):
        maps = images[:, :count]
        spread = wide_kernels.spread(maps, channels, backwards, kind)
        # The interpreter cuts bfloat16 off where a GPU rounds it.
        plain = wide.spread(maps, channels, backwards, kind)
        assert torch.allclose(spread, plain, rtol=0, atol=0 if kind == torch.float32 else 2**-8)
        gathered = wide_kernels.gather(spread, count, backwards)
        assert torch.allclose(gathered, wide.gather(spread, count, backwards), atol=1e-6)
        tall = spread.contiguous(memory_format=torch.channels_last)
        assert torch.equal(wide_kernels.stack(tall), wide.stack(tall))
    v, u, before = (torch.randn(2, 64, 5, 6, requires_grad=True) for _ in range(3))
    rho, theta = torch.tensor([0.3, 0.4], requires_grad=True).unbind()
    for codes in ((v, None, None), (v, u, None), (v, u, before)):
        leaves = [code for code in (*codes, rho, theta) if code is not None]
        results = wide_kernels.Step.apply(*codes, rho, theta), wide.step(*codes, rho, theta)
        assert torch.allclose(*results, atol=1e-5)
        found, wanted = (
            torch.autograd.grad((result * v.detach()).sum(), leaves, retain_graph=True, allow_unused=True)
            for result in results
        )
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, torch.zeros_like(one) if other is None else other, rtol=1e-3, atol=1e-3)
    assert wide_kernels.Step.apply(v * torch.nan, None, None, rho, theta).isnan().all()
    wide.kernels = lambda tensor: wide_kernels
    compare(FNet(), *torch.rand(2, 1, 1, 12, 10))
    compare(IFNet(), torch.rand(2, 1, 5, 9))


if __name__ == "__main__":
    main()
