import json
from collections import Counter

import cv2
import numpy as np
import pytest

from detection import leakage
from detection.datasets import DATASETS
from detection.datasets.layout import Scene
from detection.datasets.m3fd import all_scenes, read_scenario
from detection.leakage import measure_exposure
from detection.scenes import find_scenes, find_sequences, read_scenes, scenes_from_images, write_scenes
from detection.similarity import PairSummary, describe, shifted_similarity
from pipeline.stage import InputError


def frames(rng, lengths, visits=None, pan=0):
    """Frames of cameras in a row: names numbered through, each place a wide texture of its own, noise on it."""
    visits = visits or range(len(lengths))
    places = {place: rng.integers(0, 256, (2, 24, 64)).astype(np.uint8) for place in sorted(set(visits))}
    found = {}
    for place, length in zip(visits, lengths, strict=True):
        for number in range(length):
            bands = [np.roll(cv2.resize(band, (320, 120)), pan * number, axis=1)[:, :160] for band in places[place]]
            noisy = [np.clip(band + rng.normal(0, 12, band.shape), 0, 255).astype(np.uint8) for band in bands]
            found[f"{len(found):04}"] = np.stack([describe(band) for band in noisy])
    return found


@pytest.mark.parametrize("pan", [0, 25])  # pixels a frame, 5 of 32 cells
def test_sequences_are_found_where_the_camera_moved_on(rng, pan):
    lengths = [7, 1, 12, 5, 30, 2]
    assert [len(found) for found in find_sequences(frames(rng, lengths, pan=pan))] == lengths


def test_sequences_end_where_the_name_changes_or_the_number_jumps(rng):
    (frame,) = frames(rng, [1]).values()
    names = ["a00001", "a00002", "a00003", "a00900", "b00004"]
    assert find_sequences(dict.fromkeys(names, frame)) == [["a00001", "a00002", "a00003"], ["a00900"], ["b00004"]]


def test_one_odd_frame_does_not_end_a_sequence(rng):
    seen = frames(rng, [9])
    seen["0004"] = frames(rng, [1])["0000"]
    assert find_sequences(seen) == [list(seen)]


def test_a_place_that_is_visited_twice_is_one_place(rng):
    scenes = scenes_from_images(frames(rng, [4, 5, 6], visits=[0, 1, 0]))
    assert Counter(scene.sequence for scene in scenes.values()) == {
        "0000 to 0003": 4,
        "0004 to 0008": 5,
        "0009 to 0014": 6,
    }
    assert scenes["0000"].place == scenes["0014"].place != scenes["0005"].place


def test_a_shifted_picture_is_like_the_first_and_another_is_not(rng):
    wide, other = rng.random((2, 24, 48)), rng.random((2, 24, 32))
    first, shifted = wide[:, :, :32], wide[:, :, 9:41]
    a, b, c = (part.reshape(1, 2, -1) for part in (first, shifted, other))
    assert shifted_similarity(a, b)[0] == pytest.approx(1)
    assert shifted_similarity(a, a)[0] == pytest.approx(1)
    assert shifted_similarity(a, c)[0] < 0.4


def test_m3fds_ranges_are_those_of_its_authors(shared):
    authors = shared / "data/m3fd_labels/scenario.json"
    ranges = read_scenario(authors)
    shipped = all_scenes()
    assert len(ranges) == 103 and len({item[:2] for item in ranges}) == 36
    assert {name: (s.sequence, s.place, s.condition) for name, s in all_scenes(ranges).items()} == {
        name: (s.sequence, s.place, s.condition) for name, s in shipped.items()
    }


def test_m3fds_names_have_the_first_range_that_holds_them():
    scenes = all_scenes()
    counts = Counter(scene.condition for scene in scenes.values())
    assert counts == {"daytime": 1513, "overcast": 1078, "challenge": 762, "night": 736, "": 111}
    assert scenes["00324"] == Scene(
        "night/alley/00324-00341", "night/alley", "night", "M3FD's scenario.json, as shipped"
    )
    assert scenes["02690"].place == "daytime/mountain"  # before daytime/tunnel
    assert scenes["03580"].place == "challenge/high_street"  # before overcast/resident_area
    assert scenes["03530"].place == "daytime/overhead_bridge"  # before daytime/shops
    assert scenes["01301"].sequence == scenes["01334"].place == "none/01301" != scenes["01392"].place
    assert scenes["01994"].sequence == "none/01994"


