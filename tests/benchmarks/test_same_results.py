"""The record of short runs that says whether a change leaves all results the same to the bit."""

from __future__ import annotations

import json

import pytest
import same_results

BEFORE = {
    "scores": [{"name": "source", "miou": 0.5}],
    "losses": [{"iteration": 1, "loss": 2.0}, {"iteration": 2, "loss": 1.5}],
    "tensors": {"network.a": "torch.float32 (2,) 01", "network.b": "torch.float32 (2,) 02"},
    "files": {"predictions/00000.png": "03"},
}


def changed(part, key, value) -> dict:
    after = json.loads(json.dumps(BEFORE))
    after[part][key] = value
    return after


@pytest.mark.parametrize(
    ("part", "key", "value", "line"),
    [
        ("scores", 0, {"name": "source", "miou": 0.6}, "scores: {'name': 'source', 'miou': 0.5} became"),
        ("losses", 1, {"iteration": 2, "loss": 1.4}, "losses: {'iteration': 2, 'loss': 1.5} became"),
        ("tensors", "network.b", "torch.float32 (2,) 04", "1 tensors, such as network.b"),
        ("tensors", "network.c", "torch.float32 (2,) 02", "1 tensors, such as network.c"),
        ("files", "predictions/00000.png", "04", "1 files, such as predictions/00000.png"),
    ],
)
def test_every_difference_is_found(part, key, value, line):
    (found,) = same_results.differences(BEFORE, changed(part, key, value))
    assert found.startswith(line)


def test_a_step_more_is_a_difference():
    after = BEFORE | {"losses": [*BEFORE["losses"], {"iteration": 3, "loss": 1.0}]}
    assert same_results.differences(BEFORE, after) == ["losses: None became {'iteration': 3, 'loss': 1.0}"]


def test_a_tensor_of_another_name_counts_as_the_same(capsys):
    after = BEFORE | {"tensors": {"network.a": "torch.float32 (2,) 01", "student.b": "torch.float32 (2,) 02"}}
    assert same_results.differences(BEFORE, after) == []
    assert "renamed: network.b, student.b" in capsys.readouterr().out


def test_a_run_equals_itself_and_no_other(tmp_path, capsys):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert same_results.main([str(first), "--runs", "source"]) == 0
    assert same_results.main([str(second), "--runs", "source", "--compare", str(first)]) == 0
    record = json.loads(first.read_text())["source"]
    assert len(record["losses"]) == same_results.STEPS and record["tensors"] and record["files"]
    other = same_results.record([*same_results.variants()["source"], "--seed", "1"])
    assert len(same_results.differences(record, json.loads(json.dumps(other)))) == 4
    record["losses"][0]["loss"] += 1
    first.write_text(json.dumps({"source": record}))
    assert same_results.main([str(second), "--runs", "source", "--compare", str(first)]) == 1
    assert "source: 139 tensors, 3 steps\n  differs in losses: " in capsys.readouterr().out
