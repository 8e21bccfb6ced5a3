"""Results are whole or absent, and tables come back as they were written."""

import json
import math

import pandas as pd
import pytest

from pipeline.artefacts import (
    read_csv,
    read_json,
    replacing,
    sha256_file,
    sha256_lines,
    write_csv,
    write_json,
    write_json_list,
)
from pipeline.stage import InputError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_table_comes_back_with_odd_names_undefined_numbers_and_facts(tmp_path):
    names = ["NA", "00042", 'with, comma "quotes"', "# hash", "nan", "line\nbreak"]
    frame = pd.DataFrame({"name": names, "MI": [1.5, math.nan, 0.1 + 0.2, 1e-300, -0.0, 3]})
    write_csv(tmp_path / "t.csv", frame, {"plain": "words: two", "list": [1, "ü"], "broken": "a\nb"})
    back, facts = read_csv(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    assert facts["plain"] == "words: two" and json.loads(facts["list"]) == [1, "ü"]
    assert json.loads(facts["broken"]) == "a\nb"
    assert all(line.startswith("# ") for line in (tmp_path / "t.csv").read_text().split("\n")[:3])


def test_undefined_is_null_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"AP": math.nan, "list": [1.0, math.nan]})
    assert read_json(tmp_path / "a.json") == {"AP": None, "list": [1.0, None]}


@pytest.mark.parametrize("values", [[], [{"bbox": [1, 2.5], "name": "ü"}, {}]])
def test_a_list_is_written_an_item_a_line(tmp_path, values):
    write_json_list(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == values
    assert len((tmp_path / "a.json").read_text(encoding="utf-8").splitlines()) == 2 + max(len(values), 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_list(tmp_path / "b.json", [math.nan])
    assert not (tmp_path / "b.json").exists()


def test_broken_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    for read, name in ((read_json, "a.json"), (read_json, "absent"), (read_csv, "a.csv"), (read_csv, "absent")):
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)


def test_digests_are_those_of_sha256sum(tmp_path):
    (tmp_path / "list").write_text("a\nb\n")
    assert sha256_lines(["a", "b"]) == sha256_file(tmp_path / "list")
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
