"""The profile writes each table as it comes, and goes on after a call that fails."""

from __future__ import annotations

import _journal
import _measure
import profile_ops
import pytest
import roofline
import torch


def operator(name: str, **functions) -> _measure.Operator:
    return _measure.Operator(
        name=name,
        cases={"smoke": {"A=9": 9}},
        setup=lambda case, generator: (torch.randn(case, generator=generator),),
        providers=lambda case, device: functions,
        work=lambda case, direction: roofline.Work(4 * case, 0, 2.0 * case),
        truth=lambda case, inputs: ((), None),
        names=tuple(functions),
    )


def broken(x):
    raise RuntimeError("an illegal memory access")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(operators, *options) -> exit status; the tables are in tmp_path / "profile.txt"."""

    def call(operators: list[_measure.Operator], *options: str) -> int:
        monkeypatch.setattr(profile_ops, "operators", lambda: operators)
        usual = ["--device", "cpu", "--scale", "smoke", "--providers", "cpu", "reference"]
        monkeypatch.setattr("sys.argv", ["profile_ops.py", *usual, "--output", str(tmp_path / "profile.txt"), *options])
        return profile_ops.main()

    return call


@pytest.fixture
def operators():
    away = _measure.UnavailableError("not installed")
    return [
        operator("first", cpu=torch.sum),
        operator("second", cpu=broken, reference=torch.sum),
        operator("third", cpu=away),
    ]


def tables(path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("== ")]


def test_a_call_that_fails_loses_no_other_and_is_named_at_the_end(run, operators, tmp_path, capsys):
    assert run(operators) == 1
    assert tables(tmp_path / "profile.txt") == ["== first A=9 forward cpu", "== second A=9 forward reference"]
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert failed == ["failed: second A=9 forward cpu: RuntimeError: an illegal memory access"]


def test_each_table_is_on_the_disk_before_the_next_is_made(run, tmp_path):
    seen = []

    def watched(x):
        seen.append(tables(tmp_path / "profile.txt"))
        return x.sum()

    assert run([operator("first", cpu=torch.sum), operator("second", cpu=watched)]) == 0
    assert seen[0] == ["== first A=9 forward cpu"]


def test_a_journal_goes_on_where_it_ended(run, operators, tmp_path):
    journal = ["--journal", str(tmp_path / "rows.jsonl")]
    assert run(operators[:1], *journal) == 0
    called = []
    again = operator("first", cpu=lambda x: called.append(x) or x.sum())
    assert run([again, *operators[1:]], *journal) == 1
    assert called == [] and len(tables(tmp_path / "profile.txt")) == 2
    kinds = [outcome["kind"] for outcome in _journal.outcomes(_journal.read(tmp_path / "rows.jsonl")).values()]
    assert kinds == ["row", "failed", "row", "skipped"]
    assert run(operators) == 1 and len(tables(tmp_path / "profile.txt")) == 2  # without it, it begins anew


def test_a_lost_device_ends_the_process_with_a_status_of_its_own(run, operators, monkeypatch):
    def lost(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(roofline, "synchronise", lost)
    with pytest.raises(SystemExit, match="75"):
        run(operators)


def test_shards_share_the_operators(run, tmp_path, capsys):
    three = [operator(name, cpu=torch.sum) for name in ("first", "second", "third")]
    assert run(three, "--shard", "0/2") == 0
    assert [line.split()[1] for line in tables(tmp_path / "profile.txt")] == ["first", "third"]
    assert run(three, "--shard", "1/2") == 0
    assert [line.split()[1] for line in tables(tmp_path / "profile.txt")] == ["second"]
    with pytest.raises(SystemExit):
        run(three, "--shard", "half")
    assert "--shard must be I/N" in capsys.readouterr().err


def test_nothing_served_is_a_failure(run, capsys):
    assert run([operator("first", usual=torch.sum)]) == 1
    assert "none of cpu, reference serves cpu here" in capsys.readouterr().err


def test_a_call_begins_before_the_time_limit_or_not_at_all(run, operators, capsys):
    assert run(operators, "--time-limit", "1e-9") == 1
    assert "first A=9 forward cpu and all after it: the time limit" in capsys.readouterr().err
