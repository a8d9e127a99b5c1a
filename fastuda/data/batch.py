"""A batch of one domain, as the data give it to a method."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of one domain.

    images: (N, 3, H, W) uint8 RGB as loaded, or float32 standardised after ``Photometric``.
    labels: (N, H, W) uint8 class indices 0..K-1 with 255 = ignore, or None for an unlabelled domain.
    index:  (N,) int64, position of each sample in its data set.
    window: (N, 4) float32, which part of the whole image each one is (``fastuda.data.augment.View``); None: all of it.
    scores: (N, K, h, w) float16 class scores of the whole images, which a method saved earlier, or None.
    """

    images: Tensor
    labels: Tensor | None
    index: Tensor
    window: Tensor | None = None
    scores: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: part.to(device, non_blocking=True) for name, part in parts.items() if part is not None}
        return replace(self, **moved)
