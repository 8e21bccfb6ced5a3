"""Rendering: which cells are marked, and that nothing in them breaks Markdown or LaTeX."""

import math
from collections.abc import Sequence

import pandas as pd

from reports.render import Block, Layout, rank_marks, to_latex, to_markdown

LAYOUT = Layout({"variant": "Variant", "x": "X"}, {"x": 3}, {"x": True})


def block(frame: pd.DataFrame, layout: Layout = LAYOUT, caption: str = "Caption", notes: Sequence[str] = ()) -> Block:
    return Block("x", frame, layout, rank_marks(frame, layout), caption, notes)


def marks_of(values: list[float], higher: bool = True) -> list[str]:
    frame = pd.DataFrame({"variant": [str(index) for index in range(len(values))], "x": values})
    return rank_marks(frame, Layout(LAYOUT.columns, LAYOUT.digits, {"x": higher}))["x"].tolist()


def test_best_and_second_are_marked():
    assert marks_of([0.1, 0.3, 0.2]) == ["", "best", "second"]


def test_values_that_print_alike_share_a_mark():
    assert marks_of([0.5004, 0.4996, 0.4, 0.4001, 0.1]) == ["best", "best", "second", "second", ""]


def test_lower_can_be_better():
    assert marks_of([0.1, 0.3, 0.2], higher=False) == ["best", "", "second"]


def test_undefined_is_never_marked():
    assert marks_of([math.nan, 0.0, 0.1]) == ["", "second", "best"]


def test_where_all_are_tied_none_is_best():
    assert marks_of([0.0001, 0.0, math.nan]) == ["", "", ""]


def test_markdown_marks_and_escapes():
    frame = pd.DataFrame({"variant": ["a|b_c", "<b>"], "x": [0.25, 0.5]})
    text = to_markdown(block(frame))
    assert r"| a\|b\_c | <u>0.250</u> |" in text
    assert "| &lt;b> | **0.500** |" in text


def test_latex_marks_and_escapes_every_special_character():
    frame = pd.DataFrame({"variant": ["a_b & 5% #1 $x$ {y} ~ ^ \\z <|>", "c"], "x": [0.25, 0.5]})
    text = to_latex(block(frame, LAYOUT, "50 % & more", ["a_note"]))
    assert r"a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde" in text
    assert r"\textbackslash{}z \textless{}\textbar{}\textgreater{}" in text
    assert r"\underline{0.250}" in text
    assert r"\textbf{0.500}" in text
    assert r"\caption{50 \% \& more}" in text
    assert r"a\_note" in text
    assert r"\toprule" in text
    assert r"\begin{table*}" in text


def test_latex_breaks_long_headings_so_that_they_widen_no_column():
    headings = {"variant": "Variant", "x": "lowest to highest seed <5"}
    layout = Layout(headings, {"x": 3}, {})
    text = to_latex(block(pd.DataFrame({"variant": ["c"], "x": [0.5]}), layout))
    assert r"Variant & \shortstack[r]{lowest to \\ highest \\ seed \textless{}5} \\" in text
