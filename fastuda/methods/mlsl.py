"""MLSL: multi-level self-learning (Iqbal and Ali, WACV 2020): SISC pseudo labels and pseudo weak labels, Eq. 1-7."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.labels import IGNORE
from fastuda.methods import presets
from fastuda.methods.config import Recipe, Schedule
from fastuda.methods.protocol import Losses, Passes
from fastuda.methods.rounds import Rounds
from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.models.output import Output
from fastuda.models.presence import PresenceHead
from fastuda.nn.losses import cross_entropy
from fastuda.ops.aggregate_patches import aggregate_patches
from fastuda.ranks import total

BINS = 1024


class MLSL(Rounds):
    """Source training, then rounds of training on pseudo labels, which are votes of independently predicted patches."""

    section = "mlsl"
    presets = presets.MLSL

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        if self.config.patches < 1 and not self.config.whole_image:
            raise ValueError(f"mlsl.patches must be at least 1 without mlsl.whole_image, not {self.config.patches}")
        self.head = PresenceHead(self.network.feature_channels, num_classes, self.config.head_width)
        self.register_buffer("mean_share", torch.zeros(num_classes))  # h_s
        self.register_image_buffer("presence", (num_classes,), torch.bool)  # the classes that each target image holds

    def optimisers(self, schedule: Schedule, norm: str = "same") -> dict[str, torch.optim.Optimizer]:
        optimisers = super().optimisers(schedule, norm)
        rate = schedule.learning_rate * self.recipe.optimiser.classifier_factor
        optimisers["network"].add_param_group({"params": self.head.parameters(), "lr": rate})
        return optimisers

    @torch.no_grad()
    def label_target(self, passes: Passes, number: int) -> None:
        """SISC pseudo labels of CBST's class-balanced share, and each image's weak labels (Sec. 3.2 and 3.3.1).

        Two passes of the network: the first counts confidences, the second selects labels; no probabilities are stored
        between them.  The patches' positions follow from the image's number and the round, so both passes agree.
        """
        if number == 0:
            self.estimate_shares(passes)
        config = self.config
        histogram = ConfidenceHistogram(self.num_classes, BINS).to(self.mean_share.device)
        self.presence.zero_()
        for batch in passes.target():
            for index, image in zip(batch.index.tolist(), batch.images.split(1), strict=True):
                found = self.composite(image, number, index, None)
                histogram.counts += found.histogram
                self.presence[index] = shares(found.label, self.num_classes)[0] > config.least_share * self.mean_share
        histogram.all_reduce()
        # Each image is one process's: the sum over them holds every image's classes.
        self.presence.copy_(total(self.presence.to(torch.int64)))
        thresholds = self.thresholds(histogram, number).clamp(min=1 / BINS)
        for batch in passes.target():
            for index, image in zip(batch.index.tolist(), batch.images.split(1), strict=True):
                found = self.composite(image, number, index, thresholds)
                labels = found.label.masked_fill(found.confidence < 1, IGNORE)
                passes.save_pseudo_labels(torch.tensor([index]), labels)

    @torch.no_grad()
    def estimate_shares(self, passes: Passes) -> None:
        """h_s: the mean share of the image that a class covers, over the source images that hold it (Eq. 4)."""
        summed = torch.zeros(2, self.num_classes, dtype=torch.float64, device=self.mean_share.device)
        for batch in passes.source():
            share = shares(batch.labels, self.num_classes)
            summed += torch.stack([share.sum(0, dtype=torch.float64), (share > 0).sum(0)])
        summed = total(summed)
        self.mean_share.copy_(summed[0] / summed[1].clamp(min=1))

    def composite(self, image: Tensor, number: int, index: int, thresholds: Tensor | None):
        """The mean softmax of K random patches of one image (1, 3, H, W); divided by ``thresholds`` if they are given.

        Dividing a patch's probabilities by the thresholds before they are averaged is dividing their average.
        """
        config, (height, width) = self.config, image.shape[-2:]
        patch = min(config.patch[0], height), min(config.patch[1], width)
        draw = torch.Generator().manual_seed((number << 32) + index)
        rows, columns = (
            torch.randint(size - side + 1, (config.patches,), generator=draw)
            for size, side in zip((height, width), patch, strict=True)
        )
        offsets = torch.stack([rows, columns], 1)
        cut = [image[..., y : y + patch[0], x : x + patch[1]] for y, x in offsets.tolist()]
        groups = [cut[first : first + config.patch_batch] for first in range(0, len(cut), config.patch_batch)]
        whole = self.predict(image) if config.whole_image else None
        parts = [self.predict(torch.cat(group)) for group in groups]
        scores = (torch.cat(parts) if parts else whole[:0]).unsqueeze(0)
        if thresholds is not None:
            scores = scores.float().softmax(2) / thresholds.view(-1, 1, 1)
            whole = None if whole is None else whole.float().softmax(1) / thresholds.view(-1, 1, 1)
        return aggregate_patches(
            scores,
            offsets.unsqueeze(0).to(image.device),
            (height, width),
            stride=1,
            patch=patch,
            probabilities=thresholds is not None,
            full=whole,
            bins=0 if thresholds is not None else BINS,
        )

    def adapt(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """L_seg + λ L_Fcl of both domains (Eq. 6-7)."""
        output = self.run(source.images, "source")
        shown = shares(source.labels, self.num_classes) > 0
        yield {"network": self.supervised(output.logits, source.labels) | self.presence_term(output, shown, "source")}

        output = self.run(target.images, "target")
        losses = {"pseudo_ce": cross_entropy(output.logits, target.labels)}
        yield {"network": losses | self.presence_term(output, self.presence[target.index], "target")}

    def presence_term(self, output: Output, shown: Tensor, domain: str) -> dict[str, Tensor]:
        """λ_Fcl times the binary cross entropy of the image's classes (Eq. 5)."""
        if not self.config.presence:
            return {}
        logits = self.head(output.features).float()
        loss = F.binary_cross_entropy_with_logits(logits, shown.to(logits))
        return {f"presence_{domain}": self.config.presence * loss}


def shares(labels: Tensor, num_classes: int) -> Tensor:
    """Share of its image that each class covers, float32 (N, K), of labels (N, H, W); ignored pixels count as area."""
    label = labels.flatten(1).long()
    label = label.where((label >= 0) & (label < num_classes), num_classes)
    counts = label.new_zeros(len(label), num_classes + 1).scatter_add_(1, label, torch.ones_like(label))
    return counts[:, :-1] / label.shape[1]
