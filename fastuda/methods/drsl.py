"""DRSL and DRSL+: distribution regularised self-supervised learning (Iqbal et al., 2022), Eq. 1-10."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.labels import IGNORE
from fastuda.methods import presets
from fastuda.methods.config import Recipe, Schedule
from fastuda.methods.protocol import Losses, Passes
from fastuda.methods.rounds import Rounds
from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.models.deeplab import ASPP
from fastuda.nn.fourier import swap_amplitude
from fastuda.nn.losses import cross_entropy, resize_labels
from fastuda.ops.class_balanced_sample import class_balanced_sample, sample_per_class
from fastuda.ops.mode_losses import ModeLosses, mode_losses
from fastuda.ops.pseudo_labels import select_balanced
from fastuda.ops.select_triplets import select_triplets
from fastuda.ops.triplet_consistency_loss import triplet_consistency_loss
from fastuda.ranks import gather, share, world


class Embeddings(NamedTuple):
    """Sampled pixels: rows (P, d) and their labels (P,), 255 where an image has fewer pixels of a class."""

    rows: Tensor
    labels: Tensor


class DRSL(Rounds):
    """Source training with several modes a class, then rounds of class-balanced pseudo labels and mode alignment."""

    section = "drsl"
    presets = presets.DRSL

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        channels, modes = self.config.channels, self.config.modes
        self.embedding = ASPP(self.network.feature_channels, channels)
        self.modes = nn.Parameter(torch.randn(num_classes, modes, channels) * channels**-0.5)

    def optimisers(self, schedule: Schedule, norm: str = "same") -> dict[str, torch.optim.Optimizer]:
        """The network's, and the embedding block and the modes at the classifier's learning rate."""
        optimisers = super().optimisers(schedule, norm)
        rate = schedule.learning_rate * self.recipe.optimiser.classifier_factor
        optimisers["network"].add_param_group({"params": self.embedding.parameters(), "lr": rate})
        # Modes are positions in the embedding, which weight decay would pull towards the origin.
        optimisers["network"].add_param_group({"params": [self.modes], "lr": rate, "weight_decay": 0.0})
        return optimisers

    @torch.no_grad()
    def label_target(self, passes: Passes, number: int) -> None:
        """Label the share p of each class with the largest quotients p_c / k_c (CBST, which Sec. 3.1 builds on)."""
        config = self.config
        histogram = ConfidenceHistogram(self.num_classes).to(self.device)
        for batch in passes.target():
            histogram.update(self.predict_augmented(batch.images, config), size=batch.images.shape[-2:])
        histogram.all_reduce()
        thresholds = self.thresholds(histogram, number)
        for batch in passes.target():
            labels = select_balanced(
                self.predict_augmented(batch.images, config), thresholds, size=batch.images.shape[-2:]
            )
            passes.save_pseudo_labels(batch.index, labels)

    def warm_up(self, source: Batch, target: None) -> Iterator[Losses]:
        """L_seg + β L_emb + η L_cls on the source (Eq. 8)."""
        output = self.run(source.images, "source")
        losses, _ = self.mode_terms(self.sample(output.features, source.labels), "source")
        yield {"network": self.supervised(output.logits, source.labels) | losses}

    def adapt(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """L_seg of both domains + β L_ma + η (L_cls^s + L_cls^t) (Eq. 9)."""
        yield {"network": self.source_terms(source, target)[0]}
        yield {"network": self.target_terms(target)[0]}

    def source_terms(self, source: Batch, target: Batch) -> tuple[dict[str, Tensor], Embeddings, ModeLosses]:
        output = self.run(self.styled(source.images, target.images), "source")
        embeddings = self.sample(output.features, source.labels)
        losses, modes = self.mode_terms(embeddings, "source")
        return self.supervised(output.logits, source.labels) | losses, embeddings, modes

    def target_terms(self, target: Batch) -> tuple[dict[str, Tensor], Embeddings, ModeLosses]:
        output = self.run(target.images, "target")
        embeddings = self.sample(output.features, target.labels)
        losses, modes = self.mode_terms(embeddings, "target")
        return {"pseudo_ce": cross_entropy(output.logits, target.labels)} | losses, embeddings, modes

    def styled(self, source: Tensor, target: Tensor) -> Tensor:
        """Source images, a share of them with the target's low frequencies, as translated images beside originals."""
        if not self.config.style:
            return source
        partners = torch.arange(len(source), device=source.device) % len(target)
        styled = swap_amplitude(source, target[partners], self.config.style_beta)
        chosen = share(torch.rand(len(source) * world(), device=source.device)) < self.config.style
        return torch.where(chosen.view(-1, 1, 1, 1), styled, source)

    def sample(self, features: Tensor, labels: Tensor) -> Embeddings:
        """At most T_e embeddings a class and image, of pixels at half the labels' size (Sec. 3.2-3.3).

        The paper upsamples all embeddings to that size; here only those that are drawn are interpolated.
        """
        height, width = (max(size // 2, 1) for size in labels.shape[-2:])
        half = resize_labels(labels, (height, width))
        # Drawn for the images of all processes together, so that the number of processes does not change the draws.
        pixels = share(sample_per_class(gather(half), self.config.per_class, self.num_classes))
        drawn = pixels.clamp(min=0).flatten(1)
        x = (drawn % width) * (2 / max(width - 1, 1)) - 1
        y = (drawn // width) * (2 / max(height - 1, 1)) - 1
        embedded = self.embedding(features)
        with torch.autocast(features.device.type, enabled=False):
            # The convolutions run in the network's precision; interpolation and distances in float32.
            embedded = embedded.float()
            points = torch.stack([x, y], -1).unsqueeze(2).to(embedded.dtype)
            rows = F.grid_sample(embedded, points, mode="bilinear", padding_mode="border", align_corners=True)
        classes = torch.arange(self.num_classes, device=pixels.device, dtype=labels.dtype)
        chosen = torch.where(pixels >= 0, classes.view(1, -1, 1), IGNORE)
        return Embeddings(rows.squeeze(3).transpose(1, 2).flatten(0, 1), chosen.flatten().to(labels.dtype))

    def mode_terms(self, embeddings: Embeddings, domain: str) -> tuple[dict[str, Tensor], ModeLosses]:
        """β L_emb + η L_cls of one domain (Eq. 4, 5, 7)."""
        config = self.config
        found = mode_losses(
            *embeddings, self.modes, sigma2=config.sigma2, margin=config.margin, square=config.square_distance
        )
        losses = {
            f"modes_{domain}": config.embedding * found.triplet,
            f"mode_classes_{domain}": config.classification * found.cross_entropy,
        }
        return losses, found


class DRSLPlus(DRSL):
    """DRSL with cross-domain mode consistency: γ L_mcl beside its losses (Eq. 10)."""

    def adapt(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """Both domains at once: the consistency loss ties their embeddings."""
        losses, of_source, source_modes = self.source_terms(source, target)
        target_losses, of_target, target_modes = self.target_terms(target)
        loss = self.consistency(of_source, source_modes.own_mode, of_target, target_modes.own_mode)
        yield {"network": losses | target_losses | {"consistency": self.config.consistency * loss}}

    def consistency(self, source: Embeddings, source_mode: Tensor, target: Embeddings, target_mode: Tensor) -> Tensor:
        """L_mcl over N_e random target embeddings (Eq. 6), with partners from the images of all processes."""
        config = self.config
        source, target = (Embeddings(*map(gather, of_domain)) for of_domain in (source, target))
        source_mode, target_mode = gather(source_mode), gather(target_mode)
        drawn = class_balanced_sample(target.labels.unsqueeze(0), config.triplets, self.num_classes).squeeze(0)
        rows = drawn.clamp(min=0)
        labels = torch.where(drawn >= 0, target.labels[rows], IGNORE).to(target.labels.dtype)
        partners = select_triplets(
            source.labels, source_mode, labels, target_mode[rows],
            num_classes=self.num_classes, num_modes=config.modes,
        )  # fmt: skip
        return triplet_consistency_loss(target.rows[rows], source.rows, *partners, margin=config.margin)
