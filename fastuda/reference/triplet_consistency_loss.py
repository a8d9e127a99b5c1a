"""Triplet loss between target embeddings and the source rows drawn for them (DRSL+'s multi-modal consistency loss)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._pixels import add_rows, compute_dtype


def triplet_consistency_loss(
    target: Tensor, source: Tensor, positive: Tensor, negative: Tensor, valid: Tensor, margin: float = 1.0
) -> Tensor:
    """max(0, |t_i - s_p|^2 - |t_i - s_n|^2 + margin) of each target row, 0 where not valid; differentiable.

    target (T, d), source (S, d); positive, negative int64 (T,), valid bool (T,), as ``select_triplets`` returns them.
    """
    dtype = compute_dtype(target)
    t, s = target.to(dtype), source.to(dtype)
    if not len(s):
        return t.sum(1) * 0
    loss = (t - s[positive]).square().sum(1) - (t - s[negative]).square().sum(1) + margin
    return loss.clamp(min=0).where(valid, 0.0)


def forward(target: Tensor, source: Tensor, positive: Tensor, negative: Tensor, valid: Tensor, margin: float) -> Tensor:
    """The loss of each target row, float32 (float64 for float64 rows)."""
    with torch.autocast(target.device.type, enabled=False):
        return triplet_consistency_loss(target, source, positive, negative, valid, margin).clone()


def backward(
    grad: Tensor, target: Tensor, source: Tensor, positive: Tensor, negative: Tensor, loss: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of target and source in their dtypes; ``grad`` (T,) multiplies before the rounding.

    Rows whose loss is 0, which those without partners are, give nothing.
    """
    dtype = compute_dtype(target)
    slope, total = torch.zeros_like(target), source.new_zeros(source.shape, dtype=dtype)
    if not len(source):
        return slope, total.to(source.dtype)
    active = (loss > 0).unsqueeze(1)
    g = 2 * grad.to(dtype).unsqueeze(1)
    t, p, n = (x.to(dtype) for x in (target, source[positive], source[negative]))
    total = add_rows(total, positive, (g * (p - t)).where(active, 0.0))
    total = add_rows(total, negative, (g * (t - n)).where(active, 0.0))
    return slope.copy_((g * (n - p)).where(active, 0.0)), total.to(source.dtype)
