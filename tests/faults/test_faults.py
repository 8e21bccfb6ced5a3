"""Faults injected into real stages, a few of each kind; `python tests/faults/inject.py` runs them all."""

import shutil
import time

import inject
import pytest
from stages import Bench

from detection.variant import read_data
from pipeline.artefacts import only_writer, write_csv
from pipeline.pairs import MOST_PIXELS, find_images, read_image
from pipeline.stage import NO_MEMORY, InputError
from pipeline.tensors import read_tensors, write_tensors


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults") / "bench", train=8, test=4)


def held(rows) -> None:
    rows = list(rows)
    if rows and rows[0].held is None:
        pytest.skip(rows[0].seen)
    assert rows and all(row.held for row in rows), "\n".join(map(str, rows))


@pytest.mark.parametrize("stage", ["fuse", "evaluate", "train_detector"])
def test_a_stage_killed_at_a_random_moment_ends_with_the_same_bytes(bench, tmp_path, stage):
    wanted = bench.results(stage)
    process = bench.start(stage, tmp_path / "out")
    assert process.wait(bench.seconds[stage] / 3).status in (-9, 0)
    again = bench.run(stage, tmp_path / "out")
    assert again.status == 0, again.text
    assert inject.results(tmp_path / "out") == wanted


def test_a_full_disk_is_one_error_and_the_next_run_completes(bench, tmp_path):
    held(inject.full_disk(bench, tmp_path, only=("fuse",)))


def test_a_read_only_folder_is_one_error(bench, tmp_path):
    held(inject.read_only(bench, tmp_path, only=("tables",)))


def test_files_cut_off_between_stages_are_refused_by_name(bench, tmp_path):
    image, table, weights = "fused/average/00003.png", "metrics/average.csv", "average/seed0/weights.pt"
    cases = [
        ("evaluate", image, (inject._half, inject._flipped)),
        ("tables", table, (inject._shorter, inject._line_lost)),
        ("test_detector", weights, (inject._flipped,)),
    ]
    held(inject.truncated(bench, tmp_path, cases))


def test_entities_in_xml_are_refused(bench, tmp_path):
    held(inject.hostile_xml(bench, tmp_path, deep=1000))


@pytest.mark.parametrize(
    "text",
    ["names: !!python/object/apply:os.system ['false']", "names: 5", "names: [[a]]", "names: [a]\nimages: {a: b}"],
)
def test_a_data_yaml_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=r"data\.yaml"):
        read_data(tmp_path / "data.yaml", "train")


def test_names_by_aliases_that_multiply_are_refused_at_once(tmp_path):
    laughs = "a0: &a0 [ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    (tmp_path / "data.yaml").write_text(f"{laughs}names: *a11\n")
    start = time.monotonic()
    with pytest.raises(InputError, match="names"):
        read_data(tmp_path / "data.yaml", "train")
    assert time.monotonic() - start < 5


def test_an_image_of_400_million_pixels_is_refused_before_it_is_unpacked(tmp_path):
    inject.flat_png(tmp_path / "bomb.png", 20000, 20000)
    assert (tmp_path / "bomb.png").stat().st_size < 1_000_000
    with pytest.raises(InputError, match=r"bomb\.png has more than 67,108,864 pixels"):
        read_image(tmp_path / "bomb.png")
    inject.flat_png(tmp_path / "most.png", 8192, 8192)
    assert read_image(tmp_path / "most.png").size == MOST_PIXELS


def test_a_line_break_in_an_images_name_is_refused_in_one_line(tmp_path):
    inject.flat_png(tmp_path / "a\nb.png", 8, 8)
    with pytest.raises(InputError, match=r"a\\nb\.png' has a line break") as error:
        find_images(tmp_path)
    assert "\n" not in str(error.value)


def test_an_image_for_which_memory_runs_out_is_not_called_broken(bench, tmp_path, monkeypatch):
    for band in ("vi", "ir"):
        (tmp_path / band).mkdir()
        inject.flat_png(tmp_path / band / "a.png", 8192, 8192)
    bands = ["--visible", str(tmp_path / "vi"), "--infrared", str(tmp_path / "ir"), "--output", str(tmp_path / "out")]
    seen = inject.run("fusion.fuse", ["--method", "average", *bands], tmp_path / "log", memory=2**25)
    assert "memory ran out" in seen.error and "a.png does not fit" in seen.error, seen.text

    def no_memory(file):
        raise MemoryError

    monkeypatch.setattr("pipeline.images.Image.open", no_memory)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "vi/a.png")


def test_evaluating_without_memory_for_its_threads_ends_in_one_error(bench, tmp_path):
    seen = bench.start("evaluate", tmp_path / "out", memory=0).wait(60)
    assert "memory ran out" in seen.error and "for 2 threads" in seen.error, seen.summary()


def test_a_changed_byte_of_a_tensor_file_is_found(tmp_path):
    import torch

    for name in ("a.pt", "b.pt"):
        write_tensors(tmp_path / name, {"x": torch.zeros(1000)})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(bytes(900)) + 400] = 1
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.pt is damaged"):
        read_tensors(tmp_path / "a.pt")


def test_a_table_without_its_last_characters_is_refused(tmp_path):
    import pandas as pd

    from pipeline.artefacts import read_csv

    write_csv(tmp_path / "t.csv", pd.DataFrame({"name": ["a"], "x": [1.25]}), {})
    (tmp_path / "t.csv").write_bytes((tmp_path / "t.csv").read_bytes()[:-2])
    with pytest.raises(InputError, match=r"t\.csv is truncated"):
        read_csv(tmp_path / "t.csv")


def test_a_second_writer_of_a_folder_is_refused_and_a_dead_one_does_not_block(tmp_path):
    with (
        only_writer(tmp_path / "out"),
        pytest.raises(InputError, match="another run"),
        only_writer(tmp_path / "out", wait_s=0),
    ):
        pass
    with only_writer(tmp_path / "out", wait_s=0):
        pass


def test_a_journal_of_garbage_does_not_stop_the_next_run(bench, tmp_path):
    shutil.copytree(bench.base / "fused/average", tmp_path / "out")
    journal = tmp_path / "out/.journal.jsonl"
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], b"\xff\xfe\x00", b"[1]", b"3", *lines[1:3], lines[3][:20]]))
    again = bench.run("fuse", tmp_path / "out")
    assert again.status == 0, again.text
    assert inject.results(tmp_path / "out") == bench.results("fuse")


def test_weights_that_are_pickles_run_nothing(bench, tmp_path):
    marker = tmp_path / "owned"
    evil = tmp_path / "evil.pth"
    evil.write_bytes(inject.pickle.dumps(inject.Payload(marker), protocol=2))
    for stage, option in (("train", "--start"), ("train_detector", "--weights")):
        seen = inject.run(
            inject.stages.MODULES[stage], [*bench.options(stage, tmp_path / "o"), option, str(evil)], tmp_path / "log"
        )
        assert "evil.pth" in seen.error and not marker.exists(), seen.text


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", True),
        ("could not create a primitive", True),
        ("could not create a primitive descriptor for the convolution forward propagation primitive", False),
    ],
)
def test_lacking_memory_is_told_from_operations_that_the_library_does_not_have(said, lacking):
    from detection.detector import lacks_memory

    assert lacks_memory(RuntimeError(said)) == lacking
    assert (NO_MEMORY.search(said) is not None) == lacking
