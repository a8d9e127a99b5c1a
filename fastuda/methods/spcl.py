"""SPCL: semantic prototype-based contrastive learning (Xie et al., 2021), Eq. 1-9, after adversarial alignment."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.labels import IGNORE
from fastuda.methods import presets
from fastuda.methods.config import Recipe, Schedule
from fastuda.methods.protocol import Losses, Passes, Stage, View
from fastuda.methods.self_training import SelfTraining
from fastuda.methods.source import learning_rate
from fastuda.models.discriminator import PatchDiscriminator
from fastuda.models.output import Output
from fastuda.nn.losses import resize_labels
from fastuda.nn.statistics import ClassStatistics, all_reduce
from fastuda.ops.class_thresholds import class_thresholds
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.ops.pseudo_labels import pseudo_labels
from fastuda.ranks import gather


class SPCL(SelfTraining):
    """Warm-up, output-space adversarial alignment, contrast with moving prototypes, self-training."""

    section = "spcl"
    presets = presets.SPCL

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        adversarial = self.config.adversarial
        self.discriminator = PatchDiscriminator(num_classes, adversarial.width, adversarial.depth)
        self.prototypes = ClassStatistics(num_classes, self.network.feature_channels, None)

    def stages(self) -> list[Stage]:
        schedule, first = self.config.schedule, self.config.adversarial.schedule
        align = Stage(
            name="adversarial",
            iterations=first.iterations,
            optimisers=lambda: self.adversaries(first),
            step=self.align,
            learning_rate=learning_rate(first),
            source=self.source_view(first),
            target=View(self.recipe.views.target, "none", first.batch),
            prepared_row=self.control_row,
            row="adversarial" if first.iterations else "",
        )
        contrast = Stage(
            name="contrast",
            iterations=schedule.iterations,
            optimisers=lambda: self.optimisers(schedule, self.config.norm),
            step=self.contrast,
            learning_rate=learning_rate(schedule),
            source=self.source_view(schedule),
            target=View(self.recipe.views.target, "none", schedule.batch),
            prepare=self.estimate_prototypes,
            row=self.aligned_row,
        )
        return [self.warm_up_stage(), align, contrast, *self.self_training_stages()]

    def adversaries(self, schedule: Schedule) -> dict[str, torch.optim.Optimizer]:
        rate = self.config.adversarial.learning_rate
        adam = torch.optim.Adam(self.discriminator.parameters(), rate, betas=(0.9, 0.99), fused=True)
        return self.optimisers(schedule) | {"discriminator": adam}

    def align(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """The loss on source labels, and the adversarial losses of target and discriminator (AdaptSegNet)."""
        logits = self.run(source.images, "source").logits
        yield {"network": self.supervised(logits, source.labels)}
        source_softmax = logits.detach().float().softmax(1)

        target_softmax = self.run(target.images, "target").logits.float().softmax(1)
        self.discriminator.requires_grad_(False)
        fooled = self.domain_loss(target_softmax, 1.0)
        yield {"network": {"adversarial": self.config.adversarial.weight * fooled}}

        self.discriminator.requires_grad_(True)
        discriminated = (self.domain_loss(source_softmax, 1.0) + self.domain_loss(target_softmax.detach(), 0.0)) / 2
        yield {"discriminator": {"discriminator": discriminated}}

    def domain_loss(self, maps: Tensor, domain: float) -> Tensor:
        """Mean binary cross entropy of the discriminator's patches against ``domain``: 1 source, 0 target."""
        patches = self.discriminator(maps).float()
        return F.binary_cross_entropy_with_logits(patches, torch.full_like(patches, domain))

    @torch.no_grad()
    def estimate_prototypes(self, passes: Passes) -> None:
        """μ_c: over the source images that hold class c, the mean of the images' own means (Eq. 2)."""
        self.prototypes.reset()
        for batch in passes.source():
            output = self.run(batch.images, "source")
            labels = resize_labels(batch.labels, output.features.shape[-2:])
            for features, of_image in zip(output.features.split(1), labels.split(1), strict=True):
                moments = self.prototypes.moments(features, of_image)
                self.prototypes.merge(moments._replace(count=moments.count.clamp(max=1)))
        self.prototypes.all_reduce()

    def contrast(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """L_seg + λ (L_cl^s + L_cl^t), the prototypes moved first (Eq. 3, 8)."""
        output = self.run(source.images, "source")
        labels = self.source_mask(output, source.labels)
        moments = all_reduce(self.prototypes.moments(output.features, labels))
        self.prototypes.merge_exponential(moments, self.config.momentum)
        yield {"network": self.supervised(output.logits, source.labels) | self.attraction(output, labels, "source")}

        output = self.run(target.images, "target")
        yield {"network": self.attraction(output, self.target_mask(output.logits), "target")}

    def source_mask(self, output: Output, labels: Tensor) -> Tensor:
        """The labels at the features' resolution; on request without the pixels that are predicted wrongly."""
        labels = resize_labels(labels, output.features.shape[-2:])
        if self.config.right_only:
            labels = labels.where(output.logits.argmax(1) == labels, IGNORE)
        return labels

    @torch.no_grad()
    def target_mask(self, logits: Tensor) -> Tensor:
        """Predictions above σ_c = min(median confidence of class c in this batch, the cap), 255 elsewhere (Eq. 5)."""
        labels, confidence = pseudo_labels(logits, return_confidence=True)
        # A median cannot be summed over processes: it is taken of the pixels of all of them.
        thresholds = class_thresholds(
            gather(confidence), gather(labels), self.num_classes, rule="median", cap=self.config.confidence_cap
        )
        return pseudo_labels(logits, threshold=thresholds)

    def attraction(self, output: Output, labels: Tensor, domain: str) -> dict[str, Tensor]:
        """λ L_cl of one domain: Eq. 4 or 6, the bound without covariance."""
        loss = contrastive_bound(
            output.features,
            labels,
            self.prototypes.mean,
            temperature=self.config.temperature,
            normalize=True,
        )
        return {f"contrast_{domain}": self.config.weight * loss}
