"""Passes over the training images for a stage's preparation, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Console
from torch import Tensor

from fastuda.data.batch import Batch
from fastuda.ranks import world
from fastuda.train.inputs import Inputs
from fastuda.train.meter import LiveLine


class DataPasses:
    """fastuda.methods.protocol.Passes over this rank's share of a run's data.

    ``poll`` is called between batches and may raise.
    """

    def __init__(self, inputs: Inputs, name: str, console: Console, poll: Callable[[], None]) -> None:
        self.inputs, self.name, self.console, self.poll = inputs, name, console, poll

    @property
    def target_images(self) -> int:
        return len(self.inputs.datasets["target"])

    def source(self) -> Iterator[Batch]:
        return self._pass("source")

    def target(self) -> Iterator[Batch]:
        return self._pass("target")

    def save_pseudo_labels(self, index: Tensor, labels: Tensor) -> None:
        for number, label in zip(index.tolist(), labels.cpu().numpy(), strict=True):
            self.inputs.save_pseudo_labels(number, label)

    def save_scores(self, index: Tensor, scores: Tensor) -> None:
        for number, score in zip(index.tolist(), scores.half().cpu().numpy(), strict=True):
            self.inputs.save_scores(number, score)

    def _pass(self, domain: str) -> Iterator[Batch]:
        total = len(self.inputs.datasets[domain])
        seen = 0
        with LiveLine(self.console, f"{self.name}: {domain}", total) as line:
            for batch in self.inputs.plain(domain):
                self.poll()
                yield batch
                # The other ranks are assumed to be about as far.
                seen = min(seen + len(batch.index) * world(), total)
                line.update(seen, f"{seen} images")
