"""Several label sets: how they are named and found, their union, how they agree, and what prepare writes of them."""

import json
from fractions import Fraction
from itertools import permutations

import pytest

from detection import audit, prepare
from detection.boxes import Box
from detection.datasets import DATASETS, find_dataset
from detection.label_sets import read_truth_sets, union, unmatched
from detection.truth import read_truth
from pipeline.artefacts import read_json, write_json
from pipeline.stage import InputError


def box(xmin, ymin, xmax, ymax, name="car"):
    return Box(name, xmin, ymin, xmax, ymax)


# The union


def test_boxes_of_two_sets_that_overlap_by_half_become_their_mean():
    # 10 x 10 and 10 x 5 inside it: an overlap of exactly one half.
    assert union([[box(0, 0, 10, 10)], [box(0, 0, 10, 5)]]) == [box(0, 0, 10, 7.5)]
    below = [box(0, 0, 10, 10), box(0, 0, 10, 4.9)]
    assert union([below[:1], below[1:]]) == sorted(below, key=lambda one: one.ymax)


def test_boxes_of_other_classes_and_boxes_that_only_one_set_has_stay_as_they_are():
    person, car, far = box(0, 0, 10, 10, "person"), box(0, 0, 10, 10), box(50, 50, 60, 60)
    assert union([[person], [car, far], []]) == [car, far, person]
    assert union([[], []]) == []


def test_two_boxes_of_one_set_stay_two_however_much_they_overlap():
    first, second = box(0, 0, 10, 10), box(2, 0, 12, 10)
    assert union([[first, second], []]) == [first, second]
    # The third box fits both (.86 and .77) and joins the better one.
    assert union([[first, second], [box(1, 0, 10.5, 10)]]) == [box(0.5, 0, 10.25, 10), second]


def test_a_chain_through_a_third_set_is_one_object():
    chain = [box(0, 0, 10, 10), box(3, 0, 13, 10), box(6, 0, 16, 10)]  # neighbours .54, ends .25
    assert union([[one] for one in chain]) == [box(3, 0, 13, 10)]


def overlap_of(first, second):
    sides = [
        max(0, min(getattr(first, high), getattr(second, high)) - max(getattr(first, low), getattr(second, low)))
        for low, high in (("xmin", "xmax"), ("ymin", "ymax"))
    ]
    areas = [(one.xmax - one.xmin) * (one.ymax - one.ymin) for one in (first, second)]
    shared = sides[0] * sides[1]
    return Fraction(shared, sum(areas) - shared)


def brute_force(sets):
    """The rule by exact fractions: look through all pairs, join the best that may be joined, and again."""
    groups = [[(number, one)] for number, boxes in enumerate(sets) for one in boxes]
    while True:
        best = None
        for a, first in enumerate(groups):
            for b, second in enumerate(groups):
                if a >= b or {n for n, _ in first} & {n for n, _ in second}:
                    continue
                for _, one in first:
                    for _, other in second:
                        value = overlap_of(one, other) if one.name == other.name else Fraction(0)
                        edges = sorted([(x.xmin, x.ymin, x.xmax, x.ymax) for x in (one, other)])
                        if value >= Fraction(1, 2) and (best is None or (-value, edges) < best[0]):
                            best = (-value, edges), a, b
        if best is None:
            break
        groups[best[1]] += groups.pop(best[2])
    return sorted(
        (
            group[0][1].name,
            *(Fraction(sum(getattr(one, edge) for _, one in group), len(group))
              for edge in ("xmin", "ymin", "xmax", "ymax")),
        )
        for group in groups
    )  # fmt: skip


def crowded(rng, number):
    """Distinct boxes with whole edges on a small field, so that many overlap and many overlaps are alike."""
    found = {}
    for _ in range(number):
        x, y = (int(value) for value in rng.integers(0, 12, 2))
        w, h = (int(value) for value in rng.integers(4, 9, 2))
        found[x, y, w, h] = box(x, y, x + w, y + h, ("car", "person")[int(rng.integers(0, 2))])
    return list(found.values())


def test_the_union_is_that_of_brute_force_whatever_the_order_of_the_sets(rng):
    for _ in range(25):
        sets = [crowded(rng, 6) for _ in range(3)]
        found = [union(list(order)) for order in permutations(sets)]
        assert all(one == found[0] for one in found)
        expected = brute_force(sets)
        assert [(one.name, one.xmin, one.ymin, one.xmax, one.ymax) for one in found[0]] == [
            (name, *(pytest.approx(float(edge)) for edge in edges)) for name, *edges in expected
        ]
        for name in ("car", "person"):
            counts = [sum(one.name == name for one in boxes) for boxes in (*sets, found[0])]
            assert counts[-1] >= max(counts[:-1])


