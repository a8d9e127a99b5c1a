"""The one training step: its order, its weights, and what it holds on to."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastuda.data.batch import Batch
from fastuda.methods.protocol import Losses, Stage
from fastuda.train.optimisers import Optimisers
from fastuda.train.precision import Precision
from fastuda.train.step import Batches, StepListener, TrainingStep, losses_of

FP32 = Precision("cpu", None, False, "fp32")


def batch(value: float) -> Batch:
    return Batch(torch.full((2,), float(value)), None, torch.arange(2))


class Calls(StepListener):
    """The names of the points that a step passes, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, batches: Batches) -> None:
        self.names.append(f"started {batches[0].images[0].item():g}")

    @contextmanager
    def computing(self) -> Iterator[None]:
        self.names.append("computing")
        yield

    def computed(self, losses: Losses) -> None:
        self.names.append("computed " + " ".join(name for terms in losses.values() for name in terms))

    def differentiated(self) -> None:
        self.names.append("differentiated")

    def updating(self) -> None:
        self.names.append("updating")

    def updated(self) -> None:
        self.names.append("updated")


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.zeros(()))


def stage_of(weight: nn.Parameter, calls: list[str] | None = None) -> Stage:
    """Two losses in two parts, whose gradients are the image's value and 10."""

    def parts(source: Batch, target: Batch | None) -> Iterator[Losses]:
        yield {"network": {"first": weight * source.images.mean()}}
        yield {"network": {"second": weight * 10}}

    def after_step() -> None:
        calls.append("after_step")

    return Stage(
        "s",
        4,
        optimisers=lambda: {"network": torch.optim.SGD([weight], lr=1.0)},
        step=parts,
        learning_rate=lambda iteration: 1 / (1 + iteration),
        after_step=None if calls is None else after_step,
    )


def step_of(weight: nn.Parameter, accumulate: int = 1, calls: Calls | None = None) -> TrainingStep:
    stage = stage_of(weight, calls and calls.names)
    return TrainingStep(stage, Optimisers(stage, FP32, {}), FP32, accumulate, listener=calls)


def test_the_order_of_a_step(weight):
    calls = Calls()
    step_of(weight, 2, calls).take(0, iter([(batch(1), None), (batch(2), None)]))
    part = ["computing", "computed first", "differentiated", "computing", "computed second", "differentiated"]
    end = ["computing", "updating", "updated", "after_step"]
    assert calls.names == ["started 1", *part, "computing", "started 2", *part, *end]


@pytest.mark.parametrize(
    ("accumulate", "values", "gradient"), [(1, [3], 13.0), (2, [1, 3], 12.0), (4, [1, 2, 3, 6], 13.0)]
)
def test_gradients_of_accumulated_batches_are_averaged(weight, accumulate, values, gradient):
    left = iter([(batch(value), None) for value in values] + [(batch(100), None)])
    assert step_of(weight, accumulate).take(0, left) == 0.0
    assert weight.item() == pytest.approx(-gradient) and weight.grad is None
    assert next(left)[0].images[0] == 100, "a batch too many was taken"


def test_the_rate_is_the_iterations(weight):
    step_of(weight).take(3, iter([(batch(2), None)]))
    assert weight.item() == pytest.approx(-12 / 4)


def test_fewer_batches_weigh_as_in_the_whole_step(weight):
    step_of(weight, 4).take(0, iter([(batch(2), None), (batch(2), None)]), count=2)
    assert weight.item() == pytest.approx(-2 * 12 / 4)


def test_a_loss_that_is_not_finite_skips_the_update(weight):
    step = step_of(weight)
    assert step.take(0, iter([(batch(float("nan")), None)])) == 1.0 and weight == 0.0
    assert step.take(0, iter([(batch(1), None)])) == 1.0 and weight == 0.0


def test_no_batch_outlives_its_gradients(weight):
    """An accumulated batch that lived while the next one is made would cost its memory once more."""
    alive: list[weakref.ref[Tensor]] = []

    def made() -> Batches:
        found = batch(1)
        alive.append(weakref.ref(found.images))
        return found, None

    def batches() -> Iterator[Batches]:
        while True:
            assert all(reference() is None for reference in alive)
            yield made()

    step_of(weight, 3).take(0, batches())
    assert len(alive) == 3


def test_losses_alone_change_nothing(weight):
    stage = stage_of(weight)
    with torch.no_grad():
        found = [losses["network"] for losses in losses_of(stage, batch(2), None, FP32)]
    assert [list(terms) for terms in found] == [["first"], ["second"]] and weight.grad is None


def test_no_other_code_takes_a_step():
    """The loop, the forecast and the benchmarks call this one."""
    root = Path(__file__).resolve().parents[2]
    files = [path for room in ("fastuda", "benchmarks") for path in (root / room).rglob("*.py")]
    assert [p.name for p in files if re.search(r"stage\.step\(", p.read_text())] == ["step.py"]
