"""Running statistics of each class's pixel features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fastuda.ops.class_moments import Moments, class_moments


class ClassStatistics(nn.Module):
    """Count, mean and covariance of each class's features, gathered batch by batch (SDCA Eq. 3-4).

    Buffers (so the state dict holds them): ``count`` int64 (K,), ``mean`` float32 (K, A) and ``m2`` float32, the sum of
    squared deviations, (K, A) for "diag" or (K, A, A) for "full".  Classes that were never seen hold zeros.

    Raises ValueError for sizes below 1 or an unknown kind.
    """

    def __init__(self, num_classes: int, channels: int, covariance: Literal["diag", "full"] = "diag") -> None:
        super().__init__()
        if num_classes < 1 or channels < 1:
            raise ValueError(f"num_classes and channels must be at least 1, got {num_classes} and {channels}")
        if covariance not in ("diag", "full"):
            raise ValueError(f'covariance must be "diag" or "full", got {covariance!r}')
        self.num_classes = num_classes
        self.kind = covariance
        shape = (num_classes, channels) if covariance == "diag" else (num_classes, channels, channels)
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(num_classes, channels))
        self.register_buffer("m2", torch.zeros(shape))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Merge the pixels of a batch: features (N, A, H, W) or (P, A), labels at their resolution, 255 = ignore.

        The result is that of one pass over all pixels so far, up to rounding.  No gradient, no host synchronisation.
        Raises ValueError for a number of channels other than A or what ``class_moments`` refuses.
        """
        if features.dim() in (2, 4) and features.shape[1] != self.mean.shape[1]:
            raise ValueError(f"features have {features.shape[1]} channels, the statistics {self.mean.shape[1]}")
        self.merge(class_moments(features, labels, self.num_classes, covariance=self.kind))

    @torch.no_grad()
    def merge(self, moments: Moments) -> None:
        """Merge the moments of other pixels (Chan et al. 1979), a batch's or another rank's.

        mean <- (n mean + m mean') / (n + m),  m2 <- m2 + m2' + n m / (n + m) d d^T,  d = mean' - mean,  n <- n + m.
        """
        count = self.count + moments.count
        share = moments.count / count.clamp(min=1)
        between = self.count * share
        step = moments.mean.to(self.mean.dtype) - self.mean
        self.m2 += moments.m2
        if self.kind == "diag":
            self.m2.addcmul_(between.unsqueeze(1) * step, step)
        else:
            for m2, weight, row in zip(self.m2, between, step, strict=True):
                m2.addr_(weight * row, row)
        # A new tensor, not in place: a loss that still waits for its backward keeps the mean it was computed with.
        self.mean = torch.lerp(self.mean, moments.mean.to(self.mean.dtype), share.unsqueeze(1))
        self.count = count

    @property
    def covariance(self) -> Tensor:
        """Population covariance, m2 / count: a new (K, A) or (K, A, A) tensor; zeros for classes never seen."""
        count = self.count.clamp(min=1).to(self.m2.dtype)
        return self.m2 / count.view(-1, *[1] * (self.m2.dim() - 1))

    @torch.no_grad()
    def reset(self) -> None:
        """Forget everything."""
        for name in ("count", "mean", "m2"):
            setattr(self, name, torch.zeros_like(getattr(self, name)))
