"""The report in a real browser: it opens without a complaint, sorts, filters, slides, zooms and obeys the keyboard."""

import numpy as np
import pytest
from browser import Browser, find_browser

from pipeline.artefacts import read_json, write_json
from reports import page, tables

WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine; wanted chromium or chrome on the PATH, or its path in $CHROMIUM")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def report(ordinary_run):
    """The ordinary run's page, with a found object, a missed one and a false detection in its first scene."""
    run = ordinary_run
    truth = read_json(run.split / "truth_test.json")
    boxes = [entry for entry in truth["annotations"] if entry["image_id"] == int(run.test[0])]
    found = {"image_id": boxes[0]["image_id"], "category_id": boxes[0]["category_id"], "bbox": boxes[0]["bbox"]}
    wrong = found | {"bbox": [40, 20, 9, 9], "score": 0.6}
    for variant in run.variants:
        write_json(run.ap(variant).with_name("predictions.json"), [found | {"score": 0.9}, wrong])
    item = {"image": run.test[2], "class": "Car", "bbox": boxes[0]["bbox"]}
    write_json(run.folder / "helps.json", {"fnet": {"found": [item], "lost": [item]}})
    tables.main(run.tables_arguments())
    page.main([*run.page_arguments(), "--helps", str(run.folder / "helps.json")])
    return run.folder / "report.html"


@pytest.fixture
def opened(browser, report):
    browser.errors.clear()
    browser.open(report.as_uri(), WIDTHS[0])
    yield browser
    assert browser.errors == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_opens_without_a_complaint_and_fits_its_window(browser, report, width, dark):
    browser.errors.clear()
    browser.open(report.as_uri(), width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.querySelectorAll('p, li, dd')].every((e) => e.scrollWidth <= innerWidth)")
    assert browser.errors == []


def test_the_widest_table_of_the_detector_is_read_without_scrolling_sideways(browser, example):
    run = example()
    dataset = read_json(run.split / "dataset.json")
    write_json(run.split / "dataset.json", dataset | {"dataset": "M3FD"})  # so that the paper's columns stand there
    run.add_inside()
    run.add_late()
    significance = run.write_significance()
    tables.main([*run.tables_arguments(), *significance])
    page.main([*run.page_arguments(), *significance])
    browser.errors.clear()
    browser.open((run.folder / "report.html").as_uri(), WIDTHS[0])
    region = "document.querySelector('#table2 table').closest('.scroll')"
    assert browser.run(f"{region}.scrollWidth <= {region}.clientWidth")
    rows = "[...document.querySelectorAll('#table2 tbody tr')].map((e) => e.textContent.replace(/\\s+/g, ' ').trim())"
    found = browser.run(rows)
    assert found[-1].startswith("late not in the paper") and "0.400\u20130.600" in found[0]
    assert "mAP (paper)" in browser.run("document.querySelector('#table2 thead').textContent")
    browser.open((run.folder / "report.html").as_uri(), WIDTHS[1])
    heights = browser.run("[...document.querySelectorAll('#table2 tr')].map((e) => e.offsetHeight)")
    assert max(heights) < 70  # words in columns out of sight make no row tall
    assert browser.errors == []


PICTURES = (
    "Promise.all([...document.querySelectorAll('.panes svg.view image')].map((e) => new Promise((done) => {"
    " const i = new Image(); i.onload = () => done(i.naturalWidth); i.onerror = () => done(0);"
    " i.src = e.href.baseVal; })))"
)


def test_every_picture_of_a_scene_is_shown(opened):
    assert opened.run(PICTURES) == [64] * 4


def test_pictures_beside_the_page_are_shown_as_well(browser, report, ordinary_run):
    page.main([*ordinary_run.page_arguments(), "--embed-mb", "0", "--output", str(report.with_name("large.html"))])
    browser.errors.clear()
    browser.open(report.with_name("large.html").as_uri(), WIDTHS[0])
    assert browser.run(PICTURES) == [64] * 4
    browser.click("[data-is=next]")
    assert browser.run(PICTURES) == [64] * 4
    assert browser.errors == []


def test_pressing_a_heading_sorts(opened):
    names = "[...document.querySelectorAll('#table2 tbody th')].map((e) => e.dataset.value)"
    assert opened.run(names) == ["visible", "infrared", "average", "fnet"]
    heading = "#table2 thead th:nth-child(8) button"  # Average
    opened.click(heading)
    assert opened.run(names) == ["fnet", "average", "infrared", "visible"]
    opened.click(heading)
    assert opened.run(names) == ["visible", "infrared", "average", "fnet"]
    assert opened.run("document.querySelector('#table2 thead th:nth-child(8)').ariaSort") == "ascending"


def test_the_field_above_a_table_filters_its_rows(opened):
    opened.click("#table2 input")
    for key in "fne":
        opened.press(key)
    shown = "[...document.querySelectorAll('#table2 tbody tr')].filter((e) => !e.hidden).length"
    assert opened.run(shown) == 1
    assert opened.run("[...document.querySelectorAll('#fusion tbody tr')].filter((e) => !e.hidden).length") == 2


