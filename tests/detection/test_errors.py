"""Kinds of errors and what mending them brings: by hand, by a slow transcription of the definitions, by tidecv."""

from itertools import pairwise

import numpy as np
import pytest
from made_up import detections

from detection import errors
from detection.average_precision import score
from detection.errors import ALL_AT_ONCE, KINDS, describe, log_average_miss_rate, mean_of, people_of
from pipeline.artefacts import read_csv, read_json, write_json
from pipeline.stage import InputError

SIDE = 10.0


def scene(*boxes):
    """Return a ground truth of one image with boxes of ten pixels a side, each (class, x, y, whether a crowd)."""
    annotations = [
        {"id": n, "image_id": 1, "category_id": category, "bbox": [x, y, SIDE, SIDE], "area": SIDE**2}
        | {"iscrowd": int(bool(crowd))}
        for n, (category, x, y, *crowd) in enumerate(boxes, 1)
    ]
    images = [{"id": 1, "file_name": "1", "width": 100, "height": 100}]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def found(*entries):
    """Return detections of ten pixels a side, each (class, x, y, score)."""
    return [{"image_id": 1, "category_id": c, "bbox": [x, y, SIDE, SIDE], "score": s} for c, x, y, s in entries]


TRUTH = scene((1, 0, 0), (1, 50, 0), (1, 0, 80), (2, 0, 50))
ONE_OF_EACH = found(
    (1, 0, 0, 0.9),  # right
    (1, 0, 1, 0.8),  # duplicate: 9/11 with a box that is found
    (1, 50, 4, 0.7),  # localisation: 6/14
    (1, 0, 50, 0.6),  # class
    (1, 80, 80, 0.5),  # background
    (2, 0, 4, 0.4),  # both: 6/14 with a box of the other class
)


def test_one_error_of_each_kind_is_told_and_mended_as_worked_out_by_hand():
    described, _ = describe(TRUTH, ONE_OF_EACH)
    assert described["counts"] == dict.fromkeys(KINDS, 1)
    # One of three boxes of `a` is found, at precision 1: 34 of the recalls 0, 0.01, ..., 1. Nothing of `b` is.
    assert described["AP50"] == pytest.approx(34 / 101 / 2)
    gains = {
        "class": 1 / 2,  # the box of `b`, at precision 1
        "localisation": 33 * (2 / 3) / 101 / 2,  # the second box of `a`, after the duplicate: 33 recalls
        "both": 0,
        "duplicate": 0,
        "background": 0,  # all of these are weaker than the last that is right
        "missed": (51 - 34) / 101 / 2,  # one of two boxes of `a`
        "false_positive": 0,
        "false_negative": (101 - 34) / 101 / 2,  # of `b` nothing is found: it stays at 0
    }
    assert described["gains"] == pytest.approx(gains, abs=1e-12)


def test_a_box_is_given_once_to_the_strongest_error_nearest_to_it():
    # The class error is stronger: it gets the box, and mending the localisation error leaves that out.
    predictions = found((1, 0, 50, 0.9), (2, 0, 54, 0.8), (2, 80, 80, 0.1))
    described, _ = describe(scene((2, 0, 50)), predictions)
    assert described["counts"] == {**dict.fromkeys(KINDS, 0), "class": 1, "localisation": 1, "background": 1}
    assert described["gains"] == pytest.approx({**dict.fromkeys((*KINDS, *ALL_AT_ONCE), 0.0), "class": 1.0})


def test_detections_in_crowds_are_no_errors_and_crowds_are_not_missed():
    truth = scene((1, 0, 0), (1, 50, 50, True), (2, 80, 80, True))
    predictions = found((1, 50, 50, 0.9), (1, 52, 50, 0.8), (1, 0, 0, 0.7))
    described, _ = describe(truth, predictions)
    assert described["AP50"] == pytest.approx(1) and not any(described["counts"].values())
    assert described["classes"]["b"] == {"boxes": 0} | {
        "AP50": pytest.approx(np.nan, nan_ok=True),
        "gains": pytest.approx(dict.fromkeys((*KINDS, *ALL_AT_ONCE), np.nan), nan_ok=True),
    }


