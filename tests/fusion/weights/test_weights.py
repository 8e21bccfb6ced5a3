"""Where weights come from is listed, and an authors' file is converted once."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors import safe_open

from fusion.fuse import main as fuse
from fusion.methods import METHODS, find_method, packaged_weights
from fusion.weights import fill, read_state
from fusion.weights.__main__ import find, main
from pipeline.artefacts import read_csv, sha256_file
from pipeline.pairs import read_image, write_image
from pipeline.stage import InputError


def test_every_method_that_needs_weights_says_where_they_are_published(capsys, tmp_path):
    main(["--folder", str(tmp_path)])
    listed = capsys.readouterr().out
    for name, entry in METHODS.items():
        if entry.needs_weights:
            published = find_method(name).published
            assert published, name
            assert f"{name}\n" in listed and published.repository in listed


def test_a_file_at_hand_is_compared_with_the_expected_digest(capsys, tmp_path):
    (tmp_path / "FNet.pth").write_bytes(b"other")
    main(["--folder", str(tmp_path)])
    digest = find_method("fnet").published.files["FNet.pth"]
    assert f"{sha256_file(tmp_path / 'FNet.pth')}, expected {digest}" in capsys.readouterr().out


def test_of_files_of_one_name_the_expected_one_is_found(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.ckpt").write_text(folder)
    assert find(tmp_path, "murf", "0.ckpt", sha256_file(tmp_path / "b/0.ckpt")) == tmp_path / "b/0.ckpt"
    assert find(tmp_path, "murf", "0.ckpt", "") == tmp_path / "a/0.ckpt"
    assert find(tmp_path, "murf", "1.ckpt", "") is None


def test_the_authors_file_becomes_ours_with_its_digest(shared, tmp_path):
    source = shared / "data/checkpoints/FNet/FNet.pth"
    main(["--convert", "fnet", str(source), "--output", str(tmp_path / "fnet.safetensors")])
    with safe_open(tmp_path / "fnet.safetensors", "pt") as file:
        assert file.metadata() == {"converted_from": f"fnet {sha256_file(source)}"}
    one, other = (find_method("fnet").network(path) for path in (source, tmp_path / "fnet.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_training_checkpoint_is_read_for_its_state(tmp_path):
    state = {"weight": torch.arange(3.0)}
    torch.save({"meta": {"epoch": 3}, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "latest.pth")
    assert torch.equal(read_state(tmp_path / "latest.pth")["weight"], state["weight"])


class Holder(torch.nn.Module):
    """Its own keys begin as those of wrappers do."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.", "anything.model."])
@pytest.mark.parametrize("kind", [Holder, lambda: torch.nn.Sequential(torch.nn.Linear(2, 2)), lambda: Named("model")])
def test_a_networks_own_names_survive_what_is_taken_away(prefix, kind, tmp_path):
    source, target = kind(), kind()
    torch.save({f"{prefix}{key}": value for key, value in source.state_dict().items()}, tmp_path / "w.pth")
    fill(target, read_state(tmp_path / "w.pth"), tmp_path / "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


class Named(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        setattr(self, name, torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "seed": 7}, r"not a state dict: found epoch \(int\), seed \(int\) \(2\); expected only named"),
        (
            {"fusion": {"weight": torch.zeros(2)}, "critic": {"weight": torch.ones(2)}},
            r"found fusion \(dict\), critic \(dict\)",
        ),
        ([torch.zeros(2)], "contains an object of type list; expected a state dict"),
        (
            {f"{name}.{key}": torch.zeros(2) for name in ("student", "teacher") for key in ("weight", "bias")},
            "contains weights that fit under each of student., teacher.; expected one",
        ),
        ({"stranger": torch.zeros(1)}, r"missing bias, weight \(2\); unexpected stranger \(1\)"),
    ],
)
def test_what_is_no_state_dict_or_could_be_several_lists_the_keys_found(content, message, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        fill(torch.nn.BatchNorm1d(2, track_running_stats=False), read_state(tmp_path / "w.pth"), tmp_path / "w.pth")


@pytest.mark.parametrize("method", ["nosuch", "average"])
def test_what_cannot_be_converted_is_said(method, tmp_path):
    with pytest.raises(InputError, match=method):
        main(["--convert", method, str(tmp_path), "--output", str(tmp_path / "x.safetensors")])


def test_fusing_takes_the_weights_that_the_project_ships(tmp_path):
    shipped = packaged_weights("fnet")
    assert shipped is not None
    rng = np.random.default_rng(0)
    for folder in ("vi", "ir"):
        write_image(tmp_path / folder / "a.png", rng.integers(0, 256, (24, 20), dtype=np.uint8))
    where = ["--visible", str(tmp_path / "vi"), "--infrared", str(tmp_path / "ir"), "--output", str(tmp_path / "out")]
    fuse(["--method", "fnet", "--device", "cpu", *where])
    assert read_image(tmp_path / "out/a.png").shape == (24, 20)
    assert read_csv(tmp_path / "out/manifest.csv")[1]["weights"] == sha256_file(shipped)


def test_the_story_of_the_shipped_weights_ends_with_them():
    shipped = packaged_weights("fnet")
    story = json.loads(shipped.with_suffix(".json").read_text())
    assert story["weights_sha256"] == sha256_file(shipped)
    for before, after in pairwise(story["trainings"]):
        assert after["settings"]["start"] in before["result"]
