"""Thresholds of confidence by class, exact."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._pixels import usable


def class_thresholds(
    confidence: Tensor, label: Tensor, num_classes: int, portion: float, from_top: bool, ignore_index: int
) -> Tensor:
    """Of class k with n_k confidences, the max(1, floor(portion n_k))-th largest, or the max(1, ceil(portion n_k))-th
    smallest; 1 without any.  float32 (K,).

    Confidences (float64 ones rounded to float32) that are NaN, and labels outside 0..K-1, are left out; the rank is
    taken in float64.  No host synchronisation.  Memory: a sort of the pixels, about 60 bytes each.
    """
    value = confidence.reshape(-1).float()
    valid, index = usable(label.reshape(-1), num_classes, ignore_index)
    index = index.where(valid & ~value.isnan(), num_classes)
    value, order = value.nan_to_num(0.0, torch.inf, -torch.inf).sort()
    index, by_class = index[order].sort(stable=True)
    value = torch.nn.functional.pad(value[by_class], (0, 1), value=1.0)
    ends = torch.searchsorted(index, torch.arange(num_classes + 1, device=index.device))
    start, sizes = ends[:-1], ends.diff()
    share = portion * sizes.double()
    if from_top:
        place = sizes - share.floor().long().clamp(min=1)
    else:
        place = share.ceil().long().clamp(min=1) - 1
    return value[(start + place).clamp(min=0)].where(sizes > 0, 1.0)
