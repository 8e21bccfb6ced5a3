"""The stage that writes significance.json: scenes, statements, reasons, and what is refused."""

import pytest
from made_up import detections

from detection import significance
from detection.average_precision import score
from pipeline.artefacts import read_json, write_json, write_text
from pipeline.stage import InputError

GOOD, POOR = 0.95, 0.5


@pytest.fixture
def folder(rng, tmp_path):
    """A ground truth of 60 images, detections of them, and a table of their scenes, three images each."""
    truth, found = detections(rng, images=60, quality=GOOD)
    worse = [p for n, p in enumerate(found) if n % 2]
    write_json(tmp_path / "truth.json", truth)
    for name, one in (("visible", worse), ("infrared", worse[::2]), ("fnet", found), ("other", found)):
        write_json(tmp_path / f"{name}.json", one)
    rows = [f"{n},s{(n - 1) // 3},p{(n - 1) // 12}\n" for n in range(1, 61)]
    write_text(tmp_path / "scenes.csv", "".join(["name,sequence,place\n", *rows]))
    return tmp_path


def run(folder, *options, variants=("visible", "infrared", "fnet"), seeds=(0,)):
    words = [f"{variant}/{seed}={folder / variant}.json" for variant in variants for seed in seeds]
    significance.main(
        ["--truth", str(folder / "truth.json"), "--output", str(folder / "s.json"), "--samples=100", "--swaps=1000",
         "--predictions", *words, *options]
    )  # fmt: skip
    return read_json(folder / "s.json")


def test_a_much_better_variant_is_ahead_of_both_bands_as_trained_and_not_as_a_method_of_one_seed(folder):
    written = run(folder, "--scenes", str(folder / "scenes.csv"))
    assert written["unit"] == "sequence" and written["scenes"] == 20 and written["untested"] == ""
    assert "bootstrap of 20 whole sequences (60 images)" in written["method"]
    verdict = written["against_bands"]["fnet"]
    assert verdict["trained"]["verdict"] == "ahead" and verdict["trained"]["reason"] == ""
    assert verdict["methods"]["verdict"] == "not shown"
    assert verdict["methods"]["reason"] == "seeds: 1; a statement about methods requires 3"
    assert written["training"] is None


def test_intervals_and_differences_are_those_of_the_evaluators_values(folder):
    written = run(folder, "--scenes", str(folder / "scenes.csv"))
    tables = {name: score(read_json(folder / "truth.json"), read_json(folder / f"{name}.json")).table()
              for name in ("visible", "fnet")}  # fmt: skip
    for name, table in tables.items():
        entry = written["variants"][name]["Average"]
        assert entry["AP"] == pytest.approx(table["average"]["AP"])
        assert entry["low"] < entry["AP"] < entry["high"] and entry["scenes"] == 20
    pairs = {(c["first"], c["second"]): c for c in written["comparisons"]}
    pair = pairs["visible", "fnet"]
    expected = tables["visible"]["average"]["AP"] - tables["fnet"]["average"]["AP"]
    assert pair["difference"] == pytest.approx(expected) and pair["low"] < expected < pair["high"] < 0
    assert pair["trained_differ"] and not pair["methods_differ"]
    assert pair["confirmatory"] and not pairs["visible", "infrared"]["confirmatory"]
    for name, values in pair["classes"].items():
        expected = tables["visible"]["classes"][name]["AP"] - tables["fnet"]["classes"][name]["AP"]
        assert values["difference"] == pytest.approx(expected) and values["low"] < expected < values["high"]
    assert "classes" not in pairs["visible", "infrared"]


def test_without_scenes_every_image_is_its_own_and_the_result_says_so(folder):
    written = run(folder)
    assert written["unit"] == "image" and written["provenance"]["scenes"] is None
    assert "60 images, each treated as a scene (no scenes were given" in written["method"]
    named = run(folder, "--scenes", str(folder / "scenes.csv"), "--unit", "image")
    assert "no scenes were given" not in named["method"] and named["variants"] == written["variants"]


def test_too_few_places_are_tested_for_nothing_and_the_reason_stands_there(folder):
    written = run(folder, "--scenes", str(folder / "scenes.csv"), "--unit", "place")
    assert written["untested"] == "5 scenes have boxes; a test needs at least 12"
    assert not any(c["trained_differ"] for c in written["comparisons"])
    assert written["comparisons"][0]["p_trained"] is None
    assert written["against_bands"]["fnet"]["trained"] | {"p_ahead": 0, "p_behind": 0} == {
        "p_ahead": 0, "p_behind": 0, "verdict": "not shown", "reason": written["untested"],
    }  # fmt: skip


def test_the_unit_is_that_of_the_split_where_dataset_json_states_one(folder):
    write_json(folder / "dataset.json", {"split": {"unit": "place"}})
    assert run(folder, "--scenes", str(folder / "scenes.csv"))["unit"] == "place"
    assert run(folder, "--scenes", str(folder / "scenes.csv"), "--unit", "sequence")["unit"] == "sequence"
    write_json(folder / "dataset.json", {"split": {"unit": "week"}})
    with pytest.raises(InputError, match="has the unit 'week'; expected one of sequence, place, image"):
        run(folder, "--scenes", str(folder / "scenes.csv"))


