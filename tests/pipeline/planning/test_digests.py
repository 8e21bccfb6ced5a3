"""What decides a result, decides that it is made again; nothing else does."""

import shutil
from pathlib import Path

import pytest

from pipeline.planning.digests import digest, revision

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("pipeline", "fusion", "detection", "reports")


@pytest.fixture
def tree(tmp_path):
    """A copy of the project's packages."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def changed_by(tree, file, text, *modules, **options):
    """Return whether the digest changes when `text` is added to a file; the file is as it was afterwards."""
    before, content = digest(*modules, root=tree, **options), (tree / file).read_text()
    (tree / file).write_text(content + text)
    after = digest(*modules, root=tree, **options)
    (tree / file).write_text(content)
    assert digest(*modules, root=tree, **options) == before
    return after != before


def deciding(tree, files, *modules, **options):
    return {file for file in files if changed_by(tree, file, "\nCHANGED = 1\n", *modules, **options)}


def test_a_test_of_the_detector_depends_on_the_files_that_it_imports_and_on_no_others(tree):
    files = [f"detection/{path.name}" for path in (tree / "detection").glob("*.py")]
    files += [f"pipeline/{path.name}" for path in (tree / "pipeline").glob("*.py")]
    files += ["reports/tables.py", "fusion/fuse.py", "pipeline/planning/plan.py"]
    found = deciding(tree, files, "detection.test")
    assert {f"detection/{name}.py" for name in ("test", "images", "average_precision", "detector", "variant")} <= found
    assert {f"pipeline/{name}.py" for name in ("artefacts", "devices", "pairs", "stage", "tensors")} <= found
    other = {f"detection/{name}.py" for name in ("audit", "late", "significance", "train", "objects", "cost")}
    assert not found & other and not found & {"reports/tables.py", "fusion/fuse.py", "pipeline/planning/plan.py"}


@pytest.mark.parametrize(
    ("module", "file", "decides"),
    [
        ("detection.audit", "detection/leakage.py", True),
        ("detection.audit", "detection/variant.py", False),
        ("fusion.evaluate", "fusion/evaluate.py", True),
        ("fusion.evaluate", "fusion/metrics/kernels.py", True),
        ("fusion.evaluate", "fusion/own/metric.py", True),
        ("fusion.evaluate", "fusion/own/method.py", False),
        ("fusion.evaluate", "fusion/methods/average.py", False),
        ("fusion.explain", "fusion/fnet/lzsc.py", True),
        ("fusion.explain", "fusion/methods/emma.py", False),
        ("fusion.cost", "fusion/methods/emma.py", False),
        ("fusion.cost", "fusion/methods/__init__.py", False),
        ("reports.page", "detection/average_precision.py", True),
        ("reports.page", "reports/templates/page.css", True),
        ("reports.page", "reports/templates/viewer.js", True),
        ("reports.test_sets", "reports/templates/test_sets.html", True),
        ("detection.late", "reports/templates/page.html", False),
        ("detection.significance", "detection/average_precision.py", True),
    ],
)
def test_a_digest_holds_what_is_imported_and_read(tree, module, file, decides):
    assert changed_by(tree, file, "\nCHANGED = 1\n", module) == decides


def test_a_method_decides_only_what_names_it(tree):
    assert changed_by(tree, "fusion/methods/emma.py", "\nCHANGED = 1\n", "fusion.cost", "fusion.methods.emma")
    assert not changed_by(tree, "fusion/methods/mda.py", "\nCHANGED = 1\n", "fusion.cost", "fusion.methods.emma")


def test_what_a_training_depends_on_is_no_matter_of_the_ground(tree):
    assert deciding(
        tree,
        ["detection/boxes.py", "detection/splits.py", "pipeline/stage.py", "fusion/fuse.py"],
        "detection.prepare",
        within="detection",
    ) == {"detection/boxes.py", "detection/splits.py"}
    lists = "detection/lists/random-3800-400/train.txt"
    assert changed_by(tree, lists, "0\n", "detection.prepare", within="detection")


def test_a_comment_a_docstring_or_the_layout_changes_nothing(tree):
    file = tree / "detection/late.py"
    before, text = digest("detection.late", root=tree), file.read_text()
    file.write_text(
        '"""Another docstring."""\n# A comment.\n\n' + text.partition('"""\n')[2].replace("\n\n\n", "\n\n\n\n")
    )
    assert file.read_text() != text and digest("detection.late", root=tree) == before


def test_a_raised_revision_is_seen_without_importing(tree):
    for module, file in {
        "fusion.fuse": "fusion/fuse.py",
        "fusion.train": "fusion/train.py",
        "detection.train": "detection/train.py",
        "fusion.synthetic": "fusion/synthetic/__init__.py",
    }.items():
        before = revision(module, tree)
        text = (tree / file).read_text()
        (tree / file).write_text(text.replace(f"REVISION = {before}", f"REVISION = {before + 1}"))
        assert revision(module, tree) == before + 1 == revision(module) + 1


def test_a_misspelt_module_is_no_digest():
    with pytest.raises(LookupError, match=r"detection\.tset"):
        digest("detection.tset")
    with pytest.raises(LookupError, match="has no REVISION"):
        revision("detection.late")
