"""How certain a network is: the mean entropy of its softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastuda.ops._checks import LABEL_DTYPES


class SelfEntropy(nn.Module):
    """Mean of -sum_c p_c log p_c / log K over pixels, streamed, 0 for certain and 1 for uniform predictions.

    Buffers: ``total`` float64 () and ``count`` int64 (); ranks merge by adding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor | None = None) -> None:
        """Add the pixels of logits (N, K, h, w), K > 1, or of those the ones that ``labels`` (N, h, w) do not ignore.

        Pixels whose label is 255 or outside 0..K-1 are left out: with pseudo labels, those without one.  No
        host synchronisation.  Raises ValueError for shapes that do not fit.
        """
        if logits.dim() != 4 or logits.shape[1] < 2:
            raise ValueError(f"logits must be (N, K, h, w) with K > 1, got {tuple(logits.shape)}")
        log = logits.float().log_softmax(1)
        # A class of probability 0 adds 0 log 0 = 0.
        entropy = -(log.exp() * log.clamp(min=torch.finfo(torch.float32).min)).sum(1) / math.log(logits.shape[1])
        if labels is None:
            valid = torch.ones_like(entropy, dtype=torch.bool)
        elif labels.shape != entropy.shape or labels.dtype not in LABEL_DTYPES:
            raise ValueError(
                f"labels must be integers of shape {tuple(entropy.shape)}, got {labels.dtype} {tuple(labels.shape)}"
            )
        else:
            valid = (labels >= 0) & (labels < logits.shape[1])
        self.total += entropy.where(valid, 0.0).sum(dtype=torch.float64)
        self.count += valid.sum()

    def compute(self) -> Tensor:
        """The mean so far, float64; NaN without a pixel."""
        return self.total / self.count
