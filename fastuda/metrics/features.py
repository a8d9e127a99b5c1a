"""How well pixel features separate the classes: class center distance and pixel-wise discrimination distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.ops import _checks
from fastuda.ops.class_moments import Moments

_CHUNK = 1 << 16  # pixels compared with the centres at once


def class_center_distance(moments: Moments) -> Tensor:
    """CCD of each class, float64 (K,): spread within it over its centre's distances to the others (SPCL Eq. 10).

        CCD(c) = 1/(C-1) sum_{k != c} mean_{x in c} |x - mu_c|^2 / |mu_c - mu_k|^2

    moments: count, mean and m2 of ``class_moments`` with covariance "diag" or "full", or of ``ClassStatistics``, over
    all pixels.  Low is good.  Classes without a pixel count neither as c nor as k: NaN for them, and for one that is
    alone; infinite where two centres coincide.  Raises ValueError for moments without m2.
    """
    count, mean, m2 = moments
    if m2 is None:
        raise ValueError('moments must hold m2: gather them with covariance="diag" or "full"')
    mean, m2 = mean.double(), m2.double()
    total = m2.sum(1) if m2.dim() == 2 else m2.diagonal(dim1=1, dim2=2).sum(1)
    spread = total / count
    apart = (mean.unsqueeze(1) - mean).square().sum(2)
    pairs = (count > 0) & (count > 0).unsqueeze(1) & ~torch.eye(len(count), dtype=torch.bool, device=count.device)
    ratios = (spread.unsqueeze(1) / apart).where(pairs, 0.0)
    return ratios.sum(1) / pairs.sum(1).where(count > 0, 0)


class PixelDiscrimination(nn.Module):
    """PDD of each class, streamed: cosine to the own centre over the sum of those to the others (SDCA Eq. 25).

        PDD(k) = mean_{x in k} cos(x, mu_k) / sum_{i != k} cos(x, mu_i)

    mean: (K, A) class centres, as a first pass with ``class_moments`` or ``ClassStatistics`` finds them.  High is good.
    Buffers: ``total`` float64 (K,) and ``count`` int64 (K,); ranks merge by adding.  The sum in the denominator
    can vanish for features that are not positive, unlike those after a ReLU.
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        if mean.dim() != 2 or not mean.is_floating_point():
            raise ValueError(f"mean must be floating (K, A), got {mean.dtype} {tuple(mean.shape)}")
        self.register_buffer("centres", F.normalize(mean.detach().float(), dim=1))
        self.register_buffer("total", torch.zeros(len(mean), dtype=torch.float64, device=mean.device))
        self.register_buffer("count", torch.zeros(len(mean), dtype=torch.int64, device=mean.device))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add pixels: features (N, A, H, W) or (P, A), labels at their resolution; those outside 0..K-1 are left out.

        No host synchronisation.  Memory: 65,536 pixels x (A + K) numbers.  Raises ValueError for what does not fit.
        """
        _checks.pixels(features, labels)
        if features.shape[1] != self.centres.shape[1]:
            raise ValueError(f"features have {features.shape[1]} channels, the centres {self.centres.shape[1]}")
        classes = len(self.centres)
        rows = features.movedim(1, -1).flatten(0, -2)
        for part, label in zip(rows.split(_CHUNK), labels.flatten().split(_CHUNK), strict=True):
            label = label.long()
            valid = (label >= 0) & (label < classes)
            index = label.where(valid, 0)
            cosines = (F.normalize(part.float(), dim=1) @ self.centres.T).double()
            to_centre = cosines.gather(1, index.unsqueeze(1)).squeeze(1)
            ratio = (to_centre / (cosines.sum(1) - to_centre)).where(valid, 0.0)
            one_hot = F.one_hot(index, classes).to(torch.float64) * valid.unsqueeze(1)
            self.total += ratio @ one_hot
            self.count += one_hot.sum(0).long()

    def compute(self) -> Tensor:
        """PDD so far, float64 (K,); NaN for classes without a pixel."""
        return self.total / self.count
