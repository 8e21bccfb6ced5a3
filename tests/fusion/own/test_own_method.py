"""Methods of the user's own: each door fuses like a known method, is costed, and says what it was given."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion import check, cost, fuse
from fusion.weights import write_state
from pipeline.artefacts import read_csv
from pipeline.pairs import read_image, write_image
from pipeline.stage import InputError

MODULE = """
import numpy as np
import torch

class Blend(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Conv2d(2, 1, 1)

    def forward(self, visible, infrared):
        return self.mix(torch.cat([visible, infrared], 1))

def mean(visible, infrared):
    return (visible + infrared) / 2

def too_bright(visible, infrared):
    return 255 * visible

def too_small(visible, infrared):
    return visible[1:]

def whole_numbers(visible, infrared):
    return np.uint8(255 * visible)

def fails(visible, infrared):
    raise RuntimeError("no such layer,\\n  nor that")

def ends(visible, infrared):
    raise SystemExit(3)

def nothing(visible, infrared):
    visible + infrared

def needs_a_gpu(visible, infrared):
    raise AssertionError("Torch not compiled with CUDA enabled")

class Refuses:
    def __init__(self):
        raise ValueError("no table here")

def swapped(ir, vis):
    return vis
"""
PROGRAM = """
import sys
import cv2
visible, infrared = (cv2.imread(path, 0).astype(float) for path in sys.argv[1:3])
cv2.imwrite(sys.argv[3], ((visible + infrared) / 2).round())
"""


@pytest.fixture
def folders(tmp_path, rng, monkeypatch):
    """Three pairs, one of whose names would do harm in a shell, and a module `own_module`."""
    for name, channels in (("a", 3), ("; touch owned; $(touch owned)", 3), ("g", 1)):
        shape = (24, 30, 3) if channels == 3 else (24, 30)
        write_image(tmp_path / "vi" / f"{name}.png", rng.integers(0, 256, shape, dtype=np.uint8))
        write_image(tmp_path / "ir" / f"{name}.png", rng.integers(0, 256, (24, 30), dtype=np.uint8))
    (tmp_path / "own_module.py").write_text(MODULE)
    (tmp_path / "broken_module.py").write_text("raise ValueError('no settings')")
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("own_module", None)
    return tmp_path


def run(folders, own=None, *options, output="out", method="mine"):
    words = ["--method", method, *(["--own", own] if own else []), "--visible", str(folders / "vi")]
    words += ["--infrared", str(folders / "ir"), "--output", str(folders / output), "--device", "cpu"]
    fuse.main([*words, "--threads", "1", *map(str, options)])
    return folders / output


def images(folder):
    return {path.stem: read_image(path).astype(int) for path in sorted(folder.glob("*.png"))}


def assert_like_average(folders, found, most=2):  # a grey level of luma can be two of a colour
    wanted = images(run(folders, method="average", output="average"))
    assert found.keys() == wanted.keys() and not (folders / "owned").exists()
    assert max(np.abs(found[name] - wanted[name]).max() for name in wanted) <= most


def costs(own, *options):
    cost.main(
        ["--method", "mine", "--own", own, "--size", "24", "16", "--device", "cpu", "--threads", "1"]
        + ["--repeats", "1", "--json", "cost.json", *map(str, options)]
    )
    return json.loads(open("cost.json").read())  # noqa: PTH123


def test_a_function_fuses_like_the_method_that_it_is(folders):
    output = run(folders, "callable=own_module:mean")
    assert_like_average(folders, images(output))
    facts = read_csv(output / "manifest.csv")[1]
    assert facts["own"] == "callable=own_module:mean" and len(facts["own_sha256"]) == 64
    found = costs("callable=own_module:mean")
    assert found["median_s"] > 0 and found["parameters"] is None and found["multiply_adds"] is None


def blend():
    module = torch.nn.Conv2d(2, 1, 1)
    torch.nn.init.constant_(module.weight, 0.5)
    torch.nn.init.zeros_(module.bias)
    return {f"mix.{key}": value for key, value in module.state_dict().items()}


def test_a_module_is_filled_with_its_weights_and_counted(folders):
    write_state(folders / "blend.safetensors", blend())
    output = run(folders, "callable=own_module:Blend", "--weights", folders / "blend.safetensors")
    assert_like_average(folders, images(output))
    found = costs("callable=own_module:Blend", "--weights", folders / "blend.safetensors")
    assert (found["parameters"], found["multiply_adds"]) == (3, 2 * 24 * 16)


def test_a_torchscript_file_fuses_and_is_counted(folders):
    import own_module

    module = own_module.Blend()
    module.load_state_dict(blend())
    torch.jit.script(module).save(folders / "blend.pt")
    assert_like_average(folders, images(run(folders, "model=blend.pt")))
    assert costs("model=blend.pt")["parameters"] == 3


def write_onnx(path, **options):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    shape = [1, 1, "h", "w"]
    names = ("visible", "infrared", "fused")
    a, b, fused = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names)
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], np.float32(0.5).tobytes(), raw=True)
    nodes = [
        helper.make_node("Add", ["visible", "infrared"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["fused"]),
    ]
    graph = helper.make_graph(nodes, "mean", [a, b], [fused], [half])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path, **options)


def test_an_onnx_file_fuses(folders):
    pytest.importorskip("onnxruntime")
    write_onnx(folders / "mean.onnx")
    assert_like_average(folders, images(run(folders, "model=mean.onnx")))
    assert costs("model=mean.onnx")["median_s"] > 0


def fused_again(folders, own, *options):
    """Fuse as in a process of its own; return the images and the digest of what made them."""
    for name in ("own_module", "own_helper"):
        sys.modules.pop(name, None)
    output = run(folders, own, *options)
    return images(output)["g"].mean(), read_csv(output / "manifest.csv")[1]["own_sha256"]


def test_what_an_own_method_imports_or_is_said_to_read_is_fused_with_again_when_it_changes(folders):
    (folders / "own_module.py").write_text(
        "from pathlib import Path\n\nimport own_helper\n\n\ndef fuse(visible, infrared):\n"
        "    return own_helper.mix(visible, infrared) * float(Path('share.txt').read_text())\n"
    )
    (folders / "own_helper.py").write_text("def mix(visible, infrared):\n    return (visible + infrared) / 2\n")
    (folders / "share.txt").write_text("1.0")
    own = ("callable=own_module:fuse", "--watch", "share.txt")
    mean, digest = fused_again(folders, *own)
    assert fused_again(folders, *own) == (mean, digest)
    (folders / "own_helper.py").write_text("def mix(visible, infrared):\n    return visible / 2\n")
    darker, of_helper = fused_again(folders, *own)
    assert darker < 0.7 * mean and of_helper != digest
    (folders / "share.txt").write_text("0.5")
    darkest, of_watched = fused_again(folders, *own)
    assert darkest < 0.6 * darker and of_watched not in (digest, of_helper)


def test_an_onnx_file_with_other_external_data_fuses_again(folders):
    pytest.importorskip("onnxruntime")
    write_onnx(folders / "mean.onnx", save_as_external_data=True, location="half.bin", size_threshold=0)
    mean, digest = fused_again(folders, "model=mean.onnx")
    (folders / "half.bin").write_bytes(np.float32(0.25).tobytes())
    darker, of_data = fused_again(folders, "model=mean.onnx")
    assert darker < 0.6 * mean and of_data != digest


def test_without_onnxruntime_the_message_says_how_to_get_it(folders, monkeypatch):
    (folders / "mean.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="onnxruntime, which is not installed; `uv sync --extra onnx` installs it"):
        run(folders, "model=mean.onnx")


def test_a_command_gets_files_and_no_shell(folders):
    command = shlex.join([sys.executable, str(folders / "program.py"), "{visible}", "{infrared}", "{output}"])
    assert_like_average(folders, images(run(folders, f"command={command}")))
    assert costs(f"command={command}")["median_s"] > 0
    with pytest.raises(InputError, match="did not run"):
        run(folders, "command=$(touch owned);true {visible} {infrared} {output}")
    assert not (folders / "owned").exists()


def test_a_folder_is_taken_as_it_is_and_grey_images_get_the_visible_colours(folders, rng):
    made = run(folders, method="average", output="average")
    output = run(folders, "folder=average")
    assert all(np.array_equal(images(output)[name], image) for name, image in images(made).items())
    assert set(read_csv(output / "manifest.csv")[0]["colour"]) == {"as made", "ycbcr-full"}
    for name in images(made):
        write_image(folders / "grey" / f"{name}.png", np.full((24, 30), 120, np.uint8))
    assert images(run(folders, "folder=grey", output="coloured"))["a"].shape == (24, 30, 3)
    assert costs("folder=grey")["median_s"] is None


def test_a_folder_that_lacks_an_image_or_has_another_size_is_refused(folders):
    write_image(folders / "made/a.png", np.zeros((24, 31), np.uint8))
    with pytest.raises(InputError, match=r"no fused image for '; touch"):
        run(folders, "folder=made")
    (folders / "names.txt").write_text("a\n")
    with pytest.raises(InputError, match="is 31x24, expected 30x24"):
        run(folders, "folder=made", "--names", folders / "names.txt")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("callable=own_module:too_bright", r"returned values from .* expected 0 to 1"),
        ("callable=own_module:too_small", r"returned an image of shape \(23, 30\); expected \(24, 30\)"),
        ("callable=own_module:whole_numbers", "returned an array of uint8"),
        (
            "callable=own_module:fails",
            r"^fusing '.*': callable own_module:fails failed on .*RuntimeError: no such layer, nor that$",
        ),
        ("callable=own_module:ends", "failed on a pair of 30x24: SystemExit: 3"),
        ("callable=own_module:nothing", r"own_module:nothing returned None; expected the fused image"),
        ("callable=own_module:needs_a_gpu", "it needs a GPU; expected code that computes on the device"),
        ("callable=own_module:Refuses", "failed when called without arguments: ValueError: no table here"),
        (
            "callable=broken_module:fuse",
            "cannot be imported: ValueError: no settings; correct its module",
        ),
        ("callable=own_module:absent", "cannot be imported"),
        ("callable=own_module", "cannot be imported"),
        ("model=absent.pt", "is not a file"),
        ("model=program.py", "not a readable TorchScript file"),
        ("command=true {visible} {output}", r"lacks \{infrared\}"),
        ("command=false {visible} {infrared} {output}", "ended with status 1"),
        ("command=true {visible} {infrared} {output}", "wrote no output.png"),
        ("nosuch=a", "expected KIND=TARGET"),
    ],
)
def test_what_is_wrong_is_named(folders, own, message):
    with pytest.raises(InputError, match=message):
        run(folders, own)


def test_the_guides_commands_run_as_they_stand(folders):
    guide = (Path(__file__).parents[3] / "docs/own-method.md").read_text("utf-8")
    (folders / "mymethod.py").write_text(re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1])
    commands = re.search(r"```sh\n(.*?)```", guide, re.DOTALL)[1].splitlines()
    stages = {"fusion.check": check, "fusion.fuse": fuse, "fusion.cost": cost}
    for command in commands:
        stages[shlex.split(command)[2]].main(shlex.split(command)[3:])
    assert_like_average(folders, images(folders / "fused"))
    assert json.loads((folders / "check.json").read_text())["pairs"] == 3


def test_a_folder_is_checked_for_every_name_and_size(folders):
    made = run(folders, method="average", output="average")
    words = ["--own", "folder=average", "--visible", "vi", "--infrared", "ir", "--output", "check.json"]
    check.main(words)
    (made / "g.png").unlink()
    with pytest.raises(InputError, match="lacks the fused images of 1 of 3 pairs, 'g'"):
        check.main(words)
    write_image(made / "g.png", np.zeros((24, 31), np.uint8))
    with pytest.raises(InputError, match=r"g\.png is 31x24, expected 30x24"):
        check.main(words)


def test_the_check_takes_the_first_pair_that_is_whole_and_says_what_is_bound(folders):
    (folders / "ir/; touch owned; $(touch owned).png").unlink()
    words = ["--own", "callable=own_module:swapped", "--visible", "vi", "--infrared", "ir", "--output", "check.json"]
    with pytest.raises(InputError, match="no infrared image"):
        check.main(words)
    check.main([*words, "--first"])
    found = json.loads((folders / "check.json").read_text())
    assert found["bound"] == "visible to vis, infrared to ir, by their names"
    assert (found["tried"], found["pairs"]) == ("a", 1)
    with pytest.raises(InputError, match=r"^trying 'a': callable own_module:fails failed"):
        check.main([*words, "--first", "--own", "callable=own_module:fails"])


def test_a_model_of_a_fixed_size_is_checked_on_the_data_that_it_is_for(folders):
    pair = (torch.rand(1, 1, 24, 30), torch.rand(1, 1, 24, 30))
    import own_module

    class Fixed(own_module.Blend):
        def forward(self, visible, infrared):
            return (visible + infrared).reshape(24, 30) / 2

    torch.jit.trace(Fixed(), pair).save(folders / "fixed.pt")
    words = ["--own", "model=fixed.pt", "--output", "check.json"]
    check.main([*words, "--visible", "vi", "--infrared", "ir", "--first"])
    with pytest.raises(InputError, match=r"^trying 'noise': model fixed"):
        check.main(words)
