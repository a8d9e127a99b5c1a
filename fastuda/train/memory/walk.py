"""A walk through a run: the passes, two steps and an evaluation of every kind of stage, on random images.

The code that runs is the trainer's: ``TrainingStep``, ``Photometric``, ``predict_labels``.  Only the images are made
up, in the sizes of the configuration, so that no data set is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastuda.data.batch import Batch
from fastuda.data.classes import class_set
from fastuda.data.config import DatasetConfig
from fastuda.data.layouts import find_layout
from fastuda.data.photometric import Photometric, standardise
from fastuda.methods import build_method
from fastuda.methods.protocol import Losses, Method, Stage, View
from fastuda.metrics.confusion import ConfusionMatrix
from fastuda.train.config import Config
from fastuda.train.memory.trace import Phase, Watcher
from fastuda.train.optimisers import Optimisers
from fastuda.train.precision import Precision
from fastuda.train.scoring import predict_labels
from fastuda.train.step import Batches, StepListener, TrainingStep

Size = tuple[int, int]
TARGET_IMAGES = 1  # of which a method keeps state: a few bytes an image, nothing beside a step
STEPS = 2  # of each stage: the first allocates the optimiser's state, the second has it


def image_size(data: DatasetConfig) -> Size:
    """(height, width) of a data set's images; ValueError if it can only be read from the files."""
    if data.size != (0, 0):
        return data.size
    native = find_layout(data.kind).image_size
    if native is None:
        raise ValueError(f"the images of a data set of kind {data.kind!r} have no known size: set its size")
    return native


def label_size(data: DatasetConfig) -> Size:
    """(height, width) of a data set's labels, which keep the size of their files whatever images are resized to."""
    layout = find_layout(data.kind)
    native = layout.label_size or layout.image_size
    return native if layout.in_files and native is not None else image_size(data)


def view_size(view: View, data: DatasetConfig) -> Size:
    """(height, width) of a stage's training images, the largest if they are scaled."""
    if view.augment.crop != (0, 0):
        return view.augment.crop
    return tuple(round(side * view.augment.scale[1]) for side in image_size(data))


def walked_stages(stages: list[Stage]) -> list[Stage]:
    """The first stage of each name without its number: rounds need the same memory."""
    first: dict[str, Stage] = {}
    for stage in stages:
        first.setdefault(re.sub(r"_\d+$", "", stage.name), stage)
    return list(first.values())


