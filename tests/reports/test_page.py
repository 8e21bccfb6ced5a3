"""The report: it needs nothing but itself, says what the tables say, and believes nobody's names."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from fusion.artefacts import read_csv, read_json, write_json
from fusion.stage import InputError
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


@pytest.fixture(scope="module")
def text(ordinary_run) -> str:
    """The page of an ordinary run, for the tests that only look."""
    return write(ordinary_run)


def test_page_needs_nothing_but_itself(text):
    elements = Elements(text)
    assert not [tag for tag, attributes in elements.elements if tag == "script" and attributes]
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
    assert text.count('data-value="n/a" title="n/a">n/a<') >= len(run.variants)
    assert "the test set has no box of it" in text


def test_hostile_names_are_shown_and_not_run(example):
    variant = "<script>alert(1)<!--&\"'"
    run = example(variants=("visible", "infrared", variant))
    elements = Elements(write(run))
    assert [tag for tag, _ in elements.elements].count("script") == 1
    assert variant in elements.texts  # as a row's heading
    assert f"Scene {run.test[0]}, {variant}" in elements.values("alt")


def test_every_variant_has_a_pane_of_every_scene(example):
    run = example()
    elements = Elements(write(run))
    panes = [attributes["alt"] for tag, attributes in elements.elements if tag == "img"]
    assert len(panes) == len(run.variants) * 6
    assert f"Scene {run.test[0]}, fnet" in panes


def test_weak_detections_are_not_drawn(text):
    assert "Car 0.90" in text
    assert "Car 0.10" not in text


def test_page_lists_what_was_not_measured(text):
    assert "Confidence intervals over test images" in text
    assert "each detector was trained once" in text


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


def test_verdict_on_undefined_scores_says_so():
    assert page.verdict(scores_of(visible=0.5, fnet=float("nan")), "msrs")[0].startswith("This run cannot say")


def test_verdict_on_detectors_that_learned_nothing_says_so():
    answer = page.verdict(scores_of(visible=0.01, infrared=0.0, fnet=0.02), "msrs")[0]
    assert answer == "This run cannot say: no detector has learned, the best reached 0.020."


# The scenes


def test_scenes_are_spread_over_the_sorted_list():
    names = [f"{number:03}" for number in range(60)]
    chosen = page.choose_scenes(names[::-1], 6)
    assert [int(name) // 10 for name in chosen] == [0, 1, 2, 3, 4, 5]
    assert chosen == page.choose_scenes(names, 6)


def test_few_names_are_all_chosen():
    assert page.choose_scenes(["b", "a"], 6) == ["a", "b"]
    assert page.choose_scenes([], 6) == []


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


def test_images_are_scaled_down_and_never_up(tmp_path):
    import numpy as np

    from fusion.pairs import write_image

    path = Path(tmp_path / "a.png")
    write_image(path, np.zeros((30, 100, 3), np.uint8))
    small, large = page.image_data(path, 50), page.image_data(path, 500)
    assert small[1:] == large[1:] == (100, 30)
    assert small[0].startswith("data:image/webp;base64,")
    assert len(small[0]) <= len(large[0])
