"""What a plan says about its cost."""

from reports.plan import cost_line


def test_an_estimate_that_is_not_there_or_broken_is_none(tmp_path):
    unknown = cost_line(tmp_path / "cost.json")
    assert unknown.startswith("cost: not yet measured")
    for content in ("", "{}", '{"hours_in_all": null}', "[1]"):
        (tmp_path / "cost.json").write_text(content)
        assert cost_line(tmp_path / "cost.json") == unknown
    (tmp_path / "cost.json").write_text('{"hours_in_all": 24.04}')
    assert "about 24.0 hours" in cost_line(tmp_path / "cost.json")
