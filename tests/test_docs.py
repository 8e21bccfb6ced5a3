"""The documentation keeps up with the code: every error message that we raise is in docs/troubleshooting.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fusion", "detection", "reports")


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
    """Return the messages of every InputError that a module raises."""
    raised = (node.exc for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Raise))
    return {
        fixed_words(error.args[0])
        for error in raised
        if isinstance(error, ast.Call) and getattr(error.func, "id", "") == "InputError"
    }


MODULES = {
    file.relative_to(ROOT).as_posix(): found
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if (found := messages(file) - {"…"})
}


@pytest.fixture(scope="module")
def listed() -> set[str]:
    """The messages that the document lists: each begins a line, in backticks."""
    lines = (ROOT / "docs/troubleshooting.md").read_text("utf-8").splitlines()
    return {line.split("`")[1] for line in lines if line.startswith("- `")}


def test_messages_are_read_as_they_stand_in_the_code():
    node = ast.parse("""f"{path} has " + f'{len(names)} names; wanted ' "one" """, mode="eval").body
    assert fixed_words(node) == "… has … names; wanted one"


@pytest.mark.parametrize("module", MODULES)
def test_every_error_message_is_explained(module, listed):
    missing = sorted(message.replace("`", "'") for message in MODULES[module])
    missing = [message for message in missing if message not in listed]
    assert not missing, f"docs/troubleshooting.md lacks {module}'s:\n" + "\n".join(f"- `{line}`" for line in missing)


def test_no_message_is_explained_that_is_no_longer_raised(listed):
    raised = {message.replace("`", "'") for found in MODULES.values() for message in found}
    assert sorted(listed - raised) == []
