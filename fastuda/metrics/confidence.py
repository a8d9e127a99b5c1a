"""Per-class distribution of prediction confidence, in kilobytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastuda.ops.class_thresholds import Rule, check_rule
from fastuda.ops.confidence_histogram import confidence_histogram
from fastuda.ranks import total


class ConfidenceHistogram(nn.Module):
    """Histogram of the largest softmax probability over the pixels predicted as each class.

    Buffer ``counts`` int64 (K, bins): bin b holds confidences in [b / bins, (b + 1) / bins), the last one also 1.
    Histograms of other images or ranks merge by adding ``counts``.  Raises ValueError for sizes below 1.
    """

    def __init__(self, num_classes: int, bins: int = 1024) -> None:
        super().__init__()
        if num_classes < 1 or bins < 1:
            raise ValueError(f"num_classes and bins must be at least 1, got {num_classes} and {bins}")
        self.num_classes, self.bins = num_classes, bins
        self.register_buffer("counts", torch.zeros(num_classes, bins, dtype=torch.int64))

    @torch.no_grad()
    def update(
        self,
        logits: Tensor,
        *,
        size: tuple[int, int] | None = None,
        probabilities: bool = False,
        align_corners: bool = True,
    ) -> None:
        """Count the pixels of logits (N, K, h, w), or probabilities, upsampled to ``size`` (by default not) on the way.

        See ``fastuda.ops.confidence_histogram``.  Raises ValueError for another number of classes, too.
        """
        if logits.dim() != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f"logits must be (N, {self.num_classes}, H, W), got shape {tuple(logits.shape)}")
        self.counts += confidence_histogram(
            logits, size=size, bins=self.bins, probabilities=probabilities, align_corners=align_corners
        )

    @torch.no_grad()
    def add(self, confidence: Tensor, label: Tensor) -> None:
        """Count confidences in 0..1 of predicted labels, of one shape.

        Labels outside 0..K-1 and confidences that are NaN are left out.  No host synchronisation.
        """
        if confidence.shape != label.shape:
            raise ValueError(
                f"confidence and label must have one shape, got {tuple(confidence.shape)} and {tuple(label.shape)}"
            )
        confidence, label = confidence.reshape(-1), label.reshape(-1).long()
        valid = (label >= 0) & (label < self.num_classes) & ~confidence.isnan()
        place = (confidence.nan_to_num().clamp(0, 1) * self.bins).long().clamp(max=self.bins - 1)
        index = (label * self.bins + place).where(valid, self.counts.numel())
        total = index.new_zeros(self.counts.numel() + 1).scatter_add_(0, index, index.new_ones(1).expand_as(index))
        self.counts += total[:-1].view_as(self.counts)

    def merge(self, other: ConfidenceHistogram) -> None:
        """Add the counts of another histogram of the same shape."""
        if other.counts.shape != self.counts.shape:
            raise ValueError(f"cannot merge {tuple(other.counts.shape)} counts into {tuple(self.counts.shape)}")
        self.counts += other.counts.to(self.counts.device)

    def all_reduce(self) -> None:
        """Add what the other processes of the run have counted."""
        self.counts = total(self.counts)

    def pooled(self) -> ConfidenceHistogram:
        """The histogram of all classes' pixels together, (1, bins), for one threshold of all classes."""
        pooled = ConfidenceHistogram(1, self.bins)
        pooled.counts = self.counts.sum(0, keepdim=True)
        return pooled

    def quantile(self, q: float) -> Tensor:
        """The q-quantile (0 <= q <= 1) of each class's confidence, float32 (K,); 1.0 for classes never predicted.

        It is the lower edge of the bin that holds the ceil(q n)-th smallest confidence: at most that confidence and
        no more than 1/bins below it.  So at least a share 1 - q of the class's pixels has confidence >= quantile.
        No host synchronisation.  Raises ValueError for q outside 0..1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be between 0 and 1, got {q}")
        return self._lower_edge((self.counts.sum(1).double() * q).ceil().long().clamp(min=1))

    def thresholds(self, *, rule: Rule = "median", portion: float = 0.5, cap: float | None = None) -> Tensor:
        """The thresholds of ``fastuda.ops.class_thresholds``, never above and no more than 1/bins below the exact ones.

        They are the lower edges of the bins that hold those: float32 (K,), 1.0 (or the cap) for classes never
        predicted.  No host synchronisation.  Raises ValueError for another rule, or a portion outside 0..1.
        """
        check_rule(rule, portion)
        if rule == "median":
            edge = self.quantile(0.5)
        else:
            total = self.counts.sum(1)
            edge = self._lower_edge(total + 1 - (total.double() * portion).floor().long().clamp(min=1))
        return edge if cap is None else edge.clamp(max=cap)

    def _lower_edge(self, rank: Tensor) -> Tensor:
        """Of the bin that holds each class's ``rank``-th smallest confidence, (K,) from 1."""
        below = self.counts.cumsum(1)
        place = (below < rank.unsqueeze(1)).sum(1)
        return torch.where(below[:, -1] > 0, place / self.bins, 1.0).float()
