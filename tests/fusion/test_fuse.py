"""The fuse stage: its contract, its agreement with the authors' images, and what it refuses."""

import json
import time
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion import fuse as fuse_stage
from fusion.fnet.network import FNet
from fusion.fuse import Made, fuse_pair, fuse_pairs, main, one_at_a_time, thread_pool
from fusion.methods import METHODS, find_method, murf
from fusion.methods.laplacian import pyramid
from fusion.weights import write_state
from pipeline import corruptions
from pipeline.artefacts import read_csv, sha256_file
from pipeline.pairs import find_pairs, read_image, write_image
from pipeline.stage import InputError


@pytest.fixture
def folders(tmp_path, rng):
    """Two coloured pairs and a grey one, small: a mixed folder."""
    for name, channels in (("a", 3), ("b c", 3), ("ü'", 1)):
        shape = (20, 26, 3) if channels == 3 else (20, 26)
        write_image(tmp_path / "vi" / f"{name}.png", rng.integers(0, 256, shape, dtype=np.uint8))
        write_image(tmp_path / "ir" / f"{name}.png", rng.integers(0, 256, (20, 26), dtype=np.uint8))
    return tmp_path


def fuse(folders, *options, method="average", output="out"):
    where = ["--visible", folders / "vi", "--infrared", folders / "ir", "--output", folders / output]
    how = ["--method", method, "--device", "cpu", "--threads", "1"]
    main([str(word) for word in (*where, *how, *options)])
    return folders / output


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "fnet.safetensors"
    save_file(FNet().state_dict(), path)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_one_image_a_pair_and_a_manifest(folders, tmp_path, method, monkeypatch):
    monkeypatch.setattr(murf, "SIDE", 64)  # its authors' 1240 takes seconds
    weights, make = tmp_path / "weights.safetensors", find_method(method).network
    torch.manual_seed(3)
    write_state(weights, make(None).state_dict() if make else {})
    output = fuse(folders, "--weights", weights, method=method, output=f"every-{method}")
    manifest, facts = read_csv(output / "manifest.csv")
    assert manifest["name"].tolist() == ["a", "b c", "ü'"]
    assert manifest["colour"].tolist() == ["ycbcr-studio"] * 3
    assert facts["colours"] == "ycbcr-studio for all: 2 of 3 sampled visible images have colours, the others are grey"
    assert facts["method"] == method
    assert facts["weights"] == (sha256_file(weights) if METHODS[method].needs_weights else "none")
    for row in manifest.itertuples():
        image = read_image(output / row.file)
        assert image.shape[:2] == (row.height, row.width) == (20, 26)
        assert image.ndim == (2 if row.colour == "grey" else 3)
        assert sha256_file(output / row.file) == row.sha256
    assert sorted(path.name for path in output.glob("*.png")) == ["a.png", "b c.png", "ü'.png"]


def test_average_is_the_mean_of_the_luma(folders):
    output = fuse(folders, "--colour", "grey")
    for name in ("a", "b c", "ü'"):
        grey = [cv2.imdecode(np.fromfile(folders / kind / f"{name}.png", np.uint8), 0) for kind in ("vi", "ir")]
        wanted = np.rint(np.mean(np.float32(grey) / 255, axis=0, dtype=np.float32) * 255)
        assert np.abs(read_image(output / f"{name}.png") - wanted).max() <= 1


def test_the_laplacian_pyramid_adds_up_to_its_image(rng):
    for shape in ((37, 52), (1, 9), (2, 2)):
        image = rng.random(shape).astype(np.float32)
        *details, rest = pyramid(image)
        for detail in reversed(details):
            rest = cv2.pyrUp(rest, dstsize=detail.shape[::-1]) + detail
        assert np.allclose(rest, image, atol=1e-6)


def test_a_second_run_fuses_nothing_and_changes_nothing(folders, monkeypatch):
    output = fuse(folders)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("*.png")}
    manifest = (output / "manifest.csv").read_bytes()
    fuse(folders)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in output.glob("*.png")} == before
    assert (output / "manifest.csv").read_bytes() == manifest