def test_many_files_matched_in_two_processes_and_few_in_one_give_the_same_bytes(folder, monkeypatch):
    monkeypatch.setattr("detection.predictions.threads_available", lambda: 2)
    several = run(folder, seeds=(0, 1, 2))
    first = (folder / "s.json").read_bytes()
    monkeypatch.setattr("detection.predictions.threads_available", lambda: 1)
    assert run(folder, seeds=(0, 1, 2)) == several and (folder / "s.json").read_bytes() == first
    assert several["seeds"] == [0, 1, 2] and several["training"]["seeds"] == 3
    assert several["against_bands"]["fnet"]["methods"]["verdict"] == "ahead"


def test_equal_variants_do_not_differ(folder):
    written = run(folder, variants=("visible", "infrared", "fnet", "other"))
    pair = written["comparisons"][-1]
    assert (pair["first"], pair["second"]) == ("fnet", "other") and not pair["confirmatory"]
    assert pair["difference"] == pair["low"] == pair["high"] == 0 and pair["p_trained"] == 1


def test_no_method_is_said_to_be_ahead_by_brought_detections(folder):
    written = run(folder, "--brought", "fnet", seeds=(0, 1, 2))
    verdict = written["against_bands"]["fnet"]
    assert verdict["trained"]["verdict"] == "ahead" and verdict["methods"]["verdict"] == "not shown"
    assert verdict["methods"]["reason"] == "the variance between trainings is unknown for external detections"


def test_a_brought_row_of_any_number_of_files_changes_nothing_that_is_said_of_the_others(folder):
    alone = run(folder, variants=("visible", "infrared", "fnet"), seeds=(0, 1, 2))
    words = [f"{name}/{seed}={folder / name}.json" for name in ("visible", "infrared", "fnet") for seed in (0, 1, 2)]
    words += [f"mine/{number}={folder / name}.json" for number, name in enumerate(("other", "visible"))]
    written = run(folder, "--predictions", *words, "--brought", "mine")
    own = [pair for pair in written["comparisons"] if "mine" not in (pair["first"], pair["second"])]
    for key, value in alone.items():
        if key not in ("comparisons", "variants", "against_bands", "provenance"):
            assert written[key] == value, key
    assert own == alone["comparisons"] and len(written["comparisons"]) == 6
    assert written["against_bands"]["fnet"] == alone["against_bands"]["fnet"]
    mine = written["against_bands"]["mine"]
    assert mine["trained"]["verdict"] == "ahead" and mine["methods"]["reason"] == significance.EXTERNAL
    values = [score(read_json(folder / "truth.json"), read_json(folder / f"{name}.json")).table()["average"]["AP"]
              for name in ("other", "visible")]  # fmt: skip
    assert written["variants"]["mine"]["Average"]["AP"] == pytest.approx(sum(values) / 2)


def test_more_detections_of_a_class_in_an_image_count_where_asked_for(tmp_path):
    box, wrong = [10.0, 10.0, 50.0, 50.0], [150.0, 150.0, 20.0, 20.0]
    truth = {
        "images": [{"id": 1, "file_name": "1", "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "c"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 2500.0, "iscrowd": 0}],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": wrong, "score": 0.9}] * 120
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "fnet.json", [*found, {**found[0], "bbox": box, "score": 0.5}])
    values = [
        run(tmp_path, *options, variants=("fnet",))["variants"]["fnet"]["Average"]["AP"]
        for options in ([], ["--most-detections", "300"])
    ]
    assert values == pytest.approx([0, 1 / 121])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--predictions", "a=x.json"], "expected VARIANT/SEED=FILE"),
        (["--predictions", "a/0=x.json", "a/0=y.json"], "names a/0 twice"),
        (["--predictions", "a/0=x.json", "b/1=y.json"], r"'b' has the seeds \[1\]; expected \[0\]"),
        (["--unit", "place"], "--unit place requires --scenes"),
        (["--samples", "10"], "expected at least 100"),
        (["--swaps", "10"], "expected at least 1000"),
        (["--most-detections", "301"], "expected 100 to 300"),
        (["--brought", "nobody"], "--brought names 'nobody'"),
        (["--scenes", "lacking.csv"], "has no sequence for '2', '3', '4', '5', '6' and 54 more"),
        (["--scenes", "twice.csv"], "line 3: '1' with sequence 'b'; expected each name once"),
        (["--scenes", "other.csv"], "is not a table of scenes"),
    ],
)
def test_unclear_options_are_refused(folder, monkeypatch, words, message):
    monkeypatch.chdir(folder)
    write_text(folder / "lacking.csv", "name,sequence\n1,a\n")
    write_text(folder / "twice.csv", "name,sequence\n1,a\n1,b\n")
    write_text(folder / "other.csv", "name,place\n1,a\n")
    with pytest.raises(InputError, match=message):
        run(folder, *words)
    assert not (folder / "s.json").exists()
