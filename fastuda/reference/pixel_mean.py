"""Means and sums of losses over the pixels whose label counts."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._pixels import usable


def pixel_mean(
    losses: Tensor, others: Tensor | None, labels: Tensor, num_classes: int, ignore_index: int, mean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of ``losses`` over the pixels with a label in 0..K-1 that is not ``ignore_index``, and how many they are.

    losses: float32 or float64 of the shape of labels; others: None, or a second loss of the same pixels.
    mean: divide the sums by the number of pixels; exactly 0 without any.
    Returns the result of losses and that of others (empty without them), both in their dtype and summed in float64, and
    the number of pixels, int64, which under ``mean`` is at least 1: what the sums were divided by.
    """
    valid, _ = usable(labels, num_classes, ignore_index)
    count = valid.sum()
    divisor = count.clamp(min=1) if mean else count

    def reduced(values: Tensor) -> Tensor:
        total = values.where(valid, 0.0).sum(dtype=torch.float64)
        return (total / divisor if mean else total).to(values.dtype)

    return reduced(losses), losses.new_empty(0) if others is None else reduced(others), divisor
