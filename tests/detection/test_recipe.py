"""What a recipe's values mean: their defaults, their limits, and that everything random is drawn anew."""

import inspect
import itertools
import random
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch
import yaml

from detection import loop
from detection.detector import build_model
from detection.images import TrainingImages
from detection.muon import orthogonal
from detection.recipe import AUGMENTATION, Recipe, epoch_order, learning_rate, step_seed
from detection.variant import read_data
from pipeline.stage import InputError

# isort: split
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.torch_utils import ModelEMA

SMALL = str(Path(__file__).with_name("small.yaml"))
SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"


def test_defaults_are_those_of_the_package():
    theirs = {name: parameter.default for name, parameter in inspect.signature(ModelEMA).parameters.items()}
    theirs = {"ema_decay": theirs["decay"], "ema_tau": theirs["tau"], **vars(DEFAULT_CFG)}
    theirs |= {"nominal_batch": DEFAULT_CFG.nbs, "image_size": DEFAULT_CFG.imgsz}
    ours = {item.name: item.default for item in fields(Recipe)}
    own = {"model", "optimizer", "schedule", "canvas", "precision", "gradient_clip"}
    assert {name: value for name, value in ours.items() if name not in own} == {
        name: theirs[name] for name in ours if name not in own
    }


def test_the_command_line_refuses_what_the_schema_refuses():
    detection = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))["properties"]["detection"]["properties"]
    schemas = {**detection["training"]["properties"], "image_size": detection["image_size"]}
    numbers = [item for item in fields(Recipe) if item.type in (int, float) and item.name != "seed"]
    refused = 0
    for item, value in itertools.product(numbers, (-1, 0, 0.0005, 0.002, 1, 2, 32, 64, 100)):
        if item.type is int and not isinstance(value, int):
            continue
        try:
            Recipe(**{item.name: value})
            taken = True
        except InputError:
            taken = False
        assert taken == jsonschema.Draft202012Validator(schemas[item.name]).is_valid(value), (item.name, value)
        refused += not taken
    assert refused > len(numbers)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("lr0", float("nan"), "--lr0 nan: expected a finite number"),
        ("box", float("inf"), "--box inf: expected a finite number"),
        ("ema_tau", 0.0, "--ema-tau 0.0: expected above 0"),
        ("perspective", 0.01, "--perspective 0.01: expected 0 to 0.001"),
        ("seed", -1, "--seed -1: expected at least 0"),
    ],
)
def test_a_value_that_no_training_can_have_is_refused_by_a_line(name, value, wanted):
    with pytest.raises(InputError) as error:
        Recipe(**{name: value})
    assert str(error.value) == wanted


def test_mosaics_want_a_square_canvas():
    with pytest.raises(InputError, match=r"--canvas fitted with --mosaic 0\.5: expected --mosaic 0"):
        Recipe(canvas="fitted", mosaic=0.5)


@pytest.mark.parametrize("model", ["yolov5n", "rtdetr-l"])
def test_the_optimizer_groups_parameters_as_that_of_the_package(model):
    built = build_model(model, ["a", "b"])
    ours = loop._optimizer(built, Recipe(optimizer="AdamW", nominal_batch=16))
    trainer = SimpleNamespace(args=SimpleNamespace(), data={})
    theirs = BaseTrainer.build_optimizer(trainer, built, "AdamW", lr=0.01, momentum=0.937, decay=0.0005)

    def groups(optimizer, key):
        trained = {id(p) for p in built.parameters() if p.requires_grad}
        names = {"bn": "norm"}
        return {
            names.get(group[key], group[key]): ({id(p) for p in group["params"]} & trained, group["weight_decay"])
            for group in optimizer.param_groups
        }

    assert groups(ours, "name") == groups(theirs, "param_group")


