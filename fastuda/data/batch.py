"""The one structure that travels from the data to a method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of one domain.

    images: (N, 3, H, W) uint8 RGB as loaded, or float32 standardised after ``Photometric``.
    labels: (N, H, W) uint8 class indices 0..K-1 with 255 = ignore, or None for an unlabelled domain.
    index:  (N,) int64, position of each sample in its data set.
    """

    images: Tensor
    labels: Tensor | None
    index: Tensor

    def to(self, device: torch.device | str) -> Batch:
        move = {"device": device, "non_blocking": True}
        labels = None if self.labels is None else self.labels.to(**move)
        return replace(self, images=self.images.to(**move), labels=labels, index=self.index.to(**move))
