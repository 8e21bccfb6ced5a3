"""Every phase of every training is the published one: each term of its loss, its optimiser, its schedule.

The terms are worked out here from the fact sheets' formulas, on fixed images, with nothing of the code's own losses.
Networks are stood in for by plain functions of their inputs (their own golden numbers are tested elsewhere), and a VGG
by a narrow one filled by a rule. All is computed in double precision, so that terms agree to eight digits and a weight
that hardly matters is seen, too.
"""

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden import fill_by_rule
from method_checks import random_pairs
from scipy.stats import entropy as entropy_of_counts
from torch import nn
from torch.nn import functional as F
from torchvision.models.vgg import make_layers

from fusion.methods import METHODS, Phase, Training, coconet, emma, find_method, fnet, lrrnet, mda, u2fusion
from fusion.methods.parts.vgg import Features
from fusion.training import loop

# ---- What stands in for the networks -------------------------------------------------------------------------------


def blend(visible, infrared, **options):
    """Return a fused image that shows which source went where."""
    return 0.6 * visible + 0.3 * infrared.square() + 0.05


def rebuilt(image):
    """Return an image that rises with the given one where that is dark and falls where it is bright."""
    return 3.2 * image * (1.1 - image)


def narrow_vgg():
    """Return the convolutional part of a VGG-16 with four maps in every layer, filled by a rule."""
    block = [4, 4, 4, "M"]
    features = make_layers([4, 4, "M", 4, 4, "M", *block, *block, *block])
    fill_by_rule(features, 2)
    return features.requires_grad_(False)


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def training_of(monkeypatch):
    """Make a method's training whose frozen networks, and whose large ones beside, are small stand-ins."""
    for module in (u2fusion, lrrnet, mda):
        monkeypatch.setattr(module, "vgg16_features", lambda path, layers: Features(narrow_vgg(), layers))
    monkeypatch.setattr(coconet, "vgg19_features", lambda path, layers: None)
    monkeypatch.setattr(coconet.GreyVGG, "copy_filters", lambda self, features: None)
    monkeypatch.setattr(emma, "PseudoSensing", lambda: nn.Conv2d(1, 1, 1))
    teacher = nn.Identity()
    teacher.forward = blend
    monkeypatch.setattr(emma, "auifnet", SimpleNamespace(network=lambda path: teacher))
    monkeypatch.setattr(fnet, "trainable", lambda network, precision: network)
    return lambda name: find_method(name).training(Path("weights"))


def images(side, count=2):
    """Return visible and infrared, (count, 1, side, side) each, which differ in what they show and in contrast."""
    visible, infrared = random_pairs(count, side, side).double()
    return visible, 0.2 + 0.6 * infrared


def check(found, **wanted):
    """Compare all terms of a loss and their sum with those worked out."""
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in wanted.items()} | {"total": float(sum(wanted.values()))}, rel=1e-8
    )


# ---- The sheets' formulas for images (N, 1, H, W) ------------------------------------------------------------------


def sobel(x, border="constant"):
    """Return both Sobel derivatives, kernels (1, 2, 1) without a factor, (N, 2, H, W)."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=border), torch.stack([kernel, kernel.T])[:, None])


def gradient(x):
    """Return G(x) = |Sobel x| + |Sobel y|, zero-padded."""
    return sobel(x).abs().sum(1, keepdim=True)


def slopes(x):
    """Return S(x): Sobel x and y, kernels / 8, replicated borders: kornia's spatial gradient."""
    return sobel(x, "replicate") / 8


def lap(x):
    """Return the four neighbours less four times the pixel, zero-padded."""
    return F.conv2d(x, torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]]), padding=1)


def ssim_and_contrast(a, b, size=11, padding=0, span=1.0):
    """Return the maps of SSIM and of its second factor: Gaussian sigma 1.5, C1 = (0.01 L)^2, C2 = (0.03 L)^2."""
    x = torch.arange(size) - size // 2
    window = torch.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))

    def mean(image):
        return F.conv2d(image, (window / window.sum())[None, None], padding=padding)

    (ma, mb), c1, c2 = (mean(a), mean(b)), (0.01 * span) ** 2, (0.03 * span) ** 2
    va, vb, cab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    contrast = (2 * cab + c2) / (va + vb + c2)
    return (2 * ma * mb + c1) / (ma**2 + mb**2 + c1) * contrast, contrast


def ssim(a, b, padding=0):
    """Return each image's mean SSIM, 11x11, (N,): valid windows, or zero-padded by 5."""
    return ssim_and_contrast(a, b, padding=padding)[0].mean((1, 2, 3))


