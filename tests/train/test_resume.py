"""A run that is killed and resumed ends with the weights, to the bit, of one that was never interrupted."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from fastuda.cli.train import main
from fastuda.train import loop
from fastuda.train.config import Config, from_dict


def wait_for_line(log: Path, event: str, count: int, process, seconds: float = 120) -> None:
    """Return as soon as ``log`` holds ``count`` lines of ``event``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if log.exists() and sum(f'"event": "{event}"' in line for line in log.read_text().splitlines()) >= count:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    raise AssertionError(f"no {count} lines of {event} in {seconds} s")


def assert_same_state(left, right, where: str = "state") -> None:
    assert type(left) is type(right), where
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same_state(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_same_state(*pair, f"{where}[{number}]")
    else:
        assert left == right, where


def final_state(work_dir: Path) -> dict:
    state = torch.load(work_dir / "checkpoint.pt", weights_only=True)
    state["position"].pop("seconds")
    state.pop("config")
    return state


@pytest.fixture(scope="module")
def steps() -> list[int]:
    """Random steps of the twelve to kill at; another choice each day, so the seed is printed by the test's id."""
    return random.Random(time.strftime("%Y-%m-%d")).sample(range(1, 12), 2)


def test_kill_and_resume_is_bit_identical(tiny, command, tmp_path, steps):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = command("--task", tiny, "--work-dir", whole, "--amp")
    assert process.wait(240) == 0, process.stderr.read()

    arguments = ["--task", tiny, "--work-dir", broken, "--amp"]
    for count in steps:
        process = command(*arguments)
        wait_for_line(broken / "log.jsonl", "train", count if "--resume" not in arguments else 1, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert not (broken / "result.json").exists()
        arguments = ["--work-dir", broken, "--resume"]
    process = command(*arguments)
    assert process.wait(240) == 0, process.stderr.read()

    assert_same_state(final_state(whole), final_state(broken))
    rows = [json.loads((d / "result.json").read_text())["stages"] for d in (whole, broken)]
    assert rows[0] == rows[1]


def test_optimisers_of_a_stage_are_not_the_next_ones(tiny_task, tmp_path, monkeypatch):
    """A run that was left between the last step of a stage and its evaluation had the next stage start with them."""

    class Killed(BaseException):
        pass

    save = loop.save_checkpoint

    def dying(path, state):
        save(path, state)
        if state["optimisers"] and state["position"]["iteration"] == 4:
            raise Killed

    whole, broken = (
        from_dict(Config, yaml.safe_load(tiny_task) | {"work_dir": str(tmp_path / name)}, "tiny")
        for name in ("whole", "broken")
    )
    loop.train(whole, Console(quiet=True))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "save_checkpoint", dying)
        loop.train(broken, Console(quiet=True))
    assert final_state(tmp_path / "broken")["position"]["stage"] == 0
    loop.train(replace(broken, resume=True), Console(quiet=True))
    assert_same_state(final_state(tmp_path / "whole"), final_state(tmp_path / "broken"))


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *SLOW])
def test_a_signal_saves_and_leaves(tiny, command, tmp_path, number):
    work_dir = tmp_path / "run"
    process = command("--task", tiny, "--work-dir", work_dir, "--warm-up.schedule.iterations", "2000")
    wait_for_line(work_dir / "log.jsonl", "train", 3, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.count("\n") == 1 and "--resume" in errors
    logged = sum('"event": "train"' in line for line in (work_dir / "log.jsonl").read_text().splitlines())
    saved = torch.load(work_dir / "checkpoint.pt", weights_only=True)["position"]["iteration"]
    assert saved == logged >= 3


def test_resume_refuses_another_recipe(tiny, tmp_path, capsys):
    work_dir = tmp_path / "run"
    main(["--task", str(tiny), "--work-dir", str(work_dir)])
    for arguments, part in (
        (("--work-dir", work_dir, "--resume", "--model.width", "0.5"), "model.width"),
        (("--work-dir", work_dir, "--task", tiny), "already holds a run"),
        (("--work-dir", tmp_path / "nothing", "--resume"), "nothing"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        errors = capsys.readouterr().err
        assert left.value.code == 1
        assert part in errors and errors.count("\n") == 1, errors
