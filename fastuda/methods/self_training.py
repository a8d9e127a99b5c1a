"""Rounds of fixed pseudo labels on the target, the last stage of SDCA (Eq. 19-20) and SPCL (Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastuda.data.batch import Batch
from fastuda.methods.config import Recipe, SelfTrainingConfig
from fastuda.methods.protocol import Losses, Passes, Stage, View
from fastuda.methods.source import Source, learning_rate
from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.models import build_model
from fastuda.nn.losses import cross_entropy
from fastuda.ops.pseudo_labels import pseudo_labels


class SelfTraining(Source):
    """A method whose last stages train on its own confident labels of the target training images."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        self.labelling: SelfTrainingConfig = self.config.self_training

    @property
    def aligned_row(self) -> str:
        """Name of the evaluation before self-training, which is the final one where there are no rounds of it."""
        return "aligned" if self.labelling.rounds else "adapted"

    def self_training_stages(self) -> list[Stage]:
        return [self.self_training_stage(number + 1) for number in range(self.labelling.rounds)]

    def self_training_stage(self, number: int) -> Stage:
        config = self.labelling
        return Stage(
            name=f"self_training_{number}",
            iterations=config.schedule.iterations,
            optimisers=lambda: self.optimisers(config.schedule, config.norm),
            step=self.self_training,
            learning_rate=learning_rate(config.schedule),
            source=self.source_view(config.schedule) if config.source else None,
            target=View(self.recipe.views.self_training, "pseudo", config.schedule.batch),
            prepare=self.pseudo_label,
            row="adapted" if number == config.rounds else f"self_training_{number}",
        )

    @torch.no_grad()
    def pseudo_label(self, passes: Passes) -> None:
        """Per-class thresholds δ_k over the whole target set, then the labels above them (Eq. 19)."""
        config = self.labelling
        histogram = ConfidenceHistogram(self.num_classes).to(self.device)
        for batch in passes.target():
            histogram.update(self.predict_augmented(batch.images, config), size=batch.images.shape[-2:])
        histogram.all_reduce()
        thresholds = histogram.quantile(config.quantile).clamp(max=config.threshold_cap)
        for batch in passes.target():
            labels = pseudo_labels(
                self.predict_augmented(batch.images, config), size=batch.images.shape[-2:], threshold=thresholds
            )
            passes.save_pseudo_labels(batch.index, labels)
        if config.restart:
            self.network.load_state_dict(build_model(self.recipe.model, self.num_classes).state_dict())

    def self_training(self, source: Batch | None, target: Batch) -> Iterator[Losses]:
        if source is not None:
            yield {"network": self.supervised(self.run(source.images, "source").logits, source.labels)}
        output = self.run(target.images, "target")
        yield {"network": {"pseudo_ce": cross_entropy(output.logits, target.labels)}}