def dssim(a, b, size):
    """Return mean clamp(1 - SSIM, 0, 1) / 2 with reflected borders: the loss of old kornia."""
    a, b = (F.pad(image, (size // 2,) * 4, mode="reflect") for image in (a, b))
    return (1 - ssim_and_contrast(a, b, size)[0]).clamp(0, 1).mean() / 2


def mae(a, b):
    return (a - b).abs().mean()


def mse(a, b):
    return (a - b).square().mean()


def distance(a, b):
    """Return l(a, b) = mean|a - b| + mean|S(a) - S(b)| of FNet and EMMA."""
    return mae(a, b) + mae(slopes(a), slopes(b))


def normalised(luma):
    """Return three channels less ImageNet's mean over its deviation."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (luma - mean[:, None, None]) / deviation[:, None, None]


def gram(maps):
    """Return F F^T / (C H W) of each image's maps."""
    return torch.einsum("nchw,ndhw->ncd", maps, maps) / maps[0].numel()


# ---- The losses ----------------------------------------------------------------------------------------------------


def test_fnet(training_of):
    visible, infrared = images(24)
    training = training_of("fnet")
    training.network.forward = blend
    training.auxiliary["ifnet"].forward = lambda fused: (rebuilt(fused), 0.8 * fused)
    fused = blend(visible, infrared)
    check(
        training.phases[0].loss(visible, infrared),
        visible=1 * distance(rebuilt(fused), visible),
        infrared=1 * distance(0.8 * fused, infrared),
    )
    w = gradient(infrared).mean() / (gradient(infrared).mean() + gradient(visible).mean())
    similar = w * ssim(infrared, fused, 5).mean() + (1 - w) * ssim(visible, fused, 5).mean()
    check(
        training.phases[1].loss(visible, infrared),
        intensity=20 * mae(fused, torch.maximum(visible, infrared)),
        gradient=20 * mae(gradient(fused), torch.maximum(gradient(visible), gradient(infrared))),
        ssim=15 * (1 - similar),
    )


def test_swinfusion(training_of):
    visible, infrared = images(24)
    training = training_of("swinfusion")
    training.network.forward = blend
    fused = blend(visible, infrared)
    w = gradient(infrared).mean() / (gradient(infrared).mean() + gradient(visible).mean())
    check(
        training.phases[0].loss(visible, infrared),
        intensity=20 * mae(fused, torch.maximum(visible, infrared)),
        gradient=20 * mae(gradient(fused), torch.maximum(gradient(visible), gradient(infrared))),
        ssim=10 * (1 - w * ssim(infrared, fused, 5).mean() - (1 - w) * ssim(visible, fused, 5).mean()),
    )


def test_auifnet(training_of):
    visible, infrared = images(24)
    training = training_of("auifnet")
    training.network.encode = lambda image: (0.5 * image, rebuilt(image) - 0.5 * image)
    training.network.decode = lambda base, detail: base + detail
    both = torch.cat([visible, infrared])
    check(
        training.phases[0].loss(visible, infrared),
        mse=1 * mse(both, rebuilt(both)),
        ssim=5 * dssim(both, rebuilt(both), size=3),
    )


def test_cddfuse(training_of):
    visible, infrared = images(24)
    training = training_of("cddfuse")

    def base(image):
        return torch.cat([image, image.sin().roll(3, dims=2)], dim=1)

    def detail(image):
        # The last map is so faint that the epsilon beside the norms is seen.
        return torch.cat([lap(image), image.roll(2, dims=3) - image, 1e-3 * image.exp()], dim=1)

    training.network.DIDF_Encoder.forward = lambda image: (base(image), detail(image))
    training.network.DIDF_Decoder.forward = lambda image, b, d: rebuilt(image) + 0.01 * (b[:, :1] + d[:, :1])
    training.network.BaseFuseLayer.forward = torch.square
    training.network.DetailFuseLayer.forward = torch.tanh

    def cc(a, b):
        a, b = (maps - maps.mean((2, 3), keepdim=True) for maps in (a, b))
        norms = (a.square().sum((2, 3)) * b.square().sum((2, 3))).sqrt()
        return ((a * b).sum((2, 3)) / (norms + np.finfo(np.float32).eps)).mean()

    decomposition = cc(detail(visible), detail(infrared)) ** 2 / (1.01 + cc(base(visible), base(infrared)))
    again = {name: rebuilt(x) + 0.01 * (x + lap(x)) for name, x in (("visible", visible), ("infrared", infrared))}
    check(
        training.phases[0].loss(visible, infrared),
        visible=5 * dssim(visible, again["visible"], 11) + mse(visible, again["visible"]),
        infrared=5 * dssim(infrared, again["infrared"], 11) + mse(infrared, again["infrared"]),
        gradient=5 * mae(slopes(visible), slopes(again["visible"])),
        decomposition=2 * decomposition,
    )
    fused = rebuilt(visible) + 0.01 * ((visible + infrared) ** 2 + torch.tanh(lap(visible) + lap(infrared)))
    check(
        training.phases[1].loss(visible, infrared),
        intensity=1 * mae(torch.maximum(visible, infrared), fused),
        gradient=10 * mae(torch.maximum(gradient(visible), gradient(infrared)), gradient(fused)),
        decomposition=2 * decomposition,
    )


def test_u2fusion(training_of):
    visible, infrared = images(24)
    training = training_of("u2fusion")
    training.network.forward = blend
    fused, features = blend(visible, infrared), narrow_vgg()
    # Caffe's VGG sees 0..255, torchvision's that over 255 times the mean deviation 0.226: c is scaled as their squares.
    c = 3200 / (0.226 * 255) ** 2
    kernel = torch.full((4, 1, 3, 3), 1 / 8)
    kernel[:, :, 1, 1] = -1

    def g(source):
        maps = normalised(F.interpolate(source, size=(224, 224), mode="nearest"))
        # The ReLUs after conv1_2, conv2_2, conv3_3, conv4_3, conv5_3.
        layers = [features[: last + 1](maps) for last in (3, 8, 15, 22, 29)]
        return sum(F.conv2d(one, kernel, padding=1, groups=4).square().mean((1, 2, 3)) for one in layers) / 5

    w1, w2 = torch.softmax(torch.stack([g(visible) / c, g(infrared) / c]), dim=0)
    check(
        training.phases[0].loss(visible, infrared),
        ssim=(w1 * (1 - ssim(visible, fused)) + w2 * (1 - ssim(infrared, fused))).mean(),
        mse=20 * (w1.mean() * mse(visible, fused) + w2.mean() * mse(infrared, fused)),
    )


def test_coconet(training_of):
    visible, infrared = images(24)
    training = training_of("coconet")
    training.network.fused = lambda *sources: 2 * blend(*sources) - 1
    v, i, fused = (2 * image - 1 for image in (visible, infrared, blend(visible, infrared)))

    def h(x):
        levels = np.rint(127.5 * x.numpy() + 127.5).astype(int).reshape(len(x), -1)
        return torch.tensor([entropy_of_counts(np.bincount(image, minlength=256)) for image in levels])

    g_v, g_i = ((gradient(x) + 1e-5).mean((1, 2, 3)) for x in (v, i))
    w1, w2 = torch.softmax(torch.stack([g_v, g_i]) / (0.5 * (g_v + g_i)), dim=0)
    e1, e2 = torch.softmax(torch.stack([h(v), h(i)]) / (0.75 * (h(v) + h(i))), dim=0)
    to_visible, to_infrared = (ssim(x, blend(visible, infrared), 5).mean() for x in (visible, infrared))
    check(
        training.phases[0].loss(visible, infrared),
        ssim=20 * (w1 * (1 - to_visible) + w2 * (1 - to_infrared)).mean(),
        mse=(e1 * (fused - v).square().mean((1, 2, 3)) + e2 * (fused - i).square().mean((1, 2, 3))).mean(),
    )


def test_laph(training_of):
    visible, infrared = images(64)
    training = training_of("laph")
    training.network.forward = blend
    fused = blend(visible, infrared)
    line = torch.tensor([1.0, 4, 6, 4, 1]) / 16

    def blur(image, factor=1):
        return factor * F.conv2d(F.pad(image, (2,) * 4, mode="reflect"), torch.outer(line, line)[None, None])

    def down(image):
        return blur(image)[..., ::2, ::2]

    def up(image):
        return blur(F.conv_transpose2d(image, F.pad(torch.ones(1, 1, 1, 1), (0, 1, 0, 1)), stride=2), 4)

    def edge(x):  # D of the sheet
        return sobel(x, "replicate").square().sum(1)

    def cell_weight(level, k):
        means = torch.zeros(level.shape[0], 1, level.shape[2] // k, level.shape[3] // k)
        for n, _, y, x in np.ndindex(means.shape):
            cell = level[n, 0, k * y : k * (y + 1), k * x : k * (x + 1)]
            means[n, 0, y, x] = cell[cell > cell.mean()].mean()
        return means

    def differences(image, size, k):
        cells = F.avg_pool2d(F.interpolate(image, size, mode="bilinear", align_corners=True), k)
        around = F.pad(cells, (1, 1, 1, 1))
        sides = around[..., 1:-1, :-2], around[..., 1:-1, 2:], around[..., :-2, 1:-1], around[..., 2:, 1:-1]
        return cells - torch.cat(sides, dim=1)

    contrast, (v, i) = 0, (visible, infrared)
    for k in (8, 4, 2):
        level_v, level_i = v - up(down(v)), i - up(down(i))
        w = torch.softmax(torch.stack([cell_weight(level_v, k), cell_weight(level_i, k)]), dim=0)
        d_f, d_v, d_i = (differences(x, v.shape[2:], k) for x in (fused, visible, infrared))
        contrast = contrast + (d_f - w[0] * d_v - w[1] * d_i).square().sum(1).mean()
        v, i = down(v), down(i)
    check(
        training.phases[0].loss(visible, infrared),
        gradient=10 * ((edge(fused) - edge(visible + infrared)).square() + 1e-6**2).sqrt().mean(),
        ssim=1 * (1 - 0.5 * ssim(visible, fused).mean() - 0.5 * ssim(infrared, fused).mean()),
        contrast=0.5 * contrast,
    )
    # Equal edges leave the Charbonnier distance's epsilon alone, and zero for its gradient.
    training.network.forward = lambda visible, infrared: visible + infrared
    assert training.phases[0].loss(visible, infrared)["gradient"].item() == pytest.approx(10 * 1e-6)


def test_murf(training_of):
    visible, infrared = images(24)
    training = training_of("murf")
    training.network.forward = blend
    fused, lap_v, lap_i = blend(visible, infrared), lap(visible), lap(infrared)
    larger = torch.where(lap_v.abs() > lap_i.abs(), lap_v, lap_i)
    check(
        training.phases[0].loss(visible, infrared),
        ssim=1 - 0.5 * ssim(fused, infrared).mean() - 0.5 * ssim(fused, visible).mean(),
        texture=10 * mae(lap(fused), larger.sign() * larger.abs() ** 0.7),
    )


def test_lrrnet(training_of):
    visible, infrared = (0.1 + 0.7 * image for image in images(24))
    training = training_of("lrrnet")
    training.network.forward = blend
    features = narrow_vgg()

    def stretched(x):
        return (x - x.amin((2, 3), keepdim=True)) / (x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True) + 1e-5)

    def phi(image):
        # The ReLUs after conv1_2, conv2_2, conv3_3, conv4_3.
        return [features[: last + 1](image.expand(-1, 3, -1, -1)) for last in (3, 8, 15, 22)]

    vi, ir = 255 * visible, 255 * infrared
    out = 255 * stretched(blend(stretched(vi), stretched(ir)))
    of_out, of_vi, of_ir = phi(out), phi(vi), phi(ir)
    check(
        training.phases[0].loss(visible, infrared),
        values=10 * mse(out, vi),
        shallow=1.5 * mse(of_out[0], of_vi[0]),
        middle=0.01 * mse(of_out[1], 3.0 * of_ir[1] + 0.5 * of_vi[1]),
        deep=0.5 * mse(of_out[2], 3.0 * of_ir[2] + 0.5 * of_vi[2]),
        style=2000 * mse(gram(of_out[3]), gram(of_ir[3])),
    )


def test_itfuse(training_of):
    visible, infrared = images(24)
    training = training_of("itfuse")
    training.network.forward = blend
    fused = blend(visible, infrared)

    def charbonnier(a, b):
        return ((a - b).square() + 1e-3**2).sqrt().mean()

    check(
        training.phases[0].loss(visible, infrared),
        charbonnier=1 * charbonnier(fused, infrared) + 1 * charbonnier(fused, visible),
        ssim=4 * (1 - ssim(fused, infrared).mean()) + 4 * (1 - ssim(fused, visible).mean()),
    )


# From 176 pixels on, all five scales hold a whole window.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def log_of_gaussian(x, padding):
    """Return MDA's LoG of 255 x, each map alone."""
    rows = """0 1 1 2 2 2 1 1 0 / 1 2 4 5 5 5 4 2 1 / 1 4 5 3 0 3 5 4 1 / 2 5 3 -12 -24 -12 3 5 2 /
        2 5 0 -24 -40 -24 0 5 2 / 2 5 3 -12 -24 -12 3 5 2 / 1 4 5 3 0 3 4 4 1 / 1 2 4 5 5 5 4 2 1 / 0 1 1 2 2 2 1 1 0"""
    kernel = torch.tensor([[float(value) for value in row.split()] for row in rows.split("/")])
    return F.conv2d(255 * x, kernel.expand(x.shape[1], 1, 9, 9), padding=padding, groups=x.shape[1])


def test_mda(training_of):
    vis, ir = images(176)
    training, features = training_of("mda"), narrow_vgg()
    alpha, beta, c = 0.2, 0.167, 3000

    def maps_of(image):
        return [F.avg_pool2d(torch.cat([image, image.square()], dim=1), size) for size in (1, 2, 4)]

    def joined(a, b):
        return 0.4 * F.interpolate(a, b.shape[2:]) + 0.5 * b.square()

    training.network.features = lambda image: tuple(maps_of(image))
    training.network.fuse = lambda a, b: tuple(joined(a[i], b[v]) for i, v in ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2)))
    training.network.decode = lambda f11, f12, f22, f24, f44: 0.9 * f11[:, :1] + 0.3 * f12[:, 1:].square()
    (a1, a2, a4), (b1, b2, b4) = maps_of(ir), maps_of(vis)
    f11, f12, f22, f24, f44 = joined(a1, b1), joined(a2, b1), joined(a2, b2), joined(a4, b2), joined(a4, b4)
    fused = 0.9 * f11[:, :1] + 0.3 * f12[:, 1:].square()

    def convolved(image):
        """Return what conv1_2 and conv2_2 of a VGG give, with a sigmoid for every ReLU."""
        first = features[2](torch.sigmoid(features[0](normalised(image))))
        return first, features[7](torch.sigmoid(features[5](features[4](torch.sigmoid(first)))))

    def spread(source):
        means = []
        for phi in (torch.sigmoid(maps) for maps in convolved(source)):
            bins = np.rint(255 * phi.numpy() + 1).astype(int).reshape(len(phi), 4, -1)
            en = [[entropy_of_counts(np.bincount(one), base=2) for one in image] for image in bins]
            std = (255 * phi + 1).numpy().reshape(len(phi), 4, -1).std(-1, ddof=1)
            means.append((np.array(en) + beta * std).mean(1))
        return torch.tensor(np.mean(means, axis=0))

    def detailed(source):
        means = [log_of_gaussian(torch.sigmoid(phi), 1).square().mean((1, 2, 3)) for phi in convolved(source)]
        return (means[0] + means[1]) / 2

    def msssim(a, b):
        found = 1
        for scale, weight in enumerate(SCALE_WEIGHTS):
            whole, contrast = ssim_and_contrast(a, b, span=255)
            found = found * (whole if scale == 4 else contrast).mean((1, 2, 3)) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        return found

    intensity = torch.softmax(torch.stack([spread(ir), spread(vis)]) / c, dim=0)
    detail = torch.softmax(torch.stack([detailed(ir), detailed(vis)]) / c, dim=0)
    errors = [(fused - source).square().mean((1, 2, 3)) for source in (ir, vis)]
    l_s = detail[0] * (1 - msssim(fused, ir)) + detail[1] * (1 - msssim(fused, vis))
    l_m = intensity[0] * errors[0] + intensity[1] * errors[1]

    def level(f, a, b):
        smaller = f if f.shape == a.shape else f[..., ::2, ::2]
        return mse(log_of_gaussian(f, 1), log_of_gaussian(b, 1)) + 20 * mse(smaller, a)

    l_p = 8 * level(f11, a1, b1) + 8 * level(f12, a2, b1) + 2 * level(f22, a2, b2)
    l_p = l_p + 2 * level(f24, a4, b2) + 1 * level(f44, a4, b4)

    def row_softmax(phi):
        return torch.softmax(gram(phi), dim=-1)

    styles = [(row_softmax(i), row_softmax(f)) for i, f in zip(convolved(ir), convolved(fused), strict=True)]
    l_st = sum((p * (p / q).log()).sum() / len(ir) for p, q in styles)

    def box(image):
        return F.conv2d(image, torch.full((1, 1, 15, 15), 1 / 225), padding=7)

    structure, brightness, textures = [], [], []
    for source in (ir, vis):
        variance, variance_f = (box(x * x) - box(x) ** 2 for x in (source, fused))
        covariance = box(source * fused) - box(source) * box(fused)
        structure.append((2 * covariance + 6.25) / (variance + variance_f + 6.25))
        textures.append(box(box(log_of_gaussian(source, 4).square()).sqrt()) / c)
        brightness.append((box(source) + beta * variance) / c)
    w, m = torch.softmax(torch.stack(textures), dim=0), torch.softmax(torch.stack(brightness), dim=0)
    l_pa = (w[0] * (1 - structure[0]) + w[1] * (1 - structure[1])).mean()
    l_pa = l_pa + alpha * (m[0] * box((fused - ir) ** 2) + m[1] * box((fused - vis) ** 2)).mean()
    check(
        training.phases[0].loss(vis, ir),
        structure=1 * l_s.mean(),
        mse=alpha * l_m.mean(),
        features=1e-6 * l_p,
        style=1 * l_st,
        patches=2 * l_pa,
    )


def test_what_the_edges_outweigh_in_mda():
    visible, infrared = (
        [torch.full((1, 2, 32 // 2**k, 32 // 2**k), x[k]) for k in range(3)] for x in ([0.5] * 3, (0.6, 0.7, 0.8))
    )
    fused = tuple(visible[b] for b in (0, 0, 1, 1, 2))
    assert mda.feature_loss(fused, infrared, visible).item() == pytest.approx(
        20 * (8 * 0.01 + 8 * 0.04 + 2 * 0.04 + 2 * 0.09 + 0.09)
    )
    # With two sources that are nearly alike, their weights are far from 0 and 1.
    vgg = Features(narrow_vgg(), mda.LAYERS)
    sources = [images(64)[0], 0.999 * images(64)[0]]
    maps = [[torch.sigmoid(phi) for phi in vgg(normalised(source))] for source in sources]
    detail = [sum(log_of_gaussian(phi, 1).square().mean((1, 2, 3)) for phi in one) / 2 / 3000 for one in maps]
    weights = torch.softmax(torch.stack(detail), dim=0)
    assert weights.min() > 0.2 and torch.allclose(mda.source_weights(vgg, sources)[1], weights, rtol=1e-8)


def test_the_patches_of_mda_are_averaged_over_any_number_of_images():
    fused, *sources = torch.rand(3, 3, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    each = [mda.patch_loss(fused[n : n + 1], [source[n : n + 1] for source in sources]) for n in range(3)]
    assert mda.patch_loss(fused, sources).item() == pytest.approx(sum(each).item() / 3, rel=1e-10)


def test_crossfuse(training_of):
    training = training_of("crossfuse")

    def msssim(a, b):
        found = 1
        for scale, weight in enumerate(SCALE_WEIGHTS):
            whole, contrast = ssim_and_contrast(a, b, span=255 if a.max() > 128 else 1)
            # The mean of cs in the first four scales; that of SSIM, to the fourth power, in the last.
            mapped = ((whole if scale == 4 else contrast).mean() + 1) / 2
            found = found * (mapped**weight) ** (4 if scale == 4 else 1)
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        return found

    visible, infrared = images(176, count=1)
    # The data range of the similarity goes by the brightest pixel of what is rebuilt.
    for phase, coder, brightest in ((0, "infrared", 255), (0, "infrared", 128.5), (1, "visible", 127.5)):
        getattr(training.network, coder).forward = lambda x, most=brightest / 255: most * (x / x.max()).sqrt()
        x = 255 * (infrared if coder == "infrared" else visible)
        rec = brightest * (x / x.max()).sqrt()
        check(training.phases[phase].loss(visible, infrared), mse=mse(rec, x), ssim=10000 * (1 - msssim(rec, x)))

    training.network.forward, (visible, infrared) = blend, images(24)
    vi, ir, out = 255 * visible, 255 * infrared, 255 * blend(visible, infrared)
    a, b = (F.conv2d(x, torch.full((1, 1, 11, 11), 1 / 121), padding=5) for x in (ir, vi))
    target = torch.where(a / (a + b + 1e-6) - b / (a + b + 1e-6) > 0, ir, vi)
    check(
        training.phases[2].loss(visible, infrared),
        mse=1 * mse(out, target),
        gradient=10 * mse(lap(out).relu(), torch.maximum(lap(ir).relu(), lap(vi).relu())),
    )


def turned(image, degrees):
    """Turn counter-clockwise about the centre, bilinear, zeros outside."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(image), 2, 3)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def test_emma(training_of):
    visible, infrared = images(24)
    training = training_of("emma")
    asked = []

    def to_infrared(x):
        asked.append(x)
        return 0.7 * x + 0.1

    training.auxiliary["to_infrared"].forward, training.auxiliary["to_visible"].forward = to_infrared, rebuilt
    fused = blend(visible, infrared)  # also what the teacher makes, from which stage 0 learns
    check(training.phases[0].loss(visible, infrared), mse=mse(to_infrared(fused), infrared))
    check(training.phases[1].loss(visible, infrared), mse=mse(rebuilt(fused), visible))
    training.network.forward = blend
    terms = training.phases[2].loss(visible, infrared)
    moved = next(x for x in asked if len(x) == 20)  # T of the sheet
    check(
        terms,
        visible=distance(rebuilt(fused), visible),
        infrared=distance(to_infrared(fused), infrared),
        equivariance=0.1 * distance(moved, blend(rebuilt(moved), to_infrared(moved))),
    )
    one, *others = moved.view(10, 2, 1, 24, 24)
    assert torch.equal(one, fused)
    for found, degrees in zip(others[3:6], (10.0, 130.0, 250.0), strict=True):
        assert torch.allclose(found, turned(fused, degrees), atol=1e-6)
    flips = [fused.flip(sides) for sides in ([2], [3], [2, 3])]
    assert all(any(torch.equal(found, flip) for found in others[6:]) for flip in flips)


def test_emma_rolls_by_three_distinct_offsets_of_rows_and_of_columns_up_to_127():
    torch.manual_seed(0)
    spot = torch.zeros(1, 1, 300, 280)
    spot[0, 0, 150, 140] = 1
    met = []
    for _ in range(400):
        places = [divmod(int(rolled.argmax()), 280) for rolled in islice(emma.transformations(spot), 1, 4)]
        offsets = [(row - 150, column - 140) for row, column in places]
        assert all(len(set(one)) == 3 for one in zip(*offsets, strict=True))
        met += offsets
    for steps in zip(*met, strict=True):
        assert (min(steps), max(steps)) == (-127, 127) and 0 not in steps


# ---- The recipes ---------------------------------------------------------------------------------------------------

CONSTANT = {0.0: 1.0, 0.3: 1.0, 0.999: 1.0}


def recipe(rates, iterations=None, betas=(0.9, 0.999), weight_decay=0.0, clip=None, schedule=CONSTANT):
    """Return a phase's settings; the rate is that of all that it trains, or each network's by name."""
    rates = rates if isinstance(rates, dict) else {"network": rates}
    return SimpleNamespace(
        rates=rates, iterations=iterations, betas=betas, weight_decay=weight_decay, clip=clip, schedule=schedule
    )


def halved(epochs, every):
    """Return the factor in the middle of each epoch, halved after every so many."""
    return {(epoch + 0.5) / epochs: 0.5 ** (epoch // every) for epoch in range(epochs)}


def tenth_from_the_third_of(epochs):
    """Return the factor at the second epoch's end, the third's beginning and the last one's end."""
    return {0.0: 1.0, 1.99 / epochs: 1.0, 2.01 / epochs: 0.1, 0.999: 0.1}


PATCHES = 1083 * 6  # of MSRS's pairs, as CDDFuse's and EMMA's authors cut them
CODERS = ("network.DIDF_Encoder", "network.DIDF_Decoder")
FUSERS = ("network.BaseFuseLayer", "network.DetailFuseLayer")
RECIPES = {
    "fnet": [recipe({"network": 1e-4, "ifnet": 1e-4}, 20_000), recipe(1e-4, 20_000)],
    "auifnet": [
        recipe(
            {"network.conv1": 1e-2, "network.conv2": 1e-3, "network.decoder": 1e-2},
            80 * 12,
            schedule={0.5 / 80: 1.0, 40.5 / 80: 1.0, 41.5 / 80: 0.1, 79.5 / 80: 0.1},
        )
    ],
    "swinfusion": [recipe(2e-5, 10_000)],
    "u2fusion": [recipe(1e-4)],
    "coconet": [recipe(1e-4)],
    "laph": [recipe(1e-4, 8_100, betas=(0.9, 0.99))],
    "murf": [recipe(1e-4, betas=(0.5, 0.99))],
    "lrrnet": [recipe(1e-5, 4 * 20_000 // 8, weight_decay=0.9)],
    "cddfuse": [
        recipe(dict.fromkeys(CODERS, 1e-4), PATCHES // 8 * 40, clip=0.01, schedule=halved(40, every=20)),
        # The coders' rate was halved after epochs 20 and 40 already; the fusion layers' begins.
        recipe(
            dict.fromkeys(CODERS, 1e-4 / 4) | dict.fromkeys(FUSERS, 1e-4),
            PATCHES // 8 * 80,
            clip=0.01,
            schedule=halved(80, every=20),
        ),
    ],
    "mda": [recipe(1e-5, 5 * 95_324 // 24)],
    "itfuse": [recipe(3e-4)],
    "crossfuse": [
        recipe({"network.infrared": 1e-4}, 4 * 40_000 // 2, weight_decay=0.9, schedule=tenth_from_the_third_of(4)),
        recipe({"network.visible": 1e-4}, 4 * 40_000 // 2, weight_decay=0.9, schedule=tenth_from_the_third_of(4)),
        recipe({"network.fusion": 1e-3}, 32 * (20_001 // 8), weight_decay=0.9, schedule=tenth_from_the_third_of(32)),
    ],
    "emma": [
        recipe({"to_infrared": 1e-4}, 40 * PATCHES // 64, schedule=halved(40, every=10)),
        recipe({"to_visible": 1e-4}, 40 * PATCHES // 64, schedule=halved(40, every=10)),
        recipe(1e-4, 120 * PATCHES // 4, schedule=halved(120, every=20)),
    ],
}
# The side of the crops, the pairs in a batch and the averaged weights' decay, where the sheet says it.
BATCHES = {
    "fnet": (128, 16, 0.999),
    "auifnet": (128, 32 // 2, 0),  # 32 images of either band
    "swinfusion": (128, 12, 0.999),
    "u2fusion": (64, 18, 0),
    "coconet": (64, 30, 0),
    "laph": (128, 32, 0),
    "murf": (128, 8, 0),
    "lrrnet": (128, 8, 0),
    "cddfuse": (128, 8, 0),
    "mda": (192, 24, 0),
    "itfuse": (120, 64, 0),
    "crossfuse": (256, 8, 0),
    "emma": (128, 4, 0),
}


def test_every_training_has_a_recipe_here():
    assert {name for name, entry in METHODS.items() if entry.trainable} == set(RECIPES) == set(BATCHES)


def settings(**changed):
    fixed = {"method": "any", "batch": 2, "crop": 8, "lr": None, "ema": 0.0, "seed": 0, "colour": "grey"}
    return loop.Settings(**fixed | {"iterations": (3,), "device": "cpu", "revision": 1} | changed)


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_optimised_and_how_is_the_sheets(training_of, name):
    training = training_of(name)
    assert (training.crop, training.batch, training.ema) == BATCHES[name]
    networks = {"network": training.network, **training.auxiliary}
    names = {
        id(parameter): f"{owner}.{key}" for owner, one in networks.items() for key, parameter in one.named_parameters()
    }
    assert len(training.phases) == len(RECIPES[name])
    for phase, wanted in zip(training.phases, RECIPES[name], strict=True):
        assert (phase.iterations, phase.clip) == (wanted.iterations, wanted.clip)
        adam, schedule = loop._optimiser(phase, settings(), "cpu")
        assert {share: schedule(share) for share in wanted.schedule} == pytest.approx(wanted.schedule)
        assert type(adam) is torch.optim.Adam  # whose decay is a part of the gradient, unlike AdamW's
        rates = {part: set() for part in wanted.rates}
        for group in adam.param_groups:
            assert (group["betas"], group["eps"], group["weight_decay"]) == (wanted.betas, 1e-8, wanted.weight_decay)
            for parameter in group["params"]:
                (part,) = (part for part in rates if names[id(parameter)].startswith(f"{part}."))
                rates[part].add(group["initial_lr"])
        assert rates == {part: {rate} for part, rate in wanted.rates.items()}
        optimised = {id(parameter) for group in adam.param_groups for parameter in group["params"]}
        assert optimised == {id(parameter) for parameter in phase.parameters}


def test_three_steps_of_the_moving_average_by_hand(tmp_path):
    # A constant gradient moves Adam's weight by its rate in every step: 1.0, 0.9, 0.8, 0.7.
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    phase = Phase("only", list(network.parameters()), lambda visible, infrared: {"total": network.weight.sum()}, lr=0.1)
    pairs = [np.zeros((2, 8, 8), np.uint8)] * 2
    trained, _ = loop.train(Training(network, [phase]), pairs, ["a", "b"], settings(ema=0.9), "cpu", tmp_path)
    assert trained["weights_raw"]["weight"].item() == pytest.approx(0.7)
    # 0.9 a + 0.1 w from a = 1: 0.9 + 0.09 = 0.99, then 0.891 + 0.08 = 0.971, then 0.8739 + 0.07 = 0.9439.
    assert trained["weights"]["weight"].item() == pytest.approx(0.9439)