def test_boxes_that_the_other_set_lacks_are_counted_by_class(rng):
    first = {"a": [box(0, 0, 10, 10), box(50, 0, 60, 10), box(0, 0, 10, 10, "person")], "b": [box(0, 0, 9, 9)]}
    second = {"a": [box(0, 0, 10, 8), box(1, 0, 10, 10)], "b": []}
    assert unmatched(first, second, ["person", "car", "bus"]) == {"person": 1, "car": 2, "bus": 0}
    assert unmatched(second, first, ["person", "car", "bus"]) == {"person": 0, "car": 0, "bus": 0}
    images = {f"{n}": crowded(rng, 8) for n in range(10)}, {f"{n}": crowded(rng, 8) for n in range(10)}
    expected = sum(
        all(overlap_of(one, other) < Fraction(1, 2) for other in images[1][name] if other.name == one.name)
        for name, boxes in images[0].items()
        for one in boxes
    )
    assert sum(unmatched(*images, ["person", "car"]).values()) == expected > 0


# How sets are named and found


def test_msrs_finds_its_sets_by_the_folders_that_both_parts_have(tmp_path):
    layout = DATASETS["msrs"].layout
    assert list(layout(tmp_path).sets()) == ["fused"] and layout(tmp_path).truth() == "fused"
    for place in ("train/labels_infrared", "test/labels_infrared", "train/labels_visible"):
        (tmp_path / place).mkdir(parents=True)
    assert layout(tmp_path).set_names() == ["infrared"]
    (tmp_path / "train/labels").mkdir()  # what lacks in the other part is to be reported
    assert layout(tmp_path).set_names() == ["fused", "infrared", "union"]
    assert layout(tmp_path).labels == tuple(
        tmp_path / part / kind for kind in ("labels", "labels_infrared") for part in ("train", "test")
    )


def test_a_data_set_without_names_for_its_labels_has_one_set(tmp_path):
    for name in ("m3fd", "llvip", "synthetic"):
        layout = DATASETS[name].layout(tmp_path)
        assert layout.set_names() == ["labels"] and layout.sets()["labels"] == layout.labels
    layout = find_dataset("folders", ["car"], labels=["a", "b"]).layout(tmp_path)
    assert layout.sets() == {"labels": (tmp_path / "a", tmp_path / "b")}


def test_folders_have_the_sets_that_are_named(tmp_path):
    named = {"visible": ["v"], "infrared": ["i", "j"]}
    layout = find_dataset("folders", ["car"], labels=named).layout(tmp_path)
    assert layout.set_names() == ["visible", "infrared", "union"]
    assert layout.sets()["infrared"] == (tmp_path / "i", tmp_path / "j")
    assert [layout.truth(name) for name in (None, "infrared", "union")] == ["visible", "infrared", "union"]
    with pytest.raises(InputError, match=r"--truth fused: .* expected visible or infrared or union"):
        layout.truth("fused")
    for name in ("union", "A", "a b", ""):
        with pytest.raises(InputError, match="--label-set"):
            find_dataset("folders", ["car"], labels={name: ["v"]})
    with pytest.raises(InputError, match="at least one folder"):
        find_dataset("folders", ["car"], labels={"visible": []})


# What prepare writes


@pytest.fixture
def two_sets(m3fd):
    """The six pairs with a second set of labels: the boxes of 00000 and 00001 are lacking, 00002 has one more."""
    (m3fd / "Second").mkdir()
    for path in (m3fd / "Annotation").iterdir():
        text = path.read_text(encoding="utf-8")
        if path.stem in ("00000", "00001"):
            text = "<annotation></annotation>"
        if path.stem == "00002":
            more = "<object><name>Bus</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
            text = text.replace("</annotation>", f"{more}</object></annotation>")
        (m3fd / "Second" / path.name).write_text(text, encoding="utf-8")
    (m3fd / "train.txt").write_text("00003\nz\n")
    (m3fd / "test.txt").write_text("00000\n00001\n00002\n")
    return m3fd


FOLDERS = ("--dataset", "folders", "--visible", "Vis", "--infrared", "Ir", "--classes", *DATASETS["m3fd"].classes)


def run(root, output, *options):
    prepare.main(["--root", str(root), "--output", str(output), *FOLDERS, *options])
    return read_json(output / "dataset.json")


