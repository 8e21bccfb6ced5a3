"""The report: it needs nothing but itself, says what the tables say, and believes nobody's names."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from pipeline.artefacts import read_csv, read_json, write_json
from pipeline.pairs import write_image
from pipeline.stage import InputError
from reports import page, scenes, tables
from reports.render import format_value


class Elements(HTMLParser):
    """Collects every element with its attributes, and the cells of each table by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, *attributes: str) -> list[str]:
        return [value or "" for _, found in self.elements for name, value in found.items() if name in attributes]


def write(run) -> str:
    tables.main(run.tables_arguments())
    page.main(run.page_arguments())
    return (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(ordinary_run) -> str:
    """The page of an ordinary run, for the tests that only look."""
    return write(ordinary_run)


def test_page_needs_nothing_but_itself(text):
    elements = Elements(text)
    for tag, attributes in elements.elements:
        assert tag != "script" or not attributes or attributes["type"] == "application/json"
    assert not [tag for tag, _ in elements.elements if tag in ("link", "iframe", "object", "embed", "base")][1:]
    for value in elements.values("src", "href", "xlink:href", "srcset", "action", "data"):
        assert re.match(r"(#[\w-]+$|data:)", value), value
    assert not re.search(r"@import|url\((?!#)", text)


def test_page_forbids_itself_the_network(text):
    policy = next(
        a["content"] for tag, a in Elements(text).elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy


def test_ids_are_unique(text):
    ids = Elements(text).values("id")
    assert len(ids) == len(set(ids))


def test_numbers_are_those_of_the_csv(example):
    run = example()
    text = write(run)
    for name, digits in (("table2", 3), ("fusion", 2)):
        frame, _ = read_csv(run.tables / f"{name}.csv")
        section = text[text.index(f'<section id="{name}">') :]
        body = section[section.index("<tbody>") : section.index("</tbody>")]
        rows = [re.findall(r'data-value="([^"]*)"[^>]*>([^<]*)<', row) for row in body.split("</tr>")[:-1]]
        assert [row[0][1] for row in rows] == frame.iloc[:, 0].tolist()
        for row, values in zip(rows, frame.itertuples(index=False), strict=True):
            count = 7 if name == "table2" else 4
            for (full, shown), value in zip(row[1 : 1 + count], values[1 : 1 + count], strict=True):
                assert float(full) == value
                assert shown == format_value(value, digits)


def test_undefined_is_shown_as_such_and_never_as_zero(example):
    run = example()
    for variant in run.variants:
        run.write_ap(variant, 0, Lamp=None)
    run.change(run.split / "dataset.json", "boxes", "test", "Lamp", value=0)
    for variant in run.variants:
        run.change(run.ap(variant), "classes", "Lamp", "boxes", value=0)
    text = write(run)
    assert text.count('data-value="n/a" data-tip="n/a') >= len(run.variants)
    assert "the test set has no box of it" in text


def test_hostile_names_are_shown_and_not_run(example):
    variant = "<script>alert(1)<!--&\"'"
    run = example(variants=("visible", "infrared", variant))
    elements = Elements(write(run))
    assert [tag for tag, _ in elements.elements].count("script") == 2  # the data and the program
    assert variant in elements.texts  # as a row's heading
    assert variant in viewer_data(run)["variants"]


def viewer_data(run) -> dict:
    """What the page hands to its viewer, as the browser reads it."""
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def test_every_variant_has_a_pane_of_every_scene(example):
    run = example()
    write(run)
    data = viewer_data(run)
    assert [scene["name"] for scene in data["scenes"]] == run.test
    for scene in data["scenes"]:
        assert list(scene["panes"]) == data["variants"] == list(run.variants)
        assert all(pane["image"].startswith("data:image/webp;base64,") for pane in scene["panes"].values())


def test_detections_say_which_true_box_they_find(example):
    run = example()
    truth = read_json(run.split / "truth_test.json")
    box = next(entry for entry in truth["annotations"] if entry["image_id"] == int(run.test[0]))
    found = {"image_id": box["image_id"], "category_id": box["category_id"], "bbox": box["bbox"], "score": 0.9}
    stray = found | {"category_id": 1 + box["category_id"] % 6, "score": 0.8}
    write_json(run.ap("fnet").with_name("predictions.json"), [found | {"score": 0.01}, stray, found])
    write(run)
    scene = viewer_data(run)["scenes"][0]
    detections = scene["panes"]["fnet"]["detections"]
    assert [item[5:] for item in detections] == [[0.9, 0], [0.8, -1]]  # the weakest is left out
    assert scene["truth"][0][:4] == box["bbox"]


def test_a_scene_says_its_condition(example):
    run = example()
    write_json(run.split / "conditions.json", {"source": "the data set", "images": {run.test[0]: "fog"}})
    write(run)
    conditions = {scene["name"]: scene["condition"] for scene in viewer_data(run)["scenes"]}
    assert conditions[run.test[0]] == "fog" and conditions[run.test[1]] == ""


def test_page_lists_what_was_not_measured(text):
    assert "Confidence intervals over test images" in text
    assert "each detector was trained once" in text


def test_page_lists_methods_that_were_named_and_not_run(example):
    run = example()
    write_json(run.folder / "config.json", {"fusion": {"methods": ["average", "swinfusion", "fnet"]}})
    write_json(run.folder / "cost.json", {"median_s": None, "size": [9, 9], "device": "cpu", "threads": 1})
    tables.main(run.tables_arguments())
    page.main([*run.page_arguments(), "--costs", f"fnet={run.folder}/cost.json"])
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "Named by the configuration and not run, for want of weights: swinfusion." in text
    assert "What these cost in time and memory: average, fnet." in text


def test_same_input_gives_the_same_bytes(example):
    run = example()
    assert write(run) == write(run)


# The verdict


def scores_of(low_high: bool = False, **averages: float) -> pd.DataFrame:
    frame = pd.DataFrame({"variant": list(averages), "Average": list(averages.values())})
    frame["Average_low"] = frame["Average"] - 0.01 if low_high else float("nan")
    frame["Average_high"] = frame["Average"] + 0.01 if low_high else float("nan")
    return frame.assign(seeds=2 if low_high else 1)


def test_verdict_compares_the_best_fused_with_the_better_band():
    answer, trust = page.verdict(scores_of(visible=0.5, infrared=0.4, average=0.45, fnet=0.523), "msrs")
    assert answer.startswith("Fusion scored higher on msrs")
    assert "fnet" in answer
    assert "visible, 0.500 (+0.023)" in answer
    assert "1 of 2 fused variants scored above visible" in trust
    assert "One seed: not known to be more than noise." in trust


def test_verdict_says_when_fusion_did_not_help():
    assert page.verdict(scores_of(visible=0.5, infrared=0.6, fnet=0.55), "msrs")[0].startswith("Fusion scored lower")
    assert page.verdict(scores_of(visible=0.5, infrared=0.4, fnet=0.5001), "x")[0].startswith(
        "Fusion made no difference"
    )


def test_verdict_says_whether_seeds_overlap():
    assert "overlap;" in page.verdict(scores_of(True, visible=0.50, fnet=0.51), "msrs")[1]
    assert "do not overlap" in page.verdict(scores_of(True, visible=0.50, fnet=0.53), "msrs")[1]


def significance_of(low: float, high: float, different: bool) -> dict:
    """What detection.significance writes, of two variants; the pair the other way round than the verdict asks."""
    entry = {"first": "visible", "second": "fnet", "difference": -(low + high) / 2, "low": -high, "high": -low}
    bounds = {"AP": 0.5, "low": 0.45, "high": 0.55}
    return {
        **{"method": "percentile bootstrap over test images", "samples": 1000, "correction": "Holm over 1 comparisons"},
        "variants": {name: {"Average": bounds} for name in ("visible", "fnet")},
        "comparisons": [entry | {"p": 0.01, "p_holm": 0.03, "different": different}],
    }


@pytest.mark.parametrize("different", [True, False])
def test_verdict_states_the_interval_of_the_difference(different):
    table = scores_of(visible=0.5, fnet=0.53)
    significance = significance_of(0.01, 0.05, different)
    answer, trust = page.verdict(table, "msrs", significance)
    assert ("can be told from chance" in trust) == different
    assert "its 95 % interval by itself is +0.010 to +0.050, p 0.03 after correction" in trust
    assert ("which chance can explain" in answer) != different
    assert page.tied_with_best(table, significance) == (set() if different else {"visible"})


def test_intervals_replace_the_seeds_range():
    table = scores_of(True, visible=0.5, fnet=0.53)
    assert page.average_bounds(table, None)["fnet"] == pytest.approx((0.52, 0.54))
    assert page.average_bounds(table, significance_of(0, 0, True)) == {"visible": (0.45, 0.55), "fnet": (0.45, 0.55)}


def test_significance_marks_ties_where_there_are_any_and_is_no_longer_listed_as_missing(tabled):
    pairs = [("fnet", name, name == "average") for name in ("visible", "infrared", "average")]
    compared = [
        {
            "first": a,
            "second": b,
            "difference": 0.0,
            "low": -0.1,
            "high": 0.1,
            "p": 1,
            "p_holm": 1,
            "different": not tie,
        }
        for a, b, tie in pairs
    ]
    write_json(tabled.folder / "significance.json", significance_of(0, 0, True) | {"comparisons": compared})
    page.main([*tabled.page_arguments(), "--significance", str(tabled.folder / "significance.json")])
    text = (tabled.folder / "report.html").read_text(encoding="utf-8")
    row = text[text.index('data-value="average"') :]
    assert row[: row.index("</tr>")].count('class="tied"') == 1
    assert text.count('class="tied"') == 1
    assert "95 % interval: 0.450 to 0.550" in text
    assert "Confidence intervals over test images" not in text
    assert "≈: Average is not shown to differ" in text
    for entry in compared:
        entry["different"] = True
    write_json(tabled.folder / "significance.json", significance_of(0, 0, True) | {"comparisons": compared})
    page.main([*tabled.page_arguments(), "--significance", str(tabled.folder / "significance.json")])
    assert "≈" not in (tabled.folder / "report.html").read_text(encoding="utf-8")


def test_verdict_on_undefined_scores_says_so():
    assert page.verdict(scores_of(visible=0.5, fnet=float("nan")), "msrs")[0].startswith("This run cannot say")


def test_verdict_on_detectors_that_learned_nothing_says_so():
    answer = page.verdict(scores_of(visible=0.01, infrared=0.0, fnet=0.02), "msrs")[0]
    assert answer == "This run cannot say: no detector has learned, the best reached 0.020."


# The scenes


def test_scenes_are_spread_over_the_sorted_list():
    names = [f"{number:03}" for number in range(60)]
    chosen = scenes.choose_scenes(names[::-1], 6)
    assert [int(name) // 10 for name in chosen] == [0, 1, 2, 3, 4, 5]
    assert chosen == scenes.choose_scenes(names, 6)


def test_few_names_are_all_chosen():
    assert scenes.choose_scenes(["b", "a"], 6) == ["a", "b"]
    assert scenes.choose_scenes([], 6) == []


# What is refused


def refused(run, arguments: list[str], *parts: str) -> None:
    with pytest.raises(InputError) as error:
        page.main(arguments)
    for part in parts:
        assert part in str(error.value)
    assert not (run.folder / "report.html").exists()


@pytest.fixture
def tabled(example):
    run = example()
    tables.main(run.tables_arguments())
    return run


def test_variant_without_images_is_refused(tabled):
    arguments = tabled.page_arguments()
    arguments.remove(f"fnet={tabled.folder}/fused/fnet")
    refused(tabled, arguments, "--images", "'fnet'")


def test_argument_without_a_name_is_refused(tabled):
    refused(tabled, [*tabled.page_arguments(), "--losses", "losses.csv"], "--losses 'losses.csv': wanted NAME=PATH")


def test_missing_image_is_refused(tabled):
    (tabled.folder / f"fused/fnet/{tabled.test[3]}.png").unlink()
    refused(tabled, tabled.page_arguments(), "fused/fnet", repr(tabled.test[3]))


def test_predictions_of_an_unknown_class_are_refused(tabled):
    file = tabled.ap("fnet").with_name("predictions.json")
    write_json(file, [{**read_json(file)[0], "category_id": 7}])
    refused(tabled, tabled.page_arguments(), str(file), "COCO results")


def test_tables_of_another_split_are_refused(tabled):
    file = tabled.tables / "table2.csv"
    digest = read_json(tabled.split / "dataset.json")["split"]["digest_test"]
    file.write_text(file.read_text().replace(digest, "0" * 64))
    refused(tabled, tabled.page_arguments(), str(file), "dataset.json", "digest_test")


def test_images_are_scaled_down_and_never_up():
    image = np.zeros((30, 100, 3), np.uint8)
    assert scenes.scaled(image, 50).shape == (15, 50, 3)
    assert scenes.scaled(image, 500).shape == image.shape


# What a detection finds


def box(x: float, y: float, width: float, height: float, name: str = "Car") -> dict:
    return {"bbox": [x, y, width, height], "class": name}


def test_overlap_is_intersection_over_union():
    assert scenes.overlap([0, 0, 4, 4], [2, 0, 4, 4]) == pytest.approx(8 / 24)
    assert scenes.overlap([0, 0, 4, 4], [4, 0, 4, 4]) == 0
    assert scenes.overlap([0, 0, 0, 0], [0, 0, 0, 0]) == 0


def test_a_box_is_found_once_and_by_the_most_certain():
    truth = [box(0, 0, 10, 10)]
    assert scenes.match(truth, [box(1, 0, 10, 10), box(0, 0, 10, 10)]) == [0, -1]


def test_a_detection_of_another_class_finds_nothing():
    assert scenes.match([box(0, 0, 10, 10)], [box(0, 0, 10, 10, "Bus")]) == [-1]


def test_a_detection_finds_the_box_that_it_covers_best():
    truth = [box(0, 0, 10, 10), box(2, 0, 10, 10)]
    assert scenes.match(truth, [box(2, 0, 10, 10), box(1, 0, 10, 10)]) == [1, 0]


def test_matches_are_those_of_the_coco_evaluator(rng):
    """Found boxes at overlap 0.5 are as many as pycocotools counts, over random scenes."""
    from detection.average_precision import score

    for _ in range(20):
        corners = rng.uniform(0, 60, (6, 2))
        truth = [box(*map(float, corner), 20.0, 20.0) for corner in corners]
        shifted = corners[rng.integers(0, 6, 9)] + rng.normal(0, 4, (9, 2))
        detections = [box(*map(float, corner), 20.0, 20.0) for corner in shifted]
        images = [{"id": 1, "file_name": "a", "width": 100, "height": 100}]
        entries = [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": b["bbox"], "area": 400.0, "iscrowd": 0}
            for n, b in enumerate(truth, 1)
        ]
        results = [
            {"image_id": 1, "category_id": 1, "bbox": b["bbox"], "score": 0.9 - 0.01 * n}
            for n, b in enumerate(detections)
        ]
        coco = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "Car"}]}
        found = sum(index >= 0 for index in scenes.match(truth, detections))
        assert found / 6 == pytest.approx(score(coco, results).recall[0, 0, 0, -1])


