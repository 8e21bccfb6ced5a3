"""Inputs and outputs of own methods go where their names say, and names that could be mixed up are refused."""

import collections
import functools

import numpy as np
import pytest
import torch

from fusion.own.binding import band_of, bind_function, fused_of, metric_order
from fusion.own.functions import reason
from fusion.own.method import load_own, own_bf16_on
from pipeline.planning.own import OwnMethod
from pipeline.stage import InputError

VISIBLE, INFRARED = np.full((6, 5), 0.25, np.float32), np.full((6, 5), 0.75, np.float32)


@pytest.mark.parametrize(
    ("name", "band"),
    [
        *(
            (name, "visible")
            for name in ("vis", "VI", "img_vi", "rgbImage", "input_visible", "imgVis", "vis1", "visimg")
        ),
        *(
            (name, "infrared")
            for name in ("ir", "IR_image", "thermal", "imgIR", "x_ir", "lwir", "infra_red", "inputIr")
        ),
        *((name, None) for name in ("x", "input.1", "first", "device", "iris", "vi_ir", "video")),
    ],
)
def test_a_name_says_its_band(name, band):
    assert band_of(name) == band


FUNCTIONS = {
    "lambda visible, infrared: visible": "by their names",
    "lambda ir, vis: vis": "by their names",
    "lambda thermal_image, rgb: rgb": "by their names",
    "lambda ir, y: y": "by the name of one",
    "lambda x, vis: vis": "by the name of one",
    "lambda a, b: a": "by order",
    "lambda *images: images[0]": "by order",
    "lambda *, ir, vis: vis": "by their names",
    "lambda ir, scale=1, vis=None: vis": "by their names",
    "lambda ir=None, vis=None: vis": "by their names",
    "lambda ir, vis, rgb_out=False: vis": "by their names",
    "functools.partial(lambda scale, ir, vis: scale * vis, 1)": "by their names",
}


@pytest.mark.parametrize("code", FUNCTIONS)
def test_a_function_gets_each_band_where_its_parameters_say(code):
    function = eval(code, {"functools": functools})
    binding = bind_function(function, "callable m:f")
    assert binding.call(function, 0.25, 0.75) == 0.25 and FUNCTIONS[code] in str(binding)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("lambda vis, rgb: vis", "two inputs that are named after one band .* are both visible"),
        ("lambda ir1, ir2: ir1", "are both infrared"),
        ("lambda vis_ir, ir_vis: 1", "has inputs with ambiguous names"),
        ("lambda vis, ir, mask: vis", "takes 3 inputs .* a default for every other"),
        ("lambda images: images", r"takes 1 inputs \(images\); expected two"),
        ("lambda image, scale=1: image", "takes 1 inputs"),
        ("lambda x=1, y=2: x", "do not identify the two bands"),
    ],
)
def test_what_could_be_mixed_up_is_refused(code, message):
    with pytest.raises(InputError, match=message):
        bind_function(eval(code), "callable m:f")


Named = collections.namedtuple("Named", "weight fused_image")


@pytest.mark.parametrize("outputs", [7, [7], {"loss": 1, "fused": 7}, Named(1, 7), ((7,),)])
def test_of_several_outputs_the_fused_one_is_taken(outputs):
    assert fused_of(outputs, "model") == 7


@pytest.mark.parametrize("outputs", [(7, 8), {"a": 7, "b": 8}, {"fused": 7, "fused2": 8}, ()])
def test_outputs_that_could_be_mixed_up_are_refused(outputs):
    with pytest.raises(InputError, match="expected one, or one of them called fused"):
        fused_of(outputs, "model")


@pytest.mark.parametrize(
    ("code", "order"),
    [
        ("lambda visible, infrared, fused: 0", [0, 1, 2]),
        ("lambda fused, ir, vis: 0", [2, 1, 0]),
        ("lambda a, b, c: 0", [0, 1, 2]),
        ("lambda vis, ir, f, window=11: 0", [0, 1, 2]),
        ("lambda *images: 0", [0, 1, 2]),
    ],
)
def test_a_metrics_parameters_are_given_by_their_names(code, order):
    assert metric_order(eval(code), "the metric") == order


@pytest.mark.parametrize("code", ["lambda f, ir, vis: 0", "lambda fused, a, b: 0", "lambda ir, vis, x: 0"])
def test_a_metric_whose_names_contradict_the_order_is_refused(code):
    with pytest.raises(InputError, match="expected visible, infrared, fused"):
        metric_order(eval(code), "the metric")


class Swapped(torch.nn.Module):
    def forward(self, ir, vis):
        return vis


class Several(torch.nn.Module):
    def forward(self, vis, ir):
        return vis, ir


