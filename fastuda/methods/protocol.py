"""The interface between the adaptation methods and the trainer.

A method is one ``nn.Module`` that owns all that it learns or accumulates, so its ``state_dict`` is its whole memory,
and a short list of stages.  Everything that the trainer needs of a method is in this file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fastuda.data.batch import Batch
from fastuda.data.config import Augment
from fastuda.models.norm import batch_norms, recompute_statistics, use_domain
from fastuda.models.output import Output

Domain = Literal["source", "target"]

Losses = dict[str, dict[str, Tensor]]
"""{optimiser name: {loss name: weighted scalar}}; the trainer sums and differentiates each optimiser's losses."""


@dataclass(frozen=True)
class View:
    """What a stage's batches of one domain hold."""

    augment: Augment
    labels: str = "none"  # "truth", "pseudo" (saved through Passes) or "none": no label file is opened
    batch: int = 1  # images a step, of all processes together
    rare_first: bool = False  # draw images with weight 1/log(1.01 + class frequency) instead of by permutation
    scores: bool = False  # also the scores that were saved through Passes


class Passes(Protocol):
    """Passes over the training images without augmentation or gradient, in the data sets' order, with progress.

    Of several processes each iterates over its share, which may have a batch more than another's: a method sums what
    it gathers over the processes after a pass, never inside it.
    """

    @property
    def target_images(self) -> int:
        """Number of target training images, those of all processes together."""

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
    prepare runs before the first step, after_step after each one.  prepared_row and row name the evaluations after
    ``prepare`` and after the last step ("" = none).
    source_only: the stage trains and evaluates with the source's batch-norm statistics.  Before the first stage
    without it the target's statistics are estimated, and evaluations use those from then on.
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
    source_only: bool = False


class Networks(NamedTuple):
    """The segmentation networks of a method.

    student: trained, evaluated and exported.
    teachers: moving averages or frozen copies of it, which take no gradient.
    """

    student: nn.Module
    teachers: tuple[nn.Module, ...] = ()


class Method(nn.Module):
    """Stages, networks and a prediction; built as ``Method(recipe, num_classes)``.

    Class attributes:
        section: name of the method's own part of the configuration, whose options are ``--<section>.<field>``; "" if
            it has none.
        Config: the dataclass of that part; only methods outside this package set it, ``Recipe`` holds the others'.
        presets: preset name -> values that differ from the dataclasses' defaults, as nested mappings.
        labelled_domain: the domain whose images and labels the trainer gives as source.
    """

    section: ClassVar[str] = ""
    Config: ClassVar[type | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    labelled_domain: ClassVar[Domain] = "source"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("has_target_statistics", torch.zeros((), dtype=torch.bool))
        self._image_buffers: list[str] = []
        self.register_load_state_dict_pre_hook(_resize_image_buffers)

    @classmethod
    def smallest_batch(cls, recipe: Any) -> int:
        """Images of each domain that a step needs at least; ``--memory`` divides no batch below it."""
        return 1

    @abstractmethod
    def stages(self) -> list[Stage]:
        """The stages in their order; the same list at every call."""

    @abstractmethod
    def networks(self) -> Networks:
        """The networks that the steps run: what --compile compiles, the memory forecast names and export writes."""

    def run(self, images: Tensor, domain: Domain) -> Output:
        """The student's output under the batch-norm statistics of ``domain``."""
        student = self.networks().student
        with use_domain(student, domain):
            return student(images)

    def predict(self, images: Tensor) -> Tensor:
        """Logits (N, K, h, w) of standardised target images (N, 3, H, W), at the network's own resolution."""
        return self.run(images, "target" if self.has_target_statistics else "source").logits

    def prepares(self, stage: Stage) -> bool:
        """Whether ``prepare(stage, ...)`` has anything to do."""
        return stage.prepare is not None or self._estimates_statistics(stage)

    @torch.no_grad()
    def prepare(self, stage: Stage, passes: Passes) -> None:
        """All that comes before the first step of ``stage``; the trainer calls it in evaluation mode."""
        self.allocate(passes.target_images)
        if self._estimates_statistics(stage):
            self.estimate_target_statistics(passes)
        if stage.prepare is not None:
            stage.prepare(passes)

    def estimate_target_statistics(self, passes: Passes) -> None:
        """The student's batch-norm statistics of the target, where they are kept apart from the source's."""
        student = self.networks().student
        if any(layer.mode == "per_domain" for layer in batch_norms(student).values()):
            recompute_statistics(student, (batch.images for batch in passes.target()), "target")
        self.has_target_statistics.fill_(True)

    def register_image_buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        """Declare a buffer (target images, *shape), which ``allocate`` makes and a stage's ``prepare`` fills."""
        self.register_buffer(name, torch.zeros(0, *shape, dtype=dtype))
        self._image_buffers.append(name)

    def allocate(self, target_images: int) -> None:
        """Give the declared buffers the length of the target's training set; new ones hold zeros."""
        for name in self._image_buffers:
            held = getattr(self, name)
            if len(held) != target_images:
                setattr(self, name, held.new_zeros(target_images, *held.shape[1:]))

    def _estimates_statistics(self, stage: Stage) -> bool:
        first = next((other.name for other in self.stages() if not other.source_only), None)
        return stage.name == first


def _resize_image_buffers(method: Method, state: dict[str, Any], prefix: str, *arguments) -> None:
    """Before a state dict is loaded: it says how many target images there were."""
    for name in method._image_buffers:
        if isinstance(saved := state.get(prefix + name), Tensor):
            held = getattr(method, name)
            setattr(method, name, held.new_zeros(len(saved), *held.shape[1:]))


def poly(horizon: int, power: float = 0.9, warm_up: int = 0) -> Callable[[int], float]:
    """The polynomial schedule (1 - t/horizon)^power, after a linear warm-up over the first ``warm_up`` steps."""

    def factor(iteration: int) -> float:
        ramp = min(1.0, (iteration + 1) / (warm_up + 1))
        return ramp * max(0.0, 1.0 - iteration / horizon) ** power

    return factor
