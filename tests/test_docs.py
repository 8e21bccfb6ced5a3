"""docs/troubleshooting.md lists only error messages that the code raises, each once and with a cure below it.

It lists the messages whose cure the message itself does not say. `python tests/test_docs.py` prints the listed messages
that are no longer raised, each with the most similar one that is.
"""

import ast
import difflib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "fusion", "detection", "reports")
DOCUMENT = ROOT / "docs/troubleshooting.md"


def fixed_words(node: ast.expr) -> str:
    """Return a message as it is in the code, with an ellipsis for each value that is filled in."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr(parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.BinOp(left, ast.Add(), right):
            return fixed_words(left) + fixed_words(right)
    return "…"


def messages(file: Path) -> set[str]:
    """Return every InputError that a module raises and every warning that it logs; backticks become apostrophes."""
    calls = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call)]
    raised = {fixed_words(call.args[0]) for call in calls if getattr(call.func, "id", "") == "InputError"}
    logged = {fixed_words(call.args[0]) for call in calls if getattr(call.func, "attr", "") == "warning"}
    return {text.replace("`", "'") for text in raised | {re.sub("%[ds]", "…", text) for text in logged}}


RAISED = set().union(*(messages(file) for package in PACKAGES for file in (ROOT / package).rglob("*.py")))
# The listed messages, each with the indented lines below it.
LISTED = re.findall(r"^- `(.*)`\n((?:  .*\n)*)", DOCUMENT.read_text("utf-8"), re.MULTILINE)


def stale() -> list[str]:
    """Return the listed messages that are not raised."""
    return [message for message, _ in LISTED if message not in RAISED]


def test_messages_are_read_as_they_are_in_the_code():
    node = ast.parse("""f"{path} has " + f'{len(names)} names; expected ' "one" """, mode="eval").body
    assert fixed_words(node) == "… has … names; expected one"


def test_every_listed_message_is_raised():
    assert stale() == [], "python tests/test_docs.py prints the most similar messages"


def test_every_listed_message_has_a_cure():
    entries = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("- `")]
    assert len(entries) == len(LISTED) > 0
    assert [message for message, cure in LISTED if not cure.strip()] == []


def test_no_message_is_listed_twice():
    listed = [message for message, _ in LISTED]
    assert [message for message in set(listed) if listed.count(message) > 1] == []


if __name__ == "__main__":
    for message in stale():
        similar = difflib.get_close_matches(message, RAISED, n=1, cutoff=0)
        print(f"not raised:   {message}\nmost similar: {similar[0]}\n")
