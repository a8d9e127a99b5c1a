"""A record of a long run takes the place of an earlier one of its settings, and of no other."""

from __future__ import annotations

import argparse
import json

import _results
import pytest
import records


def test_a_record_replaces_the_one_of_its_settings(tmp_path):
    path, names = tmp_path / "records.json", ("method", "source")
    for method, source, value in (("a", (2, 3), 1), ("b", (2, 3), 2), ("a", (2, 4), 3), ("a", [2, 3], 4)):
        records.keep(path, {"method": method, "source": source, "value": value}, names)
    assert [record["value"] for record in records.read(path)] == [2, 3, 4]


def test_a_setting_that_older_records_lack_is_another_one(tmp_path):
    path = tmp_path / "records.json"
    records.keep(path, {"method": "a"}, ("method", "covariance"))
    records.keep(path, {"method": "a", "covariance": "full"}, ("method", "covariance"))
    assert len(records.read(path)) == 2


def test_records_stand_in_the_order_asked_for(tmp_path):
    path = tmp_path / "records.json"
    for seed in (2, 0, 1):
        records.keep(path, {"seed": seed}, ("seed",), order=lambda record: record["seed"])
    assert [record["seed"] for record in records.read(path)] == [0, 1, 2]


def test_what_stands_there_stays_where_the_new_cannot_be_written(tmp_path):
    path = tmp_path / "records.json"
    records.keep(path, {"seed": 0}, ("seed",))
    with pytest.raises(TypeError):
        records.keep(path, {"seed": 1, "tensor": object()}, ("seed",))
    assert [record["seed"] for record in json.loads(path.read_text())] == [0] and list(tmp_path.iterdir()) == [path]


def test_a_record_holds_the_commit_it_was_measured_at(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTUDA_COMMIT", "abc")
    records.keep(tmp_path / "records.json", {"seed": 0}, ("seed",))
    assert records.read(tmp_path / "records.json") == [{"seed": 0, "commit": "abc"}]


def test_published_records_of_an_uncommitted_tree_are_refused_before_they_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(_results, "RESULTS", tmp_path)
    monkeypatch.setenv("FASTUDA_COMMIT", "abc-dirty")
    with pytest.raises(argparse.ArgumentTypeError, match="records.json is published.* not committed"):
        records.output(str(tmp_path / "records.json"))
    elsewhere = tmp_path.parent / "records.json"
    assert records.output(str(elsewhere)) == elsewhere
    monkeypatch.setenv("FASTUDA_COMMIT", "abc")
    assert records.output(str(tmp_path / "records.json")) == tmp_path / "records.json"
