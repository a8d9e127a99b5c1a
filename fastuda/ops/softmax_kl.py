"""Kullback-Leibler divergences between two softmaxes: the raw operators, their autograd and the public functions."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.ops import _checks, _dispatch, _library, _losses
from fastuda.ops._autograd import differentiable_once
from fastuda.reference import softmax_kl as _reference
from fastuda.reference._pixels import compute_dtype


def _fake_forward(logits, other, mask, temperature, symmetric):
    return logits.new_empty(logits.shape[:1] + logits.shape[2:], dtype=compute_dtype(logits))


def _fake_backward(grad, logits, other, mask, temperature, symmetric):
    return torch.empty_like(logits), torch.empty_like(other) if symmetric else other.new_empty(0)


_arguments = "Tensor logits, Tensor other, Tensor? mask, float temperature, bool symmetric"
_forward = _library.define(f"softmax_kl_forward({_arguments}) -> Tensor", _reference.forward, _fake_forward)
_backward = _library.define(
    f"softmax_kl_backward(Tensor grad, {_arguments}) -> (Tensor slope, Tensor other_slope)",
    _reference.backward,
    _fake_backward,
)
_dispatch.serve("softmax_kl_forward")
_dispatch.serve("softmax_kl_backward")


class _SoftmaxKL(torch.autograd.Function):
    """The reduced divergence and how many pixels a mask counts; the backward pass computes both softmaxes again."""

    @staticmethod
    def forward(ctx, logits, other, mask, temperature, symmetric, reduction):
        loss = _forward(logits, other, mask, temperature, symmetric)
        value, count, divisor = _losses.reduce_masked(loss, mask, reduction)
        ctx.all_pixels = divisor if mask is None else None
        ctx.save_for_backward(logits, other, mask, None if mask is None else divisor)
        ctx.options = temperature, symmetric
        ctx.set_materialize_grads(False)
        if count is not None:
            ctx.mark_non_differentiable(count)
        return value, count

    @staticmethod
    @differentiable_once("a divergence of softmaxes")
    def backward(ctx, grad, _):
        if grad is None:
            return (None,) * 6
        logits, other, mask, divisor = ctx.saved_tensors
        divisor = ctx.all_pixels if mask is None else divisor
        grad = _losses.spread(grad, divisor, logits.shape[:1] + logits.shape[2:])
        slope, other_slope = _backward(grad, logits, other, mask, *ctx.options)
        return slope, other_slope if ctx.options[1] else None, None, None, None, None


def symmetric_kl(
    logits: Tensor, other: Tensor, *, mask: Tensor | None = None, reduction: _losses.Reduction = "mean"
) -> Tensor:
    """KL(p || q) + KL(q || p) of the softmaxes p of ``logits`` and q of ``other`` (CPSL's consistency, Eq. 7).

        l = sum_c (p_c - q_c)(log p_c - log q_c)

    logits, other: (N, K, h, w) or (P, K), float32, float16, bfloat16 or float64, of one shape and dtype, any strides;
        both get gradients; the classes' logits are finite.
    mask: which pixels count, bool (N, h, w) or (P,); the logits of others may be anything.
    reduction: "mean" over the pixels that count, exactly 0 without any; "sum"; or "none" for one value a pixel, 0 where
        it does not count.
    Returns float32 (float64 for float64 logits), computed in that precision also under autocast.  Gradients have the
    logits' dtype and layout.  Differentiable once.  Deterministic; no host synchronisation.  Memory beyond inputs and
    outputs: one number a pixel; the softmaxes are computed again for the gradient.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    _check(logits, other, mask, reduction, ("logits", "other"))
    return _divergence(logits, other, mask, 1.0, True, reduction)


def distillation_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: _losses.Reduction = "mean",
) -> Tensor:
    """T^2 KL(q || p) of a student's p = softmax(student / T) from a teacher's q = softmax(teacher / T) (Hinton et al.).

        l = T^2 sum_c q_c (log q_c - log p_c)

    student, teacher, mask, reduction, results, memory and errors as ``symmetric_kl``; only the student gets a gradient.
    temperature: T, above 0; the gradient does not shrink with it, thanks to T^2.
    """
    _check(student, teacher, mask, reduction, ("student", "teacher"))
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return _divergence(student, teacher.detach(), mask, float(temperature), False, reduction)


def _divergence(
    logits: Tensor,
    other: Tensor,
    mask: Tensor | None,
    temperature: float,
    symmetric: bool,
    reduction: _losses.Reduction,
) -> Tensor:
    local_reduction = reduction if mask is None else _losses.of_process(reduction)
    loss, count = _SoftmaxKL.apply(logits, other, mask, temperature, symmetric, local_reduction)
    return loss if count is None else _losses.over_processes(loss, count, reduction)


def _check(logits: Tensor, other: Tensor, mask: Tensor | None, reduction: str, names: tuple[str, str]) -> None:
    _losses.check_reduction(reduction)
    if logits.dtype not in _checks.FEATURE_DTYPES or other.dtype != logits.dtype:
        found = f"{logits.dtype} and {other.dtype}"
        raise ValueError(f"{names[0]} and {names[1]} must both be float32, float16, bfloat16 or float64, got {found}")
    if logits.dim() not in (2, 4) or other.shape != logits.shape or logits.shape[1] < 1:
        found = f"shapes {tuple(logits.shape)} and {tuple(other.shape)}"
        raise ValueError(f"{names[0]} and {names[1]} must both be (N, K, h, w) or (P, K) with K >= 1, got {found}")
    if other.device != logits.device:
        raise ValueError(f"{names[1]} is on {other.device} but {names[0]} is on {logits.device}")
    if mask is None:
        return
    expected = tuple(logits.shape[:1] + logits.shape[2:])
    if mask.dtype != torch.bool or mask.shape != expected:
        raise ValueError(f"mask must be bool of shape {expected}, got {mask.dtype} of shape {tuple(mask.shape)}")
    if mask.device != logits.device:
        raise ValueError(f"mask is on {mask.device} but {names[0]} is on {logits.device}")
