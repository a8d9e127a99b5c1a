"""Running statistics of each class's pixel features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, distributed, nn

from fastuda.ops.class_moments import Moments, class_moments


class ClassStatistics(nn.Module):
    """Count, mean and covariance of each class's features, gathered batch by batch (SDCA Eq. 3-4).

    Buffers (so the state dict holds them): ``count`` int64 (K,), ``mean`` float32 (K, A) and ``m2`` float32, the sum of
    squared deviations, (K, A) for "diag" or (K, A, A) for "full"; None keeps no m2.  Classes that were never seen hold
    zeros.  ``.double()`` makes them float64, ``.half()`` leaves them as they are.

    Streaming: whatever the number of pixels, an update holds one more set of the buffers (the batch's moments), two
    blocks (K, A) and what ``class_moments`` needs for the batch.

    Raises ValueError for sizes below 1 or an unknown kind.
    """

    def __init__(self, num_classes: int, channels: int, covariance: Literal["diag", "full"] | None = "diag") -> None:
        super().__init__()
        if num_classes < 1 or channels < 1:
            raise ValueError(f"num_classes and channels must be at least 1, got {num_classes} and {channels}")
        if covariance not in ("diag", "full", None):
            raise ValueError(f'covariance must be "diag", "full" or None, got {covariance!r}')
        self.num_classes = num_classes
        self.kind = covariance
        shape = (num_classes, channels) if covariance == "diag" else (num_classes, channels, channels)
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(num_classes, channels))
        self.register_buffer("m2", None if covariance is None else torch.zeros(shape))

    def _apply(self, fn, recurse: bool = True) -> ClassStatistics:
        """Moves and converts the buffers with the model, but not to 16 bits, which cannot hold sums over pixels."""
        precise = {name: buffer.dtype for name, buffer in self.named_buffers() if buffer.is_floating_point()}
        kept = {name: getattr(self, name) for name in precise}
        super()._apply(fn, recurse)
        for name, dtype in precise.items():
            converted = getattr(self, name)
            if converted.dtype.itemsize < 4:
                setattr(self, name, kept[name].to(converted.device, dtype))
        return self

    @torch.no_grad()
    def update(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        downsample: Literal["nearest", "ratio"] | None = None,
        min_ratio: float = 0.75,
    ) -> None:
        """Merge the pixels of a batch: features (N, A, H, W) or (P, A), 255 = ignore.

        labels: at the features' resolution, or larger with ``downsample``, as ``class_moments`` takes them.
        The result is that of one pass over all pixels so far, up to rounding.  No gradient, no host synchronisation.
        Raises ValueError for a number of channels other than A or what ``class_moments`` refuses.
        """
        self.merge(self.moments(features, labels, downsample=downsample, min_ratio=min_ratio))

    @torch.no_grad()
    def moments(self, features: Tensor, labels: Tensor, **options) -> Moments:
        """The moments of a batch, to be merged later, for example after ``all_reduce(moments)`` over the ranks."""
        if features.dim() in (2, 4) and features.shape[1] != self.mean.shape[1]:
            raise ValueError(f"features have {features.shape[1]} channels, the statistics {self.mean.shape[1]}")
        return class_moments(features, labels, self.num_classes, covariance=self.kind, **options)

    @torch.no_grad()
    def merge(self, moments: Moments) -> None:
        """Merge the moments of other pixels (Chan et al. 1979), a batch's or another rank's.

        mean <- (n mean + m mean') / (n + m),  m2 <- m2 + m2' + n m / (n + m) d d^T,  d = mean' - mean,  n <- n + m.
        With counts of at most 1 it averages means instead of pixels: SPCL starts from the mean over images of the
        per-image means, ``merge(moments._replace(count=moments.count.clamp(max=1)))`` image by image.
        """
        count = self.count + moments.count
        share = moments.count / count.clamp(min=1)
        if self.kind is not None:
            between = self.count * share
            step = moments.mean.to(self.mean.dtype) - self.mean
            self.m2 += moments.m2.to(self.m2.dtype)
            _add_squares(self.m2, between, step)
        # Not in place: a loss that was computed with the old mean may still need it in its backward pass.
        self.mean = torch.lerp(self.mean, moments.mean.to(self.mean.dtype), share.to(self.mean.dtype).unsqueeze(1))
        self.count = count

    @torch.no_grad()
    def merge_exponential(self, moments: Moments, momentum: float = 0.1) -> None:
        """mean <- momentum mean + (1 - momentum) mean' (SPCL) for the classes that ``moments`` holds; n <- n + m.

        Absent classes stay as they are; a class that was never seen before takes mean' itself.
        """
        if self.kind is not None:
            raise ValueError(
                f'exponential updates need covariance=None: "{self.kind}" sums do not follow a moving mean'
            )
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be between 0 and 1, got {momentum}")
        weight = torch.where(self.count > 0, 1.0 - momentum, 1.0) * (moments.count > 0)
        self.mean = torch.lerp(self.mean, moments.mean.to(self.mean.dtype), weight.to(self.mean.dtype).unsqueeze(1))
        self.count = self.count + moments.count

    @torch.no_grad()
    def all_reduce(self, group: distributed.ProcessGroup | None = None) -> None:
        """Turn what each rank gathered from its own pixels into the statistics of all ranks' pixels, on every rank.

        Call it once, after a pass over the data: a second call would count every pixel again.  To stay equal on all
        ranks while training, merge ``all_reduce(statistics.moments(features, labels))`` at each step instead.
        """
        moments = all_reduce(Moments(self.count, self.mean, self.m2), group)
        self.count, self.mean, self.m2 = moments.count, moments.mean.to(self.mean.dtype), moments.m2

    @property
    def covariance(self) -> Tensor | None:
        """Population covariance, m2 / count: a new (K, A) or (K, A, A) tensor; zeros for classes never seen."""
        if self.m2 is None:
            return None
        count = self.count.clamp(min=1).to(self.m2.dtype)
        return self.m2 / count.view(-1, *[1] * (self.m2.dim() - 1))

    @torch.no_grad()
    def reset(self) -> None:
        """Forget everything."""
        for name, buffer in self.named_buffers():
            setattr(self, name, torch.zeros_like(buffer))


@torch.no_grad()
def all_reduce(moments: Moments, group: distributed.ProcessGroup | None = None) -> Moments:
    """The moments of all ranks' pixels together, the same on every rank (Chan et al. 1979, for many parts at once).

        n = sum n_r,  mean = sum n_r mean_r / n,  m2 = sum (m2_r + n_r d_r d_r^T),  d_r = mean_r - mean

    Two all-reduces of sums: n and n mean in float64, then m2, in float64 where it is (K, A) and in its own dtype where
    it is (K, A, A).  Returns new tensors of the same dtypes; the moments as they are where no process group is running.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return moments
    count, mean, m2 = moments
    n = count.double().unsqueeze(1)  # exact up to 2^53 pixels
    sums = torch.cat([n, n * mean], 1)
    distributed.all_reduce(sums, group=group)
    total = sums[:, :1]
    merged = sums[:, 1:] / total.clamp(min=1)
    if m2 is not None:
        reduced = m2.to(torch.float64 if m2.dim() == 2 else m2.dtype, copy=True)
        _add_squares(reduced, count, (mean - merged).to(reduced.dtype))
        distributed.all_reduce(reduced, group=group)
        m2 = reduced.to(m2.dtype)
    return Moments(total.squeeze(1).round().long(), merged.to(mean.dtype), m2)


def _add_squares(m2: Tensor, weight: Tensor, step: Tensor) -> None:
    """m2 += weight step step^T for each class, or its diagonal."""
    weight = weight.to(step.dtype)
    if m2.dim() == 2:
        m2.addcmul_(weight.unsqueeze(1) * step, step)
        return
    for target, factor, row in zip(m2, weight, step, strict=True):
        target.addr_(factor * row, row)
