"""Out of GPU memory, a training run says where, what is left and what would help."""

from __future__ import annotations

import inspect

import pytest
import torch
from rich.console import Console

from fastuda.methods.source import Source
from fastuda.train.checkpoint import load_checkpoint
from fastuda.train.config import Config, parse
from fastuda.train.loop import train
from fastuda.train.memory import measure as measuring
from fastuda.train.memory.measure import advice, out_of_memory, record_history
from fastuda.train.restore import one_sentence

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10.75 GiB.\nmore"


@pytest.fixture
def arguments(tiny, tmp_path, monkeypatch) -> list[str]:
    # The advice itself, whole steps on fake tensors, is test_memory_forecast.py's.
    monkeypatch.setattr(measuring, "advice", lambda config: f"what helps {config.method}")
    options = ["--method", "source", "--model.norm", "frozen"]
    return ["--task", str(tiny), "--work-dir", str(tmp_path / "run"), *options]


def test_in_a_step(arguments, tmp_path, monkeypatch, capsys):
    own, steps = Source.warm_up, []

    def planted(self, source, target):
        steps.append(source)
        if len(steps) == 4:
            raise torch.OutOfMemoryError(MESSAGE)
        return own(self, source, target)

    monkeypatch.setattr(Source, "warm_up", planted)
    with pytest.raises(SystemExit) as left, one_sentence():
        train(parse(arguments), Console(quiet=True))
    told = capsys.readouterr().err
    assert left.value.code == 1 and told.count("\n") == 1
    assert told.startswith(
        "error: out of GPU memory in stage warm_up at iteration 4: CUDA out of memory. Tried to allocate 2.00 GiB. "
    )
    assert f"the last good state is in {tmp_path}/run/checkpoint.pt. what helps source" in told
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["position"]["iteration"] == 2
    monkeypatch.setattr(Source, "warm_up", own)
    assert train(parse([*arguments[2:4], "--resume"]), Console(quiet=True)).stages[0]["name"] == "source"


def test_in_an_evaluation(arguments, monkeypatch):
    def planted(self, images):
        raise torch.OutOfMemoryError(MESSAGE)

    monkeypatch.setattr(Source, "predict", planted)
    with pytest.raises(ValueError, match="in stage warm_up while it is evaluated: CUDA out of memory"):
        train(parse(arguments), Console(quiet=True))


@pytest.mark.parametrize("full", [False, True], ids=["room", "full"])
def test_the_snapshot_is_told_and_hides_nothing(tmp_path, monkeypatch, full):
    def dump(path: str) -> None:
        if full:
            raise OSError("No space left on device")
        (tmp_path / "memory.pickle").write_bytes(b"history")

    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    monkeypatch.setattr(measuring, "advice", lambda config: "advice")
    path = tmp_path / "memory.pickle"
    with pytest.raises(ValueError, match="Tried to allocate") as caught, out_of_memory(Config(), snapshot=path):
        raise torch.OutOfMemoryError(MESSAGE)
    expected = f"could not be written to {path}: No space" if full else f"the allocator's snapshot is in {path}."
    assert expected in str(caught.value) and path.exists() is not full


def test_the_history_is_asked_for_as_torch_takes_it(monkeypatch):
    given = []
    own = inspect.signature(torch.cuda.memory._record_memory_history_impl)
    monkeypatch.setattr(
        torch.cuda.memory, "_record_memory_history", lambda **options: given.append(own.bind(**options))
    )
    record_history()
    assert given[0].arguments["stacks"] == "python" and given[0].arguments["max_entries"] > 1000


@pytest.mark.parametrize("processes", [1, 2])
def test_advice_without_a_forecast(monkeypatch, processes):
    """Of images whose size only their files know, and where a step needs the other processes."""
    monkeypatch.setattr(measuring, "world", lambda: processes)
    config = parse(["--task", "streets", "--data.target.kind", "folder", "--data.target.size", "0", "0"])
    told = advice(config)
    reason = "one rank cannot" if processes == 2 else "no known size"
    assert "--model.checkpointing, --amp" in told and "--memory 8g" in told and reason in told
