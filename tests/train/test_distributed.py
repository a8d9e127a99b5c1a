"""Runs of several processes under torchrun against runs of one: the same statistics, losses, labels and checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fastuda.methods import build_method
from fastuda.train.config import parse
from fastuda.train.inputs import Inputs
from fastuda.train.work_dir import after_restart

RUNS = [("sdca", 2), *(pytest.param(*run, marks=pytest.mark.slow) for run in (("sdca", 3), ("drsl+", 2)))]
# Of a loss, relative. Sums and draws are the same, but a pixel that rounds to another label draws other triplets.
BOUNDS = {"sdca": 1e-4, "drsl+": 1e-2}
# The one loss that is a tenth of the others and made of those triplets alone.
TRIPLETS, TRIPLETS_BOUND = "loss_consistency", 5e-2
NO_STEPS = [f"--{stage}.schedule.iterations=0" for stage in ("warm-up", "sdca", "sdca.self-training")]


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    """Of a test that fails, the processes that it started end with it."""
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    STARTED.clear()


def start(task: Path, work_dir: Path, ranks: int, *arguments: str, restarts: int = 0) -> subprocess.Popen:
    """A run in ``ranks`` processes of one thread each; under torchrun in all cases but that of one."""
    return launch("fastuda.train", ranks, "--task", task, "--work-dir", work_dir, *arguments, restarts=restarts)


def launch(module: str, ranks: int, *arguments: str | Path, restarts: int = 0) -> subprocess.Popen:
    options = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    torchrun = ["-m", "torch.distributed.run", *options] if ranks > 1 else []
    process = subprocess.Popen(
        [sys.executable, *torchrun, "-m", module, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Its standard error, once it ended with ``code``."""
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    return errors


def lines(work_dir: Path, event: str = "train") -> list[dict]:
    log = work_dir / "log.jsonl"
    found = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    return [line for line in found if line["event"] == event]


