"""Stored soft labels corrected by the class scores of a second head (CPSL Eq. 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.reference._pixels import compute_dtype
from fastuda.reference._upsample import upsampled


def prototype_rectify(
    scores: Tensor, soft: Tensor, height: int, width: int, temperature: float, align_corners: bool
) -> Tensor:
    """argmax_c softmax(up(scores) / T)_c up(soft)_c as uint8 (N, height, width), the lowest class of equals.

    scores (N, K, h, w); soft (N, K, h', w'), probabilities.  As sums of logarithms, so that no class with a probability
    falls to 0 beside one without.  255 where no class has any, and where NaN.
    """
    dtype, size = compute_dtype(scores), (height, width)
    label = scores.new_empty((scores.shape[0], *size), dtype=torch.uint8)
    # Blocks of equal rows: the number of rows depends on N, K and the width only.
    blocks = zip(upsampled(scores, size, align_corners), upsampled(soft.to(dtype), size, align_corners), strict=True)
    with torch.autocast(scores.device.type, enabled=False):
        for (rows, logits), (_, share) in blocks:
            value, place = (logits / temperature + share.clamp(min=0).log()).max(1)
            label[:, rows] = place.where(value > -torch.inf, IGNORE).to(torch.uint8)  # NaN is not above
    return label
