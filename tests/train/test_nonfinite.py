"""A loss that is not finite ends the run, and leaves a file that says what it came of."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from rich.console import Console
from torch import distributed

from fastuda.data.batch import Batch
from fastuda.ops import global_batch
from fastuda.ops.upsample_cross_entropy import upsample_cross_entropy
from fastuda.train.checkpoint import load_checkpoint
from fastuda.train.config import parse
from fastuda.train.inputs import Inputs
from fastuda.train.loop import Run, train
from fastuda.train.meter import NonFiniteLoss
from fastuda.train.nonfinite import PENDING, Recorder, Watch, fail
from fastuda.train.signals import Signals

OPTIONS = ["--method", "source", "--model.norm", "frozen"]


@pytest.fixture
def arguments(tiny, tmp_path) -> list[str]:
    return ["--task", str(tiny), "--work-dir", str(tmp_path / "run"), *OPTIONS]


@pytest.fixture
def run(arguments, tmp_path):
    """A run that is about to take its first step."""
    with Signals() as signals:
        run = Run(parse(arguments), tmp_path / "run", Console(quiet=True), signals)
        run.position.prepared = True
        yield run


def dumped(tmp_path) -> dict:
    return torch.load(tmp_path / "run" / "nonfinite.pt", weights_only=True)


def test_nan_in_an_image(arguments, tmp_path, monkeypatch):
    """In the third step, the second image: the file holds that batch, and the run goes on from the second step."""
    own, shown = Inputs.on_device, []

    def planted(self, batch, view, key):
        found = own(self, batch, view, key)
        if key == (0, 2, 0):
            found.images[1, 0, 5, 7] = float("nan")
            shown.append(found)
        return found

    monkeypatch.setattr(Inputs, "on_device", planted)
    with pytest.raises(
        NonFiniteLoss, match=r"'ce' is nan in stage warm_up at iteration 3; .*checkpoint.pt; .*nonfinite.pt"
    ):
        train(parse(arguments), Console(quiet=True))
    found = dumped(tmp_path)
    assert (found["stage"], found["iteration"], found["seed"], found["precision"]) == ("warm_up", 3, 0, "fp32")
    assert set(found["losses"]) == {"ce", "lovasz"} and found["losses"]["ce"] != found["losses"]["ce"]
    (part,) = found["batches"]
    assert part["draw"] == 2 and part["target"] is None
    images = part["source"].pop("images")
    assert images.isnan().nonzero().tolist() == [[1, 0, 5, 7]]
    assert torch.equal(images.nan_to_num(), shown[0].images.nan_to_num())
    assert all(torch.equal(part["source"][name], getattr(shown[0], name)) for name in part["source"])
    assert set(part["source"]) >= {"labels", "index"}
    last = found["operators"][-1]
    assert found["error"] == "" and not last["finite_inputs"] and last["inputs"]["logits"].isnan().any()
    assert torch.equal(last["inputs"]["target"], part["source"]["labels"])

    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["position"]["iteration"] == 2
    assert all(v.isfinite().all() for v in state["method"].values() if isinstance(v, torch.Tensor))
    monkeypatch.undo()
    assert train(parse([*arguments[2:4], "--resume"]), Console(quiet=True)).stages[0]["name"] == "source"


def test_nan_in_a_weight(run, tmp_path):
    """No other weight is touched by the step that finds it."""
    stage, network = run.method.stages()[0], run.method.network
    weight = network.classifier.weight.data
    weight[3] = float("nan")
    before = {name: value.clone() for name, value in run.method.named_parameters()}
    with pytest.raises(NonFiniteLoss, match="at iteration 1;"):
        run.steps(stage)
    for name, value in run.method.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    found = dumped(tmp_path)
    logits = found["operators"][-1]["inputs"]["logits"]
    assert logits[:, 3].isnan().all() and logits[:, :3].isfinite().all()
    assert [call["finite_inputs"] for call in found["operators"]].count(False) == 1


def test_a_full_disk_hides_no_loss(run, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    run.method.network.classifier.weight.data[0] = float("inf")
    with pytest.raises(NonFiniteLoss, match=r"loss '.*' is .*; cannot write .*nonfinite.pt: No space left on device"):
        run.steps(run.method.stages()[0])
    assert not (tmp_path / "run" / "nonfinite.pt").exists()


def test_losses_that_cannot_be_computed_again_hide_no_loss(run, tmp_path, monkeypatch):
    def gone(stage, iteration, batches):
        raise RuntimeError("gone")

    monkeypatch.setattr(run, "recompute", gone)
    run.method.network.classifier.weight.data[0] = float("inf")
    with pytest.raises(NonFiniteLoss, match="iteration 1"):
        run.steps(run.method.stages()[0])
    found = dumped(tmp_path)
    assert found["error"] == "RuntimeError: gone" and found["operators"] == [] and len(found["batches"]) == 1


def test_a_batch_that_cannot_be_loaded_again_hides_no_loss(run, tmp_path, monkeypatch):
    def gone(stage, iteration):
        raise OSError("the disk is gone")

    monkeypatch.setattr(run, "batches_of", gone)
    run.method.network.classifier.weight.data[0] = float("inf")
    with pytest.raises(NonFiniteLoss, match="iteration 1"):
        run.steps(run.method.stages()[0])
    found = dumped(tmp_path)
    assert found["error"] == "OSError: the disk is gone" and found["operators"] == [] and found["batches"] == []


def test_accumulated_batches_are_all_there(arguments, tmp_path):
    with Signals() as signals:
        config = replace(parse(arguments), accumulate=2)
        run = Run(config, tmp_path / "run", Console(quiet=True), signals)
        run.method.network.classifier.weight.data[0] = float("nan")
        with pytest.raises(NonFiniteLoss):
            run.steps(run.method.stages()[0])
    assert [part["draw"] for part in dumped(tmp_path)["batches"]] == [0, 1]


def test_the_recorder_stops_at_the_first_bad_number_and_at_its_size():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    good, bad = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    bad[0, 1, 2, 3] = float("inf")
    with Recorder() as recorder:
        for logits in (good, bad, good):
            upsample_cross_entropy(logits, labels)
    names = {call["operator"] for call in recorder.calls}
    assert names == {"upsample_cross_entropy"} and len(recorder.calls) == 2
    assert [call["finite_inputs"] for call in recorder.calls] == [True, False]
    assert torch.equal(recorder.calls[1]["inputs"]["logits"], bad)
    with Recorder(max_bytes=100) as recorder:
        upsample_cross_entropy(good, labels)
    inputs = recorder.calls[0]["inputs"]
    assert inputs["logits"] == "left out: torch.float32 (1, 3, 4, 4), 192 bytes" and torch.equal(
        inputs["target"], labels
    )


class Event:
    """A CUDA event, as far as the watch asks it."""

    def __init__(self) -> None:
        self.done, self.waited = False, 0

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.waited, self.done = self.waited + 1, True


def test_a_flag_under_way_is_not_waited_for_until_its_step_would_be_forgotten():
    watch, events = Watch(), []
    for iteration in range(1, PENDING + 1):
        watch.begin(iteration)
        watch.end(torch.tensor(float(iteration > 1)))
        events.append(Event())
        watch.steps[-1].arrived = events[-1]
        assert watch.first_bad(wait=False) is None
    assert [event.waited for event in events] == [1] + [0] * (PENDING - 1)
    events[1].done = True
    assert watch.first_bad(wait=False).iteration == 2
    events[1].done = False
    assert watch.first_bad(wait=True).iteration == 2 and events[1].waited == 1


def rank_with_a_bad_loss(rank: int, directory) -> None:
    """Two steps of a rank, of which the second rank's second is bad; what it ends with goes into a file."""
    distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    watch = Watch()
    with global_batch():
        for iteration in (1, 2):
            bad = float(rank == 1 and iteration == 2)
            watch.begin(iteration)
            watch.losses({"ce": torch.tensor(float("nan") if bad else 1.0)})
            # Of the images of both.
            watch.losses({"lovasz": torch.tensor(float("nan") if iteration == 2 else 1.0)})
            watch.end(torch.tensor(float(iteration == 2)))
        try:
            batch = Batch(torch.full((1,), rank), None, torch.zeros(1))
            fail(
                watch,
                {"stage": "adapt"},
                lambda iteration: [(iteration, (batch, None))],
                lambda iteration, batches: None,
                directory / "run" / "checkpoint.pt",
            )
        except NonFiniteLoss as error:
            (directory / f"{rank}.txt").write_text(str(error))
    distributed.destroy_process_group()


def test_all_ranks_end_by_the_bad_loss_of_one_which_writes_what_it_saw(tmp_path):
    (tmp_path / "run").mkdir()
    ranks = [get_context("fork").Process(target=rank_with_a_bad_loss, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    told = {(tmp_path / f"{rank}.txt").read_text() for rank in range(2)}
    assert len(told) == 1 and told.pop().startswith("the loss 'ce' is nan in stage adapt at iteration 2; ")
    found = dumped(tmp_path)
    assert found["losses"]["ce"] != found["losses"]["ce"]
    assert found["batches"][0]["draw"] == 2 and found["batches"][0]["source"]["images"].item() == 1
