"""The loss without shapes that depend on values: equal to the package's, also where boxes are rare, small or equal."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detection import detector
from detection.detector import build_model, loss_of
from detection.images import TrainingImages
from detection.inside import INSIDE
from detection.recipe import AUGMENTATION, Recipe
from detection.static_loss import StaticDetectionLoss, padded_boxes
from detection.variant import read_data

# isort: split
from ultralytics.utils.loss import v8DetectionLoss

SMALL = str(Path(__file__).with_name("small.yaml"))
OWN = yaml.safe_load(Path(SMALL).read_text(encoding="utf-8"))
CLASSES = ["car", "person", "bus"]
HEIGHT, WIDTH = 128, 160
DECIMALS = {torch.float32: 1e-5, torch.float64: 1e-13}


@pytest.fixture(params=DECIMALS, ids=str)
def dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def batch_of(*images):
    """Return a batch of images whose boxes are rows (class, centre x, centre y, width, height), as fractions."""
    rows = torch.tensor([row for image in images for row in image]).reshape(-1, 5)
    index = torch.tensor([float(number) for number, image in enumerate(images) for _ in image])
    return {"batch_idx": index, "cls": rows[:, :1], "bboxes": rows[:, 1:]}


def drawn_boxes(count, smallest=0.05, largest=0.7, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sides = torch.rand(count, 2, generator=draw) * (largest - smallest) + smallest
    centres = sides / 2 + torch.rand(count, 2, generator=draw) * (1 - sides)
    classes = torch.randint(len(CLASSES), (count, 1), generator=draw)
    return torch.cat([classes, centres, sides], dim=1).tolist()


CAR = [0.0, 0.4, 0.5, 0.3, 0.4]
BATCHES = {
    "boxes of all sizes": batch_of(drawn_boxes(12), drawn_boxes(3, seed=1), drawn_boxes(7, seed=2)),
    "an image without boxes first": batch_of([], drawn_boxes(5), drawn_boxes(2, seed=1)),
    "an image without boxes last": batch_of(drawn_boxes(5), [], []),
    "no box": batch_of([], [], []),
    "one box": batch_of([], [CAR], []),
    "boxes below a stride": batch_of(drawn_boxes(9, 0.01, 0.08), [[1.0, 0.5, 0.5, 0.003, 0.002]], drawn_boxes(1)),
    "one box twice": batch_of([CAR, CAR], [CAR], [CAR] * 4),
    "one box of two classes": batch_of([CAR, [2.0, *CAR[1:]]], [CAR], []),
    "boxes inside each other": batch_of([CAR, [1.0, 0.4, 0.5, 0.1, 0.1], [1.0, 0.41, 0.5, 0.11, 0.1]], [CAR], []),
    "the whole image": batch_of([[0.0, 0.5, 0.5, 1.0, 1.0]], [CAR, [0.0, 0.5, 0.5, 1.0, 1.0]], []),
    "many boxes": batch_of(drawn_boxes(60), drawn_boxes(2, seed=1), drawn_boxes(30, seed=2)),
}


def with_padded(batch, images=3):
    batch = {name: value.to(torch.get_default_dtype()) for name, value in batch.items()}
    return {**batch, "padded": padded_boxes(batch["batch_idx"], batch["cls"], batch["bboxes"], images)}


def losses_of(architecture=None):
    """Return the package's loss and ours, for three classes."""
    model = build_model(SMALL, CLASSES, architecture)
    model.args = Recipe()
    return v8DetectionLoss(model), StaticDetectionLoss(model)


