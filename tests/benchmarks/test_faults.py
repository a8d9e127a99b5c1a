"""A run that is killed while it writes goes on to the bit; the script that does it 50 times sees what is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace

import faults
import pytest
import torch

from fastuda.train.checkpoint import load_run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The recipe, and all of its undisturbed run."""
    directory = tmp_path_factory.mktemp("faults")
    config = faults.tiny_config("sdca", directory)
    assert faults.attempt(replace(config, work_dir=str(directory / "whole")), lambda: None)[0] == 0
    return config, faults.outcome(directory / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [(".checkpoint.pt.", 3), (".0", 2)])
def test_killed_in_a_write(small, tmp_path, name, number):
    config, expected = small
    config = replace(config, work_dir=str(tmp_path / "run"))
    code, _ = faults.attempt(config, lambda: faults.kill_in_write((name,), number, None))
    assert code == -signal.SIGKILL
    (begun,) = (tmp_path / "run").glob("**/.*")
    assert begun.name.startswith(name)
    load_run(tmp_path / "run" / "checkpoint.pt")
    assert faults.attempt(replace(config, resume=True), lambda: None)[0] == 0
    assert faults.first_difference(expected, faults.outcome(tmp_path / "run")) == ""


def test_the_timer_kills_after_a_process_s_own_time():
    pid = os.fork()
    if pid == 0:
        faults.kill_after(0.05)
        end = time.process_time() + 5
        while time.process_time() < end:
            pass
        os._exit(0)
    _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert 0.04 < usage.ru_utime + usage.ru_stime < 1


@pytest.mark.parametrize(
    ("other", "where"),
    [
        ({"a": [torch.tensor([1.0, -0.0])]}, ".a.0"),
        ({"a": [torch.tensor([1.0, 0.0], dtype=torch.float64)]}, ".a.0"),
        ({"a": [torch.tensor([1.0, 0.0]), 1]}, ".a"),
        ({"b": [torch.tensor([1.0, 0.0])]}, ""),
        ({"a": [torch.tensor([1.0, 0.0])]}, None),
    ],
)
def test_a_difference_of_one_bit_is_found(other, where):
    found = faults.first_difference({"a": [torch.tensor([1.0, 0.0])]}, other, "state")
    assert found == ("" if where is None else f"state{where}")


def test_the_committed_kills_are_fifty_a_method_and_lost_nothing():
    rows = json.loads((faults.RESULTS / "faults_cpu.json").read_text())
    assert {row["method"] for row in rows} >= {"sdca", "cpsl"}
    for row in rows:
        assert row["kills"] == len(row["hits"]) >= 50 and row["equal_to_the_bit"]
        assert row["in_a_checkpoint_write"] > 0 and row["in_another_write"] > 0
