"""The row format: every column checked, runs merged whole, ungated rows never read back."""

from __future__ import annotations

import json
import shutil
import subprocess

import _results
import needed
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
        ({"bound": "luck"}, "bound"),
        ({"wall_ms": "2"}, "'wall_ms'"),
        ({"gate": "refused: busy"}, "gated exactly where"),
        ({"ceiling_share": 1.01}, "less time than its floor: 101.0% of read"),
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
    _results.write(tmp_path / "cpu.json", [row, row | {"provider": "usual", "gated": False, "gate": "refused: busy"}])
    (tmp_path / "train_cpu.json").write_text('[{"task": "streets"}]')
    (tmp_path / "list.json").write_text("{}")
    assert [r["provider"] for r in _results.load(tmp_path)] == ["cpu"]
    (tmp_path / "bad.json").write_text('[{"operator": "x"}]')
    with pytest.raises(ValueError, match="lacks the column"):
        _results.load(tmp_path)


def test_rows_of_before_the_newest_columns_are_read(row, tmp_path):
    """What was not measured then is null, not a figure; a rewritten file holds the same older values."""
    old = {name: row[name] for name in [*_results.COLUMNS, "device_type", "scale", "floor_ms", "launches", "rounds"]}
    old |= {"sets": 4, "gated": True, "run": "then"}
    (tmp_path / "cpu.json").write_text(json.dumps([old]))
    (found,) = _results.load(tmp_path)
    assert found == old | {"wall_ms": None, "bound": None, "ceilings": None, "gate": "passed"}
    _results.write(tmp_path / "cpu.json", [row | {"case": "other"}])
    assert found in json.loads((tmp_path / "cpu.json").read_text())


def test_the_committed_rows_can_be_read():
    assert _results.load()


def test_commit(monkeypatch):
    monkeypatch.setenv("FASTUDA_COMMIT", "1234567")
    assert _results.commit() == "1234567"
    monkeypatch.delenv("FASTUDA_COMMIT")
    monkeypatch.setenv("PATH", "")
    assert _results.commit() == "unknown"


def test_a_changed_source_makes_the_tree_dirty_and_a_new_result_does_not(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    needed.tool(shutil.which("git"), "git")
    for name in ("csrc/a.cpp", "benchmarks/results/cpu.json", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    monkeypatch.setattr(_results, "ROOT", tmp_path)
    monkeypatch.delenv("FASTUDA_COMMIT", raising=False)
    clean = git("rev-parse", "--short", "HEAD")
    assert _results.commit() == clean
    for name in ("benchmarks/results/cpu.json", "benchmarks/results/new.json", "README.md"):
        (tmp_path / name).write_text("new")
        assert _results.commit() == clean
    (tmp_path / "csrc" / "new.cpp").write_text("not followed by git")
    assert _results.commit() == f"{clean}-dirty"
    (tmp_path / "csrc" / "new.cpp").unlink()
    (tmp_path / "csrc" / "a.cpp").write_text("new")
    assert _results.commit() == f"{clean}-dirty"
