"""Counts of (truth, prediction) pairs."""

from __future__ import annotations

from torch import Tensor


def confusion_matrix(prediction: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """M (K, K) int64: M_ij pixels of class i were predicted as j; left out where either is outside 0..K-1.

    prediction, truth: of one shape, any integer type.  No host synchronisation.  Memory: three int64 numbers a pixel.
    """
    prediction, truth = prediction.reshape(-1).long(), truth.reshape(-1).long()
    valid = (truth >= 0) & (truth < num_classes) & (prediction >= 0) & (prediction < num_classes)
    index = (truth * num_classes + prediction).where(valid, num_classes**2)
    # Integer adds are exact in any order; bincount would wait for the device to learn its largest bin.
    counts = index.new_zeros(num_classes**2 + 1).scatter_add_(0, index, index.new_ones(1).expand_as(index))
    return counts[:-1].view(num_classes, num_classes).clone()
