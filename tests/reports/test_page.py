"""The report: it is self-contained, agrees with the tables, and escapes all names."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from example_run import ExampleRun

from pipeline.artefacts import read_csv, read_json, write_json
from pipeline.pairs import write_image
from pipeline.stage import InputError
from reports import page, tables
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


def viewer_data(text: str) -> dict:
    """Return the data of the page's viewer, as the browser reads it."""
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


@pytest.fixture(scope="module")
def text(ordinary_run) -> str:
    """The page of an ordinary run, for the tests that only look."""
    return write(ordinary_run)


@pytest.fixture(scope="module")
def rich_run(tmp_path_factory):
    """A run with all that a page can hold, its pictures beside the page, for the tests that only look."""
    run = ExampleRun(tmp_path_factory.mktemp("rich"), ("visible", "infrared", "average", "fnet"), (0,), "m3fd")
    ours = run.folder / "rich"
    item = {"image": run.test[0], "class": "Car", "bbox": [5, 3, 9, 12], "size": "small", "condition": "fog"}
    write_json(ours / "helps.json", {"fnet": {"found": [item, item | {"image": run.test[1]}], "lost": []}})
    write_json(ours / "config.json", {"fusion": {"methods": ["average", "swinfusion", "fnet"]}})
    write_json(ours / "cost.json", {"median_s": None, "size": [9, 9], "device": "cpu", "threads": 1})
    for name in ("features", "reconstructions", "iterations"):
        write_image(ours / f"insides/{name}.png", np.zeros((20, 30, 3), np.uint8))
    code = {"silent_share": [1.0, 0.25]}
    write_json(ours / "insides/insides.json", {"codes": {"visible": code}, "provenance": {"name": "00009"}})
    significance = run.write_significance([("fnet", "visible"), ("fnet", "infrared")])
    tables.main(run.tables_arguments())
    page.main(
        [
            *(*run.page_arguments(), *significance, "--helps", str(ours / "helps.json"), "--embed-mb", "0"),
            *("--config-snapshot", str(ours / "config.json"), "--costs", f"fnet={ours}/cost.json"),
            *("--insides", str(ours / "insides")),
        ]
    )
    return run


@pytest.fixture(scope="module")
def rich(rich_run) -> str:
    return (rich_run.folder / "report.html").read_text(encoding="utf-8")


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


def test_the_title_says_what_the_page_is_about(text):
    title = re.search(r"<title>(.*)</title>", text)[1]
    assert (
        "image fusion help object detection?" in title
        and "FNet" in title
        and title.lower().endswith("on the dataset m3fd")
    )
    heading = re.sub(r"<[^>]*>", "", re.search(r"<h1>(.*)</h1>", text)[1])
    assert heading == title


def test_ids_are_unique(text):
    ids = Elements(text).values("id")
    assert len(ids) == len(set(ids))


def test_numbers_are_those_of_the_csv(text, ordinary_run):
    for name, digits in (("table2", 3), ("fusion", 2)):
        frame, _ = read_csv(ordinary_run.tables / f"{name}.csv")
        section = text[text.index(f'<section id="{name}">') :]
        body = section[section.index("<tbody>") : section.index("</tbody>")]
        body = re.sub(r'<span class="tied"[^>]*>≈</span>', "", body)
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
    assert "the test set has no box of this class" in text


def test_hostile_names_are_shown_and_not_run(example):
    variant = "<script>alert(1)<!--&\"'"
    run = example(variants=("visible", "infrared", variant))
    text = write(run)
    elements = Elements(text)
    assert [tag for tag, _ in elements.elements].count("script") == 2  # the data and the program
    assert variant in elements.texts  # as a row's heading
    assert variant in viewer_data(text)["variants"]


def test_every_variant_has_a_pane_of_every_scene(text, ordinary_run):
    data = viewer_data(text)
    assert [scene["name"] for scene in data["scenes"]] == ordinary_run.test
    for scene in data["scenes"]:
        assert list(scene["panes"]) == data["variants"] == list(ordinary_run.variants)
        assert all(pane["image"].startswith("data:image/webp;base64,") for pane in scene["panes"].values())


def test_page_lists_what_was_not_measured(text):
    assert "Confidence intervals over test images" in text
    assert "each detector was trained once" in text