def test_every_set_of_a_split_is_written_and_the_chosen_one_is_the_truth(two_sets, tmp_path):
    alone = run(two_sets, tmp_path / "alone", "--labels", "Annotation")
    sets = ("--label-set", "first", "Annotation", "--label-set", "second", "Second")
    facts = run(two_sets, tmp_path / "both", *sets)
    for file in ("truth_train.json", "truth_test.json", "train.txt", "test.txt"):
        assert (tmp_path / "both" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    assert facts["truth"] == "first" and list(facts["label_sets"]) == ["first", "second", "union"]
    assert facts["boxes"] == alone["boxes"] == facts["label_sets"]["first"]["boxes"]
    totals = {name: sum(one["boxes"]["test"].values()) for name, one in facts["label_sets"].items()}
    assert totals == {"first": 3, "second": 2, "union": 4}
    assert alone["truth"] == "labels" and list(alone["label_sets"]) == ["labels"]
    chosen, truths, lacking = read_truth_sets(tmp_path / "both/truth_sets.json")
    assert chosen == "first" and truths["first"] == read_truth(tmp_path / "both/truth_test.json")
    counts = {(a, b): sum(by_class.values()) for a, others in lacking.items() for b, by_class in others.items()}
    assert counts == {("first", "second"): 2, ("second", "first"): 1}
    second = run(two_sets, tmp_path / "second", *sets, "--truth", "union")
    assert second["truth"] == "union" and second["boxes"]["test"]["Bus"] == 1
    assert read_truth(tmp_path / "second/truth_test.json") == truths["union"]


def test_the_audit_reads_every_set_and_counts_the_chosen_one(two_sets, tmp_path):
    sets = ("--label-set", "first", "Annotation", "--label-set", "second", "Second", "--truth", "second")
    audit.main(["--root", str(two_sets), "--output", str(tmp_path / "audit.json"), *FOLDERS, *sets])
    assert read_json(tmp_path / "audit.json")["boxes"] == 5
    (two_sets / "Annotation" / "00000.xml").write_text("<annotation>")
    with pytest.raises(InputError, match=r"Annotation/00000\.xml is not valid XML"):
        audit.main(["--root", str(two_sets), *FOLDERS, *sets])


def test_what_is_wrong_with_another_set_is_refused_as_with_the_chosen_one(two_sets, tmp_path):
    sets = ("--label-set", "first", "Annotation", "--label-set", "second", "Second")
    (two_sets / "Second" / "00002.xml").write_text("<annotation></annotation>")
    with pytest.raises(InputError, match=r"the 3 test \(labels second\) images have no boxes"):
        run(two_sets, tmp_path / "out", *sets)
    (two_sets / "Second" / "00002.xml").unlink()
    with pytest.raises(InputError, match=r"no label file for image '00002' in .*Second"):
        run(two_sets, tmp_path / "out", *sets)
    (two_sets / "Second" / "00000.xml").unlink()
    (two_sets / "Second" / "00001.xml").write_text((two_sets / "Annotation" / "00001.xml").read_text())
    warnings = run(two_sets, tmp_path / "out", *sets, "--unlabelled", "background")["warnings"]
    assert any(text.startswith("labels second: 2 images without a label file") for text in warnings)
    with pytest.raises(InputError, match="expected first or second or union"):
        run(two_sets, tmp_path / "none", *sets, "--truth", "third")
    with pytest.raises(InputError, match="expected each set once, and no --labels in addition"):
        run(two_sets, tmp_path / "none", *sets, "--labels", "Annotation")
    with pytest.raises(InputError, match="expected each set once"):
        run(two_sets, tmp_path / "none", *sets, "--label-set", "first", "Second")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("sets"), "is not a truth_sets.json: KeyError"),
        (lambda content: content.update(sets=[1]), "is not a truth_sets.json"),
        (lambda content: content.update(truth="third"), "names the truth 'third'; expected one of its sets: labels"),
        (lambda content: content["sets"]["labels"]["annotations"].pop(0), "labels has wrong annotation ids"),
    ],
)
def test_a_broken_file_of_truth_sets_is_refused(two_sets, tmp_path, change, message):
    run(two_sets, tmp_path / "out", "--labels", "Annotation")
    content = read_json(tmp_path / "out/truth_sets.json")
    change(content)
    write_json(tmp_path / "out/truth_sets.json", content)
    with pytest.raises(InputError, match=message):
        read_truth_sets(tmp_path / "out/truth_sets.json")


def test_the_sets_of_real_pairs_disagree_as_those_of_the_whole_test_set_do(shared, tmp_path):
    # Of MSRS' 361 test images: 505 of 893 persons drawn on fused images have no visible box, 634 of 1,795 boxes drawn
    # on infrared images no fused one. Here are 120 of these images, so shares agree to some points.
    root = shared / "data/msrs"
    prepare.main(["--dataset", "msrs", "--root", str(root), "--output", str(tmp_path / "split")])
    sets = json.loads((tmp_path / "split/dataset.json").read_text(encoding="utf-8"))["label_sets"]
    assert list(sets) == ["fused", "visible", "infrared", "union"]
    boxes = {name: one["boxes"]["test"] for name, one in sets.items()}
    _, _, lacking = read_truth_sets(tmp_path / "split/truth_sets.json")
    assert lacking["fused"]["visible"]["person"] / boxes["fused"]["person"] == pytest.approx(505 / 893, abs=0.08)
    infrared = sum(lacking["infrared"]["fused"].values()) / sum(boxes["infrared"].values())
    assert infrared == pytest.approx(634 / 1795, abs=0.08)
    for name in ("person", "bicycle", "car"):
        assert boxes["union"][name] >= max(boxes[one][name] for one in ("fused", "visible", "infrared"))
