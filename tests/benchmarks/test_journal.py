"""The record of a session as it runs: whole lines, whatever happens to the process."""

from __future__ import annotations

import json

import _journal
import pytest


def names(case: str) -> dict:
    return {"operator": "sinkhorn", "case": case, "direction": "forward", "provider": "cuda"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "rows.jsonl"


def test_a_record_can_be_read_as_soon_as_it_is_appended(path):
    journal = _journal.Journal(path)
    for i in range(3):
        journal.append("row", **names(str(i)), ms=1.5)
        assert _journal.read(path)[-1] == {"kind": "row", **names(str(i)), "ms": 1.5}
    assert _journal.read(path.with_name("none")) == []


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_half_a_line_is_left_out_and_overwritten(path, cut):
    journal = _journal.Journal(path)
    journal.append("row", **names("whole"))
    journal.append("row", **names("half"))
    journal.close()
    path.write_bytes(path.read_bytes()[:-cut])
    assert [record["case"] for record in _journal.read(path)] == ["whole"]
    journal = _journal.Journal(path)
    journal.append("row", **names("next"))
    assert [record["case"] for record in map(json.loads, path.read_text().splitlines())] == ["whole", "next"]


def test_a_row_that_ended_its_process_twice_is_not_tried_again(path):
    journal = _journal.Journal(path)
    journal.append("session")
    journal.append("begin", **names("good"))
    journal.append("row", **names("good"))
    journal.append("begin", **names("deadly"))
    journal.close()
    assert not _journal.finished(_journal.read(path))
    (line,) = _journal.failures(_journal.read(path))
    assert line == f"sinkhorn deadly forward cuda: {_journal.ENDED}"
    journal = _journal.Journal(path)
    assert {k[1]: v["kind"] for k, v in journal.done.items()} == {"good": "row"}  # that may have come from outside
    journal.append("begin", **names("deadly"))
    journal.close()
    done = _journal.Journal(path).done
    assert {k[1]: v["kind"] for k, v in done.items()} == {"good": "row", "deadly": "failed"}


def test_a_later_outcome_counts_and_the_end_is_the_last_sessions(path):
    journal = _journal.Journal(path)
    for kind in ("session", "failed", "end", "session", "row"):
        journal.append(kind, **names("a"), why="busy")
    assert list(_journal.failures(_journal.read(path))) == [] and not _journal.finished(_journal.read(path))
    journal.append("end")
    assert _journal.finished(_journal.read(path))