def test_arrow_keys_walk_through_a_table_and_show_seeds(opened):
    opened.run("document.querySelector('#table2 tbody th').focus()")
    assert not opened.run("document.getElementById('tip').hidden")
    for key in ("ArrowRight", "ArrowDown"):
        opened.press(key)
    assert opened.run("document.activeElement.dataset.value") == opened.run(
        "document.querySelector('#table2 tbody tr:nth-child(2) td').dataset.value"
    )
    assert "seed 0: 0.41" in opened.run("document.getElementById('tip').textContent")
    opened.press("Escape")
    assert opened.run("document.getElementById('tip').hidden")


def test_found_missed_and_false_are_drawn_and_told(opened):
    pane = "document.querySelector('[data-variant=fnet]')"
    count = f"(k) => [k, {pane}.querySelectorAll('rect.over.' + k).length]"
    boxes = f"Object.fromEntries(['hit', 'miss', 'correct', 'false'].map({count}))"
    assert opened.run(boxes) == {"hit": 1, "miss": 3, "correct": 1, "false": 1}
    assert opened.run(f"{pane}.querySelector('[data-is=count]').textContent").startswith("1 of 4 detected, missed: ")
    opened.click("[data-variant=fnet] input")
    assert opened.run(f"{pane}.querySelectorAll('rect').length") == 0
    assert opened.run("document.querySelectorAll('[data-variant=visible] rect').length") > 0


def test_panes_are_chosen_by_name(opened):
    opened.click("[data-is=shown]")
    for key in "fnet,vis":
        opened.press(key)
    shown = "[...document.querySelectorAll('[data-variant]')].filter((e) => !e.hidden).map((e) => e.dataset.variant)"
    assert opened.run(shown) == ["visible", "fnet"]


def test_a_higher_least_score_hides_weaker_detections(opened):
    opened.run(
        "(() => { const s = document.querySelector('[data-is=score]'); s.value = 0.7;"
        " s.dispatchEvent(new Event('input')); })()"
    )
    assert opened.run("document.querySelectorAll('rect.over.false').length") == 0
    assert opened.run("document.querySelectorAll('rect.over.correct').length") == 4


def test_all_panes_zoom_and_move_together(opened):
    views = "[...new Set([...document.querySelectorAll('svg.view')].map((e) => e.getAttribute('viewBox')))]"
    (whole,) = opened.run(views)
    opened.click("[data-is=closer]")
    (closer,) = opened.run(views)
    assert float(closer.split()[2]) < float(whole.split()[2])
    opened.run("document.querySelector('[data-is=surface]').focus()")
    opened.press("ArrowRight")
    (moved,) = opened.run(views)
    assert float(moved.split()[0]) > float(closer.split()[0])
    opened.press("0")
    assert opened.run(views) == [whole]


def test_the_slider_moves_by_the_keyboard(opened):
    opened.click("[data-mode=slider]")
    assert opened.run("document.querySelector('[data-is=panes]').offsetHeight") == 0
    edge = "document.querySelector('.edge').getBoundingClientRect().x"
    before = opened.run(edge)
    opened.run("document.querySelector('[data-is=split]').focus()")
    for _ in range(10):
        opened.press("ArrowLeft")
    assert opened.run(edge) < before - 20


def test_keys_change_the_scene_and_a_found_object_leads_to_its_own(opened, ordinary_run):
    name = "document.querySelector('#viewer h3').textContent"
    assert opened.run(name).startswith(ordinary_run.test[0])
    opened.run("document.querySelector('[data-is=surface]').focus()")
    opened.press("n")
    assert opened.run(name).startswith(ordinary_run.test[1])
    opened.click("#gallery [data-scene]")
    assert opened.run(name).startswith(ordinary_run.test[2])


def test_every_control_has_a_name(opened):
    nameless = opened.run(
        "[...document.querySelectorAll('button, input, select')].filter((e) => !(e.textContent.trim() || e.ariaLabel"
        " || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []


def contrast(first: str, second: str) -> float:
    """WCAG 2's contrast ratio of two colours, `#rrggbb` or CSS `rgb(...)`."""

    def luminance(colour: str) -> float:
        if colour.startswith("#"):
            values = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        else:
            values = [float(value) for value in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        rgb = np.array(values) / 255
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser, report, dark):
    browser.open(report.as_uri(), WIDTHS[0], dark=dark)
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    for selector in ("body", ".trust", ".notes", "a", ".soft", "figcaption"):
        colour = browser.run(f"getComputedStyle(document.querySelector({selector!r})).color")
        assert contrast(colour, ground) >= 4.5, selector


def seen_by_a_deuteranope(colour: str) -> np.ndarray:
    """What Vienot, Brettel and Mollon (1999) compute that a reader without green cones sees, linear RGB in 0..1."""
    rgb = (np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255) ** 2.2
    return np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]) @ rgb


def test_colours_of_methods_and_boxes_differ_for_colour_blind_readers():
    from reports.charts import PALETTE

    for colours in (PALETTE, ("#ffffff", "#ff7a1a", "#56b4e9", "#f0e442")):
        seen = [seen_by_a_deuteranope(colour).clip(0, 1) ** (1 / 2.2) for colour in colours]
        distances = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
        assert min(distances) > 0.08
