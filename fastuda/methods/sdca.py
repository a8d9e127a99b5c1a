"""SDCA: semantic distribution-aware contrastive adaptation (Li et al., TPAMI 2023), Algorithm 1 and Eq. 19-20."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.methods.config import Recipe
from fastuda.methods.protocol import Losses, Passes, Stage, View
from fastuda.methods.source import Source, learning_rate
from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.models import build_model
from fastuda.models.output import Output
from fastuda.nn.losses import cross_entropy, resize_labels
from fastuda.nn.statistics import ClassStatistics
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.ops.pseudo_labels import pseudo_labels


class SDCA(Source):
    """Warm-up, class statistics of the source, adaptation with the two-level bound, self-training."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        self.config = recipe.sdca
        kind = self.config.covariance
        self.feature_statistics = ClassStatistics(num_classes, self.network.feature_channels, kind)
        self.output_statistics = ClassStatistics(num_classes, num_classes, kind)

    def stages(self) -> list[Stage]:
        schedule = self.config.schedule
        rounds = self.config.self_training.rounds
        adapt = Stage(
            name="adapt",
            iterations=schedule.iterations,
            optimisers=lambda: self.optimisers(schedule, self.config.norm),
            step=self.adapt,
            learning_rate=learning_rate(schedule),
            source=self.source_view(schedule),
            target=View(self.recipe.views.target, "none", schedule.batch),
            prepare=self.know_domains,
            prepared_row="target_statistics" if self.recipe.model.norm == "per_domain" else "",
            row="aligned" if rounds else "adapted",
        )
        return [self.warm_up_stage(), adapt, *(self.self_training_stage(number + 1) for number in range(rounds))]

    @torch.no_grad()
    def know_domains(self, passes: Passes) -> None:
        """The target's batch-norm statistics, then (n_k, μ_k, Σ_k) of the source (Algorithm 1, line 2)."""
        self.know_target(passes)
        for batch in passes.source():
            self.update_statistics(self.run(batch.images, "source"), batch.labels)

    def update_statistics(self, output: Output, labels: Tensor) -> None:
        """Merge a batch of source pixels into both levels' statistics (Eq. 3-4)."""
        labels = resize_labels(labels, output.features.shape[-2:])
        self.feature_statistics.update(output.features, labels)
        self.output_statistics.update(output.logits, labels)

    def adapt(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """Algorithm 1, lines 4-8: statistics first, then the losses with the new statistics."""
        output = self.run(source.images, "source")
        self.update_statistics(output, source.labels)
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

    def self_training_stage(self, number: int) -> Stage:
        config = self.config.self_training
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
        config = self.config.self_training
        histogram = ConfidenceHistogram(self.num_classes).to(self.target_statistics_known.device)
        for batch in passes.target():
            histogram.update(self.looks(batch.images), size=batch.images.shape[-2:])
        thresholds = histogram.quantile(config.quantile).clamp(max=config.threshold_cap)
        for batch in passes.target():
            labels = pseudo_labels(self.looks(batch.images), size=batch.images.shape[-2:], threshold=thresholds)
            passes.save_pseudo_labels(batch.index, labels)
        if config.restart:
            self.network.load_state_dict(build_model(self.recipe.model, self.num_classes).state_dict())

    def looks(self, images: Tensor) -> Tensor:
        """log of the mean softmax over the configured looks at the images, fp32 (N, K, h, w) of the largest look.

        Of a single look, upsampling it gives what upsampling its logits gives: both differ by a number a pixel.
        """
        config = self.config.self_training
        looks = []
        for scale in config.scales:
            scaled = images if scale == 1.0 else F.interpolate(images, scale_factor=scale, mode="bilinear")
            for mirror in (False, True) if config.flip else (False,):
                logits = self.predict(scaled.flip(-1) if mirror else scaled).float()
                looks.append((logits.flip(-1) if mirror else logits).softmax(1))
        size = max(look.shape[-2:] for look in looks)
        looks = [F.interpolate(look, size=size, mode="bilinear", align_corners=True) for look in looks]
        # An impossible class stays finite: half of infinity is no score to interpolate with.
        return torch.stack(looks).mean(0).clamp(min=torch.finfo(torch.float32).tiny).log()

    def self_training(self, source: Batch | None, target: Batch) -> Iterator[Losses]:
        if source is not None:
            yield {"network": self.supervised(self.run(source.images, "source").logits, source.labels)}
        output = self.run(target.images, "target")
        yield {"network": {"pseudo_ce": cross_entropy(output.logits, target.labels)}}
