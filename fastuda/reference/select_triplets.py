"""Partners for the triplets of DRSL+: a source row of the same class and mode, and one of another class."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._random import below, random_bits


def select_triplets(
    source_class: Tensor,
    source_mode: Tensor,
    target_class: Tensor,
    target_mode: Tensor,
    seed: Tensor,
    num_classes: int,
    num_modes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Partners of each target row: uniform in the source rows of its class and mode, and in those of other classes.

    Each is a random place in the source rows sorted by class, mode and number.  Classes and modes (S,) and (T,) int64;
    rows outside 0..K-1 or 0..M-1 take no part; seed (2,) as ``random_bits`` takes it.  Returns positive and negative
    (T,) int64, source rows, and valid (T,) bool: false, with both 0, where one is missing.
    """
    buckets = num_classes * num_modes
    source = _bucket(source_class, source_mode, num_classes, num_modes)
    target = _bucket(target_class, target_mode, num_classes, num_modes)
    order = torch.argsort(source, stable=True)
    count = source.new_zeros(buckets + 1).index_add(0, source, torch.ones_like(source))[:-1]
    ends = count.cumsum(0)
    key, usable = target.clamp(max=buckets - 1), target < buckets
    label = key // num_modes
    counter = torch.arange(len(target), device=target.device)

    positive = (ends - count)[key] + below(random_bits(seed, 0, counter), count[key])
    class_end = ends.view(num_classes, num_modes)[:, -1]
    class_count = count.view(num_classes, num_modes).sum(1)
    others = ends[-1] - class_count[label]
    negative = below(random_bits(seed, 1, counter), others)
    negative = negative + class_count[label] * (negative >= (class_end - class_count)[label])
    valid = usable & (count[key] > 0) & (others > 0)
    if not len(order):
        return torch.zeros_like(target), torch.zeros_like(target), valid
    last = len(order) - 1
    return order[positive.clamp(max=last)].where(valid, 0), order[negative.clamp(max=last)].where(valid, 0), valid


def _bucket(label: Tensor, mode: Tensor, num_classes: int, num_modes: int) -> Tensor:
    """class x M + mode; K x M for rows that take no part."""
    inside = (label >= 0) & (label < num_classes) & (mode >= 0) & (mode < num_modes)
    return (label * num_modes + mode).where(inside, num_classes * num_modes)