class Dictionary(torch.nn.Module):
    def forward(self, ir, vis):
        return {"attention": ir, "fused": vis}


class Channels(torch.nn.Module):
    def forward(self, vis, ir):
        return torch.cat([vis, ir], 1)


def fuse(own):
    fuser, bound = load_own(own, None, "cpu", "fp32")
    return fuser(VISIBLE, INFRARED), bound


@pytest.fixture(params=["callable", "trace", "script"])
def module(request, tmp_path, monkeypatch):
    """Return a function that makes an own method of a module, in three ways."""

    def make(kind):
        if request.param == "callable":
            return OwnMethod("callable", f"{__name__}:{kind.__name__}")
        pair = (torch.rand(1, 1, 6, 5), torch.rand(1, 1, 6, 5))
        made = torch.jit.trace(kind(), pair, strict=False) if request.param == "trace" else torch.jit.script(kind())
        made.save(tmp_path / "model.pt")
        return OwnMethod("model", str(tmp_path / "model.pt"))

    return make


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [Swapped, Dictionary])
def test_a_module_and_a_torchscript_file_are_bound_by_the_names_of_forward(module, kind):
    fused, bound = fuse(module(kind))
    assert np.array_equal(fused, VISIBLE)
    assert bound == "visible to vis, infrared to ir, by their names"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "message"), [(Several, r"returns 2 outputs \(0, 1\)"), (Channels, r"shape \(1, 2, 6, 5\)")]
)
def test_several_outputs_or_channels_of_a_module_are_refused(module, kind, message):
    with pytest.raises(InputError, match=message):
        fuse(module(kind))


def write_onnx(path, inputs, outputs, channels=1, wanted=None):
    """Write a model whose outputs are, in turn, its inputs plus nothing."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    shape = [1, channels, *(wanted or ("h", "w"))]
    nodes = [helper.make_node("Identity", [inputs[n]], [name]) for n, name in enumerate(outputs)]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names] for names in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OwnMethod("model", str(path))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(["vis", "ir"], ["out"]), (["vi_img", "ir_img"], ["fused", "mask"]), (["x", "x.1"], ["out"])],
)
def test_an_onnx_file_is_bound_by_its_inputs_names(tmp_path, inputs, outputs):
    fused, bound = fuse(write_onnx(tmp_path / "m.onnx", inputs, outputs))
    assert np.array_equal(fused, VISIBLE) and inputs[0] in bound


def test_an_onnx_file_whose_infrared_comes_first_gets_it_first(tmp_path):
    fused, bound = fuse(write_onnx(tmp_path / "m.onnx", ["ir", "vis"], ["ir_seen", "fused"]))
    assert np.array_equal(fused, VISIBLE) and bound == "visible to vis, infrared to ir, by their names"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["ir1", "ir2"], "outputs": ["out"]}, "two inputs that are named after one band"),
        ({"inputs": ["vis", "ir"], "outputs": ["a", "b"]}, r"returns 2 outputs \(a, b\)"),
        ({"inputs": ["vis", "ir"], "outputs": ["out"], "channels": 3}, "input vis is tensor.* expected float32"),
        ({"inputs": ["vis", "ir", "mask"], "outputs": ["out"]}, "takes 3 inputs"),
        ({"inputs": ["vis", "ir"], "outputs": ["out"], "wanted": (8, 8)}, "failed on a pair of 5x6: InvalidArgument"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_one_line(tmp_path, options, message):
    with pytest.raises(InputError, match=message) as error:
        fuse(write_onnx(tmp_path / "m.onnx", **options))
    assert "\n" not in str(error.value)


def test_what_torch_save_wrote_is_no_model(tmp_path):
    for name, options in (("new.pt", {}), ("old.pt", {"_use_new_zipfile_serialization": False})):
        torch.save({"weight": torch.zeros(2)}, tmp_path / name, **options)
        with pytest.raises(InputError, match=r"contains weights or an object of torch\.save; .*callable=package"):
            fuse(OwnMethod("model", str(tmp_path / name)))


def test_only_a_module_of_torch_computes_in_bfloat16():
    assert own_bf16_on(OwnMethod("callable", f"{__name__}:Swapped")) == ("cpu", "cuda")
    assert own_bf16_on(OwnMethod("callable", "numpy:maximum")) == own_bf16_on(OwnMethod("command", "true")) == ()


def test_a_foreign_errors_many_lines_become_one():
    assert reason(ValueError("a\n  b")) == "ValueError: a b" and reason(KeyError()) == "KeyError"
    assert len(reason(ValueError(9999 * "c"))) == 403
    assert reason(AssertionError("Torch not compiled with CUDA enabled")).endswith("which may be a CPU)")
