"""Optimal transport of rows to classes with a prescribed class distribution, for a fixed number of iterations."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._pixels import compute_dtype


def sinkhorn(scores: Tensor, marginal: Tensor, epsilon: float, iterations: int, current: int) -> Tensor:
    """Q = diag(u) exp(scores / epsilon) diag(v), its rows scaled to sum 1; u and v as ``iterations`` rounds leave them.

    From u = 1, a round is v_k = r_k / sum_i exp(S_ik / eps) u_i, then u_i = 1 / sum_k exp(S_ik / eps) v_k (CPSL
    Eq. 5-6 and its algorithm 1; a common factor changes nothing).  scores: (B, N, K); marginal r: (B, K).  Returns the
    last ``current`` rows (B, current, K), float32, or float64 for float64 scores.  In the log domain and in float64
    throughout: memory O(B N K) float64.
    """
    log_kernel = scores.double() / epsilon
    log_v = None
    for _ in range(iterations):
        log_v = next_scaling(log_class_sums(log_kernel, log_v), marginal)
    rows = log_kernel[:, log_kernel.shape[1] - current :]
    return assignment(rows, log_v).to(compute_dtype(scores)).contiguous()


def log_class_sums(log_kernel: Tensor, log_v: Tensor | None) -> Tensor:
    """log sum_i exp(S_ik / eps) u_i of each class, (B, K), with the u that belongs to ``log_v`` (None: u = 1)."""
    if log_v is not None:
        log_kernel = log_kernel + inverse((log_kernel + log_v.unsqueeze(1)).logsumexp(2, keepdim=True))
    return log_kernel.logsumexp(1)


def next_scaling(log_sums: Tensor, marginal: Tensor) -> Tensor:
    """log v of (B, K) from the classes' sums; minus infinity for a class that has no share or no mass."""
    return marginal.double().log() + inverse(log_sums)


def inverse(log: Tensor) -> Tensor:
    """log(1 / x), but minus infinity for x = 0: a row or class without mass gets none."""
    return torch.where(log == -torch.inf, log, -log)


def assignment(log_kernel: Tensor, log_v: Tensor) -> Tensor:
    """Rows of Q that sum to 1, or to 0 where no class may take the row."""
    logits = log_kernel + log_v.unsqueeze(1)
    top = logits.amax(2, keepdim=True) if logits.numel() else logits
    share = (logits - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = share.sum(2, keepdim=True)
    return share / torch.where(total > 0, total, 1.0)