def wait_for_steps(work_dir: Path, count: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 240
    while len(lines(work_dir)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"no {count} steps in {work_dir}"
        time.sleep(0.01)


def kill_last_rank(launcher: subprocess.Popen) -> None:
    """SIGKILL for the youngest of torchrun's children, which torchrun starts in the order of their ranks."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)


def losses(work_dir: Path) -> dict[tuple, float]:
    """(stage, iteration, name) → value; of an iteration that was repeated after a fault the last."""
    return {
        (line["stage"], line["iteration"], name): value
        for line in lines(work_dir)
        for name, value in line.items()
        if name.startswith("loss")
    }


def assert_same_curve(found: Path, expected: Path, method: str = "sdca") -> None:
    left, right = losses(found), losses(expected)
    assert left.keys() == right.keys() and right
    differ = {key: abs(left[key] - value) / max(abs(value), 1e-3) for key, value in right.items()}
    bounds = {key: TRIPLETS_BOUND if key[-1] == TRIPLETS else BOUNDS[method] for key in differ}
    worst = max(differ, key=lambda key: differ[key] / bounds[key])
    assert differ[worst] < bounds[worst], (worst, left[worst], right[worst])


def state(work_dir: Path) -> dict:
    return torch.load(work_dir / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def task(tiny_task, tmp_path_factory) -> Path:
    """The tiny task on batches that 2 and 3 divide, over passes that give three ranks unequal shares."""
    content = yaml.safe_load(tiny_task)
    schedule = {"iterations": 4, "learning_rate": 0.01, "batch": 6}
    content["warm_up"]["schedule"] = content["sdca"]["schedule"] = schedule
    content["sdca"]["self_training"]["schedule"] = schedule
    # At a lower rate: a pixel that rounds to another label draws other triplets, and a large step makes much of that.
    gentle = schedule | {"learning_rate": 1e-4}
    content["drsl"] = {"schedule": gentle, "rounds": 1, "channels": 8, "per_class": 6, "triplets": 32}
    content |= {"pass_batch": 2}
    content["data"]["target"]["count"] = 8
    content["data"]["validation"]["count"] = 4
    path = tmp_path_factory.mktemp("task") / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """Directory of the finished run of a method in so many processes, each made once."""
    made: dict[tuple, Path] = {}

    def run(ranks: int, *arguments: str) -> Path:
        if (ranks, arguments) not in made:
            made[ranks, arguments] = tmp_path_factory.mktemp("runs") / "run"
            finish(start(task, made[ranks, arguments], ranks, *arguments))
        return made[ranks, arguments]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_statistics_labels_and_scores_are_those_of_one_process(finished, ranks):
    one, several = finished(1, *NO_STEPS), finished(ranks, *NO_STEPS)
    expected, found = state(one)["method"], state(several)["method"]
    names = [name for name in expected if "statistics." in name or "running" in name or "tracked" in name]
    assert len([name for name in names if name.startswith("feature_statistics")]) == 3
    assert any("target_running_mean" in name for name in names)
    for name in names:
        a, b = found[name].double(), expected[name].double()
        assert (a - b).abs().max() <= 1e-6 * b.abs().max().clamp(min=1e-6), name
    assert found["feature_statistics.count"].sum() > 0
    labels = [
        np.stack([np.asarray(Image.open(path)) for path in sorted((run / "pseudo_labels").iterdir())])
        for run in (one, several)
    ]
    assert len(labels[0]) == 8 and 0.1 < (labels[0] != 255).mean() < 0.9
    # A confidence that rounds to the other side of a threshold takes its pixel along.
    assert (labels[0] != labels[1]).mean() < 1e-3
    for a, b in zip(state(one)["position"]["rows"], state(several)["position"]["rows"], strict=True):
        assert a["name"] == b["name"] and a["miou"] == pytest.approx(b["miou"], abs=1e-3)


@pytest.mark.parametrize(("method", "ranks"), RUNS)
def test_losses_are_those_of_one_process(finished, method, ranks):
    gentle = ["--warm-up.schedule.learning-rate=1e-4"] if method == "drsl+" else []
    one, several = (finished(number, "--method", method, *gentle) for number in (1, ranks))
    assert_same_curve(several, one, method)
    assert len(lines(several, "start")) == 1
    written = {path.name for path in one.iterdir()}
    assert {path.name for path in several.iterdir()} == written and "result.json" in written


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_by_several_processes(finished):
    work_dir = finished(1, "--method", "sdca")
    told = [launch("fastuda.evaluate", ranks, work_dir).communicate(timeout=300)[0] for ranks in (1, 2)]
    assert "mean" in told[0] and told[0] == told[1]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_which_goes_on_alone(task, finished, tmp_path):
    process = start(task, tmp_path / "run", 2, "--method", "sdca")
    wait_for_steps(tmp_path / "run", 6, process)
    kill_last_rank(process)
    began = time.monotonic()
    errors = finish(process, 1)
    assert time.monotonic() - began < 120
    assert "error: rank 0 ends because another process of this run did" in errors and "SIGKILL" in errors
    assert not (tmp_path / "run" / "result.json").exists()
    finish(start(task, tmp_path / "run", 1, "--resume"))
    assert lines(tmp_path / "run", "start")[1]["stage"] == 1
    assert_same_curve(tmp_path / "run", finished(1, "--method", "sdca"))


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_in_two(task, finished, tmp_path):
    process = start(task, tmp_path / "run", 1, "--method", "sdca")
    wait_for_steps(tmp_path / "run", 5, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)
    finish(start(task, tmp_path / "run", 2, "--resume"))
    assert_same_curve(tmp_path / "run", finished(1, "--method", "sdca"))


@pytest.mark.slow
def test_a_signal_saves_once_for_all_ranks(task, finished, tmp_path):
    process = start(task, tmp_path / "run", 2, "--method", "sdca", "--checkpoint-every=1000")
    wait_for_steps(tmp_path / "run", 6, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and "interrupted in stage 1 at iteration" in errors
    position, last = state(tmp_path / "run")["position"], lines(tmp_path / "run")[-1]
    assert (position["stage"], position["iteration"]) == (1, last["iteration"])


@pytest.mark.slow
def test_torchrun_restarts_from_the_checkpoint(task, finished, tmp_path):
    process = start(task, tmp_path / "run", 2, "--method", "sdca", restarts=1)
    wait_for_steps(tmp_path / "run", 6, process)
    kill_last_rank(process)
    finish(process)
    starts = lines(tmp_path / "run", "start")
    assert [line["stage"] for line in starts] == [0, 1] and (tmp_path / "run" / "result.json").exists()
    assert_same_curve(tmp_path / "run", finished(1, "--method", "sdca"))


@pytest.mark.slow
def test_a_batch_that_cannot_be_split_is_told_once(task, tmp_path):
    errors = finish(start(task, tmp_path / "run", 2, "--method", "source", "--warm-up.schedule.batch=5"), 1)
    told = [line for line in errors.splitlines() if "error: the batch of 5 images of stage warm_up" in line]
    assert len(told) == 1 and "2 processes" in told[0]
    assert not (tmp_path / "run").exists()


def test_restarts_need_a_directory(monkeypatch):
    config = parse(["--task", "streets"])
    assert after_restart(config) is config
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="needs --work-dir"):
        after_restart(config)


def test_images_of_their_own_sizes_cannot_be_split(task, tmp_path, monkeypatch):
    config = parse(["--task", str(task)])
    config = replace(config, data=replace(config.data, target=replace(config.data.target, size=(0, 0))))
    inputs = Inputs(config, torch.device("cpu"), tmp_path)
    stages = build_method(config, 11).stages()
    inputs.check_split(stages)
    monkeypatch.setattr("fastuda.train.inputs.world", lambda: 2)
    with pytest.raises(ValueError, match="need target images of one size: set data.target.size or a crop"):
        inputs.check_split(stages)