def steps_of(tiny, tmp_path, monkeypatch, recipe):
    """Train; return the average and, for each step, settings, weights before, gradients and weights after, by name."""
    steps, real = [], loop._optimizer

    def recorded(model, recipe):
        optimizer = real(model, recipe)
        names = {id(p): name for name, p in model.named_parameters()}

        def before(optimizer, *_):
            step = {}
            for group in optimizer.param_groups:
                settings = {key: value for key, value in group.items() if key != "params"}
                for p in group["params"]:
                    step[names[id(p)]] = [settings, p.detach().double().clone(), p.grad.double().clone()]
            steps.append(step)

        def after(optimizer, *_):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    steps[-1][names[id(p)]].append(p.detach().double().clone())

        handle = optimizer.register_step_pre_hook(before)
        optimizer._optimizer_step_pre_hooks.move_to_end(handle.id, last=False)  # Muon takes gradients away in one
        optimizer.register_step_post_hook(after)
        return optimizer

    monkeypatch.setattr(loop, "_optimizer", recorded)
    data = read_data(tiny / "visible" / "data.yaml", "train")
    average, _ = loop.train(data, recipe, "cpu", checkpoints=tmp_path)
    return dict(average.named_parameters()), steps


def small(**values):
    return Recipe(model=SMALL, image_size=64, epochs=2, batch=5, nominal_batch=5, warmup_epochs=1.0, **values)


def test_sgd_steps_by_nesterovs_momentum(tiny, tmp_path, monkeypatch):
    _, steps = steps_of(tiny, tmp_path, monkeypatch, small(weight_decay=0.05))
    velocity = dict.fromkeys(steps[0], 0.0)
    for step in steps:
        for name, (group, start, gradient, reached) in step.items():
            gradient = gradient + group["weight_decay"] * start
            velocity[name] = group["momentum"] * velocity[name] + gradient
            moved = -group["lr"] * (gradient + group["momentum"] * velocity[name])
            torch.testing.assert_close(reached, start + moved, rtol=1e-5, atol=1e-7)
    assert len(steps) == 4 and steps[-1][name][0]["momentum"] > 0.9 and steps[-1][name][0]["lr"] > 0.001


def test_adamw_steps_by_its_definition(tiny, tmp_path, monkeypatch):
    _, steps = steps_of(tiny, tmp_path, monkeypatch, small(weight_decay=0.05, optimizer="AdamW"))
    first, second = dict.fromkeys(steps[0], 0.0), dict.fromkeys(steps[0], 0.0)
    for number, step in enumerate(steps, 1):
        for name, (group, start, gradient, reached) in step.items():
            first[name] = 0.937 * first[name] + 0.063 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            scaled = first[name] / (1 - 0.937**number) / ((second[name] / (1 - 0.999**number)).sqrt() + 1e-8)
            expected = start * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * scaled
            torch.testing.assert_close(reached, expected, rtol=1e-5, atol=1e-6)


def polynomial(matrix):
    """Muon's, applied to the singular values themselves."""
    left, values, right = torch.linalg.svd(matrix / (matrix.norm() + 1e-7), full_matrices=False)
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


@pytest.mark.parametrize("shape", [(16, 16), (8, 72), (72, 8)])
def test_muons_matrices_are_nearly_orthogonal(shape):
    matrices = torch.randn(3, *shape, generator=torch.manual_seed(0))
    found = orthogonal(matrices)
    for one, matrix in zip(found, matrices, strict=True):
        torch.testing.assert_close(one.double(), polynomial(matrix.double()), rtol=1e-4, atol=1e-4)
    assert shape[0] == shape[1] or 0.6 < torch.linalg.svdvals(found).min() <= torch.linalg.svdvals(found).max() < 1.3


def test_muon_steps_by_its_definition(tiny, tmp_path, monkeypatch):
    _, steps = steps_of(tiny, tmp_path, monkeypatch, small(optimizer="Muon", weight_decay=0.05, momentum=0.9))
    assert len(steps) == 4
    momenta = dict.fromkeys(steps[0], 0.0)
    checked = 0
    for step in steps:
        for name, (group, start, gradient, reached) in step.items():
            if group["name"] != "weight":
                continue
            momenta[name] = 0.9 * momenta[name] + 0.1 * gradient
            move = polynomial((0.9 * momenta[name] + 0.1 * gradient).flatten(1)).reshape(start.shape)
            fan_out, fan_in = start.flatten(1).shape
            move *= 8 * group["lr"] * max(1, fan_out / fan_in) ** 0.5
            expected = start * (1 - group["lr"] * group["weight_decay"]) - move
            torch.testing.assert_close(reached, expected, rtol=1e-4, atol=1e-5)
            checked += 1
    biases = [(start, reached) for group, start, _, reached in steps[-1].values() if group["name"] == "bias"]
    assert checked > 20 and not any(torch.equal(*pair) for pair in biases)


