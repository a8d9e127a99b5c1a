"""SDCA: semantic distribution-aware contrastive adaptation (Li et al., TPAMI 2023), Algorithm 1 and Eq. 19-20."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastuda.data.batch import Batch
from fastuda.methods import presets
from fastuda.methods.config import Recipe
from fastuda.methods.protocol import Losses, Passes, Stage, View
from fastuda.methods.self_training import SelfTraining
from fastuda.methods.source import learning_rate
from fastuda.models.output import Output
from fastuda.nn.losses import resize_labels
from fastuda.nn.statistics import ClassStatistics, all_reduce
from fastuda.ops.class_moments import Moments
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.ops.pseudo_labels import pseudo_labels


class SDCA(SelfTraining):
    """Warm-up, class statistics of the source, adaptation with the two-level bound, self-training."""

    section = "sdca"
    presets = presets.SDCA

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        kind = self.config.covariance
        self.feature_statistics = ClassStatistics(num_classes, self.network.feature_channels, kind)
        self.output_statistics = ClassStatistics(num_classes, num_classes, kind)

    def stages(self) -> list[Stage]:
        schedule = self.config.schedule
        adapt = Stage(
            name="adapt",
            iterations=schedule.iterations,
            optimisers=lambda: self.optimisers(schedule, self.config.norm),
            step=self.adapt,
            learning_rate=learning_rate(schedule),
            source=self.source_view(schedule),
            target=View(self.recipe.views.target, "none", schedule.batch),
            prepare=self.estimate_source_moments,
            prepared_row=self.control_row,
            row=self.aligned_row,
        )
        return [self.warm_up_stage(), adapt, *self.self_training_stages()]

    @torch.no_grad()
    def estimate_source_moments(self, passes: Passes) -> None:
        """(n_k, μ_k, Σ_k) of the source at both levels (Algorithm 1, line 2)."""
        for batch in passes.source():
            for statistics, moments in self.moments(self.run(batch.images, "source"), batch.labels):
                statistics.merge(moments)
        self.feature_statistics.all_reduce()
        self.output_statistics.all_reduce()

    def moments(self, output: Output, labels: Tensor) -> list[tuple[ClassStatistics, Moments]]:
        """The moments of a batch of source pixels, with the statistics of each level that they belong to (Eq. 3-4)."""
        labels = resize_labels(labels, output.features.shape[-2:])
        levels = (self.feature_statistics, output.features), (self.output_statistics, output.logits)
        return [(statistics, statistics.moments(pixels, labels)) for statistics, pixels in levels]

    def adapt(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """Algorithm 1, lines 4-8: statistics first, then the losses with the new statistics."""
        output = self.run(source.images, "source")
        for statistics, moments in self.moments(output, source.labels):
            statistics.merge(all_reduce(moments))
        labels = resize_labels(source.labels, output.features.shape[-2:])
        yield {"network": self.supervised(output.logits, source.labels) | self.bounds(output, labels, "source")}

        output = self.run(target.images, "target")
        labels = pseudo_labels(output.logits, threshold=self.config.confidence)
        yield {"network": self.bounds(output, labels, "target")}

    def bounds(self, output: Output, labels: Tensor, domain: str) -> dict[str, Tensor]:
        """λ_feat L_feat + λ_out L_out of one domain (Eq. 14 at two levels)."""
        losses = {}
        for level, pixels, statistics, weight in (
            ("features", output.features, self.feature_statistics, self.config.features),
            ("outputs", output.logits, self.output_statistics, self.config.outputs),
        ):
            if weight:
                losses[f"{level}_{domain}"] = weight * contrastive_bound(
                    pixels,
                    labels,
                    statistics.mean,
                    statistics.covariance,
                    temperature=self.config.temperature,
                    normalize=self.config.normalize,
                )
        return losses
