"""Render a frame as Markdown, LaTeX or HTML; numbers are rounded only here.

The best value of a column is bold, the second best underlined. Ties after rounding are marked alike.
"""

import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from pipeline.artefacts import write_text

UNDEFINED = "n/a"

# Characters per line of a LaTeX heading. A wide table is shrunk to the page's width, and a heading that is wider than
# its numbers would shrink it further.
HEADING = 11


@dataclass(frozen=True)
class Layout:
    """How a frame is printed: its columns in order, their headings and digits, and which of them are ranked.

    `columns` maps a frame's column to its heading. `digits` gives the decimals of a numeric column (0 if absent); a
    text column in it is aligned like numbers. `higher_is_better` gives the ranked columns and their direction.
    """

    columns: Mapping[str, str]
    digits: Mapping[str, int]
    higher_is_better: Mapping[str, bool]


@dataclass(frozen=True)
class Block:
    """One printed table: a frame, its layout, its caption and its notes.

    `name` is the end of its LaTeX label; `marks` are `best`, `second` or empty for each printed cell; `groups` are the
    rows that begin a group.
    """

    name: str
    frame: pd.DataFrame
    layout: Layout
    marks: pd.DataFrame
    caption: str
    notes: Sequence[str]
    groups: Collection[int] = ()


def format_value(value: object, digits: int) -> str:
    """Return a cell's text: a number with `digits` decimals, `n/a` if undefined; a text is returned unchanged."""
    if isinstance(value, str):
        return value
    number = float(value)
    return UNDEFINED if math.isnan(number) else f"{number:.{digits}f}"


def printed(frame: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Return the printed text of each cell; columns are in the layout's order and keep their names."""
    return pd.DataFrame(
        {name: [format_value(value, layout.digits.get(name, 0)) for value in frame[name]] for name in layout.columns}
    )


def rank_marks(frame: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Return `best`, `second` or an empty string for each printed cell.

    Ranks are computed from the printed values, so that no mark depends on a digit that is not shown. If all values of a
    column are equal as printed, none is marked.
    """
    marks = pd.DataFrame("", index=range(len(frame)), columns=list(layout.columns))
    cells = printed(frame, layout)
    for name, higher in layout.higher_is_better.items():
        values = cells[name].replace(UNDEFINED, "nan").astype(float)
        ranked = sorted(values.dropna().unique(), reverse=higher)
        for mark, value in zip(("best", "second"), ranked if len(ranked) > 1 else [], strict=False):
            marks.loc[values == value, name] = mark
    return marks


def to_markdown(block: Block) -> str:
    """Return a table as GitHub Markdown, with its caption above and its notes below."""
    layout, cells = block.layout, printed(block.frame, block.layout)
    wrap = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
    lines = [
        f"**{_markdown(block.caption)}**",
        "",
        "| " + " | ".join(_markdown(heading) for heading in layout.columns.values()) + " |",
        "| " + " | ".join("---" if _is_text(block, name) else "---:" for name in layout.columns) + " |",
    ]
    for row in range(len(cells)):
        texts = [wrap[block.marks.at[row, name]].format(_markdown(cells.at[row, name])) for name in layout.columns]
        lines.append("| " + " | ".join(texts) + " |")
    lines += ["", *(f"- {_markdown(note)}" for note in block.notes)]
    return "\n".join(lines) + "\n"


def to_latex(block: Block) -> str:
    """Return a table as LaTeX for a two-column paper: booktabs, across both columns, no wider than the page.

    Groups are separated by a small space. Requires the packages booktabs and graphicx.
    """
    columns = block.layout.columns
    styles = {"best": "textbf:--rwrap;", "second": "underline:--rwrap;", "": ""}
    styler = printed(block.frame, block.layout).map(_latex).style.hide(axis="index")
    styler = styler.apply(lambda _: block.marks.map(styles.__getitem__), axis=None)
    headings = [_latex_heading(text, _is_text(block, name)) for name, text in columns.items()]
    # Braces are doubled, because pandas applies str.format to the labels.
    styler = styler.relabel_index([h.replace("{", "{{").replace("}", "}}") for h in headings], axis="columns")
    tabular = styler.to_latex(
        hrules=True, column_format="".join("l" if _is_text(block, name) else "r" for name in columns)
    ).strip()
    head, rule, body = tabular.partition("\\midrule\n")
    rows = [f"\\addlinespace\n{row}" if number in block.groups else row for number, row in enumerate(body.split("\n"))]
    lines = [
        r"% Requires \usepackage{booktabs,graphicx}.",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_latex(block.caption)}}}",
        rf"\label{{tab:{block.name}}}",
        r"\medskip",
        r"\setlength{\tabcolsep}{4pt}",
        # Shrunk only if it is wider than the page.
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        head + rule + "\n".join(rows) + "}",
        r"\par\medskip",
        r"\begin{minipage}{\textwidth}\footnotesize\raggedright",
        *(rf"{_latex(note)}\par" for note in block.notes),
        r"\end{minipage}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def write_texts(stem: Path, blocks: Sequence[Block]) -> None:
    """Write tables as `stem`.md and `stem`.tex."""
    write_text(stem.with_suffix(".md"), "\n".join(map(to_markdown, blocks)))
    write_text(stem.with_suffix(".tex"), "\n".join(map(to_latex, blocks)))


def to_html(template: str, context: Mapping[str, Any]) -> str:
    """Return a self-contained page rendered from one of this package's templates."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)


def _is_text(block: Block, name: str) -> bool:
    return name not in block.layout.digits and not pd.api.types.is_numeric_dtype(block.frame[name])


def _latex_heading(text: str, left: bool) -> str:
    """Return a column's heading; a long one is broken into lines, aligned to the left or to the right."""
    lines = [_latex(line) for line in textwrap.wrap(text, HEADING, break_long_words=False)]
    stacked = r" \\ ".join(lines)
    return stacked if len(lines) == 1 else rf"\shortstack[{'l' if left else 'r'}]{{{stacked}}}"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_|~\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    **{character: "\\" + character for character in "&%$#_{}"},
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