def drawn_predictions(dtype, seed=0, images=3, bins=16, spread=3.0):
    draw = torch.Generator().manual_seed(seed)
    levels = [(HEIGHT // stride, WIDTH // stride) for stride in (8, 16, 32)]
    anchors = sum(height * width for height, width in levels)
    return {
        "boxes": (torch.randn(images, 4 * bins, anchors, generator=draw) * spread).to(dtype),
        "scores": (torch.randn(images, len(CLASSES), anchors, generator=draw) * spread).to(dtype),
        "feats": [torch.zeros(images, 1, *level, dtype=dtype) for level in levels],
    }


def outcome(criterion, predictions, batch):
    """Return the loss, its parts and its gradients of boxes and scores."""
    leaves = {name: predictions[name].clone().requires_grad_() for name in ("boxes", "scores")}
    loss, parts = criterion({**predictions, **leaves}, batch)
    loss.sum().backward()
    return {"loss": loss.detach(), **parts, **{name: leaf.grad for name, leaf in leaves.items()}}


def assert_equal(found, expected, decimals):
    """Values differ by at most `decimals` of the greatest magnitude of their tensor."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=decimals * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("seed", range(3))
def test_losses_and_gradients_are_the_packages(name, seed, dtype):
    package, static = losses_of()
    predictions, batch = drawn_predictions(dtype, seed), with_padded(BATCHES[name])
    expected = outcome(package, predictions, batch)
    assert float(expected["cls_loss"]) > 0 and (float(expected["box_loss"]) > 0) == (name != "no box")
    assert_equal(outcome(static, predictions, batch), expected, DECIMALS[dtype])


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("spread", [0.0, 1e-3, 30.0])
def test_ties_and_extreme_predictions_are_treated_as_by_the_package(name, spread, dtype):
    """At a spread of 0 all anchors predict the same; at 30 most scores are 0 or 1 and most edges are one bin."""
    package, static = losses_of()
    predictions, batch = drawn_predictions(dtype, spread=spread), with_padded(BATCHES[name])
    if spread == 30:
        predictions["scores"] *= 10
        assert predictions["scores"].sigmoid().min() < 1e-30
    assert_equal(outcome(static, predictions, batch), outcome(package, predictions, batch), DECIMALS[dtype])


@pytest.mark.parametrize("name", BATCHES)
def test_edges_without_distributions_have_the_packages_loss(name, dtype):
    package, static = losses_of({**OWN, "reg_max": 1})
    predictions, batch = drawn_predictions(dtype, bins=1), with_padded(BATCHES[name])
    predictions["boxes"] = predictions["boxes"].abs()
    expected = outcome(package, predictions, batch)
    assert "l1_loss" in expected
    assert_equal(outcome(static, predictions, batch), expected, DECIMALS[dtype])


def test_classes_have_the_models_weights():
    model = build_model(SMALL, CLASSES)
    model.args, model.class_weights = Recipe(), torch.tensor([1.0, 3.0, 0.2])
    predictions, batch = drawn_predictions(torch.float32), with_padded(BATCHES["boxes of all sizes"])
    expected, found = (outcome(kind(model), predictions, batch) for kind in (v8DetectionLoss, StaticDetectionLoss))
    assert_equal(found, expected, 1e-5)
    assert found["cls_loss"] != outcome(losses_of()[1], predictions, batch)["cls_loss"]


def test_the_assignment_is_the_packages_to_the_last_bit():
    package, static = losses_of()
    for name, batch in BATCHES.items():
        for seed in range(5):
            assigned = []
            for criterion in (package, static):
                criterion.assigner.register_forward_hook(
                    lambda *args, into=assigned: into.append(args[2]), prepend=True
                )
                criterion(drawn_predictions(torch.float32, seed), with_padded(batch))
                criterion.assigner._forward_hooks.clear()
            _, boxes, scores, foreground, index = zip(*assigned, strict=True)
            assert torch.equal(*foreground), name
            assert torch.equal(*(one * foreground[0] for one in index)), name
            assert torch.equal(*(one * foreground[0][..., None] for one in boxes)), name
            assert torch.equal(*scores), name


def test_one_loss_takes_images_of_several_sizes(monkeypatch):
    package, static = losses_of()
    for height, width in ((128, 160), (64, 64), (160, 128), (128, 160)):
        monkeypatch.setitem(globals(), "HEIGHT", height)
        monkeypatch.setitem(globals(), "WIDTH", width)
        predictions, batch = drawn_predictions(torch.float32), with_padded(BATCHES["boxes of all sizes"])
        assert_equal(outcome(static, predictions, batch), outcome(package, predictions, batch), 1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_edges_off_the_foreground_have_no_effect(value):
    _, static = losses_of()
    predictions, batch = drawn_predictions(torch.float32), with_padded(BATCHES["an image without boxes last"])
    expected = outcome(static, predictions, batch)
    assert expected["boxes"][0].any() and not expected["boxes"][1:].any()
    predictions["boxes"][1:] = value
    found = outcome(static, predictions, batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("inside", [None, *INSIDE])
def test_all_parameters_have_the_gradients_of_the_packages_loss(inside, precision):
    torch.manual_seed(0)
    model = build_model(SMALL, CLASSES, inside=inside).train()
    recipe = Recipe(precision=precision)
    pixels = torch.randint(0, 256, (3, 4 if inside else 3, HEIGHT, WIDTH), dtype=torch.uint8)
    for batch in (BATCHES["boxes of all sizes"], BATCHES["no box"]):
        batch, found = {**with_padded(batch), "img": pixels}, []
        for criterion in (v8DetectionLoss, StaticDetectionLoss):
            model.args, model.criterion = recipe, None
            model.zero_grad()
            if criterion is v8DetectionLoss:
                loss, parts = loss_of(model, batch, recipe, "cpu")
                assert type(model.criterion) is v8DetectionLoss
            else:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    predicted = model(pixels.float() / 255)
                loss, parts = criterion(model)(detector._float32(predicted), {"padded": batch["padded"]})
                loss, parts = loss.sum(), {name.removesuffix("_loss"): value for name, value in parts.items()}
            loss.backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
            found.append({"loss": loss.detach(), **parts, **{n: g for n, g in gradients.items() if g is not None}})
        assert len(found[0]) > 40
        assert_equal(found[1], found[0], 1e-5)


class Operations(TorchDispatchMode):
    """Records the operations, and separately those with tensors on two devices or with a value for the host."""

    def __init__(self):
        super().__init__()
        self.names, self.waits = set(), []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, found)) if torch.is_tensor(one)]
        self.names.add(operation.overloadpacket.__name__)
        if len({one.device.type for one in tensors}) > 1 or operation is torch.ops.aten._local_scalar_dense.default:
            self.waits.append(str(operation))
        return found


def operations_without_values(criterion, batch, device, bins=16):
    """Return the operations of each of two steps with tensors that have shapes but no values.

    On the CPU these are torch's fake tensors. On `meta`, copies to and from the host are recorded, too.
    """
    steps = []
    with FakeTensorMode(allow_non_fake_inputs=True) if device == "cpu" else contextlib.nullcontext():
        criterion.device, criterion.proj = torch.device(device), criterion.proj.to(device)
        predictions = drawn_predictions(torch.float32, bins=bins)
        predictions["feats"] = [level.to(device) for level in predictions["feats"]]
        leaves = {name: predictions[name].to(device).requires_grad_() for name in ("boxes", "scores")}
        batch = {name: value.to(device) for name, value in batch.items()}
        for _ in range(2):
            with Operations() as operations:
                loss, parts = criterion({**predictions, **leaves}, batch)
                loss.sum().backward()
            steps.append(operations)
        assert loss.shape == (3,) and loss.device.type == device and len(parts) == 3
        assert all(leaf.grad.shape == leaf.shape for leaf in leaves.values())
    return steps


@pytest.mark.parametrize("bins", [16, 1])
def test_no_shape_depends_on_a_value(bins):
    package, static = losses_of({**OWN, "reg_max": bins})
    batch = with_padded(BATCHES["boxes of all sizes"])
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        operations_without_values(package, batch, "cpu", bins)
    operations_without_values(static, {"padded": batch["padded"]}, "cpu", bins)


@pytest.mark.parametrize("bins", [16, 1])
def test_after_the_first_step_nothing_is_copied_and_no_operation_is_nondeterministic(bins):
    _, static = losses_of({**OWN, "reg_max": bins})
    batch = with_padded(BATCHES["boxes of all sizes"])
    first, second = operations_without_values(static, {"padded": batch["padded"]}, "meta", bins)
    assert first.waits and not second.waits
    # Operations that torch.use_deterministic_algorithms lists.
    listed = {"scatter_add", "scatter_reduce", "index_add", "index_put", "_index_put_impl", "put", "gather_backward"}
    listed |= {"cumsum", "bincount", "histc", "median", "kthvalue", "nll_loss_forward", "index_select", "index_copy"}
    names = {name.removesuffix("_") for name in second.names}
    assert {"gather", "topk", "where", "amax"} <= names and not names & listed


def test_boxes_are_padded_in_their_order():
    batch = batch_of([], [CAR, [1.0, 0.1, 0.2, 0.3, 0.4]], [[2.0, 0.5, 0.5, 0.5, 0.5]], [])
    padded = with_padded(batch, images=4)["padded"]
    assert padded.shape == (4, 2, 5) and padded.dtype == torch.float32
    assert torch.equal(padded[1], torch.tensor([CAR, [1.0, 0.1, 0.2, 0.3, 0.4]]))
    assert padded[2, 0].tolist() == [2.0, 0.5, 0.5, 0.5, 0.5]
    assert not padded[0].any() and not padded[2, 1].any() and not padded[3].any()
    assert torch.equal(with_padded(batch_of([], []), images=2)["padded"], torch.zeros(2, 1, 5))


def test_batches_of_training_have_their_boxes_padded(tiny):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    augmentation = {name: getattr(Recipe(), name) for name in AUGMENTATION}
    images = TrainingImages(data, augmentation, 64, 0, mosaic_epochs=1)
    batch = images.collate_fn([images[0, index] for index in range(4)])
    counts = torch.bincount(batch["batch_idx"].long(), minlength=4)
    padded = batch["padded"]
    assert len(batch["bboxes"]) > 4 and padded.shape == (4, counts.max(), 5)
    rows = [padded[image, :count] for image, count in enumerate(counts.tolist())]
    assert torch.equal(torch.cat(rows), torch.cat([batch["cls"], batch["bboxes"]], dim=1))


def test_a_gpu_has_the_static_loss_and_is_sent_padded_boxes():
    """Checked without a GPU: the images stay on the CPU, and the loss stops where the boxes are sent."""
    model = build_model(SMALL, CLASSES).train()
    sent = []

    def stopped(self, device, **options):
        sent.append(self.data)
        raise KeyboardInterrupt

    image = SimpleNamespace(to=lambda *_, **__: torch.zeros(3, 3, HEIGHT, WIDTH))
    batch = {"img": image, "padded": type("Padded", (), {"data": "padded", "to": stopped})()}
    with pytest.raises(KeyboardInterrupt):
        loss_of(model, batch, Recipe(), "cuda:0")
    assert sent == ["padded"] and isinstance(model.criterion, StaticDetectionLoss)
