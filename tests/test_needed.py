"""A tool that is missing skips a test, with the reason, and in CI fails it."""

from __future__ import annotations

import json

import needed
import pytest


@pytest.mark.parametrize("ask", [lambda: needed.module("no_such_library"), lambda: needed.tool(None, "no_such_tool")])
def test_missing_is_a_skip_with_a_reason_and_in_ci_a_failure(ask, monkeypatch):
    monkeypatch.delenv("FASTUDA_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no_such_.* is not installed"):
        ask()
    monkeypatch.setenv("FASTUDA_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no_such_.* is not installed"):
        ask()


def test_what_is_there_is_given(monkeypatch):
    monkeypatch.setenv("FASTUDA_CI", "1")
    needed.tool("/usr/bin/g++", "g++")
    assert needed.module("json") is json
