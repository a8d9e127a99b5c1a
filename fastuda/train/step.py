"""One training step: the loop takes it, the memory forecast walks through it and the benchmarks measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from fastuda.data.batch import Batch
from fastuda.methods.protocol import Losses, Stage
from fastuda.train.distributed import Averaging
from fastuda.train.optimisers import Optimisers
from fastuda.train.precision import Precision

Batches = tuple[Batch | None, Batch | None]
"""A batch of the source and one of the target, standardised and on the device; None for a domain that is not used."""


class StepListener:
    """Called at each point of a step.  Every method does nothing: override those of interest."""

    def started(self, batches: Batches) -> None:
        """A batch of each domain has been loaded; the computation of its losses follows."""

    def computing(self) -> AbstractContextManager[object]:
        """A context that is entered while one part of the losses is computed."""
        return nullcontext()

    def computed(self, losses: Losses) -> None:
        """One part of the losses has been computed; its backward pass follows."""

    def differentiated(self) -> None:
        """The gradients of that part have been added to those of the step."""

    def updating(self) -> None:
        """The gradients of the step are complete; the update of the parameters follows."""

    def updated(self) -> None:
        """The parameters have been updated; the stage's ``after_step`` follows."""


def losses_of(
    stage: Stage,
    source: Batch | None,
    target: Batch | None,
    precision: Precision,
    computing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Losses]:
    """The losses of one batch of each domain, part by part, each computed under autocast and inside ``computing()``."""
    parts = stage.step(source, target)
    while True:
        with computing(), precision.autocast():
            losses = next(parts, None)
        if losses is None:
            return
        yield losses


class TrainingStep:
    """The steps of one stage: the gradients of one or more batches, one update, and the stage's ``after_step``.

    accumulate: batches of each domain whose gradients are averaged before an update.
    averaging: averages the gradients over the processes of the run; None: this process trains alone.
    """

    def __init__(
        self,
        stage: Stage,
        optimisers: Optimisers,
        precision: Precision,
        accumulate: int = 1,
        averaging: Averaging | None = None,
        listener: StepListener | None = None,
    ) -> None:
        self.stage, self.optimisers, self.precision, self.accumulate = stage, optimisers, precision, accumulate
        self.averaging, self.listener = averaging, listener or StepListener()

    def take(self, iteration: int, batches: Iterator[Batches], count: int | None = None) -> Tensor:
        """Take step ``iteration`` of the stage, counted from 0, on the next ``accumulate`` items of ``batches``.

        count: use only so many of the batches, weighted as in the whole step; the forecast need not repeat equal ones.
        Returns a scalar on the device: 1.0 if the update was skipped because of a loss or a gradient that is not
        finite, else 0.0.
        """
        self.optimisers.set_learning_rate(iteration)
        count = self.accumulate if count is None else count
        for number in range(count):
            later = number + 1 < count
            with self.averaging.local(until_later=later) if self.averaging else nullcontext():
                self._add_gradients(*next(batches))
        self.listener.updating()
        skipped = self.optimisers.step()
        self.listener.updated()
        if self.stage.after_step:
            self.stage.after_step()
        return skipped

    def _add_gradients(self, source: Batch | None, target: Batch | None) -> None:
        self.listener.started((source, target))
        for losses in losses_of(self.stage, source, target, self.precision, self.listener.computing):
            self.listener.computed(losses)
            averaged = self.averaging(losses) if self.averaging else losses
            self.optimisers.backward(averaged, 1 / self.accumulate)
            self.listener.differentiated()