# Found and lost objects, pictures beside the page


def helped(run) -> list[str]:
    item = {"image": run.test[0], "class": "Car", "bbox": [5, 3, 9, 12], "size": "small", "condition": "fog"}
    write_json(run.folder / "helps.json", {"fnet": {"found": [item, item | {"image": run.test[1]}], "lost": []}})
    return [*run.page_arguments(), "--helps", str(run.folder / "helps.json")]


def test_found_and_lost_objects_are_shown(tabled):
    page.main(helped(tabled))
    text = (tabled.folder / "report.html").read_text(encoding="utf-8")
    gallery = text[text.index('<section id="gallery">') : text.index('<section id="charts">')]
    assert "2 found, 0 lost" in gallery
    assert gallery.count("Car, small, fog") == 2
    alts = Elements(gallery).values("alt")
    assert [alt.rpartition(", ")[2] for alt in alts] == ["visible", "infrared", "fnet"] * 2
    assert "Which objects fusing found and lost" not in text


def test_fnets_insides_are_shown_where_they_are_given(tabled):
    folder = tabled.folder / "insides"
    for name in ("features", "reconstructions", "iterations"):
        write_image(folder / f"{name}.png", np.zeros((20, 30, 3), np.uint8))
    code = {"silent_share": [1.0, 0.25]}
    write_json(folder / "insides.json", {"codes": {"visible": code}, "provenance": {"name": "00009"}})
    page.main([*tabled.page_arguments(), "--insides", str(folder)])
    text = (tabled.folder / "report.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="insides">') :]
    assert "visible 25 %" in section
    assert section[: section.index("</section>")].count("<img") == 3
    (folder / "features.png").unlink()
    with pytest.raises(InputError, match=r"insides lacks features\.png"):
        page.main([*tabled.page_arguments(), "--insides", str(folder)])


def test_many_pictures_lie_beside_the_page(tabled):
    page.main([*tabled.page_arguments(), "--embed-mb", "0"])
    folder = tabled.folder / "report_images"
    first = {file.name for file in folder.iterdir()}
    for scene in viewer_data(tabled)["scenes"]:
        for pane in scene["panes"].values():
            assert (tabled.folder / pane["image"]).is_file()
    (folder / "0123456789abcdef.webp").write_bytes(b"of an earlier page")
    page.main([*tabled.page_arguments(), "--embed-mb", "0"])
    assert {file.name for file in folder.iterdir()} == first


# Metrics against the detector


def test_rank_correlation_is_spearmans_with_an_exact_p():
    points = pd.DataFrame({"MI": [1.0, 2.0, 3.0, 4.0], "VIF": [4.0, 3.0, 2.0, 1.5], "Average": [0.1, 0.2, 0.3, 0.4]})
    mi, vif = page.rank_correlations(points, ["MI", "VIF"])
    assert (mi["rho"], vif["rho"]) == (1.0, -1.0)
    assert mi["p"] == vif["p"] == pytest.approx(2 / 24)  # two of the 24 orders are as extreme
    assert "4 methods are too few" in page.correlation_sentence([mi, vif])


def test_two_methods_have_no_rank_correlation():
    points = pd.DataFrame({"MI": [1.0, 2.0], "Average": [0.1, 0.2]})
    (entry,) = page.rank_correlations(points, ["MI"])
    assert np.isnan(entry["rho"])
    assert "Too few methods" in page.correlation_sentence([entry])


def test_changes_are_the_best_fused_less_the_better_band():
    table = pd.DataFrame(
        {"variant": ["visible", "infrared", "fnet", "late"], "Car": [0.5, 0.1, 0.6, 0.9], "Bus": [0.5, 0.9, 0.4, 0.9]}
    ).assign(Lamp=np.nan, Average=[0.5, 0.45, 0.55, 0.9])
    assert page.compared_rows(table) == ("fnet", "visible")  # pooled boxes are no fused image
    assert page.changes(table, ["Bus", "Car", "Lamp"], ("fnet", "visible")) == [("Car", 0.1), ("Bus", -0.1)]


def test_pooled_boxes_are_told_and_not_taken_for_a_fused_image():
    answer, trust = page.verdict(scores_of(visible=0.5, infrared=0.4, fnet=0.52, late=0.6), "msrs")
    assert "the best fused variant, fnet" in answer
    assert "without fusing any image, reached 0.600" in trust


def test_parts_are_means_over_the_seeds_and_nan_where_a_seed_has_none():
    def run(variant: str, night: float | None, small: float) -> dict:
        conditions = {"night": {"images": 7, "average": {"AP": night}}}
        return {"variant": variant, "average": {"AP": 0.5, "AP_small": small}, "conditions": conditions}

    runs = [run("visible", 0.2, 0.1), run("visible", 0.4, 0.3), run("fnet", None, 0.2), run("fnet", 0.5, 0.4)]
    table, images = page.parts_table(runs, ["visible", "fnet"])
    assert images == {"night": 7}
    assert table["small"].tolist() == pytest.approx([0.2, 0.3])
    assert table["night"].iloc[0] == pytest.approx(0.3) and np.isnan(table["night"].iloc[1])
