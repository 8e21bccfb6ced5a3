"""Every detector scored by every label set: numbers, order, verdicts, and whether they hang on the choice."""

import numpy as np
import pytest
from scipy import stats

from detection import significance, truths
from detection.average_precision import score
from detection.boxes import Box
from detection.label_sets import union, unmatched
from pipeline.artefacts import read_json, write_json, write_text
from pipeline.stage import InputError

IMAGES = 60
CLASSES = ("person", "car")


def truth_of(boxes):
    """The boxes of each image as a ground truth of ours."""
    annotations = []
    for image, found in boxes.items():
        for box in found:
            bbox = [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": int(image), "category_id": CLASSES.index(box.name) + 1}
                | {"bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0}
            )
    return annotations


def found_in(annotations, rng, share):
    """Detections of a share of the boxes, nearly in place."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": float(rng.uniform(0.3, 1))}
        | {"bbox": [max(0.0, float(value)) for value in np.array(a["bbox"]) + rng.normal(0, 0.4, 4)]}
        for a in annotations
        if rng.random() < share
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 images with objects that only one band shows: fusing sees them all, but each band's labels lack the other's.

    `fnet` finds what either band shows and is ahead by the union; by its own labels each band is the best.
    """
    rng, folder = np.random.default_rng(4), tmp_path_factory.mktemp("truths")
    names = [str(n) for n in range(1, IMAGES + 1)]

    def some(x):
        return {
            name: [Box(CLASSES[k], x, y, x + 20, y + 20) for k, y in enumerate((0, 40)) if rng.random() < 0.8]
            for name in names
        }

    boxes = {"fused": some(0), "visible": some(40), "infrared": some(80)}
    for name in names:  # what all sets have
        for found in boxes.values():
            found[name].append(Box("person", 0, 120, 20, 140))
    drawn = dict(boxes)
    boxes["union"] = {name: union([one[name] for one in drawn.values()]) for name in names}
    lacking = {a: {b: unmatched(drawn[a], drawn[b], CLASSES) for b in drawn if b != a} for a in drawn}
    content = {
        "truth": "fused",
        "images": [{"id": int(name), "file_name": name, "width": 200, "height": 200} for name in names],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)],
        "sets": {name: {"boxes": {}, "annotations": truth_of(found)} for name, found in boxes.items()},
        "unmatched": lacking,
    }
    write_json(folder / "sets.json", content)
    shared = {key: content[key] for key in ("images", "categories")}
    for name, one in content["sets"].items():
        write_json(folder / f"truth_{name}.json", {**shared, "annotations": one["annotations"]})
    annotations = {name: one["annotations"] for name, one in content["sets"].items()}
    for seed in range(3):
        finds = {"visible": "visible", "infrared": "infrared", "fnet": "union", "average": "fused"}
        for variant, source in finds.items():
            write_json(folder / f"{variant}{seed}.json", found_in(annotations[source], rng, 0.9))
    rows = [f"{n},s{(n - 1) // 3}\n" for n in range(1, IMAGES + 1)]
    write_text(folder / "scenes.csv", "".join(["name,sequence\n", *rows]))
    return folder


VARIANTS = ("visible", "infrared", "average", "fnet")


def words(folder, seeds, variants=VARIANTS):
    predictions = [f"{variant}/{seed}={folder}/{variant}{seed}.json" for variant in variants for seed in seeds]
    return ["--scenes", str(folder / "scenes.csv"), "--swaps=1000", "--predictions", *predictions]


@pytest.fixture(scope="module", params=[(0,), (0, 1, 2)], ids=["one seed", "three seeds"])
def judged(folder, request):
    """The file that the stage writes, and what detection.significance says by each set."""
    output, seeds = folder / f"truths{len(request.param)}.json", request.param
    truths.main(["--sets", str(folder / "sets.json"), "--output", str(output), *words(folder, seeds)])
    expected = {}
    for name in ("fused", "visible", "infrared", "union"):
        file = folder / f"s{name}{len(seeds)}.json"
        given = ["--truth", str(folder / f"truth_{name}.json"), "--output", str(file), "--samples=100"]
        significance.main([*given, *words(folder, seeds)])
        expected[name] = read_json(file)
    return read_json(output), expected, seeds


def test_values_are_the_evaluators_by_every_set(folder, judged):
    written, _, seeds = judged
    for name, one in written["sets"].items():
        truth = read_json(folder / f"truth_{name}.json")
        for variant in VARIANTS:
            tables = [score(truth, read_json(folder / f"{variant}{seed}.json")).table() for seed in seeds]
            for seed, table in zip(seeds, tables, strict=True):
                values = {**{k: v["AP"] for k, v in table["classes"].items()}, "Average": table["average"]["AP"]}
                assert one["seeds"][variant][str(seed)] == pytest.approx(values, abs=1e-12)
            mean = np.mean([table["average"]["AP"] for table in tables])
            assert one["AP"][variant]["Average"] == pytest.approx(mean, abs=1e-12)