class Walk:
    """The walk through a run of one configuration; ``watcher`` is called as it goes on.

    prepare_method: may change the method before its first stage.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        precision: Precision,
        watcher: Watcher,
        prepare_method: Callable[[Method], None] = lambda method: None,
    ) -> None:
        # The file of initial weights need not exist: it changes no size.
        self.config = replace(config, model=replace(config.model, weights=""))
        self.device, self.precision, self.watcher = device, precision, watcher
        self.num_classes = class_set(config.data.classes).num_classes
        watcher.phase(Phase("build", "build"))
        self.method = build_method(self.config, self.num_classes).to(device)
        prepare_method(self.method)
        watcher.name(self.method)
        self._mark_state()

    def run(self, only: Callable[[Stage], bool] = lambda stage: True) -> None:
        """Walk through all kinds of stages, or those for which ``only`` is true."""
        for stage in filter(only, walked_stages(self.method.stages())):
            if self.method.prepares(stage):
                self._prepare(stage)
            if stage.prepared_row:
                self._evaluate(stage)
            if stage.iterations:
                self.steps(stage)
            if stage.row:
                self._evaluate(stage)

    def _mark_state(self) -> None:
        method = self.method
        teachers = {id(tensor) for teacher in method.networks().teachers for tensor in _state(teacher)}
        named = [(name, "parameters", tensor) for name, tensor in method.named_parameters()]
        named += [(name, "buffers", tensor) for name, tensor in method.named_buffers()]
        for name, kind, tensor in named:
            self.watcher.mark("teacher" if id(tensor) in teachers else kind, [tensor], name)

    def _prepare(self, stage: Stage) -> None:
        self.watcher.phase(Phase(stage.name, "prepare"))
        self.method.eval()
        with torch.no_grad(), self.precision.autocast():
            self.method.prepare(stage, _Passes(self))
        self._mark_state()

    def _evaluate(self, stage: Stage) -> None:
        if self.config.data.validation.kind == "none":
            return
        self.watcher.phase(Phase(stage.name, "evaluation"))
        self.method.eval()
        data = self.config.data.validation
        confusion = ConfusionMatrix(self.num_classes).to(self.device)
        truth = self.labels(1, label_size(data))
        images = self.images(1, image_size(data))
        confusion.update(predict_labels(self.method, images, truth.shape[-2:], self.precision), truth)

    def steps(self, stage: Stage, count: int = STEPS) -> None:
        """The first ``count`` steps of a stage."""
        self.method.allocate(TARGET_IMAGES)
        self.watcher.phase(Phase(stage.name, "build"))
        optimisers = Optimisers(stage, self.precision, {})
        phases = _StepPhases(self.watcher, self.method, optimisers, stage)
        step = TrainingStep(stage, optimisers, self.precision, self.config.accumulate, listener=phases)
        batches = self._batches(stage, phases)
        self.method.train()
        for phases.step in range(1, count + 1):
            # Accumulated batches after the first find gradients in memory; two batches show both cases.
            step.take(0, batches, min(self.config.accumulate, 2) if phases.step == count else 1)
            self._mark_state()

    def _batches(self, stage: Stage, phases: _StepPhases) -> Iterator[Batches]:
        while True:
            phases.now("inputs")
            yield self._batch(stage, "source"), self._batch(stage, "target")

    def _batch(self, stage: Stage, domain: str) -> Batch | None:
        view: View | None = getattr(stage, domain)
        if view is None:
            return None
        size, count = view_size(view, getattr(self.config.data, domain)), view.batch
        labels = None if view.labels == "none" else self.labels(count, size)
        scores = None
        if view.scores:
            cells = [-(-side // 8) for side in image_size(getattr(self.config.data, domain))]
            scores = torch.full((count, self.num_classes, *cells), 1 / self.num_classes, device=self.device).half()
        images = self.images(count, size)
        # Images are blurred at random: the walk blurs all.
        augment = replace(view.augment, blur=1.0) if view.augment.blur else view.augment
        images = self._layout(Photometric(augment)(images, key=(0,)))
        index = torch.zeros(count, dtype=torch.int64, device=self.device)
        window = torch.tensor([[0.0, 1.0, 0.0, 1.0]], device=self.device).expand(count, -1)
        return Batch(images, labels, index, window, scores)

    def plain(self, domain: str) -> Iterator[Batch]:
        """Two batches of a pass without gradient: the second is loaded while the first is still in memory."""
        data, config = getattr(self.config.data, domain), self.config
        size, count = image_size(data), 1 if data.size == (0, 0) else config.pass_batch
        for _ in range(2):
            labels = self.labels(count, size) if data.labelled else None
            images = self._layout(standardise(self.images(count, size)))
            yield Batch(images, labels, torch.zeros(count, dtype=torch.int64, device=self.device))

    def images(self, count: int, size: Size) -> Tensor:
        """uint8 noise, as loaded images are."""
        return torch.randint(256, (count, 3, *size), dtype=torch.uint8, device=self.device)

    def labels(self, count: int, size: Size) -> Tensor:
        """A random class for each pixel."""
        return torch.randint(self.num_classes, (count, *size), dtype=torch.uint8, device=self.device)

    def _layout(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.config.model.channels_last else images


class _StepPhases(StepListener):
    """Reports the phases of step ``step`` of a stage to the watcher, and marks the tensors that they leave."""

    def __init__(self, watcher: Watcher, method: Method, optimisers: Optimisers, stage: Stage) -> None:
        self.watcher, self.method, self.optimisers, self.stage = watcher, method, optimisers, stage
        self.step = 0

    def now(self, part: str) -> None:
        self.watcher.phase(Phase(self.stage.name, part, self.step))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The calls of the networks are the phase "forward", all other code is "losses"."""
        self.now("losses")
        hooks = []
        student, teachers = self.method.networks()
        for network in (student, *teachers):
            hooks.append(network.register_forward_pre_hook(lambda *_: self.now("forward")))
            hooks.append(network.register_forward_hook(lambda *_: self.now("losses"), always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def computed(self, losses: Losses) -> None:
        self.now("backward")

    def differentiated(self) -> None:
        self.watcher.mark("gradients", (p.grad for p in self.method.parameters() if p.grad is not None))

    def updating(self) -> None:
        self.now("optimizer")

    def updated(self) -> None:
        for optimiser in self.optimisers.optimisers.values():
            state = optimiser.state.values()
            self.watcher.mark("optimizer", (v for s in state for v in s.values() if isinstance(v, Tensor)))
        if self.stage.after_step:
            self.now("after step")


def _state(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


class _Passes:
    """fastuda.methods.protocol.Passes over a walk's images; nothing is saved."""

    target_images = TARGET_IMAGES

    def __init__(self, walk: Walk) -> None:
        self.walk = walk

    def source(self) -> Iterator[Batch]:
        return self.walk.plain("source")

    def target(self) -> Iterator[Batch]:
        return self.walk.plain("target")

    def save_pseudo_labels(self, index: Tensor, labels: Tensor) -> None:
        pass

    def save_scores(self, index: Tensor, scores: Tensor) -> None:
        scores.half()
