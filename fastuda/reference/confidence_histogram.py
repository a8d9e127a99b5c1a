"""Histograms of the largest probability of upsampled scores, by predicted class."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._upsample import upsampled
from fastuda.reference.pseudo_labels import best_class


def confidence_histogram(
    scores: Tensor, height: int, width: int, bins: int, probabilities: bool, align_corners: bool
) -> Tensor:
    """Counts (K, bins) int64 of the pixels of (height, width): bin b holds confidences in [b / bins, (b + 1) / bins).

    The last bin also holds those above; NaN is left out.  Class and confidence as of ``pseudo_labels``.
    """
    counts = torch.zeros(scores.shape[1], bins, dtype=torch.int64, device=scores.device)
    with torch.autocast(scores.device.type, enabled=False):
        for _, up in upsampled(scores, (height, width), align_corners):
            counts += count(*best_class(up, probabilities), *counts.shape)
    return counts


def count(confidence: Tensor, label: Tensor, num_classes: int, bins: int) -> Tensor:
    """Counts (K, bins) of confidences of labels 0..K-1, without those that are NaN."""
    place = (confidence * bins).nan_to_num().clamp(0, bins - 1).long()
    index = (label * bins + place).where(~confidence.isnan(), num_classes * bins).reshape(-1)
    total = index.new_zeros(num_classes * bins + 1)
    return total.scatter_add_(0, index, index.new_ones(1).expand_as(index))[:-1].view(num_classes, bins)