def test_the_verdict_by_each_set_is_that_of_significance(judged):
    written, expected, seeds = judged
    assert written["statement"] == ("methods" if len(seeds) == 3 else "trained")
    for name, one in written["sets"].items():
        for key in ("against_bands", "untested", "scenes", "training"):
            assert one[key] == expected[name][key]
    assert written["provenance"]["predictions"] == expected["fused"]["provenance"]["predictions"]
    assert written["provenance"]["labels"]["union"] == expected["union"]["provenance"]["labels"]


def test_order_best_row_and_verdicts_hang_on_the_labels(judged):
    written, _, _ = judged
    best = {name: one["order"][0] for name, one in written["sets"].items()}
    assert best == {"fused": "average", "visible": "visible", "infrared": "infrared", "union": "fnet"}
    assert written["hangs"] == {"verdict": True, "best": True}
    assert written["changing"]["fnet"]["union"] == "ahead"
    assert written["changing"]["fnet"]["visible"] == "behind"
    for pair in written["agreement"]:
        ranks = [
            [VARIANTS.index(variant) for variant in written["sets"][pair[side]]["order"]]
            for side in ("first", "second")
        ]
        places = [[order.index(n) for n in range(len(VARIANTS))] for order in ranks]
        # By pairs of variants: those in one order less those in the other, over all six.
        pairs = [(i, j) for i in range(4) for j in range(i)]
        same = [np.sign(a[i] - a[j]) for a in places for i, j in pairs]
        tau = sum(x * y for x, y in zip(same[:6], same[6:], strict=True)) / 6
        assert pair["kendall_tau"] == pytest.approx(tau)
        assert pair["kendall_tau"] == pytest.approx(stats.kendalltau(*places).statistic)
    alone = {(pair["first"], pair["second"]): pair["first_alone"] for pair in written["agreement"]}
    assert alone["fused", "union"] is None and sum(alone["fused", "visible"].values()) > IMAGES


def test_nothing_hangs_on_sets_that_say_the_same(folder, tmp_path):
    content = read_json(folder / "sets.json")
    content["sets"] = dict.fromkeys(("fused", "visible", "union"), content["sets"]["fused"])
    write_json(tmp_path / "sets.json", content)
    truths.main(["--sets", str(tmp_path / "sets.json"), "--output", str(tmp_path / "t.json"), *words(folder, (0,))])
    written = read_json(tmp_path / "t.json")
    assert written["hangs"] == {"verdict": False, "best": False} and written["changing"] == {}
    assert [pair["kendall_tau"] for pair in written["agreement"]] == [1, 1, 1]


def test_of_one_set_nothing_is_scored_and_the_file_says_so(folder, tmp_path):
    content = read_json(folder / "sets.json")
    content["sets"] = {"fused": content["sets"]["fused"]}
    write_json(tmp_path / "sets.json", content)
    missing = ["--predictions", f"visible/0={tmp_path}/missing.json"]
    truths.main(["--sets", str(tmp_path / "sets.json"), "--output", str(tmp_path / "t.json"), *missing])
    assert read_json(tmp_path / "t.json") == {"truth": "fused", "several": False, "sets": {}}


def test_with_too_few_scenes_no_set_is_tested_and_no_verdict_hangs(folder, tmp_path):
    rows = [f"{n},s{n % 5}\n" for n in range(1, IMAGES + 1)]
    write_text(tmp_path / "scenes.csv", "".join(["name,sequence\n", *rows]))
    given = [*words(folder, (0,)), "--scenes", str(tmp_path / "scenes.csv")]
    truths.main(["--sets", str(folder / "sets.json"), "--output", str(tmp_path / "t.json"), *given])
    written = read_json(tmp_path / "t.json")
    assert {one["untested"] for one in written["sets"].values()} == {"5 scenes have boxes; a test needs at least 12"}
    assert written["hangs"] == {"verdict": None, "best": True} and written["changing"] == {}


def test_options_are_those_of_significance_and_refused_likewise(folder, tmp_path):
    for given, message in ((["--swaps=10"], "expected at least 1000"), (["--brought", "x"], "--brought names 'x'")):
        with pytest.raises(InputError, match=message):
            truths.main(
                [
                    "--sets",
                    str(folder / "sets.json"),
                    "--output",
                    str(tmp_path / "t.json"),
                    *words(folder, (0,)),
                    *given,
                ]
            )
    assert not (tmp_path / "t.json").exists()
