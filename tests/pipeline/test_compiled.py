"""Compiled functions: kept under a name that changes with what is compiled into them, and told of."""

import logging

import numba

from pipeline import compiled


def double(number):
    return 2 * number


def test_code_is_kept_anew_when_what_is_compiled_into_it_changed_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    caplog.set_level(logging.INFO)
    for code in ("one", "two"):
        monkeypatch.setattr(compiled, "digest", lambda module, code=code: f"{module}-{code}")
        compiled.announce(__name__, "doubling", 3)
        assert compiled.compiled(double)(4) == 8
        assert list((tmp_path / f"numba-{__name__}-{code}").rglob("*.nbc"))
    assert caplog.messages == ["compiling doubling, once on this machine: about 3 s of one core"] * 2
    compiled.announce(__name__, "doubling", 3)
    assert compiled.compiled(double)(4) == 8
    assert len(caplog.messages) == 2 and str(tmp_path) == numba.config.CACHE_DIR