def test_a_scenario_of_the_user_is_read_and_a_broken_one_is_refused(tmp_path):
    scenario = [{"name": "dusk", "scene": [{"name": "yard", "range": [{"min": 3, "max": 4}]}]}]
    (tmp_path / "scenario.json").write_text(json.dumps(scenario))
    found = DATASETS["m3fd"].scenes(tmp_path, ["00003", "00005", "x"])
    assert found["00003"].place == "dusk/yard" and found["00005"].sequence == "none/00005" and "x" not in found
    for text in (
        "[",
        "[1]",
        '{"a": 1}',
        json.dumps(scenario).replace("4", "4200"),
        json.dumps(scenario).replace("4", "1.5"),
    ):
        (tmp_path / "scenario.json").write_text(text)
        with pytest.raises(InputError, match=r"scenario\.json is not M3FD's"):
            DATASETS["m3fd"].scenes(tmp_path, ["00003"])


def test_llvips_names_begin_with_their_place():
    found = DATASETS["llvip"].scenes(None, ["010001", "010002", "190001", "x"])
    assert [found[name].place for name in sorted(found)] == ["01", "01", "19"]


def test_scenes_are_written_and_read_as_they_are(tmp_path):
    scenes = {"a b's ü": Scene('s, "1"', "p", "night", "made"), "00001": Scene("s2", "p", "", "made")}
    write_scenes(tmp_path / "scenes.csv", scenes)
    assert read_scenes(tmp_path / "scenes.csv") == scenes
    assert (tmp_path / "scenes.csv").read_text().splitlines()[1] == "00001,s2,p,,made"


def summary(descriptor):
    return PairSummary(8, 8, 100.0, descriptor, "", (True, False), False)


def test_a_file_of_the_user_comes_before_all_else(tmp_path, rng):
    (tmp_path / "mine.csv").write_text("name,sequence\n00000,drive1\n00001,drive2\n")
    summaries = {name: summary(one) for name, one in zip(["00000", "00001"], frames(rng, [2]).values(), strict=True)}
    found = find_scenes(DATASETS["m3fd"], tmp_path, summaries, tmp_path / "mine.csv")
    assert (
        [found[name].sequence for name in summaries]
        == [found[name].place for name in summaries]
        == ["drive1", "drive2"]
    )
    assert find_scenes(DATASETS["m3fd"], tmp_path, summaries)["00000"].place == "overcast/lake"
    summaries["00002"] = summaries["00001"]
    with pytest.raises(InputError, match=r"mine\.csv lacks 1 of the 3 images: '00002'"):
        find_scenes(DATASETS["m3fd"], tmp_path, summaries, tmp_path / "mine.csv")


@pytest.mark.parametrize(
    "text",
    ["", "name\na\n", "a,b\n", "name,sequence\na\n", "name,sequence\na,s,more\n", "name,sequence\na,\n"]
    + ["name,sequence\na,s\na,t\n", "name,sequence,place\na,s,p\nb,s,q\n"],
)
def test_a_broken_table_of_scenes_is_refused(tmp_path, text):
    (tmp_path / "scenes.csv").write_text(text)
    with pytest.raises(InputError, match=r"scenes\.csv"):
        read_scenes(tmp_path / "scenes.csv")


def test_exposure_counts_neighbours_sequences_and_places():
    scenes = {f"a{number}": Scene("s", "p", "", "") for number in (1, 2, 5, 20)}
    scenes |= {"a40": Scene("t", "p", "", ""), "b3": Scene("u", "q", "", ""), "c": Scene("v", "q", "", "")}
    found = measure_exposure(scenes, ["a1", "a20"], ["a2", "a5", "a40", "b3", "c"])
    assert found["neighbours"] == {"1": 0.2, "3": 0.2, "10": 0.4} and found["adjacent"] == ["a2"]
    assert (found["sequence"], found["place"]) == (0.4, 0.6)
    assert measure_exposure(scenes, ["b3"], ["c"])["neighbours"] == {"1": None, "3": None, "10": None}


def test_the_table_of_leakage_has_the_published_splits(capsys, shared):
    leakage.main(["--boxes", str(shared / "data/m3fd_labels/boxes.json")])
    rows = {row.split(" | ")[0].strip("| "): row for row in capsys.readouterr().out.splitlines()}
    assert (
        "| 3800 / 400 | 99.5% | 100.0% | 100.0% |" in rows["random-3800-400"] and "| 3245 |" in rows["random-3800-400"]
    )
    assert "| 2905 / 1295 | 11.2% | 32.0% | 69.0% |" in rows["zx"] and "| 10355 |" in rows["zx"]
    assert "| 2940 / 1260 | 90.6% | 100.0% | 100.0% |" in rows["e2e-mfd"] and "| 10515 |" in rows["e2e-mfd"]
    assert "| 2727 / 840 | 86.0% | 99.9% | 100.0% |" in rows["rgbxfusion"] and "| 7062 |" in rows["rgbxfusion"]
    assert "| 3000 / 1200 | 2.8% | 8.1% | 25.3% | 0.0% | 0.0% |" in rows["m3fd-scenes"]
