"""Self-labelling by optimal transport: the raw operator and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.ops import _checks, _dispatch, _library
from fastuda.reference import sinkhorn as _reference
from fastuda.reference._pixels import compute_dtype


def _fake(scores: Tensor, marginal: Tensor, epsilon: float, iterations: int, current: int) -> Tensor:
    return scores.new_empty((scores.shape[0], current, scores.shape[2]), dtype=compute_dtype(scores))


_sinkhorn = _library.define(
    "sinkhorn(Tensor scores, Tensor marginal, float epsilon, int iterations, int current) -> Tensor",
    _reference.sinkhorn,
    _fake,
)
_dispatch.serve("sinkhorn")


def sinkhorn(
    scores: Tensor,
    *,
    marginal: Tensor,
    epsilon: float = 0.05,
    iterations: int = 3,
    current: int | None = None,
) -> Tensor:
    """Soft labels whose class shares follow ``marginal``: Sinkhorn-Knopp on exp(scores / epsilon) (CPSL Eq. 5-6).

    scores: (N, K), or (B, N, K) for B problems of their own; float32, float16, bfloat16 or float64, any strides; the
        rows of a memory bank first, the rows to be labelled last.
    marginal: r, the classes' shares, (K,) or (B, K), float32 or float64, not negative; only their ratios count.  A
        class with r_k = 0 gets nothing.  Every row counts the same.
    epsilon: > 0, in the scores' unit: how soft the labels are.
    iterations: exactly this many rounds, each one classes to r, then rows to equal mass; CPSL's labels are those of
        three rounds, not those of convergence.
    current: how many of the last rows to return; None returns all.
    Returns (current, K) or (B, current, K), float32 (float64 for float64 scores); rows sum to 1.  Any spread of finite
    scores is safe, in every dtype.  No gradient flows: labels are targets.  Deterministic; no host synchronisation.
    Memory beyond inputs and outputs on the compiled CPU path: one float32 copy of the scores, and none where it works
    in float64 (float64 scores, or a spread that float32 does not hold); the reference holds about four in float64.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    _check(scores, marginal, epsilon, iterations, current)
    batched = scores if scores.dim() == 3 else scores.unsqueeze(0)
    shares = marginal.detach().expand(batched.shape[0], -1)
    rows = batched.shape[1] if current is None else current
    with torch.no_grad():
        result = _sinkhorn(batched.detach(), shares, float(epsilon), iterations, rows)
    return result if scores.dim() == 3 else result.squeeze(0)


def _check(scores: Tensor, marginal: Tensor, epsilon: float, iterations: int, current: int | None) -> None:
    if scores.dtype not in _checks.FEATURE_DTYPES:
        raise ValueError(f"scores must be float32, float16, bfloat16 or float64, got {scores.dtype}")
    if scores.dim() not in (2, 3) or scores.shape[-1] < 1:
        raise ValueError(f"scores must be (N, K) or (B, N, K) with K >= 1, got shape {tuple(scores.shape)}")
    if marginal.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"marginal must be float32 or float64, got {marginal.dtype}")
    shapes: list[tuple[int, ...]] = [(scores.shape[-1],)]
    if scores.dim() == 3:
        shapes.append((scores.shape[0], scores.shape[2]))
    if tuple(marginal.shape) not in shapes:
        raise ValueError(f"marginal must be {' or '.join(map(str, shapes))}, got shape {tuple(marginal.shape)}")
    if marginal.device != scores.device:
        raise ValueError(f"marginal is on {marginal.device} but scores are on {scores.device}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if current is not None and not 0 <= current <= scores.shape[-2]:
        raise ValueError(f"current must be between 0 and the {scores.shape[-2]} rows of scores, got {current}")
