"""The row format: every column checked, runs merged whole, ungated rows never read back."""

from __future__ import annotations

import json

import _results
import pytest


def test_columns_are_those_of_the_design():
    design = "operator case direction provider ms ms_20 ms_80 bytes flops ceiling_share extra_mib error_fp64"
    assert list(_results.COLUMNS) == [*design.split(), *"deterministic device threads versions commit".split()]


def test_a_good_row_passes(row):
    _results.check(row)
    _results.check(row | {"extra_mib": None, "launches": 3})


@pytest.mark.parametrize("column", [*_results.COLUMNS, *_results.EXTRA])
def test_a_missing_column_is_named(row, column):
    del row[column]
    with pytest.raises(ValueError, match=f"lacks the column '{column}'"):
        _results.check(row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ms": "2"}, "'ms'"),
        ({"ms": True}, "'ms'"),
        ({"deterministic": 1}, "'deterministic'"),
        ({"error_fp64": float("nan")}, "'error_fp64' .* not finite"),
        ({"ceiling_share": None}, "'ceiling_share'"),
        ({"direction": "sideways"}, "direction"),
        ({"ms_20": 2.1}, "ordered"),
        ({"ms_80": 1.0}, "ordered"),
        ({"ms": 0.0, "ms_20": 0.0}, "positive"),
        ({"speed": 1}, "unknown columns: speed"),
    ],
)
def test_a_bad_value_is_refused(row, change, message):
    with pytest.raises(ValueError, match=message):
        _results.check(row | change)


def test_a_run_replaces_its_cases_and_no_others(row, tmp_path):
    path = tmp_path / "cpu.json"
    other = row | {"case": "full A=256", "provider": "usual"}
    _results.write(path, [row, row | {"provider": "usual", "ms_80": 9.0}, other])
    _results.write(path, [row | {"ms_80": 5.0, "run": "later"}])
    rows = json.loads(path.read_text())
    # the older run's "usual" of the same case is gone: its ratio to the new row would mix two runs
    assert [(r["case"], r["provider"], r["run"]) for r in rows] == [
        ("diag A=256", "cpu", "later"),
        ("full A=256", "usual", "now"),
    ]
    _results.write(path, [row | {"threads": 2}, row | {"device": "Other"}])
    assert len(json.loads(path.read_text())) == 4


def test_a_bad_row_leaves_the_file_alone(row, tmp_path):
    path = tmp_path / "cpu.json"
    _results.write(path, [row])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="ceiling_share"):
        _results.write(path, [row, row | {"ceiling_share": float("inf")}])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_load_reads_gated_rows_of_operators_only(row, tmp_path):
    _results.write(tmp_path / "cpu.json", [row, row | {"provider": "usual", "gated": False}])
    (tmp_path / "train_cpu.json").write_text('[{"task": "streets"}]')
    (tmp_path / "list.json").write_text("{}")
    assert [r["provider"] for r in _results.load(tmp_path)] == ["cpu"]
    (tmp_path / "bad.json").write_text('[{"operator": "x"}]')
    with pytest.raises(ValueError, match="lacks the column"):
        _results.load(tmp_path)


def test_commit(monkeypatch):
    monkeypatch.setenv("FASTUDA_COMMIT", "1234567")
    assert _results.commit() == "1234567"
    monkeypatch.delenv("FASTUDA_COMMIT")
    monkeypatch.setenv("PATH", "")
    assert _results.commit() == "unknown"
