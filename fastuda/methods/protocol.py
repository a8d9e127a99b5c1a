"""The protocol that every adaptation method follows and the trainer drives.

A method is one ``nn.Module`` that owns all it learns or accumulates, so its ``state_dict`` is its whole memory, and a
short list of stages.  The trainer knows stages and nothing else about a method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from fastuda.data.batch import Batch
from fastuda.data.config import Augment

Losses = dict[str, dict[str, Tensor]]
"""{optimiser name: {loss name: weighted scalar}}; the trainer sums and differentiates each optimiser's losses."""


@dataclass(frozen=True)
class View:
    """What a stage wants to see of one domain."""

    augment: Augment
    labels: str = "none"  # "truth", "pseudo" (saved through Passes) or "none": then the file is never opened
    batch: int = 1  # images a step, of all processes together
    rare_first: bool = False  # draw images with weight 1/log(1.01 + class frequency) instead of by permutation
    scores: bool = False  # also the scores that were saved through Passes


class Passes(Protocol):
    """Passes over the training images without augmentation or gradient, in the data sets' order, with progress.

    Of several processes each sees its share, which may have a batch more than another's: what is gathered is summed
    over them after a pass, never in it.
    """

    def source(self) -> Iterator[Batch]:
        """Labelled, standardised source batches on the device."""

    def target(self) -> Iterator[Batch]:
        """Unlabelled, standardised target batches on the device."""

    def save_pseudo_labels(self, index: Tensor, labels: Tensor) -> None:
        """Keep labels (N, H, W) uint8 of target samples ``index`` (N,) for the views with ``labels="pseudo"``."""

    def save_scores(self, index: Tensor, scores: Tensor) -> None:
        """Keep scores (N, K, h, w) of target samples ``index`` in float16 for the views with ``scores``."""


@dataclass(frozen=True)
class Stage:
    """One stage of a method.

    step yields its losses in parts: the trainer differentiates a part before it asks for the next, so only one part's
    activations are alive.  learning_rate maps the iteration to a factor of each optimiser's initial rate.
    prepared_row and row name the evaluations after ``prepare`` and after the last step ("" = none).
    """

    name: str
    iterations: int
    optimisers: Callable[[], dict[str, Optimizer]]
    step: Callable[[Batch | None, Batch | None], Iterator[Losses]]
    learning_rate: Callable[[int], float] = field(default=lambda iteration: 1.0)
    source: View | None = None
    target: View | None = None
    prepare: Callable[[Passes], None] | None = None
    after_step: Callable[[], None] | None = None
    prepared_row: str = ""
    row: str = ""


class Method(nn.Module):
    """A list of stages and a prediction."""

    @abstractmethod
    def stages(self) -> list[Stage]:
        """The stages in their order; the same list whenever asked."""

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor:
        """Logits (N, K, h, w) of standardised target images (N, 3, H, W), at the network's own resolution."""


def poly(horizon: int, power: float = 0.9, warm_up: int = 0) -> Callable[[int], float]:
    """The polynomial schedule (1 - t/horizon)^power, after a linear warm-up over the first ``warm_up`` steps."""

    def factor(iteration: int) -> float:
        ramp = min(1.0, (iteration + 1) / (warm_up + 1))
        return ramp * max(0.0, 1.0 - iteration / horizon) ** power

    return factor