def test_a_run_that_broke_off_goes_on_and_ends_the_same(folders):
    whole = fuse(folders, output="whole")
    broken = folders / "ir" / "b c.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:-20])
    with pytest.raises(InputError, match=r"b c\.png is truncated"):
        fuse(folders)
    output = folders / "out"
    written = {path.name for path in output.glob("*.png")}
    assert "a.png" in written and "b c.png" not in written
    assert not (output / "manifest.csv").exists()
    with (output / ".journal.jsonl").open("a") as journal:
        journal.write('{"name": "cut off')
    broken.write_bytes(good)
    fuse(folders)
    assert (output / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()


def test_several_threads_write_what_one_does(folders):
    pairs, frames = find_pairs([folders / "vi"], [folders / "ir"]), []
    fuser = one_at_a_time(find_method("average").load(None, "cpu", "fp32"))
    for count in (1, 3):
        with thread_pool(count, "cpu") as pool:
            make = partial(fuse_pair, fuser=fuser, colour="auto")
            frames.append(fuse_pairs(pairs, make, folders / str(count), {"method": "average"}, pool=pool))
    assert frames[0].equals(frames[1])
    one, several = ({path.name: path.read_bytes() for path in (folders / name).iterdir()} for name in "13")
    assert one == several and len(one) == 4


def test_after_an_error_no_further_pair_is_begun_and_what_is_done_is_kept(folders):
    for index in range(60):
        for band in ("vi", "ir"):
            write_image(folders / band / f"x{index:02}.png", np.zeros((8, 8), np.uint8))
    pairs = find_pairs([folders / "vi"], [folders / "ir"])
    begun = []

    def make(pair):
        begun.append(pair.name)
        time.sleep(0.01)
        if pair.name == "x05":
            raise InputError("no more")
        return Made(np.zeros((8, 8), np.uint8), "grey")

    with pytest.raises(InputError, match="no more"), thread_pool(3, "cpu") as pool:
        fuse_pairs(pairs, make, folders / "out", {"method": "some"}, pool=pool)
    assert len(begun) < 20
    lines = (folders / "out" / ".journal.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line)["name"] for line in lines] == ["a", "b c", *(f"x{index:02}" for index in range(5))]


def test_a_changed_source_or_a_damaged_result_is_fused_again(folders, rng):
    output = fuse(folders)
    first = (output / "a.png").read_bytes()
    write_image(folders / "ir" / "a.png", rng.integers(0, 256, (20, 26), dtype=np.uint8))
    (output / "b c.png").write_bytes(b"damaged")
    fuse(folders)
    assert (output / "a.png").read_bytes() != first
    assert read_image(output / "b c.png").shape == (20, 26, 3)


def test_other_settings_fuse_all_again(folders):
    first = (fuse(folders) / "a.png").read_bytes()
    assert (fuse(folders, method="maximum") / "a.png").read_bytes() != first


@pytest.mark.parametrize("raised", ["stage", "method"])
def test_a_raised_revision_fuses_all_again_also_where_the_manifest_is_gone(folders, monkeypatch, raised):
    output = fuse(folders)
    facts = [read_csv(output / "manifest.csv")[1]]
    (output / "manifest.csv").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.png")}
    if raised == "stage":
        monkeypatch.setattr(fuse_stage, "REVISION", fuse_stage.REVISION + 1)
    else:
        monkeypatch.setitem(METHODS, "average", replace(METHODS["average"], revision=99))
    fuse(folders)
    assert all(path.stat().st_mtime_ns > before[path.name] for path in output.glob("*.png"))
    facts.append(read_csv(output / "manifest.csv")[1])
    keys = ("stage_revision", "revision")
    assert [facts[0][key] != facts[1][key] for key in keys] == [raised == "stage", raised == "method"]


@pytest.mark.parametrize(
    ("method", "packages"),
    [("average", []), ("dwt", ["pywavelets"]), ("fnet", ["torch", "numba"])],
)
def test_the_manifest_states_the_versions_of_what_computed(folders, weights, method, packages):
    _, facts = read_csv(fuse(folders, "--weights", weights, method=method) / "manifest.csv")
    assert list(json.loads(facts["versions"])) == ["python", "numpy", "opencv-python-headless", *packages]


def test_fewer_names_remove_our_own_leftovers(folders):
    output = fuse(folders)
    (folders / "names.txt").write_text("a\n")
    fuse(folders, "--names", folders / "names.txt")
    assert [path.name for path in output.glob("*.png")] == ["a.png"]


@pytest.mark.parametrize("name", ["mine.png", "a.png"])
def test_an_image_of_somebody_else_stops_the_run_and_stays(folders, rng, name):
    data = write_image(folders / "out" / name, rng.integers(0, 256, (4, 4), dtype=np.uint8))
    (folders / "out" / ".hidden.png").write_bytes(data)
    with pytest.raises(InputError, match=rf"{name} was not written by this stage"):
        fuse(folders)
    assert (folders / "out" / name).read_bytes() == (folders / "out" / ".hidden.png").read_bytes() == data


@pytest.mark.parametrize("kind", ["vi", "ir"])
def test_the_sources_own_folder_is_refused_as_output(folders, kind):
    before = (folders / kind / "a.png").read_bytes()
    with pytest.raises(InputError, match="is a folder of source images"):
        fuse(folders, output=kind)
    assert (folders / kind / "a.png").read_bytes() == before


def test_jpeg_is_written_on_request(folders):
    output = fuse(folders, "--format", "jpg", "--quality", "95")
    manifest, facts = read_csv(output / "manifest.csv")
    assert manifest["file"].tolist() == ["a.jpg", "b c.jpg", "ü'.jpg"]
    assert facts["format"] == "jpg quality 95"


def test_bad_options_say_what_was_wanted(folders, weights, tmp_path):
    with pytest.raises(InputError, match="--method nosuch is unknown; expected one of average"):
        fuse(folders, method="nosuch")
    with pytest.raises(InputError, match="needs --weights: this project ships no weights"):
        fuse(folders, method="u2fusion")
    with pytest.raises(InputError, match="absent"):
        fuse(folders, "--weights", tmp_path / "absent", method="fnet")


def test_foreign_weights_are_refused_with_what_is_missing(folders, tmp_path):
    state = FNet().state_dict()
    state["other"] = state.pop("fuse_common.weight")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"missing fuse_common\.weight \(1\); unexpected other \(1\)"):
        fuse(folders, "--weights", tmp_path / "w.safetensors", method="fnet")


def test_a_malicious_pickle_is_not_run(folders, tmp_path):
    class Malice:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"weights": Malice()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="not loaded"):
        fuse(folders, "--weights", tmp_path / "w.pth", method="fnet")
    assert not (tmp_path / "owned").exists()


