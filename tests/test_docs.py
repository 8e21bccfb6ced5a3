"""The documentation keeps up with the code: every error message that we raise is in docs/troubleshooting.md.

`python tests/test_docs.py` adds the messages that are missing there, to the section whose comment names their module,
and takes out those that are no longer raised; what to do about a message is for people to write below it.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "fusion", "detection", "reports")
DOCUMENT = ROOT / "docs/troubleshooting.md"


def fixed_words(node: ast.expr) -> str:
    """Return a message as it stands in the code, what it fills in as an ellipsis."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.BinOp(left, ast.Add(), right):
            return fixed_words(left) + fixed_words(right)
    return "…"


def messages(file: Path) -> set[str]:
    """Return the messages of every InputError that a module raises; backticks become apostrophes."""
    raised = (node.exc for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Raise))
    found = {
        fixed_words(error.args[0]).replace("`", "'")
        for error in raised
        if isinstance(error, ast.Call) and getattr(error.func, "id", "") == "InputError"
    }
    return {message for message in found if re.search(r"\w", message)}


MODULES = {
    file.relative_to(ROOT).as_posix(): found
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if (found := messages(file))
}


def listed() -> set[str]:
    """Return the messages that the document lists: each begins a line, in backticks."""
    return {line.split("`")[1] for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("- `")}


def update() -> None:
    """Add and take out messages; what people wrote below a message goes with it."""
    raised, known = set().union(*MODULES.values()), listed()
    head, *sections = re.split(r"(?m)^(?=## )", DOCUMENT.read_text("utf-8"))
    homes = [
        set(re.findall(r"[\w/]+\.py", (re.search(r"<!--(.*?)-->", s, re.DOTALL) or ["", ""])[1])) for s in sections
    ]
    for number, section in enumerate(sections):
        entries = re.split(r"(?m)^(?=- `)", section.rstrip("\n") + "\n")
        kept = [e for e in entries if not e.startswith("- `") or e.split("`")[1] in raised]
        last = number == len(sections) - 1  # takes what belongs nowhere
        mine = [m for m in MODULES if m in homes[number] or (last and not any(m in home for home in homes))]
        for message in sorted(set().union(*(MODULES[m] for m in mine)) - known):
            kept.append(f"- `{message}`\n")
            known.add(message)
        sections[number] = "".join(kept).rstrip("\n") + "\n"
    DOCUMENT.write_text(head + "\n".join(sections), encoding="utf-8")


def test_messages_are_read_as_they_stand_in_the_code():
    node = ast.parse("""f"{path} has " + f'{len(names)} names; wanted ' "one" """, mode="eval").body
    assert fixed_words(node) == "… has … names; wanted one"


@pytest.mark.parametrize("module", MODULES)
def test_every_error_message_is_explained(module):
    missing = sorted(MODULES[module] - listed())
    assert not missing, f"docs/troubleshooting.md lacks messages of {module}: run python tests/test_docs.py"


def test_no_message_is_explained_that_is_no_longer_raised():
    assert sorted(listed() - set().union(*MODULES.values())) == []


if __name__ == "__main__":
    update()