def test_the_average_is_the_moving_one_of_the_weights_after_each_step(tiny, tmp_path, monkeypatch):
    average, steps = steps_of(tiny, tmp_path, monkeypatch, small(ema_decay=0.8, ema_tau=3.0))
    for name, found in average.items():
        if name not in steps[0]:  # not trained
            continue
        expected = steps[0][name][1]
        for number, step in enumerate(steps, 1):
            kept = 0.8 * (1 - np.exp(-number / 3))
            expected = kept * expected + (1 - kept) * step[name][3]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


def test_everything_random_is_drawn_anew(tiny, tmp_path, monkeypatch):
    data = read_data(tiny / "visible" / "data.yaml", "train")
    augmentation = {name: getattr(Recipe(), name) for name in AUGMENTATION}
    draws = []
    for seed in range(2):
        shown = TrainingImages(data, augmentation, 64, seed, mosaic_epochs=1)
        shown.transforms = shown.transforms_unmixed = lambda _: (random.random(), np.random.random())
        draws += [shown[epoch, index] for epoch in range(3) for index in range(10)]
    assert len({draw for pair in draws for draw in pair}) == 2 * 2 * 30
    recipes = [small(seed=0), small(seed=1)]
    orders = [tuple(epoch_order(recipe, 10, epoch)) for recipe in recipes for epoch in range(3)]
    assert len(set(orders)) == len(orders)
    seeds = [step_seed(recipe, step) for recipe in recipes for step in range(100)]
    assert len(set(seeds)) == len(seeds)
    starts = [
        torch.cat([p.flatten() for p in loop._start(data, r, "cpu", None, False).model.parameters()]) for r in recipes
    ]
    assert not torch.equal(*starts)
    drawn, real = [], loop.loss_of

    def loss_of(*args):
        drawn.append(torch.rand(1).item())  # what a network that draws would draw
        return real(*args)

    monkeypatch.setattr(loop, "loss_of", loss_of)
    loop.train(data, recipes[0], "cpu", checkpoints=tmp_path)
    assert len(set(drawn)) == len(drawn) == 4


def test_learning_rate_falls_from_the_first_to_the_last_value():
    for schedule in ("linear", "cosine"):
        recipe = Recipe(lr0=0.1, lrf=0.01, epochs=100, schedule=schedule)
        assert learning_rate(recipe, 0) == pytest.approx(0.1)
        assert learning_rate(recipe, 50) == pytest.approx(0.0505)
        assert learning_rate(recipe, 100) == pytest.approx(0.001)
    recipe = Recipe(lr0=0.1, lrf=0.01, epochs=100, schedule="onecycle", warmup_epochs=20.0)
    assert learning_rate(recipe, 20) == pytest.approx(0.1)
    assert learning_rate(recipe, 60) == pytest.approx(0.0505)
    assert learning_rate(recipe, 100) == pytest.approx(0.001)


def test_one_cycle_rises_and_falls_step_by_step():
    recipe = Recipe(optimizer="AdamW", schedule="onecycle", epochs=10, warmup_epochs=2.0, lr0=0.1, warmup_bias_lr=0.1)
    optimizer = loop._optimizer(build_model(SMALL, ["a"]), recipe)
    rates = []
    for step in range(50):  # five in an epoch
        loop._set_rates(optimizer, recipe, step, 5)
        rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})
    weights = [rate["weight"] for rate in rates]
    np.testing.assert_allclose(weights[:11], np.linspace(0, 0.1, 11))
    falling = 0.1 * (0.01 + 0.99 * (1 + np.cos(np.pi * np.arange(40) / 40)) / 2)
    np.testing.assert_allclose(weights[10:], falling)
    np.testing.assert_allclose([rate["bias"] for rate in rates[:11]], 0.1)