def test_same_input_gives_the_same_bytes(text, ordinary_run):
    assert write(ordinary_run) == text


def test_page_lists_methods_that_were_named_and_not_run(rich):
    assert "Methods of the configuration that were not run because they have no weights: swinfusion." in rich
    assert "Time and memory of these fusion methods: average, fnet." in rich


def test_significance_marks_ties_and_is_no_longer_listed_as_missing(rich):
    table = rich[rich.index('<section id="table2">') : rich.index('<section id="conditions">')]
    row = table[table.index('data-value="average"') :]
    assert row[: row.index("</tr>")].count('class="tied"') == 1
    assert table.count('class="tied"') == 1
    assert "95 % interval: 0.400 to 0.600" in rich
    assert "Confidence intervals over test images" not in rich
    assert "≈: not significantly different from the highest mAP" in rich


def test_conditions_are_shown_with_their_intervals_and_what_they_rest_on(rich):
    section = rich[rich.index('<section id="conditions">') :]
    section = section[: section.index("</section>")]
    assert section.count('<small class="below">0.200 to 0.600</small>') == 4  # AP of each variant
    assert section.count('<small class="below">-0.100 to 0.200</small>') == 6  # less each band, no band less itself
    assert (
        "night: 4 images, 17 boxes in 3 scenes." in section and "Exploratory: no significance test is made" in section
    )
    assert "Average precision by condition" not in rich[rich.index('id="provenance"') :]


def test_fusion_metrics_are_shown_with_their_ties_and_intervals(rich):
    section = rich[rich.index('<section id="fusion">') :]
    section = section[: section.index("</section>")]
    assert section.count('class="tied"') == 4  # six images, each a scene: no difference of four metrics is shown
    assert section.count("95 % interval: ") == 8 and section.count("vs. the best: p ") == 4
    assert "≈: not significantly different from the best of its column" in section
    assert "bootstrap of 6 images, each treated as a scene (no scenes were given" in section


def test_found_and_lost_objects_are_shown(rich):
    gallery = rich[rich.index('<section id="gallery">') : rich.index('<section id="charts">')]
    assert "2 gained, 0 lost" in gallery
    assert gallery.count("Car, small, fog") == 2
    alts = Elements(gallery).values("alt")
    assert [alt.rpartition(", ")[2] for alt in alts] == ["visible", "infrared", "fnet"] * 2
    assert "Objects gained and lost by fusion" not in rich


def test_fnets_insides_are_shown_where_they_are_given(rich):
    section = rich[rich.index('<section id="insides">') :]
    assert "visible 25 %" in section
    assert section[: section.index("</section>")].count("<img") == 3


def test_many_pictures_lie_beside_the_page(rich, rich_run):
    for scene in viewer_data(rich)["scenes"]:
        for pane in scene["panes"].values():
            assert (rich_run.folder / pane["image"]).is_file()


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
    refused(tabled, [*tabled.page_arguments(), "--losses", "losses.csv"], "--losses 'losses.csv': expected NAME=PATH")


def test_missing_image_is_refused(tabled):
    (tabled.folder / f"fused/fnet/{tabled.test[3]}.png").unlink()
    refused(tabled, tabled.page_arguments(), "fused/fnet", repr(tabled.test[3]))


def test_predictions_of_an_unknown_class_are_refused(tabled):
    file = tabled.ap("fnet").with_name("predictions.json")
    write_json(file, [{**read_json(file)[0], "category_id": 7}])
    refused(tabled, tabled.page_arguments(), str(file), "the category_id 7; expected one of the 6 in the ground truth")


def test_tables_of_another_split_are_refused(tabled):
    file = tabled.tables / "table2.csv"
    digest = read_json(tabled.split / "dataset.json")["split"]["digest_test"]
    file.write_text(file.read_text().replace(digest, "0" * 64))
    refused(tabled, tabled.page_arguments(), str(file), "dataset.json", "digest_test")


def test_insides_without_a_sheet_are_refused(tabled):
    write_json(tabled.folder / "insides.json", {"codes": {}, "provenance": {"name": "00009"}})
    refused(tabled, [*tabled.page_arguments(), "--insides", str(tabled.folder)], "lacks reconstructions.png")
