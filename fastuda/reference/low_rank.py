"""A symmetric matrix as its diagonal and a few columns: Sigma_k ~ diag(d_k) + U_k U_k^T."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Columns that iterate beside the wanted ones: what they carry converges faster than without them.
OVERSAMPLING = 8


class LowRank(NamedTuple):
    """diag(d_k) + U_k U_k^T: diag (K, A), factors (K, A, r); retained (K,) is trace(U_k U_k^T) / trace(Sigma_k)."""

    diag: Tensor
    factors: Tensor
    retained: Tensor | None = None


def low_rank(covariance: Tensor, rank: int, iterations: int = 4) -> LowRank:
    """U_k of ``rank`` columns by block power iteration, d_k = diag(Sigma_k) - diag(U_k U_k^T): the diagonal is kept.

        Q <- orth(Sigma Q), ``iterations`` times;  Y = Sigma Q,  U U^T = the largest part of Y (Q^T Y)^-1 Y^T

    The last line (Nystrom's form) stays below Sigma in the order of semidefinite matrices, so d_k >= 0 up to rounding,
    which Q Q^T Sigma Q Q^T does not; it also holds at least as much of the trace.  Columns are orthogonal, the
    largest first; columns beyond the rank of Sigma_k are 0.  A class without any variance retains 1.
    covariance: (K, A, A), symmetric positive semidefinite.  Memory: three blocks (K, A, rank + OVERSAMPLING).
    """
    classes, channels, _ = covariance.shape
    block = min(channels, rank + OVERSAMPLING)
    with torch.autocast(covariance.device.type, enabled=False):
        q = _start(channels, block).to(covariance).expand(classes, -1, -1)
        for _ in range(iterations):
            q = torch.linalg.qr(covariance @ q).Q
        y = covariance @ q
        root = y @ _inverse_root(q.mT @ y)
        # The eigenvectors of root^T root turn the columns into orthogonal ones: keep the longest.
        _, turn = torch.linalg.eigh((root.mT @ root).double())
        factors = (root @ turn[:, :, -rank:].flip(2).to(root.dtype)).contiguous()
        trace, kept = covariance.diagonal(dim1=1, dim2=2), factors.square().sum(2)
        total = trace.sum(1)
        retained = torch.where(total > 0, kept.sum(1) / total.where(total > 0, 1.0), 1.0).clamp_(max=1)
        return LowRank((trace - kept).clamp_(min=0), factors, retained)


def _start(channels: int, block: int) -> Tensor:
    """The same block for every class, device and call: drawn on the CPU, dense, so that no direction is missed."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(channels, block, generator=generator, dtype=torch.float64)).Q


def _inverse_root(small: Tensor) -> Tensor:
    """S^(-1/2) of (K, b, b) up to a rotation; directions within rounding of 0 are left out."""
    values, vectors = torch.linalg.eigh((small + small.mT).double() / 2)
    floor = values[:, -1:].clamp(min=0) * (small.shape[1] * torch.finfo(small.dtype).eps)
    usable = values > floor
    return (vectors * values.where(usable, 1.0).rsqrt().where(usable, 0.0).unsqueeze(1)).to(small.dtype)
