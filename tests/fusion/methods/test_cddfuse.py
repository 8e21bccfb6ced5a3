"""CDDFuse: the authors' network by the fact sheet's numbers, their checkpoint's layout, and its training."""

import pytest
import torch
from golden import check_golden, fill_by_rule, golden_pair
from method_checks import check_cpu_version, check_sizes_and_batches, losses_of

from fusion.cost import count_parameters
from fusion.methods.cddfuse import METHOD, DetailNode, correlation, in_stripes, network
from fusion.methods.parts import striping
from pipeline.stage import InputError


def filled():
    made = network(None).eval()
    for part in made.children():
        fill_by_rule(part, 2)
    return made


def test_parameters_are_those_of_the_fact_sheet():
    made = network(None)
    assert count_parameters(made) == 1_188_272
    assert [count_parameters(part) for part in made.children()] == [599_144, 207_936, 363_016, 18_176]


def test_the_fact_sheets_numbers_come_out():
    made, (visible, infrared) = filled(), golden_pair(40, 56)
    with torch.inference_mode():
        fused = made(visible, infrared)
        rebuilt = made.DIDF_Decoder(visible, *made.DIDF_Encoder(visible))
    places = [(0, 0), (5, 9), (20, 28), (39, 55)]
    for found, values in (
        (fused, [0.846592, 0.192037, 0.154224, 0.251896, 0.267119, 0.160685]),
        (rebuilt, [0.800894, 0.753761, 0.628291, 0.623400, 0.656944, 0.100867]),
    ):
        check_golden(found, dict(zip(places, values[:4], strict=True)), *values[4:], tolerance=1e-3)


def test_any_size_and_batch():
    check_sizes_and_batches(filled(), sizes=((21, 33), (1, 5)))


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (33, 20)])
def test_the_network_in_stripes_gives_the_plain_networks_values(size, monkeypatch):
    monkeypatch.setattr(striping, "PIXELS", 60)
    check_cpu_version(filled(), in_stripes, size)


def test_a_file_laid_out_as_the_authors_loads(tmp_path):
    made = filled()
    parts = {
        name: {f"module.{key}": value for key, value in part.state_dict().items()}
        for name, part in made.named_children()
    }
    assert [len(part) for part in parts.values()] == [89, 47, 11, 11]
    torch.save(parts, tmp_path / "CDDFuse_IVF.pth")
    again = network(tmp_path / "CDDFuse_IVF.pth").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())
    del parts["BaseFuseLayer"]
    torch.save(parts, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"missing BaseFuseLayer\.attn\.proj\.weight"):
        network(tmp_path / "short.pth")


def test_a_detail_step_can_be_undone():
    step, x = DetailNode(), torch.randn(1, 64, 6, 7)
    with torch.no_grad():
        first, second = step(x).chunk(2, dim=1)
        first = (first - step.theta_eta(second)) / step.theta_rho(second).exp()
        mixed = torch.cat([first, second - step.theta_phi(first)], dim=1) - step.shffleconv.bias.view(1, -1, 1, 1)
        back = torch.einsum("oi,nihw->nohw", torch.linalg.inv(step.shffleconv.weight[..., 0, 0]), mixed)
    assert torch.allclose(back, x, atol=1e-3)


def test_correlation_is_pearsons():
    a, b = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    each = [
        torch.corrcoef(torch.stack([a[n, c].flatten(), b[n, c].flatten()]))[0, 1] for n in range(2) for c in range(3)
    ]
    assert correlation(a, b).item() == pytest.approx(torch.stack(each).mean().item(), abs=1e-6)


@pytest.mark.parametrize("phase", [0, 1])
def test_training_lowers_the_loss(phase):
    torch.manual_seed(0)
    training = METHOD.training(None)
    totals = losses_of(training, phase, steps=6, side=24)
    assert totals[-1] < totals[0]


def test_phase_two_goes_on_at_the_coders_rate():
    first, second = METHOD.training(None).phases
    assert first.schedule(0.6) == 0.5 and second.schedule(0.6) == 0.25
    assert [factor for _, factor in second.parameter_groups] == [0.25, 0.25, 1, 1]
