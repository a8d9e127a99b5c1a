"""Kullback-Leibler divergences between two softmaxes, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._pixels import compute_dtype


def softmax_kl(
    logits: Tensor, other: Tensor, mask: Tensor | None = None, temperature: float = 1.0, symmetric: bool = True
) -> Tensor:
    """Over the classes, with p and q the softmaxes of a = logits / T and b = other / T,

        T^2 (KL(p || q) + KL(q || p)) = T^2 sum_c (p_c - q_c)(log p_c - log q_c)    if symmetric, else
        T^2 KL(q || p) = T^2 sum_c q_c (log q_c - log p_c)

    logits, other: (N, K, h, w) or (P, K).  Returns (N, h, w) or (P,), 0 where ``mask`` is False.  Differentiable.
    """
    dtype = compute_dtype(logits)
    log_p, log_q = ((x.to(dtype) / temperature).log_softmax(1) for x in (logits, other))
    weight = log_q.exp() - log_p.exp() if symmetric else log_q.exp()
    loss = temperature**2 * (weight * (log_q - log_p)).sum(1)
    return loss if mask is None else loss.where(mask, 0.0)


def forward(logits: Tensor, other: Tensor, mask: Tensor | None, temperature: float, symmetric: bool) -> Tensor:
    """The divergence of each pixel in float32 (float64 for float64 logits); 0 where ``mask`` is False."""
    with torch.autocast(logits.device.type, enabled=False), torch.no_grad():
        return softmax_kl(logits, other, mask, temperature, symmetric).contiguous()


def backward(
    grad: Tensor, logits: Tensor, other: Tensor, mask: Tensor | None, temperature: float, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of sum(grad * forward(...)) for ``logits`` and, if symmetric, for ``other`` (else empty).

    In the logits' dtype.  With u = log p - log q of a pixel,

        T (p_c (u_c - sum_i p_i u_i) + p_c - q_c)    for logits, and with p, q swapped for other, if symmetric; else
        T (p_c - q_c)                                for logits.
    """
    dtype = compute_dtype(logits)
    with torch.autocast(logits.device.type, enabled=False), torch.no_grad():
        log_p, log_q = ((x.to(dtype) / temperature).log_softmax(1) for x in (logits, other))
        p, q, u = log_p.exp(), log_q.exp(), log_p - log_q
        scale = (grad.to(dtype) * temperature).unsqueeze(1)
        valid = None if mask is None else mask.unsqueeze(1)

        def finish(slope: Tensor, like: Tensor) -> Tensor:
            slope = slope * scale
            slope = slope if valid is None else slope.where(valid, 0.0)
            return torch.empty_like(like).copy_(slope)

        if not symmetric:
            return finish(p - q, logits), other.new_empty(0)
        from_logits = p * (u - (p * u).sum(1, keepdim=True)) + (p - q)
        from_other = q * ((q * u).sum(1, keepdim=True) - u) - (p - q)
        return finish(from_logits, logits), finish(from_other, other)
