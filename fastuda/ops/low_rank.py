"""Diagonal plus low rank form of full covariances: the raw operator and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.ops import _library
from fastuda.reference.low_rank import LowRank
from fastuda.reference.low_rank import low_rank as _reference


def _fake(covariance: Tensor, rank: int, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    classes, channels, _ = covariance.shape
    diag = covariance.new_empty(classes, channels)
    return diag, covariance.new_empty(classes, channels, rank), covariance.new_empty(classes)


_low_rank = _library.define(
    "low_rank(Tensor covariance, int rank, int iterations) -> (Tensor diag, Tensor factors, Tensor retained)",
    lambda covariance, rank, iterations: tuple(_reference(covariance, rank, iterations)),
    _fake,
)


def low_rank(covariance: Tensor, rank: int, iterations: int = 4) -> LowRank:
    """Sigma_k ~ diag(d_k) + U_k U_k^T, with the diagonal of Sigma_k kept and U_k its ``rank`` strongest directions.

    What ``contrastive_bound`` takes in place of a full covariance: K (A + A rank) numbers instead of K A^2.

    covariance: (K, A, A), symmetric positive semidefinite (not checked), float32 or float64.
    rank: 1 to A columns, orthogonal, the longest first; 16 to 64 is usual at A = 2048.
    iterations: of block power iteration, started from the same block at every call.  On slowly decaying spectra four
        leave less than 1 % of the trace behind what the exact eigenvectors retain, eight less than 0.3 %.
    Returns ``LowRank(diag, factors, retained)``: (K, A), (K, A, rank) and, for each class, the share of the trace of
        Sigma_k that U_k U_k^T holds, between 0 and 1 (1 where Sigma_k is zero).
    No gradient flows.  Deterministic on a given device.  The small eigenproblems, (K, rank + 8, rank + 8), may wait for
    the device: call it once a pass over the data, not once a step.  Memory: three blocks (K, A, rank + 8).
    Raises ValueError for a wrong dtype, shape or size.
    """
    if covariance.dim() != 3 or covariance.shape[1] != covariance.shape[2] or covariance.numel() == 0:
        raise ValueError(f"covariance must be (K, A, A) with K and A at least 1, got shape {tuple(covariance.shape)}")
    if covariance.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"covariance must be float32 or float64, got {covariance.dtype}")
    if not 1 <= rank <= covariance.shape[1]:
        raise ValueError(f"rank must be between 1 and the {covariance.shape[1]} channels, got {rank}")
    if iterations < 0:
        raise ValueError(f"iterations must not be negative, got {iterations}")
    with torch.no_grad():
        return LowRank(*_low_rank(covariance.detach(), rank, iterations))
