"""What the gate says about each row: by the probes before and after it, by its bound and by its tree."""

from __future__ import annotations

import json
from dataclasses import asdict

import _gate
import _journal
import _results
import pytest
import rows as command


@pytest.fixture
def record(row):
    """record(case, **changes): a row as a journal holds it, of 1,000 bytes that take 2 ms."""

    def make(case: str, **changes) -> dict:
        work = {"read": 1000, "written": 0, "flops": 10.0, "dtype": "float32"}
        written = {"kind": "row", "work": work, "steady": True, "gate": "not judged: no probe followed", "gated": False}
        return row | written | {"case": case} | changes

    return make


@pytest.fixture
def probe(idle):
    return lambda **figures: {"kind": "probe", **asdict(idle(**figures))}


def gates(records: list[dict]) -> dict[str, str]:
    return {row["case"]: row["gate"] for row in _gate.judge(records)}


def test_rows_between_steady_probes_pass(record, probe):
    rows = _gate.judge([probe(), record("a"), probe(read_gb_s=22.0)])
    assert [row["gate"] for row in rows] == ["passed"] and rows[0]["gated"]
    assert rows[0]["floor_ms"] == pytest.approx(1e3 * 1000 / 22e9) and rows[0]["bound"] == "read"
    assert rows[0]["ceilings"]["read_gb_s"] == 22.0 and rows[0]["ceiling_share"] == rows[0]["floor_ms"] / 2.0
    for row in rows:
        _results.check(row)


def test_one_busy_minute_costs_its_own_rows_only(record, probe):
    found = gates([probe(), record("a"), probe(), record("b"), probe(read_gb_s=10.0), record("c"), probe()])
    assert found["a"] == "passed" and found["b"] == "refused: read_gb_s moved from 20.0 to 10.0"
    assert found["c"].startswith("refused: read_gb_s moved")


def test_a_killed_session_has_the_rows_since_its_last_probe_not_judged(record, probe):
    records = [probe(), record("a"), probe(), record("b")]
    assert gates(records) == {"a": "passed", "b": "not judged: no probe followed"}
    # a later process goes on in the same journal: its first probe is the one that follows
    assert gates([*records, {"kind": "session"}, probe(taken=1100.0), record("c"), probe(taken=1200.0)]) == {
        "a": "passed",
        "b": "passed",
        "c": "passed",
    }
    late = [*records, {"kind": "session"}, probe(taken=1000.0 + 3600)]
    assert gates(late)["b"] == "not judged: its probes lie 3600 s apart"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"commit": "abc-dirty"}, "the tree held changes that are not committed (abc-dirty)"),
        ({"commit": "unknown"}, "the commit of the tree is not known"),
        ({"steady": False}, "the bandwidth moved while it was timed"),
        ({"dry": True}, "a dry run: no kernel ran"),
        ({"ms": 2.5e-5, "ms_20": 2e-5}, "it takes less time than its bound allows (read: 200.0%)"),
    ],
)
def test_a_row_is_refused_with_a_reason(record, probe, changes, why):
    (row,) = _gate.judge([probe(), record("a", **changes), probe()])
    assert row["gate"] == f"refused: {why}" and not row["gated"]


def test_smoke_sizes_are_never_published_but_no_objection(record, probe):
    rows = _gate.judge([probe(), record("a", scale="smoke"), probe()])
    assert not rows[0]["gated"] and _gate.objections(rows) == [] and _gate.publishable(rows) == rows


def test_a_case_is_published_whole_or_not_at_all(record, probe):
    good = [record("a"), record("a", provider="usual"), record("b")]
    rows = _gate.judge([probe(), *good, record("b", provider="usual", steady=False), probe()])
    assert [(row["case"], row["provider"]) for row in _gate.publishable(rows)] == [("a", "cpu"), ("a", "usual")]
    (why,) = _gate.objections(rows)
    assert why == "refused: the bandwidth moved while it was timed (class_moments b forward usual)"


def test_a_row_that_was_measured_twice_counts_once(record, probe):
    rows = _gate.judge([probe(), record("a", ms=2.1), probe(), record("a", ms=2.2), probe()])
    assert [row["ms"] for row in rows] == [2.2]


@pytest.fixture
def journal(tmp_path):
    def write(name: str, *records: dict, end: bool = True) -> str:
        journal = _journal.Journal(tmp_path / name)
        for values in [{"kind": "session"}, *records, *[{"kind": "end"}] * end]:
            journal.append(values["kind"], **{k: v for k, v in values.items() if k != "kind"})
        return str(tmp_path / name)

    return write


def test_journals_of_two_backends_become_one_results_file(tmp_path, journal, record, probe, capsys):
    gpu = {"device": "NVIDIA Card", "device_type": "cuda"}
    results = tmp_path / "results"
    results.mkdir()
    older = _gate.judge([probe(), record("a", provider="usual", **gpu), probe()])
    _results.write(results / "nvidia_card.json", older)
    first = journal("cuda.jsonl", probe(), record("a", provider="cuda", **gpu), probe())
    second = journal("triton.jsonl", probe(), record("a", provider="triton", **gpu), probe())
    assert command.main([first, second, "--results", str(results)]) == 0
    rows = json.loads((results / "nvidia_card.json").read_text())
    # the older row of the same case is gone: its ratio to the new ones would mix two runs
    assert [row["provider"] for row in rows] == ["cuda", "triton"] and all(row["gated"] for row in rows)
    assert "2 rows: 2 passed" in capsys.readouterr().out


def test_refused_rows_are_written_only_where_that_is_asked_for(tmp_path, journal, record, probe, capsys):
    path = journal("rows.jsonl", probe(), record("a"), record("b", commit="abc-dirty"), probe(), end=False)
    results = tmp_path / "cpu.json"
    assert command.main([path, "--finished"]) == 1
    assert command.main([path, "--results", str(results)]) == 1
    assert [row["case"] for row in _results.load(tmp_path)] == ["a"] and "1 rows of cases" in capsys.readouterr().out
    assert command.main([path, "--results", str(results), "--ungated"]) == 0
    assert [row["case"] for row in json.loads(results.read_text())] == ["a", "b"]
    assert [row["case"] for row in _results.load(tmp_path)] == ["a"]  # it is marked, and no report shows it


def test_what_failed_is_listed(journal, probe, capsys):
    failed = {"kind": "failed", "operator": "sinkhorn", "case": "a", "direction": "forward", "provider": "triton"}
    path = journal("rows.jsonl", probe(), failed | {"why": "CUDA error"}, probe())
    assert command.main([path]) == 1
    assert "failed: sinkhorn a forward triton: CUDA error" in capsys.readouterr().out


def test_rows_of_a_dry_run_are_never_written(tmp_path, journal, record, probe, capsys):
    path = journal("rows.jsonl", probe(), record("a", dry=True), probe())
    assert command.main([path, "--results", str(tmp_path / "cpu.json"), "--ungated"]) == 2
    assert not (tmp_path / "cpu.json").exists() and "dry run" in capsys.readouterr().err