def test_only_the_best_of_a_class_in_an_image_are_errors():
    many = found(*[(1, 80, 80, 0.001 * n) for n in range(1, 151)])
    assert describe(TRUTH, many)[0]["counts"]["background"] == 100
    assert describe(TRUTH, many, 120)[0]["counts"]["background"] == 120


@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_no_detection_leaves_all_boxes_missed(rng, crowds):
    truth, _ = detections(rng, crowds=crowds)
    boxes = sum(not a["iscrowd"] for a in truth["annotations"])
    described, curves = describe(truth, [])
    assert described["AP50"] == 0 and described["counts"] == {**dict.fromkeys(KINDS, 0), "missed": boxes}
    assert set(described["gains"].values()) == {0.0} and not any(curve.any() for curve in curves.values())


# A slow transcription of the paper's section 2, with no function of the project.


def shared(a, b, crowd=False):
    width, height = (max(0.0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    both = width * height
    return both / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - both)


def transcribed(truth, predictions):
    """Return AP50, the gains and the counts."""
    entries, boxes = [], []  # of all images; an entry is [class, score, right, kind, box that mending gives it]
    for image in truth["images"]:
        mine = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        true = [{**a, "by": None, "claimed": False} for a in mine if not a["iscrowd"]]
        crowds = [a for a in mine if a["iscrowd"]]
        boxes += true
        ours = []
        for p in sorted((p for p in predictions if p["image_id"] == image["id"]), key=lambda p: -p["score"]):
            near = [(shared(p["bbox"], t["bbox"]), t) for t in true if t["category_id"] == p["category_id"]]
            free = max(((o, t) for o, t in near if t["by"] is None), key=lambda pair: pair[0], default=(0, None))
            entry = [p["category_id"], p["score"], free[0] >= 0.5, None, None]
            if entry[2]:
                free[1]["by"] = entry
            elif any(
                shared(p["bbox"], c["bbox"], crowd=True) >= 0.5 for c in crowds if c["category_id"] == p["category_id"]
            ):
                continue
            ours.append((p, entry))
        for p, entry in ours:
            if entry[2]:
                continue
            overlaps = [(shared(p["bbox"], t["bbox"]), t) for t in true]
            own = [pair for pair in overlaps if pair[1]["category_id"] == p["category_id"]]
            other = [pair for pair in overlaps if pair[1]["category_id"] != p["category_id"]]
            best, best_other = (max(pairs, key=lambda pair: pair[0], default=(0, None)) for pairs in (own, other))
            if 0.1 <= best[0] <= 0.5:
                entry[3:] = "localisation", best[1]
            elif best_other[0] >= 0.5:
                entry[3:] = "class", best_other[1]
            elif any(o >= 0.5 and t["by"] is not None for o, t in own):
                entry[3] = "duplicate"
            elif max((o for o, _ in overlaps), default=0) <= 0.1:
                entry[3] = "background"
            else:
                entry[3] = "both"
        for _, entry in ours:  # strongest first
            box = entry[4]
            if box is not None and (box["by"] is not None or box["claimed"]):
                entry[4] = None
            elif box is not None:
                box["claimed"] = True
        entries += [entry for _, entry in ours]
    missed = [t for t in boxes if t["by"] is None and not t["claimed"]]

    def average(entries, boxes):
        values = []
        for category in {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}:
            wanted = sum(t["category_id"] == category for t in boxes)
            own = sorted((e for e in entries if e[0] == category), key=lambda e: -e[1])
            points = [(sum(e[2] for e in own[:n]), n) for n in range(1, len(own) + 1)]
            curve = [(hits / wanted, hits / n) for hits, n in points] if wanted else []
            values.append(
                sum(max((p for r, p in curve if r >= recall), default=0) for recall in np.linspace(0, 1, 101)) / 101
            )
        return sum(values) / len(values)

    before = average(entries, boxes)
    gains = {}
    for kind in KINDS[:-1]:
        mended = [e for e in entries if e[3] != kind]
        mended += [[e[4]["category_id"], e[1], True] for e in entries if e[3] == kind and e[4] is not None]
        gains[kind] = average(mended, boxes) - before
    gains["missed"] = average(entries, [t for t in boxes if not any(t is m for m in missed)]) - before
    gains["false_positive"] = average([e for e in entries if e[2]], boxes) - before
    gains["false_negative"] = average(entries, [t for t in boxes if t["by"] is not None]) - before
    counts = {kind: sum(e[3] == kind for e in entries) for kind in KINDS[:-1]} | {"missed": len(missed)}
    return before, gains, counts


@pytest.mark.parametrize("crowds", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_gains_are_those_of_a_slow_transcription_of_the_definitions(seed, crowds):
    truth, predictions = confused(np.random.default_rng(seed), crowds)
    described, _ = describe(truth, predictions)
    before, gains, counts = transcribed(truth, predictions)
    assert min(counts.values()) > 0
    assert described["counts"] == counts
    assert described["AP50"] == pytest.approx(before, abs=1e-12)
    assert described["gains"] == pytest.approx(gains, abs=1e-12)
    assert min(described["gains"].values()) >= 0


def confused(rng, crowds=0.0):
    """Return made-up detections with errors of all kinds among them."""
    truth, predictions = detections(rng, images=40, crowds=crowds)
    others = []
    for p in predictions:
        box = np.abs(np.array(p["bbox"]) + rng.normal(0, 12, 4)).tolist()
        others.append({**p, "bbox": box, "category_id": int(rng.integers(1, 4)), "score": 0.9 * rng.random()})
    return truth, predictions + others


@pytest.mark.parametrize("seed", range(4))
def test_gains_are_those_of_the_authors_code(seed):
    # A fork that has the package's name, but not this module, takes boxes for corners.
    pytest.importorskip("tidecv.datasets", reason="the authors' tidecv is not installed: uv run --group tide pytest")
    import tidecv

    truth, predictions = confused(np.random.default_rng(seed))
    true, results = tidecv.Data("truth"), tidecv.Data("results", max_dets=10_000)
    for a in truth["annotations"]:
        true.add_ground_truth(a["image_id"], a["category_id"], a["bbox"])
    for image in truth["images"]:
        true.add_image(image["id"], image["file_name"])
    for p in predictions:
        results.add_detection(p["image_id"], p["category_id"], p["score"], p["bbox"])
    tide = tidecv.TIDE()
    run = tide.evaluate(true, results, mode=tidecv.TIDE.BOX)
    kinds = {"Cls": "class", "Loc": "localisation", "Both": "both", "Dupe": "duplicate", "Bkg": "background"}
    kinds |= {"Miss": "missed", "FalsePos": "false_positive", "FalseNeg": "false_negative"}
    theirs = {kinds[k]: v / 100 for group in tide.get_all_errors().values() for k, v in group["results"].items()}
    described, _ = describe(truth, predictions)
    counted = {kinds[error.short_name]: number for error, number in run.count_errors().items()}
    assert described["counts"] == counted
    # Their recalls 0, 0.01, ... differ from pycocotools' in the last bit: one that is met exactly may be missed there.
    assert described["AP50"] == pytest.approx(run.ap / 100, abs=1e-3)
    assert described["gains"] == pytest.approx(theirs, abs=1e-3)


# Agreement with average precision, curves, and the miss rate.


@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_ap50_and_curves_are_those_of_average_precision(rng, crowds):
    truth, predictions = detections(rng, crowds=crowds)
    scores = score(truth, predictions)
    described, curves = describe(truth, predictions)
    assert described["AP50"] == pytest.approx(scores.table()["average"]["AP50"], rel=1e-12)
    for k, name in enumerate(scores.classes):
        assert described["classes"][name]["AP50"] == pytest.approx(scores.average_precision(0.5)[k], rel=1e-12)
        np.testing.assert_array_equal(curves[name], scores.precision[0, :, k, 0, -1])


def test_miss_rate_is_as_worked_out_by_hand():
    # 20 images, 4 boxes; strongest first: right, false, right, false, false, right.
    right = np.array([True, False, True, False, False, True])
    # False positives an image are 0, 0.05, 0.1, 0.15; the nine places 0.01, 0.018, 0.032, 0.056, 0.1, 0.178, ...: at
    # the first three one box of four is found, from 0.056 on two, from 0.178 on three.
    expected = np.exp(np.mean(np.log([0.75] * 3 + [0.5] * 2 + [0.25] * 4)))
    value = log_average_miss_rate(np.linspace(0.9, 0.4, 6), right, 4, 20)
    assert value == pytest.approx(expected, rel=1e-12)
    # The order given does not matter, the score does.
    assert log_average_miss_rate(np.linspace(0.4, 0.9, 6), right[::-1], 4, 20) == value


def test_miss_rate_at_its_ends():
    assert log_average_miss_rate(np.zeros(0), np.zeros(0, bool), 3, 10) == 1
    assert log_average_miss_rate(np.array([0.9]), np.array([False]), 3, 2) == 1  # its first point lies above all
    assert log_average_miss_rate(np.array([0.9]), np.array([True]), 1, 10) == pytest.approx(1e-10)
    assert np.isnan(log_average_miss_rate(np.zeros(0), np.zeros(0, bool), 0, 10))


def test_miss_rate_falls_as_detections_get_better(rng):
    truth, predictions = detections(rng, classes=1)
    truth["categories"][0]["name"] = "People"
    rates = [describe(truth, [p for p in predictions if p["score"] >= least])[0]["miss_rate"] for least in (0, 0.5, 1)]
    assert all(better < worse for better, worse in pairwise(rates))


def test_people_are_found_by_name():
    assert people_of(["Car", "People"]) == "People" and people_of(["people", "person"]) == "person"
    assert people_of(["Car"]) is None
    assert np.isnan(describe(TRUTH, ONE_OF_EACH)[0]["miss_rate"])


# The stage.


def test_stage_writes_means_seeds_curves_and_where_they_come_from(rng, tmp_path):
    truth, predictions = detections(rng)
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "0.json", predictions)
    write_json(tmp_path / "1.json", predictions[::2])
    words = [f"{variant}/{seed}={tmp_path / file}.json" for variant, seed, file in (
        ("visible", 0, "0"), ("visible", 1, "1"), ("fnet", 0, "1"), ("fnet", 1, "1"))]  # fmt: skip
    written = []
    for _ in range(2):
        errors.main(
            ["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / "errors.json"),
             "--curves", str(tmp_path / "curves.csv"), "--predictions", *words]
        )  # fmt: skip
        written.append((tmp_path / "errors.json").read_bytes() + (tmp_path / "curves.csv").read_bytes())
    assert written[0] == written[1]
    result = read_json(tmp_path / "errors.json")
    visible = result["variants"]["visible"]
    assert visible["AP50"] == pytest.approx(np.mean([visible["seeds"][seed]["AP50"] for seed in "01"]))
    assert visible["seeds"]["0"]["gains"] == describe(truth, predictions)[0]["gains"]
    assert result["variants"]["fnet"]["seeds"]["0"] == result["variants"]["fnet"]["seeds"]["1"]
    assert result["people"] is None and visible["miss_rate"] is None
    assert set(result["provenance"]["predictions"]["fnet"]) == {"0", "1"}
    curves, facts = read_csv(tmp_path / "curves.csv")
    assert list(curves.columns) == ["variant", "seed", "class", "recall", "precision"]
    assert len(curves) == 2 * 2 * 3 * 101 and facts["overlap"] == "0.5"


def test_many_files_are_sorted_in_two_processes_with_the_same_result(rng, tmp_path, monkeypatch):
    truth, predictions = detections(rng, images=6)
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "p.json", predictions)
    words = [f"v{n}/0={tmp_path / 'p.json'}" for n in range(6)]
    texts = []
    for threads in (1, 2):
        monkeypatch.setattr("detection.predictions.threads_available", lambda threads=threads: threads)
        errors.main(
            ["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / "e.json"), "--predictions", *words]
        )
        texts.append((tmp_path / "e.json").read_text())
    assert texts[0] == texts[1]


def test_a_truth_without_a_box_is_refused(tmp_path):
    write_json(tmp_path / "truth.json", {**TRUTH, "annotations": []})
    write_json(tmp_path / "p.json", [])
    with pytest.raises(InputError, match="have no boxes"):
        errors.main(
            ["--truth", str(tmp_path / "truth.json"), "--output", str(tmp_path / "e.json"),
             "--predictions", f"v/0={tmp_path / 'p.json'}"]
        )  # fmt: skip


def test_means_are_taken_key_by_key():
    assert mean_of([{"a": 1, "b": {"c": 0.5}}, {"a": 2, "b": {"c": 1.5}}]) == {"a": 1.5, "b": {"c": 1.0}}