def test_images_of_a_single_grey_level_are_warned_of_in_a_repeated_run_too(folders, weights, tmp_path, caplog):
    collapsed = {name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()}
    save_file(collapsed, tmp_path / "collapsed.safetensors")
    fuse(folders, "--weights", weights, method="fnet")
    assert "single grey level" not in caplog.text
    # If a source has a single level, the network is not to blame.
    write_image(folders / "ir" / "ü'.png", np.zeros((20, 26), np.uint8))
    for _ in range(2):
        caplog.clear()
        output = fuse(folders, "--weights", tmp_path / "collapsed.safetensors", method="fnet", output="dark")
        said = (
            f"warning: 2 images fused by fnet in {output} have a single grey level, although their sources have several"
        )
        assert f"{said}: 'a', 'b c'" in caplog.text
    assert "uniform" not in (output / "manifest.csv").read_text()


def test_bfloat16_is_taken_where_the_method_has_it_and_what_was_computed_is_written(folders, weights, tmp_path):
    torch.manual_seed(0)
    write_state(tmp_path / "u.safetensors", find_method("u2fusion").network(None).state_dict())
    for method, of_method, computed in (("fnet", weights, "fp32"), ("u2fusion", tmp_path / "u.safetensors", "bf16")):
        made = {
            precision: fuse(folders, "--weights", of_method, "--precision", precision, method=method, output=precision)
            for precision in ("fp32", "bf16")
        }
        exact, rough = (read_image(made[name] / "ü'.png").astype(int) for name in ("fp32", "bf16"))
        assert np.array_equal(exact, rough) == (computed == "fp32") and np.abs(exact - rough).mean() < 8
        assert read_csv(made["bf16"] / "manifest.csv")[1]["precision"] == computed


@pytest.mark.parametrize(
    ("dataset", "visible", "infrared", "colour", "names", "most"),
    [("TNO", "vi", "ir", "grey", ["07", "19"], 1), ("MRI_CT", "CT", "MRI", "ycbcr-studio", ["11", "24"], 2)],
)
def test_the_authors_weights_give_the_authors_images(shared, tmp_path, dataset, visible, infrared, colour, names, most):
    root = shared / "data/fusion_test" / dataset
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    where = ["--visible", root / visible, "--infrared", root / infrared, "--names", tmp_path / "names.txt"]
    where += ["--output", tmp_path / "out", "--weights", shared / "data/checkpoints/FNet/FNet.pth"]
    main([*map(str, where), "--method", "fnet", "--colour", colour, "--device", "cpu"])
    for name in names:
        ours = read_image(tmp_path / "out" / f"{name}.png").astype(int)
        (path,) = (shared / "data/reference_fused/FNet" / dataset).glob(f"{name}.*")
        assert np.abs(ours - read_image(path)).max() <= most


def test_worse_pairs_are_fused_level_by_level_with_the_colour_of_the_pairs_as_they_are(folders):
    names = folders / "names.txt"
    names.write_text("a\nb c\n")
    where = ["--visible", folders / "vi", "--infrared", folders / "ir", "--names", names]
    what = ["--kind", "visible_missing", "--output", folders / "worse"]
    corruptions.main([str(word) for word in (*where, *what)])
    output = fuse(folders, "--worse", folders / "worse", "--names", names)
    clean = fuse(folders, "--names", names, output="clean")
    for level in ("black", "grey"):
        manifest, facts = read_csv(output / level / "manifest.csv")
        assert manifest["name"].tolist() == ["a", "b c"] and facts["worse"] == "visible_missing"
        assert (
            manifest["colour"].tolist()
            == read_csv(clean / "manifest.csv")[0]["colour"].tolist()
            == ["ycbcr-studio"] * 2
        )
    grey = read_image(folders / "worse/grey/a.png")
    pair = replace(find_pairs(folders / "vi", folders / "ir", ["a"])[0], visible=folders / "worse/grey/a.png")
    made = fuse_pair(pair, find_method("average").load(None, "cpu", "fp32"), "ycbcr-studio")
    assert np.array_equal(read_image(output / "grey/a.png"), made.image) and np.ptp(grey) == 0
    with pytest.raises(InputError, match=r"--worse with --own folder=.*: the folder has only finished images"):
        fuse(folders, "--worse", folders / "worse", "--own", f"folder={folders / 'vi'}", output="never")
